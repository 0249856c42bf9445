"""Values of entries, checked: texts, numbers, instants. Quick, because each entry comes by here."""

from datetime import date, datetime
from typing import Any, Final

import orjson

from engine import times
from engine.errors import Invalid
from server.store.encoding import encode

__all__ = ["LARGEST", "Clock", "json_text", "number_at_least", "one_line", "optional_instant", "positive", "text_up_to"]

_EARLY: Final = 10**8  # seconds since 1970 that need no second look: from here
_LATE: Final = 5 * 10**9  # to here
_EPOCH: Final = date(1970, 1, 1).toordinal()
LARGEST: Final = 1e30
"""Beyond this no amount, price or fee means anything, and what is computed of them would overflow."""


class Clock:
    """The server's clock for one batch, and the instants of its entries."""

    __slots__ = ("_day", "_day_text", "_last", "_last_iso", "_last_micros", "now", "now_iso", "now_micros")

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or times.now()
        self.now_micros = times.micros(self.now)
        self.now_iso = times.iso(self.now)
        self._last: Any = None
        self._day, self._day_text = -1, ""
        self._last_micros = self.now_micros
        self._last_iso = self.now_iso

    def micros(self, value: Any, field: str) -> int:
        """Integer microseconds of a wire value, the server's now for None. Raises `Invalid` naming `field`."""
        if value is None:
            return self.now_micros
        if value is not self._last:
            self._read(value, field)
        return self._last_micros

    def iso(self, value: Any, field: str) -> str:
        """The same as RFC 3339 text."""
        if value is None:
            return self.now_iso
        if value is not self._last:
            self._read(value, field)
        return self._last_iso

    def _read(self, value: Any, field: str) -> None:
        if type(value) in (float, int) and _EARLY < value < _LATE:
            micros = round(value * 1_000_000)
            day, rest = divmod(micros // 1_000_000, 86400)
            if day != self._day:
                self._day, self._day_text = day, date.fromordinal(_EPOCH + day).isoformat()
            self._last_iso = (f"{self._day_text}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
                              f".{micros % 1_000_000:06d}Z")
        else:
            at = times.parse(value, field=field)
            micros, self._last_iso = times.micros(at), times.iso(at)
        self._last, self._last_micros = value, micros


def json_text(value: Any, field: str) -> str:
    """JSON as events hold it; `encode` for values that are nearly always fine, without its wrapping."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return str(encode(value, field=field))


def one_line(value: Any, field: str, most: int) -> str:
    """A text of 1 to `most` characters without control characters."""
    if type(value) is not str or not value.strip() or len(value) > most or not value.isprintable():
        raise Invalid(f"{str(value)[:60]!r} is not usable here" if value else "this is needed", field=field,
                      remedy=f"use 1 to {most} printable characters")
    return value


def text_up_to(value: Any, field: str, most: int) -> str:
    """A text of at most `most` characters; a NUL, which PostgreSQL cannot hold, is left out."""
    if type(value) is not str:
        raise Invalid("this is not text", field=field, remedy="send a text")
    if len(value) > most:
        raise Invalid(f"{len(value)} characters are too many", field=field, remedy=f"use at most {most}")
    return value.replace("\x00", "") if "\x00" in value else value


def positive(value: Any, field: str) -> float:
    """A finite number above 0."""
    if type(value) not in (int, float) or not 0 < value < LARGEST:
        raise Invalid(f"{str(value)[:40]} is not a number above 0", field=field,
                      remedy=f"use a positive number below {LARGEST:g}")
    return float(value)


def number_at_least(value: Any, field: str, least: float) -> float:
    """A finite number from `least` on."""
    if type(value) not in (int, float) or not least <= value < LARGEST:
        raise Invalid(f"{str(value)[:40]} is not a number from {least:g} on", field=field,
                      remedy=f"use such a number below {LARGEST:g}")
    return float(value)


def optional_instant(value: Any, field: str) -> int | None:
    """Integer microseconds of a wire value that may be missing."""
    return None if value is None else times.micros(times.parse(value, field=field))
