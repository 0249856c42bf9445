"""The writer: one thread that commits everything waiting in one transaction, then answers.

A write is a function of the connection. All writes that are waiting run one after another in one transaction, each
in a savepoint of its own, so that one that fails takes nothing with it; one commit (one fsync) makes all of them
durable; then, and only then, all of them are answered, with one wake-up of the event loop.
"""

import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final

from sqlalchemy import Connection, Engine

from engine.errors import Unavailable
from server.store.engines import driver
from server.store.failures import lost, meaning

__all__ = ["Job", "Transaction", "Writer"]

_MOST: Final = 512  # writes in one transaction, beyond which no more are added
_UNKNOWN: Final = Unavailable("the connection to the database was lost while the change was being saved",
                              remedy="look whether the change was made before repeating the request")


@dataclass(slots=True, eq=False)
class Job:
    """One waiting write, later with what it gave or raised."""

    work: Callable[[Connection], Any]
    future: Future[Any]
    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Transaction:
    """What the writes of one transaction leave for after the commit, and what they tell each other: `numbers`, the
    last of each stream that was added to, forgotten when a write is undone."""

    staged: list[Any] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)


class Writer(threading.Thread):
    """Owns the one connection that writes.

    `deliver(jobs, staged)` is called on the loop after each transaction; `announce` is a statement run before the
    commit of a transaction in which something was staged ('' for none).
    """

    def __init__(self, engine: Engine, loop: AbstractEventLoop,
                 deliver: Callable[[Sequence[Job], Sequence[Any]], None], announce: str = "") -> None:
        super().__init__(name="database-writer", daemon=True)
        self._engine = engine
        self._loop = loop
        self._deliver = deliver
        self._announce = announce
        self._inbox: SimpleQueue[Sequence[Job] | None] = SimpleQueue()
        # PostgreSQL takes both statements in one round trip, SQLite takes one statement at a time.
        both = ("RELEASE SAVEPOINT one", "SAVEPOINT one")
        self._next = ("; ".join(both),) if engine.dialect.name == "postgresql" else both
        self._direct = engine.dialect.name == "sqlite"
        self._connection: Connection | None = None
        self.transaction: Transaction | None = None
        self.commits = 0
        self.writes = 0

    def put(self, jobs: Sequence[Job]) -> None:
        self._inbox.put(jobs)

    def finish(self) -> None:
        """Do everything that is waiting, then end."""
        self._inbox.put(None)

    def owns(self, connection: Connection) -> bool:
        """Whether `connection` is the writer's, inside a write."""
        return connection is self._connection and self.transaction is not None

    def run(self) -> None:
        going = True
        while going:
            jobs: list[Job] = []
            item = self._inbox.get()
            while True:
                if item is None:
                    going = False
                    break
                jobs.extend(item)
                if len(jobs) >= _MOST:
                    break
                try:
                    item = self._inbox.get_nowait()
                except Empty:
                    break
            if jobs:
                self._commit(jobs)
        self._drop()

    def _commit(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if not job.future.cancelled()]
        if not jobs:
            return
        transaction = self.transaction = Transaction()
        committing = False
        try:
            connection = self._begin()
            done = self._run_all(connection, jobs, transaction)
            if done:
                if transaction.staged and self._announce:
                    connection.exec_driver_sql(self._announce)
                committing = True
                connection.commit()
            else:
                connection.rollback()
        except BaseException as error:
            self._drop()
            transaction.staged.clear()
            problem = meaning(error)
            if committing and lost(error):
                problem = _UNKNOWN
            for job in jobs:
                if job.error is None:
                    job.error = _copy(problem)
        self.transaction = None
        self.commits += 1
        self.writes += len(jobs)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, jobs, transaction.staged)

    def _run_all(self, connection: Connection, jobs: list[Job], transaction: Transaction) -> int:
        """Run each write; returns how many succeeded. Raises only when the transaction as a whole is lost."""
        alone = len(jobs) == 1
        done = 0
        # What comes with every single write goes past SQLAlchemy, which would take longer than SQLite itself.
        execute: Callable[[str], Any] = (
            driver(connection).cursor().execute if self._direct else connection.exec_driver_sql)
        if not alone:
            execute("SAVEPOINT one")
        for job in jobs:
            mark = len(transaction.staged)
            try:
                job.value = job.work(connection)
                if not connection.in_transaction():
                    raise RuntimeError("a write must not commit or roll back: the writer does")
                if not alone:
                    for statement in self._next:
                        execute(statement)
            except BaseException as error:
                job.value = None
                del transaction.staged[mark:]
                transaction.numbers.clear()
                job.error = meaning(error)
                if alone:
                    if isinstance(job.error, Unavailable):
                        self._drop()
                    return 0
                try:
                    execute("ROLLBACK TO SAVEPOINT one")
                except BaseException:
                    # The database ended the whole transaction (disk full, connection lost): the error tells why.
                    raise error from None
            else:
                done += 1
        return done

    def _begin(self) -> Connection:
        """The writing connection in a new transaction that holds the write lock; reconnects once."""
        for attempt in (1, 2):
            if self._connection is None:
                self._connection = self._engine.connect()
            try:
                self._connection.begin()
            except BaseException as error:
                self._drop()
                if attempt == 2 or not lost(error):
                    raise
            else:
                return self._connection
        raise AssertionError("unreachable")

    def _drop(self) -> None:
        """Give the connection up; the next write makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
                connection.close()


def _copy(problem: BaseException) -> BaseException:
    """An instance of its own for each waiter: a traceback grows on a raised exception."""
    if isinstance(problem, Unavailable):
        return Unavailable(problem.message, remedy=problem.remedy)
    return problem
