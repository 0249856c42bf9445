"""Which of the servers of one database runs live instances, uploaded models and imports: the one that holds the lease.

A row of the table `leases` has a number that the holder raises every few seconds. Clocks are never compared: a server
that sees the number stand still for `patience` by its own clock takes the lease, and a holder that could not raise it
for that long knows by its own clock that it may have lost it. A holder on this machine whose process is gone is
replaced at once. Writes that only the holder may do call `check` in their transaction.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select, update

from engine.errors import Conflict, WorkbenchError
from server.store.database import Database
from server.store.tables.leases import leases

__all__ = ["Duty", "Lease"]

NAME: Final = "work"
BEAT: Final = 2.0  # seconds
PATIENCE: Final = 15.0

log = logging.getLogger("workbench.lease")


@dataclass(frozen=True, kw_only=True)
class Duty:
    """Work of the holder. `begin` takes up what should run, `look` sees to what other servers were asked for (called
    with every beat), `end` leaves all as it is for the next holder; it may begin again later."""

    begin: Callable[[], Awaitable[None]]
    look: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]


class Lease:
    """One server's part in the lease. `held`: whether its duties are at work here."""

    def __init__(self, db: Database, *, beat: float = BEAT, patience: float = PATIENCE,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._beat = beat
        self._patience = patience
        self._clock = clock
        self._me = secrets.token_hex(16)
        self._duties: list[Duty] = []
        self._seen: tuple[Any, float] = (None, 0.0)  # the other holder's row, and since when it is the same
        self._renewed = 0.0
        self._task: asyncio.Task[None] | None = None
        self.held = False

    @property
    def sure(self) -> bool:
        """Whether no other server can have taken over: false in a process that was asleep for long."""
        return self.held and self._clock() - self._renewed < self._patience

    def check(self, connection: Connection) -> None:
        """Raise `Conflict` inside a write when another server has taken over."""
        query = select(leases.c.holder).where(leases.c.name == NAME)
        if connection.dialect.name != "sqlite":
            query = query.with_for_update(read=True)  # nobody takes it before this write is done
        if connection.execute(query).scalar_one_or_none() != self._me:
            raise Conflict("another server has taken over", remedy="ask again")

    async def start(self) -> None:
        """Take the lease if it is to be had, else wait for it in the background."""
        if await self._ours():
            await self._begin()
        self._task = asyncio.create_task(self._run(), name="lease")

    async def add(self, duty: Duty) -> None:
        """Have a duty done here while the lease is held: from now on, if it is."""
        self._duties.append(duty)
        if self.held:
            await duty.begin()

    async def close(self) -> None:
        """End the duties and give the lease back."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.held:
            await self._end()
            back = update(leases).where(leases.c.name == NAME, leases.c.holder == self._me).values(holder="")
            try:
                await self._db.write(lambda connection: connection.execute(back).rowcount)
            except WorkbenchError as error:
                log.warning("the lease was not given back: %s", error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._beat)
            try:
                async with asyncio.timeout(self._patience):
                    ours = await self._ours()
            except (WorkbenchError, TimeoutError) as error:
                log.warning("the lease was not renewed", extra={"facts": {"because": str(error)}})
                ours = self.sure
            try:
                if ours and not self.held:
                    await self._begin()
                elif self.held and not ours:
                    log.warning("another server has taken over, or may have")
                    await self._end()
                elif ours:
                    for duty in tuple(self._duties):
                        await duty.look()
            except WorkbenchError as error:
                log.warning("what should run here is not known", extra={"facts": {"because": str(error)}})
            except Exception as error:  # a fault of ours must not cost the lease
                log.error("what should run here was not seen to", exc_info=error)

    async def _ours(self) -> bool:
        """Renew the lease, or try to take it."""
        now = self._clock()
        ours = await self._db.write(self._renew if self.held else self._take)
        if ours:
            self._renewed = now
        return ours

    async def _begin(self) -> None:
        log.info("this server runs instances, models and imports")
        self.held = True
        try:
            for duty in tuple(self._duties):
                await duty.begin()
        except BaseException:
            await self._end()
            raise

    async def _end(self) -> None:
        self.held = False
        for duty in reversed(self._duties):
            await duty.end()

    # -- in a write: whether it is ours now

    def _renew(self, connection: Connection) -> bool:
        ours = update(leases).where(leases.c.name == NAME, leases.c.holder == self._me)
        return bool(connection.execute(ours.values(beat=leases.c.beat + 1)).rowcount)

    def _take(self, connection: Connection) -> bool:
        row = connection.execute(select(leases).where(leases.c.name == NAME).with_for_update()).one()
        if row.holder not in ("", self._me) and not gone(row.process):
            if self._seen[0] != row:
                self._seen = (row, self._clock())
            if self._clock() - self._seen[1] < self._patience:
                return False
        connection.execute(update(leases).where(leases.c.name == NAME).values(
            holder=self._me, process=process(), beat=row.beat + 1))
        return True


def process() -> str:
    """Where this process is: its machine since it was booted, its name space of processes, its number and when it
    began."""
    return f"{_machine()} {os.getpid()} {_began(os.getpid())}"


def gone(process: str) -> bool:
    """Whether a process is known to have ended; of other machines nothing is known."""
    machine, number, began = process.rsplit(" ", 2)
    return bool(began) and machine == _machine() and _began(int(number)) != began


def _began(number: int) -> str:
    """When a process began, in ticks since the machine did; empty when it has ended, or where nobody can tell."""
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = space = ""
    return f"{socket.gethostname()}/{boot}/{space}"
