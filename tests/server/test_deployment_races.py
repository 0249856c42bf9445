"""Deployments while several things happen at once: the database's answers are held up, and models do as they are
told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.model_runner import Emit, ModelJob
from tests.harness import Held, until
from tests.server.test_deployments import House

pytestmark = pytest.mark.anyio

SCRIPT = "print(1)"
DAILY = "30 14 * * 1-5"


class Stage(House):
    """A house whose models live until `end` says how, or until they are stopped."""

    async def open(self) -> None:
        await super().open()
        self.ends_with: dict[str, Any] = {}
        self.over = threading.Event()
        self.lives = self.deployments.lives
        self.lives._runner = self._live

    def _live(self, job: ModelJob, emit: Emit, stop: Callable[[], bool]) -> str:
        while not stop():
            if self.over.wait(0.005):
                self.over.clear()
                emit("failed" if self.ends_with else "done", self.ends_with)
                return ""
        emit("stopped", {})
        return ""

    def end(self, **ending: Any) -> None:
        """Have one model end by itself, with an `error` or without."""
        self.ends_with = ending
        self.over.set()

    def hold(self, name: str, *, answer: bool = False) -> Held:
        return Held(self.services.db, name, answer=answer)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    await made.open()
    yield made
    await made.close()


async def test_a_look_at_an_old_list_does_not_end_a_model_that_has_begun_since(house: Stage) -> None:
    model = await house.model()
    begin = house.hold("Deployments._begin")
    await house.deployments.run(await house.upload(model, SCRIPT))
    await begin.wait()
    listed = house.hold("Deployments.list", answer=True)
    look = asyncio.create_task(house.deployments.look())
    await listed.wait()  # it says that the model is starting
    begin.release()
    await until(lambda: house.lives.busy)
    listed.release()
    await look
    (life,) = house.lives.of_model(model)
    assert not life.unwanted
    assert (await house.deployments.get(model)).wanted == "running"


async def test_a_version_deployed_while_the_one_before_ends_by_itself_is_started(house: Stage) -> None:
    model = await house.model()
    await house.deployments.run(await house.upload(model, SCRIPT))
    first = await house.reaches(model, "running")
    await until(lambda: house.lives.busy)
    ended = house.hold("Lives.end_run")
    house.end()
    await ended.wait()
    second = await house.upload(model, "print(2)")
    await house.deployments.run(second)
    ended.release()
    now = await house.reaches(model, "running")
    assert (now.version, now.wanted) == (second.id, "running") and now.run != first.run


async def test_a_model_that_was_stopped_while_its_failure_is_written_down_stays_so(house: Stage) -> None:
    model = await house.model()
    await house.deployments.run(await house.upload(model, SCRIPT))
    await house.reaches(model, "running")
    await until(lambda: house.lives.busy)
    after = house.hold("Deployments._after")
    house.end(error="exit code 3")
    await after.wait()
    assert (await house.deployments.stop(model)).state == "stopping"
    after.release()
    assert (await house.reaches(model, "stopped")).wanted == "stopped"


async def test_a_model_that_is_stopped_before_its_process_began_has_none(house: Stage) -> None:
    model = await house.model()
    version = await house.upload(model, SCRIPT)
    asked = house.hold("Activity.model", answer=True)
    await house.deployments.run(version)
    await asked.wait()
    assert (await house.deployments.stop(model)).state == "stopping"
    asked.release()
    await house.reaches(model, "stopped")
    await until(lambda: not house.lives.busy)


async def test_a_backtest_that_is_cancelled_just_before_it_begins_stays_so(house: Stage) -> None:
    model = await house.model()
    version = await house.upload(model, SCRIPT)
    begin = house.hold("Deployments._backtest.<locals>.begin")
    run = await house.deployments.backtest(version, {})
    await begin.wait()
    await house.services.runs.cancel(run.id)
    begin.release()
    await until(lambda: run.id not in house.deployments._queued)
    states = [data["state"] for data in await house.told(f"run/{run.id}", "state")]
    assert states == ["queued", "cancelled"]


async def test_a_screener_that_is_stopped_while_its_next_time_is_written_down_stays_so(house: Stage) -> None:
    model = await house.model()
    version = await house.upload(model, SCRIPT)
    planned = house.hold("Deployments._wait_until")
    await house.deployments.run(version, schedule=DAILY)
    await planned.wait()
    assert (await house.deployments.stop(model)).state == "stopped"
    planned.release()
    await until(lambda: not house.deployments._tasks)
    found = await house.deployments.get(model)
    assert (found.wanted, found.state, found.next_at) == ("stopped", "stopped", None)


@pytest.mark.parametrize(("wanted", "state"), [("running", "starting"), ("stopped", "stopped")])
async def test_what_a_server_left_running_or_stopping_does_so_no_more(house: Stage, wanted: str, state: str) -> None:
    model = await house.model()
    await house.deployments.run(await house.upload(model, SCRIPT))
    await house.reaches(model, "running")
    if wanted == "stopped":
        ended = house.hold("Deployments._after")  # the server dies before it is written down
        await house.deployments.stop(model)
        await ended.wait()
        await house.deployments.close()
    else:
        await house.deployments.close()
    assert (await house.deployments.get(model)).state == ("running" if wanted == "running" else "stopping")
    begin = house.hold("Deployments._begin")
    await house.deployments.start()
    found = await house.deployments.get(model)
    assert (found.wanted, found.state) == (wanted, state)
    begin.release()
