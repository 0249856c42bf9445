"""The event log: every change has a numbered event, written in the same transaction, heard after the commit.

Events are numbered 1, 2, 3 … in each stream without holes, and in order of commit; a global id orders all streams.
`follow` is the one way to hear of changes: take the waiter first, then read everything after the position, then wait.
So a subscriber is a position, not a queue: a slow one costs an integer, misses nothing and holds up nobody.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Delete, String, Text, bindparam, delete, func, insert, select

from engine import times
from engine.errors import Invalid
from engine.model import Event
from server.store.bulk import insert_events, last_numbers
from server.store.database import Database, Subscriber
from server.store.encoding import decode, encode
from server.store.engines import driver
from server.store.tables import events
from server.store.tables.core import CHATTER
from server.store.tail import Tail

__all__ = ["EventLog", "Span"]

_logger: Final = logging.getLogger(__name__)

_PAGE: Final = 1000
_SCAN: Final = 100_000  # events among which those of a prefix are looked for in one read
_MANY: Final = 1000  # events of one transaction from which on they are not held for those who keep up
_RETRY: Final = 0.5  # seconds before a failed look at the log is repeated

_STREAM: Final = 200  # characters, as the columns have
_TYPE: Final = 64

_NEXT: Final = func.coalesce(func.max(events.c.seq), 0)
_APPEND: Final = insert(events).from_select(
    ["stream", "seq", "type", "at", "data"],
    select(bindparam("stream", type_=String), _NEXT + 1, bindparam("type", type_=String),
           bindparam("at", type_=BigInteger), bindparam("data", type_=Text))
    .where(events.c.stream == bindparam("stream", type_=String)),
).returning(events.c.id, events.c.seq)
# For SQLite's driver: it stands in nearly every request, and SQLAlchemy would take longer than SQLite. Two statements,
# because inserting what is read from the same table, and returning it, takes SQLite two tables more.
_LAST_SQLITE: Final = "SELECT coalesce(max(seq), 0) FROM events WHERE stream = ?"
_APPEND_SQLITE: Final = "INSERT INTO events (stream, seq, type, at, data) VALUES (?, ?, ?, ?, ?)"
_LAST_ID: Final = select(func.coalesce(func.max(events.c.id), 0))
_LAST_SEQ: Final = select(_NEXT).where(events.c.stream == bindparam("stream"))
# In the statement's text, not beside it: so the index of chatter is known to hold all that is looked for.
_OLD_TYPES: Final = events.c.type.in_(bindparam("types", CHATTER, expanding=True, literal_execute=True))
_COLUMNS: Final = (events.c.id, events.c.stream, events.c.seq, events.c.type, events.c.at, events.c.data)


@dataclass(frozen=True, slots=True)
class Span:
    """Events written together that are too many to be held in memory: their ids and streams."""

    first: int
    last: int
    count: int
    streams: frozenset[str]


class EventLog(Subscriber):
    """The log of one database. One per `Database`; use it on the loop the database was opened on."""

    def __init__(self, database: Database, *, tail: Tail | None = None) -> None:
        self._db = database
        self._tail = tail or Tail()
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._everything: set[asyncio.Future[None]] = set()
        self._catching_up: asyncio.Task[None] | None = None
        self._behind = False
        self._closed = False
        database.subscribe(self)

    # --- inside a write ---

    def append(self, connection: Connection, stream: str, type: str, data: Mapping[str, Any],
               at: datetime | None = None) -> Event:
        """Add one event inside a write; followers hear of it after the commit.

        `data` is a JSON object, or `encode(object)` made before. Raises `Invalid` when it cannot be JSON.
        """
        _check(stream, type)
        text = str(encode(data, field="data"))
        instant = times.micros(at or times.now())
        transaction = self._db.transaction(connection)
        if connection.dialect.name == "sqlite":
            raw, numbers = driver(connection), transaction.numbers
            seq = numbers[stream] + 1 if stream in numbers else raw.execute(
                _LAST_SQLITE, (stream,)).fetchone()[0] + 1
            id = raw.execute(_APPEND_SQLITE, (stream, seq, type, instant, text)).lastrowid
            numbers[stream] = seq
        else:
            id, seq = connection.execute(_APPEND, {
                "stream": stream, "type": type, "at": instant, "data": text}).one()
        event = Event(id=id, stream=stream, seq=seq, type=type, at=times.instant(instant), data=decode(text))
        transaction.staged.append((event, len(text)))
        return event

    def append_many(self, connection: Connection, stream: str, items: Sequence[tuple[str, Mapping[str, Any]]],
                    at: datetime | None = None) -> list[Event]:
        """Add many events, (type, data) each, to one stream inside a write; much cheaper than one at a time."""
        if not items:
            return []
        for type in {type for type, _ in items}:
            _check(stream, type)
        instant = times.micros(at or times.now())
        last = connection.execute(_LAST_SEQ, {"stream": stream}).scalar_one()
        rows: list[dict[str, Any]] = [
            {"stream": stream, "seq": seq, "type": type, "at": instant, "data": str(encode(data, field="data"))}
            for seq, (type, data) in enumerate(items, last + 1)
        ]
        connection.execute(insert(events), rows)
        self._db.transaction(connection).numbers.pop(stream, None)
        ids = connection.execute(
            select(events.c.id).where(events.c.stream == stream, events.c.seq > last).order_by(events.c.seq)).scalars()
        moment = times.instant(instant)
        made = [
            Event(id=id, stream=stream, seq=row["seq"], type=row["type"], at=moment, data=decode(row["data"]))
            for id, row in zip(ids.all(), rows, strict=True)
        ]
        self._db.stage(connection, *((event, len(row["data"])) for event, row in zip(made, rows, strict=True)))
        return made

    def append_all(self, connection: Connection, items: Sequence[tuple[str, str, Mapping[str, Any], str]],
                   at: datetime) -> list[int]:
        """Add many events to any streams inside a write; their numbers, each in its stream.

        An item is (stream, type, data, the JSON text of data), checked and encoded before the write: nothing here
        costs more than the rows themselves.
        """
        if not items:
            return []
        instant = times.micros(at)
        moment = times.instant(instant)
        for stream, type in {(item[0], item[1]) for item in items}:
            _check(stream, type)
        last = last_numbers(connection, {item[0] for item in items})
        numbers = self._db.transaction(connection).numbers
        rows: list[tuple[str, int, str, int, str]] = []
        for stream, type, _, text in items:
            last[stream] = seq = last[stream] + 1
            rows.append((stream, seq, type, instant, text))
        ids = insert_events(connection, rows)
        numbers |= last
        if len(ids) >= _MANY:
            self._db.stage(connection, Span(ids[0], ids[-1], len(ids), frozenset(last)))
            return [row[1] for row in rows]
        self._db.stage(connection, *[
            (Event(id=id, stream=row[0], seq=row[1], type=row[2], at=moment, data=item[2]), len(row[4]))
            for id, row, item in zip(ids, rows, items, strict=True)])
        return [row[1] for row in rows]

    def delete(self, connection: Connection, stream: str) -> int:
        """Delete a stream inside a write; returns how many events it had."""
        count = _delete(delete(events).where(events.c.stream == stream), connection)
        self._db.transaction(connection).numbers.pop(stream, None)
        self._db.stage(connection, stream)
        return count

    # --- reading ---

    async def page(self, stream: str, after: int = 0, limit: int = _PAGE,
                   types: Sequence[str] | None = None) -> list[Event]:
        """Up to `limit` committed events of a stream with seq > after, in order; only of `types` when given."""
        query = select(*_COLUMNS).where(events.c.stream == stream, events.c.seq > after)
        if types is not None:
            query = query.where(events.c.type.in_(types))
        return await self._fetch(query.order_by(events.c.seq).limit(limit))

    async def last_seq(self, stream: str) -> int:
        """The number of the newest committed event of a stream; 0 when it has none."""
        return int(await self._db.read(lambda connection: connection.execute(
            _LAST_SEQ, {"stream": stream}).scalar_one()))

    async def last_id(self) -> int:
        """The id of the newest committed event of all streams; 0 when there is none."""
        return await self._db.read(_last_id)

    async def follow(self, stream: str, after: int = 0) -> AsyncIterator[Event]:
        """Every event of a stream with seq > after: those that are there, then each new one after its commit.

        Never ends by itself (except when the database is closed). Loses and doubles nothing. Raises `Unavailable`
        when the database is away while old events must be read; go on later from the last seq received.
        """
        position = after
        while not self._closed:
            waiter = self._wait(stream)
            try:
                found = self._tail.of(stream, position)
                if found is None:
                    found = await self.page(stream, position)
                if not found:
                    await waiter
                    continue
            finally:
                self._leave(stream, waiter)
            for event in found:
                position = event.seq
                yield event

    async def follow_all(self, prefix: str = "", after_id: int | None = None) -> AsyncIterator[Event]:
        """Every event of all streams that begin with `prefix`, by id: those with id > after_id, then each new one.

        Without `after_id` it begins with the first event committed after the iteration began. Otherwise as `follow`.
        """
        position = await self._present() if after_id is None else after_id
        while not self._closed:
            waiter = self._wait(None)
            try:
                found = self._tail.since(position)
                if found is None:
                    found, seen = await self._page_all(prefix, position)
                else:
                    seen = found[-1].id if found else position
                    found = [event for event in found if event.stream.startswith(prefix)] if prefix else found
                if not found and seen == position:
                    await waiter
                    continue
            finally:
                self._leave(None, waiter)
            for event in found:
                position = event.id
                yield event
            position = max(position, seen)

    async def prune(self, before: datetime, *, chunk: int = 1000) -> int:
        """Delete chatter (events of the types `CHATTER`) older than `before`; returns how many.

        The last event of every stream stays, so that numbers go on where they were. Other writes go between chunks.
        """
        newest = events.alias("newest")
        last = select(func.max(newest.c.seq)).where(newest.c.stream == events.c.stream).scalar_subquery()
        old = (select(events.c.id).where(_OLD_TYPES, events.c.at < times.micros(before),
                                         events.c.seq < last).limit(chunk))
        total = 0
        while ids := (await self._db.read(lambda connection: connection.execute(old).scalars().all())):
            total += await self._db.write(partial(_delete, delete(events).where(events.c.id.in_(ids))))
        return total

    async def _present(self) -> int:
        """The id that no event committed from now on falls below."""
        if self._tail.last is not None:
            return self._tail.last
        last = await self.last_id()
        # What was committed while that was being read is the first that the tail holds.
        return last if self._tail.last is None else min(last, self._tail.floor)

    async def _page_all(self, prefix: str, after: int) -> tuple[list[Event], int]:
        """A page of the firehose, and the id up to which it is complete."""
        query = select(*_COLUMNS).where(events.c.id > after)
        if prefix:  # LIKE ignores case on SQLite
            query = query.where(func.substr(events.c.stream, 1, len(prefix)) == prefix, events.c.id <= after + _SCAN)
        query = query.order_by(events.c.id).limit(_PAGE)

        def work(connection: Connection) -> tuple[list[Event], int]:
            newest = _last_id(connection)
            found = [_event(row) for row in connection.execute(query)]
            if len(found) == _PAGE:
                return found, found[-1].id
            return found, max(min(newest, after + _SCAN) if prefix else newest, after)

        return await self._db.read(work)

    async def _fetch(self, query: Any) -> list[Event]:
        return await self._db.read(lambda connection: [_event(row) for row in connection.execute(query)])

    # --- waking ---

    def committed(self, items: Sequence[Any]) -> None:
        if any(isinstance(item, Span) for item in items):
            self._passed(items)
            return
        last = self._tail.last
        new: list[tuple[Event, int]] = []
        for item in items:
            if isinstance(item, str):  # the name of a deleted stream
                self._tail.forget(item)
                new = [entry for entry in new if entry[0].stream != item]
            elif last is None or item[0].id > last:
                new.append(item)
        if not new:
            return
        expected = new[0][0].id if last is None else last + 1
        if self._catching_up is not None or new[0][0].id != expected or new[-1][0].id != expected + len(new) - 1:
            self.heard()  # another process committed in between: read its events first
            return
        self._tail.add(new)
        self._wake({event.stream for event, _ in new})

    def _passed(self, items: Sequence[Any]) -> None:
        """Many events went by: those who follow their streams read them where they lie."""
        last = self._tail.last
        streams: set[str] = set()
        spans: list[tuple[int, int, int]] = []
        for item in items:
            if isinstance(item, str):
                self._tail.forget(item)
            elif isinstance(item, Span):
                spans.append((item.first, item.last, item.count))
                streams |= item.streams
            else:
                spans.append((item[0].id, item[0].id, 1))
                streams.add(item[0].stream)
        fresh = [span for span in spans if last is None or span[0] > last]
        if not fresh:
            return
        expected = fresh[0][0] if last is None else last + 1
        if (self._catching_up is not None or fresh[0][0] != expected
                or fresh[-1][1] != expected + sum(count for *_, count in fresh) - 1):
            self.heard()
            return
        self._tail.reset(fresh[-1][1])
        self._wake(streams)

    def heard(self) -> None:
        self._behind = True
        if self._catching_up is None and not self._closed:
            self._catching_up = asyncio.create_task(self._catch_up(), name="event-log-catch-up")

    def closed(self) -> None:
        self._closed = True
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._wake(None)

    async def _catch_up(self) -> None:
        """Read what the tail lacks, then wake whom it concerns."""
        try:
            while self._behind and not self._closed:
                self._behind = False
                try:
                    await self._read_on()
                except Exception as error:  # whatever it is, followers must not be forgotten
                    self._behind = True
                    _logger.warning("cannot read the event log, trying again: %s", error)
                    await asyncio.sleep(_RETRY)
        finally:
            self._catching_up = None

    async def _read_on(self) -> None:
        last = self._tail.last
        if last is not None:
            query = select(*_COLUMNS).where(events.c.id > last).order_by(events.c.id).limit(_PAGE)
            rows = await self._db.read(lambda connection: connection.execute(query).all())
            if len(rows) < _PAGE:
                self._tail.add([(_event(row), len(row.data)) for row in rows])
                self._wake({row.stream for row in rows})
                return
        self._tail.reset(await self.last_id())  # far behind, or just begun: followers read for themselves
        self._wake(None)

    def _wake(self, streams: set[str] | None) -> None:
        """Wake the followers of these streams (None: of all), and those of the firehose."""
        woken = [self._everything]
        self._everything = set()
        for stream in list(self._waiters) if streams is None else streams:
            woken.append(self._waiters.pop(stream, set()))
        for waiters in woken:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _wait(self, stream: str | None) -> "asyncio.Future[None]":
        """A future that is done at the next event of the stream (None: of any)."""
        waiter = asyncio.get_running_loop().create_future()
        (self._everything if stream is None else self._waiters.setdefault(stream, set())).add(waiter)
        return waiter

    def _leave(self, stream: str | None, waiter: "asyncio.Future[None]") -> None:
        if stream is None:
            self._everything.discard(waiter)
        elif waiters := self._waiters.get(stream):
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[stream]


def _check(stream: str, type: str) -> None:
    for field, value, most in (("stream", stream, _STREAM), ("type", type, _TYPE)):
        if not 0 < len(value) <= most:
            raise Invalid(f"has {len(value)} characters", field=field, remedy=f"use 1 to {most}")


def _delete(statement: Delete, connection: Connection) -> int:
    return connection.execute(statement).rowcount


def _last_id(connection: Connection) -> int:
    return connection.execute(_LAST_ID).scalar_one()


def _event(row: Any) -> Event:
    return Event(id=row[0], stream=row[1], seq=row[2], type=row[3], at=times.instant(row[4]), data=decode(row[5]))
