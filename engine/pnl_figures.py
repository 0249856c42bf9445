"""How a bot fares, from its ledger: totals, drawdown, the curve, and the figures that backtests have too.

A bot that trades on somebody's account states no capital. Its base is then the largest capital it ever had at work: the
highest gross worth of its positions. Equity is the base plus the profit, so that fractions mean the same as in
backtests; amounts of money need no base. Currencies are never added up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from engine import times
from engine.calendars import Calendar
from engine.metrics import METRICS, Periods, compute
from engine.pnl import Ledger, Roundtrip
from engine.pnl_fills import Key, Track, tracks

__all__ = ["STATED", "WORKING", "Curve", "Figures", "Marks", "Totals", "axis", "curves_of", "figures_of", "metrics_of",
           "reported_figures"]

Marks = Callable[[np.ndarray], Mapping[Key, np.ndarray]]
"""Prices along instants (int64 microseconds), as `tracks` takes them."""
WORKING: Final = "the largest capital at work: the highest gross worth of its positions"
STATED: Final = "as stated"
STEPS: Final = (60, 300, 900, 3600, 4 * 3600, 86400)
MOST: Final = 5000
SPARK: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """In one currency: `today` since midnight (UTC), `exposure` the gross worth held, `base` see above, `drawdown` how
    far the profit lies below its highest (at least 0) and `max_drawdown` the furthest ever, both >= 0, and as
    fractions of base plus highest. None where a model reports its profit itself."""

    total: float
    today: float
    realised: float | None = None
    unrealised: float | None = None
    fees: float | None = None
    exposure: float | None = None
    base: float | None = None
    drawdown: float = 0.0
    max_drawdown: float = 0.0
    drawdown_fraction: float | None = None
    max_drawdown_fraction: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Totals by currency, largest base first; `spark` is the profit in the first of them, in at most 60 points.
    `unpriced` counts orders without any price, `at` is the instant (microseconds) of the marks."""

    totals: Mapping[str, Totals] = field(default_factory=dict)
    spark: tuple[float, ...] = ()
    unpriced: int = 0
    reported: bool = False
    at: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """Profit in one currency along `time` (int64 microseconds): at every fill, and at regular instants between."""

    time: np.ndarray
    profit: np.ndarray
    gross: np.ndarray

    @property
    def base(self) -> float:
        """The largest capital at work."""
        return float(self.gross.max()) if len(self.gross) else 0.0


