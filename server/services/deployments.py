"""Deployments: which versions of models should run, and the processes that do.

The table says what is wanted; this service sees to it, on the server that is at work. A live model that fails is
started again, after a pause that doubles up to five minutes and is forgotten when it ran for ten; one that ends by
itself is completed. Screeners run at the times of their schedule. What should run when the server starts is started.
Every life of a model is a run of kind "live", every backtest of an upload one of kind "backtest" (dialect "models");
neither passes through the pool's queue.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from engine import model_runner, times
from engine.deployment import Deployment, Version
from engine.errors import NotFound, Unavailable, WorkbenchError
from engine.model import Principal, Run
from engine.sandbox import plan_of
from server.services.activity import Activity
from server.services.activity_backtests import DetachedBacktests
from server.services.model_lives import Life, Lives, Runner
from server.services.model_processes import insist
from server.services.run_rows import COLUMNS, run_of
from server.services.run_states import UPLOADED, change_state, stream_of, take_back
from server.services.schedules import next_time
from server.services.versions import Versions
from server.store.database import Database
from server.store.encoding import decode, encode
from server.store.events import EventLog
from server.store.tables import runs
from server.store.tables.activity import models
from server.store.tables.deployments import deployments

__all__ = ["Deployments"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0
ENDING: Final = 60.0  # seconds that another server has to end a model
LONG_LIFE: Final = 600.0
"""Seconds after which a life counts as good, and former failures are forgotten."""

_UPLOADED: Final = (runs.c.kind == "backtest") & (runs.c.dialect == UPLOADED)

log = logging.getLogger("workbench.models")


class Deployments:
    """Runs uploaded models. Raises the engine's errors; `NotFound` for an unknown id throughout.

    It is at work between `start` and `close`. Before, it writes down what is wanted, and the server that is at work
    sees it when it calls `look`.
    """

    def __init__(self, *, db: Database, events: EventLog, activity: Activity, detached: DetachedBacktests,
                 versions: Versions, data_dir: Path, runner: Runner = model_runner.run, at_once: int = 2) -> None:
        self._db = db
        self._events = events
        self._activity = activity
        self._detached = detached
        self.versions = versions
        self.lives = Lives(db=db, events=events, activity=activity, versions=versions, data_dir=data_dir,
                           runner=runner)
        db.subscribe(self.lives)
        self._of_model: dict[str, Life] = {}  # live ones
        self._tasks: set[asyncio.Task[None]] = set()
        self._backtests = asyncio.Semaphore(at_once)
        self._timers: dict[str, tuple[str, asyncio.TimerHandle]] = {}  # with the schedule that they keep
        self._busy: set[str] = set()  # models whose life begins, goes on or ends
        self._queued: set[str] = set()  # backtests that wait or run here
        self._closing = True

    # -- life of the service

    async def start(self) -> None:
        """Take up what should run; lives that a former life of the server left have failed, backtests begin again."""
        self._closing = self.lives.closing = False

        def work(connection: Connection) -> None:
            for row in connection.execute(select(runs.c.id).where(
                    runs.c.state == "running", runs.c.kind == "live")).all():
                change_state(connection, self._events, row.id, "failed", "running", error="server restarted")
            take_back(connection, self._events, uploaded=True)
            for row in connection.execute(select(deployments).where(
                    deployments.c.state.in_(("running", "stopping")))).all():  # but nothing runs now
                self._change(connection, row.model_id, state="starting" if row.wanted == "running" else "stopped")

        await self._db.write(work)
        await asyncio.gather(self.versions.sweep(), self.lives.sweep())
        await self.look()

    async def look(self) -> None:
        """See to what is wanted, whichever server was asked for it."""
        queued = select(runs.c.id).where(runs.c.state == "queued", _UPLOADED)
        cancelled = select(runs.c.id).where(runs.c.state == "cancelled", runs.c.id.in_(self.lives.at_work))
        waiting, over = await self._db.read(lambda connection: (
            connection.execute(queued).scalars().all(), connection.execute(cancelled).scalars().all()))
        for id in waiting:
            self._queue(id)
        for id in over:
            self.lives.end(id)
        before = frozenset(self._of_model.values())
        for found in await self.list():
            life, (schedule, timer) = self._of_model.get(found.model), self._timers.get(found.model, ("", None))
            if life is not None:
                # One that began while the list was read may know better.
                if life in before and (found.wanted != "running" or found.version != life.version.id
                                       or found.state == "starting"):
                    life.end()
            elif found.wanted != "running":
                self._plan_nothing(found.model)
            elif found.model not in self._busy and (
                    timer is None or schedule != found.schedule or found.state == "starting"):
                self._plan_start(found, 0.0 if not found.schedule else None)

    async def close(self) -> None:
        """End all processes. What should run does so again at the next start."""
        self._closing = self.lives.closing = True
        for model in tuple(self._timers):
            self._plan_nothing(model)
        await self.lives.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10.0)
        for task in self._tasks:
            task.cancel()
        self._queued.clear()

    # -- what people ask for

    async def list(self) -> list[Deployment]:
        """All deployments, the one changed last first."""
        query = select(deployments).order_by(deployments.c.changed_at.desc())
        return await self._db.read(lambda connection: [_deployment(row) for row in connection.execute(query)])

    async def get(self, model: str) -> Deployment:
        return _deployment(await self._db.read(lambda connection: _row(connection, model)))

    def usage(self, model: str) -> Mapping[str, Any]:
        """What the model's process uses now: memory, most (bytes), cpu (seconds), processes; empty when it is down."""
        life = self._of_model.get(model)
        return dict(life.usage) if life else {}

    async def run(self, version: Version, *, plan: str = "", schedule: str = "", by: str = "") -> Deployment:
        """Have a version run from now on, in place of the one that did. Raises `Invalid` for an unknown plan or a
        schedule that is none."""
        wanted = plan_of(plan, live=True)
        if schedule:
            next_time(schedule, times.now())
        values = {"version_id": version.id, "plan": wanted.name, "schedule": schedule, "wanted": "running",
                  "state": "waiting" if schedule else "starting", "restarts": 0, "next_at": None, "error": None,
                  "by": by, "changed_at": times.micros(times.now())}

        def work(connection: Connection) -> Deployment:
            of = deployments.c.model_id == version.model
            if connection.execute(select(deployments.c.model_id).where(of)).first() is None:
                connection.execute(insert(deployments), values | {"model_id": version.model})
            else:
                connection.execute(update(deployments).where(of).values(**values))
            return self._told(connection, version.model)

        found = await self._db.write(work)
        if (life := self._of_model.get(version.model)) is not None:
            life.end()  # the new version is started when this one has gone
        else:
            self._plan_start(found, None if schedule else 0.0)
        return found

    async def stop(self, model: str, *, by: str = "") -> Deployment:
        """Have a model run no more. Stopping again changes nothing."""
        self._plan_nothing(model)
        ending = model in self._of_model

        def work(connection: Connection) -> Deployment:
            busy = ending or _row(connection, model).state in ("running", "stopping")  # perhaps on another server
            return self._change(connection, model, wanted="stopped", next_at=None,
                                state="stopping" if busy else "stopped", **({"by": by} if by else {}))

        found = await self._db.write(work)
        if (life := self._of_model.get(model)) is not None:  # it may have begun just before
            life.end()
        return found

    async def backtest(self, version: Version, args: Mapping[str, Any], *, plan: str = "", description: str = "",
                       by: str = "") -> Run:
        """A new backtest of a version, with the arguments that its `.backtest()` takes: the queued run."""
        wanted = plan_of(plan, live=False)
        at = times.now()
        row = {"id": str(uuid.uuid4()), "kind": "backtest", "state": "queued", "progress": 0.0,
               "created_at": times.micros(at), "dialect": UPLOADED, "strategy": version.model[:128], "markets": [],
               "name": f"{await self._name(version.model)} v{version.number}"[:200], "tags": [], "notes": description,
               "spec": decode(encode({"strategy": version.script, "fill_model": "reported", "model": version.model,
                                      "version": version.id, "args": dict(args), "plan": wanted.name})),
               "metrics": {}, "owner": by}

        def work(connection: Connection) -> Run:
            connection.execute(insert(runs), row)
            self._events.append(connection, stream_of(str(row["id"])), "state",
                                {"state": "queued", "previous_state": None})
            return run_of(connection.execute(select(*COLUMNS).where(runs.c.id == row["id"])).one())

        made = await self._db.write(work)
        self._queue(made.id)
        return made

    async def remove(self, model: str) -> None:
        """Delete a model: its processes end, then it goes with all it did, its versions, and the archives that no other
        version needs."""
        kept = await self.versions.list(model)
        with contextlib.suppress(NotFound):
            await self.stop(model)
        of_model = (runs.c.dialect == UPLOADED) & (runs.c.strategy == model[:128])
        running = select(runs.c.id).where(of_model, runs.c.state == "running")

        def cancel(connection: Connection) -> None:
            for row in connection.execute(select(runs.c.id, runs.c.state).where(
                    of_model, runs.c.kind == "backtest", runs.c.state.in_(("queued", "running")))).all():
                change_state(connection, self._events, row.id, "cancelled", row.state)

        await self._db.write(cancel)
        patience = asyncio.get_running_loop().time() + ENDING

        async def elsewhere() -> bool:
            return self._closing and await self._db.read(
                lambda connection: connection.execute(running).first() is not None)

        while (busy := self.lives.of_model(model)) or await elsewhere():
            for life in busy:
                life.end()
            if not busy and asyncio.get_running_loop().time() > patience:
                raise Unavailable("the server that runs the model has not stopped it yet", remedy="try again later")
            await asyncio.sleep(0.05)
        await self._activity.delete_model(model)
        await self.versions.forget(kept)

    # -- live models

    def _plan_start(self, found: Deployment, delay: float | None) -> None:
        """Start a deployment after `delay` seconds; None: at the next time of its schedule."""
        if self._closing:
            return
        self._plan_nothing(found.model)
        if delay is None:
            at = next_time(found.schedule, times.now())
            delay = max(0.0, (at - times.now()).total_seconds())
            self._spawn(self._wait_until(found, at))
        self._timers[found.model] = found.schedule, asyncio.get_running_loop().call_later(
            delay, lambda: self._spawn(self._live(found.model)))

    def _plan_nothing(self, model: str) -> None:
        _, timer = self._timers.pop(model, ("", None))
        if timer is not None:
            timer.cancel()

    async def _wait_until(self, planned: Deployment, at: datetime) -> None:
        def work(connection: Connection) -> None:
            now = _row(connection, planned.model)
            if now.wanted == "running" and now.schedule == planned.schedule:  # else it was stopped, or changed
                self._change(connection, planned.model, state="waiting", next_at=times.micros(at))

        await self._db.write(work)

    async def _live(self, model: str) -> None:
        """One life of a deployed model, from its start to what comes after."""
        self._timers.pop(model, None)
        if self._closing or model in self._busy:
            return
        self._busy.add(model)
        try:
            found = await self.get(model)
            version = await self.versions.get(found.version)
            begun = await self._begin(version, found)
            if begun is None:
                return
            life = Life(run=str(begun.run), version=version, kind="screener" if found.schedule else "live",
                        slot=self.lives.slot(), began=asyncio.get_running_loop().time())
            self._of_model[model] = life
            try:
                await self.lives.see_through(life, plan_of(found.plan, live=True), {})
            finally:
                del self._of_model[model]
            await self._after(life)
        except NotFound:
            pass  # the model was deleted
        finally:
            self._busy.discard(model)

    async def _begin(self, version: Version, found: Deployment) -> Deployment | None:
        """Write down a new life; None when something else is wanted by now."""
        id, at = str(uuid.uuid4()), times.micros(times.now())
        row = {"id": id, "kind": "live", "state": "running", "progress": 0.0, "created_at": at, "started_at": at,
               "dialect": UPLOADED, "strategy": version.model[:128], "markets": [], "tags": [], "metrics": {},
               "name": f"{await self._name(version.model)} v{version.number}"[:200], "owner": found.by,
               "spec": decode(encode({"model": version.model, "version": version.id, "plan": found.plan,
                                      "schedule": found.schedule}))}
        same = (deployments.c.model_id == version.model) & (deployments.c.version_id == version.id)

        def work(connection: Connection) -> Deployment | None:
            if not connection.execute(update(deployments).where(same, deployments.c.wanted == "running").values(
                    state="running", run_id=id, next_at=None, error=None, changed_at=at)).rowcount:
                return None
            connection.execute(insert(runs), row)
            self._events.append(connection, stream_of(id), "state", {"state": "running", "previous_state": None})
            return self._told(connection, version.model)

        return await self._db.write(work)

    async def _after(self, life: Life) -> None:
        """What becomes of a deployment whose process has ended."""
        model, ending = life.version.model, life.ending
        reason = str(ending.get("error") or "")
        stopped = ending.get("kind") == "stopped"
        await self.lives.end_run(life.run, "failed" if reason and not stopped else "completed", reason or None)
        if self._closing:
            return
        good = asyncio.get_running_loop().time() - life.began > LONG_LIFE
        at = times.micros(times.now())

        def work(connection: Connection) -> tuple[Deployment, float | None]:
            """As it is now, and the pause before the next start (None: as its schedule says)."""
            now = _row(connection, model)
            if now.wanted == "stopped":
                return self._change(connection, model, state="stopped", next_at=None), None
            if now.schedule:
                return self._change(connection, model, state="waiting", next_at=None), None
            if now.state != "running" or now.run_id != life.run:  # it was deployed again meanwhile
                return _deployment(now), 0.0
            if stopped:  # the run was cancelled
                return self._change(connection, model, wanted="stopped", state="stopped"), None
            if not reason:
                return self._change(connection, model, wanted="stopped", state="completed"), None
            restarts = 1 if good else now.restarts + 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(restarts - 1, 20))
            return self._change(connection, model, state="waiting", error=reason[:2000], restarts=restarts,
                                next_at=at + round(pause * times.SECOND)), pause

        now, pause = await insist(lambda: self._db.write(work), f"model {model}")
        if now.wanted == "running":
            self._plan_start(now, pause)

    # -- backtests

    def _queue(self, id: str) -> None:
        if not self._closing and id not in self._queued:
            self._queued.add(id)
            self._spawn(self._backtest(id)).add_done_callback(lambda done: self._queued.discard(id))

    async def _backtest(self, id: str) -> None:
        query = select(*COLUMNS).where(runs.c.id == id, runs.c.state == "queued")

        def begin(connection: Connection) -> bool:
            if connection.execute(query).first() is None:
                return False  # cancelled meanwhile
            change_state(connection, self._events, id, "running", "queued", started_at=times.micros(times.now()))
            return True

        async with self._backtests:
            row = await self._db.read(lambda connection: connection.execute(query).first())
            if self._closing or row is None:
                return
            version = await self.versions.get(row.spec["version"])
            life = Life(run=id, version=version, kind="backtest", slot=self.lives.slot(),
                         began=asyncio.get_running_loop().time())
            try:
                if not await self._db.write(begin):
                    return
                await self.lives.see_through(life, plan_of(row.spec["plan"], live=False), row.spec["args"])
            except NotFound:
                return  # the model was deleted
            if self._closing:
                return  # it begins again at the next start
            await self._finish(life, row)

    async def _finish(self, life: Life, row: Any) -> None:
        reason = str(life.ending.get("error") or "")
        if reason and (details := str(life.status.get("status_details") or "")) and details not in reason:
            reason = f"{details[:2000]} ({reason})"
        if life.ending.get("kind") == "stopped":
            await self.lives.end_run(life.run, "cancelled", None)
        elif reason or life.result is None:
            await self.lives.end_run(life.run, "failed", reason or "the model reported no result")
        else:
            body = {"exchange": "", **life.result, "label": None, "description": row.notes or None}
            principal = Principal(name=row.owner, scopes=frozenset({"admin"}))
            try:
                await insist(lambda: self._detached.result(
                    lambda: body, model=life.version.model, backtest_id=life.run, principal=principal,
                    dialect=UPLOADED), f"run {life.run}")
            except WorkbenchError as error:
                await self.lives.end_run(life.run, "failed", f"the result cannot be read: {error}")

    def _change(self, connection: Connection, model: str, **values: Any) -> Deployment:
        connection.execute(update(deployments).where(deployments.c.model_id == model).values(
            **values, changed_at=times.micros(times.now())))
        return self._told(connection, model)

    def _told(self, connection: Connection, model: str) -> Deployment:
        """The deployment as it is now, told to who follows the model."""
        found = _deployment(_row(connection, model))
        self._events.append(connection, f"model/{model}", "deployment", {
            "state": found.state, "wanted": found.wanted, "version": found.version, "plan": found.plan,
            "run": found.run, "error": found.error, "restarts": found.restarts,
            "next_at": times.iso(found.next_at) if found.next_at else None})
        return found

    async def _name(self, model: str) -> str:
        query = select(models.c.name).where(models.c.id == model)
        return str(await self._db.read(lambda connection: connection.execute(query).scalar()) or model)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("deployments: %s", error, exc_info=error)


def _row(connection: Connection, model: str) -> Any:
    row = connection.execute(select(deployments).where(deployments.c.model_id == model)).first()
    if row is None:
        raise NotFound("this model is not deployed", field="modelId", remedy="deploy a version of it")
    return row


def _deployment(row: Any) -> Deployment:
    return Deployment(model=row.model_id, version=row.version_id, plan=row.plan, schedule=row.schedule,
                      wanted=row.wanted, state=row.state, restarts=row.restarts,
                      next_at=None if row.next_at is None else times.instant(row.next_at), run=row.run_id,
                      error=row.error, by=row.by, changed_at=times.instant(row.changed_at))
