"""Deliveries: alerts and rule notices go out to webhooks and people, once each, as long as it takes.

What goes out follows from the event log. For every event one write puts a row for each channel that wants it into the
outbox and moves the position on, so each event gets there exactly once, whatever stops in between. From the outbox a
notice is sent until it is taken: after a failure again in 2, 4, 8 … seconds up to an hour (with jitter, or when the
receiver says), `ATTEMPTS` times; then it is dead, and a person may try again. A crash between sending and writing that
down sends twice: receivers see the same id.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, update

from engine import times
from engine.errors import Conflict, Invalid, NotFound, WorkbenchError
from engine.model import Event
from server.limits import RateLimiter
from server.services.delivery_rows import Attempt, Channel, Delivery, channel_of, delivery_of
from server.services.delivery_senders import Outcome, Senders, new_key
from server.services.notices import STREAMS, TOPICS, chosen, notice, words
from server.services.seals import Seals
from server.store.database import Database
from server.store.encoding import decode, encode
from server.store.events import EventLog
from server.store.tables.alerts import attempts, channels, deliveries, positions
from server.store.tables.core import events as event_rows

__all__ = ["ATTEMPTS", "Attempt", "Channel", "Deliveries", "Delivery"]

ATTEMPTS: Final = 10
FIRST, LONGEST = 2.0, 3600.0  # seconds before the second attempt, and at most
AT_ONCE: Final = 8  # notices on their way
LEASE: Final = 30  # seconds that a server has for an attempt before others that share the database may try
KEPT: Final = 30 * times.DAY
LOOK: Final = 30.0  # seconds until the outbox is looked at although nothing seems to be due
KINDS: Final = ("webhook", "apprise")

_PLACE: Final = func.row_number().over(partition_by=deliveries.c.channel_id,
                                      order_by=(deliveries.c.next_at, deliveries.c.id))
_WAITING: Final = (
    select(deliveries, channels.c.rate, channels.c.kind, channels.c.sealed, channels.c.key, _PLACE.label("place"))
    .join(channels, channels.c.id == deliveries.c.channel_id)
    .where(deliveries.c.state == "pending", (channels.c.enabled) | (deliveries.c.topic == "test")).subquery())
_FIRSTS: Final = select(_WAITING).where(_WAITING.c.place == 1).order_by(_WAITING.c.next_at, _WAITING.c.id)
"""The next notice of every channel: one that has to wait holds up no other."""

log = logging.getLogger("workbench.deliveries")


@dataclass(slots=True)
class _Sending:
    """What is on its way now."""

    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)  # channels: one notice at a time, so that they arrive in order
    ended: set[str] = field(default_factory=set)  # channels whose notice ended while the outbox was being read


class Deliveries:
    """Channels, the outbox and its log. Addresses are sealed in the database and masked wherever they are shown."""

    def __init__(self, *, db: Database, events: EventLog, data_dir: Path, allowed: Sequence[str] = ()) -> None:
        self._db = db
        self._events = events
        self._seals = Seals(data_dir / "channels.key")
        self._senders = Senders(allowed)
        self._tasks: list[asyncio.Task[None]] = []
        self._due = asyncio.Event()
        self._closed = False
        self._sending = _Sending()
        self._rates: dict[str, RateLimiter] = {}
        self._finished: dict[int, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Take up what a former life left."""
        old = times.micros(times.now()) - KEPT
        await self._db.write(lambda connection: connection.execute(delete(deliveries).where(
            deliveries.c.state != "pending", deliveries.c.created_at < old)))
        self._tasks = [asyncio.create_task(self._go_on(partial(self._collect, stream)),
                                           name=f"notices of {stream}") for stream in STREAMS]
        self._tasks.append(asyncio.create_task(self._go_on(self._send_due), name="notices"))

    async def close(self) -> None:
        self._closed = True  # a task that is woken as it is cancelled may miss the latter
        tasks = [*self._tasks, *self._sending.tasks.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._senders.close()

    # -- channels

    async def create_channel(self, name: str, kind: str, url: str, *, topics: Sequence[str],
                             filters: Mapping[str, Sequence[str]] | None = None, rate: int = 60,
                             owner: str = "") -> tuple[Channel, str]:
        """A new channel and, for a webhook, the key that signs its bodies, which cannot be had again."""
        if kind not in KINDS:
            raise Invalid(f"{kind!r} is no kind of channel", field="kind", remedy="use webhook or apprise")
        _check_topics(topics)
        shown = await self._senders.off_loop(self._senders.masked, kind, url)
        key = new_key() if kind == "webhook" else ""
        sealed = await self._senders.off_loop(self._seals.seal, url)
        row = {"id": secrets.token_hex(8), "name": name, "kind": kind, "sealed": sealed, "shown": shown,
               "key": await self._senders.off_loop(self._seals.seal, key) if key else "", "topics": list(topics),
               "filters": {name: list(values) for name, values in (filters or {}).items()}, "rate": rate,
               "enabled": True, "owner": owner, "created_at": times.micros(times.now())}
        await self._db.write(lambda connection: connection.execute(insert(channels).values(row)))
        return await self.channel(row["id"]), key

    async def channels(self) -> list[Channel]:
        """All, in the order in which they were made."""
        query = select(channels).order_by(channels.c.created_at, channels.c.id)
        return await self._db.read(lambda connection: [channel_of(row) for row in connection.execute(query)])

    async def channel(self, id: str) -> Channel:
        """Raises `NotFound`."""
        return channel_of(await self._db.read(lambda connection: _channel(connection, id)))

    async def change_channel(self, id: str, *, url: str | None = None, **values: Any) -> Channel:
        """Change `name`, `topics`, `filters`, `rate`, `enabled` or the address. Raises `Invalid`, `NotFound`."""
        found = await self.channel(id)
        _check_topics(values.get("topics", ("test",)))
        if url is not None:
            values["shown"] = await self._senders.off_loop(self._senders.masked, found.kind, url)
            values["sealed"] = await self._senders.off_loop(self._seals.seal, url)
        if values:
            await self._db.write(lambda connection: connection.execute(
                update(channels).where(channels.c.id == id).values(values)))
        self._rates.pop(id, None)
        self._due.set()
        return await self.channel(id)

    async def delete_channel(self, id: str) -> None:
        """Delete a channel with its log, and what waits to be sent. Raises `NotFound`."""

        def work(connection: Connection) -> None:
            if not connection.execute(delete(channels).where(channels.c.id == id)).rowcount:
                raise NotFound(f"there is no channel {id[:50]!r}")

        await self._db.write(work)

    async def test(self, id: str, patience: float = 15.0) -> Delivery:
        """Send a test through a channel, and what became of its first attempt (within `patience` seconds)."""
        await self.channel(id)
        at = times.now()
        cause = f"test:{secrets.token_hex(8)}"
        body = encode({"topic": "test", "at": times.iso(at), "id": cause, "data": {}})
        row = _row(id, cause, "test", body, times.micros(at))
        delivery = await self._db.write(lambda connection: connection.execute(
            insert(deliveries).values(row)).inserted_primary_key[0])  # type: ignore[index]
        done = self._finished[delivery] = asyncio.get_running_loop().create_future()
        self._due.set()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(done, patience)
        finally:
            self._finished.pop(delivery, None)
        return await self.delivery(delivery)

    # -- the log

    async def page(self, *, channel: str | None = None, state: str | None = None, before: int | None = None,
                   limit: int = 100) -> list[Delivery]:
        """Deliveries, newest first, with an id below `before`."""
        query = select(deliveries).order_by(deliveries.c.id.desc()).limit(limit)
        for column, value in ((deliveries.c.channel_id, channel), (deliveries.c.state, state)):
            query = query if value is None else query.where(column == value)
        query = query if before is None else query.where(deliveries.c.id < before)
        return await self._db.read(lambda connection: [delivery_of(row) for row in connection.execute(query)])

    async def delivery(self, id: int) -> Delivery:
        """One delivery with its attempts. Raises `NotFound`."""
        tried = select(attempts).where(attempts.c.delivery_id == id).order_by(attempts.c.number)
        query = select(deliveries).where(deliveries.c.id == id)

        def work(connection: Connection) -> Delivery:
            row = connection.execute(query).first()
            if row is None:
                raise NotFound(f"there is no delivery {id}")
            return delivery_of(row, connection.execute(tried).all())

        return await self._db.read(work)

    async def retry(self, id: int) -> Delivery:
        """Give a dead delivery another `ATTEMPTS` attempts. Raises `NotFound`, `Conflict`."""
        at = times.micros(times.now())

        def work(connection: Connection) -> None:
            row = connection.execute(select(deliveries.c.state).where(deliveries.c.id == id)).first()
            if row is None:
                raise NotFound(f"there is no delivery {id}")
            if row.state != "dead":
                raise Conflict(f"this delivery is {row.state}", remedy="only dead ones are tried again by hand")
            connection.execute(update(deliveries).where(deliveries.c.id == id).values(
                state="pending", next_at=at, finished_at=None, attempts=0))
            connection.execute(delete(attempts).where(attempts.c.delivery_id == id))

        await self._db.write(work)
        self._due.set()
        return await self.delivery(id)

    # -- into the outbox

    async def _collect(self, stream: str) -> None:
        """Turn the events of a stream into rows of the outbox. Begins, the first time, with the events to come."""
        name = f"deliveries of {stream}"
        newest = select(func.coalesce(func.max(event_rows.c.seq), 0)).where(event_rows.c.stream == stream)

        def begin(connection: Connection) -> int:
            seq = connection.execute(select(positions.c.seq).where(positions.c.name == name)).scalar()
            if seq is None:
                seq = connection.execute(newest).scalar_one()
                connection.execute(insert(positions).values(name=name, seq=seq))
            return seq

        async for event in self._events.follow(stream, await self._db.write(begin)):
            told = notice(event)
            body = encode(told) if told is not None else None
            if await self._db.write(lambda connection, event=event, body=body, told=told:  # type: ignore[misc]
                                    _enqueue(connection, name, event, told, body)):
                self._due.set()

    # -- out of it

    async def _send_due(self) -> None:
        while not self._closed:
            self._due.clear()
            self._sending.ended.clear()
            now = times.micros(times.now())
            rows = await self._db.read(lambda connection: connection.execute(_FIRSTS).all())
            wait = LOOK
            for row in rows:
                late = (row.next_at - now) / times.SECOND
                if row.channel_id in self._sending.busy | self._sending.ended:  # ended: the row may be out of date, and
                    continue  # `_due` is set, so that the outbox is read again
                if late > 0 or len(self._sending.tasks) >= AT_ONCE:
                    wait = min(wait, max(late, 0.05))
                    continue
                allowance = self._rate(row).take(row.channel_id)
                if allowance is not None and allowance.exceeded:
                    wait = min(wait, float(allowance.retry_after))
                    continue
                self._sending.busy.add(row.channel_id)
                task = self._sending.tasks[row.id] = asyncio.create_task(self._send(row), name=f"notice {row.id}")
                task.add_done_callback(lambda _, row=row: self._sent(row))  # type: ignore[misc]
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), wait)

    def _rate(self, row: Any) -> RateLimiter:
        limiter = self._rates.get(row.channel_id)
        if limiter is None or limiter.limit != row.rate:
            limiter = self._rates[row.channel_id] = RateLimiter(row.rate)
        return limiter

    def _sent(self, row: Any) -> None:
        self._sending.tasks.pop(row.id, None)
        self._sending.busy.discard(row.channel_id)
        self._sending.ended.add(row.channel_id)
        done = self._finished.get(row.id)
        if done is not None and not done.done():
            done.set_result(None)
        self._due.set()

    async def _send(self, row: Any) -> None:
        """One attempt, written down."""
        began = times.now()
        try:
            if self._db.is_postgresql and not await self._claim(row, times.micros(began)):
                return
            outcome = await self._attempt(row)
            await self._write_down(row, outcome, times.micros(began))
        except WorkbenchError as error:  # the database is away: the attempt is made again
            log.warning("a delivery could not be written down: %s", error)
            await asyncio.sleep(1.0)

    async def _attempt(self, row: Any) -> Outcome:
        try:
            url = await self._senders.off_loop(self._seals.open, row.sealed)
            if row.kind == "webhook":
                key = await self._senders.off_loop(self._seals.open, row.key)
                return await self._senders.webhook(url, key, f"msg_{row.channel_id}_{row.id}", row.topic,
                                                   row.body.encode())
            return await self._senders.apprise(url, *words(decode(row.body)))
        except WorkbenchError as error:
            return Outcome(False, error=str(error))
        except Exception as error:
            log.error("a notice could not be sent", exc_info=error, extra={"facts": {"delivery": row.id}})
            return Outcome(False, error=f"something went wrong here ({type(error).__name__})")

    async def _claim(self, row: Any, at: int) -> bool:
        """Take a delivery for this server, when several share the database."""
        change = update(deliveries).where(
            deliveries.c.id == row.id, deliveries.c.state == "pending", deliveries.c.next_at == row.next_at
        ).values(next_at=at + LEASE * times.SECOND)
        return await self._db.write(lambda connection: connection.execute(change).rowcount == 1)

    async def _write_down(self, row: Any, outcome: Outcome, began: int) -> None:
        at = times.micros(times.now())
        number = row.attempts + 1
        values: dict[str, Any] = {"attempts": number, "status": outcome.status, "error": outcome.error or None}
        if outcome.ok:
            values |= {"state": "delivered", "finished_at": at}
        elif outcome.final or number >= ATTEMPTS:
            values |= {"state": "dead", "finished_at": at}
            log.warning("a notice was given up", extra={"facts": {"delivery": row.id, "why": outcome.error}})
        else:
            values["next_at"] = at + round(pause(number, outcome.wait) * times.SECOND)
        attempt = {"delivery_id": row.id, "number": number, "at": began, "ms": (at - began) // 1000,
                   "status": outcome.status, "error": outcome.error or None}

        def work(connection: Connection) -> None:
            # Nothing, when its channel was deleted or the same attempt was written down meanwhile: on SQLite, where
            # nobody claims, by a second server on the file.
            same = (deliveries.c.id == row.id, deliveries.c.attempts == row.attempts)
            if connection.execute(update(deliveries).where(*same).values(values)).rowcount:
                connection.execute(insert(attempts).values(attempt))

        await self._db.write(work)

    async def _go_on(self, work: Callable[[], Any]) -> None:
        """Do a task that never ends; again after what is not its fault."""
        while True:
            try:
                await work()
                return  # the database was closed
            except WorkbenchError as error:
                log.warning("notices wait: %s", error)
            except Exception as error:
                log.error("notices failed", exc_info=error)
            await asyncio.sleep(1.0)


