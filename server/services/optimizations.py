"""Optimizations: searches over parameters, driven here, computed on the pool, trial by trial in the table.

A search is a run of kind "optimization" whose spec says what is searched. A driver for each one names the points
(`engine.sweep`), has them computed in chunks that take turns with everybody else's work, and stores every finished
trial at once, so that cancelling, failing or a restart loses none: `resume` goes on with the points that are missing.
"""

import asyncio
import logging
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from engine import sweep, times
from engine.candle_store import CandleStore
from engine.errors import Cancelled, Conflict, Invalid, NotFound, Problem, WorkbenchError
from engine.model import FINISHED, Market, Run
from engine.spec import BacktestSpec
from engine.sweep import Dimension, Split, Tried
from server.pool import Report
from server.services.efforts import Effort, search_of, total_of
from server.services.run_rows import COLUMNS, run_of
from server.services.run_states import change_state, stream_of
from server.services.runs import Runs
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import runs, trials

MOST_TRIALS: Final = 100_000
VALIDATION: Final[Mapping[str, Any]] = {"mode": "none", "fraction": 0.25, "windows": 3}

log = logging.getLogger("workbench.optimizations")


class Optimizations:
    """All searches. Raises the engine's errors; `NotFound` for an unknown id and for runs of another kind."""

    def __init__(self, *, db: Database, events: EventLog, runs: Runs) -> None:
        self._db = db
        self._events = events
        self._runs = runs
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._at_work: Counter[str] = Counter()  # of each search: the jobs that a worker has begun and not ended

    async def start(self) -> None:
        """Go on with the searches that a former life left unfinished."""
        unfinished = await self._db.read(lambda connection: connection.execute(select(runs.c.id).where(
            runs.c.kind == "optimization", runs.c.state.in_(("queued", "running")))).scalars().all())
        for id in unfinished:
            self._drive(id)

    async def close(self) -> None:
        """Stop driving; searches go on at the next start."""
        drivers = list(self._drivers.values())
        for driver in drivers:
            driver.cancel()
        await asyncio.gather(*drivers, return_exceptions=True)

    # -- begin and end

    async def submit(self, base: BacktestSpec, dimensions: Sequence[Dimension], *, method: str = "random",
                     max_trials: int = 100, objective: str = "sharpe", direction: str = "maximize",
                     validation: Mapping[str, Any] | None = None, seed: int = 42, steps: int = 5,
                     exploration: float = 0.3, concurrency: int = 0, name: str = "", tags: Sequence[str] = (),
                     owner: str = "", dialect: str = "native", request: Mapping[str, Any] | None = None,
                     idempotency_key: str | None = None, lenient: bool = False,
                     parameters: Mapping[str, Any] | None = None) -> Run:
        """A new search, queued. `direction` is "maximize" or "minimize", `concurrency` 0 as many as the pool takes.

        `parameters` is what the dimensions were made from, kept for people to read. Raises `Invalid` naming every field
        that cannot work; with `lenient` what only the engine can know fails in the trials instead.
        """
        body: dict[str, Any] = {
            "base": base.model_dump(mode="json"), "parameters": parameters or {each.name: None for each in dimensions},
            "dimensions": [asdict(each) for each in dimensions], "method": method, "max_trials": max_trials,
            "objective": objective, "direction": direction, "validation": {**VALIDATION, **(validation or {})},
            "seed": seed, "steps": steps, "exploration": exploration, "concurrency": concurrency,
        }
        self._check(body, dimensions)
        if not lenient:
            await asyncio.to_thread(self._check_base, base, dimensions, objective)
        run = await self._runs.add(body, kind="optimization", dialect=dialect, name=name, tags=tags, owner=owner,
                                   request=request, idempotency_key=idempotency_key, described_by=body["base"])
        if run.state == "queued":
            self._drive(run.id)
        return run

    def _check(self, body: Mapping[str, Any], dimensions: Sequence[Dimension]) -> None:
        problems = []
        if not dimensions:
            problems.append(Problem("parameters", "nothing is searched", "name at least one parameter"))
        if not 1 <= body["max_trials"] <= MOST_TRIALS:
            problems.append(Problem("max_trials", f"{body['max_trials']} is out of range", f"use 1 to {MOST_TRIALS}"))
        if body["method"] not in ("grid", "random", "bayesian"):
            problems.append(Problem("method", f"{body['method']!r} is not a method", "use grid, random or bayesian"))
        if body["direction"] not in ("maximize", "minimize"):
            problems.append(Problem("direction", f"{body['direction']!r} is no direction", "use maximize or minimize"))
        if body["validation"]["mode"] not in ("none", "holdout", "walk_forward"):
            problems.append(Problem("validation.mode", "this mode is unknown", "use none, holdout or walk_forward"))
        if problems:
            raise Invalid("the search cannot work", problems=problems)

    def _check_base(self, base: BacktestSpec, dimensions: Sequence[Dimension], objective: str) -> None:
        from engine.metrics import METRICS

        problems: list[Problem] = []
        if objective not in METRICS:
            problems.append(Problem("objective", f"{objective!r} is not a metric", "metrics are " + ", ".join(METRICS)))
        names = {each.name for each in dimensions}
        try:
            known = _parameters_of(base, self._runs.store)
        except WorkbenchError as error:
            problems += [Problem("base.strategy", each.message, each.remedy) for each in error.problems]
        else:
            problems += [Problem(f"parameters.{name}", f"{base.strategy} has no parameter {name!r}",
                                 "parameters are " + ", ".join(sorted(known))) for name in sorted(names - known)]
        try:
            self._runs.check(base)
        except WorkbenchError as error:
            problems += [Problem(f"base.{each.field}", each.message, each.remedy) for each in error.problems
                         if each.field != "strategy" and each.field.removeprefix("params.") not in names]
        if problems:
            raise Invalid("the search cannot work", problems=problems)

    async def cancel(self, id: str) -> Run:
        """Stop a search; its finished trials stay. As `Runs.cancel`."""
        await self.get(id)
        driver = self._drivers.get(id)  # not one that `resume` begins meanwhile
        run = await self._runs.cancel(id)
        if driver is not None:
            driver.cancel()
        return run

    async def resume(self, id: str) -> Run:
        """Go on with a cancelled or failed search; trials that failed are tried again. `Conflict` in other states."""
        await self.get(id)
        if driver := self._drivers.get(id):
            await asyncio.wait([driver], timeout=10)

        def work(connection: Connection) -> Run:
            row = _fetch(connection, id)
            if row.state not in ("cancelled", "failed"):
                raise Conflict(f"the search is {row.state}", remedy="only cancelled and failed ones are resumed")
            connection.execute(delete(trials).where(trials.c.run_id == id, trials.c.state != "completed"))
            change_state(connection, self._events, id, "queued", row.state, message="Resumed", error=None,
                         finished_at=None)
            return run_of(_fetch(connection, id))

        run = await self._db.write(work)
        self._drive(id)
        return run

    # -- look

    async def get(self, id: str) -> Run:
        run = await self._runs.get(id)
        if run.kind != "optimization":
            raise NotFound(f"there is no optimization {id[:80]!r}")
        return run

    async def status(self, id: str) -> dict[str, Any]:
        """{"run", "trials": {completed, failed, running, total}, "best", "diagnostics"}. `running` counts the trials
        that are being computed at this moment; `best` has number, parameters, objective, metrics and seconds, or is
        None."""
        run = await self.get(id)
        rows = await self._db.read(lambda connection: _rows(connection, id))
        tried, maximize = [_tried(row) for row in rows], run.spec["direction"] == "maximize"
        first = sweep.best(tried, maximize=maximize)
        seconds = {row.number: row.duration for row in rows}
        failed = sum(row.state == "failed" for row in rows)
        total = total_of(search_of(run.spec))
        return {
            "run": run,
            "trials": {"completed": len(rows) - failed, "failed": failed, "total": total,
                       "running": 0 if run.finished else self._at_work[id]},
            "best": None if first is None else asdict(first) | {"parameters": dict(first.parameters),
                                                                "metrics": dict(first.metrics),
                                                                "seconds": seconds[first.number]},
            "diagnostics": sweep.diagnostics(tried, run.spec["objective"], maximize=maximize),
        }

    async def trials(self, id: str, *, sort: str = "number", descending: bool = False, limit: int | None = None,
                     offset: int = 0) -> dict[str, Any]:
        """Trials as columns: number, state, params.NAME …, objective, metrics.KEY …, seconds, error. `sort` is one of
        these columns; trials without a value come last."""
        run = await self.get(id)
        rows = await self._db.read(lambda connection: _rows(connection, id))
        names = [f"params.{each['name']}" for each in run.spec["dimensions"]]
        keys = list(dict.fromkeys(key for row in rows for key in row.metrics))
        known = {"number", "state", "objective", "seconds", "error", *names, *(f"metrics.{key}" for key in keys)}
        if sort not in known and not sort.startswith("metrics."):
            raise Invalid(f"{sort!r} is not a column", field="sort", remedy="columns are " + ", ".join(sorted(known)))

        def value(row: Any, column: str) -> Any:
            place, _, key = column.partition(".")
            if place == "params":
                return row.params.get(key)
            if place == "metrics":
                return row.metrics.get(key)
            return row.duration if column == "seconds" else getattr(row, column)

        present = sorted((row for row in rows if value(row, sort) is not None),
                         key=lambda row: (value(row, sort), row.number), reverse=descending)
        page = [*present, *(row for row in rows if value(row, sort) is None)][offset : None if limit is None
                                                                             else offset + limit]
        order = ["number", "state", *names, "objective", *(f"metrics.{key}" for key in keys), "seconds", "error"]
        return {"columns": {column: [value(row, column) for row in page] for column in order}, "rows": len(page),
                "offset": offset, "total": len(rows)}

    # -- drive

    def _drive(self, id: str) -> None:
        task = asyncio.create_task(self._driving(id))
        self._drivers[id] = task

        def ended(task: asyncio.Task[None]) -> None:
            if self._drivers.get(id) is task:
                del self._drivers[id]

        task.add_done_callback(ended)

    async def _driving(self, id: str) -> None:
        try:
            await self._search_all(id)
        except Cancelled:
            return
        except NotFound:
            return
        except WorkbenchError as error:
            await self._end(id, "failed", error=str(error))
        except Exception as error:
            log.exception("search %s failed", id)
            await self._end(id, "failed", error=f"{type(error).__name__}: {error}")

    async def _search_all(self, id: str) -> None:
        run = await self.get(id)
        await self._db.write(lambda connection: self._begin(connection, id))
        search = search_of(run.spec)
        divided = await asyncio.to_thread(self._split, BacktestSpec.read(run.spec["base"]), run.spec["validation"])
        rows = await self._db.read(lambda connection: _rows(connection, id))
        effort = Effort(self, run, search, divided, {row.number: _tried(row) for row in rows},
                         {row.number for row in rows if row.state == "failed"})
        await effort.work()
        tried = list(effort.tried.values())
        first = sweep.best(tried, maximize=run.spec["direction"] == "maximize")
        if first is None:
            raise WorkbenchError(effort.first_error or f"no trial has a value for {run.spec['objective']}")
        figures = dict(first.metrics) | {"objective": first.objective, "deflated_sharpe": _deflated(first, tried)}
        await self._end(id, "completed", metrics=encode(figures), progress=1.0)

    def _begin(self, connection: Connection, id: str) -> None:
        row = _fetch(connection, id)
        if row.state in FINISHED:
            raise Cancelled("the search was cancelled")
        if row.state == "running":
            change_state(connection, self._events, id, "queued", "running", message="server restarted",
                         attempts=row.attempts + 1)
        change_state(connection, self._events, id, "running", "queued", error=None,
                     started_at=row.started_at or times.micros(times.now()))

    async def _end(self, id: str, state: str, **values: Any) -> None:
        def work(connection: Connection) -> None:
            row = connection.execute(select(runs.c.state).where(runs.c.id == id)).one_or_none()
            if row is not None and row.state not in FINISHED:
                change_state(connection, self._events, id, state, row.state, **values)

        await self._db.write(work)

    def _split(self, base: BacktestSpec, validation: Mapping[str, Any]) -> Split:
        start, end = base.start_micros, base.end_micros
        if (start is None or end is None) and base.source == "store":
            found = [dataset for key in base.markets for dataset in self._runs.store.datasets(
                Market.parse(key) if ":" in key else self._runs.store.resolve(key))]
            start = min(each.first for each in found) if start is None and found else start
            end = max(each.last for each in found) if end is None and found else end
        if start is None or end is None:
            return Split(full=sweep.Window(start=start or 0, end=end or 0))
        return sweep.split(start, end, mode=validation["mode"], fraction=float(validation["fraction"]),
                           windows=int(validation["windows"]))

    async def compute(self, run: Run, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Have entries computed in one job, one after another: the answers of those that had a turn, at least one."""
        job = {"kind": "trials", "spec": run.spec["base"], "objective": run.spec["objective"], "trials": list(entries)}
        begun = False

        def on_report(report: Report) -> None:
            nonlocal begun
            if report.type == "started" and not begun:
                begun = True
                self._at_work[run.id] += 1

        try:
            return (await self._runs.dispatcher.compute(job, group=run.id, on_report=on_report))["trials"]
        finally:
            if begun:
                self._at_work[run.id] -= 1

    async def store(self, run: Run, rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
        """Store finished trials and tell of them; raises `Cancelled` when the search is not running any more."""
        made = [{**row, "run_id": run.id, "params": encode(row["params"]), "metrics": encode(row["metrics"])}
                for row in rows]

        def work(connection: Connection) -> None:
            if _fetch(connection, run.id).state != "running":
                raise Cancelled("the search was cancelled")
            connection.execute(insert(trials), made)
            connection.execute(update(runs).where(runs.c.id == run.id).values(progress=report["progress"]))
            self._events.append(connection, stream_of(run.id), "progress", report)

        await self._db.write(work)


def _parameters_of(base: BacktestSpec, store: CandleStore) -> set[str]:
    """The names of the strategy's parameters; raises `Invalid` for an unknown strategy."""
    if base.fill_model == "glowback":
        from engine.fills.glowback_strategies import ALIASES, PARAMETERS

        name = ALIASES.get(base.strategy, base.strategy)
        if name not in PARAMETERS:
            raise Invalid(f"{base.strategy!r} is not a strategy of this fill model",
                          remedy="use one of " + ", ".join(PARAMETERS))
        return set(PARAMETERS[name])
    if base.fill_model == "alerts":
        from engine import detectors

        return {each.name for each in detectors.get(base.strategy).strategy.parameters}
    from engine import strategies

    return {each.name for each in strategies.find(base.strategy, store).parameters}


def _deflated(first: Tried, tried: Sequence[Tried]) -> float | None:
    """The deflated Sharpe ratio of the best trial: the probability that it beats what luck shows in so many."""
    from engine.metrics import deflated_sharpe

    def per_period(trial: Tried) -> float | None:
        sharpe, year = trial.metrics.get("sharpe"), trial.metrics.get("periods_per_year")
        return None if sharpe is None or not year else sharpe / math.sqrt(year)

    ratios = [ratio for trial in tried if (ratio := per_period(trial)) is not None]
    own, periods = per_period(first), first.metrics.get("periods")
    skew, kurtosis = first.metrics.get("skew"), first.metrics.get("kurtosis")
    if len(ratios) < 2 or own is None or not periods or skew is None or kurtosis is None:
        return None
    return deflated_sharpe(own, int(periods), skew, kurtosis, variance=statistics.variance(ratios), trials=len(ratios))


def _fetch(connection: Connection, id: str) -> Any:
    row = connection.execute(select(*COLUMNS).where(runs.c.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no optimization {id[:80]!r}")
    return row


def _rows(connection: Connection, id: str) -> Sequence[Any]:
    return connection.execute(select(trials).where(trials.c.run_id == id).order_by(trials.c.number)).all()


def _tried(row: Any) -> Tried:
    return Tried(number=row.number, parameters=row.params, objective=row.objective, metrics=row.metrics)
