"""The pool's half in the worker processes: what is set up once, and the task that does a batch of jobs."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from engine import worker as work

__all__ = ["note_cancelled", "read_probe", "run_task", "set_up"]


NICENESS: Final = 10
"""How far workers stand back where processors are short: answers and streams must not wait for backtests."""


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


def run_task(task_id: str, topic: str, jobs: list[dict[str, Any]], do: Callable[..., dict[str, Any]], note: str,
             memory: int) -> dict[str, list[Any]]:
    """One Dask task: a batch of jobs on this worker."""
    from distributed import get_worker

    worker: Any = get_worker()
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
