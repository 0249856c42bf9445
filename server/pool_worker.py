"""The pool's half in the worker processes: what is set up once, and the task that does a batch of jobs."""

import asyncio
import logging
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from engine import worker as work

__all__ = ["note_cancelled", "read_probe", "run_task", "set_up"]


NICENESS: Final = 10
"""How far workers stand back where processors are short: answers and streams must not wait for backtests."""

GATHER: Final = 0.02
"""Seconds for which reports are gathered into one message; a message costs the server's loop about a millisecond."""


class _State:
    """What a worker remembers between tasks: the jobs that were cancelled."""

    def __init__(self) -> None:
        self.cancelled: set[str] = set()


async def set_up(plugin: Any, worker: Any) -> None:
    """Warm the process up before it takes its first task."""
    worker.workbench = _State()
    if worker.nanny:  # then this process is all its own
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    work.keep_compiled(plugin.compiled)
    try:
        await asyncio.to_thread(plugin.warm_up)
    except Exception as error:  # the first run will say it better; a worker that starts late is worth more than none
        logging.getLogger("distributed.worker").error("warm-up failed: %s: %s", type(error).__name__, error)


def note_cancelled(keys: list[str], dask_worker: Any = None) -> None:
    """Have the jobs stop at their next report."""
    dask_worker.workbench.cancelled.update(keys)


def read_probe(path: str) -> str:
    """What stands in a file of the server's data directory; "" when this process does not see it."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class _Reports:
    """A task's reports on their way to the server, in order. All that may be waited for leaves at once."""

    def __init__(self, worker: Any, topic: str, task_id: str) -> None:
        self._worker = worker
        self._topic = topic
        self._task_id = task_id
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, str, dict[str, Any]]] = []

    def add(self, key: str, kind: str, data: dict[str, Any], *, now: bool) -> None:
        with self._lock:
            first = not self._waiting
            self._waiting.append((key, kind, data))
        if now:
            self._worker.loop.add_callback(self._send)
        elif first:
            self._worker.loop.add_callback(self._worker.loop.call_later, GATHER, self._send)

    def _send(self) -> None:
        """On the worker's loop, so that messages leave in order, before the task's own result."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if waiting:
            self._worker.log_event(self._topic, [self._task_id, waiting])


def run_task(task_id: str, topic: str, packed: bytes, do: Callable[..., dict[str, Any]], note: str,
             memory: int) -> dict[str, list[Any]]:
    """One Dask task: a batch of jobs on this worker, pickled, because Dask would look for its own in all they hold."""
    from distributed import get_worker

    worker: Any = get_worker()
    cancelled = worker.workbench.cancelled
    jobs: list[dict[str, Any]] = pickle.loads(packed)
    reports = _Reports(worker, topic, task_id)
    left = len(jobs)

    def emit(key: str, kind: str, data: dict[str, Any]) -> None:
        nonlocal left
        if kind == "started":
            data = {**data, "address": worker.address, "pid": os.getpid()}
        left -= kind in work.FINAL
        # A process that dies must not take along that its first job had begun; what a job says that travels alone,
        # somebody waits for: an answer may be there before the run is done.
        reports.add(key, kind, data, now=not left or (kind == "started" and left == len(jobs))
                    or (kind == "log" and len(jobs) == 1))

    try:
        if not Path(note).parent.is_dir():  # the server asks newcomers too, but they may be quicker than the question
            error = (f"the worker {worker.address} does not see the server's data directory; mount it there under the "
                     "same path")
            return {job["key"]: ["failed", {"error": error, "code": "pool"}] for job in jobs}
        if not memory:
            return work.run_batch(jobs, emit, cancelled.__contains__, do)
        with work.MemoryGuard(memory, Path(note)):
            return work.run_batch(jobs, emit, cancelled.__contains__, do)
    finally:
        cancelled.difference_update(job["key"] for job in jobs)
