"""Profit of a bot from its orders: fills, positions at average cost, realised and unrealised profit, roundtrips.

What of an order counts as executed, first line that fits:

    `filled` is given                                                that amount of the asset (0: nothing)
    status rejected, canceled, cancelled, expired, failed, …         nothing
    status filled, done, closed, executed, complete, completed, …    the whole order
    `executed_at` is given                                           the whole order
    `canceled_at` is given                                           nothing
    a market order (any other status or none)                        the whole order, at once
    a limit or stop order (open, new, partially_filled, none, …)     nothing yet

A fill happens at `executed_at`, else at `at`. Its price is the order's, else the looked-up one, else it is unpriced:
kept apart and counted, in no position and no profit. `funds` buys or sells `funds / price`. A fee without a currency is
in the quote currency; one in the asset changes the quantity and costs its worth at the fill's price; one in a third
currency is summed apart. Realised profit is net of the fees of entries and exits as they are paid.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from msgspec import Struct

from engine.activity import Order
from engine.pnl_fills import Fill, Fills, Key, curve
from engine.pnl_symbols import Pair

__all__ = ["DONE", "NEVER", "AnyOrder", "Counted", "Fill", "Fills", "Key", "Ledger", "Position", "Roundtrip",
           "Unpriced", "curve", "executed", "fill_of", "place_of"]

DONE: Final = frozenset({"filled", "done", "closed", "executed", "complete", "completed", "settled", "fulfilled"})
NEVER: Final = frozenset({"canceled", "cancelled", "rejected", "expired", "failed", "denied", "suspended", "error"})
_DUST: Final = 1e-12
"""A rest below this part of what was traded is rounding: the position is flat."""
_MOST: Final = 1e60
"""What is more than this is no amount: everything computed of it would overflow."""
BACK: Final = 64
"""Fills that a ledger can take back, to put a late or changed order in its place."""


class Counted(Struct, frozen=True):
    """What counts of an order, named as in `Order`, which takes ten times as long to make."""

    at: datetime
    id: str
    symbol: str
    exchange: str
    kind: str
    side: str
    size: float | None = None
    funds: float | None = None
    price: float | None = None
    filled: float | None = None
    status: str | None = None
    executed_at: datetime | None = None
    canceled_at: datetime | None = None
    fee: float | None = None
    fee_currency: str = ""


AnyOrder = Order | Counted
Price = Callable[[AnyOrder], float | None]


class Unpriced(Struct, frozen=True, kw_only=True):
    """An executed order whose price nobody knows."""

    id: str
    key: Key
    at: datetime
    currency: str


class Roundtrip(Struct, frozen=True, kw_only=True):
    """From flat to flat, or to the opposite side. `quantity` is all that was entered (positive), prices are means."""

    key: Key
    currency: str
    direction: str
    entry_at: datetime
    exit_at: datetime
    quantity: float
    entry_price: float
    exit_price: float
    fees: float
    pnl: float


@dataclass(kw_only=True, slots=True)
class Position:
    """What is held of a symbol: signed `quantity` at mean `cost` per unit. `realised` is net of `fees`."""

    key: Key
    currency: str
    quantity: float = 0.0
    cost: float = 0.0
    realised: float = 0.0
    fees: float = 0.0
    last: float = 0.0
    fills: int = 0
    since: datetime | None = None
    entered: float = 0.0
    paid: float = 0.0
    left: float = 0.0
    got: float = 0.0
    trip_fees: float = 0.0

    def unrealised(self, mark: float | None = None) -> float:
        """Profit of what is held at `mark`, else at the last fill's price."""
        return self.quantity * ((self.last if mark is None else mark) - self.cost)

    def book(self, fill: Fill) -> Roundtrip | None:
        """Take a fill in; the roundtrip it ends, if it does."""
        self.fills += 1
        self.last = fill.price
        if self.quantity == 0.0 or (self.quantity > 0) == (fill.quantity > 0):
            self._enter(fill.at, fill.quantity, fill.price, fill.fee)
            return None
        closing = min(abs(fill.quantity), abs(self.quantity))
        rest = abs(fill.quantity) - closing
        if rest <= _DUST * abs(fill.quantity):
            rest = 0.0
        share = fill.fee if rest == 0.0 else fill.fee * (closing / abs(fill.quantity))
        trip = self._leave(fill, closing, share)
        if rest:
            self._enter(fill.at, math.copysign(rest, fill.quantity), fill.price, fill.fee - share)
        return trip

    def _enter(self, at: datetime, quantity: float, price: float, fee: float) -> None:
        if self.quantity == 0.0:
            self.since, self.entered, self.paid, self.left, self.got, self.trip_fees = at, 0.0, 0.0, 0.0, 0.0, 0.0
            self.cost = price
        else:
            self.cost += (price - self.cost) * (quantity / (self.quantity + quantity))
        self.quantity += quantity
        self.entered += abs(quantity)
        self.paid += abs(quantity) * price
        self._pay(fee)

    def _leave(self, fill: Fill, closing: float, fee: float) -> Roundtrip | None:
        side = math.copysign(1.0, self.quantity)
        self.realised += side * closing * (fill.price - self.cost)
        self._pay(fee)
        self.left += closing
        self.got += closing * fill.price
        before = abs(self.quantity)
        self.quantity -= side * closing
        if abs(self.quantity) > _DUST * before:
            return None
        self.quantity = 0.0
        assert self.since is not None
        return Roundtrip(
            key=self.key, currency=self.currency, direction="long" if side > 0 else "short", entry_at=self.since,
            exit_at=fill.at, quantity=self.entered, entry_price=self.paid / self.entered,
            exit_price=self.got / self.left, fees=self.trip_fees, pnl=side * (self.got - self.paid) - self.trip_fees)

    def _pay(self, fee: float) -> None:
        self.fees += fee
        self.realised -= fee
        self.trip_fees += fee


