"""The bridge between a model's process, which runs in a thread of its own, and the workbench.

What a model says is handed over in order and recorded in batches; while the database is away the model waits at its
pipes, so that nothing is lost and nothing grows without bound.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import chain, groupby, repeat
from typing import Any, Final, TypeVar

import msgspec

from engine.activity import AnyEntry, Entry, LogLine
from engine.errors import Unavailable, WorkbenchError
from engine.model import Principal
from engine.model_runner import Emit, ModelJob, run
from server.services.activity import Activity

__all__ = ["ModelProcess", "insist"]

MOST_WAITING: Final = 5_000
"""Entries on their way to the database; beyond these the model waits."""

BATCH: Final = 1_000
RESULTS: Final = ("backtest-result", "backtest-status")
_DELAYS: Final = (0.1, 0.5, 2.0, 5.0)

log = logging.getLogger("workbench.models")

Result = TypeVar("Result")

Tell = Callable[[str, Mapping[str, Any]], None]


class ModelProcess:
    """One life of a model. `tell(kind, data)` hears on the loop, in order, what is not recorded as an entry: phase,
    progress, usage, backtest-result, backtest-status, and last done, failed or stopped. The lines of a live model are
    the model's log; those of a backtest are handed to `write_log`, which raises `Unavailable` to have them again."""

    def __init__(self, job: ModelJob, *, activity: Activity, model: str, project: str, run_id: str, tell: Tell,
                 write_log: Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]],
                 runner: Callable[[ModelJob, Emit, Callable[[], bool]], str] = run) -> None:
        self._job = job
        self._activity = activity
        self._model = model
        self._run = run_id if job.kind == "backtest" else ""
        self._tell = tell
        self._write_log = write_log
        self._runner = runner
        self._principal = Principal(name=f"model {model}", scopes=frozenset({"ingest"}), project=project, model=model)
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._room = threading.Semaphore(MOST_WAITING)
        self._said: list[tuple[str, Mapping[str, Any]]] = []
        self._lock = threading.Lock()
        self._new = asyncio.Event()
        self.finished = asyncio.Event()

    def start(self) -> None:
        """Begin; returns at once."""
        threading.Thread(target=self._work, name=f"model {self._model}", daemon=True).start()
        self._telling = asyncio.create_task(self._pass_on())

    def stop(self) -> None:
        """Ask it to end; `finished` tells when it has."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def close(self, patience: float = 10.0) -> None:
        """End it, and wait until what it said is recorded, for so long."""
        self.stop()
        try:
            async with asyncio.timeout(patience):
                await self.finished.wait()
        except TimeoutError:
            log.warning("model %s did not end in time", self._model)
            self._telling.cancel()

    # -- in its thread

    def _work(self) -> None:
        try:
            self._runner(self._job, self._emit, self._stop.is_set)
        except Exception as error:  # a fault of ours: the model's run must end all the same
            log.exception("the runner failed")
            self._emit("failed", {"error": f"the runner failed: {type(error).__name__}: {error}"})

    def _emit(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "usage" and self._said:
            return  # the next one will do
        while not self._room.acquire(timeout=0.5):
            if self._loop.is_closed():
                return
        with self._lock:
            self._said.append((kind, data))
            first = len(self._said) == 1
        if first:
            try:
                self._loop.call_soon_threadsafe(self._new.set)
            except RuntimeError:  # the server is gone
                self._stop.set()

    # -- on the loop

    async def _pass_on(self) -> None:
        ended = False
        while not ended:
            await self._new.wait()
            self._new.clear()
            with self._lock:
                said, self._said = self._said, []
            for at in range(0, len(said), BATCH):
                await self._record(said[at : at + BATCH])
            ended = bool(said) and said[-1][0] in ("done", "failed", "stopped")
            self._room.release(len(said))
        self.finished.set()

    async def _record(self, said: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Record what was said, in order; neighbours of one sort go together."""
        for sort, group in groupby(said, key=self._sort):
            if sort == "tell":
                for kind, data in group:
                    self._tell(str(data["kind"]) if kind == "entry" else kind, data)
            elif sort == "lines":
                lines = [data for _, data in group]
                await self._insist(partial(self._write_log, lines))
            else:
                await self._keep([self._entry(kind, data) for kind, data in group])

    def _sort(self, said: tuple[str, Mapping[str, Any]]) -> str:
        kind, data = said
        if kind == "log":
            return "lines" if self._job.kind == "backtest" else "entries"
        return "entries" if kind == "entry" and data.get("kind") not in RESULTS else "tell"

    def _entry(self, kind: str, data: Mapping[str, Any]) -> Entry:
        if kind == "log":
            return LogLine(model=self._model, line=data["line"], type=data["type"])
        try:
            return msgspec.convert({**data, "model": self._model, "run": self._run}, AnyEntry)
        except msgspec.ValidationError as error:
            return self._warning(f"an entry was not understood: {error}: {str(data)[:500]}")

    def _warning(self, line: str) -> LogLine:
        return LogLine(model=self._model, run=self._run, type="warning", line=line)

    async def _keep(self, entries: Sequence[Entry]) -> None:
        """Record entries; one that is refused becomes a line of the log."""
        outcomes = await self._insist(partial(self._activity.record, entries, principal=self._principal, atomic=False))
        refused = [self._warning(f"an entry was refused: {outcome.error}")
                   for entry, outcome in zip(entries, outcomes or (), strict=False)
                   if not outcome.ok and not isinstance(entry, LogLine)]
        if refused:
            await self._keep(refused)

    async def _insist(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do it, again and again while the database is away; None when it is refused for good."""
        try:
            return await insist(work, f"model {self._model}")
        except WorkbenchError as error:  # the model was deleted, say
            log.warning("what model %s said could not be kept: %s", self._model, error)
            return None


async def insist(work: Callable[[], Awaitable[Result]], who: str) -> Result:
    """Do it, again and again while the database is away. Raises what it raises for other reasons."""
    for delay in chain(_DELAYS, repeat(_DELAYS[-1])):
        try:
            return await work()
        except Unavailable as error:
            log.warning("%s waits: %s", who, error)
            await asyncio.sleep(delay)
    raise AssertionError("delays never end")
