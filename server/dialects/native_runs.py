"""Runs over the native API: strategies, metrics, runs and their results, events and streams.

    GET  /workbench/api/strategies, /workbench/api/metrics
    GET  /workbench/api/runs            POST the body is a BacktestSpec with "name" and "tags"; Idempotency-Key
    GET, PATCH, DELETE /workbench/api/runs/{id}         POST …/cancel, …/rerun
    GET  …/result, …/tables/{name}, …/events            WS …/stream?after=
    WS   /workbench/api/stream?prefix=&after_id=
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import Conflict, Invalid, NotFound, Problem
from engine.model import RUN_STATES, Event, Market, Run, RunKind
from engine.result import TABLES, read_table
from engine.spec import BacktestSpec
from engine.tables import FORMATS, part_of, render
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.run_rows import SORTS

__all__ = ["refuse_paths", "routes", "run_json"]

BASE: Final = "/workbench/api"
RUN: Final = BASE + "/runs/{id}"
ALL_TABLES: Final = (*TABLES, "candles")


class RunRequest(BacktestSpec):
    """A backtest, and what to call it."""

    name: Annotated[str, Field(max_length=200)] = ""
    tags: Annotated[tuple[str, ...], Field(max_length=50)] = ()


class Annotation(BaseModel):
    """What people write about a run; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str | None, Field(max_length=200)] = None
    tags: Annotated[list[str] | None, Field(max_length=50)] = None
    notes: Annotated[str | None, Field(max_length=20_000)] = None


def run_json(run: Run) -> dict[str, Any]:
    """A run as the native API shows it: its fields, instants as text."""
    return {each.name: getattr(run, each.name) for each in fields(run)}


def _event_json(event: Event) -> dict[str, Any]:
    return {"id": event.id, "stream": event.stream, "seq": event.seq, "type": event.type, "at": event.at,
            "data": event.data}


class Strategies(BaseHandler):
    async def get(self) -> None:
        from engine import strategies
        from engine.uploads import descriptions, uploads_of

        folder = uploads_of(self.services.store.root)
        await self.send_json({"items": await self.off_loop(lambda: strategies.describe() + descriptions(folder))})


class MetricList(BaseHandler):
    async def get(self) -> None:
        self.write_json({"items": await self.off_loop(_metrics)})


def _metrics() -> list[dict[str, Any]]:
    from engine.metrics import METRICS

    return [{each.name: getattr(metric, each.name) for each in fields(metric)} for metric in METRICS.values()]


class RunList(BaseHandler):
    async def get(self) -> None:
        query = self.query
        page = await self.services.runs.list(
            states=query["state"], kind=query["kind"], strategy=query["strategy"], market=query["market"],
            tag=query["tag"], dialect=query["dialect"], parent=query["parent"], text=query["q"] or "",
            metrics=_bounds(query["metric"]), sort=_sort(query["sort"]),
            descending=query["order"] == "desc", limit=query["limit"], cursor=query["cursor"])
        await self.send_json({"items": [run_json(run) for run in page.items], "next": page.next_cursor,
                              "total": page.total})

    async def post(self) -> None:
        wanted = await self.read_model(RunRequest)
        spec = BacktestSpec(**{name: getattr(wanted, name) for name in BacktestSpec.model_fields})
        refuse_paths(spec)
        run = await self.services.runs.submit(
            spec, name=wanted.name, tags=wanted.tags, owner=self.principal.name,
            idempotency_key=self.request.headers.get("Idempotency-Key"))
        self.write_json(run_json(run), status=201)


def _sort(text: str) -> str:
    """The column or the metric's key to sort by; a key that is no known metric's needs `metrics.` before it."""
    from engine.metrics import METRICS

    if not text.startswith("metrics.") and text not in SORTS and text not in METRICS:
        raise Invalid(f"{text!r} is neither a field of a run nor a metric", field="sort",
                      remedy="sort by " + ", ".join(SORTS) + " or metrics.KEY")
    return text.removeprefix("metrics.")


