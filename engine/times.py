"""Instants and resolutions: every wire form is parsed and printed here.

Inside the workbench an instant is an aware UTC `datetime` or, in arrays and tables, an integer number of
microseconds since 1970 (int64). A resolution is a whole number of seconds; its name is "1m", "1h", "1d", "15m".
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from engine.errors import Invalid

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAMES: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_MICROSECOND: Final = timedelta(microseconds=1)
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""No instant lies before the first, or at or after the second: its unit was misread."""


def now() -> datetime:
    """The present instant, aware UTC, microsecond precision."""
    return datetime.now(UTC)


def micros(at: datetime) -> int:
    """Integer microseconds since 1970 of an instant; a naive datetime counts as UTC."""
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - EPOCH) // _MICROSECOND


def instant(value: int) -> datetime:
    """The aware UTC datetime of integer microseconds since 1970."""
    return EPOCH + timedelta(microseconds=int(value))


def iso(at: datetime | int) -> str:
    """RFC 3339 text in UTC with microseconds and `Z`: 2023-01-01T00:00:00.000000Z."""
    if isinstance(at, int):
        at = instant(at)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(value: object, *, field: str = "time") -> datetime:
    """The instant a wire value means.

    Accepts a datetime or date, ISO 8601 text (date only, or with time; naive means UTC), and epoch numbers or
    numeric text in seconds, milliseconds, microseconds or nanoseconds (told apart by size, as years 1900-2200).
    Raises `Invalid` naming `field` for anything else.
    """
    try:
        if isinstance(value, datetime):
            at = value if value.tzinfo else value.replace(tzinfo=UTC)
        elif isinstance(value, date):
            at = datetime(value.year, value.month, value.day, tzinfo=UTC)
        elif isinstance(value, bool) or value is None:
            raise ValueError
        elif isinstance(value, int | float):
            at = _from_epoch(value)
        elif isinstance(value, str):
            text = value.strip()
            if re.fullmatch(r"[+-]?\d{5,}(\.\d+)?", text):
                at = _from_epoch(float(text) if "." in text else int(text))
            else:
                at = datetime.fromisoformat(text)
                at = at if at.tzinfo else at.replace(tzinfo=UTC)
        else:
            raise ValueError
        at = at.astimezone(UTC)
        if not EARLIEST <= at < LATEST:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise Invalid(
            f"{value!r} is not a time", field=field,
            remedy="use ISO 8601 such as 2023-01-31T00:00:00Z, or seconds since 1970",
        ) from None
    return at


def _from_epoch(number: int | float) -> datetime:
    size = abs(number)
    for per_second in (1, 1_000, 1_000_000, 1_000_000_000):
        if size < 7_258_118_400 * per_second:  # the year 2200
            scaled = number * SECOND
            return instant(scaled // per_second if isinstance(scaled, int) else round(scaled / per_second))
    raise ValueError


def span_unit(days: float) -> tuple[str, float]:
    """The unit in which a person reads a span of `days`, and how many of it a day has: days, hours or minutes."""
    size = abs(days)
    return ("days", 1.0) if size >= 1 or size == 0 else ("hours", 24.0) if size >= 1 / 24 else ("minutes", 1440.0)


def resolution(value: object, *, field: str = "resolution") -> int:
    """Seconds of a resolution: "1m", "15m", "1h", "1d", "1w", "minute", "hour", "day" or a number of seconds."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _NAMES:
            return _NAMES[text]
        match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
        if match and int(match[1]) > 0:
            return int(match[1]) * _UNITS[match[2]]
    raise Invalid(f"{value!r} is not a resolution", field=field, remedy="use a form such as 1m, 15m, 1h or 1d")


def resolution_name(seconds: int) -> str:
    """The shortest name: 60 -> "1m", 5400 -> "90m", 86400 -> "1d"."""
    for unit in ("d", "h", "m"):
        if seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"
