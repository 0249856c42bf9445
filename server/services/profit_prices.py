"""What a bot's symbols were worth: closes of the candle store, held as columns. Everything here blocks: use threads.

A price at an instant is the close of the last bar that had ended by then, from the finest resolution that has one not
older than `STALE` of its bars. To value what is held any last close will do: markets sleep at night.
"""

import threading
import time as clock
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from engine import times
from engine.calendars import Calendar, calendar_of
from engine.candle_store import CandleStore, Dataset
from engine.errors import WorkbenchError
from engine.model import Market
from engine.pnl_fills import Fills, Key
from engine.pnl_symbols import markets_of

__all__ = ["STALE", "Prices"]

STALE: Final = 3
"""Bars after whose end a close no longer prices an order."""
KEPT: Final = 4_000_000
"""Closes in memory, 16 bytes each."""
TRUSTED: Final = 1.0
"""Seconds for which the list of stored markets is not looked at again, unless a change was heard of."""


class Prices:
    """Closes of one candle store, for any thread."""

    def __init__(self, store: CandleStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._closes: OrderedDict[tuple[str, int], tuple[str, int, np.ndarray, np.ndarray]] = OrderedDict()
        self._datasets: dict[Market, list[Dataset]] = {}
        self._looked = -1e9
        self._sources: dict[Key, list[Market]] = {}

    def changed(self) -> None:
        """Some candles came or went."""
        self._looked = -1e9

    def markets(self, key: Key) -> list[Market]:
        """The stored markets that can price a key, the best first."""
        self._look()
        found = self._sources.get(key)
        if found is None:
            found = self._sources[key] = markets_of(key[1], key[0], self._datasets)
        return found

    def at(self, key: Key, instants: Sequence[int]) -> np.ndarray:
        """Prices (float64) for orders at these instants (microseconds); NaN where none is known."""
        time = np.asarray(instants, np.int64)
        price = np.full(len(time), np.nan)
        for market in self.markets(key)[:3]:
            for dataset in self._stored(market):
                missing = np.isnan(price)
                if not missing.any():
                    return price
                ended, closes = self._columns(dataset, int(time.min()))
                place = np.searchsorted(ended, time, side="right") - 1
                near = (place >= 0) & missing
                near[near] = time[near] - ended[place[near]] <= STALE * dataset.resolution * times.SECOND
                price[near] = closes[place[near]]
        return price

    def marks(self, fills: Fills, time: np.ndarray) -> dict[Key, np.ndarray]:
        """What each key of the fills was worth along `time`: the last close that is younger than the last fill, NaN
        where there is none."""
        columns = fills.columns()
        found = {}
        for number, key in enumerate(fills.keys):
            filled = columns["time"][columns["key"] == number]
            if not len(filled):
                continue
            mark, when = self._last(key, time, int(filled[0]))
            last = np.searchsorted(filled, time, side="right") - 1
            mark[(last < 0) | (when <= filled[np.maximum(last, 0)])] = np.nan
            found[key] = mark
        return found

    def latest(self, key: Key, since: int, now: int) -> tuple[float, int] | None:
        """The last close by now of a bar that ended after `since`, and when."""
        mark, when = self._last(key, np.array([now], np.int64), since)
        return None if np.isnan(mark[0]) or when[0] <= since else (float(mark[0]), int(when[0]))

    def calendar(self, keys: Collection[Key]) -> Calendar | None:
        """When the market of the first key that has candles trades; None when there are none."""
        for key in keys:
            for market in self.markets(key)[:1]:
                for dataset in self._stored(market)[-1:]:
                    ended, _ = self._columns(dataset, dataset.first)
                    return calendar_of(ended - dataset.resolution * times.SECOND, dataset.resolution)
        return None

    def _last(self, key: Key, time: np.ndarray, since: int) -> tuple[np.ndarray, np.ndarray]:
        """The last close before each instant, and when its bar ended: of the resolution whose bar ended last."""
        mark, when = np.full(len(time), np.nan), np.full(len(time), np.iinfo(np.int64).min)
        for market in self.markets(key)[:1]:
            for dataset in self._stored(market):
                ended, closes = self._columns(dataset, since)
                place = np.searchsorted(ended, time, side="right") - 1
                there = place >= 0
                there[there] = ended[place[there]] > when[there]
                mark[there], when[there] = closes[place[there]], ended[place[there]]
        return mark, when

    def _look(self) -> None:
        if clock.monotonic() - self._looked < TRUSTED:
            return
        with self._lock:
            if clock.monotonic() - self._looked < TRUSTED:
                return
            found: dict[Market, list[Dataset]] = {}
            for dataset in self._store.datasets():
                found.setdefault(dataset.market, []).append(dataset)
            if found.keys() != self._datasets.keys():
                self._sources = {}
            self._datasets = found
            self._looked = clock.monotonic()

    def _stored(self, market: Market) -> list[Dataset]:
        """What is stored of a market, the finest resolution first."""
        return sorted(self._datasets.get(market, ()), key=lambda dataset: dataset.resolution)

    def _columns(self, dataset: Dataset, since: int) -> tuple[np.ndarray, np.ndarray]:
        """When bars ended (int64 microseconds, ascending) and their closes, from a little before `since` on."""
        name = (dataset.market.key, dataset.resolution)
        width = dataset.resolution * times.SECOND
        stamp = self._store.stamp(dataset.market)
        with self._lock:
            known = self._closes.get(name)
            if known is not None and known[0] == stamp and known[1] <= since:
                self._closes.move_to_end(name)
                return known[2], known[3]
        start = since - max(31 * times.DAY, 10 * width)
        try:
            candles = self._store.read(dataset.market, dataset.resolution, start)
            ended, closes = candles.time + width, candles.close
        except WorkbenchError:  # nothing that young, or deleted meanwhile
            ended, closes = np.empty(0, np.int64), np.empty(0)
        with self._lock:
            self._closes[name] = (stamp, start + max(10 * width, times.DAY), ended, closes)
            self._closes.move_to_end(name)
            while len(self._closes) > 1 and sum(len(each[2]) for each in self._closes.values()) > KEPT:
                self._closes.popitem(last=False)
        return ended, closes