def refuse_paths(spec: BacktestSpec, place: str = "") -> None:
    """Raise `Invalid` for what a client must not choose: where the server reads files, and words of the fill models
    that stand for it. `place` is where the spec stands in the request, with a dot at its end."""
    problems = []
    if spec.source == "csv" or spec.source_path is not None:
        field = place + ("source" if spec.source == "csv" else "source_path")
        problems.append(Problem(field, "candles come from the workbench's store here",
                                'use "store", after importing the file'))
    allowed = OPTIONS.get(spec.fill_model, {})
    for name, value in spec.fill_options.items():
        if name not in allowed:
            problems.append(Problem(f"{place}fill_options.{name[:100]}", f"{spec.fill_model} has no such option here",
                                    "options are " + ", ".join(allowed) if allowed else "leave it out"))
        elif not allowed[name](value):
            problems.append(Problem(f"{place}fill_options.{name}", "this value makes no sense",
                                    "give a number of at least 0, of latency_rule original or strict"))
    if problems:
        raise Invalid("the backtest cannot work", problems=problems)


def _amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e9


OPTIONS: Final[Mapping[str, Mapping[str, Callable[[object], bool]]]] = {"glowback": {
    "commission_bps": _amount, "slippage_bps": _amount,
    "latency_ms": lambda value: isinstance(value, int) and _amount(value),
    "latency_rule": lambda value: value in ("original", "strict")},
    # what they may be is checked, with remedies, when the run is submitted (engine/fills/gekko_terms.py)
    "gekko": {name: lambda value: True for name in ("candle_size", "asset", "trail", "risk_free", "config")},
    "alerts": {name: lambda value: True for name in ("bar", "risk")}}
"""The words of `fill_options` that clients may say, by fill model, and what makes sense of them."""


def _bounds(texts: tuple[str, ...]) -> dict[str, tuple[float | None, float | None]]:
    """`sharpe>1`, `max_drawdown>-0.2`, `trades<100`: key -> (least, most)."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for text in texts:
        key, sign, number = text.partition(">") if ">" in text else text.partition("<")
        try:
            value = float(number)
            if not sign or value - value != 0:
                raise ValueError
        except ValueError:
            raise Invalid(f"{text[:100]!r} is not a bound", field="metric",
                          remedy="write sharpe>1 or trades<100") from None
        least, most = found.get(key.strip(), (None, None))
        found[key.strip()] = (value, most) if sign == ">" else (least, value)
    return found


class OneRun(BaseHandler):
    async def get(self, id: str) -> None:
        self.write_json(run_json(await self.services.runs.get(id)))

    async def patch(self, id: str) -> None:
        wanted = await self.read_model(Annotation)
        self.write_json(run_json(await self.services.runs.annotate(
            id, name=wanted.name, tags=wanted.tags, notes=wanted.notes)))

    async def delete(self, id: str) -> None:
        await self.services.runs.delete(id)
        self.set_status(204)
        self.finish()


class CancelRun(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(run_json(await self.services.runs.cancel(id)))


class RerunRun(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(run_json(await self.services.runs.rerun(id, owner=self.principal.name)), status=201)


class RunResult(BaseHandler):
    async def get(self, id: str) -> None:
        await self.send_json(await self.services.runs.summary(id))


class RunTable(BaseHandler):
    async def get(self, id: str, name: str) -> None:
        if name not in ALL_TABLES:
            raise NotFound(f"there is no table {name[:80]!r}", remedy="tables are " + ", ".join(ALL_TABLES))
        query = self.query
        wanted = {"symbol": query["symbol"], "start": query["start"], "end": query["end"], "points": query["points"],
                  "offset": query["offset"], "limit": query["limit"]}
        if None not in (query["start"], query["end"]) and query["start"] > query["end"]:
            raise Invalid("the range ends before it starts", field="end", remedy="give a later end")
        if name == "candles":
            table = await self._candles(id, wanted)
        else:
            folder = await self.services.runs.completed_folder(id)
            table = lambda: part_of(read_table(folder, name), name, **wanted)  # noqa: E731  run in a thread
        form = query["format"]
        body = await self.off_loop(lambda: render(table(), form))
        if form == "json":
            await self.send_json(body)
        else:
            if form in ("csv", "parquet"):
                self.set_header("Content-Disposition", f'attachment; filename="{name}.{form}"')
            self.write_bytes(body, FORMATS[form])

    async def _candles(self, id: str, wanted: Mapping[str, Any]) -> Any:
        """The run's own input bars, from the store; one market at a time."""
        run = await self.services.runs.get(id)
        if run.kind != "backtest":
            raise Conflict(f"a run of kind {run.kind} has no candles")
        spec = BacktestSpec.read(run.spec)
        if spec.source != "store":
            raise NotFound("this run's candles did not come from the workbench's store")
        symbol = wanted["symbol"] or (spec.markets[0] if len(spec.markets) == 1 else "")
        if symbol not in spec.markets:
            raise Invalid("this run has several markets" if not symbol else f"{symbol[:100]!r} is not one of the run's "
                          "markets", field="symbol", remedy="choose one of " + ", ".join(spec.markets[:20]))
        market = Market.parse(symbol) if ":" in symbol else await self.services.markets.resolve(symbol)
        starts = [each for each in (spec.start_micros, wanted["start"]) if each is not None]
        ends = [each for each in (spec.end_micros, wanted["end"]) if each is not None]
        candles = await self.services.markets.read(market, spec.resolution_seconds, max(starts, default=None),
                                                   min(ends, default=None))
        return lambda: _candle_part(candles, wanted)


