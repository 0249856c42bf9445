"""What bots do: recorded, listed, deleted. Projects, models and the keys of bots belong here too.

`record` is the one way in, whatever the wire. What waits while a transaction is being committed is written together
in the next one, so that many bots reporting one thing each cost little more than one bot reporting many.
"""

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from engine import errors as known_errors
from engine import times
from engine.activity import Entry, Model, Order, Project
from engine.errors import Conflict, Invalid, NotFound, Unavailable, WorkbenchError
from engine.model import Principal
from server.services.activity_entries import checked_model, placed, prepare
from server.services.activity_rows import model_of, project_of
from server.services.activity_values import Clock, one_line, text_up_to
from server.services.activity_write import (
    DEFAULT_PROJECT,
    Batch,
    Writing,
    allowed,
    make_model,
    unknown_model,
)
from server.services.users import Token, Users
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables import events as event_rows
from server.store.tables import tokens
from server.store.tables.activity import models, orders, pnl_points, projects

__all__ = ["DEFAULT_PROJECT", "Activity", "Outcome", "Outcomes"]

OFF_LOOP: Final = 64  # entries from which they are prepared in a thread
MAX_ENTRIES: Final = 100_000
REMEMBERED: Final = 100_000
_CHUNK: Final = 2000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry: kept (`ok`), or not (`error`). `seq` is the number of its event in its stream, None
    when it told nothing new."""

    ok: bool
    error: WorkbenchError | None = None
    seq: int | None = None


class Outcomes:
    """What became of the entries of one call, in order. Each is made when it is looked at: there may be thousands."""

    __slots__ = ("_count", "_seqs", "errors")

    def __init__(self, count: int, seqs: Mapping[int, int], errors: Mapping[int, WorkbenchError]) -> None:
        self._count = count
        self._seqs = seqs
        self.errors = errors  # by index

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Outcome:
        place = range(self._count)[index]
        return Outcome(ok=place not in self.errors, error=self.errors.get(place), seq=self._seqs.get(place))

    def __iter__(self) -> Iterator[Outcome]:
        return map(self.__getitem__, range(self._count))


class Activity:
    """Everything bots report. Raises the engine's errors; `NotFound` for an unknown id throughout."""

    def __init__(self, *, db: Database, events: EventLog, users: Users) -> None:
        self._db = db
        self._events = events
        self._users = users
        self._projects: dict[str, str] = {}  # of the models heard of lately
        self._waiting: deque[tuple[Batch, asyncio.Future[None]]] = deque()
        self._asked = False
        self._flushing: set[asyncio.Task[None]] = set()

    # -- the one way in

    async def record(self, entries: Sequence[Entry], *, principal: Principal, atomic: bool = True,
                     key: str | None = None, dialect: str = "native", project: str = "") -> Outcomes:
        """Keep what a bot reports; the answer comes after the commit, one outcome for each entry, in order.

        atomic: all or nothing, and the first bad entry raises (with several its fields are named `[index].field`);
        else the good ones are kept. key: an Idempotency-Key; the same entries again with it are answered as before
        and not kept twice, others raise `Conflict`. Entries that name no model are for the one the principal is bound
        to. Unknown models are made in `project` when the principal is bound to none.
        """
        if not entries:
            return Outcomes(0, {}, {})
        if len(entries) > MAX_ENTRIES:
            raise Invalid(f"{len(entries)} entries are too many", remedy=f"send at most {MAX_ENTRIES} at once")
        if len(entries) < OFF_LOOP:
            batch = self._batch(entries, principal, atomic, key, dialect, project)
        else:
            batch = await asyncio.to_thread(self._batch, entries, principal, atomic, key, dialect, project)
        if batch.steps:
            await self._write(batch)
        return _outcomes(batch, len(entries))

    def _batch(self, entries: Sequence[Entry], principal: Principal, atomic: bool, key: str | None, dialect: str,
               project: str) -> Batch:
        clock = Clock()
        steps, bad = prepare(entries, principal.model, clock, atomic=atomic)
        if key is not None:
            one_line(key, "Idempotency-Key", 255)
        if project and project != principal.project:
            one_line(project, "project", 64)
        found = tuple({step.model: None for step in steps})
        known = {model: self._projects[model] for model in found if model in self._projects}
        for model, belongs in known.items():
            if (error := allowed(principal, model, belongs)) is not None:
                if atomic:
                    index = next(step.index for step in steps if step.model == model)
                    raise placed(error, index) if len(entries) > 1 else error
                bad |= {step.index: error for step in steps if step.model == model}
                steps = [step for step in steps if step.model != model]
        return Batch(
            steps=steps, clock=clock, principal=principal, atomic=atomic, dialect=dialect,
            project=project or DEFAULT_PROJECT, creates=not (principal.project or principal.model), known=known,
            models=found, runs=frozenset([step.run for step in steps]), kinds=frozenset([step.kind for step in steps]),
            several=len(entries) > 1, key=key, errors=bad,
            digest=hashlib.sha256(msgspec.json.encode(entries)).hexdigest() if key else "")

    async def _write(self, batch: Batch) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, future))
        if not self._asked:
            self._asked = True
            task = asyncio.create_task(self._flush())
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)
        await future

    async def _flush(self) -> None:
        """Write everything that waits when the writer's turn comes, in one transaction."""
        taken: list[tuple[Batch, asyncio.Future[None]]] = []

        def work(connection: Connection) -> None:
            self._asked = False  # what comes from now on needs a write of its own
            while self._waiting:
                taken.append(self._waiting.popleft())
            _apply(connection, self._events, [batch for batch, _ in taken])

        try:
            await self._db.write(work)
        except Unavailable as error:
            self._asked = False
            while self._waiting:
                taken.append(self._waiting.popleft())
            for _, future in taken:
                if not future.done():
                    future.set_exception(Unavailable(error.message, remedy=error.remedy))
        except Exception:
            await self._one_by_one(taken)
        else:
            for batch, future in taken:
                self._done(batch, future)

    async def _one_by_one(self, taken: Sequence[tuple[Batch, "asyncio.Future[None]"]]) -> None:
        """What failed together is tried each by itself, with nothing taken for known."""
        for batch, future in taken:
            for model in batch.known:
                self._projects.pop(model, None)
            batch.known, batch.found, batch.seqs, batch.answer = {}, {}, {}, None
            batch.errors = {index: error for index, error in batch.errors.items()
                            if not batch.atomic and index >= 0 and all(step.index != index for step in batch.steps)}
            try:
                await self._db.write(partial(_apply, events=self._events, batches=[batch]))
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                self._done(batch, future)

    def _done(self, batch: Batch, future: "asyncio.Future[None]") -> None:
        if batch.found:
            if len(self._projects) > REMEMBERED:
                self._projects.clear()
            self._projects |= batch.found
        if not future.done():
            future.set_result(None)

    async def close(self) -> None:
        """Wait for what is being written."""
        while self._flushing:
            await asyncio.gather(*self._flushing, return_exceptions=True)

    # -- projects

    async def create_project(self, name: str, *, description: str = "", owner: str = "",
                             id: str | None = None) -> Project:
        """A new project. Raises `Invalid` naming the field, `Conflict` when its id is taken."""
        one_line(name, "name", 200)
        text_up_to(description, "description", 20_000)
        given = one_line(id, "id", 64) if id is not None else secrets.token_hex(10)
        row = {"id": given, "name": name, "description": description, "owner": owner,
               "created_at": times.micros(times.now())}

        def work(connection: Connection) -> Project:
            if connection.execute(select(projects.c.id).where(projects.c.id == given)).first():
                raise Conflict(f"there is a project {given!r} already", field="id", remedy="use another id")
            connection.execute(insert(projects), row)
            return project_of(_fetch_project(connection, given))

        return await self._db.write(work)

    async def projects(self) -> list[Project]:
        """All projects, oldest first."""
        query = select(projects).order_by(projects.c.created_at, projects.c.id)
        return await self._db.read(lambda connection: [project_of(row) for row in connection.execute(query)])

    async def project(self, id: str) -> Project:
        return await self._db.read(lambda connection: project_of(_fetch_project(connection, id)))

    async def delete_project(self, id: str) -> None:
        """Delete an empty project and revoke its keys. Raises `Conflict` while it has models."""
        def work(connection: Connection) -> list[str]:
            _fetch_project(connection, id)
            if connection.execute(select(models.c.id).where(models.c.project_id == id)).first():
                raise Conflict("this project has models", field="project", remedy="delete its models first")
            mine = (tokens.c.project_id == id, tokens.c.revoked_at.is_(None))
            ids = list(connection.execute(select(tokens.c.id).where(*mine)).scalars())
            connection.execute(update(tokens).where(*mine).values(revoked_at=times.micros(times.now())))
            connection.execute(delete(projects).where(projects.c.id == id))
            return ids

        for token_id in await self._db.write(work):
            self._users.forget(token_id)

    # -- models

    async def create_model(self, project: str, name: str, *, description: str = "", kind: str = "strategy",
                           dialect: str = "native", id: str | None = None) -> Model:
        """A new model. Raises `Invalid` naming the field, `NotFound` for the project, `Conflict` for a taken id."""
        one_line(name, "name", 200)
        text_up_to(description, "description", 20_000)
        one_line(kind, "kind", 32)
        given = checked_model(id, "id") if id is not None else secrets.token_hex(10)
        clock = Clock()

        def work(connection: Connection) -> Model:
            if project != DEFAULT_PROJECT:
                _fetch_project(connection, project)
            if connection.execute(select(models.c.id).where(models.c.id == given)).first():
                raise Conflict(f"there is a model {given!r} already", field="id", remedy="use another id")
            make_model(connection, self._events, given, project=project, dialect=dialect, clock=clock, name=name,
                       description=description, kind=kind)
            return model_of(_fetch_model(connection, given))

        return await self._db.write(work)

    async def admit(self, id: str, *, principal: Principal, dialect: str = "native", project: str = "") -> Model:
        """The model that a principal may report of, made when it is new and the principal may. Raises as `record`."""
        checked_model(id)
        clock, creates = Clock(), not (principal.project or principal.model)

        def look(connection: Connection) -> Any:
            return connection.execute(select(models).where(models.c.id == id)).first()

        def make(connection: Connection) -> Any:
            if look(connection) is None:
                make_model(connection, self._events, id, project=project or DEFAULT_PROJECT, dialect=dialect,
                           clock=clock)
            return look(connection)

        row = await self._db.read(look)
        if row is None:
            if not creates:
                raise unknown_model(id)
            if project:
                one_line(project, "project", 64)
            row = await self._db.write(make)
        if (error := allowed(principal, id, row.project_id)) is not None:
            raise error
        return model_of(row)

    async def model(self, id: str) -> Model:
        return await self._db.read(lambda connection: model_of(_fetch_model(connection, id)))

    async def change_model(self, id: str, *, name: str | None = None, description: str | None = None) -> Model:
        """Give a model another name or description."""
        changes: dict[str, Any] = {}
        if name is not None:
            changes["name"] = one_line(name, "name", 200)
        if description is not None:
            changes["description"] = text_up_to(description, "description", 20_000)
        data = {"model": id, **changes, "at": times.iso(times.now())}

        def work(connection: Connection) -> Model:
            _fetch_model(connection, id)
            if changes:
                connection.execute(update(models).where(models.c.id == id).values(**changes))
                self._events.append(connection, f"model/{id}", "changed", data)
            return model_of(_fetch_model(connection, id))

        return await self._db.write(work)

    async def delete_model(self, id: str) -> None:
        """Delete a model with its orders and events, and revoke its keys. Other writes go between its parts."""
        streams = (f"model/{id}", f"model/{id}/log")
        at = times.micros(times.now())

        def begin(connection: Connection) -> list[str]:
            _fetch_model(connection, id)
            mine = (tokens.c.model_id == id, tokens.c.revoked_at.is_(None))
            ids = list(connection.execute(select(tokens.c.id).where(*mine)).scalars())
            connection.execute(update(tokens).where(*mine).values(revoked_at=at))
            return ids

        for token_id in await self._db.write(begin):
            self._users.forget(token_id)
        some = (select(orders.c.run_id, orders.c.id).where(orders.c.model_id == id).limit(_CHUNK))
        while rows := await self._db.read(lambda connection: connection.execute(some).all()):
            await self._db.write(partial(_delete_orders, model=id, rows=rows))
        old = select(event_rows.c.id).where(event_rows.c.stream.in_(streams)).limit(_CHUNK)
        while ids := await self._db.read(lambda connection: connection.execute(old).scalars().all()):
            await self._db.write(partial(_delete_events, ids=ids))

        def end(connection: Connection) -> None:
            connection.execute(delete(models).where(models.c.id == id))
            for stream in streams:
                self._events.delete(connection, stream)

        await self._db.write(end)
        self._projects.pop(id, None)

    # -- what they did

    async def order(self, model: str, id: str, run: str = "") -> Order:
        found = await self._db.read(lambda connection: connection.execute(select(orders).where(
            orders.c.model_id == model, orders.c.run_id == run, orders.c.id == id)).first())
        if found is None:
            raise NotFound(f"there is no order {id[:80]!r}", field="id")
        from server.services.activity_orders import order_of

        return order_of(found)

    async def pnl_points(self, model: str) -> list[tuple[int, float]]:
        """The profit series that a model reported of itself: (microseconds, value), by time."""
        query = select(pnl_points.c.at, pnl_points.c.value).where(pnl_points.c.model_id == model).order_by(
            pnl_points.c.at)
        return await self._db.read(lambda connection: [(row.at, row.value) for row in connection.execute(query)])

    # -- keys

    async def create_key(self, project: str, model: str | None = None, *, name: str = "") -> tuple[Token, str, str]:
        """A key for the bots of a project, or for one model of it: (token, api_key, api_pass).

        api_key is the project's id, api_pass the token's text, which cannot be had again; it is also what generation A
        sends as `token`, and a Bearer token.
        """
        def work(connection: Connection) -> None:
            _fetch_project(connection, project)
            if model is not None and _fetch_model(connection, model).project_id != project:
                raise unknown_model(model)

        await self._db.read(work)
        token, text = await self._users.create(name or f"bot {model or project}", ["ingest"], owner=project,
                                               project=project, model=model or "")
        return token, project, text

    async def keys(self, project: str) -> list[Token]:
        """The keys of a project, newest first, the revoked ones included; revoke with `users.revoke`."""
        return [token for token in await self._users.list() if token.project == project]


