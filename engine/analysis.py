"""What a tear-sheet shows beside its figures: drawdown periods, monthly and rolling returns, trades by group.

Pure numpy on columns (see `engine.result.TABLES`). Times are int64 microseconds since 1970 UTC, returns and drawdowns
are fractions, missing values are NaN. Nothing here imports pandas, so that the views may use it in the server process.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from engine import times

Columns = Mapping[str, np.ndarray]
FloatArray = np.ndarray
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def downsample(time: np.ndarray, value: FloatArray, points: int) -> np.ndarray:
    """Positions of at most `points` rows that look like the whole line (MinMaxLTTB), always with both ends.

    NaN rows are kept out of the choice; an array no longer than `points` is kept whole.
    """
    if len(time) <= max(points, 4):
        return np.arange(len(time))
    from tsdownsample import MinMaxLTTBDownsampler

    return (
        MinMaxLTTBDownsampler()
        .downsample(
            np.ascontiguousarray(time), np.nan_to_num(np.ascontiguousarray(value)), n_out=max(points - points % 2, 4)
        )
        .astype(np.int64)
    )


def sparkline(values: Iterable[float | None], points: int = 40) -> list[float]:
    """A curve in few figures, extremes kept, for a small picture in a table."""
    curve = np.asarray([value for value in values if value is not None], float)
    curve = curve[np.isfinite(curve)]
    if len(curve) > points:
        curve = curve[downsample(np.arange(len(curve), dtype=np.int64), curve, points)]
    return [float(f"{value:.7g}") for value in curve]


def daily(time: np.ndarray, value: FloatArray) -> tuple[np.ndarray, FloatArray]:
    """The last value of each UTC day that has one: (midnights in microseconds, values), both of shape (days,)."""
    if not len(time):
        return np.empty(0, np.int64), np.empty(0)
    day = np.asarray(time) // times.DAY
    last = np.flatnonzero(np.append(day[1:] != day[:-1], True))
    return day[last] * times.DAY, np.asarray(value, float)[last]


def returns(value: FloatArray, initial: float | None = None) -> FloatArray:
    """Period-to-period returns. With `initial` the first period counts from it, else there is one fewer than values.

    A return from a value of zero or less is NaN.
    """
    value = np.asarray(value, float)
    if initial is not None:
        value = np.concatenate(([initial], value))
    before, after = value[:-1], value[1:]
    return np.divide(after, before, out=np.full(len(after), np.nan), where=before > 0) - 1.0


def drawdown(value: FloatArray, initial: float | None = None) -> FloatArray:
    """Fraction below the highest value so far, zero or negative, shape (n,). `initial` is a peak before the first."""
    value = np.asarray(value, float)
    if not len(value):
        return np.empty(0)
    peak = np.maximum.accumulate(value if initial is None else np.maximum(value, initial))
    return np.where(peak > 0, value / np.where(peak > 0, peak, 1.0) - 1.0, np.nan)


def drawdown_periods(time: np.ndarray, value: FloatArray, count: int | None = 5) -> list[dict[str, Any]]:
    """The deepest drawdowns, deepest first.

    Each is {"start": time of the peak, "trough": time of the lowest value, "end": first time at or above the peak
    again or None, "depth": negative fraction, "days": peak to recovery (to the last bar when there is none),
    "to_trough", "to_recovery" (days; None when not recovered)}.
    """
    depth = drawdown(value)
    if not len(depth):
        return []
    under = depth < 0
    edges = np.diff(np.concatenate(([False], under, [False])).astype(np.int8))
    firsts, lasts = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    if not len(firsts):
        return []
    lows = np.minimum.reduceat(depth, firsts)
    chosen = np.argsort(lows, kind="stable")[:count]
    found = []
    for position in chosen:
        first, last = int(firsts[position]), int(lasts[position])
        start, trough = int(time[first - 1]), int(time[first + int(np.argmin(depth[first : last + 1]))])
        end = int(time[last + 1]) if last + 1 < len(time) else None
        until = end if end is not None else int(time[-1])
        found.append(
            {
                "start": start,
                "trough": trough,
                "end": end,
                "depth": float(lows[position]),
                "days": (until - start) / times.DAY,
                "to_trough": (trough - start) / times.DAY,
                "to_recovery": (end - trough) / times.DAY if end is not None else None,
            }
        )
    return found


def monthly_returns(
    time: np.ndarray, value: FloatArray, initial: float | None = None
) -> tuple[np.ndarray, FloatArray, FloatArray]:
    """Calendar-month returns: (years shape (y,), table shape (y, 12) with NaN where there is no data, totals (y,)).

    A month counts from the last value before it; the first from `initial` (default: the first value).
    """
    if not len(time):
        return np.empty(0, np.int64), np.empty((0, 12)), np.empty(0)
    value = np.asarray(value, float)
    month = np.asarray(time).astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    last = np.flatnonzero(np.append(month[1:] != month[:-1], True))
    gains = returns(value[last], value[0] if initial is None else initial)
    year, index = month[last] // 12 + 1970, month[last] % 12
    years = np.arange(year[0], year[-1] + 1)
    table = np.full((len(years), 12), np.nan)
    table[year - years[0], index] = gains
    present = ~np.isnan(table)
    totals = np.where(present.any(1), np.prod(np.where(present, 1 + table, 1.0), axis=1) - 1, np.nan)
    return years, table, totals


def _windows(values: FloatArray, window: int) -> FloatArray:
    return np.lib.stride_tricks.sliding_window_view(values, window)


def _rolling(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """Mean and sample standard deviation of every full window, each of shape (n - window + 1,)."""
    view = _windows(values, window)
    return view.mean(axis=1), view.std(axis=1, ddof=1)


def _pad(result: FloatArray, size: int) -> FloatArray:
    return np.concatenate((np.full(size - len(result), np.nan), result))


def rolling_volatility(gains: FloatArray, window: int, periods_per_year: float) -> FloatArray:
    """Annualised sample standard deviation over the last `window` returns, (n,), NaN before the first full one."""
    if window < 2 or len(gains) < window:
        return np.full(len(gains), np.nan)
    return _pad(_rolling(gains, window)[1] * np.sqrt(periods_per_year), len(gains))


def rolling_sharpe(gains: FloatArray, window: int, periods_per_year: float) -> FloatArray:
    """Mean over sample standard deviation times sqrt(periods per year), risk-free rate 0; NaN where undefined."""
    if window < 2 or len(gains) < window:
        return np.full(len(gains), np.nan)
    mean, deviation = _rolling(gains, window)
    flat = deviation <= 1e-14
    return _pad(np.where(flat, np.nan, mean / np.where(flat, 1.0, deviation) * np.sqrt(periods_per_year)), len(gains))


def rolling_beta(gains: FloatArray, benchmark: FloatArray, window: int) -> FloatArray:
    """Covariance with the benchmark over its variance, over the last `window` returns; NaN where undefined."""
    if window < 2 or len(gains) < window:
        return np.full(len(gains), np.nan)
    mine, other = _windows(gains, window), _windows(benchmark, window)
    away = other - other.mean(axis=1, keepdims=True)
    variance = (away**2).sum(axis=1)
    covariance = (mine * away).sum(axis=1)
    flat = variance <= 1e-18
    return _pad(np.where(flat, np.nan, covariance / np.where(flat, 1.0, variance)), len(gains))


def normal_quantiles(values: FloatArray, points: int = 500) -> tuple[FloatArray, FloatArray]:
    """A normal Q-Q plot: (theoretical standard quantiles, sample quantiles), at most `points` each.

    Plotting positions are (i - 0.5) / n (Hazen).
    """
    ordered = np.sort(np.asarray(values, float)[np.isfinite(values)])
    if not len(ordered):
        return np.empty(0), np.empty(0)
    chosen = np.unique(np.linspace(0, len(ordered) - 1, min(points, len(ordered))).round().astype(int))
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / len(ordered)) for i in chosen]), ordered[chosen]


def group_trades(groups: np.ndarray, trips: Columns) -> dict[str, np.ndarray]:
    """Trades by group, best total first: group, trades, win_rate, pnl, average_return, profit_factor, fees.

    `groups` is one label for each row of `trips`. A trade wins when its pnl > 0; profit_factor is NaN without losses.
    """
    labels, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    pnl, size = np.asarray(trips["pnl"], float), len(labels)

    def total(weights: FloatArray) -> FloatArray:
        return np.bincount(member, weights=weights, minlength=size) if len(member) else np.zeros(size)

    count = np.bincount(member, minlength=size) if len(member) else np.zeros(size, int)
    wins, losses = total(np.where(pnl > 0, pnl, 0.0)), total(np.where(pnl < 0, -pnl, 0.0))
    table = {
        "group": labels,
        "trades": count,
        "win_rate": total((pnl > 0).astype(float)) / np.maximum(count, 1),
        "pnl": total(pnl),
        "average_return": total(np.asarray(trips["return"], float)) / np.maximum(count, 1),
        "profit_factor": np.divide(wins, losses, out=np.full(size, np.nan), where=losses > 0),
        "fees": total(np.asarray(trips["fees"], float)),
    }
    order = np.argsort(-table["pnl"], kind="stable")
    return {name: column[order] for name, column in table.items()}


def reasons(trips: Columns, fills: Columns, which: str = "exit") -> np.ndarray:
    """The reason of the fill that opened ("entry") or closed ("exit") each trade; "open" for trades not closed.

    A fill belongs to a trade when time, symbol and side agree; "unknown" when none does.
    """
    sign = 1 if which == "entry" else -1
    known = {
        (time, symbol, int(np.sign(side))): reason
        for time, symbol, side, reason in zip(
            fills["time"].tolist(),
            fills["symbol"].tolist(),
            fills["side"].tolist(),
            fills["reason"].tolist(),
            strict=True,
        )
    }
    rows = zip(
        trips[f"{which}_time"].tolist(),
        trips["symbol"].tolist(),
        trips["direction"].tolist(),
        trips["status"].tolist(),
        strict=True,
    )
    return np.array(
        [
            "open"
            if which == "exit" and status == "open"
            else known.get((time, symbol, sign * int(np.sign(direction)))) or "unknown"
            for time, symbol, direction, status in rows
        ],
        dtype=object,
    )


def weekday_hour(time: np.ndarray, values: FloatArray) -> tuple[np.ndarray, FloatArray]:
    """Counts and mean values by UTC weekday (0 Monday) and hour, each of shape (7, 24); means are NaN without data."""
    hours = np.asarray(time) // times.HOUR
    cell = (hours // 24 + 3) % 7 * 24 + hours % 24  # 1970-01-01 was a Thursday
    count = np.bincount(cell, minlength=168).reshape(7, 24)
    total = np.bincount(cell, weights=np.asarray(values, float), minlength=168).reshape(7, 24)
    return count, np.divide(total, count, out=np.full((7, 24), np.nan), where=count > 0)


def aggregate_candles(candles: Columns, bars: int) -> dict[str, np.ndarray]:
    """At most about `bars` candles that cover the same range: groups of equal numbers of neighbours become one bar.

    Open of the first, highest high, lowest low, close of the last, sum of the volumes; `time` is the first's open and
    `last` the open of the last candle inside. Groups begin at multiples of the group size, so that a bar keeps its
    edges while the view moves; every price extreme survives.
    """
    size = len(candles["time"])
    step = max(1, -(-size // max(bars, 1)))
    if step == 1:
        return {**candles, "last": candles["time"]}
    starts = np.arange(0, size, step)
    ends = np.minimum(starts + step, size) - 1
    return {
        "time": candles["time"][starts],
        "last": candles["time"][ends],
        "open": candles["open"][starts],
        "high": np.fmax.reduceat(candles["high"], starts),
        "low": np.fmin.reduceat(candles["low"], starts),
        "close": candles["close"][ends],
        "volume": np.add.reduceat(candles["volume"], starts),
    }


def between(table: Columns, start: int | None, end: int | None, column: str = "time") -> dict[str, np.ndarray]:
    """The rows of a time-ordered table from `start` to `end` (both inclusive)."""
    time = table[column]
    first = 0 if start is None else int(np.searchsorted(time, start, "left"))
    last = len(time) if end is None else int(np.searchsorted(time, end, "right"))
    return {name: values[first:last] for name, values in table.items()}


def rebased(value: FloatArray, initial: float | None = None) -> FloatArray:
    """Cumulative return as a fraction of the first value, or of `initial`."""
    value = np.asarray(value, float)
    base = initial if initial else (value[0] if len(value) else 1.0)
    return value / base - 1.0 if base else np.full(len(value), np.nan)


def correlation(series: Sequence[tuple[np.ndarray, FloatArray]]) -> FloatArray:
    """Correlation of the daily returns of several curves over the days that all have, shape (n, n).

    Each curve is (time, value). NaN where fewer than three common days or no movement make it undefined.
    """
    days = [daily(time, value) for time, value in series]
    common = days[0][0] if days else np.empty(0, np.int64)
    for day, _ in days[1:]:
        common = np.intersect1d(common, day)
    if len(common) < 4:
        return np.full((len(days), len(days)), np.nan)
    gains = np.array([returns(value[np.searchsorted(day, common)]) for day, value in days])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(gains))
