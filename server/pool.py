"""The processes that compute: a Dask pool, embedded in the server's loop or an existing cluster by its address.

The pool carries jobs and reports; what a run is, it does not know. `submit` takes a batch of jobs that become one Dask
task (a task costs about 10 ms, so quick jobs travel together); every job of it ends in exactly one final report:

  done       with its small results                failed     with an error that a person can act on
  cancelled  stopped on request                    returned   never begun, free to be given again
  lost       its process died while it ran

Reports come back through a Dask topic, in order. Dask's own retries are off (`allowed-failures` 0), because a run that
was silently begun again would report twice; the queue's owner decides what a lost job deserves.
"""

import asyncio
import logging
import os
import pickle
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine import worker as work
from server.pool_cluster import Cluster
from server.pool_worker import note_cancelled, run_task

WATCH_INTERVAL: Final = 0.2
RETRY_INTERVAL: Final = 1.0

log = logging.getLogger("workbench.pool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a pool process said about the job `key`. `type` as in `engine.worker.Emit`."""

    key: str
    type: str
    data: Mapping[str, Any]

    @property
    def final(self) -> bool:
        return self.type in work.FINAL


@dataclass(kw_only=True, eq=False)
class _Task:
    """A batch on its way: the job that runs now, since when (monotonic seconds) and where."""

    id: str
    keys: tuple[str, ...]
    limit: float
    future: Any = None
    open: set[str] = field(default_factory=set)
    current: str | None = None
    since: float = 0.0
    address: str = ""
    pid: int = 0
    verdict: tuple[str, str, dict[str, Any]] | None = None

    def first_open(self) -> str | None:
        return next((key for key in self.keys if key in self.open), None)


class Pool:
    """Jobs in, reports out. All methods belong to one event loop.

    `workers` 0 means one for each core. `scheduler` is "" for an embedded cluster or an address such as
    tcp://host:8786. `run_timeout` (seconds) and `run_memory` (bytes) limit every single job; 0 is no limit.
    A cancelled job that does not stop within `grace` seconds loses its process. `do` is what a job runs.
    """

    def __init__(self, *, data_dir: Path, workers: int = 0, scheduler: str = "", run_timeout: float = 0.0,
                 run_memory: int = 0, grace: float = 3.0,
                 do: Callable[..., dict[str, Any]] = work.execute, warm_up: Callable[[], None] = work.warm_up) -> None:
        self._data_dir = Path(data_dir)
        self._cluster = Cluster(data_dir=self._data_dir, workers=workers or os.cpu_count() or 1, scheduler=scheduler,
                                warm_up=warm_up)
        self._timeout = run_timeout
        self._memory = run_memory
        self._grace = grace
        self._do = do
        self._topic = f"workbench-{secrets.token_hex(8)}"
        self._tasks: dict[str, _Task] = {}
        self._task_of: dict[str, _Task] = {}
        self._cancelled: dict[str, float] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        self._sink: Callable[[Report], None] = lambda report: None
        self._wake: Callable[[], None] = lambda: None

    # -- what others see

    @property
    def ready(self) -> bool:
        """True while jobs can be computed at once."""
        return self._cluster.ready and self._cluster.count > 0 and not self._closing

    @property
    def count(self) -> int:
        """How many worker processes are connected."""
        return self._cluster.count

    @property
    def reason(self) -> str:
        """Why the pool is not ready; empty when it is."""
        if self.ready:
            return ""
        return self._cluster.reason or "no worker is connected"

    @property
    def free(self) -> int:
        """How many more batches may be submitted now: two for each worker, so that none waits for the loop."""
        return max(0, 2 * self._cluster.count - len(self._tasks)) if self.ready else 0

    @property
    def waiting(self) -> int:
        """Batches handed over and not finished."""
        return len(self._tasks)

    def pids(self) -> list[int]:
        """Process ids of the embedded workers."""
        return self._cluster.pids()

    def attach(self, sink: Callable[[Report], None], wake: Callable[[], None]) -> None:
        """`sink` gets every report, in order, on the loop; `wake` is called when room or readiness appears."""
        self._sink, self._wake = sink, wake

    async def start(self) -> None:
        """Begin to start the processes and return at once; `ready` tells when they can work."""
        self._cluster.reason = "workers are starting"
        self._spawn(self._supervise())

    async def close(self) -> None:
        """Stop all work and all embedded processes. Jobs not finished get no further report."""
        self._closing = True
        self._tasks.clear()
        self._task_of.clear()
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._cluster.close()

    # -- jobs

    def submit(self, jobs: Sequence[Mapping[str, Any]], *, priority: int = 0) -> None:
        """Hand over a batch; every job has a unique "key". Raises `RuntimeError` when the pool is not ready."""
        if self._cluster.client is None:
            raise RuntimeError("the pool is not ready")
        keys = tuple(job["key"] for job in jobs)
        task = _Task(id=secrets.token_hex(8), keys=keys, limit=self._timeout, open=set(keys))
        self._tasks[task.id] = task
        self._task_of.update(dict.fromkeys(keys, task))
        task.future = self._cluster.client.submit(
            run_task, task.id, self._topic, pickle.dumps([dict(job) for job in jobs]), self._do, str(self._note(task)),
            self._memory, key=f"workbench-{task.id}", pure=False, priority=priority, retries=0)
        self._spawn(self._follow(task))

    def cancel(self, keys: Sequence[str]) -> None:
        """Ask the jobs to stop. Those that run and do not listen lose their process after the grace time."""
        keys = [key for key in keys if key in self._task_of and key not in self._cancelled]
        if keys and self._cluster.client is not None:
            self._cancelled.update(dict.fromkeys(keys, time.monotonic()))
            self._spawn(self._broadcast_cancel(keys))

    async def _broadcast_cancel(self, keys: list[str]) -> None:
        try:
            await self._cluster.client.run(note_cancelled, keys, on_error="ignore")
        except Exception as error:  # a worker that cannot listen meets the grace time
            log.debug("cancel was not heard by every worker: %s", error)

    def _note(self, task: _Task) -> Path:
        return self._data_dir / "results" / ".work" / f"{task.id}.note"

    # -- reports

    def _hear(self, event: tuple[float, Any]) -> None:
        task_id, reports = event[1]
        task = self._tasks.get(task_id)
        for key, kind, data in reports:
            if task is None or key not in task.open:
                continue
            if kind == "started":
                task.current, task.since = key, time.monotonic()
                task.address, task.pid = data.pop("address"), data.pop("pid")
                if key in self._cancelled:
                    self._cancelled[key] = task.since
            self._report(task, key, kind, data)

    def _report(self, task: _Task, key: str, kind: str, data: Mapping[str, Any]) -> None:
        if kind in work.FINAL:
            task.open.discard(key)
            self._task_of.pop(key, None)
            self._cancelled.pop(key, None)
            if task.current == key:
                task.current = None
        self._sink(Report(key=key, type=kind, data=data))

    async def _follow(self, task: _Task) -> None:
        """Wait for the task's end and see to it that each of its jobs has its final report."""
        try:
            error = await self._end_of(task)
            if task.id not in self._tasks:
                return
            if task.open and error is None:  # reports precede the result on the same wire; this is the safety net
                finals = await task.future.result()
                for key in [key for key in task.keys if key in task.open]:
                    self._report(task, key, *finals.get(key, ["returned", {}]))
            elif task.open:
                await self._settle(task, error)
        finally:
            if task.future is not None:
                task.future.release()
            self._tasks.pop(task.id, None)
            if not self._closing:
                self._wake()

    async def _end_of(self, task: _Task) -> BaseException | None:
        from distributed import wait

        try:
            with self._cluster.client.as_current():
                ended = wait(task.future)
            await ended
            return await task.future.exception() if task.future.status == "error" else (
                None if task.future.status == "finished" else ConnectionError("the scheduler went away"))
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return ConnectionError("the scheduler went away")
        except Exception as error:
            if task.future.status == "error":
                return error
            return ConnectionError("the scheduler went away")

    async def _settle(self, task: _Task, error: BaseException | None) -> None:
        """Final reports for what a broken task left open. Jobs run in order, so the first open one was at work."""
        from distributed.scheduler import KilledWorker

        at_work = task.first_open()
        note = await asyncio.to_thread(_take_note, self._note(task))
        for key in [key for key in task.keys if key in task.open]:
            if task.verdict and task.verdict[0] == key:
                self._report(task, key, task.verdict[1], task.verdict[2])
            elif key == at_work and note:
                self._report(task, key, "failed", {"error": note, "code": "memory"})
            elif key == at_work and isinstance(error, KilledWorker) and not task.verdict:
                self._report(task, key, "lost", {"reason": "its worker process died", "begun": task.current == key})
            elif isinstance(error, KilledWorker | ConnectionError) or task.verdict:
                self._report(task, key, "returned", {})
            else:
                self._report(task, key, "failed", {"error": f"{type(error).__name__}: {error}"[:2000], "code": "pool"})

    # -- limits

    def _check_limits(self) -> None:
        now = time.monotonic()
        for task in tuple(self._tasks.values()):
            key = task.current
            if key is None or task.verdict:
                continue
            if task.limit and now - task.since > task.limit:
                reason = f"time limit of {task.limit:g} s exceeded"
                self._kill(task, (key, "failed", {"error": reason, "code": "timeout"}))
            elif key in self._cancelled and now - self._cancelled[key] > self._grace:
                self._kill(task, (key, "cancelled", {}))

    def _kill(self, task: _Task, verdict: tuple[str, str, dict[str, Any]]) -> None:
        """End the process that runs the task. Embedded: by signal, its nanny starts another. Else by the scheduler."""
        task.verdict = verdict
        log.warning("stopping worker %s: job %s %s", task.address, verdict[0], verdict[2].get("error", "cancelled"))
        if task.pid in self.pids():
            os.kill(task.pid, signal.SIGKILL)
        else:
            self._spawn(self._restart(task))

    async def _restart(self, task: _Task) -> None:
        client, address = self._cluster.client, task.address
        await client.cancel([task.future], force=True)
        try:
            await asyncio.wait_for(client.restart_workers([address], timeout=10), 15)
        except Exception as error:
            log.warning("worker %s could not be restarted: %s", address, error)

    # -- the cluster

    async def _supervise(self) -> None:
        cluster = self._cluster
        while True:
            try:
                await cluster.open(self._topic, self._hear)
                self._wake()
                while cluster.connected:
                    if await cluster.look():
                        self._wake()
                    self._check_limits()
                    await asyncio.sleep(WATCH_INTERVAL)
                cluster.reason = f"the scheduler {cluster.name} went away"
            except asyncio.CancelledError:
                raise
            except Exception as error:
                cluster.reason = f"no pool: {error or type(error).__name__}"
            log.warning("%s", cluster.reason)
            await cluster.close()
            await asyncio.sleep(RETRY_INTERVAL)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(job)
        self._background.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pool: %s", error, exc_info=error)


def _take_note(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
    finally:
        path.unlink(missing_ok=True)
