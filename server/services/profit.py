"""Profit of bots, live: what their orders earned, at the prices of the candle store.

The orders of a model are read when its profit is first asked for; from then on its book grows by the orders of
committed events. A late or changed order is put in its place, or, when that is far back, everything is computed anew;
so it is when candles arrive that change the price of an order. Books are kept of the models asked for lately, figures
of all. Everything is computed in threads, and only when somebody asks, or follows; but the books of those with many
orders are begun at the start.
"""

import asyncio
import logging
import time as clock
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, delete, func, select

from engine import times
from engine.candle_store import CandleStore
from engine.errors import NotFound, WorkbenchError
from engine.model import Event, Market
from engine.pnl_figures import Figures
from server.services.profit_book import BATCH, Book, look, order_batch, order_of_event
from server.services.profit_prices import Prices
from server.services.profit_views import View, figures_json
from server.store.database import Database, Subscriber
from server.store.encoding import decode
from server.store.events import EventLog, Span
from server.store.tables import events
from server.store.tables.activity import models

__all__ = ["Figures", "Profit", "stream_of"]

BOOKS: Final = 1000
FILLS: Final = 1_000_000
"""Books in memory, and fills in all of them, before those asked for longest ago are dropped."""
FIGURES: Final = 20_000
"""Models whose figures are remembered."""
MANY: Final = 15_000
"""Orders of a model from which on its book takes so long that it is made before somebody asks."""
TICK: Final = 0.2
EVERY: Final = 1.0
"""Seconds between two events of a followed model."""
TRUSTED: Final = 60.0
"""Seconds after which marks are looked up again although no change was heard of."""
KEPT: Final = 500
"""Events kept of a model's profit."""
_TYPES: Final = ("order", "auto-pnl", "pnl")
_PAGE: Final = 1000

T = TypeVar("T")
log = logging.getLogger("workbench.profit")


def stream_of(model: str) -> str:
    """The stream of a model's profit while it is followed: type "profit"."""
    return f"model/{model}/profit"


