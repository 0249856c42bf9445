"""Detached backtests: computed by a bot, reported here, and from then on runs like any other.

What is reported of one backtest may come in any order and more than once: a result again takes the place of the one
before, a status is remembered in the run's events until its result comes. A status that says it failed makes a failed
run of a backtest that has no result.
"""

import asyncio
import secrets
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from engine import times
from engine.activity import Model
from engine.errors import Conflict, Invalid
from engine.model import Principal, Run
from engine.result import BacktestResult
from server.services.activity import Activity
from server.services.activity_values import text_up_to
from server.services.run_rows import COLUMNS, run_of
from server.services.run_states import stream_of
from server.store.database import Database
from server.store.encoding import decode, encode
from server.store.events import EventLog
from server.store.tables import runs

__all__ = ["DetachedBacktests", "run_id"]

_NAMESPACE: Final = uuid.UUID("6f1c2a52-7f0d-4a86-9a3c-5a3f0f0f7d11")
_STATUS: Final = ("successful", "status_summary", "status_details", "time_elapsed", "description", "label")


def run_id(model: str, backtest_id: str) -> str:
    """The run that a bot's own id of a backtest stands for: the id itself when it is a UUID, else one made of it and
    the model, the same each time. Raises `Invalid` for an empty or endless one."""
    if not backtest_id or len(backtest_id) > 200:
        raise Invalid("a backtest's id has 1 to 200 characters", field="backtest_id")
    try:
        return str(uuid.UUID(backtest_id))
    except ValueError:
        return str(uuid.uuid5(_NAMESPACE, f"{model}\n{backtest_id}"))


