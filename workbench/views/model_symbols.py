"""What a bot's symbol stands for: its currency, and the stored candles of its market."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from engine import times

_PARTS: Final = re.compile(r"[-/_:]")


def fits(symbol: str, entry: Mapping[str, Any]) -> bool:
    """Whether a stored dataset is of a bot's symbol; a symbol may be an asset alone."""
    pair = [part.upper() for part in _PARTS.split(symbol) if part]
    asset, currency = str(entry["asset"]).upper(), str(entry["currency"]).upper()
    return pair in ([asset, currency], [asset]) or "".join(pair) == asset + currency


def resolve(symbol: str, exchange: str, stored: Iterable[Mapping[str, Any]], at: int) -> dict[str, Any] | None:
    """The stored dataset that has the candles of a bot's symbol around an instant (microseconds), the finest first;
    None when there is none. The exchange that the bot names comes first, then any other with the same pair."""
    found = []
    for entry in stored:
        if not fits(symbol, entry):
            continue
        seconds = times.resolution(entry["resolution"])
        first, last = (instant(entry[name]) for name in ("first", "last"))
        if first - seconds * times.SECOND <= at <= last + 30 * seconds * times.SECOND:
            found.append((str(entry["exchange"]).lower() != exchange.lower(), seconds, str(entry["market"]), entry))
    return dict(min(found, key=lambda each: each[:3])[3]) if found else None


def instant(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else times.micros(times.parse(value))


def currency_of(symbol: str) -> str:
    """What a symbol is quoted in, as far as its name says."""
    parts = [part for part in _PARTS.split(symbol) if part]
    return parts[-1].upper() if len(parts) > 1 else ""
