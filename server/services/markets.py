"""Market data: what is stored, candles of a range, uploads, deletion, quality. Files are touched in threads only."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Final, ParamSpec, TypeVar

from engine import times
from engine.candle_columns import Target
from engine.candle_files import read_bytes
from engine.candle_store import CandleStore, Dataset, WriteReport
from engine.candles import Candles
from engine.downsample import fewer_candles
from engine.errors import Invalid, TooLarge
from engine.model import Market
from engine.quality import Quality
from server.store.database import Database
from server.store.events import EventLog

__all__ = ["MAX_ROWS", "CandlePage", "Markets", "stream_of"]

MAX_ROWS: Final = 20_000_000  # bars in one upload
MOST_READ: Final = 5_000_000  # bars in one answer
_THREADS: Final = 4
_UPLOADS: Final = 2  # at a time: each holds its body and its columns in memory

P = ParamSpec("P")
T = TypeVar("T")


def stream_of(market: Market) -> str:
    """The stream that tells of changes to a market's candles."""
    return f"market/{market.key}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CandlePage:
    """Candles, and the open (microseconds) of the bar that comes after them when there are more."""

    candles: Candles
    next: int | None = None


class Markets:
    """The candle store for coroutines. Changes are told on `stream_of(market)`: type "candles" with market, resolution,
    added, replaced, first and last; type "deleted" with market, resolution and rows. Raises the store's errors."""

    def __init__(self, *, store: CandleStore, db: Database, events: EventLog, max_rows: int = MAX_ROWS) -> None:
        self.store = store
        self._db = db
        self._events = events
        self._max_rows = max_rows
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="candles")
        self._uploads = asyncio.Semaphore(_UPLOADS)

    async def close(self) -> None:
        """Let what has begun end; what is queued is dropped."""
        await asyncio.get_running_loop().run_in_executor(None, lambda: self._threads.shutdown(cancel_futures=True))

    # -- looking

    async def list(self, market: Market | None = None) -> list[Dataset]:
        """Every stored dataset, or those of one market, in order of market and resolution."""
        return await self._run(self.store.datasets, market)

    async def resolve(self, text: str) -> Market:
        """The market a person means; see `CandleStore.resolve`."""
        return await self._run(self.store.resolve, text)

    async def stamp(self, market: Market) -> str:
        """A text that changes whenever the market's candles change."""
        return await self._run(self.store.stamp, market)

    async def read(self, market: Market, resolution: int, start: int | None = None, end: int | None = None) -> Candles:
        """All bars that open from `start` to `end` (microseconds, inclusive)."""
        return await self._run(self.store.read, market, resolution, start, end)

    async def candles(self, market: Market, resolution: int, start: int | None = None, end: int | None = None, *,
                      points: int | None = None, limit: int | None = None, cursor: int | None = None) -> CandlePage:
        """The bars of a range: all, at most `limit` from `cursor` on, or gathered into at most `points` coarser ones.

        Raises `TooLarge` when neither is given and the range holds more than five million bars.
        """
        if points is not None and (limit is not None or cursor is not None):
            raise Invalid("points and limit exclude each other", field="points", remedy="give one of them")
        return await self._run(self._candles, market, resolution, start, end, points, limit, cursor)

    async def quality(self, market: Market, resolution: int, start: int | None = None,
                      end: int | None = None) -> Quality:
        """What is good and bad about the bars of a range."""
        return await self._run(lambda: self.store.read(market, resolution, start, end).quality())

    # -- changing

    async def write(self, candles: Candles, overwrite: bool = False) -> WriteReport:
        """Merge bars into the store and tell of it. Returns when they are safe on disk."""
        report = await self._run(self.store.write, candles, overwrite)
        if report.added or report.replaced:
            await self._tell(candles.market, "candles", {
                "market": candles.market.key, "resolution": times.resolution_name(candles.resolution),
                "added": report.added, "replaced": report.replaced,
                "first": times.iso(int(candles.time.min())), "last": times.iso(int(candles.time.max())),
            })
        return report

    async def upload(self, market: Market, body: IO[bytes] | bytes, form: str, *, resolution: int | None = None,
                     overwrite: bool = False) -> tuple[Candles, WriteReport]:
        """Parse a body (`form` as in `engine.candle_files`, "" to look at it) and store all of it or nothing."""
        target = Target(exchange=market.exchange, asset=market.asset, currency=market.currency)

        def parse() -> Candles:
            data = body if isinstance(body, bytes) else _whole(body)
            (candles,) = read_bytes(data, form, target, resolution=resolution, max_rows=self._max_rows)
            return candles

        async with self._uploads:
            candles = await self._run(parse)
            return candles, await self.write(candles, overwrite)

    async def delete(self, market: Market, resolution: int | None = None) -> int:
        """Remove one stored resolution, or all; the number of bars removed."""
        rows = await self._run(self.store.delete, market, resolution)
        name = None if resolution is None else times.resolution_name(resolution)
        await self._tell(market, "deleted", {"market": market.key, "resolution": name, "rows": rows})
        return rows

    # -- inside

    async def _tell(self, market: Market, type: str, data: dict[str, Any]) -> None:
        await self._db.write(lambda connection: self._events.append(connection, stream_of(market), type, data))

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def _candles(self, market: Market, resolution: int, start: int | None, end: int | None, points: int | None,
                 limit: int | None, cursor: int | None) -> CandlePage:
        if cursor is not None:
            start = cursor if start is None else max(start, cursor)
        if limit is not None:
            return self._page(market, resolution, start, end, limit)
        if points is None:
            source = self.store.source(market, resolution, start, end)
            dataset = next(d for d in self.store.datasets(market) if d.resolution == source)
            if dataset.rows > MOST_READ:  # then it is worth reckoning what the range holds
                reach = min(dataset.last, end or dataset.last) - max(dataset.first, start or dataset.first)
                if reach // (resolution * times.SECOND) > MOST_READ:
                    raise TooLarge(f"the range may hold more than {MOST_READ} bars", field="limit",
                                   remedy="ask for a shorter range, or give limit and follow the cursor, or points")
        candles = self.store.read(market, resolution, start, end)
        return CandlePage(candles=candles if points is None else fewer_candles(candles, points))

    def _page(self, market: Market, resolution: int, start: int | None, end: int | None, limit: int) -> CandlePage:
        """At most `limit` bars, reading little more of the files than they need."""
        width = resolution * times.SECOND
        source = self.store.source(market, resolution, start, end)
        dataset = next(d for d in self.store.datasets(market) if d.resolution == source)
        final = dataset.last if end is None else end
        begin = dataset.first - width if start is None else start
        reach = 2 * (limit + 1) * width
        while True:
            stop = min(final, max(begin, dataset.first) + reach)
            try:
                candles = self.store.read(market, resolution, begin, stop)
            except Invalid:
                if stop >= final:
                    # Nothing at all: the store says it of the range that was asked for.
                    candles = self.store.read(market, resolution, start, end)
            else:
                if len(candles) > limit:
                    return CandlePage(candles=candles.take(slice(0, limit)), next=int(candles.time[limit]))
                if stop >= final:
                    return CandlePage(candles=candles)
            if stop >= final:
                return CandlePage(candles=candles.take(slice(0, limit)))
            reach *= 8


def _whole(body: IO[bytes]) -> bytes:
    body.seek(0)
    return body.read()