_STATE: Final = tuple(each.name for each in fields(Position))
_state: Final = attrgetter(*_STATE)


class _Step(Struct):
    """What a fill found, so that it can be taken back: the position (its fields) and the outside fees before it."""

    found: Fill | Unpriced
    mark: int
    last: tuple[datetime, str] | None
    before: tuple[Any, ...] | None = None
    tripped: bool = False
    outside: float | None = None


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Profit so far. `add` takes one more order in O(1), `take` also one that is a little late or changes one of the
    last; when they answer False, compute anew with `Ledger.of`, which gives bit for bit the same as adding the orders
    one by one in the order of their fills. `known` has a digest of what counts of every executed order."""

    positions: dict[Key, Position] = field(default_factory=dict)
    fills: Fills = field(default_factory=Fills)
    roundtrips: list[Roundtrip] = field(default_factory=list)
    unpriced: dict[str, Unpriced] = field(default_factory=dict)
    outside: dict[str, float] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    last: tuple[datetime, str] | None = None
    steps: deque[_Step] = field(default_factory=lambda: deque(maxlen=BACK), compare=False, repr=False)

    @classmethod
    def of(cls, orders: Iterable[AnyOrder], pair: Callable[[AnyOrder], Pair], price: Price) -> "Ledger":
        """The ledger of all orders (each id once), in whatever order they are given."""
        ledger = cls()
        for order in sorted(orders, key=place_of):
            ledger.add(order, pair, price)
        return ledger

    def add(self, order: AnyOrder, pair: Callable[[AnyOrder], Pair], price: Price) -> bool:
        """Take an order in. False, and nothing done, if it is older than one taken or changes what counts of one."""
        mark = _mark(order)
        known = self.known.get(order.id)
        if known is not None:
            return known == mark
        if not mark:
            return True
        if self.last is not None and place_of(order) <= self.last:
            return False
        self._enter(fill_of(order, pair(order), order.price if _good(order.price) else price(order)), mark)
        return True

    def take(self, order: AnyOrder, pair: Callable[[AnyOrder], Pair], price: Price) -> bool:
        """As `add`, going back over the last fills if need be. False: what is here now must be computed anew."""
        if self.add(order, pair, price):
            return True
        place, known = place_of(order), order.id in self.known
        again: list[_Step] = []
        while self.steps and (known or (self.last is not None and self.last >= place)):
            step = self._leave()
            if step.found.id == order.id:
                known = False
            else:
                again.append(step)
        if known or (self.last is not None and self.last >= place):
            return False
        mark = _mark(order)
        if mark:
            found = fill_of(order, pair(order), order.price if _good(order.price) else price(order))
            again.append(_Step(found, mark, None))
        for step in sorted(again, key=lambda each: (each.found.at, each.found.id)):
            self._enter(step.found, step.mark)
        return True

    def _enter(self, found: Fill | Unpriced, mark: int) -> None:
        step = _Step(found, mark, self.last)
        self.steps.append(step)
        self.known[found.id] = mark
        self.last = found.at, found.id
        if isinstance(found, Unpriced):
            self.unpriced[found.id] = found
            return
        self.fills.append(found)
        position = self.positions.get(found.key)
        if position is None:
            position = self.positions[found.key] = Position(key=found.key, currency=found.currency)
        else:
            step.before = _state(position)
        trip = position.book(found)
        if trip is not None:
            step.tripped = True
            self.roundtrips.append(trip)
        if found.outside:
            step.outside = self.outside.get(found.outside_currency)
            self.outside[found.outside_currency] = (step.outside or 0.0) + found.outside

    def _leave(self) -> _Step:
        """Take the last fill back."""
        step = self.steps.pop()
        found = step.found
        del self.known[found.id]
        self.last = step.last
        if isinstance(found, Unpriced):
            del self.unpriced[found.id]
            return step
        self.fills.pop()
        if step.before is None:
            del self.positions[found.key]
        else:
            self.positions[found.key] = Position(**dict(zip(_STATE, step.before, strict=True)))
        if step.tripped:
            self.roundtrips.pop()
        if found.outside:
            if step.outside is None:
                del self.outside[found.outside_currency]
            else:
                self.outside[found.outside_currency] = step.outside
        return step

    def realised(self) -> dict[str, float]:
        """Realised profit by quote currency."""
        found: dict[str, float] = {}
        for each in self.positions.values():
            found[each.currency] = found.get(each.currency, 0.0) + each.realised
        return found

    def unrealised(self, marks: Mapping[Key, float] | None = None) -> dict[str, float]:
        """Unrealised profit by quote currency at `marks`; without a mark, at the last fill's price."""
        found: dict[str, float] = {}
        for key, each in self.positions.items():
            found[each.currency] = found.get(each.currency, 0.0) + each.unrealised((marks or {}).get(key))
        return found


