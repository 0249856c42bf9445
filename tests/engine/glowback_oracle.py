"""GlowBack's rules a second time: slow, plain, and written from their description alone, to compare the engine with.

Nothing is remembered that can be computed again, nothing is skipped, every order is tried on every day.
"""

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any

DAY = 86_400


@dataclass
class Bar:
    """`time` in seconds since 1970."""

    time: int
    open: float
    close: float
    volume: float


@dataclass
class Oracle:
    symbols: list[str]
    bars: dict[str, list[Bar]]
    start: int
    end: int
    capital: float
    strategy: str
    params: dict[str, float]
    bar_seconds: int = DAY
    latency_ms: int = 100
    slippage_bps: int = 5
    commission_bps: float | None = None
    cash: float = 0.0
    held: dict[str, float] = field(default_factory=dict)
    mark: dict[str, float] = field(default_factory=dict)
    window: dict[str, list[float]] = field(default_factory=dict)
    pending: list[list[Any]] = field(default_factory=list)
    trades: list[tuple[Any, ...]] = field(default_factory=list)
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    orders: int = 0
    done: bool = False
    last: str = ""
    days: int = 0

    def run(self) -> "Oracle":
        self.cash = self.capital
        now = self.start
        while now <= self.end:
            self.day(now)
            now += DAY
        return self

    def today(self, symbol: str, now: int) -> list[Bar]:
        return [bar for bar in self.bars[symbol] if bar.time // DAY == now // DAY]

    def day(self, now: int) -> None:
        for symbol in self.symbols:
            for bar in self.today(symbol, now):
                self.window[symbol] = [*self.window.get(symbol, []), bar.close][-100:]
        taken: dict[tuple[str, int], float] = {}
        still = []
        for order in self.pending:
            symbol, side, rest = order
            todays = self.today(symbol, now)
            if todays:
                index = self.bars[symbol].index(todays[0]) + -(-self.latency_ms // (self.bar_seconds * 1000))
                if index < len(self.bars[symbol]):
                    bar = self.bars[symbol][index]
                    quantity = min(rest, bar.volume / 4 - taken.get((symbol, index), 0.0))
                    if quantity > 1e-9:
                        taken[symbol, index] = taken.get((symbol, index), 0.0) + quantity
                        self.fill(now, symbol, side, quantity, bar.open)
                        order[2] = rest - quantity
            if order[2] > 1e-9:
                still.append(order)
        self.pending = still
        for symbol in self.symbols:
            for bar in self.today(symbol, now):
                self.mark[symbol] = bar.close
        for symbol in self.symbols:
            for _ in self.today(symbol, now):
                self.call(symbol)
        self.days += 1
        positions = sum(quantity * self.mark[symbol] for symbol, quantity in self.held.items())
        self.curve.append((self.cash + positions, self.cash, positions))

    def fill(self, now: int, symbol: str, side: int, quantity: float, base: float) -> None:
        factor = 1 + Decimal(self.slippage_bps) / 10_000
        exact = Decimal(str(base)) * factor if side > 0 else Decimal(str(base)) / factor
        price = float(exact.quantize(Decimal("0.000001"), rounding=ROUND_HALF_EVEN))
        if self.commission_bps is None:
            fee = round(max(1.0, 0.001 * quantity + 0.0005 * quantity * price), 6)
        else:
            fee = round(quantity * price * self.commission_bps / 10_000, 6)
        self.cash -= side * quantity * price + fee
        self.held[symbol] = self.held.get(symbol, 0.0) + side * quantity
        if abs(self.held[symbol]) < 1e-9:
            del self.held[symbol]
        self.trades.append((now, symbol, side, quantity, price, fee))

    def order(self, symbol: str, quantity: float) -> None:
        if quantity != 0:
            self.orders += 1
            self.pending.append([symbol, 1 if quantity > 0 else -1, abs(quantity)])

    def call(self, symbol: str) -> None:
        closes = self.window[symbol]
        price = closes[-1]
        cash = max(self.cash, 0.0)
        value = self.cash + sum(quantity * self.mark[name] for name, quantity in self.held.items())
        held = self.held.get(symbol, 0.0)
        full, quarter = 0.95 * value / price, 0.25 * value / price
        exact = [Fraction(str(close)) for close in closes]
        getattr(self, self.strategy)(symbol, exact, price, cash, held, full, quarter)

    def buy_and_hold(self, symbol, closes, price, cash, held, full, quarter) -> None:
        if symbol == self.symbols[0] and not self.done:
            self.done = True
            self.order(symbol, 0.95 * cash / price)

    def ma_crossover(self, symbol, closes, price, cash, held, full, quarter) -> None:
        short, long = int(self.params["short_period"]), int(self.params["long_period"])
        if len(closes) < max(short, long):
            return
        difference = sum(closes[-short:]) / short - sum(closes[-long:]) / long
        signal = "B" if difference > 0 else "S" if difference < 0 else "none"
        if signal == self.last:
            return
        self.last = signal
        if signal == "B":
            self.order(symbol, max(0.0, -held))
            self.order(symbol, 0.95 * cash / price)
        elif signal == "S":
            self.order(symbol, -max(0.0, held))
            self.order(symbol, -max(0.0, full))

    def momentum(self, symbol, closes, price, cash, held, full, quarter) -> None:
        n = int(self.params["lookback_period"])
        if self.days < 5 or len(closes) < n:
            return
        self.days = 0
        change = float(100 * (closes[-1] / closes[-n] - 1))
        if change > self.params["momentum_threshold"] and abs(full - held) > 0.0001:
            self.order(symbol, full - held)
        elif change < -self.params["momentum_threshold"] and held > 0:
            self.order(symbol, -held)

    def mean_reversion(self, symbol, closes, price, cash, held, full, quarter) -> None:
        n = int(self.params["lookback_period"])
        if len(closes) < n:
            return
        window = closes[-n:]
        mean = sum(window) / n
        variance = sum((close - mean) ** 2 for close in window) / n
        if variance == 0:
            return
        z = float(window[-1] - mean) / float(variance) ** 0.5
        entry, leave = self.params["entry_threshold"], self.params["exit_threshold"]
        if z < -entry and held < full:
            quantity = min(full - held, quarter)
            if cash > quantity * price and quantity > 0:
                self.order(symbol, quantity)
        elif z > entry and min(held + full, quarter) > 0:
            self.order(symbol, -min(held + full, quarter))
        if held > 0 and z > -leave and quarter > 0:
            self.order(symbol, -min(held, quarter))
        if held < 0 and z < leave and quarter > 0:
            self.order(symbol, min(-held, quarter))

    def rsi(self, symbol, closes, price, cash, held, full, quarter) -> None:
        n = int(self.params["lookback_period"])
        if len(closes) < n + 1:
            return
        changes = [closes[i] - closes[i - 1] for i in range(len(closes) - n, len(closes))]
        gains = sum(change for change in changes if change > 0)
        losses = sum(-change for change in changes if change < 0)
        strength = 100.0 if losses == 0 else 0.0 if gains == 0 else float(100 - 100 / (1 + gains / losses))
        if strength < self.params["oversold_threshold"] and full - held > 0.0001:
            self.order(symbol, full - held)
        elif strength > self.params["overbought_threshold"] and held > 0:
            self.order(symbol, -held)
