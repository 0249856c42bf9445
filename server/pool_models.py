"""Models on other machines: hosts are Dask workers that say what they can give.

    dask worker tcp://scheduler:8786 --nthreads 64 --resources "cpu=4000,memory=16384"

A model takes its plan's share of a host's `cpu` (thousandths of a core) and `memory` (MiB) for as long as it lives, and
waits while no host has so much free. The hosts run the same function as this machine does, see the same data directory
under the same path, and need bubblewrap as it does. When a host dies its models have failed; the deployment decides.
When the server dies its models end: the next one starts them anew.
"""

import asyncio
import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from engine.model_runner import Emit, ModelJob, run
from engine.sandbox import Plan

__all__ = ["ModelHosts"]

LOOK: Final = 0.2
LOOK_FOR_HOSTS: Final = 1.0
BEGUN: Final = "begun"
FINAL: Final = ("done", "failed", "stopped")

log = logging.getLogger("workbench.models")


class ModelHosts:
    """The connection to the hosts at a scheduler's address; made when the first model needs it. Safe for threads."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._topic = f"workbench-models-{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._placing = threading.Lock()
        self._given: dict[str, tuple[str, dict[str, int]]] = {}  # by task: its host, and what it takes of it
        self._client: Any = None
        self._heard: dict[str, queue.SimpleQueue[tuple[str, Mapping[str, Any]]]] = {}

    def run(self, job: ModelJob, emit: Emit, stopped: Callable[[], bool] = lambda: False) -> str:
        """As `engine.model_runner.run`, on one of the hosts; holds the calling thread."""
        task = secrets.token_hex(8)
        heard = self._heard[task] = queue.SimpleQueue()
        try:
            client = self._connected()
            future = self._placed(task, client, job, stopped)
            if future is None:
                emit("stopped", {"error": ""})
                return "stopped"
            return self._follow(task, client, future, heard, emit, stopped)
        except (OSError, TimeoutError) as error:
            emit("failed", {"error": f"the hosts at {self._address} cannot be reached: {error}"})
            return "failed"
        finally:
            del self._heard[task]
            self._given.pop(task, None)

    def _placed(self, task: str, client: Any, job: ModelJob, stopped: Callable[[], bool]) -> Any:
        """The job on a host that has room for it, once there is one; None when it was stopped before. (Left to itself,
        the scheduler has a job wait for one host while others have room.)"""
        wanted = {"cpu": job.plan.cpu, "memory": job.plan.memory}
        while not stopped():
            with self._placing:
                host = client.run_on_scheduler(with_room, wanted, dict(self._given))
                if host:
                    self._given[task] = (host, wanted)
                    return client.submit(run_model, task, self._topic, asdict(job), key=f"model-{task}", pure=False,
                                         retries=0, resources=wanted, workers=[host], allow_other_workers=False)
            time.sleep(LOOK)
        return None

    def _follow(self, task: str, client: Any, future: Any, heard: Any, emit: Emit,
                stopped: Callable[[], bool]) -> str:
        told_to_stop = lost = False
        host, looked = "", time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                kind, data = heard.get(timeout=LOOK)
                if kind != BEGUN:
                    emit(kind, data)
                    if kind in FINAL:
                        return str(kind)
                elif host:  # the scheduler began it again elsewhere: a life that nobody knows of
                    return self._lost(client, task, future, emit)
                else:
                    host = str(data["host"])
                continue
            if lost:  # nothing came after its end: what it said last was lost with its host
                return self._lost(client, task, future, emit)
            lost = future.status in ("error", "cancelled", "lost", "finished")
            if host and time.monotonic() - looked > LOOK_FOR_HOSTS:
                looked = time.monotonic()
                lost = lost or host not in client.run_on_scheduler(addresses)
            if not told_to_stop and stopped():
                told_to_stop = True
                if not self._begun(client, task) and not host:
                    future.cancel(force=True)
                    emit("stopped", {"error": ""})
                    return "stopped"

    def _lost(self, client: Any, task: str, future: Any, emit: Emit) -> str:
        future.cancel(force=True)
        self._begun(client, task)
        emit("failed", {"error": "the host of the model died"})
        return "failed"

    def _begun(self, client: Any, task: str) -> bool:
        """Tell the hosts to stop a model; whether one of them has it."""
        return any(answer is True for answer in client.run(note_stop, task, on_error="return").values())

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None or self._client.status not in ("running", "connecting"):
                from distributed import Client

                self._client = Client(self._address, set_as_default=False, timeout=10, name="workbench-models")
                self._client.subscribe_topic(self._topic, self._hear)
            return self._client

    def _hear(self, event: tuple[float, Any]) -> None:
        task, kind, data = event[1]
        if (heard := self._heard.get(task)) is not None:
            heard.put((kind, data))

    async def close(self) -> None:
        """Let go of the hosts. Their models were stopped before."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.to_thread(client.close, 5), 10)


def run_model(task: str, topic: str, job: dict[str, Any]) -> str:
    """On a host: one life of a model. Runs in one of the worker's threads."""
    from distributed import get_worker

    worker: Any = get_worker()
    stops = worker.__dict__.setdefault("workbench_models", {})
    stop = stops[task] = threading.Event()
    try:
        worker.log_event(topic, [task, BEGUN, {"host": worker.address}])
        wanted = ModelJob(**{**job, "plan": Plan(**job["plan"]), "slot": int(task[:8], 16) % 10_000,
                             **{name: Path(job[name]) for name in ("archive", "venvs", "scratch")}})
        return run(wanted, lambda kind, data: worker.log_event(topic, [task, kind, dict(data)]),
                   lambda: stop.is_set() or _unwanted(worker, f"model-{task}"))
    finally:
        del stops[task]


def _unwanted(worker: Any, key: str) -> bool:
    """On a host: whether the server that asked for a task is gone, so that the scheduler has let go of it."""
    found = worker.state.tasks.get(key)
    return found is None or found.state != "executing"


def note_stop(task: str, dask_worker: Any = None) -> bool:
    """On a host: have a model end; whether it is here."""
    stop = dask_worker.__dict__.get("workbench_models", {}).get(task)
    if stop is None:
        return False
    stop.set()
    return True


def addresses(dask_scheduler: Any = None) -> list[str]:
    """On the scheduler: the hosts that are there."""
    return list(dask_scheduler.workers)


def with_room(wanted: Mapping[str, float], given: Mapping[str, tuple[str, Mapping[str, float]]],
              dask_scheduler: Any = None) -> str | None:
    """On the scheduler: a host that can give what is wanted beside what was given already, the freest first."""
    best, most = None, -1.0
    for address, worker in dask_scheduler.workers.items():
        left = {name: worker.resources.get(name, 0) - sum(taken[name] for host, taken in given.values()
                                                          if host == address) for name in wanted}
        if all(left[name] >= value for name, value in wanted.items()) and left["cpu"] > most:
            best, most = address, left["cpu"]
    return best
