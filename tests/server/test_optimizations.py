"""Searches through a real pool: every trial stored once, whatever happens meanwhile."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Conflict, Invalid
from engine.model import Run
from engine.spec import BacktestSpec
from engine.sweep import read_parameters
from server.pool import Pool
from server.services.optimizations import Optimizations
from tests.harness import until
from tests.server.runs_house import House, running_pool

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    async with running_pool(tmp_path_factory.mktemp("pool")) as made:
        yield made


class Searches(House):
    """A house with the service of searches."""

    async def open(self) -> None:
        await super().open()
        self.searches = Optimizations(db=self.db, events=self.events, runs=self.runs)
        await self.searches.start()

    async def close(self) -> None:
        await self.searches.close()
        await super().close()

    async def submit(self, values: Any, pause: float = 0.0, **more: Any) -> Run:
        spec = BacktestSpec(strategy="test", markets=("demo:A/USD",), params={"pause": pause},
                            start="2020-01-01", end="2020-12-31")
        return await self.searches.submit(spec, read_parameters({"x": values}), lenient=True,
                                          **{"method": "grid", "max_trials": 1000, **more})


@pytest.fixture
async def house(tmp_path: Path, pool: Pool) -> AsyncIterator[Searches]:
    async with Searches(tmp_path, pool) as made:
        yield made


async def test_a_grid_is_computed_once_each_and_the_best_is_found(house: Searches) -> None:
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
async def test_walk_forward_judges_on_the_windows(house: Searches, method: str) -> None:
    run = await house.submit({"low": 4, "high": 12}, method=method, max_trials=9, seed=1,
                             validation={"mode": "walk_forward", "windows": 3, "fraction": 0.3})
    await house.reaches(run, "completed")
    columns = (await house.searches.trials(run.id))["columns"]
    assert len(columns["number"]) == 9 and set(columns["metrics.validation_windows"]) == {3.0}


async def test_a_trial_that_kills_its_worker_fails_alone(house: Searches) -> None:
    run = await house.submit([7, 8, 13, 9])
    await house.reaches(run, "completed")
    columns = (await house.searches.trials(run.id))["columns"]
    assert columns["state"] == ["completed", "completed", "failed", "completed"]
    assert "died twice" in columns["error"][2]


async def test_cancelling_keeps_trials_and_resume_goes_on(house: Searches) -> None:
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


async def test_a_search_goes_on_after_a_restart(house: Searches) -> None:
    run = await house.submit(list(range(20, 50)), pause=0.05)

    async def some() -> bool:
        return (await house.searches.status(run.id))["trials"]["completed"] >= 3

    await until(some, 60)
    await house.close()
    await house.open()
    await house.reaches(run, "completed")
    assert (await house.searches.trials(run.id))["columns"]["number"] == list(range(30))


async def test_a_search_without_any_value_fails_with_the_first_reason(house: Searches) -> None:
    run = await house.submit([3])
    assert (await house.reaches(run, "failed")).error == "x is 3"


async def test_what_cannot_work_is_named(house: Searches) -> None:
    with pytest.raises(Invalid) as caught:
        await house.submit([1], max_trials=0, direction="up", method="luck")
    assert {problem.field for problem in caught.value.problems} == {"max_trials", "direction", "method"}
