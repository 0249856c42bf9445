"""Runs: submitted, listed, followed, cancelled, deleted. The one way to have something computed.

A run is durable before `submit` returns. Cancelling is final at once: the run is cancelled in the table, and the pool
is told to let go of it, which it does within its grace time; what it reports after that is dropped.
"""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, delete, select, update

from engine import times
from engine.candle_store import CandleStore
from engine.errors import Conflict, Invalid, NotFound, Problem, WorkbenchError
from engine.model import FINISHED, Event, Market, Run
from engine.result import read_summary
from engine.spec import BacktestSpec
from server.pool import Pool
from server.services.dispatch import Dispatcher
from server.services.run_rows import COLUMNS, MANY, Filters, Page, page_queries, run_of, write_cursor
from server.services.run_states import change_state, stream_of
from server.store.bulk import insert_rows
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import runs, trials

MAX_NAME: Final = 256
MAX_NOTES: Final = 20_000
MAX_TAGS: Final = 50


class Runs:
    """All runs of the workbench. Raises the engine's errors; `NotFound` for an unknown id throughout."""

    def __init__(self, *, db: Database, events: EventLog, pool: Pool, store: CandleStore, data_dir: Path) -> None:
        self._db = db
        self._events = events
        self.store = store
        self._results = Path(data_dir) / "results"
        self.dispatcher = Dispatcher(db=db, events=events, pool=pool, candles=store.root, results=self._results)

    async def start(self) -> None:
        """Take up what a former life left and begin to dispatch."""
        await self.dispatcher.start()

    async def close(self) -> None:
        await self.dispatcher.close()

    # -- begin

    async def submit(self, spec: BacktestSpec | Mapping[str, Any], *, dialect: str = "native", name: str = "",
                     tags: Sequence[str] = (), owner: str = "", request: Mapping[str, Any] | None = None,
                     idempotency_key: str | None = None, parent: str | None = None, lenient: bool = False) -> Run:
        """A new queued backtest, or the one that the same `idempotency_key` made before.

        Raises `Invalid` naming every field of the spec that cannot work (unknown strategy or parameter, market or range
        without data) and `Conflict` when the key was used for something else. With `lenient` nothing is checked, the
        spec may even be a plain mapping: what is wrong makes the run fail, with the engine's words.
        """
        if isinstance(spec, BacktestSpec):
            if not lenient:
                await asyncio.to_thread(self.check, spec)
            body = spec.model_dump(mode="json")
        elif lenient:
            body = dict(spec)
        else:
            body = BacktestSpec.read(spec).model_dump(mode="json")
            await asyncio.to_thread(self.check, BacktestSpec.read(spec))
        return await self.add(body, kind="backtest", dialect=dialect, name=name, tags=tags, owner=owner,
                              request=request, idempotency_key=idempotency_key, parent=parent)

    async def add(self, body: Mapping[str, Any], *, kind: str, dialect: str = "native", name: str = "",
                  tags: Sequence[str] = (), owner: str = "", request: Mapping[str, Any] | None = None,
                  idempotency_key: str | None = None, parent: str | None = None,
                  described_by: Mapping[str, Any] | None = None) -> Run:
        """A new queued run of any kind; `described_by` is the backtest that names its strategy and markets."""
        about = described_by or body
        if idempotency_key is not None:
            if not 1 <= len(idempotency_key) <= 255:
                raise Invalid("an idempotency key has 1 to 255 characters", field="Idempotency-Key")
            idempotency_key = f"{owner}\n{idempotency_key}"
            request = request if request is not None else {"spec": body, "name": name, "tags": list(tags)}
        run = Run(id=str(uuid.uuid4()), kind=kind, state="queued", progress=0.0, created_at=times.now(),  # type: ignore[arg-type]
                  name=_name(name), tags=_tags(tags), dialect=dialect, owner=owner, parent=parent,
                  strategy=str(about.get("strategy", ""))[:128], resolution=str(about.get("resolution", ""))[:16],
                  markets=tuple(str(market) for market in about.get("markets", ())), spec=body, request=request)
        row = _row(run, idempotency_key)
        asked = encode([request, body])

        def work(connection: Connection) -> Run:
            if idempotency_key is not None:
                query = select(*COLUMNS).where(runs.c.idempotency_key == idempotency_key)
                if (found := connection.execute(query).one_or_none()) is not None:
                    if encode([found.request, found.spec]) != asked:
                        raise Conflict("this idempotency key was used for a different request",
                                       field="Idempotency-Key", remedy="use a new key for a new request")
                    return run_of(found)
            insert_rows(connection, runs, [row])
            self._events.append(connection, stream_of(run.id), "state",
                                {"state": "queued", "previous_state": None, "message": "Run queued"})
            return run

        made = await self._db.write(work)
        self.dispatcher.wake()
        return made

    def check(self, spec: BacktestSpec) -> None:
        """Raise `Invalid` with every reason known now why this backtest cannot work. Blocks (reads the disk)."""
        from engine import strategies

        problems: list[Problem] = []

        def attempt(work: Callable[[], object], field: str, *, prefix: bool = False) -> None:
            try:
                work()
            except WorkbenchError as error:
                for problem in error.problems:
                    named = f"{field}.{problem.field}" if prefix and problem.field else problem.field or field
                    problems.append(Problem(named, problem.message, problem.remedy))

        if spec.fill_model == "next_bar":
            try:
                strategy = strategies.find(spec.strategy, self.store)
            except WorkbenchError as error:
                problems.extend(Problem("strategy", problem.message, problem.remedy) for problem in error.problems)
            else:
                attempt(lambda: strategy.resolve(spec.params), "params")
            if spec.source != "store":
                problems.append(Problem("source", f"next_bar does not read from {spec.source!r}", 'use "store"'))
        elif spec.fill_model == "gekko":
            from engine.fills.gekko_terms import read

            attempt(lambda: read(spec), "fill_options")
        elif spec.fill_model == "alerts":
            from engine.detector_backtest import check

            attempt(lambda: check(spec), "strategy")
        else:
            attempt(lambda: _check_glowback(spec), "strategy")
        if spec.source == "store":
            for position, key in enumerate(spec.markets):
                attempt(partial(self._check_market, spec, key), f"markets.{position}")
            if spec.benchmark:
                attempt(lambda: self._check_market(spec, str(spec.benchmark)), "benchmark")
        if problems:
            raise Invalid("the backtest cannot work", problems=problems)

    def _check_market(self, spec: BacktestSpec, key: str) -> None:
        market = Market.parse(key) if ":" in key and "/" in key else self.store.resolve(key)
        try:
            source = self.store.source(market, spec.resolution_seconds)
        except WorkbenchError as error:
            found = error.problems[0]
            raise Invalid(found.message, field="resolution" if found.field == "resolution" else "",
                          remedy=found.remedy) from None
        there = next(dataset for dataset in self.store.datasets(market) if dataset.resolution == source)
        span = f"it has {times.iso(there.first)[:10]} to {times.iso(there.last)[:10]}"
        if spec.start_micros is not None and spec.start_micros > there.last:
            raise Invalid(f"{key} has no candles from {spec.start} on", field="start", remedy=span)
        if spec.end_micros is not None and spec.end_micros < there.first:
            raise Invalid(f"{key} has no candles up to {spec.end}", field="end", remedy=span)

    # -- look

    async def get(self, id: str) -> Run:
        return run_of(await self._db.read(lambda connection: _fetch(connection, id)))

    async def list(self, *, states: Sequence[str] | None = None, kind: str | None = None, strategy: str | None = None,
                   market: str | None = None, tag: str | None = None, dialect: str | None = None,
                   parent: str | None = None, owner: str | None = None, text: str = "",
                   metrics: Mapping[str, tuple[float | None, float | None]] | None = None, sort: str = "created_at",
                   descending: bool = True, limit: int = 50, cursor: str | None = None) -> Page:
        """A page of the runs that all filters let through. `sort` is a column or a metric's key; `metrics` maps
        keys to (least, most). Raises `Invalid` naming the filter, limit, sort or cursor that makes no sense."""
        filters = Filters(states=states, kind=kind, strategy=strategy, market=market, tag=tag, dialect=dialect,
                          parent=parent, owner=owner, text=text, metrics=metrics)
        total = filters.total()
        few, many = (page_queries(filters, sort, descending, limit, cursor, many=many) for many in (False, True))

        def work(connection: Connection) -> Page:
            count = connection.execute(total).scalar_one()
            rows: list[Any] = []
            for query in many if count > MANY else few:
                if len(rows) <= limit:
                    rows += connection.execute(query).all()
            more = write_cursor(rows[limit - 1], sort, descending) if len(rows) > limit else None
            return Page(items=tuple(run_of(row) for row in rows[:limit]), next_cursor=more, total=count)

        return await self._db.read(work)

    async def summary(self, id: str) -> dict[str, Any]:
        """All of a completed run's result but its tables; `Conflict` while there is none."""
        return await asyncio.to_thread(read_summary, await self.completed_folder(id))

    async def completed_folder(self, id: str) -> Path:
        """The folder of a completed run's tables; `Conflict` in any other state."""
        run = await self.get(id)
        if run.state != "completed":
            raise Conflict(f"the run is {run.state}" + (f": {run.error}" if run.error else ""),
                           remedy="a result exists once a run is completed")
        return self.folder(id)

    def folder(self, id: str) -> Path:
        """Where a run's result is kept. The id is one that the workbench made, never a path of a client's choice."""
        try:
            return self._results / str(uuid.UUID(id))
        except ValueError:
            raise _unknown(id) from None

    async def table(self, id: str, name: str) -> Any:
        """One table of a completed run as a memory-mapped `pyarrow.Table`."""
        from engine.result import read_table

        return await asyncio.to_thread(read_table, await self.completed_folder(id), name)

    async def follow(self, id: str, after: int = 0) -> AsyncIterator[Event]:
        """The run's events with seq > after, as they come; ends with the event of its final state."""
        run = await self.get(id)
        stream = stream_of(id)
        if run.finished:
            while page := await self._events.page(stream, after):
                for event in page:
                    yield event
                after = page[-1].seq
            return
        async for event in self._events.follow(stream, min(after, await self._last(id))):
            if event.seq > after:
                yield event
            final = event.type == "state" and event.data.get("state") in FINISHED
            if final and (run.kind == "backtest" or (await self.get(id)).finished):
                return

    async def _last(self, id: str) -> int:
        """How many events the run has now; a follower that claims to know later ones must still see the end."""
        from sqlalchemy import func

        from server.store.tables import events

        query = select(func.coalesce(func.max(events.c.seq), 0)).where(events.c.stream == stream_of(id))
        return await self._db.read(lambda connection: connection.execute(query).scalar_one())

    # -- change

    async def annotate(self, id: str, *, name: str | None = None, tags: Iterable[str] | None = None,
                       notes: str | None = None) -> Run:
        """Change what people wrote about a run; None leaves as it is."""
        values: dict[str, Any] = {}
        if name is not None:
            values["name"] = _name(name)
        if tags is not None:
            values["tags"] = list(_tags(tags))
        if notes is not None:
            if len(notes) > MAX_NOTES:
                raise Invalid(f"notes have at most {MAX_NOTES} characters", field="notes")
            values["notes"] = _text(notes, "notes")

        def work(connection: Connection) -> Run:
            if values:
                connection.execute(update(runs).where(runs.c.id == id).values(**values))
            return run_of(_fetch(connection, id))

        return await self._db.write(work)

    async def cancel(self, id: str) -> Run:
        """The run, cancelled. Cancelling again changes nothing; `Conflict` when it completed or failed before."""

        def work(connection: Connection) -> Run:
            row = _fetch(connection, id)
            if row.state == "cancelled":
                return run_of(row)
            if row.state in FINISHED:
                raise Conflict(f"the run has already {row.state}", remedy="only queued and running runs are cancelled")
            change_state(connection, self._events, id, "cancelled", row.state)
            return run_of(_fetch(connection, id))

        run = await self._db.write(work)
        self.dispatcher.stop(id)
        return run

    async def delete(self, id: str) -> None:
        """Remove a finished run with its events, trials and result; `Conflict` while it is queued or running."""

        def work(connection: Connection) -> None:
            row = _fetch(connection, id)
            if row.state not in FINISHED:
                raise Conflict(f"the run is {row.state}", remedy="cancel it first")
            connection.execute(delete(trials).where(trials.c.run_id == id))
            connection.execute(delete(runs).where(runs.c.id == id))
            self._events.delete(connection, stream_of(id))

        await self._db.write(work)
        await asyncio.to_thread(shutil.rmtree, self.folder(id), True)

    async def rerun(self, id: str, *, owner: str = "") -> Run:
        """A new run of the same backtest. Its spec is taken as it is; what no longer works fails with a reason."""
        run = await self.get(id)
        if run.kind != "backtest":
            raise Conflict(f"a run of kind {run.kind} cannot be repeated", remedy="submit it again")
        return await self.submit(run.spec, dialect=run.dialect, name=run.name, tags=run.tags,
                                 owner=owner or run.owner, lenient=True)


