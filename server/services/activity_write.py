"""The write behind `Activity.record`: many batches in one transaction.

Whatever waits is written together: one statement for all events, one for all new orders, one change of each model's
row, however many entries there are. A batch that may not be kept (an unknown model, an unknown order, a key used for
something else) is found out before anything of it is taken up, so that it costs the others nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from engine.errors import Conflict, Forbidden, NotFound, WorkbenchError
from engine.model import Principal
from server.services.activity_entries import Step, placed
from server.services.activity_orders import merged, order_json, replaced, row_of, stored
from server.services.activity_values import Clock
from server.store.bulk import find_rows, insert_rows, upsert_rows
from server.store.encoding import decode, encode
from server.store.events import EventLog
from server.store.tables import runs
from server.store.tables.activity import ingest_keys, models, orders, pnl_points, projects

__all__ = ["DEFAULT_PROJECT", "Batch", "GoneError", "Writing", "allowed", "make_model"]

DEFAULT_PROJECT: Final = "default"
KEYS_KEPT: Final = 24 * 3600 * 1_000_000  # microseconds for which an Idempotency-Key is remembered

_OF_ORDERS: Final = frozenset({"order", "change"})  # kinds of steps
_HEARD: Final = (
    update(models).where(models.c.id == bindparam("of")).values(
        heard_at=bindparam("heard"), orders=models.c.orders + bindparam("placed"),
        errors=models.c.errors + bindparam("failed")))
_STATE: Final = ("message", "running", "started_at", "ended_at", "symbols", "exchanges", "auto_pnl", "metrics")
_STATE_OF: Final = select(*(models.c[name] for name in _STATE)).where(models.c.id == bindparam("of"))
_KNOWN_KEY: Final = select(ingest_keys.c.digest, ingest_keys.c.answer).where(
    ingest_keys.c.owner == bindparam("owner"), ingest_keys.c.key == bindparam("given"))


class GoneError(Exception):
    """A model that was known is no longer there."""


@dataclass(slots=True, eq=False)
class Batch:
    """One call of `record`. `models`, `runs` and `kinds` are those of its steps (more, when some were taken out).
    `known` are its models whose project is remembered; the others are looked up, and made when `creates`. After the
    write: `seqs` by index, `errors` by index, `answer` when it was given before."""

    steps: Sequence[Step]
    clock: Clock
    principal: Principal
    atomic: bool
    dialect: str
    project: str
    creates: bool
    known: Mapping[str, str]
    models: tuple[str, ...]
    runs: frozenset[str]
    kinds: frozenset[str]
    several: bool
    key: str | None = None
    digest: str = ""
    errors: dict[int, WorkbenchError] = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    answer: Any = None


def allowed(principal: Principal, model: str, project: str) -> WorkbenchError | None:
    """Why this principal may not write to a model of this project; None when it may."""
    if principal.model and principal.model != model:
        return Forbidden("this key is for another model", field="model", remedy="use the key of this model")
    if principal.project and principal.project != project:
        return unknown_model(model)
    return None


def unknown_model(model: str) -> NotFound:
    return NotFound(f"there is no model {model[:80]!r}", field="model",
                    remedy="create it first, or use a token that is bound to no project")


@dataclass(slots=True, eq=False)
class _Heard:
    """What one transaction adds to a model's row."""

    at: int = 0
    orders: int = 0
    errors: int = 0
    last_error: str | None = None
    state: dict[str, Any] | None = None
    changed: set[str] = field(default_factory=set)