def _candle_part(candles: Any, wanted: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    from engine.downsample import fewer_candles
    from engine.tables import Part

    if wanted["points"] is not None:
        candles = fewer_candles(candles, wanted["points"])
    table = pa.table({name: pa.array(column) for name, column in candles.columns().items()})
    return Part(table=table.slice(wanted["offset"], wanted["limit"]), offset=wanted["offset"], total=table.num_rows)


class RunEvents(BaseHandler):
    async def get(self, id: str) -> None:
        await self.services.runs.get(id)
        events = await self.services.events.page(f"run/{id}", after=self.query["after"], limit=self.query["limit"])
        await self.send_json({"items": [_event_json(event) for event in events]})


class RunStream(StreamHandler):
    def events(self, id: str) -> AsyncIterator[Event]:
        return self.services.runs.follow(id, self.query["after"])


class Firehose(StreamHandler):
    def events(self) -> AsyncIterator[Event]:
        return self.services.events.follow_all(self.query["prefix"] or "", self.query["after_id"])


def routes(services: Services) -> list[Route]:
    """The operations on runs."""
    id_path = (Path(name="id", doc="the run's id"),)
    one = Answer(doc="the run", model=_RUN)
    after = Query(name="after", kind="integer", low=0, default=0, doc="the seq of the last event known")
    return [
        Route(methods="GET", path=f"{BASE}/strategies", handler=Strategies, auth="read", tag="runs",
              summary="Strategies and their parameters", answers={200: Answer(doc="descriptions", model=_ITEMS)}),
        Route(methods="GET", path=f"{BASE}/metrics", handler=MetricList, auth="read", tag="runs",
              summary="What the metrics mean", answers={200: Answer(doc="definitions", model=_ITEMS)}),
        Route(methods="GET", path=f"{BASE}/runs", handler=RunList, auth="read", tag="runs", summary="List runs",
              query=(Query(name="state", many=True, kind="choice", choices=RUN_STATES, doc="any of these states"),
                     Query(name="kind", kind="choice", choices=get_args(RunKind)), Query(name="strategy", high=128),
                     Query(name="market", high=200),
                     Query(name="tag", high=100), Query(name="dialect", high=40), Query(name="parent", high=64),
                     Query(name="q", high=200, doc="part of the id, name, notes, strategy, markets or tags"),
                     Query(name="metric", many=True, high=200, doc="bounds such as sharpe>1 or trades<100"),
                     Query(name="sort", default="created_at", high=80, doc="a field of the run or metrics.KEY"),
                     Query(name="order", kind="choice", choices=("asc", "desc"), default="desc"),
                     Query(name="limit", kind="integer", low=1, high=500, default=50),
                     Query(name="cursor", high=2000, doc="`next` of the page before")),
              answers={200: Answer(doc="a page of runs", model=_PAGE)}, errors=(422,)),
        Route(methods="POST", path=f"{BASE}/runs", handler=RunList, auth="backtest", tag="runs",
              summary="Queue a backtest", request=RunRequest, errors=(400, 409, 413, 422, 503),
              description="The header Idempotency-Key makes it safe to repeat: the same key gives the same run.",
              answers={201: one}),
        Route(methods="GET", path=RUN, handler=OneRun, auth="read", tag="runs", summary="One run", parameters=id_path,
              answers={200: one}, errors=(404,)),
        Route(methods="PATCH", path=RUN, handler=OneRun, auth="backtest", tag="runs", parameters=id_path,
              summary="Name, tag or annotate a run", request=Annotation, answers={200: one},
              errors=(400, 404, 413, 422)),
        Route(methods="DELETE", path=RUN, handler=OneRun, auth="backtest", tag="runs", parameters=id_path,
              summary="Delete a finished run, its events and results",
              answers={204: Answer(doc="it is gone")}, errors=(404, 409)),
        Route(methods="POST", path=RUN + "/cancel", handler=CancelRun, auth="backtest", tag="runs", parameters=id_path,
              summary="Cancel a queued or running run", answers={200: one}, errors=(404, 409)),
        Route(methods="POST", path=RUN + "/rerun", handler=RerunRun, auth="backtest", tag="runs", parameters=id_path,
              summary="Queue the same backtest again", answers={201: one}, errors=(404, 409)),
        Route(methods="GET", path=RUN + "/result", handler=RunResult, auth="read", tag="runs", parameters=id_path,
              summary="A completed run's result without its tables",
              answers={200: Answer(doc="spec, metrics, provenance, warnings, logs, rows of each table",
                                   model={"type": "object"})}, errors=(404, 409)),
        Route(methods="GET", path=RUN + "/tables/{name}", handler=RunTable, auth="read", tag="runs",
              parameters=(*id_path, Path(name="name", doc=", ".join(ALL_TABLES), examples=("equity",))),
              summary="A table of a completed run",
              query=(Query(name="format", kind="choice", choices=tuple(FORMATS), default="json"),
                     Query(name="symbol", high=200, doc="only this market"),
                     Query(name="start", kind="time", doc="inclusive"), Query(name="end", kind="time", doc="inclusive"),
                     Query(name="points", kind="integer", low=3, high=100_000,
                           doc="at most about this many rows that draw the same lines"),
                     Query(name="offset", kind="integer", low=0, default=0),
                     Query(name="limit", kind="integer", low=0)),
              answers={200: Answer(doc="columns; times are microseconds since 1970", model=_TABLE,
                                   content=tuple(form for name, form in FORMATS.items() if name != "json"))},
              errors=(404, 409, 413, 422)),
        Route(methods="GET", path=RUN + "/events", handler=RunEvents, auth="read", tag="runs", parameters=id_path,
              summary="A run's events", query=(after, Query(name="limit", kind="integer", low=1, high=10_000,
                                                            default=1000)),
              answers={200: Answer(doc="events in order", model=_ITEMS)}, errors=(404, 422)),
        Route(methods="GET", path=RUN + "/stream", handler=RunStream, auth="read", tag="runs", parameters=id_path,
              summary="Follow a run (WebSocket)", query=(after,), websocket=True,
              description="Events as they come; closes with 1000 after the final state."),
        Route(methods="GET", path=f"{BASE}/stream", handler=Firehose, auth="read", tag="runs", websocket=True,
              summary="Follow everything (WebSocket)",
              query=(Query(name="prefix", high=200, doc="only streams that begin so, such as run/"),
                     Query(name="after_id", kind="integer", low=0, doc="the id of the last event known"))),
    ]


_ITEMS: Final = {"type": "object", "required": ["items"], "properties": {
    "items": {"type": "array", "items": {"type": "object"}}}}
_RUN: Final = {"type": "object", "required": ["id", "kind", "state", "progress", "created_at", "spec", "metrics"],
               "properties": {
                   "id": {"type": "string"}, "kind": {"type": "string"}, "progress": {"type": "number"},
                   "state": {"type": "string", "enum": list(RUN_STATES)}, "created_at": {"type": "string"},
                   "started_at": {"type": ["string", "null"]}, "finished_at": {"type": ["string", "null"]},
                   "name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}},
                   "notes": {"type": "string"}, "dialect": {"type": "string"}, "strategy": {"type": "string"},
                   "markets": {"type": "array", "items": {"type": "string"}}, "resolution": {"type": "string"},
                   "spec": {"type": "object"}, "request": {"type": ["object", "null"]},
                   "metrics": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
                   "error": {"type": ["string", "null"]}, "attempts": {"type": "integer"},
                   "parent": {"type": ["string", "null"]}, "owner": {"type": "string"}}}
_PAGE: Final = {"type": "object", "required": ["items", "next", "total"], "properties": {
    "items": {"type": "array", "items": _RUN}, "next": {"type": ["string", "null"]}, "total": {"type": "integer"}}}
_TABLE: Final = {"type": "object", "required": ["columns", "rows", "offset", "total"], "properties": {
    "columns": {"type": "object", "additionalProperties": {"type": "array"}}, "rows": {"type": "integer"},
    "offset": {"type": "integer"}, "total": {"type": "integer"}}}