def axis(first: int, last: int, most: int = MOST) -> tuple[int, np.ndarray]:
    """Regular bars from the one of `first` to the one that ends at or after `last` (microseconds): their width in
    seconds, and when they open."""
    for width in STEPS:
        if (last - first) // (width * times.SECOND) < most:
            break
    else:
        width = 86400 * -(-(last - first) // (most * times.DAY))
    size = width * times.SECOND
    return width, np.arange(first // size, max(first // size, (last - 1) // size) + 1, dtype=np.int64) * size


def curves_of(ledger: Ledger, marks: Marks, now: int) -> dict[str, Curve]:
    """The profit by currency, from the first fill to now."""
    filled = ledger.fills.time
    if not len(filled):
        return {}
    end = max(now, int(filled[-1]))
    width, opens = axis(int(filled[0]), end)
    closes = np.minimum(opens + width * times.SECOND, end)
    time = np.sort(np.concatenate((closes, [int(filled[0]) - 1], filled)), kind="stable")  # runs that are sorted
    time = time[np.append(True, time[1:] != time[:-1])]
    return {currency: Curve(time=time, profit=track.profit, gross=track.gross)
            for currency, track in tracks(ledger.fills, time, marks(time)).items()}


def figures_of(ledger: Ledger, marks: Marks, now: int) -> Figures:
    """Everything there is to say at a glance."""
    curves = curves_of(ledger, marks, now)
    if not curves:
        return Figures(unpriced=len(ledger.unpriced), at=now)
    midnight = np.array([now - now % times.DAY], np.int64)
    before = tracks(ledger.fills, midnight, marks(midnight))
    realised, fees = ledger.realised(), dict.fromkeys(curves, 0.0)
    for position in ledger.positions.values():
        fees[position.currency] += position.fees
    found: dict[str, Totals] = {}
    for currency, curve in curves.items():
        total = float(curve.profit[-1])
        found[currency] = Totals(
            total=total, today=total - float(before[currency].profit[0]), realised=realised[currency],
            unrealised=total - realised[currency], fees=fees[currency], exposure=float(curve.gross[-1]),
            base=curve.base, **_depth(curve.profit, curve.base))
    ordered = dict(sorted(found.items(), key=lambda each: -(each[1].base or 0.0)))
    main = curves[next(iter(ordered))]
    return Figures(totals=ordered, spark=_spark(main.time, main.profit), unpriced=len(ledger.unpriced), at=now)


def reported_figures(points: Sequence[tuple[int, float]], now: int, *, currency: str = "?",
                     exposure: float | None = None, unpriced: int = 0) -> Figures:
    """The same from the profit series that a model reports of itself: (microseconds, value), by time."""
    if not points:
        return Figures(reported=True, unpriced=unpriced, at=now)
    time, value = (np.array(column) for column in zip(*points, strict=True))
    value = value.astype(float)
    earlier = value[time <= now - now % times.DAY]
    total = float(value[-1])
    totals = Totals(total=total, today=total - (float(earlier[-1]) if len(earlier) else 0.0), exposure=exposure,
                    **_depth(value, None))
    return Figures(totals={currency: totals}, spark=_spark(time, value), reported=True, unpriced=unpriced, at=now)


def metrics_of(ledger: Ledger, currency: str, marks: Marks, now: int, *, capital: float | None = None,
               calendar: Calendar | None = None) -> tuple[dict[str, float | None], Periods]:
    """The table of a backtest's figures for what was traded in one currency, from regular bars, and how returns are
    annualised. `capital` None: the largest capital at work. `calendar` of an exchange leaves its closed days out.
    There is no benchmark."""
    filled = ledger.fills.columns()
    mine = np.isin(filled["key"], [number for number, each in enumerate(ledger.fills.currencies) if each == currency])
    end = max(now, int(filled["time"][-1]))
    width, opens = axis(int(filled["time"][mine][0]), end)
    if calendar is not None and calendar.kind == "exchange" and width <= 86400:
        kept = np.isin((opens // times.DAY + 3) % 7, calendar.weekdays)
        opens = opens[kept] if kept.any() else opens
    track: Track = tracks(ledger.fills, at := np.minimum(opens + width * times.SECOND, end), marks(at))[currency]
    base = capital if capital is not None else curves_of(ledger, marks, now)[currency].base
    periods = _periods(calendar, width)
    if base <= 0:  # bought and sold within one instant
        return dict.fromkeys(METRICS), periods
    figures = compute(
        equity={"time": opens, "value": base + track.profit, "gross": track.gross,
                "benchmark": np.full(len(opens), base)},
        fills={"time": filled["time"][mine], "quantity": np.abs(filled["quantity"][mine]),
               "price": filled["price"][mine], "fee": filled["fee"][mine]},
        roundtrips=_trips(ledger, currency), cash=base, resolution=width, periods=periods)
    return figures | {"benchmark_return": None, "alpha": None, "beta": None}, periods


def _periods(calendar: Calendar | None, width: int) -> Periods:
    if width > 86400:
        per_year = 365.25 * 86400 / width
        return Periods(per_year=per_year, every_day=False, by_bar=True, text=f"returns of bars, {per_year:.4g} a year")
    if calendar is None or calendar.kind == "24x7":
        return Periods(per_year=365.0, every_day=True, by_bar=False,
                       text="daily returns; periods a year 365: every day counts")
    return Periods(per_year=calendar.periods_per_year, every_day=False, by_bar=False,
                   text=f"daily returns; periods a year {calendar.text}")


def _trips(ledger: Ledger, currency: str) -> dict[str, np.ndarray]:
    """Roundtrips as `compute` takes them; what is open counts as a trade, and as nothing else."""
    closed: list[Roundtrip] = [trip for trip in ledger.roundtrips if trip.currency == currency]
    opened = sum(1 for each in ledger.positions.values() if each.currency == currency and each.quantity)
    pad = np.zeros(opened)
    pnl = np.array([trip.pnl for trip in closed], float)
    worth = np.array([trip.entry_price * trip.quantity for trip in closed], float)
    return {"status": np.array(["closed"] * len(closed) + ["open"] * opened, object),
            "pnl": np.concatenate((pnl, pad)), "return": np.concatenate((pnl / worth, pad)),
            "entry_time": np.array([times.micros(trip.entry_at) for trip in closed] + [0] * opened, np.int64),
            "exit_time": np.array([times.micros(trip.exit_at) for trip in closed] + [0] * opened, np.int64)}


def _depth(profit: np.ndarray, base: float | None) -> dict[str, Any]:
    """How far a profit lies, and at most lay, below its highest; zero is the first."""
    peak = np.maximum.accumulate(np.maximum(profit, 0.0))
    below = peak - profit
    found: dict[str, Any] = {"drawdown": float(below[-1]), "max_drawdown": float(below.max())}
    if base:
        share = below / (base + peak)
        found |= {"drawdown_fraction": float(share[-1]), "max_drawdown_fraction": float(share.max())}
    return found


def _spark(time: np.ndarray, profit: np.ndarray) -> tuple[float, ...]:
    """The profit at regular instants, few of them."""
    at = np.linspace(time[0], time[-1], SPARK)
    places = np.clip(np.searchsorted(time, at, side="right") - 1, 0, len(time) - 1)
    if len(time) <= SPARK:
        places = np.arange(len(time))
    return tuple(float(f"{value:.7g}") for value in profit[places])
