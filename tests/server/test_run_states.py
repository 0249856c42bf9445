"""What the reports about a run make of it, told by hand: which deaths of a worker count against the run."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.candle_store import CandleStore
from engine.model import Run
from server.pool import Pool, Report
from server.services.run_states import apply_reports
from server.services.runs import Runs
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import new_database

pytestmark = pytest.mark.anyio


class Queue:
    """Runs on a pool that is never started; reports are made by hand."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(new_database(folder / "workbench.sqlite"))
        self.folder = folder
        self.strikes: dict[str, int] = {}

    async def open(self) -> None:
        await self.db.open()
        self.events = EventLog(self.db)
        self.runs = Runs(db=self.db, events=self.events, pool=Pool(data_dir=self.folder, workers=1),
                         store=CandleStore(self.folder / "candles"), data_dir=self.folder)

    async def submit(self) -> Run:
        return await self.runs.submit({"strategy": "test", "markets": ["demo:A/USD"]}, lenient=True)

    async def hear(self, run: Run, *reports: tuple[str, dict[str, Any]]) -> Run:
        """The run after the pool said this."""
        row = await self.runs.get(run.id)
        said = [Report(key="k", type=type, data=data) for type, data in reports]
        await self.db.write(lambda connection: apply_reports(connection, self.events, [(row, said)], {}, self.strikes))
        return await self.runs.get(run.id)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    made = Queue(tmp_path)
    await made.open()
    yield made
    await made.db.close()


LOST = ("lost", {"reason": "its worker process died", "begun": True})
UNBEGUN = ("lost", {"reason": "its worker process died", "begun": False})
STARTED = ("started", {})


async def test_a_run_is_given_one_more_try_after_a_death_while_it_ran(queue: Queue) -> None:
    run = await queue.hear(await queue.submit(), STARTED, LOST)
    assert (run.state, run.attempts) == ("queued", 1)
    run = await queue.hear(run, STARTED, LOST)
    assert run.state == "failed" and "died twice" in str(run.error)


async def test_a_death_before_it_began_takes_no_try_not_even_the_last(queue: Queue) -> None:
    run = await queue.hear(await queue.submit(), STARTED, LOST)
    run = await queue.hear(run, UNBEGUN)
    assert (run.state, run.attempts) == ("queued", 1)
    run = await queue.hear(run, STARTED, ("done", {"metrics": {}}))
    assert run.state == "completed" and not queue.strikes


async def test_a_run_that_kills_before_it_can_say_so_ends_all_the_same(queue: Queue) -> None:
    run = await queue.submit()
    for expected in ("queued", "queued", "queued", "failed"):
        run = await queue.hear(run, UNBEGUN)
        assert run.state == expected
