"""The queue between the table and a pool that does what the test says: what ends while the table is being read, and
which runs travel together."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.candle_store import CandleStore
from server.pool import Report
from server.services import dispatch
from server.services.runs import Runs
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import new_database, until

pytestmark = pytest.mark.anyio


class HandPool:
    """Two workers that take jobs, and report what they are told to."""

    count = 2

    def __init__(self) -> None:
        self.free = 4
        self.jobs: list[Mapping[str, Any]] = []
        self.batches: list[list[str]] = []

    def attach(self, sink: Any, wake: Any) -> None:
        self.sink, self.wake = sink, wake

    def submit(self, jobs: Sequence[Mapping[str, Any]], priority: int = 0) -> None:
        self.jobs += jobs
        self.batches.append([job["run_id"] for job in jobs])
        self.free -= 1

    def cancel(self, keys: Sequence[str]) -> None:
        """Nothing is at work here."""

    def finish(self, job: Mapping[str, Any]) -> None:
        """A worker began the job, wrote its results and is done."""
        folder = Path(job["results"])
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        self.free += 1
        for type, data in (("started", {}), ("done", {"metrics": {}})):
            self.sink(Report(key=job["key"], type=type, data=data))


class HeldDatabase(Database):
    """Holds the reading of the queue, when told to, between its snapshot and its answer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.hold = False
        self.held, self.go = threading.Event(), threading.Event()

    async def read(self, work: Any) -> Any:
        hold, self.hold = self.hold and "_read_queue" in work.__qualname__, False
        return await super().read(lambda connection: work(_Connection(self, connection) if hold else connection))


class _Connection:
    def __init__(self, db: HeldDatabase, connection: Any) -> None:
        self._db, self._connection = db, connection

    def execute(self, *arguments: Any) -> Any:
        found = self._connection.execute(*arguments)
        if not self._db.held.is_set():
            self._db.held.set()
            assert self._db.go.wait(60)
        return found


async def test_a_run_that_ends_while_the_queue_is_read_is_not_computed_again(tmp_path: Path) -> None:
    pool: Any = HandPool()
    async with HeldDatabase(new_database(tmp_path / "workbench.sqlite")) as db:
        runs = Runs(db=db, events=EventLog(db), pool=pool, store=CandleStore(tmp_path / "candles"), data_dir=tmp_path)
        await runs.start()
        try:
            spec = {"strategy": "test", "markets": ["demo:A/USD"]}
            first = await runs.submit(spec, lenient=True)
            await until(lambda: pool.jobs)
            db.hold = True
            second = await runs.submit(spec, lenient=True)
            await asyncio.to_thread(db.held.wait, 60)  # its snapshot has both runs queued
            pool.finish(pool.jobs[0])
            await until(lambda: not runs.dispatcher.holds(first.id))
            db.go.set()
            await until(lambda: runs.dispatcher.holds(second.id))
            assert [job["run_id"] for job in pool.jobs] == [first.id, second.id]
            pool.finish(pool.jobs[-1])
            await until(lambda: not runs.dispatcher.holds(second.id))
            for run in (first, second):
                assert (await runs.get(run.id)).state == "completed" and await runs.summary(run.id) == {}
        finally:
            db.go.set()
            await runs.close()


async def test_few_runs_wait_for_a_free_worker_together_and_many_are_handed_over_ahead(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LOOK_AGAIN", 600.0)
    pool: Any = HandPool()
    async with Database(new_database(tmp_path / "workbench.sqlite")) as db:
        runs = Runs(db=db, events=EventLog(db), pool=pool, store=CandleStore(tmp_path / "candles"), data_dir=tmp_path)

        async def submit(count: int) -> list[str]:
            return [(await runs.submit({"strategy": "test", "markets": ["demo:A/USD"]}, lenient=True)).id
                    for _ in range(count)]

        await runs.start()
        try:
            await submit(1)
            await until(lambda: len(pool.batches) == 1)
            await submit(1)  # each has a worker of its own
            await until(lambda: len(pool.batches) == 2)
            few = await submit(3)
            pool.finish(pool.jobs[0])
            pool.wake()
            await until(lambda: len(pool.batches) == 3)
            assert pool.batches[-1] == few
            many = await submit(dispatch.AHEAD)  # no worker is free
            await until(lambda: len(pool.jobs) == 2 + len(few) + len(many))
            assert sorted(id for batch in pool.batches[3:] for id in batch) == sorted(many)
        finally:
            await runs.close()
