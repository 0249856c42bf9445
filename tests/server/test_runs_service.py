"""Runs through a real pool of processes: states, events, cancelling, losses, restarts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Conflict, Invalid, NotFound
from engine.model import Run
from server.pool import Pool
from tests.harness import until
from tests.server.runs_house import House, running_pool

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    async with running_pool(tmp_path_factory.mktemp("pool"), grace=0.3) as made:
        yield made


class Desk(House):
    async def submit(self, **params: Any) -> Run:
        spec = {"strategy": "test", "params": params, "markets": ["demo:A/USD"], "resolution": "1d"}
        return await self.runs.submit(spec, lenient=True)

    async def story(self, run: Run) -> list[tuple[str, Any]]:
        events = await self.events.page(f"run/{run.id}")
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        words = {"state": "state", "progress": "progress", "log": "message", "metric": "name"}
        return [(event.type, event.data[words[event.type]]) for event in events]


@pytest.fixture
async def house(tmp_path: Path, pool: Pool) -> AsyncIterator[Desk]:
    async with Desk(tmp_path, pool) as made:
        yield made


NORMAL = [("state", "queued"), ("state", "running"), ("progress", 0.1), ("progress", 0.3), ("progress", 0.95),
          ("state", "completed")]


async def test_a_submitted_run_completes_with_six_events_and_a_folder(house: Desk) -> None:
    run = await house.submit()
    assert run.state == "queued"
    seen = [event async for event in house.runs.follow(run.id)]
    assert [event.type for event in seen] == ["state", "state", "progress", "progress", "progress", "state"]
    assert await house.story(run) == NORMAL
    done = await house.runs.get(run.id)
    assert (done.state, done.progress, done.metrics, done.attempts) == ("completed", 1.0, {"answer": 42.0}, 0)
    assert done.created_at <= done.started_at <= done.finished_at
    assert (house.runs.folder(run.id) / "summary.json").read_text() == "{}"
    assert await house.runs.summary(run.id) == {}
    assert [event.seq async for event in house.runs.follow(run.id, 4)] == [5, 6]
    assert [event.seq async for event in house.runs.follow(run.id, 99)] == []


@pytest.mark.parametrize(("act", "words"), [("invalid", "params.thing: no such thing (leave it out)"),
                                            ("crash", "ZeroDivisionError: by zero")])
async def test_a_failing_run_says_why_and_leaves_no_folder(house: Desk, act: str, words: str) -> None:
    run = await house.submit(act=act)
    failed = await house.reaches(run, "failed")
    assert words in failed.error
    assert (await house.story(run))[-2:] == [("progress", 0.3), ("state", "failed")]
    assert not house.runs.folder(run.id).exists()
    with pytest.raises(Conflict, match="failed"):
        await house.runs.summary(run.id)


async def test_a_run_whose_results_are_nowhere_has_failed(house: Desk) -> None:
    failed = await house.reaches(await house.submit(act="elsewhere"), "failed")
    assert "the worker sees another one under the same path" in failed.error and failed.metrics == {}


async def test_chatter_is_throttled_and_the_fixed_steps_stay(house: Desk) -> None:
    run = await house.submit(act="chatty")
    await house.reaches(run, "completed")
    story = await house.story(run)
    assert len(story) < 60
    assert [entry for entry in story if entry in NORMAL] == NORMAL
    assert ("log", "a log?") in story and ("metric", "nan") in story
    fractions = [value for kind, value in story if kind == "progress"]
    assert fractions == sorted(fractions)


async def test_a_queued_run_is_cancelled_at_once_and_never_begins(house: Desk) -> None:
    gate = house.folder / "gate"
    blockers = [await house.submit(act="gate", gate=str(gate)) for _ in range(2)]
    await until(lambda: house.pool.waiting == 2)  # every worker has something to do
    queued = await house.submit()
    assert (await house.runs.cancel(queued.id)).state == "cancelled"
    gate.touch()
    for run in blockers:
        await house.reaches(run, "completed")
    assert await house.story(queued) == [("state", "queued"), ("state", "cancelled")]
    assert (await house.runs.cancel(queued.id)).state == "cancelled"
    assert len(await house.story(queued)) == 2


async def test_a_running_run_stops_soon_after_it_was_cancelled(house: Desk) -> None:
    run = await house.submit(act="listen")
    await house.reaches(run, "running")
    pids = house.pool.pids()
    cancelled = await house.runs.cancel(run.id)
    assert cancelled.state == "cancelled" and cancelled.finished_at
    await until(lambda: not house.runs.dispatcher.holds(run.id))
    assert house.pool.pids() == pids
    assert (await house.story(run))[-1] == ("state", "cancelled")
    assert not house.runs.folder(run.id).exists() and not any((house.folder / "results" / ".work").iterdir())


async def test_a_run_that_does_not_listen_loses_its_process(house: Desk) -> None:
    run = await house.submit(act="deaf")
    await house.reaches(run, "running")
    pids = set(house.pool.pids())
    await house.runs.cancel(run.id)
    await until(lambda: not house.runs.dispatcher.holds(run.id))
    await until(lambda: len(set(house.pool.pids()) & pids) == 1)
    assert (await house.story(run))[-1] == ("state", "cancelled")
    other = await house.submit()
    await house.reaches(other, "completed")


async def test_a_finished_run_cannot_be_cancelled_and_a_running_one_not_deleted(house: Desk) -> None:
    run = await house.submit()
    await house.reaches(run, "completed")
    with pytest.raises(Conflict, match="already completed"):
        await house.runs.cancel(run.id)
    other = await house.submit(act="listen")
    await house.reaches(other, "running")
    with pytest.raises(Conflict, match="running"):
        await house.runs.delete(other.id)
    await house.runs.cancel(other.id)
    await house.runs.delete(other.id)
    await house.runs.delete(run.id)
    assert not house.runs.folder(run.id).exists()
    for gone in (run, other):
        with pytest.raises(NotFound):
            await house.runs.get(gone.id)
        assert await house.events.page(f"run/{gone.id}") == []


async def test_a_killed_worker_costs_one_retry_and_no_run(house: Desk) -> None:
    gate = house.folder / "gate"
    run = await house.submit(act="die_once", mark=str(house.folder / "mark"), gate=str(gate))
    others = [await house.submit() for _ in range(20)]
    await house.reaches(run, "running")
    gate.touch()
    done = await house.reaches(run, "completed")
    assert done.attempts == 1
    states = [value for kind, value in await house.story(run) if kind == "state"]
    assert states == ["queued", "running", "queued", "running", "completed"]
    for other in others:
        assert (await house.reaches(other, "completed")).attempts == 0


async def test_a_run_that_kills_two_workers_fails_with_a_reason(house: Desk) -> None:
    run = await house.submit(act="die")
    failed = await house.reaches(run, "failed")
    assert "worker process died twice" in failed.error and failed.attempts == 1
    assert not house.runs.folder(run.id).exists()


async def test_kill_9_of_a_worker_from_outside_loses_no_run(house: Desk) -> None:
    gate = house.folder / "gate"
    runs = [await house.submit(act="gate", gate=str(gate)) for _ in range(12)]
    await house.reaches(runs[0], "running")
    os.kill(house.pool.pids()[0], signal.SIGKILL)
    gate.touch()
    for run in runs:
        assert (await house.reaches(run, "completed")).attempts <= 1
    assert (await house.story(runs[-1]))[-1] == ("state", "completed")


async def test_after_a_restart_queued_runs_run_and_running_ones_are_queued_once(house: Desk) -> None:
    run = await house.submit(act="deaf")
    await house.reaches(run, "running")
    for pid in house.pool.pids():
        os.kill(pid, signal.SIGSTOP)
    queued = await house.submit()
    pids = house.pool.pids()
    await house.close()  # what the pool reports from now on finds nobody, as after a kill
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await house.open()
    again = await house.runs.get(run.id)
    assert (again.state, again.attempts) == ("queued", 1) or again.state == "running"
    await house.reaches(queued, "completed")
    events = await house.events.page(f"run/{run.id}")
    requeued = [event for event in events if event.data.get("message") == "server restarted"]
    assert [event.data["previous_state"] for event in requeued] == ["running"]
    await house.reaches(run, "running")
    await house.close()
    await house.open()
    failed = await house.runs.get(run.id)
    assert (failed.state, failed.error) == ("failed", "server restarted")
    for pid in house.pool.pids():
        os.kill(pid, signal.SIGKILL)


async def test_the_same_key_and_body_is_the_same_run(house: Desk) -> None:
    spec = {"strategy": "test", "params": {}, "markets": ["demo:A/USD"]}
    first, second = await asyncio.gather(*(
        house.runs.submit(spec, lenient=True, idempotency_key="k", owner="me") for _ in range(2)))
    assert first.id == second.id
    with pytest.raises(Conflict, match="idempotency"):
        await house.runs.submit({**spec, "params": {"answer": 1}}, lenient=True, idempotency_key="k", owner="me")
    stranger = await house.runs.submit(spec, lenient=True, idempotency_key="k", owner="you")
    assert stranger.id != first.id
    assert (await house.runs.list()).total == 2


async def test_500_runs_at_once_all_complete(house: Desk) -> None:
    runs = await asyncio.gather(*(house.submit(answer=number) for number in range(500)))

    async def finished() -> bool:
        return (await house.runs.list(states=["completed"], limit=1)).total == 500

    await until(finished, 60)
    for number in (0, 250, 499):
        assert (await house.runs.get(runs[number].id)).metrics == {"answer": float(number)}
        assert await house.story(runs[number]) == NORMAL


async def test_a_single_run_does_not_wait_for_anothers_flood(house: Desk) -> None:
    spec = {"strategy": "test", "params": {"act": "deaf", "seconds": 0.05}, "markets": ["demo:A/USD"]}
    flood = await asyncio.gather(*(house.runs.submit(spec, lenient=True, owner="flood") for _ in range(300)))
    single = await house.runs.submit({**spec, "params": {}}, lenient=True, owner="me")
    await house.reaches(single, "completed")
    waiting = (await house.runs.list(states=["queued"], limit=1)).total
    assert waiting > 100
    await asyncio.gather(*(house.runs.cancel(run.id) for run in flood[::-1]), return_exceptions=True)


async def test_annotations_change_what_people_wrote_and_nothing_else(house: Desk) -> None:
    run = await house.submit()
    done = await house.reaches(run, "completed")
    changed = await house.runs.annotate(run.id, name="mine", tags=["a", "a", "b"], notes="good")
    assert (changed.name, changed.tags, changed.notes) == ("mine", ("a", "b"), "good")
    assert changed.finished_at == done.finished_at
    for wrong in ({"name": "x" * 257}, {"tags": [""]}, {"notes": "x" * 20_001}):
        with pytest.raises(Invalid):
            await house.runs.annotate(run.id, **wrong)
    with pytest.raises(NotFound):
        await house.runs.annotate("nope", name="x")


async def test_rerun_is_a_new_run_of_the_same_spec(house: Desk) -> None:
    run = await house.submit(answer=7)
    await house.reaches(run, "completed")
    again = await house.runs.rerun(run.id)
    assert again.id != run.id and again.spec == run.spec
    assert (await house.reaches(again, "completed")).metrics == {"answer": 7.0}