class Writing:
    """One transaction's worth of batches: `take` each, then `finish`."""

    def __init__(self, connection: Connection, events: EventLog, batches: Sequence[Batch]) -> None:
        self._connection = connection
        self._log = events
        self._items: list[tuple[str, str, Mapping[str, Any], str]] = []
        self._places: list[tuple[Batch, int]] = []
        self._heard: dict[str, _Heard] = {}
        self._rows: dict[tuple[str, str, str], dict[str, Any] | None] = {}
        self._new: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._changed: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._points: dict[str, Sequence[tuple[int, float]]] = {}
        self._keyed: list[Batch] = []
        self._in_hand: dict[tuple[str, str], Batch] = {}
        self._load(key for batch in batches if not _OF_ORDERS.isdisjoint(batch.kinds)
                   for key in _orders_of(batch.steps))

    # -- one batch

    def take(self, batch: Batch) -> None:
        """Take up a batch; what is wrong with it goes into its `errors`, and nothing of it is kept when `atomic`."""
        if batch.key and self._given_before(batch):
            return
        refused = self._refused(batch)
        if refused:
            batch.errors |= refused
            if batch.atomic:
                return
        if batch.key:
            self._keyed.append(batch)
            self._in_hand[batch.principal.token_id, batch.key] = batch
        model, stream = "", ""
        for step in batch.steps:
            if refused and step.index in refused:
                continue
            if step.kind != "log" or step.run or step.error is not None:
                self._do(batch, step)
                continue
            if step.model != model:  # plain lines are nearly all there is: no more is done for each than must be
                model, stream = step.model, f"model/{step.model}/log"
                self._heard.setdefault(model, _Heard()).at = batch.clock.now_micros
            self._items.append((stream, "log", step.data, step.text))
            self._places.append((batch, step.index))

    def _given_before(self, batch: Batch) -> bool:
        owner, key = batch.principal.token_id, batch.key or ""
        other = self._in_hand.get((owner, key))
        row = None if other else self._connection.execute(_KNOWN_KEY, {"owner": owner, "given": key}).first()
        if other is None and row is None:
            return False
        if (other.digest if other else row.digest) != batch.digest:  # type: ignore[union-attr]
            batch.errors = {-1: Conflict("this key was used for another request", field="Idempotency-Key",
                                         remedy="use a new key for each request")}
        else:
            batch.answer = other if other else decode(row.answer)  # type: ignore[union-attr]
        return True

    def _refused(self, batch: Batch) -> dict[int, WorkbenchError]:
        """What cannot be kept, by index. Models that may be made are made."""
        wrong: dict[str, WorkbenchError] = {}
        missing: list[str] = []
        for model in batch.models:
            project = batch.known.get(model) or batch.found.get(model)
            if project is None:
                project = self._connection.execute(
                    select(models.c.project_id).where(models.c.id == model)).scalar_one_or_none()
                if project is not None:
                    batch.found[model] = project
            if project is not None:
                if error := allowed(batch.principal, model, project):
                    wrong[model] = error
            elif batch.creates:
                missing.append(model)
            else:
                wrong[model] = unknown_model(model)
        refused = {step.index: _at(wrong[step.model], step.index, batch) for step in batch.steps
                   if step.model in wrong} if wrong else {}
        if any(batch.runs) and not batch.principal.may("admin"):
            refused |= self._foreign_runs(batch)
        if "change" in batch.kinds:
            refused |= self._unknown_orders(batch, refused)
        if missing and not (refused and batch.atomic):
            for model in missing:
                make_model(self._connection, self._log, model, project=batch.project, dialect=batch.dialect,
                           clock=batch.clock)
                batch.found[model] = batch.project
        return refused

    def _foreign_runs(self, batch: Batch) -> dict[int, WorkbenchError]:
        """Entries of a run that is not one of their model's: a key for a bot writes into nobody else's run."""
        owners: dict[str, str | None] = {}
        for run in filter(None, batch.runs):
            row = self._connection.execute(select(runs.c.spec).where(runs.c.id == run)).first()
            if row is not None:
                owners[run] = row.spec.get("model")
        return {step.index: _at(Conflict("this id belongs to another run", field="run", remedy="use an id of its own"),
                                step.index, batch)
                for step in batch.steps if step.run in owners and owners[step.run] != step.model}

    def _unknown_orders(self, batch: Batch, refused: Mapping[int, WorkbenchError]) -> dict[int, WorkbenchError]:
        found: dict[int, WorkbenchError] = {}
        placed_here: set[tuple[str, str, str]] = set()
        for step in batch.steps:
            if step.index in refused or step.kind not in ("order", "change"):
                continue
            key = _key(step)
            if step.kind == "order":
                placed_here.add(key)
            elif step.kind == "change" and key not in placed_here and self._rows.get(key) is None:
                found[step.index] = _at(NotFound(f"there is no order {key[2][:80]!r}", field="id",
                                                 remedy="report the order first"), step.index, batch)
        return found

    def _do(self, batch: Batch, step: Step) -> None:
        model, kind = step.model, step.kind
        heard = self._heard.get(model)
        if heard is None:
            heard = self._heard[model] = _Heard()
        heard.at = batch.clock.now_micros
        if step.error is not None and not step.run:
            heard.last_error = step.error
            heard.errors += step.counts
        if kind == "log":
            self._add(batch, step, f"model/{model}/log", step.data, step.text)
            if step.run:
                line = {"message": step.data["line"], "type": step.data["type"], "at": step.data["at"]}
                self._items.append((f"run/{step.run}", "log", line, str(encode(line))))
                self._places.append((batch, -1))
        elif kind == "event":
            self._add(batch, step, f"model/{model}", step.data, step.text)
        elif kind == "order":
            self._place(batch, step, heard)
        elif kind == "change":
            self._change(batch, step)
        elif kind == "pnl":
            self._points[model] = step.change
            self._add(batch, step, f"model/{model}", step.data, step.text)
        elif step.run:  # a backtest's state is not the model's
            data = {**step.data, **step.change}
            self._add(batch, step, f"run/{step.run}", data, str(encode(data)))
        else:
            self._state(batch, step, heard)

    def _add(self, batch: Batch, step: Step, stream: str, data: Mapping[str, Any], text: str) -> None:
        self._items.append((stream, step.type, data, text))
        self._places.append((batch, step.index))

    def _place(self, batch: Batch, step: Step, heard: _Heard) -> None:
        key, row, data, text = _key(step), step.change, step.data, step.text
        before = self._rows.get(key)
        if before is None:
            self._rows[key] = self._new[key] = row
            heard.orders += not step.run
        else:
            row = replaced(before, row, step.timed)
            self._keep(key, row)
            data = order_json(row)
            text = str(encode(data))
        self._add(batch, step, f"model/{step.model}", data, text)

    def _change(self, batch: Batch, step: Step) -> None:
        key = _key(step)
        before = self._rows[key]
        assert before is not None
        row = merged(before, step.change)
        self._keep(key, row)
        data = order_json(row) if step.type == "order" else step.data
        self._add(batch, step, f"model/{step.model}", data, str(encode(data)))

    def _keep(self, key: tuple[str, str, str], row: dict[str, Any]) -> None:
        self._rows[key] = row
        (self._new if key in self._new else self._changed)[key] = row

    def _state(self, batch: Batch, step: Step, heard: _Heard) -> None:
        if heard.state is None:
            row = self._connection.execute(_STATE_OF, {"of": step.model}).first()
            if row is None:
                raise GoneError(step.model)
            heard.state = dict(row._mapping)
        state, change = heard.state, step.change
        data: dict[str, Any] = dict(step.data)
        if step.type in ("symbol", "exchange"):
            [(column, value)] = change.items()
            if value in state[column]:
                return  # known already: nothing to tell
            state[column] = [*state[column], value]
            heard.changed.add(column)
            data |= {step.type: value, column: state[column]}
        elif step.type == "metrics":
            state["metrics"] = {**state["metrics"], **change["metrics"]}
            heard.changed.add("metrics")
            data["metrics"] = state["metrics"]
        elif step.type == "auto-pnl":
            state["auto_pnl"] = change["auto_pnl"]
            heard.changed.add("auto_pnl")
            data["enabled"] = change["auto_pnl"]
        else:
            state.update(change)
            heard.changed |= set(change)
            data |= {"message": state["message"], "running": state["running"],
                     "started_at": iso(state["started_at"]), "ended_at": iso(state["ended_at"])}
        self._add(batch, step, f"model/{step.model}", data, str(encode(data)))

    # -- all of them

    def finish(self, now: Clock) -> None:
        """Write what was taken up."""
        connection = self._connection
        if not self._heard:
            return
        beats = [{"of": model, "heard": heard.at, "placed": heard.orders, "failed": heard.errors}
                 for model, heard in self._heard.items()]
        if connection.execute(_HEARD, beats).rowcount != len(beats):
            raise GoneError("a model that was known is no longer there")
        for model, heard in self._heard.items():
            more: dict[str, Any] = {}
            if heard.last_error is not None:
                more |= {"last_error": heard.last_error.replace("\x00", ""), "last_error_at": heard.at}
            if heard.state is not None:
                more |= {name: heard.state[name] for name in heard.changed}
            if more:
                connection.execute(update(models).where(models.c.id == model).values(**more))
        insert_rows(connection, orders, [stored(row) for row in self._new.values()])
        upsert_rows(connection, orders, [stored(row) for row in self._changed.values()])
        for model, points in self._points.items():
            connection.execute(delete(pnl_points).where(pnl_points.c.model_id == model))
            insert_rows(connection, pnl_points, [(model, at, value) for at, value in points])
        seqs = self._log.append_all(connection, self._items, now.now)
        for (batch, index), seq in zip(self._places, seqs, strict=True):
            if index >= 0:
                batch.seqs[index] = seq
        if self._keyed:
            self._keep_answers(now)

    def _keep_answers(self, now: Clock) -> None:
        self._connection.execute(insert(ingest_keys), [
            {"owner": batch.principal.token_id, "key": batch.key, "at": now.now_micros, "digest": batch.digest,
             "answer": str(encode({"seqs": batch.seqs, "errors": {
                 index: [error.code, error.message, error.field, error.remedy]
                 for index, error in batch.errors.items()}}))} for batch in self._keyed])
        # A few more than came, so that those of the day before yesterday go as quietly as they came.
        old = self._connection.execute(
            select(ingest_keys.c.owner, ingest_keys.c.key).where(ingest_keys.c.at < now.now_micros - KEYS_KEPT)
            .order_by(ingest_keys.c.at).limit(2 * len(self._keyed))).all()
        for owner, key in old:
            self._connection.execute(delete(ingest_keys).where(
                ingest_keys.c.owner == owner, ingest_keys.c.key == key))

    def _load(self, keys: Iterable[tuple[str, str, str]]) -> None:
        """Read the rows of the orders that are spoken of."""
        for found in find_rows(self._connection, orders, dict.fromkeys(keys)):
            row = row_of(found)
            self._rows[row["model_id"], row["run_id"], row["id"]] = row


