"""The pool's processes: a Dask cluster of this server's own, or one that stands already under an address."""

import asyncio
import importlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from server.pool_worker import read_probe, set_up

__all__ = ["Cluster"]

PLUGIN: Final = "workbench"
MEND_AFTER: Final = 20.0
CLIENT_TIMEOUT: Final = 5.0  # seconds to close: a client whose scheduler is gone may never end that
CLUSTER_TIMEOUT: Final = 30.0  # as long as a busy machine takes
CLOSINGS: Final = 5

log = logging.getLogger("workbench.pool")


class Cluster:
    """Worker processes and the connection to them. `client` is None while there is none.

    `workers` is how many an embedded cluster has; `scheduler` is "" for an embedded one, else an address.
    `ready` means that every worker is warm and sees the data directory, `reason` says why not.
    """

    def __init__(self, *, data_dir: Path, workers: int, scheduler: str, warm_up: Callable[[], None]) -> None:
        self._data_dir = data_dir
        self._workers = workers
        self._scheduler = scheduler
        self._warm_up = warm_up
        self._cluster: Any = None
        self._seen: frozenset[str] = frozenset()
        self._whole_at = time.monotonic()
        self.client: Any = None
        self.count = 0
        self.ready = False
        self.reason = "not started"

    @property
    def name(self) -> str:
        """The scheduler's address."""
        return self._scheduler or "(embedded)"

    @property
    def connected(self) -> bool:
        return self.client is not None and self.client.status == "running"

    def pids(self) -> list[int]:
        """Process ids of the embedded workers."""
        nannies = self._cluster.workers.values() if self._cluster else ()
        return [pid for nanny in nannies if (pid := getattr(nanny, "pid", None))]

    async def open(self, topic: str, hear: Callable[[Any], None]) -> None:
        """Start or find the processes and wait until they are warm; `hear` gets every event of the topic."""
        distributed = await asyncio.to_thread(_load)
        (self._data_dir / "results" / ".work").mkdir(parents=True, exist_ok=True)
        if self._scheduler:
            address: Any = self._scheduler
        else:
            loop = asyncio.get_running_loop()
            if not isinstance(before := loop.get_exception_handler(), _WithoutEndings):
                loop.set_exception_handler(_WithoutEndings(before))
            self._cluster = address = distributed.LocalCluster(
                asynchronous=True, processes=True, n_workers=self._workers, threads_per_worker=1, host="127.0.0.1",
                dashboard_address=None, scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                memory_limit=0, silence_logs=logging.ERROR,
                local_directory=str(self._data_dir / "cache" / "dask"),
                env={"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                     "MKL_NUM_THREADS": "1",
                     "ARROW_DEFAULT_MEMORY_POOL": "system"})  # Arrow's own keeps what was freed
            await address  # known before it is up, so that closing meanwhile ends what has begun
        self.client = await distributed.Client(address, asynchronous=True, set_as_default=False, timeout=10)
        self.client.subscribe_topic(topic, hear)
        plugin = type("WorkbenchPlugin", (distributed.WorkerPlugin,), {
            "name": PLUGIN, "idempotent": True, "setup": set_up, "warm_up": staticmethod(self._warm_up),
            "compiled": str(self._data_dir / "cache" / "numba")})
        await self.client.register_plugin(plugin(), name=PLUGIN)
        await self._check_shared()

    async def _check_shared(self) -> None:
        """Every worker must see the data directory, or results would be written where nobody finds them."""
        probe = self._data_dir / "results" / ".work" / f"probe-{secrets.token_hex(8)}"
        word = secrets.token_hex(16)
        probe.write_text(word)
        try:
            seen = await self.client.run(read_probe, str(probe))
        finally:
            probe.unlink(missing_ok=True)
        blind = sorted(address for address, text in seen.items() if text != word)
        if blind:
            # The reason is public (/healthz), so the path stands in the log only.
            reason = f"worker {blind[0]} does not see the server's data directory; mount it there under the same path"
            if self.reason != reason:
                log.warning("%s: %s", reason, self._data_dir)
            self.ready, self.reason = False, reason
            self._seen = frozenset()
        else:
            self.ready, self.reason = True, ""
            self._seen = frozenset(seen)
        self.count = len(seen)

    async def look(self) -> bool:
        """Count the workers, check newcomers, replace missing ones; whether anything changed."""
        before = self.count, self.ready
        if self._cluster is not None:
            self.count = len(self._cluster.scheduler.workers)
            self._mend()
        else:
            present = frozenset(await self.client.scheduler.ncores())
            if present - self._seen:  # newcomers, or some that were blind before
                await self._check_shared()
            self.count = len(present)
        return (self.count, self.ready) != before

    def _mend(self) -> None:
        """Have workers made again whose nanny gave up, which it does when a worker dies while it starts."""
        now = time.monotonic()
        if self.count >= self._workers:
            self._whole_at = now
        elif now - self._whole_at > MEND_AFTER:
            self._whole_at = now
            self._cluster.scale(self._workers)

    async def close(self) -> None:
        """Let go of the processes; embedded ones end at once, whatever they do."""
        self.ready, self.count = False, 0
        # What Dask says about processes that we end ourselves tells nobody anything; opening turns it on again.
        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
        client, self.client = self.client, None
        cluster, self._cluster = self._cluster, None
        if client is not None:
            await _within(CLIENT_TIMEOUT, client.close())
        for _ in range(CLOSINGS if cluster is not None else 0):  # again for workers that were about to begin
            if (waiting := cluster._correct_state_waiting) is not None and waiting.cancelled():
                cluster._correct_state_waiting = None  # cancelled with `open`: Dask would wait for it again and again
            nannies = tuple(cluster._created)
            for nanny in nannies:
                nanny.auto_restart = False
                if (pid := getattr(nanny, "pid", None)):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            # The cluster does not know how to close those that are still starting, and would stay half closed.
            await _within(CLUSTER_TIMEOUT, *(nanny.close() for nanny in nannies))
            await _within(CLUSTER_TIMEOUT, cluster.close())
            if cluster.status.name != "closing":
                return
            cluster.status = type(cluster.status).failed
            await asyncio.sleep(0.1)


async def _within(timeout: float, *closings: Awaitable[Any]) -> None:
    """Wait for these, for so long. Not with wait_for, which would wait for them all the same."""
    ending = asyncio.gather(*closings, return_exceptions=True)
    await asyncio.wait([ending], timeout=timeout)
    for problem in ending.result() if ending.done() else [f"no end within {timeout:g} s"]:
        if isinstance(problem, BaseException | str) and problem != "OK":
            log.debug("closing the pool: %s", problem)


class _WithoutEndings:
    """The loop's report of exceptions that nobody awaited, but for connections to processes that ended, and processes
    that were ended while they started: Dask leaves such futures behind. (A start that fails is told of by `open`.)"""

    def __init__(self, before: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], Any] | None) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        from distributed.comm import CommClosedError

        error = context.get("exception")
        if isinstance(error, CommClosedError) or str(error) == "Nanny failed to start.":
            return
        if self._before is not None:
            self._before(loop, context)
        else:
            loop.default_exception_handler(context)


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
        # Columns of a year of minutes are 4 MB: unless their memory is kept for the next run, half of a run's time goes
        # into getting zeroed pages from the system. What is longer than the first figure is given back at once.
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 16 * 2**20,
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 * 2**20,
        "distributed.admin.tick.limit": "30s", "distributed.admin.tick.interval": "1s",
        # Nobody looks at Dask's own profiles, which are taken a hundred times a second, in the server's process too.
        "distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.admin.system-monitor.interval": "2s",
    })
    return distributed
