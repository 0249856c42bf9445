"""A pool on somebody else's scheduler: real scheduler and worker processes on loopback."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.candle_store import CandleStore
from server import pool_cluster
from server.pool import Pool
from server.services.runs import Runs
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import until
from tests.server import pool_jobs

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """A scheduler and workers as processes of their own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int = 1) -> None:
        self._spawn("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard",
                    "--dashboard-address", "127.0.0.1:0")
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> None:
        self._spawn("distributed.cli.dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1",
                    "--no-dashboard", "--local-directory", str(self._folder))

    def blind_worker(self, hidden: Path) -> None:
        """A worker, without a nanny, that sees an empty folder where `hidden` is."""
        self._spawn("distributed.cli.dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1",
                    "--no-dashboard", "--no-nanny", "--local-directory", "/tmp",
                    before=("bwrap", "--dev-bind", "/", "/", "--tmpfs", str(hidden), "--"))

    def _spawn(self, module: str, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self._processes.append(subprocess.Popen(
            [*before, sys.executable, "-m", module, *arguments], cwd=ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}))

    def kill_newest(self) -> None:
        process = self._processes.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "dask")
    yield made
    made.kill()


async def test_runs_wait_for_a_scheduler_and_survive_its_loss(cluster: Cluster, tmp_path: Path) -> None:
    pool = Pool(data_dir=tmp_path, scheduler=cluster.address, grace=0.3, do=pool_jobs.do, warm_up=pool_jobs.nothing)
    async with Database(tmp_path / "workbench.sqlite") as db:
        events = EventLog(db)
        runs = Runs(db=db, events=events, pool=pool, store=CandleStore(tmp_path / "candles"), data_dir=tmp_path)
        spec = {"strategy": "test", "params": {}, "markets": ["demo:A/USD"]}
        await pool.start()
        await runs.start()
        try:
            first = await runs.submit(spec, lenient=True)
            assert not pool.ready and pool.reason
            await asyncio.to_thread(cluster.start, 1)

            async def state(id: str) -> str:
                return (await runs.get(id)).state

            await until(lambda: pool.ready, 60)
            assert pool.reason == "" and pool.count == 1 and pool.pids() == []

            async def first_done() -> bool:
                return await state(first.id) == "completed"

            await until(first_done, 60)

            held = await runs.submit({**spec, "params": {"act": "gate", "gate": str(tmp_path / "gate")}}, lenient=True)

            async def held_runs() -> bool:
                return await state(held.id) == "running"

            await until(held_runs, 60)
            await asyncio.to_thread(cluster.kill)
            await until(lambda: not pool.ready, 60)
            assert "went away" in pool.reason or "no pool" in pool.reason
            late = await runs.submit(spec, lenient=True)
            (tmp_path / "gate").touch()
            await asyncio.to_thread(cluster.start, 1)

            async def all_done() -> bool:
                return {await state(held.id), await state(late.id)} == {"completed"}

            await until(all_done, 90)
            states = [event.data["state"] for event in await events.page(f"run/{held.id}", types=["state"])]
            assert states == ["queued", "running", "queued", "running", "completed"]
        finally:
            await runs.close()
            await pool.close()


async def test_a_deaf_run_on_a_strange_worker_is_stopped_by_the_scheduler(cluster: Cluster, tmp_path: Path) -> None:
    heard: list = []
    pool = Pool(data_dir=tmp_path, scheduler=cluster.address, grace=0.2, do=pool_jobs.do, warm_up=pool_jobs.nothing)
    pool.attach(heard.append, lambda: None)
    await asyncio.to_thread(cluster.start, 1)
    await pool.start()
    try:
        await until(lambda: pool.ready, 60)
        pool.submit([{"key": "deaf", "kind": "backtest", "run_id": "deaf", "spec": {"params": {"act": "deaf"}}}])
        await until(lambda: any(report.type == "started" for report in heard), 30)
        pool.cancel(["deaf"])
        await until(lambda: not pool.waiting, 30)
        assert [report.type for report in heard if report.final] == ["cancelled"]
        await until(lambda: pool.ready, 60)
        pool.submit([{"key": "next", "kind": "backtest", "run_id": "next", "spec": {"params": {}}}])
        await until(lambda: not pool.waiting, 60)
        assert heard[-1].type == "done"
    finally:
        await pool.close()


async def test_runs_wait_while_a_worker_does_not_see_the_data_directory(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pool = Pool(data_dir=data, scheduler=cluster.address, do=pool_jobs.do, warm_up=pool_jobs.nothing)
    async with Database(tmp_path / "workbench.sqlite") as db:
        runs = Runs(db=db, events=EventLog(db), pool=pool, store=CandleStore(data / "candles"), data_dir=data)
        await asyncio.to_thread(cluster.start, 0)
        await asyncio.to_thread(cluster.blind_worker, data)
        await pool.start()
        await runs.start()
        try:
            run = await runs.submit({"strategy": "test", "params": {}, "markets": ["demo:A/USD"]}, lenient=True)
            await until(lambda: "does not see the server's data directory" in pool.reason, 60)
            assert not pool.ready and str(data) not in pool.reason  # /healthz says it to everybody
            assert (await runs.get(run.id)).state == "queued"
            await asyncio.to_thread(cluster.kill_newest)
            await asyncio.to_thread(cluster.add_worker)

            async def done() -> bool:
                return (await runs.get(run.id)).state == "completed"

            await until(done, 60)
            assert pool.ready and pool.reason == ""
        finally:
            await runs.close()
            await pool.close()


async def test_a_run_fails_with_a_reason_on_a_worker_that_sees_another_directory(
        cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trusting(self: pool_cluster.Cluster) -> None:  # as if the worker had gone blind after it was asked
        self.ready, self.reason = True, ""

    monkeypatch.setattr(pool_cluster.Cluster, "_check_shared", trusting)
    data = tmp_path / "data"
    data.mkdir()
    pool = Pool(data_dir=data, scheduler=cluster.address, do=pool_jobs.do, warm_up=pool_jobs.nothing)
    async with Database(tmp_path / "workbench.sqlite") as db:
        runs = Runs(db=db, events=EventLog(db), pool=pool, store=CandleStore(data / "candles"), data_dir=data)
        await asyncio.to_thread(cluster.start, 0)
        await asyncio.to_thread(cluster.blind_worker, data)
        await pool.start()
        await runs.start()

        try:
            run = await runs.submit({"strategy": "test", "params": {}, "markets": ["demo:A/USD"]}, lenient=True)

            async def failed() -> bool:
                return (await runs.get(run.id)).state == "failed"

            await until(failed, 60)
            assert "does not see the server's data directory; mount it" in ((await runs.get(run.id)).error or "")
        finally:
            await runs.close()
            await pool.close()
