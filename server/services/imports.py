"""Imports: minutes of a market fetched from an exchange into the candle store, one after another for each market.

An import is a row with a position: all before it is stored. Candles are written first, then the position, so that an
import that was cut off (cancelled, failed, the server stopped) goes on where it was and loses nothing; a minute that
is stored already stays as it is.

    queued -> running -> completed | failed | cancelled;   failed | cancelled -> queued (resume)

Events on `import/{id}`: "created" and "state" {state, error?, import} and "progress" {import, latest}.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from engine import times
from engine.candle_store import CandleStore
from engine.errors import Busy, Conflict, Invalid, NotFound, Unavailable, WorkbenchError
from engine.minutes import WIDTH, Minute, candles_of
from engine.model import Event, Market
from server.exchanges.directory import Exchanges
from server.services.markets import stream_of as market_stream
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import instances

__all__ = ["STATES", "Import", "Imports", "stream_of"]

State = Literal["queued", "running", "completed", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = ("queued", "running", "completed", "failed", "cancelled")
OVER: Final = frozenset({"completed", "failed", "cancelled"})
MOST_WAITING: Final = 200  # queued and running ones
EARLIEST: Final = 1_000_000_000  # seconds: no exchange of ours is older than September 2001
LATEST: Final = 7_258_118_400
STALLS: Final = 3  # times that nothing came before the newest minutes are given up
STALL: Final = 5.0  # seconds between them
_IMPORTS: Final = instances.imports
log = logging.getLogger("workbench.imports")


def stream_of(id: str) -> str:
    return f"import/{id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One import. `end` is exclusive; `position`: all before it is stored or does not exist; `latest`: of the newest
    trade or candle received; `added`: minutes new to the store; `missing`: minutes that the exchange does not have.
    `request` is what the client said, word for word."""

    id: str
    market: Market
    state: State
    start: datetime
    end: datetime
    position: datetime
    latest: datetime | None
    added: int
    missing: int
    request: Mapping[str, Any]
    dialect: str
    owner: str
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def progress(self) -> float:
        """A fraction 0..1 of the time that was asked for."""
        return (self.position - self.start) / (self.end - self.start) if self.end > self.start else 0.0


