"""Cash, positions and orders of one GlowBack backtest, and the rules by which orders fill.

Prices and costs are rounded as the original rounds them (decimals, half to even); everything else is float64.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from engine.fills.glowback_strategies import EXACT, Call

SIX: Final = Decimal("0.000001")
TEN_THOUSAND: Final = Decimal(10_000)
VOLUME_SHARE: Final = 0.25
FEE_PER_SHARE: Final = 0.001
FEE_RATE: Final = 0.0005
LEAST_FEE: Final = 1.0
DUST: Final = 1e-12
"""A position smaller than this part of the fill that made it is rounding noise: flat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """`slippage_bps` is a whole number >= 0. `commission_bps` None means the default: a part for each share, a part
    of the notional, and a minimum."""

    slippage_bps: int = 5
    commission_bps: float | None = None

    def price(self, base: float, side: int) -> float:
        """The price of a fill on a bar's `base` price: bought higher, sold lower, six decimals."""
        factor = EXACT.add(1, EXACT.divide(Decimal(self.slippage_bps), TEN_THOUSAND))
        exact = (EXACT.multiply if side > 0 else EXACT.divide)(Decimal(repr(base)), factor)
        return float(EXACT.quantize(exact, SIX))

    def commission(self, quantity: float, price: float) -> float:
        """The fee of a fill in currency, six decimals."""
        notional = quantity * price
        if self.commission_bps is not None:
            return round(notional * self.commission_bps / 10_000, 6)
        fee = quantity * FEE_PER_SHARE + notional * FEE_RATE
        return round(max(fee, LEAST_FEE), 6) if fee > 0 else 0.0


@dataclass(kw_only=True, slots=True)
class Order:
    """A market order: `side` +1 buy, -1 sell; `rest` is what has not filled; `placed` is the day of the clock."""

    number: int
    symbol: str
    side: int
    quantity: float
    rest: float
    placed: int


@dataclass(kw_only=True, slots=True)
class Fill:
    """One execution; `day` counts the clock's steps, `order` is 0 for an assignment of shares."""

    order: int
    day: int
    symbol: str
    side: int
    quantity: float
    price: float
    fee: float
    advised: int
    reason: str


@dataclass(kw_only=True, slots=True)
class Position:
    """Average-cost position: signed quantity and the average price of what is open."""

    quantity: float = 0.0
    basis: float = 0.0

    def add(self, side: int, quantity: float, price: float) -> float:
        """Take a fill in and return the profit it realised (before costs)."""
        signed = side * quantity
        before = self.quantity
        after = before + signed
        if abs(after) <= DUST * max(abs(before), quantity):
            after = 0.0
        realised = 0.0
        if before * signed >= 0:
            self.basis = (before * self.basis + signed * price) / after if after else 0.0
        else:
            closed = min(abs(before), quantity)
            realised = closed * (price - self.basis) * (1 if before > 0 else -1)
            if after * before < 0:
                self.basis = price
            elif not after:
                self.basis = 0.0
        self.quantity = after
        return realised