def pause(number: int, asked: float = 0.0) -> float:
    """Seconds from a failed attempt to the next: doubling, jittered so that what failed together does not come back
    together; longer when the receiver asked for it."""
    longest = min(LONGEST, FIRST * 2 ** (number - 1))
    return max(random.uniform(longest / 2, longest), min(asked, LONGEST))


def _enqueue(connection: Connection, name: str, event: Event, told: Mapping[str, Any] | None, body: Any) -> int:
    """Put an event's notices into the outbox and move the position on; how many those are. Another server that shares
    the database may have done it already."""
    moved = connection.execute(update(positions).where(positions.c.name == name, positions.c.seq < event.seq)
                               .values(seq=event.seq)).rowcount
    if not moved or told is None:
        return 0
    at = times.micros(event.at)
    wanted = [_row(row.id, told["id"], told["topic"], body, at) for row in connection.execute(
        select(channels.c.id, channels.c.topics, channels.c.filters).where(channels.c.enabled))
        if chosen(told["topic"], told["data"], row.topics, row.filters)]
    if wanted:
        connection.execute(insert(deliveries), wanted)
    return len(wanted)


def _row(channel: str, cause: str, topic: str, body: str, at: int) -> dict[str, Any]:
    return {"channel_id": channel, "cause": cause, "topic": topic, "body": str(body), "state": "pending", "next_at": at,
            "created_at": at}


def _check_topics(topics: Sequence[str]) -> None:
    for topic in topics:
        if topic not in TOPICS:
            raise Invalid(f"{topic!r} is no topic", field="topics", remedy="use " + ", ".join(TOPICS))


def _channel(connection: Connection, id: str) -> Any:
    row = connection.execute(select(channels).where(channels.c.id == id)).first()
    if row is None:
        raise NotFound(f"there is no channel {id[:50]!r}")
    return row
