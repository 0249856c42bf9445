"""The database: `await read(fn)`, `await write(fn)` with `fn(connection)`, over SQLite or PostgreSQL.

Reads run on a few threads, each call in a snapshot. Writes run on one thread, which commits everything waiting in one
transaction and answers after the commit: what a caller was told is on the disk. Raises `engine.errors.Unavailable`
when the database cannot do it now (disk full, read-only, locked, away) and works again as soon as it can.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine

from engine.errors import Unavailable
from server.store import schema
from server.store.engines import database_url, make_engine, safe_text
from server.store.failures import lost, meaning
from server.store.listener import CHANNEL, Listener
from server.store.writer import Job, Transaction, Writer

__all__ = ["Database", "Subscriber"]

T = TypeVar("T")
_CLOSED: Final = "the database is closed"


class Database:
    """One database, opened and closed on one event loop.

    url: `sqlite:///PATH`, `postgresql://USER:PASSWORD@HOST/NAME` or a Path (a SQLite file).
    synchronous: SQLite's setting; FULL lets an acknowledged write survive a power cut, NORMAL only a crash.
    readers: threads, and connections, for reads. patience: seconds to wait for another program's lock (SQLite).
    """

    def __init__(self, url: str | URL | Path, *, synchronous: str = "FULL", readers: int = 4,
                 patience: float = 5.0) -> None:
        if synchronous not in ("FULL", "NORMAL", "EXTRA"):
            raise ValueError(f"synchronous must be FULL, NORMAL or EXTRA, not {synchronous!r}")
        self.url = url if isinstance(url, URL) else database_url(url)
        self.node = secrets.token_hex(8)  # names this process among those that share the database
        self._synchronous = synchronous
        self._readers = readers
        self._patience = patience
        self._writer: Writer | None = None  # takes writes; None when closed
        self._thread: Writer | None = None  # the same, until its last write is done
        self._asked: list[Job] = []  # writes not yet handed over
        self._threads: ThreadPoolExecutor | None = None
        self._engines: tuple[Engine, ...] = ()
        self._listener: Listener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscribers: list[Subscriber] = []

    def __repr__(self) -> str:
        return f"Database({safe_text(self.url)!r})"

    @property
    def is_postgresql(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    @property
    def listener(self) -> Listener | None:
        """On PostgreSQL, what hears the commits of other processes."""
        return self._listener

    async def open(self, *, create: bool = True) -> None:
        """Check the tables (make them in a new database when `create`) and start the threads.

        Raises `Unavailable`, with the command to type, when the database is away, or older or newer than this version.
        """
        if self.is_open:
            raise RuntimeError("the database is open already")
        loop = self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(schema.prepare, self.url, create=create)
        settings: dict[str, Any] = {"synchronous": self._synchronous, "patience": self._patience}
        reading = make_engine(self.url, writing=False, size=self._readers, **settings)
        writing = make_engine(self.url, writing=True, size=1, **settings)
        self._engines = (reading, writing)
        self._threads = ThreadPoolExecutor(self._readers, thread_name_prefix="database-reader")
        announce = f"NOTIFY {CHANNEL}, '{self.node}'" if self.is_postgresql else ""
        self._thread = self._writer = Writer(writing, loop, self._deliver, announce)
        self._writer.start()
        if self.is_postgresql:
            self._listener = Listener(self.url, self.node, self._heard)
            await self._listener.start()

    async def close(self) -> None:
        """Finish every write that was asked for, then let go of the database. Closing twice is harmless."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._hand_over()
        writer.finish()
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        await asyncio.to_thread(writer.join)
        self._thread = None
        await asyncio.sleep(0)  # the last answers are on their way to the loop
        assert self._threads is not None
        await asyncio.to_thread(self._threads.shutdown)
        for engine in self._engines:
            engine.dispose()
        for subscriber in self._subscribers:
            subscriber.closed()

    async def __aenter__(self) -> "Database":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work(connection)` returns; it sees one snapshot of committed data and must not write.

        `work` may be called a second time when the connection turns out to be gone.
        """
        if self._writer is None:
            raise Unavailable(_CLOSED, remedy="start the server again")
        assert self._loop is not None
        return await self._loop.run_in_executor(self._threads, self._read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work(connection)` returns, once it is committed; when it raises, nothing of it is kept.

        `work` runs once, on the writer's thread, alone: what it reads cannot change before the commit. It must not
        commit, roll back, wait or compute: everything else waits for it. When the caller is cancelled the write may
        still happen.
        """
        writer = self._writer
        if writer is None:
            raise Unavailable(_CLOSED, remedy="start the server again")
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        # All writes of one turn of the loop go over together: the writer, woken by the first of them, would only
        # take turns with the loop at being the one thread that runs.
        self._asked.append(Job(work, future))
        if len(self._asked) == 1:
            self._loop.call_soon(self._hand_over)
        return await future

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        if self._thread is not None and asked:
            self._thread.put(asked)

    def stage(self, connection: Connection, *items: Any) -> None:
        """Inside a write: hand `items` to the subscribers after the commit, and never if there is none."""
        self.transaction(connection).staged.extend(items)

    def transaction(self, connection: Connection) -> Transaction:
        """The transaction of the write that `connection` is in. Raises `RuntimeError` outside of one."""
        writer = self._thread
        if writer is None or writer.transaction is None or not writer.owns(connection):
            raise RuntimeError("this is only possible inside a write")
        return writer.transaction

    def subscribe(self, subscriber: "Subscriber") -> None:
        """Tell `subscriber` on the loop: `committed(items)`, `heard()` (another process committed), `closed()`."""
        self._subscribers.append(subscriber)

    @property
    def load(self) -> tuple[int, int]:
        """Writes done and transactions they took, since the database was opened."""
        return (self._writer.writes, self._writer.commits) if self._writer else (0, 0)


    def _read(self, work: Callable[[Connection], T]) -> T:
        again = True
        while True:
            try:
                with self._engines[0].connect() as connection, connection.begin():
                    return work(connection)
            except Exception as error:
                if again and lost(error):
                    again = False
                    continue
                problem = meaning(error)
                if problem is error:
                    raise
                raise problem from error

    def _deliver(self, jobs: Sequence[Job], staged: Sequence[Any]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.value)
            elif isinstance(job.error, StopIteration):
                job.future.set_exception(RuntimeError("a write raised StopIteration"))
            else:
                job.future.set_exception(job.error)
        if staged:
            for subscriber in self._subscribers:
                subscriber.committed(staged)

    def _heard(self) -> None:
        for subscriber in self._subscribers:
            subscriber.heard()


class Subscriber:
    """What `Database.subscribe` takes."""

    def committed(self, items: Sequence[Any]) -> None:
        """These items were staged by writes that are committed now."""

    def heard(self) -> None:
        """Another process committed something."""

    def closed(self) -> None:
        """The database was closed."""