class DetachedBacktests:
    """Keeps what bots report of their own backtests. Raises as `Activity.record` does, and `Conflict` for an id that
    is another model's run."""

    def __init__(self, *, db: Database, events: EventLog, activity: Activity, folder: Callable[[str], Path]) -> None:
        self._db = db
        self._events = events
        self._activity = activity
        self._folder = folder
        self._swapping = asyncio.Lock()  # the files of a result and its row change together

    async def result(self, read: Callable[[], Mapping[str, Any]], *, model: str, backtest_id: str | None,
                     principal: Principal, dialect: str = "native", project: str = "") -> Run:
        """Keep a backtest's result; the completed run. `read` gives the report (see `engine.detached.build`); it is
        called in a thread. Without an id, there or here, the run gets one of its own."""
        owner = await self._activity.admit(model, principal=principal, dialect=dialect, project=project)

        def prepare() -> tuple[str, str, BacktestResult, dict[str, Any]]:
            from engine.detached import build

            body = read()
            given = backtest_id or str(body.get("backtest_id") or "") or str(uuid.uuid4())
            id = run_id(model, given)
            made = build(body, model=model, name=owner.name)
            facts = {name: _fact(name, body.get(name)) for name in ("description", "label") if body.get(name)}
            return id, given, made, facts

        id, given, made, facts = await asyncio.to_thread(prepare)
        folder = self._folder(id)
        before = await self._db.read(lambda connection: _row(connection, id))
        _same_model(before, model)
        part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        try:
            await asyncio.to_thread(made.save, part)
            async with self._swapping:
                told = await self._status(id)
                values = self._values(owner, given, made, facts | told, principal, dialect)
                await asyncio.to_thread(_swap, part, folder)
                return await self._db.write(lambda connection: self._keep(connection, id, model, "completed", values))
        finally:
            await asyncio.to_thread(shutil.rmtree, part, True)

    async def status(self, status: Mapping[str, Any], *, model: str, backtest_id: str | None, principal: Principal,
                     dialect: str = "native", project: str = "") -> None:
        """Keep a backtest's status: successful, status_summary, status_details, time_elapsed (seconds), description,
        label, each optional. Without an id it is about the model's latest backtest."""
        owner = await self._activity.admit(model, principal=principal, dialect=dialect, project=project)
        told = {name: _fact(name, value) for name, value in status.items() if name in _STATUS and value is not None}
        id = run_id(model, backtest_id) if backtest_id else await self._latest(model)
        data = told | {"model": model, "at": times.iso(times.now())}
        values = self._values(owner, backtest_id or id, None, told, principal, dialect)

        def work(connection: Connection) -> None:
            row = _row(connection, id)
            _same_model(row, model)
            self._events.append(connection, stream_of(id), "status", data)
            if row is None and told.get("successful") is False:
                self._keep(connection, id, model, "failed", values | {"error": _reason(told)})
            elif row is not None:
                changes: dict[str, Any] = {}
                if "label" in told:
                    changes["tags"] = list(dict.fromkeys([*row.tags, told["label"]]))[:50]
                if "description" in told:
                    changes["notes"] = told["description"]
                if row.state == "failed" and told.get("successful") is False:
                    changes["error"] = _reason(told)
                if "time_elapsed" in told and row.finished_at is not None:
                    changes["started_at"] = row.finished_at - round(told["time_elapsed"] * times.SECOND)
                if changes:
                    connection.execute(update(runs).where(runs.c.id == id).values(**changes))

        await self._db.write(work)

    async def _latest(self, model: str) -> str:
        query = select(runs.c.id).where(runs.c.strategy == model[:128], runs.c.kind == "backtest").order_by(
            runs.c.created_at.desc()).limit(20)
        found = await self._db.read(lambda connection: [
            id for id in connection.execute(query).scalars() if _row(connection, id).spec.get("model") == model])
        if not found:
            raise Invalid("Missing required argument: backtest_id", field="backtest_id",
                          remedy="this model has reported no backtest yet: say which one this is")
        return found[0]

    async def _status(self, id: str) -> dict[str, Any]:
        """What was said of a backtest before its result came; later words replace earlier ones."""
        told: dict[str, Any] = {}
        for event in await self._events.page(stream_of(id), types=["status"]):
            told |= {name: value for name, value in event.data.items() if name in _STATUS}
        return told

    @staticmethod
    def _values(model: Model, backtest_id: str, made: BacktestResult | None, told: Mapping[str, Any],
                principal: Principal, dialect: str) -> dict[str, Any]:
        now = times.micros(times.now())
        spec = dict(made.spec) if made else {"strategy": model.name, "model": model.id, "fill_model": "reported"}
        spec["backtest_id"] = backtest_id
        return {
            "name": f"{model.name} (reported)"[:200], "strategy": model.id[:128],
            "tags": decode(encode([told["label"]] if told.get("label") else [])),
            "notes": str(told.get("description") or ""), "dialect": dialect, "spec": decode(encode(spec)),
            "markets": list(spec.get("markets", ())), "resolution": str(spec.get("resolution", ""))[:16],
            "metrics": decode(encode(dict(made.metrics))) if made else {},
            "started_at": now - round(float(told.get("time_elapsed") or 0.0) * times.SECOND), "finished_at": now,
            "owner": principal.name, "error": None, "progress": 1.0,
        }

    def _keep(self, connection: Connection, id: str, model: str, state: str, values: Mapping[str, Any]) -> Run:
        """The run's row and events, inside a write."""
        row = _row(connection, id)
        _same_model(row, model)
        previous = None if row is None else row.state
        values = {**values, "state": state}
        if row is None:
            connection.execute(insert(runs), {**values, "id": id, "kind": "backtest",
                                              "created_at": times.micros(times.now())})
        else:  # what people wrote about it stays
            kept = {name: value for name, value in values.items() if name not in ("name", "owner")}
            kept["tags"] = list(dict.fromkeys([*row.tags, *values["tags"]]))[:50]
            kept["notes"] = row.notes or values["notes"]
            connection.execute(update(runs).where(runs.c.id == id).values(**kept))
        told: dict[str, Any] = {"state": state, "previous_state": previous, "error": values["error"]}
        if previous == "completed":
            told["message"] = "The result was reported again"
        self._events.append(connection, stream_of(id), "state", told)
        self._events.append(connection, f"model/{model}", "backtest", {
            "run": id, "state": state, "total_return": values["metrics"].get("total_return"),
            "at": times.iso(times.now())})
        return run_of(_row(connection, id))


def _row(connection: Connection, id: str) -> Any:
    return connection.execute(select(*COLUMNS).where(runs.c.id == id)).one_or_none()


def _same_model(row: Any, model: str) -> None:
    if row is not None and row.spec.get("model") != model:
        raise Conflict("this id belongs to another run", field="backtest_id", remedy="use an id of its own")


def _fact(name: str, value: Any) -> Any:
    """One word of a status, checked."""
    if name == "successful":
        if not isinstance(value, bool):
            raise Invalid("this is neither true nor false", field=name, remedy="send true or false")
        return value
    if name == "time_elapsed":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise Invalid("this is not a number of seconds", field=name, remedy="send a number from 0 on")
        return float(value)
    return text_up_to(value if isinstance(value, str) else str(value), name, 100 if name == "label" else 20_000)


def _reason(told: Mapping[str, Any]) -> str:
    parts = [str(told[name]) for name in ("status_summary", "status_details") if told.get(name)]
    return ": ".join(parts) or "the model reported that it failed"


def _swap(part: Path, folder: Path) -> None:
    """Put a whole result in the place of the one before."""
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
