"""Gekko's ranges of time: how dates are read, which candles a backtest gets, which ranges a market has."""

import math
import re
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from engine import times
from engine.errors import Invalid

BATCH: Final = 50
"""Minutes that Gekko reads at once (backtest.batchSize)."""

_LONGEST: Final = 8.64e15  # milliseconds: JavaScript's last date


def read_date(value: object, *, field: str) -> int:
    """Whole seconds since 1970 that a date on the wire means, rounded down.

    ISO 8601 text without a zone is UTC; also a year or year and month alone; numbers are milliseconds, as in
    JavaScript. Raises `Invalid` naming `field`.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and -_LONGEST <= value <= _LONGEST:
        return math.floor(value / 1000) if isinstance(value, float) else value // 1000
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"\d{4}(-\d{2})?", text):
            text += "-01-01" if len(text) == 4 else "-01"
        try:
            at = datetime.fromisoformat(text)
            return times.micros(at if at.tzinfo else at.replace(tzinfo=UTC)) // times.SECOND
        except (ValueError, OverflowError):
            pass
    raise Invalid(f"{value!r} is not a date", field=field,
                  remedy="use text such as 2018-01-31 12:00:00 or 2018-01-31T12:00:00Z; a number means milliseconds")


def read_range(daterange: Any, *, field: str = "backtest.daterange", now: int | None = None) -> tuple[int, int]:
    """(from, to) in seconds; what is missing means now. Raises `Invalid` when `to` is not after `from`."""
    if not isinstance(daterange, dict):
        raise Invalid(f"{daterange!r} is not a range", field=field, remedy='give {"from": …, "to": …} or "scan"')
    present = int(times.now().timestamp()) if now is None else now
    start, end = (read_date(daterange[key], field=f"{field}.{key}") if key in daterange else present
                  for key in ("from", "to"))
    if end <= start:
        raise Invalid("this range does not make sense: it ends before it begins", field=f"{field}.to",
                      remedy="give a `to` that is later than `from`")
    return start, end


def scan(seconds: np.ndarray) -> list[tuple[int, int]]:
    """The ranges (first, last candle's start, in seconds, oldest first) of one-minute candles at these sorted times.

    Without a hole: one range from the first to the last candle. Else hours, both ends inclusive, counted back from the
    last candle, of which one counts as whole when at most 3 of 61 candles are missing; whole neighbours make one range,
    and the oldest, incomplete hour never counts.
    """
    if not len(seconds):
        return []
    first, last = int(seconds[0]), int(seconds[-1])
    if len(seconds) == (last - first) // 60 + 1:
        return [(first, last)]
    ends = np.arange(last, first + 3600, -3600)
    ends = ends[ends - 3600 > first] if len(ends) else ends
    count = np.searchsorted(seconds, ends, side="right") - np.searchsorted(seconds, ends - 3600, side="left")
    found: list[tuple[int, int]] = []
    for end in ends[count + 3 > 60].tolist():
        if found and found[-1][0] == end:
            found[-1] = (end - 3600, found[-1][1])
        else:
            found.append((end - 3600, end))
    return found[::-1]


def require_candles(seconds: np.ndarray, start: int, end: int, minutes: int = BATCH) -> None:
    """Raise `Invalid` when one of the blocks of `minutes` that are read one after another, counted from `start`, has no
    candle; the last one may be empty."""
    width = minutes * 60
    blocks = max(0, -(-(end + 1 - start) // width) - 1)  # without the last
    if not blocks:
        return
    filled = np.unique((seconds - start) // width)
    filled = filled[(filled >= 0) & (filled < blocks)]
    if len(filled) == blocks:
        return
    empty = int(np.flatnonzero(np.append(filled, -1) != np.arange(len(filled) + 1))[0])
    begin = times.iso(times.instant((start + empty * width) * times.SECOND))
    if not len(seconds):
        raise Invalid("there are no candles in this range", field="backtest.daterange",
                      remedy="choose a range that was imported")
    raise Invalid(f"there are no candles in the {minutes} minutes from {begin}", field="backtest.daterange",
                  remedy="import what is missing or choose a range without the gap")
