"""Lives of models: one process each, what it tells on the way, and the run that stands for it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select, update

from engine import model_scratch, times
from engine.activity import Lifecycle
from engine.deployment import Version
from engine.errors import WorkbenchError
from engine.model import Event, Principal
from engine.model_runner import Emit, ModelJob, run
from server.services.activity import Activity
from server.services.model_processes import ModelProcess, insist
from server.services.run_states import change_state, stream_of
from server.services.versions import Versions
from server.store.database import Database, Subscriber
from server.store.events import EventLog
from server.store.tables import runs

__all__ = ["Life", "Lives"]

SLOTS: Final = 10_000
USAGE_EVERY: Final = 5.0

log = logging.getLogger("workbench.models")

Runner = Callable[[ModelJob, Emit, Callable[[], bool]], str]
"""`engine.model_runner.run`, or the same on another machine."""


@dataclass(eq=False, kw_only=True)
class Life:
    """A process at work, of a deployment or of a backtest, and what it said of itself. `kind`: live, screener or
    backtest; `ending`: what the runner said last, with its kind; `began`: by the loop's clock; `unwanted`: to end."""

    run: str
    version: Version
    kind: str
    slot: int
    began: float
    process: ModelProcess | None = None
    ending: dict[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    progress: float = 0.0
    unwanted: bool = False

    def end(self) -> None:
        """Ask the process to end, or not to begin."""
        self.unwanted = True
        if self.process is not None:
            self.process.stop()


class Lives(Subscriber):
    """All processes of models on this server."""

    def __init__(self, *, db: Database, events: EventLog, activity: Activity, versions: Versions,
                 data_dir: Path, runner: Runner = run) -> None:
        self._db = db
        self._events = events
        self._activity = activity
        self._versions = versions
        self._data_dir = data_dir.absolute()
        self._scratch = self._data_dir / "models"
        self._runner = runner
        self._by_run: dict[str, Life] = {}
        self._slot = -1
        self.closing = False
        self.environment: Callable[[Version], AbstractAsyncContextManager[Mapping[str, str]]] = _nothing
        """What a live model finds in its environment beside the usual, for as long as it lives."""

    def committed(self, items: Sequence[Any]) -> None:
        """A run that was cancelled must end."""
        for item in items:
            event = item[0] if isinstance(item, tuple) else item
            if (isinstance(event, Event) and event.type == "state" and event.data.get("state") == "cancelled"):
                self.end(event.stream.removeprefix("run/"))

    @property
    def at_work(self) -> list[str]:
        """The runs whose processes are at work."""
        return list(self._by_run)

    def end(self, run: str) -> None:
        """Ask the process of a run to end, if it has one here."""
        if (life := self._by_run.get(run)) is not None:
            life.end()

    async def sweep(self) -> None:
        """Remove what a server that was killed left of its models, and end those that still run."""
        if found := await asyncio.to_thread(model_scratch.sweep, self._scratch):
            log.warning("%d models of a server that was killed were ended", found)

    async def close(self) -> None:
        """End all processes."""
        self.closing = True
        await asyncio.gather(*(life.process.close() for life in tuple(self._by_run.values()) if life.process),
                             return_exceptions=True)

    @property
    def busy(self) -> int:
        """How many processes are at work."""
        return len(self._by_run)

    def slot(self) -> int:
        """A number that no other process at work has."""
        self._slot = (self._slot + 1) % SLOTS
        return self._slot

    def of_model(self, model: str) -> list[Life]:
        """Its processes at work, backtests too."""
        return [life for life in self._by_run.values() if life.version.model == model]

    async def see_through(self, life: Life, plan: Any, args: Mapping[str, Any]) -> None:
        """One life from its start to its end."""
        self._by_run[life.run] = life
        try:
            async with (_nothing if life.kind == "backtest" else self.environment)(life.version) as environment:
                await self._see_through(life, plan, args, environment)
        finally:
            del self._by_run[life.run]

    async def _see_through(self, life: Life, plan: Any, args: Mapping[str, Any],
                           environment: Mapping[str, str]) -> None:
        version = life.version
        live = life.kind != "backtest"
        job = ModelJob(
            kind=life.kind, archive=self._versions.path_of(version.sha256), name=version.file,  # type: ignore[arg-type]
            python=version.python, plan=plan, args=args, slot=life.slot, venvs=self._data_dir / "venvs",
            scratch=self._scratch, environment=environment)
        model = await self._activity.model(version.model)
        principal = Principal(name=f"model {model.id}", scopes=frozenset({"ingest"}), project=model.project,
                              model=model.id)
        phases: list[asyncio.Future[None]] = []

        def tell(kind: str, data: Mapping[str, Any]) -> None:
            if kind == "usage":
                life.usage = data
            elif kind == "progress":
                life.progress = data["progress"]
            elif kind == "backtest-result":
                life.result = data.get("result") if isinstance(data.get("result"), Mapping) else None
            elif kind == "backtest-status":
                life.status = data
            elif kind in ("done", "failed", "stopped"):
                life.ending = {**data, "kind": kind}
            elif kind == "phase" and live:
                phases.append(asyncio.ensure_future(self._phase(model.id, principal, str(data["message"]))))

        async def write_log(lines: Sequence[Mapping[str, Any]]) -> None:
            items = [("log", {"message": line["line"], "type": line["type"]}) for line in lines]
            await self._db.write(lambda connection: self._events.append_many(connection, stream_of(life.run), items))

        life.process = ModelProcess(job, activity=self._activity, model=model.id, project=model.project,
                                  run_id=life.run, tell=tell, write_log=write_log, runner=self._runner)
        if live:
            await self._lifecycle(principal, Lifecycle(model=model.id, message="Started", running=True,
                                                       started_at=times.iso(times.now()), ended_at=None))
        life.process.start()
        if self.closing or life.unwanted:
            life.process.stop()
        ticker = asyncio.create_task(self._report_progress(life))
        try:
            await life.process.finished.wait()
        finally:
            ticker.cancel()
        await asyncio.gather(*phases)
        if live:
            words = ("Manually Exited" if life.ending.get("kind") == "stopped" else
                     str(life.ending.get("error")) if life.ending.get("error") else "Process Exited")
            await self._lifecycle(principal, Lifecycle(model=model.id, message=words[:200], running=False,
                                                       ended_at=times.iso(times.now())))

    async def _report_progress(self, life: Life) -> None:
        """Progress and usage as events of the run, now and then."""
        told: tuple[Any, ...] = ()
        while True:
            await asyncio.sleep(0.5 if life.kind == "backtest" else USAGE_EVERY)
            now = (life.progress, dict(life.usage)) if life.kind != "backtest" else (life.progress,)
            if now == told:
                continue
            told = now
            data = {"progress": life.progress, "message": "", "usage": dict(life.usage)}

            def work(connection: Connection, data: dict[str, Any] = data) -> None:
                connection.execute(update(runs).where(runs.c.id == life.run).values(progress=data["progress"]))
                self._events.append(connection, stream_of(life.run), "progress", data)

            try:
                await self._db.write(work)
            except WorkbenchError as error:
                log.debug("progress was not written: %s", error)

    async def _phase(self, model: str, principal: Principal, message: str) -> None:
        await self._lifecycle(principal, Lifecycle(model=model, message=message))

    async def _lifecycle(self, principal: Principal, entry: Lifecycle) -> None:
        try:
            await self._activity.record([entry], principal=principal)
        except WorkbenchError as error:
            log.warning("the lifecycle of model %s was not written: %s", entry.model, error)

    async def end_run(self, id: str, state: str, error: str | None) -> None:
        def work(connection: Connection) -> None:
            row = connection.execute(select(runs.c.state).where(runs.c.id == id)).first()
            if row is not None and row.state in ("running", "queued"):
                change_state(connection, self._events, id, state, row.state, error=error,
                             **({"progress": 1.0} if state == "completed" else {}))

        await insist(lambda: self._db.write(work), f"run {id}")


@asynccontextmanager
async def _nothing(version: Version) -> AsyncIterator[Mapping[str, str]]:
    yield {}
