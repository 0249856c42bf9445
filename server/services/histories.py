"""Minute candles as Gekko's clients know them: named by a `watch`, listed as ranges, made into larger candles.

Everything here blocks (files, arithmetic): call it off the loop.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine import times
from engine.candle_store import CandleStore, Dataset
from engine.candles import Candles
from engine.errors import Invalid, NotFound
from engine.gekko_ranges import scan
from engine.model import Market

__all__ = ["MINUTE", "Batches", "Histories", "History", "batch"]

MINUTE: Final = 60
MOST: Final = 5_000_000  # minutes in one answer
PARTS: Final = ("exchange", "currency", "asset")

Batches = Mapping[str, np.ndarray]
"""Candles of several minutes: start (seconds), open, high, low, close, vwp, volume, trades."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """A market's minutes: ranges (first and last start, in seconds, oldest first); `whole`: no minute is missing."""

    market: Market
    ranges: tuple[tuple[int, int], ...]
    whole: bool


class Histories:
    """The histories of one candle store. Ranges are kept until the market's candles change. Safe for threads."""

    def __init__(self, store: CandleStore) -> None:
        self._store = store
        self._known: dict[Market, tuple[str, History]] = {}
        self._lock = threading.Lock()

    def resolve(self, watch: Any) -> Market:
        """The stored market that a `watch` names, in any case. Raises `Invalid` for what names none, `NotFound` for
        one without minutes."""
        if not isinstance(watch, Mapping):
            raise Invalid("the section watch is missing", field="watch",
                          remedy='send "watch": {"exchange": …, "currency": …, "asset": …}')
        for name in PARTS:
            if not isinstance(watch.get(name), str) or not watch[name]:
                raise Invalid(f"{watch.get(name)!r} names no {name}"[:200], field=f"watch.{name}", remedy="give a text")
        wanted = tuple(watch[name] for name in PARTS)
        fits = [market for market in self._store.markets()
                if _names(market, fold=True) == tuple(part.casefold() for part in wanted)]
        exact = [market for market in fits if _names(market) == wanted]
        for market in exact or fits:
            if self._minutes(market) is not None:
                return market
        raise NotFound(f"there are no minute candles of {' '.join(wanted)}"[:200], field="watch",
                       remedy="import them first; /api/scansets lists what there is")

    def all(self) -> list[History]:
        """Every market that has minutes, in order of exchange, currency and asset."""
        found = [market for market in self._store.markets() if self._minutes(market) is not None]
        return [self.of(market) for market in sorted(found, key=_names)]

    def of(self, market: Market) -> History:
        """A market's ranges; raises `NotFound` when it has no minutes."""
        stamp = self._store.stamp(market)
        known = self._known.get(market)
        if known is not None and known[0] == stamp:
            return known[1]
        history = self._scan(market)
        with self._lock:
            self._known[market] = stamp, history
        return history

    def candles(self, market: Market, start: int, end: int, size: int) -> Batches:
        """The candles of `size` minutes each from `start` to `end` (seconds, both inclusive), counted from the first
        minute that is there; an incomplete last one is left out."""
        there = self._minutes(market)
        if there is not None:
            reach = min(there.last // times.SECOND, end) - max(there.first // times.SECOND, start)
            if reach // MINUTE > MOST:
                raise Invalid(f"the range holds more than {MOST} candles", field="daterange",
                              remedy="ask for a shorter range")
        try:
            candles = self._store.read(market, MINUTE, start * times.SECOND, end * times.SECOND)
        except Invalid:  # none in this range
            return batch(None, size)
        return batch(candles, size)

    def _scan(self, market: Market) -> History:
        there = self._minutes(market)
        if there is None:
            raise NotFound(f"there are no minute candles of {market.key}", field="watch")
        first, last = there.first // times.SECOND, there.last // times.SECOND
        if there.resolution == MINUTE and there.rows == (last - first) // MINUTE + 1:
            return History(market=market, ranges=((first, last),), whole=True)
        seconds = (self._store.time(market, MINUTE) if there.resolution == MINUTE
                   else self._store.read(market, MINUTE).time) // times.SECOND
        whole = len(seconds) == (int(seconds[-1]) - int(seconds[0])) // MINUTE + 1
        return History(market=market, ranges=tuple(scan(seconds)), whole=whole)

    def _minutes(self, market: Market) -> Dataset | None:
        """What minutes are read from: they themselves, or finer candles that make them."""
        stored = [each for each in self._store.datasets(market) if MINUTE % each.resolution == 0]
        return max(stored, key=lambda each: each.resolution, default=None)


def _names(market: Market, fold: bool = False) -> tuple[str, ...]:
    names = tuple(getattr(market, name) for name in PARTS)
    return tuple(name.casefold() for name in names) if fold else names


def batch(candles: Candles | None, size: int) -> Batches:
    """Every `size` candles as one, whatever minutes are missing; sums are made in order, so that every bit is Gekko's.

    vwp is the volume-weighted mean of the candles' own (the close where there is none), or the open without volume.
    """
    count = 0 if candles is None else len(candles) // size
    if candles is None or not count:
        return {name: np.empty(0, np.int64 if name in ("start", "trades") else float)
                for name in ("start", "open", "high", "low", "close", "vwp", "volume", "trades")}
    table = {name: column[: count * size].reshape(count, size) for name, column in candles.columns().items()}
    volume, close = table["volume"], table["close"]
    vwp = table.get("vwp", close)
    vwp = np.where(np.isfinite(vwp), vwp, close)
    trades = np.nan_to_num(table.get("trades", np.zeros((count, size))))
    value, total, number = (np.cumsum(each, axis=1)[:, -1] for each in (vwp * volume, volume, trades))  # one by one
    opened = table["open"][:, 0].copy()
    with np.errstate(all="ignore"):
        mean = np.where(total != 0, value / total, opened)
    whole = number.astype(np.int64)
    return {"start": table["time"][:, 0] // times.SECOND, "open": opened, "high": table["high"].max(axis=1),
            "low": table["low"].min(axis=1), "close": close[:, -1].copy(), "vwp": mean, "volume": total,
            "trades": whole if (whole == number).all() else number}
