"""When a market trades, read off its bars: around the clock, or on an exchange's days and hours; and its holes."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from engine import times

_NAMES: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_CELLS: Final = 40_000_000  # of the table days x slots; coarser slots beyond
_NEAR: Final = 4  # weeks before and after in which a slot must be usual to be missed
_USUAL: Final = 0.85
_HOLIDAY: Final = 2  # sessions in a row: Good Friday and Easter Monday


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """`missing` bars from `start` to `end`, microseconds of the first and last missing open."""

    start: int
    end: int
    missing: int
    severity: Literal["gap", "session"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calendar:
    """`weekdays` with trading, 0 = Monday, in UTC; days with trading and bars a year, and how they are known."""

    kind: Literal["24x7", "exchange"]
    weekdays: tuple[int, ...]
    periods_per_year: float
    bars_per_year: float
    text: str


def calendar_of(time: np.ndarray, resolution: int) -> Calendar:
    """The calendar that bar opens (int64 microseconds, ascending) follow.

    A market is an exchange's when whole weekdays are empty, week after week, within its span. Too short a span, or
    bars of more than a day, count as around the clock.
    """
    around = Calendar(kind="24x7", weekdays=tuple(range(7)), periods_per_year=365.0,
                      bars_per_year=365.0 * 86400 / resolution, text="365: trades every day")
    if resolution > 86400 or not len(time):
        return around
    span = np.arange(time[0] // times.DAY, time[-1] // times.DAY + 1)
    days = span[np.diff(np.searchsorted(time, np.append(span, span[-1] + 1) * times.DAY)) > 0]  # those with a bar
    possible = np.bincount(_weekday(span), minlength=7)
    seen = np.bincount(_weekday(days), minlength=7)
    usual = np.divide(seen, possible, out=np.zeros(7), where=possible > 0)
    if len(span) < 7 or not (closed := (possible > 0) & (usual < 0.5 * usual.max())).any():
        if len(span) < 7:
            return Calendar(kind="24x7", weekdays=around.weekdays, periods_per_year=365.0,
                            bars_per_year=around.bars_per_year, text="365: less than a week shows no closed day")
        return around
    weekdays = tuple(int(w) for w in np.flatnonzero(~closed & (possible > 0)))
    names = ", ".join(_NAMES[w] for w in weekdays)
    years, counts = np.unique(days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970,
                              return_counts=True)
    whole = [int(count) for year, count in zip(years, counts, strict=True) if _whole(int(year), days)]
    if whole:
        sessions = round(float(np.mean(whole)), 1)
        text = f"{sessions:g}: sessions a year counted over {len(whole)} whole years (trades {names})"
    else:
        sessions, text = 252.0, f"252: an exchange's usual year, no whole year to count (trades {names})"
    return Calendar(kind="exchange", weekdays=weekdays, periods_per_year=sessions,
                    bars_per_year=round(sessions * len(time) / len(days), 1), text=text)


def gaps_of(time: np.ndarray, resolution: int, calendar: Calendar) -> list[Gap]:
    """The holes in bar opens (int64 microseconds, ascending), in time order.

    Around the clock: every missing bar. Exchange: trading weekdays without a bar, and within a day the stretches in
    which this weekday nearly always has bars in the weeks around it; so nights, lunch breaks and the hour that daylight
    saving moves are none.
    """
    if len(time) < 2:
        return []
    if calendar.kind == "24x7":
        width = resolution * times.SECOND
        steps = np.diff(time)
        before = np.flatnonzero(steps >= 2 * width)
        missing = steps[before] // width - 1
        return [Gap(start=int(time[at]) + width, end=int(time[at]) + int(count) * width, missing=int(count),
                    severity="gap") for at, count in zip(before, missing, strict=True)]
    gaps, bars_a_day = _missing_days(time, calendar)
    if resolution < 86400:
        gaps = [Gap(start=gap.start, end=gap.end, missing=gap.missing * bars_a_day, severity=gap.severity)
                for gap in gaps] + _missing_hours(time, resolution)
    return sorted(gaps, key=lambda gap: gap.start)


def _weekday(days: np.ndarray) -> np.ndarray:
    return (days + 3) % 7  # day 0 was a Thursday


def _whole(year: int, days: np.ndarray) -> bool:
    """Whether the days reach from the first to the last week of a year."""
    begin = int(np.datetime64(f"{year:04d}-01-01", "D").astype(np.int64))
    end = int(np.datetime64(f"{year + 1:04d}-01-01", "D").astype(np.int64))
    return bool(days[0] <= begin + 6 and days[-1] >= end - 7)


def _missing_days(time: np.ndarray, calendar: Calendar) -> tuple[list[Gap], int]:
    """Trading weekdays without a bar, runs of them as one; and the usual number of bars a day."""
    days, counts = np.unique(time // times.DAY, return_counts=True)
    span = np.arange(days[0], days[-1] + 1)
    trading = span[np.isin(_weekday(span), calendar.weekdays)]
    missing = ~np.isin(trading, days)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], missing.astype(np.int8), [0]))))
    clock = int(np.median(time % times.DAY)) if len(days) == len(time) else 0  # a daily bar's usual time of day
    gaps = []
    for begin, stop in zip(edges[::2], edges[1::2], strict=True):
        gaps.append(Gap(start=int(trading[begin]) * times.DAY + clock, end=int(trading[stop - 1]) * times.DAY + clock,
                        missing=int(stop - begin), severity="session" if stop - begin <= _HOLIDAY else "gap"))
    return gaps, int(np.median(counts))


def _missing_hours(time: np.ndarray, resolution: int) -> list[Gap]:
    """Stretches within days with bars in which the same weekday usually has some."""
    first = int(time[0] // times.DAY)
    days = int(time[-1] // times.DAY) - first + 1
    width = max(resolution, 60)
    while days * (86400 // width) > _CELLS:
        width *= 2
    slots = -(-86400 // width)
    table = np.zeros((days, slots), bool)
    table[time // times.DAY - first, time % times.DAY // (width * times.SECOND)] = True
    expected = np.zeros_like(table)
    for weekday in range(7):
        rows = table[weekday::7]
        open_days = np.asarray(rows.any(axis=1))
        sums = np.concatenate((np.zeros((1, slots), np.int32), np.cumsum(rows, axis=0, dtype=np.int32)))
        opened = np.concatenate(([0], np.cumsum(open_days)))
        low = np.maximum(np.arange(len(rows)) - _NEAR, 0)
        high = np.minimum(np.arange(len(rows)) + _NEAR + 1, len(rows))
        near = opened[high] - opened[low]
        others = np.asarray(near - open_days)
        usual = (sums[high] - sums[low] - rows) >= _USUAL * others[:, None]
        expected[weekday::7] = usual & np.asarray(open_days & (others >= 2))[:, None]
    # The first and last day may be cut off anywhere.
    expected[0, : int(table[0].argmax())] = False
    expected[-1, slots - int(table[-1, ::-1].argmax()):] = False
    holes = expected & ~table
    after = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]  # bars of the day from a slot on: none, then it closed early
    flat = holes.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat.astype(np.int8), [0]))))
    gaps = []
    for begin, stop in zip(edges[::2], edges[1::2], strict=True):
        day, slot = divmod(int(begin), slots)
        early = after[day, slot] == 0 and (stop - 1) // slots == day
        start = (first + day) * times.DAY + slot * width * times.SECOND
        last_day, last_slot = divmod(int(stop) - 1, slots)
        end = (first + last_day) * times.DAY + (last_slot + 1) * width * times.SECOND - resolution * times.SECOND
        gaps.append(Gap(start=start, end=end, missing=int(stop - begin) * max(1, width // resolution),
                        severity="session" if early else "gap"))
    return gaps
