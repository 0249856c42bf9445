"""GlowBack's fill model: a clock of whole days, volume-capped market orders, latency in bars.

One step a day from the start of the range, at any resolution: gather the bars of the day; try the open orders; mark;
settle calls; call the strategy once for every bar of the day; close the day; write the equity point. An order is first
tried on the next day that has a bar of its symbol, at the open of the bar `L` after that day's first one, where L is
the latency in bars, rounded up. The default latency of 100 ms makes L = 1: the price is that of the *following* bar
while the fill is booked today. The option `latency_rule="strict"` corrects that: the first bar of the day that opens
L milliseconds or more after the day's first one fills the order, the day's last bar at the latest; a bar of a later day
never does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine import times
from engine.errors import Invalid
from engine.fills.glowback_ledger import Costs, Ledger, whole_bps
from engine.fills.glowback_strategies import WINDOW, CoveredCall, Strategy
from engine.reporter import Reporter

DEFAULT_LATENCY: Final = 100
DEFAULT_SLIPPAGE: Final = 5
MOST_BPS: Final = 1e9  # what rounding to 6 decimals in 28 digits allows
MOST_DAYS: Final = 200 * 366


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Costs and latency of a run. None means the default. `latency_ms` is milliseconds, `latency_rule` "original"
    or "strict"."""

    commission_bps: float | None = None
    slippage_bps: float | None = None
    latency_ms: int | None = None
    latency_rule: str = "original"

    def __post_init__(self) -> None:
        if self.latency_ms is not None and self.latency_ms < 0:
            raise Invalid("latency_ms must not be negative", field="execution.latency_ms",
                          remedy="use 0 for none, or leave it out for 100")
        sizes = {"slippage_bps": self.slippage_bps or 0.0, "commission_bps": abs(self.commission_bps or 0.0)}
        for name, size in sizes.items():
            if size > MOST_BPS:
                raise Invalid(f"{name} is out of range", field=f"execution.{name}",
                              remedy=f"give at most {MOST_BPS:,.0f} basis points")
        if self.latency_rule not in ("original", "strict"):
            raise Invalid(f"{self.latency_rule!r} is not a rule", field="execution.latency_rule",
                          remedy="use original or strict")

    @property
    def latency(self) -> int:
        return DEFAULT_LATENCY if self.latency_ms is None else self.latency_ms

    @property
    def costs(self) -> Costs:
        slippage = DEFAULT_SLIPPAGE if self.slippage_bps is None else whole_bps(self.slippage_bps)
        return Costs(slippage_bps=slippage, commission_bps=self.commission_bps)


@dataclass(kw_only=True, eq=False)
class Bars:
    """What the model needs of a symbol's bars, in time order: time int64 microseconds, the rest float64, length n.

    `days` maps a UTC day number to the slice of its bars.
    """

    time: np.ndarray
    open: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    days: dict[int, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        day = self.time // times.DAY
        starts = np.flatnonzero(np.append(True, day[1:] != day[:-1])[:len(day)])
        ends = np.append(starts[1:], len(day))[:len(starts)]
        self.days = {int(number): (int(first), int(last)) for number, first, last
                     in zip(day[starts], starts, ends, strict=True)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """What came out. `time` (int64 microseconds, length n) are the clock's steps; `value`, `cash`, `positions`
    (signed), `gross` and `pnl` (realised and unrealised, without commissions) are float64 of that length."""

    time: np.ndarray
    value: np.ndarray
    cash: np.ndarray
    positions: np.ndarray
    gross: np.ndarray
    pnl: np.ndarray
    ledger: Ledger


def simulate(*, symbols: Sequence[str], bars: Mapping[str, Bars], resolution: int, start: int, end: int, capital: float,
             strategy: Strategy, terms: Terms, reporter: Reporter | None = None) -> Simulation:
    """Run the clock from `start` to `end` (microseconds, both inclusive).

    `symbols` is the order in which the day's bars are gathered and the strategy is called; a symbol named twice is
    gathered and called twice. `resolution` is the bars' length in seconds. Raises `Cancelled` through the reporter.
    """
    steps = (end - start) // times.DAY + 1 if end >= start else 0
    if steps > MOST_DAYS:
        raise Invalid(f"a range of {steps} days is too long", field="end_date", remedy="ask for at most 200 years")
    ledger = Ledger(cash=capital, costs=terms.costs)
    bar_ms = resolution * 1000
    lag = -(-terms.latency // bar_ms)
    strict = terms.latency_rule == "strict"
    clock = start + np.arange(steps, dtype=np.int64) * times.DAY
    curve = np.empty((steps, 5))
    closes = {symbol: each.close.tolist() for symbol, each in bars.items()}
    for symbol in bars:
        ledger.windows[symbol] = []
    for step in range(steps):
        now = start + step * times.DAY
        today = now // times.DAY
        ledger.day = step
        present: list[tuple[str, int, int]] = []
        for symbol in symbols:
            span = bars[symbol].days.get(today)
            if span is None:
                continue
            first, last = span
            present.append((symbol, first, last))
            window = ledger.windows[symbol]
            window += closes[symbol][max(first, last - WINDOW):last]
            del window[:-WINDOW]
        spans = {symbol: (first, last) for symbol, first, last in present}
        marks = {symbol: closes[symbol][last - 1] for symbol, (_, last) in spans.items()}
        waiting = ledger.waiting()
        if waiting:
            chances = {}
            for symbol in waiting:
                if symbol in spans:
                    each = bars[symbol]
                    first, last = spans[symbol]
                    at = _strict_bar(each, first, last, terms.latency) if strict else first + lag
                    if at < len(each.time):
                        chances[symbol] = float(each.open[at]), float(each.volume[at])
            for fill in ledger.execute(chances):
                if isinstance(strategy, CoveredCall) and fill.side > 0:
                    call = strategy.on_fill(fill.symbol, ledger.position(fill.symbol), marks[fill.symbol], now)
                    if call is not None:
                        ledger.write_call(call)
        for symbol, price in marks.items():
            ledger.mark(symbol, price)
        if ledger.open_calls:
            ledger.settle_calls(now)
        ledger.value = ledger.cash + ledger.worth()[0]
        for symbol, first, last in present:
            for _ in range(first, last):
                for quantity in strategy.on_bar(symbol, ledger):
                    if math.isfinite(quantity):
                        ledger.order(symbol, quantity)
        strategy.on_day_end()
        positions, gross, unrealised = ledger.worth()
        curve[step] = ledger.cash + positions, ledger.cash, positions, gross, ledger.realised + unrealised
        if reporter is not None and step % 64 == 63:
            reporter.progress(0.3 + 0.45 * (step + 1) / steps, "Simulating")
    value, cash, positions_, gross_, pnl = np.ascontiguousarray(curve.T)
    return Simulation(time=clock, value=value, cash=cash, positions=positions_, gross=gross_, pnl=pnl, ledger=ledger)


def _strict_bar(bars: Bars, first: int, last: int, latency_ms: int) -> int:
    """The first bar of today that opens `latency_ms` or more after today's first bar, else today's last bar."""
    wanted = int(bars.time[first]) + latency_ms * 1000
    at = first + int(np.searchsorted(bars.time[first:last], wanted))
    return at if at < last else last - 1