@dataclass(eq=False, slots=True)
class _Known:
    """What is known of a model. `heard` counts what may have changed it, `seen` is that count when its figures were
    begun; `stale`: build its book anew."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    figures: Figures | None = None
    heard: int = 0
    seen: int = -1
    stale: bool = False
    day: int = -1
    looked: float = 0.0
    told: float = -1e9
    shown: Figures | None = None


class Profit(Subscriber):
    """How models fare. Raises `NotFound` for a model that is not there."""

    def __init__(self, *, db: Database, events: EventLog, store: CandleStore,
                 now: Callable[[], int] = lambda: times.micros(times.now())) -> None:
        self._db = db
        self._events = events
        self._now = now
        self.prices = Prices(store)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="profit")
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._books: OrderedDict[str, Book] = OrderedDict()
        self._moved: list[tuple[str, Mapping[str, Any]]] = []
        self._gone: set[str] = set()
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._asked = asyncio.Event()
        self._watched: dict[str, int] = {}
        self._behind = False
        self._last = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._last = await self._events.last_id()
        self._db.subscribe(self)
        for model in await self._db.read(_busiest):
            self._wanted.setdefault(model)
            self._asked.set()
        self._tasks = [asyncio.create_task(self._tick(), name="profit"),
                       asyncio.create_task(self._compute(), name="profit-background")]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.get_running_loop().run_in_executor(None, lambda: self._threads.shutdown(cancel_futures=True))

    # -- asking

    async def figures(self, model: str) -> Figures:
        """How a model fares now."""
        known = self._of(model)
        if self._is_fresh(known):
            assert known.figures is not None
            return known.figures
        await self.ask(model, lambda view: None, remember=True)
        assert known.figures is not None
        return known.figures

    def known(self, model: str) -> tuple[Figures | None, bool]:
        """What is known of a model without waiting, and whether it is as new as can be; if not it soon will be."""
        known = self._of(model)
        fresh = self._is_fresh(known)
        if not fresh:
            self._wanted.setdefault(model)
            self._asked.set()
        return known.figures, fresh

    async def ask(self, model: str, work: Callable[[View], T], *, remember: bool = False) -> T:
        """What `work` makes, in a thread, of the model's book brought up to date; `remember` its figures too."""
        known = self._of(model)
        async with known.lock:
            remember = remember and not self._is_fresh(known)
            heard = known.heard  # whatever is heard from now on makes the figures old
            book, points = await self._bring(model, known)
            view = View(book=book, prices=self.prices, now=self._now(), points=points)
            if remember:
                known.figures = await self._thread(view.figures)
                known.seen, known.day, known.looked = heard, view.now // times.DAY, clock.monotonic()
            return await self._thread(work, view)

    async def follow(self, model: str, after: int | None = None) -> AsyncIterator[Event]:
        """Events of type "profit" when a model's figures change, at most one a second; from now on, or after a
        number."""
        stream = stream_of(model)
        if after is None:
            query = select(func.coalesce(func.max(events.c.seq), 0)).where(events.c.stream == stream)
            after = int(await self._db.read(lambda connection: connection.execute(query).scalar_one()))
        self._watched[model] = self._watched.get(model, 0) + 1
        self._of(model).shown = None  # a new follower hears how it stands
        try:
            async for event in self._events.follow(stream, after):
                yield event
        finally:
            self._watched[model] -= 1
            if not self._watched[model]:
                del self._watched[model]

    # -- inside: what is known

    def _of(self, model: str) -> _Known:
        known = self._known.get(model)
        if known is None:
            known = self._known[model] = _Known()
            while len(self._known) > FIGURES:
                gone, _ = self._known.popitem(last=False)
                self._books.pop(gone, None)
        return known

    def _is_fresh(self, known: _Known) -> bool:
        return (known.seen == known.heard and known.figures is not None and known.day == self._now() // times.DAY
                and clock.monotonic() - known.looked < TRUSTED)

    async def _thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args))

    async def _bring(self, model: str, known: _Known) -> tuple[Book, Sequence[tuple[int, float]] | None]:
        """The model's book with everything that is committed, and its reported series."""
        stale, known.stale = known.stale, False
        book = None if stale else self._books.get(model)
        if book is not None and book.ledger.unpriced and clock.monotonic() - known.looked > TRUSTED and (
                await self._thread(book.priceable)):
            book = None
        while True:
            seen = await self._db.read(partial(look, model=model, after=book.seq if book else None))
            if seen is None:
                self._forget(model)
                raise NotFound(f"there is no model {model[:128]!r}", field="id")
            last, page, more, points = seen
            if book is None:
                book = await self._build(model)
                book.seq = last
                if book.disordered:
                    book = await self._build(model, sorted_whole=True)
                    book.seq = last
                continue
            if page and not await self._thread(book.take, [order_of_event(data) for data in page]):
                book = None
                continue
            book.seq = last
            if not more:
                break
        self._keep(model, book)
        return book, points

    async def _build(self, model: str, *, sorted_whole: bool = False) -> Book:
        book = Book(self.prices, sorted_whole=sorted_whole)
        after: tuple[int, str] | None = None
        while not book.disordered:
            rows = await self._db.read(partial(order_batch, model=model, after=after))
            await self._thread(book.feed, rows)
            if len(rows) < BATCH:
                break
            after = rows[-1][0], rows[-1][1]
        await self._thread(book.finish)
        return book

    def _keep(self, model: str, book: Book) -> None:
        self._books[model] = book
        self._books.move_to_end(model)
        fills = sum(len(each.ledger.known) for each in self._books.values()) if len(self._books) > 1 else 0
        while len(self._books) > 1 and (len(self._books) > BOOKS or fills > FILLS):
            _, gone = self._books.popitem(last=False)
            fills -= len(gone.ledger.known)

    def _forget(self, model: str) -> None:
        self._known.pop(model, None)
        self._books.pop(model, None)

    # -- inside: hearing

    def committed(self, items: Sequence[Any]) -> None:
        for item in items:
            if isinstance(item, Span):
                for stream in item.streams:
                    self._old(stream)
            elif isinstance(item, str):
                if item.startswith("model/") and not item.endswith(("/log", "/profit")):
                    self._gone.add(item.removeprefix("model/"))
            else:
                event = item[0]
                self._hear(event.stream, event.type, event.data)

    def heard(self) -> None:
        self._behind = True

    def _hear(self, stream: str, type: str, data: Mapping[str, Any]) -> None:
        if stream.startswith("model/"):
            if type in _TYPES:
                self._old(stream)
        elif stream.startswith("market/") and type in ("candles", "deleted"):
            self.prices.changed()
            self._moved.append((type, data))

    def _old(self, stream: str) -> None:
        known = self._known.get(stream.removeprefix("model/"))
        if known is not None:
            known.heard += 1

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                if self._behind:
                    await self._catch_up()
                if self._moved:
                    moved, self._moved = self._moved, []
                    self.prices.changed()
                    self._take_moves(moved)
                while self._gone:
                    await self._remove(self._gone.pop())
                for model in list(self._watched):
                    await self._tell(model)
            except WorkbenchError as error:
                log.warning("profit waits: %s", error)
            except Exception:
                log.exception("profit cannot be told")

    async def _catch_up(self) -> None:
        """What other processes committed."""
        self._behind = False
        after = self._last
        query = select(events.c.id, events.c.stream, events.c.type, events.c.data).where(
            events.c.id > after, events.c.type.in_((*_TYPES, "candles", "deleted"))).order_by(events.c.id).limit(
            20 * _PAGE)
        newest = select(func.coalesce(func.max(events.c.id), 0))
        rows, last = await self._db.read(lambda connection: (
            connection.execute(query).all(), connection.execute(newest).scalar_one()))
        for row in rows:
            self._hear(row.stream, row.type, decode(row.data) if row.type in ("candles", "deleted") else {})
        self._behind = self._behind or len(rows) == 20 * _PAGE
        self._last = max(self._last, rows[-1].id if len(rows) == 20 * _PAGE else last)

    def _take_moves(self, moved: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Candles came or went: who is valued by them is looked at again, and who was priced by them computed anew."""
        spans: dict[tuple[str, int], tuple[int, int]] = {}
        for type, data in moved:
            name = data.get("resolution")
            if type == "deleted" or name is None or data.get("first") is None:
                span, width = (-(2**62), 2**62), 1
            else:
                span = (times.micros(times.parse(data["first"])), times.micros(times.parse(data["last"])))
                width = times.resolution(name)
            first, last = spans.get((data["market"], width), span)
            spans[data["market"], width] = min(first, span[0]), max(last, span[1])
        for (key, width), (first, last) in spans.items():
            market = Market.parse(key)
            for model, known in self._known.items():
                book = self._books.get(model)
                if book is None:  # nobody knows what it was valued by
                    known.heard += 1
                elif book.holds(market):
                    known.heard += 1
                    known.stale = known.stale or book.touched(market, first, last, width)

    async def _remove(self, model: str) -> None:
        """A model is no more: neither are the events of its profit."""
        self._forget(model)

        def work(connection: Connection) -> None:
            if connection.execute(select(models.c.id).where(models.c.id == model)).first() is None:
                self._events.delete(connection, stream_of(model))

        await self._db.write(work)

    # -- inside: telling

    async def _tell(self, model: str) -> None:
        """An event for those who follow a model, when its figures changed."""
        known = self._of(model)
        if clock.monotonic() - known.told < EVERY or (known.shown is not None and self._is_fresh(known)):
            return
        try:
            figures = await self.figures(model)
        except NotFound:
            return
        known.told = clock.monotonic()
        before, known.shown = known.shown, figures
        data = {"model": model, "at": times.iso(figures.at)} | figures_json(figures)
        if before is not None and figures_json(before) == figures_json(figures):
            return

        def work(connection: Connection) -> None:
            event = self._events.append(connection, stream_of(model), "profit", data)
            if event.seq % KEPT == 0:  # they are worth nothing once they are old
                connection.execute(delete(events).where(events.c.stream == event.stream,
                                                        events.c.seq <= event.seq - KEPT))

        await self._db.write(work)

    async def _compute(self) -> None:
        """What somebody asked for without waiting. What is only refreshed leaves the processor half of the time."""
        while True:
            await self._asked.wait()
            while self._wanted:
                model, _ = self._wanted.popitem(last=False)
                known, began = self._of(model), clock.monotonic()
                first = known.figures is None
                try:
                    await self.figures(model)
                except NotFound:
                    continue
                except WorkbenchError as error:
                    log.warning("the profit of a model cannot be told now: %s", error)
                    await asyncio.sleep(EVERY)
                except Exception:
                    log.exception("the profit of a model cannot be told")
                if not first:
                    await asyncio.sleep(min(clock.monotonic() - began, EVERY))
            self._asked.clear()


def _busiest(connection: Connection) -> list[str]:
    """The models with `MANY` orders, those heard last first, as many as books are kept of."""
    room, found = FILLS, []
    query = select(models.c.id, models.c.orders).where(models.c.orders >= MANY).order_by(
        models.c.heard_at.desc().nulls_last(), models.c.id)
    for row in connection.execute(query):
        room -= row.orders
        if room < 0:
            break
        found.append(row.id)
    return found
