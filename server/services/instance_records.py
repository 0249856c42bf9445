"""The table of instances: written in one transaction with the events that say why."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, update

from engine import times
from engine.errors import Unavailable
from server.services.instance_rows import LISTED, Instance, changed, instance_of, row_of, stream_of
from server.services.instance_watch import Kept
from server.services.lease import Lease
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables.instances import instances

__all__ = ["DELETED", "InstanceRecords"]

DELETED: Final = "instances"
"""The stream that tells of deleted instances."""

RETRY: Final = 1.0
ENDING: Final = 30.0  # seconds that another server has to end an instance

log = logging.getLogger("workbench.instances")


class InstanceRecords:
    """What is durable of instances. What they say is kept only while this server has the lease, if there is one: else
    `Conflict`."""

    def __init__(self, db: Database, events: EventLog, lease: Lease | None = None) -> None:
        self._db = db
        self._events = events
        self._check: Callable[[Connection], None] = lease.check if lease is not None else lambda connection: None

    async def all(self, id: str | None = None) -> list[Instance]:
        """Every instance (or that with an id), oldest first; the lists are still to be read."""
        query = select(instances).order_by(instances.c.started_at, instances.c.id)
        if id is not None:
            query = query.where(instances.c.id == id)
        return [instance_of(row) for row in await self._db.read(lambda connection: connection.execute(query).all())]

    async def asked(self) -> tuple[dict[str, str], int]:
        """What is asked of each live instance; and how many instances there are."""
        query = select(instances.c.id, instances.c.asked).where(instances.c.state == "live")
        count = select(func.count()).select_from(instances)
        return await self._db.read(lambda connection: (
            {row.id: row.asked for row in connection.execute(query)}, connection.execute(count).scalar_one()))

    async def ids(self) -> set[str]:
        """Of all instances."""
        return set(await self._db.read(lambda connection: connection.execute(select(instances.c.id)).scalars().all()))

    async def end(self, id: str) -> Instance:
        """Have the server that runs a live instance stop it: the instance, once it has. Raises `Unavailable` when that
        takes too long."""
        after = await self.last(id)
        ask = update(instances).where(instances.c.id == id, instances.c.state == "live").values(asked="stop")
        await self._db.write(lambda connection: connection.execute(ask).rowcount)
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING):
                async for event in self._events.follow(stream_of(id), after):
                    if event.type == "archived":
                        return (await self.all(id))[0]
        raise Unavailable("the server that runs the instance has not stopped it yet", remedy="look again later")

    async def lists(self, id: str) -> dict[str, Sequence[Any]]:
        """All payloads of the types in `LISTED`, from the event log."""
        lists: dict[str, Any] = {}
        after = 0
        while page := await self._events.page(stream_of(id), after, types=LISTED):
            for event in page:
                lists.setdefault(event.type, []).append(event.data["payload"])
            after = page[-1].seq
        return lists

    async def last(self, id: str) -> int:
        """The number of the newest event of an instance."""
        return await self._events.last_seq(stream_of(id))

    async def create(self, instance: Instance) -> None:
        """A new one."""

        def work(connection: Connection) -> None:
            event = self._events.append(connection, stream_of(instance.id), "created", {
                "id": instance.id, "kind": instance.kind, "market": instance.market.key, "config": instance.config,
                "owner": instance.owner, "started_at": times.iso(instance.started_at)}, at=instance.started_at)
            instance.noted = event.id - 1
            connection.execute(insert(instances), row_of(instance))

        await self._db.write(work)

    async def keep(self, kept: Kept) -> None:
        """Save what instances said, and where they are now. Returns when it is saved, however long that takes; only
        then the instances show it."""
        now = times.now()
        saved: list[tuple[str, Mapping[str, Any], list[tuple[str, Any]], datetime]] = []
        for runner, said in kept:
            instance = runner.instance
            at = now if instance.updated_at is None else max(now, instance.updated_at + timedelta(microseconds=1))
            after = replace(instance, initial=dict(instance.initial), latest=dict(instance.latest), lists={},
                            updated_at=at, position=runner.position, memory=runner.memory())
            after.hear(said, at)
            items: list[tuple[str, Any]] = [(kind, encode({"payload": payload})) for kind, payload in said]
            saved.append((instance.id, changed(after), items, at))

        def work(connection: Connection) -> None:
            self._check(connection)
            for id, values, items, at in saved:
                new = instances.c.updated_at.is_(None) | (instances.c.updated_at < values["updated_at"])
                done = connection.execute(update(instances).where(instances.c.id == id, new).values(**values))
                if done.rowcount:  # else it was saved, although the connection was lost before we were told
                    self._events.append_many(connection, stream_of(id), items, at=at)

        await self._patiently(work)
        for (runner, said), (_, _, _, at) in zip(kept, saved, strict=True):
            instance = runner.instance
            instance.hear(said, at)
            instance.updated_at, instance.position, instance.memory = at, runner.position, runner.memory()

    async def archive(self, instance: Instance, state: str, error: str | None) -> None:
        """The end of a live instance."""
        at = times.now()
        values = changed(replace(instance, state=state, error=error, ended_at=at))

        def work(connection: Connection) -> None:
            self._check(connection)
            connection.execute(update(instances).where(instances.c.id == instance.id).values(**values))
            self._events.append_many(connection, stream_of(instance.id), [
                (state, {"error": error} if error is not None else {}), ("archived", {})], at=at)

        await self._patiently(work)
        instance.state, instance.error, instance.ended_at = state, error, at

    async def remove(self, id: str) -> None:
        """Delete one with its events."""

        def work(connection: Connection) -> None:
            connection.execute(delete(instances).where(instances.c.id == id))
            self._events.delete(connection, stream_of(id))
            self._events.append(connection, DELETED, "deleted", {"id": id})

        await self._db.write(work)

    async def _patiently(self, work: Callable[[Connection], None]) -> None:
        pause = RETRY
        while True:
            try:
                await self._db.write(work)
                return
            except Unavailable as error:
                log.warning("what instances said cannot be saved, trying again", extra={"facts": {
                    "because": error.message}})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 30.0)
