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
import importlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engine import worker as work

PLUGIN: Final = "workbench"
WATCH_INTERVAL: Final = 0.2
RETRY_INTERVAL: Final = 1.0
MEND_AFTER: Final = 20.0
CLOSE_TIMEOUT: Final = 5.0

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
        self._workers = workers or os.cpu_count() or 1
        self._scheduler = scheduler
        self._timeout = run_timeout
        self._memory = run_memory
        self._grace = grace
        self._do = do
        self._warm_up = warm_up
        self._topic = f"workbench-{secrets.token_hex(8)}"
        self._cluster: Any = None
        self._client: Any = None
        self._tasks: dict[str, _Task] = {}
        self._task_of: dict[str, _Task] = {}
        self._cancelled: dict[str, float] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._count = 0
        self._ready = False
        self._whole_at = time.monotonic()
        self._reason = "not started"
        self._closing = False
        self._sink: Callable[[Report], None] = lambda report: None
        self._wake: Callable[[], None] = lambda: None

    # -- what others see

    @property
    def ready(self) -> bool:
        """True while jobs can be computed at once."""
        return self._ready and self._count > 0

    @property
    def count(self) -> int:
        """How many worker processes are connected."""
        return self._count

    @property
    def reason(self) -> str:
        """Why the pool is not ready; empty when it is."""
        if self.ready:
            return ""
        return self._reason or "no worker is connected"

    @property
    def free(self) -> int:
        """How many more batches may be submitted now: two for each worker, so that none waits for the loop."""
        return max(0, 2 * self._count - len(self._tasks)) if self.ready else 0

    @property
    def waiting(self) -> int:
        """Batches handed over and not finished."""
        return len(self._tasks)

    def pids(self) -> list[int]:
        """Process ids of the embedded workers."""
        nannies = self._cluster.workers.values() if self._cluster else ()
        return [pid for nanny in nannies if (pid := getattr(nanny, "pid", None))]

    def attach(self, sink: Callable[[Report], None], wake: Callable[[], None]) -> None:
        """`sink` gets every report, in order, on the loop; `wake` is called when room or readiness appears."""
        self._sink, self._wake = sink, wake

    async def start(self) -> None:
        """Begin to start the processes and return at once; `ready` tells when they can work."""
        self._reason = "workers are starting"
        self._spawn(self._supervise())

    async def close(self) -> None:
        """Stop all work and all embedded processes. Jobs not finished get no further report."""
        self._closing = True
        self._ready = False
        self._tasks.clear()
        self._task_of.clear()
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._disconnect()

    # -- jobs

    def submit(self, jobs: Sequence[Mapping[str, Any]], *, priority: int = 0) -> None:
        """Hand over a batch; every job has a unique "key". Raises `RuntimeError` when the pool is not ready."""
        if self._client is None:
            raise RuntimeError("the pool is not ready")
        keys = tuple(job["key"] for job in jobs)
        task = _Task(id=secrets.token_hex(8), keys=keys, limit=self._timeout, open=set(keys))
        self._tasks[task.id] = task
        self._task_of.update(dict.fromkeys(keys, task))
        task.future = self._client.submit(
            run_task, task.id, self._topic, [dict(job) for job in jobs], self._do, str(self._note(task)), self._memory,
            key=f"workbench-{task.id}", pure=False, priority=priority, retries=0)
        self._spawn(self._follow(task))

    def cancel(self, keys: Sequence[str]) -> None:
        """Ask the jobs to stop. Those that run and do not listen lose their process after the grace time."""
        keys = [key for key in keys if key in self._task_of and key not in self._cancelled]
        if keys and self._client is not None:
            self._cancelled.update(dict.fromkeys(keys, time.monotonic()))
            self._spawn(self._broadcast_cancel(keys))

    async def _broadcast_cancel(self, keys: list[str]) -> None:
        try:
            await self._client.run(_note_cancelled, keys, on_error="ignore")
        except Exception as error:  # a worker that cannot listen meets the grace time
            log.debug("cancel was not heard by every worker: %s", error)

    def _note(self, task: _Task) -> Path:
        return self._data_dir / "results" / ".work" / f"{task.id}.note"

    # -- reports

    def _hear(self, event: tuple[float, Any]) -> None:
        task_id, key, kind, data = event[1]
        task = self._tasks.get(task_id)
        if task is None or key not in task.open:
            return
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
            with self._client.as_current():
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
        client, address = self._client, task.address
        await client.cancel([task.future], force=True)
        try:
            await asyncio.wait_for(client.restart_workers([address], timeout=10), 15)
        except Exception as error:
            log.warning("worker %s could not be restarted: %s", address, error)

    # -- the cluster

    async def _supervise(self) -> None:
        while True:
            try:
                await self._connect()
                while self._client.status == "running":
                    await self._count_workers()
                    self._check_limits()
                    await asyncio.sleep(WATCH_INTERVAL)
                self._reason = f"the scheduler {self._scheduler or '(embedded)'} went away"
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._reason = f"no pool: {error or type(error).__name__}"
            self._ready, self._count = False, 0
            log.warning("%s", self._reason)
            await self._disconnect()
            await asyncio.sleep(RETRY_INTERVAL)

    async def _connect(self) -> None:
        distributed = await asyncio.to_thread(_load)
        (self._data_dir / "results" / ".work").mkdir(parents=True, exist_ok=True)
        if self._scheduler:
            address: Any = self._scheduler
        else:
            cache = self._data_dir / "cache" / "numba"
            cache.mkdir(parents=True, exist_ok=True)
            self._cluster = address = await distributed.LocalCluster(
                asynchronous=True, processes=True, n_workers=self._workers, threads_per_worker=1, host="127.0.0.1",
                dashboard_address=None, scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                memory_limit=0, silence_logs=logging.ERROR,
                local_directory=str(self._data_dir / "cache" / "dask"),
                env={"NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                     "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
        self._client = await distributed.Client(address, asynchronous=True, set_as_default=False, timeout=10)
        self._client.subscribe_topic(self._topic, self._hear)
        plugin = type("WorkbenchPlugin", (distributed.WorkerPlugin,), {
            "name": PLUGIN, "idempotent": True, "setup": _set_up, "warm_up": staticmethod(self._warm_up)})
        await self._client.register_plugin(plugin(), name=PLUGIN)
        await self._check_shared()

    async def _check_shared(self) -> None:
        """Every worker must see the data directory, or results would be written where nobody finds them."""
        probe = self._data_dir / "results" / ".work" / f"probe-{secrets.token_hex(8)}"
        word = secrets.token_hex(16)
        probe.write_text(word)
        try:
            seen = await self._client.run(_read_probe, str(probe))
        finally:
            probe.unlink(missing_ok=True)
        blind = sorted(address for address, text in seen.items() if text != word)
        if blind:
            self._ready = False
            self._reason = (f"worker {blind[0]} does not see the data directory {self._data_dir}; "
                            "mount it there under the same path")
            self._seen: frozenset[str] = frozenset()
        else:
            self._ready, self._reason = True, ""
            self._seen = frozenset(seen)
        self._count = len(seen)
        self._wake()

    async def _count_workers(self) -> None:
        if self._cluster is not None:
            count = len(self._cluster.scheduler.workers)
            self._mend(count)
        else:
            present = frozenset(await self._client.scheduler.ncores())
            if present - self._seen:  # newcomers, or some that were blind before
                await self._check_shared()
            count = len(present)
        if count != self._count:
            self._count = count
            self._wake()

    def _mend(self, count: int) -> None:
        """Have workers made again whose nanny gave up, which it does when a worker dies while it starts."""
        now = time.monotonic()
        if count >= self._workers:
            self._whole_at = now
        elif now - self._whole_at > MEND_AFTER:
            self._whole_at = now
            self._cluster.scale(self._workers)

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        for closing in (client, cluster):
            if closing is None:
                continue
            try:
                if closing is cluster:
                    for nanny in cluster.workers.values():
                        nanny.auto_restart = False
                        if (pid := getattr(nanny, "pid", None)):
                            os.kill(pid, signal.SIGKILL)
            except OSError as error:
                log.debug("closing the pool: %s", error)
            # A client whose scheduler is gone may never end its closing; wait_for would wait for it all the same.
            ending = asyncio.ensure_future(closing.close())
            ending.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait([ending], timeout=CLOSE_TIMEOUT)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(job)
        self._background.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pool: %s", error, exc_info=error)


def _load() -> Any:
    """The distributed package, set up for this pool. Takes about a second the first time."""
    import dask

    distributed = importlib.import_module("distributed")
    logging.getLogger("distributed").setLevel(logging.ERROR)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is told of in our own words
    dask.config.set({
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.work-stealing": True,
        "distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False,
        "distributed.worker.daemon": True,
        "distributed.admin.tick.limit": "30s",
    })
    return distributed


def _take_note(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
    finally:
        path.unlink(missing_ok=True)


# -- below runs in the worker processes


class _State:
    """What a worker remembers between tasks: the jobs that were cancelled."""

    def __init__(self) -> None:
        self.cancelled: set[str] = set()


async def _set_up(plugin: Any, worker: Any) -> None:
    worker.workbench = _State()
    try:
        await asyncio.to_thread(plugin.warm_up)
    except Exception as error:  # the first run will say it better; a worker that starts late is worth more than none
        logging.getLogger("distributed.worker").error("warm-up failed: %s: %s", type(error).__name__, error)


def _note_cancelled(keys: list[str], dask_worker: Any = None) -> None:
    dask_worker.workbench.cancelled.update(keys)


def _read_probe(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def run_task(task_id: str, topic: str, jobs: list[dict[str, Any]], do: Callable[..., dict[str, Any]], note: str,
             memory: int) -> dict[str, list[Any]]:
    """One Dask task: a batch of jobs on this worker."""
    from distributed import get_worker

    worker = get_worker()
    cancelled = worker.workbench.cancelled

    def emit(key: str, kind: str, data: dict[str, Any]) -> None:
        if kind == "started":
            data = {**data, "address": worker.address, "pid": os.getpid()}
        worker.log_event(topic, [task_id, key, kind, data])

    try:
        if not memory:
            return work.run_batch(jobs, emit, cancelled.__contains__, do)
        with work.MemoryGuard(memory, Path(note)):
            return work.run_batch(jobs, emit, cancelled.__contains__, do)
    finally:
        cancelled.difference_update(job["key"] for job in jobs)