@dataclass(kw_only=True)
class Ledger:
    """The account. `costs` prices the fills; `orders` and `fills` record everything in the order it happened.

    Cash may go below zero and shorts need no margin: nothing is ever rejected.
    """

    cash: float
    costs: Costs
    day: int = 0
    realised: float = 0.0
    value: float = 0.0
    positions: dict[str, Position] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    open_calls: list[Call] = field(default_factory=list)
    option_events: list[tuple[int, str, Call, float]] = field(default_factory=list)
    windows: dict[str, list[float]] = field(default_factory=dict)
    _pending: dict[str, deque[Order]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.value = self.cash

    def position(self, symbol: str) -> float:
        """The signed quantity held."""
        held = self.positions.get(symbol)
        return held.quantity if held else 0.0

    def closes(self, symbol: str) -> list[float]:
        """The newest closes of a symbol, oldest first."""
        return self.windows[symbol]

    def order(self, symbol: str, quantity: float) -> None:
        """Place a market order; `quantity` is signed."""
        order = Order(number=len(self.orders) + 1, symbol=symbol, side=1 if quantity > 0 else -1,
                      quantity=abs(quantity), rest=abs(quantity), placed=self.day)
        self.orders.append(order)
        self._pending.setdefault(symbol, deque()).append(order)

    def waiting(self) -> list[str]:
        """The symbols that have open orders."""
        return [symbol for symbol, queue in self._pending.items() if queue]

    def execute(self, bars: dict[str, tuple[float, float]]) -> list[Fill]:
        """Fill open orders, oldest first, at `bars`: symbol -> (open, volume) of its bar of execution.

        All fills of a step on one symbol share a quarter of the bar's volume; what is left over stays open.
        """
        filled: list[tuple[int, Order, float]] = []
        for symbol, (_, volume) in bars.items():
            queue = self._pending.get(symbol)
            room = VOLUME_SHARE * volume
            while queue and room > 0:
                order = queue[0]
                quantity = min(order.rest, room)
                room = 0.0 if quantity == room else room - quantity
                order.rest = 0.0 if quantity == order.rest else order.rest - quantity
                filled.append((order.number, order, quantity))
                if order.rest > 0:
                    break
                queue.popleft()
        filled.sort(key=lambda entry: entry[0])
        return [self._fill(order, quantity, bars[order.symbol][0]) for _, order, quantity in filled]

    def _fill(self, order: Order, quantity: float, base: float) -> Fill:
        price = self.costs.price(base, order.side)
        fill = Fill(order=order.number, day=self.day, symbol=order.symbol, side=order.side, quantity=quantity,
                    price=price, fee=self.costs.commission(quantity, price), advised=order.placed,
                    reason="order" if order.rest == 0 and quantity == order.quantity else "partial")
        self._book(fill)
        return fill

    def _book(self, fill: Fill) -> None:
        self.fills.append(fill)
        self.cash -= fill.side * fill.quantity * fill.price + fill.fee
        position = self.positions.setdefault(fill.symbol, Position())
        self.realised += position.add(fill.side, fill.quantity, fill.price)
        if position.quantity == 0:
            del self.positions[fill.symbol]

    def mark(self, symbol: str, price: float) -> None:
        self.marks[symbol] = price

    def worth(self) -> tuple[float, float, float]:
        """Signed market value, gross market value and unrealised profit of the positions at their marks.

        A position that has no mark yet counts at its basis.
        """
        signed = gross = profit = 0.0
        for symbol, position in self.positions.items():
            worth = position.quantity * self.marks.get(symbol, position.basis)
            signed += worth
            gross += abs(worth)
            profit += worth - position.quantity * position.basis
        return signed, gross, profit

    def write_call(self, call: Call) -> None:
        """Book the premium of a call as cash and realised profit."""
        self.cash += call.income
        self.realised += call.income
        self.calls.append(call)
        self.open_calls.append(call)
        self.option_events.append((self.day, "written", call, call.spot))

    def settle_calls(self, now: int) -> None:
        """Assign or expire the calls that are due and whose symbol has a price."""
        for call in [each for each in self.open_calls if each.expiry <= now and each.symbol in self.marks]:
            price = self.marks[call.symbol]
            assigned = price > call.strike
            if assigned:
                self._book(Fill(order=0, day=self.day, symbol=call.symbol, side=-1, quantity=call.shares,
                                price=call.strike, fee=0.0, advised=self.day, reason="assignment"))
            self.open_calls.remove(call)
            self.option_events.append((self.day, "assigned" if assigned else "expired", call, price))


def whole_bps(value: float) -> int:
    """Basis points of slippage as the original takes them: rounded to a whole number, halves up, never negative."""
    return max(0, math.floor(value + 0.5))