def make_model(connection: Connection, events: EventLog, id: str, *, project: str, dialect: str, clock: Clock,
               name: str = "", description: str = "", kind: str = "strategy") -> None:
    """Insert a model, and its project when that is missing, inside a write."""
    make_project(connection, project, clock)
    connection.execute(insert(models), {
        "id": id, "project_id": project, "name": name or id, "description": description, "dialect": dialect,
        "kind": kind, "created_at": clock.now_micros, "symbols": [], "exchanges": [], "auto_pnl": True, "metrics": {}})
    events.append(connection, f"model/{id}", "created", {
        "model": id, "project": project, "name": name or id, "dialect": dialect, "kind": kind, "at": clock.now_iso},
        clock.now)


def make_project(connection: Connection, id: str, clock: Clock) -> None:
    """Insert a project when it is missing."""
    if connection.execute(select(projects.c.id).where(projects.c.id == id)).first() is None:
        connection.execute(insert(projects), {"id": id, "name": id, "created_at": clock.now_micros})


def iso(value: int | None) -> str | None:
    from engine import times

    return None if value is None else times.iso(value)


def _at(error: WorkbenchError, index: int, batch: Batch) -> WorkbenchError:
    return placed(error, index) if batch.several and batch.atomic else error


def _key(step: Step) -> tuple[str, str, str]:
    return (step.model, step.run, step.change["id"] if step.kind == "order" else step.data["id"])


def _orders_of(steps: Sequence[Step]) -> Iterable[tuple[str, str, str]]:
    return [_key(step) for step in steps if step.kind in ("order", "change")]