def executed(order: AnyOrder) -> bool:
    """Whether anything of the order counts as executed: the table above."""
    if order.filled is not None:
        return order.filled > 0
    said = None if order.status is None else _said(order.status)
    if said is not None:
        return said
    return order.executed_at is not None or (order.canceled_at is None and order.kind == "market")


@lru_cache(maxsize=1024)
def _said(status: str) -> bool | None:
    """Whether a status says that an order was executed; None when it leaves that open."""
    status = status.strip().lower().replace("-", "_").replace(" ", "_")
    return False if status in NEVER else True if status in DONE else None


def fill_of(order: AnyOrder, pair: Pair, price: float | None) -> Fill | Unpriced:
    """The fill of an executed order at a price (quote currency for a unit), unpriced without one."""
    key, at = (order.exchange, order.symbol), place_of(order)[0]
    amount = order.size if order.filled is None else order.filled
    if not _good(price) or (amount is None and order.funds is None):
        return Unpriced(id=order.id, key=key, at=at, currency=pair.currency)
    assert price is not None
    if amount is None:
        assert order.funds is not None
        amount = order.funds / price
    if not max(amount, amount * price) < _MOST:
        return Unpriced(id=order.id, key=key, at=at, currency=pair.currency)
    quantity = amount if order.side == "buy" else -amount
    fee, paid_in = order.fee or 0.0, order.fee_currency.upper()
    if paid_in in ("", pair.currency.upper()):
        return Fill(id=order.id, key=key, at=at, quantity=quantity, price=price, fee=fee, currency=pair.currency)
    if paid_in == pair.asset.upper():
        return Fill(id=order.id, key=key, at=at, quantity=quantity - fee, price=price, fee=fee * price,
                    currency=pair.currency)
    return Fill(id=order.id, key=key, at=at, quantity=quantity, price=price, currency=pair.currency,
                outside=fee, outside_currency=paid_in)


def place_of(order: AnyOrder) -> tuple[datetime, str]:
    """What fills are ordered by: when it was executed, else placed; then the id."""
    return order.executed_at or order.at, order.id


def _mark(order: AnyOrder) -> int:
    """A digest of what counts of an order; 0 when nothing of it was executed."""
    if not executed(order):
        return 0
    return hash((order.executed_at or order.at, order.symbol, order.exchange, order.side, order.size, order.filled,
                 order.funds, order.price, order.fee, order.fee_currency)) or 1


def _good(price: float | None) -> bool:
    return price is not None and math.isfinite(price) and price > 0