def _apply(connection: Connection, events: EventLog, batches: Sequence[Batch]) -> None:
    writing = Writing(connection, events, batches)
    for batch in batches:
        writing.take(batch)
    writing.finish(Clock())


def _delete_orders(connection: Connection, model: str, rows: Sequence[Any]) -> None:
    for row in rows:
        connection.execute(delete(orders).where(orders.c.model_id == model, orders.c.run_id == row.run_id,
                                                orders.c.id == row.id))


def _delete_events(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(delete(event_rows).where(event_rows.c.id.in_(ids)))


def _outcomes(batch: Batch, count: int) -> Outcomes:
    """One outcome for each entry; raises what makes the whole batch void."""
    answer = batch.answer
    if isinstance(answer, Batch):
        return _outcomes(answer, count)
    if answer is not None:
        seqs = {int(index): seq for index, seq in answer["seqs"].items()}
        errors = {int(index): _error(*parts) for index, parts in answer["errors"].items()}
    else:
        seqs, errors = batch.seqs, batch.errors
    if -1 in errors:
        raise errors[-1]
    if errors and batch.atomic:
        raise errors[min(errors)]
    return Outcomes(count, seqs, errors)


def _error(code: str, message: str, field: str, remedy: str) -> WorkbenchError:
    """An error as it was kept with the answer."""
    kinds = {kind.code: kind for name in known_errors.__all__
             if isinstance(kind := getattr(known_errors, name), type) and issubclass(kind, WorkbenchError)}
    return kinds.get(code, WorkbenchError)(message, field=field, remedy=remedy)


def _fetch_project(connection: Connection, id: str) -> Any:
    row = connection.execute(select(projects).where(projects.c.id == id)).first()
    if row is None:
        raise NotFound(f"there is no project {id[:80]!r}", field="project", remedy="create it first")
    return row


def _fetch_model(connection: Connection, id: str) -> Any:
    row = connection.execute(select(models).where(models.c.id == id)).first()
    if row is None:
        raise NotFound(f"there is no model {id[:80]!r}", field="model")
    return row