def _check_glowback(spec: BacktestSpec) -> None:
    from engine.fills.glowback_strategies import ALIASES, NAMES, make

    if spec.strategy not in (*NAMES, *ALIASES):
        raise Invalid(f"{spec.strategy!r} is not a strategy of this fill model", field="strategy",
                      remedy="use one of " + ", ".join(NAMES))
    try:
        make(spec.strategy, spec.params, ("",))
    except Invalid as error:
        problems = [Problem(each.field.removeprefix("strategy."), each.message, each.remedy)
                    for each in error.problems]
        raise Invalid("the parameters make no sense", problems=problems) from None


def _fetch(connection: Connection, id: str) -> Any:
    row = connection.execute(select(*COLUMNS).where(runs.c.id == id)).one_or_none()
    if row is None:
        raise _unknown(id)
    return row


def _unknown(id: str) -> NotFound:
    return NotFound(f"there is no run {id[:80]!r}")


def _name(name: str) -> str:
    if len(name) > MAX_NAME:
        raise Invalid(f"a name has at most {MAX_NAME} characters", field="name")
    return _text(name, "name")


def _text(text: str, field: str) -> str:
    """A text that both databases can hold."""
    if "\x00" in text:
        raise Invalid("a null character cannot be stored", field=field, remedy="leave it out")
    return text


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(tags))
    if len(found) > MAX_TAGS or any(not isinstance(tag, str) or not 1 <= len(tag) <= 100 for tag in found):
        raise Invalid(f"tags are at most {MAX_TAGS} texts of 1 to 100 characters", field="tags")
    return tuple(_text(tag, "tags") for tag in found)


def _row(run: Run, idempotency_key: str | None) -> list[Any]:
    values = {
        "id": run.id, "kind": run.kind, "state": run.state, "progress": run.progress,
        "created_at": times.micros(run.created_at), "name": run.name, "tags": encode(list(run.tags)),
        "notes": run.notes, "dialect": run.dialect, "strategy": run.strategy, "markets": encode(list(run.markets)),
        "resolution": run.resolution, "spec": encode(run.spec, field="spec"),
        "request": None if run.request is None else encode(run.request, field="request"),
        "metrics": encode({}), "attempts": 0, "parent": run.parent, "owner": run.owner,
        "idempotency_key": idempotency_key,
    }
    return [values.get(column.name) for column in runs.columns]
