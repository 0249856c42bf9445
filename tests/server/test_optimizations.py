"""Searches through a real pool: every trial stored once, whatever happens meanwhile."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.candle_store import CandleStore
from engine.errors import Conflict, Invalid
from engine.model import Run
from engine.spec import BacktestSpec
from engine.sweep import read_parameters
from server.pool import Pool
from server.services.optimizations import Optimizations
from server.services.runs import Runs
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import until
from tests.server import pool_jobs

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    made = Pool(data_dir=tmp_path_factory.mktemp("pool"), workers=2, do=pool_jobs.do, warm_up=pool_jobs.nothing)
    await made.start()
    await until(lambda: made.ready, 60)
    yield made
    await made.close()


class House:
    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder, self.pool = folder, pool

    async def open(self) -> None:
        self.db = Database(self.folder / "workbench.sqlite")
        await self.db.open()
        self.events = EventLog(self.db)
        self.runs = Runs(db=self.db, events=self.events, pool=self.pool, store=CandleStore(self.folder / "candles"),
                         data_dir=self.folder)
        self.searches = Optimizations(db=self.db, events=self.events, runs=self.runs)
        await self.runs.start()
        await self.searches.start()

    async def close(self) -> None:
        await self.searches.close()
        await self.runs.close()
        await self.db.close()

    async def submit(self, values: Any, pause: float = 0.0, **more: Any) -> Run:
        spec = BacktestSpec(strategy="test", markets=("demo:A/USD",), params={"pause": pause},
                            start="2020-01-01", end="2020-12-31")
        return await self.searches.submit(spec, read_parameters({"x": values}), lenient=True,
                                          **{"method": "grid", "max_trials": 1000, **more})

    async def reaches(self, run: Run, state: str) -> Run:
        async def there() -> Run | None:
            found = await self.runs.get(run.id)
            return found if found.state == state else None

        return await until(there, 60)


@pytest.fixture
async def house(tmp_path: Path, pool: Pool) -> AsyncIterator[House]:
    made = House(tmp_path, pool)
    await made.open()
    yield made
    await made.close()
    await until(lambda: not pool.waiting, 60)


async def test_a_grid_is_computed_once_each_and_the_best_is_found(house: House) -> None:
    run = await house.submit(list(range(12)))
    done = await house.reaches(run, "completed")
    status = await house.searches.status(run.id)
    assert status["trials"] == {"completed": 11, "failed": 1, "total": 12, "running": 0}
    assert (status["best"]["number"], status["best"]["parameters"]) == (7, {"x": 7})
    assert done.metrics["objective"] == 0.0 and 0 <= done.metrics["deflated_sharpe"] <= 1
    table = (await house.searches.trials(run.id))["columns"]
    assert table["number"] == table["params.x"] == list(range(12))
    assert table["error"][3] == "x is 3" and table["objective"][3] is None
    best_first = await house.searches.trials(run.id, sort="objective", descending=True, limit=1)
    assert best_first["columns"]["params.x"] == [7] and best_first["total"] == 12
    events = [event async for event in house.runs.follow(run.id)]
    assert [event.data["state"] for event in events if event.type == "state"] == ["queued", "running", "completed"]


@pytest.mark.parametrize("method", ["random", "bayesian"])
async def test_walk_forward_judges_on_the_windows(house: House, method: str) -> None:
    run = await house.submit({"low": 4, "high": 12}, method=method, max_trials=9, seed=1,
                             validation={"mode": "walk_forward", "windows": 3, "fraction": 0.3})
    await house.reaches(run, "completed")
    columns = (await house.searches.trials(run.id))["columns"]
    assert len(columns["number"]) == 9 and set(columns["metrics.validation_windows"]) == {3.0}


async def test_a_trial_that_kills_its_worker_fails_alone(house: House) -> None:
    run = await house.submit([7, 8, 13, 9])
    await house.reaches(run, "completed")
    columns = (await house.searches.trials(run.id))["columns"]
    assert columns["state"] == ["completed", "completed", "failed", "completed"]
    assert "died twice" in columns["error"][2]


async def test_cancelling_keeps_trials_and_resume_goes_on(house: House) -> None:
    run = await house.submit(list(range(4, 12)) * 1 + list(range(20, 60)), pause=0.05)

    async def some() -> bool:
        return (await house.searches.status(run.id))["trials"]["completed"] >= 3

    await until(some, 60)
    assert (await house.searches.cancel(run.id)).state == "cancelled"
    kept = (await house.searches.trials(run.id))["columns"]["number"]
    assert 3 <= len(kept) < 48
    await house.searches.resume(run.id)
    await house.reaches(run, "completed")
    assert (await house.searches.trials(run.id))["columns"]["number"] == list(range(48))
    with pytest.raises(Conflict, match="completed"):
        await house.searches.resume(run.id)


async def test_a_search_goes_on_after_a_restart(house: House) -> None:
    run = await house.submit(list(range(20, 50)), pause=0.05)

    async def some() -> bool:
        return (await house.searches.status(run.id))["trials"]["completed"] >= 3

    await until(some, 60)
    await house.close()
    await house.open()
    await house.reaches(run, "completed")
    assert (await house.searches.trials(run.id))["columns"]["number"] == list(range(30))


async def test_a_search_without_any_value_fails_with_the_first_reason(house: House) -> None:
    run = await house.submit([3])
    assert (await house.reaches(run, "failed")).error == "x is 3"


async def test_what_cannot_work_is_named(house: House) -> None:
    with pytest.raises(Invalid) as caught:
        await house.submit([1], max_trials=0, direction="up", method="luck")
    assert {problem.field for problem in caught.value.problems} == {"max_trials", "direction", "method"}