class Imports:
    """Starts, lists, cancels and resumes imports, and runs them."""

    def __init__(self, *, db: Database, events: EventLog, store: CandleStore, exchanges: Exchanges,
                 stall: float = STALL) -> None:
        self._db = db
        self._events = events
        self._store = store
        self._exchanges = exchanges
        self._stall = stall
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._markets: dict[str, asyncio.Lock] = {}
        self._at_work = False

    async def start(self) -> None:
        """Go on with what a former life of the server began. Before, what is submitted waits."""
        self._at_work = True
        await self.look()

    async def look(self) -> None:
        """Begin and end what other servers were asked for."""
        query = select(_IMPORTS).where(_IMPORTS.c.state.in_(("queued", "running"))).order_by(
            _IMPORTS.c.created_at, _IMPORTS.c.id)
        before = dict(self._tasks)
        rows = await self._db.read(lambda connection: connection.execute(query).all())
        for row in rows:
            if row.id not in self._tasks:
                self._begin(_import(row))
        for id in before.keys() - {row.id for row in rows}:
            before[id].cancel()  # not one that was begun anew meanwhile

    async def close(self) -> None:
        """Stop where it is; the next start goes on from there."""
        self._at_work = False
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- look

    async def get(self, id: str) -> Import:
        return _import(await self._db.read(lambda connection: _fetch(connection, id)))

    async def list(self, *, states: Sequence[str] | None = None, market: Market | None = None,
                   limit: int = 1000) -> list[Import]:
        """The newest ones, newest first."""
        query = select(_IMPORTS).order_by(_IMPORTS.c.created_at.desc(), _IMPORTS.c.id.desc()).limit(limit)
        if states is not None:
            query = query.where(_IMPORTS.c.state.in_(states))
        if market is not None:
            query = query.where(_IMPORTS.c.market == market.key)
        return await self._db.read(lambda connection: [_import(row) for row in connection.execute(query)])

    async def follow(self, id: str, after: int = 0) -> AsyncIterator[Event]:
        """The import's events with seq > after, as they come; an import may go on after it ended."""
        await self.get(id)
        async for event in self._events.follow(stream_of(id), after):
            yield event

    # -- change

    async def submit(self, market: Market, start: int, end: int, *, request: Mapping[str, Any], dialect: str = "native",
                     owner: str = "", lenient: bool = False) -> Import:
        """Start an import of the minutes from `start` to before `end` (seconds). It waits while another one of the same
        market runs. Raises `Invalid` for a senseless range, unless `lenient`: then the import is made, and fails;
        `Busy` when too many wait."""
        start, end = start // WIDTH * WIDTH, end // WIDTH * WIDTH
        if end <= start and not lenient:
            raise Invalid("this range does not make sense: it ends before it begins", field="end",
                          remedy="give an end that is later than the start")
        if start >= self._exchanges.clock():
            raise Invalid("this range is in the future", field="start", remedy="give an earlier start")
        if not (EARLIEST <= start <= LATEST and EARLIEST <= end <= LATEST):
            raise Invalid("this range is far from all candles", field="start",
                          remedy="a number means milliseconds since 1970")
        now = times.micros(times.now())
        id = f"{secrets.randbelow(10**15):015d}"
        row = {"id": id, "market": market.key, "state": "queued", "start_at": start * times.SECOND,
               "end_at": end * times.SECOND, "position_at": start * times.SECOND, "added": 0, "missing": 0,
               "request": encode(dict(request), field="request"), "dialect": dialect, "owner": owner,
               "created_at": now, "updated_at": now}

        def work(connection: Connection) -> Import:
            waiting = select(func.count()).where(_IMPORTS.c.state.in_(("queued", "running")))
            if connection.execute(waiting).scalar_one() >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} imports are waiting", remedy="wait until some are done, or cancel some")
            connection.execute(insert(_IMPORTS), row)
            made = _import(_fetch(connection, id))
            self._events.append(connection, stream_of(id), "created", {"import": _facts(made)})
            return made

        made = await self._db.write(work)
        self._begin(made)
        return made

    async def cancel(self, id: str) -> Import:
        """Stop an import; what it stored stays. Cancelling again changes nothing; `Conflict` when it has ended."""

        def work(connection: Connection) -> Import:
            row = _fetch(connection, id)
            if row.state in ("completed", "failed"):
                raise Conflict(f"the import has already {row.state}",
                               remedy="only queued and running ones are cancelled")
            return _import(row) if row.state == "cancelled" else self._turn(connection, id, "cancelled")

        found = await self._db.write(work)
        if (task := self._tasks.get(id)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return found

    async def resume(self, id: str) -> Import:
        """Go on with an import that was cancelled or failed, where it stopped. `Conflict` for any other."""

        def work(connection: Connection) -> Import:
            row = _fetch(connection, id)
            if row.state not in ("failed", "cancelled"):
                raise Conflict(f"the import is {row.state}", remedy="only cancelled and failed ones are resumed")
            return self._turn(connection, id, "queued")

        found = await self._db.write(work)
        self._begin(found)
        return found

    async def delete(self, id: str) -> None:
        """Forget an import that has ended; its candles stay."""

        def work(connection: Connection) -> None:
            if _fetch(connection, id).state not in OVER:
                raise Conflict("the import is running", remedy="cancel it first")
            connection.execute(delete(_IMPORTS).where(_IMPORTS.c.id == id))
            self._events.delete(connection, stream_of(id))

        await self._db.write(work)

    # -- run

    def _begin(self, made: Import) -> None:
        running = self._tasks.get(made.id)
        if not self._at_work or (running is not None and not running.done()):
            return
        task = self._tasks[made.id] = asyncio.create_task(self._run(made), name=f"import {made.id}")

        def ended(_: Any) -> None:
            if self._tasks.get(made.id) is task:
                del self._tasks[made.id]

        task.add_done_callback(ended)

    async def _run(self, made: Import) -> None:
        try:
            async with self._markets.setdefault(made.market.key.casefold(), asyncio.Lock()):
                await self._db.write(lambda connection: self._turn(connection, made.id, "running", only=("queued",
                                                                                                        "running")))
                missing = await self._fetch_all(made)
                await self._db.write(lambda connection: self._turn(connection, made.id, "completed", only=("running",)))
                log.info("import completed", extra={"facts": {"import": made.id, "market": made.market.key,
                                                              "missing": missing}})
        except asyncio.CancelledError:
            raise
        except WorkbenchError as error:
            await self._fail(made, str(error))
        except Exception as error:
            log.error("an import broke", exc_info=error, extra={"facts": {"import": made.id}})
            await self._fail(made, "something went wrong inside the workbench; see the server's log")

    async def _fail(self, made: Import, words: str) -> None:
        # The database is away: the next start goes on with it. Or it has ended meanwhile, or is no more.
        with suppress(Unavailable, Conflict, NotFound):
            await self._db.write(lambda connection: self._turn(connection, made.id, "failed", error=words,
                                                               only=("queued", "running")))

    async def _fetch_all(self, made: Import) -> int:
        """Page after page; how many minutes there are not."""
        if made.end <= made.start:
            raise Invalid("This daterange does not make sense.")
        market = (await self._exchanges.listing(made.market)).market
        position, end = (times.micros(each) // times.SECOND for each in (made.position, made.end))
        end = min(end, self._exchanges.over())
        close = await asyncio.to_thread(self._close_before, market, position)
        stalls = missing = 0
        while position < end:
            page = await self._exchanges.page(market, position, end, close=close)
            if page.until <= position:
                stalls += 1
                if stalls > STALLS:  # the newest minutes had no trades, or have not come
                    break
                await asyncio.sleep(self._stall)
                continue
            stalls = 0
            added = await self._store_minutes(market, page.minutes) if page.minutes else 0
            if page.minutes:
                close = page.minutes[-1]["close"]
            position, missing = page.until, missing + page.missing
            await self._note(made.id, market, page.minutes, position, page.latest, added, page.missing)
        return missing

    def _close_before(self, market: Market, position: int) -> float | None:
        """The close of the minute before, if it is stored."""
        try:
            at = (position - WIDTH) * times.SECOND
            return float(self._store.read(market, WIDTH, at, at).close[-1])
        except (NotFound, Invalid):
            return None

    async def _store_minutes(self, market: Market, minutes: Sequence[Minute]) -> int:
        return (await asyncio.to_thread(self._store.write, candles_of(market, minutes))).added

    async def _note(self, id: str, market: Market, minutes: Sequence[Minute], position: int, latest: int | None,
                    added: int, missing: int) -> None:
        values: dict[str, Any] = {
            "position_at": position * times.SECOND, "added": _IMPORTS.c.added + added,
            "missing": _IMPORTS.c.missing + missing, "updated_at": times.micros(times.now())}
        if latest is not None:
            values["latest_at"] = latest * times.SECOND

        def work(connection: Connection) -> None:
            change = update(_IMPORTS).where(_IMPORTS.c.id == id, _IMPORTS.c.state == "running")
            if not connection.execute(change.values(**values)).rowcount:
                return  # cancelled meanwhile: what was stored stays, and is asked for again
            self._events.append(connection, stream_of(id), "progress",
                                {"import": _facts(_import(_fetch(connection, id)))})
            if added:
                self._events.append(connection, market_stream(market), "candles", {
                    "market": market.key, "resolution": "1m", "added": added, "replaced": 0,
                    "first": times.iso(int(minutes[0]["start"]) * times.SECOND),
                    "last": times.iso(int(minutes[-1]["start"]) * times.SECOND)})

        await self._db.write(work)

    def _turn(self, connection: Connection, id: str, state: State, *, error: str | None = None,
              only: Sequence[str] | None = None) -> Import:
        """Change the state inside a write. Raises `Conflict` when it is not one of `only`."""
        now = times.micros(times.now())
        if only is not None and (there := _fetch(connection, id).state) not in only:
            raise Conflict(f"the import is {there}")
        connection.execute(update(_IMPORTS).where(_IMPORTS.c.id == id).values(
            state=state, error=error, updated_at=now, finished_at=now if state in OVER else None))
        found = _import(_fetch(connection, id))
        self._events.append(connection, stream_of(id), "state", {
            "state": state, **({"error": error} if error else {}), "import": _facts(found)})
        return found


def _fetch(connection: Connection, id: str) -> Row[Any]:
    row = connection.execute(select(_IMPORTS).where(_IMPORTS.c.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no import {id[:40]!r}")
    return row


def _facts(found: Import) -> dict[str, Any]:
    """What an event says of an import."""
    return {"id": found.id, "market": found.market.key, "state": found.state, "progress": found.progress,
            "position": times.iso(found.position), "latest": None if found.latest is None else times.iso(found.latest),
            "added": found.added, "missing": found.missing}


def _import(row: Any) -> Import:
    def at(value: int | None) -> datetime | None:
        return None if value is None else times.instant(value)

    return Import(
        id=row.id, market=Market.parse(row.market), state=row.state, start=times.instant(row.start_at),
        end=times.instant(row.end_at), position=times.instant(row.position_at), latest=at(row.latest_at),
        added=row.added, missing=row.missing, request=row.request, dialect=row.dialect, owner=row.owner,
        error=row.error, created_at=times.instant(row.created_at), updated_at=times.instant(row.updated_at),
        finished_at=at(row.finished_at))
