"""Dates as Blankly's header `time` has them: numbers of any size, and what JavaScript's `Date.parse` takes.

Where `Date.parse` would take the zone of its machine, a time without a zone is UTC here.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from engine import times
from engine.errors import Invalid

__all__ = ["NUMBER", "instant_of"]

NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")

_DAYS: Final = ("%b %d %Y", "%B %d %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %y", "%m/%d/%Y",
                "%m-%d-%Y", "%Y/%m/%d", "%Y-%m-%d", "%Y-%m")
_WEEKDAY: Final = re.compile(r"^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+", re.IGNORECASE)
_CLOCK: Final = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?(?:\s*([AaPp])\.?[Mm]\b\.?)?"
    r"\s*(?:\b([A-Z]{1,3})\b)?\s*([+-]\d{2}:?\d{2})?(?!\S)")
_ZONES: Final[Mapping[str, int]] = {
    "GMT": 0, "UTC": 0, "UT": 0, "Z": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8,
    "PDT": -7}
"""Hours ahead of UTC of the zones that `Date.parse` knows by name."""


def instant_of(text: str, field: str = "time") -> float | str | None:
    """What the header `time` means, as `engine.times` reads it: epoch seconds, or milliseconds and smaller parts
    (divided by ten until they are seconds of this age), or any of the usual ways to write a date."""
    text = text.strip()
    if not text or text.lower() in ("undefined", "null", "none"):
        return None
    if NUMBER.fullmatch(text):
        number = float(text)
        if not number < 1e30:
            raise _no_time(text, field)
        while number > 5e9:
            number /= 10
        return times.iso(times.parse(number, field=field)) if number < 1e8 else number
    try:
        return times.iso(times.parse(text, field=field))
    except Invalid:
        pass
    try:
        return times.iso(times.parse(_date_of(text), field=field))
    except (ValueError, OverflowError, Invalid):
        raise _no_time(text, field) from None


def _date_of(text: str) -> datetime:
    """What `Date.parse` takes besides ISO 8601: a day, and a time of day with a zone or without, which is UTC here.
    Raises `ValueError`."""
    text = re.sub(r"\([^)]*\)", " ", text)
    clock = _CLOCK.search(text)
    after = timedelta()
    if clock:
        hours, minutes, seconds, part, half, zone, offset = clock.groups()
        hour = int(hours) % 12 + 12 * (half in ("P", "p")) if half else int(hours)
        if int(hours) > (12 if half else 23) or int(minutes) > 59 or int(seconds or 0) > 59:
            raise ValueError
        after = timedelta(hours=hour - _ZONES[zone] if zone in _ZONES else hour, minutes=int(minutes),
                          seconds=float((seconds or "0") + (part or "")))
        if zone and zone not in _ZONES:
            raise ValueError
        if offset:
            ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:]))
            after += ahead if offset[0] == "-" else -ahead
        text = text[:clock.start()] + " " + text[clock.end():]
    else:
        text = re.sub(r"\s(?:GMT|UTC|UT|Z)\s*$", "", text)
    day = " ".join(_WEEKDAY.sub("", text.strip()).replace(",", " ").split()).removesuffix("T")
    for form in _DAYS:
        try:
            return datetime.strptime(day, form) + after
        except ValueError:
            continue
    raise ValueError


def _no_time(text: str, field: str) -> Invalid:
    return Invalid(f"{text[:60]!r} is not a time", field=field, remedy="send seconds since 1970, or an ISO 8601 date")
