"""GlowBack's backtest API: queue, list, follow, fetch, optimize. Every route stands with and without `/v1`.

    their word            ours
    backtest, run_id      run of kind "backtest", its id (UUID text)
    optimization          run of kind "optimization"; pending = queued
    symbol                asset of a market; `default` data = the candle store
    event_id              the event's number in the run's stream
    slippage_bps …        `fill_options` of the spec; see `engine.fills.glowback`

Where their program and their document disagree, the document's promise is kept and the program's names are served too:
the stream works, closes with 1000 after the last event and with 1008 when it is refused (after the handshake, so that
the code can be seen); health is public; a finished run's progress is 1.0; X-RateLimit-Reset is Unix time. Errors under
`/v1` are `{"error": {"code", "message", "details"}, "request_id"}`, elsewhere `{"detail"}`. Ours: DELETE of a backtest,
its cancelling, the state `cancelled`.

The catch-all of `/v1` comes last of all routes: it answers unknown addresses there in this dialect's form.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Final

import orjson
from tornado.httputil import HTTPServerRequest

from engine.errors import Conflict, Invalid, NotFound
from engine.model import Event, Run
from server.auth import Carrier
from server.dialects import glowback_results as wire
from server.dialects.base import BaseHandler
from server.dialects.encoding import dumps
from server.dialects.failures import Failure, MethodNotAllowed
from server.dialects.glowback_models import (
    BacktestRequest,
    Findings,
    OptimizationRequest,
    finding,
    read_body,
    read_list_query,
)
from server.dialects.glowback_requests import base_of, spec_of, storable
from server.dialects.guarded import Guarded
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.version import VERSION

NAME: Final = "glowback"
PREFIXES: Final = ("/v1", "")
REQUEST_ID: Final = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
KEY: Final = "Idempotency-Key"
MOST_BODY: Final = 2**20
HSTS: Final = "max-age=63072000; includeSubDomains; preload"
CODES: Final = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 409: "conflict",
                413: "request_too_large", 422: "validation_error", 429: "too_many_requests", 500: "internal_error"}
MESSAGES: Final = {401: "Invalid or missing API key", 405: "Method Not Allowed", 413: "Request body too large",
                   422: "Request validation failed", 429: "Rate limit exceeded", 500: "Internal server error"}
NO_RUN: Final = "Run not found"
NOT_READY: Final = "Results not ready"
NO_OPTIMIZATION: Final = "Optimization not found"
NOT_COMPLETED: Final = "Optimization not yet completed"
CANNOT_CANCEL: Final = "Cannot cancel — optimization not found or already finished"
CANNOT_RESUME: Final = "Cannot resume — optimization not found or not resumable"
STATES: Final = ("queued", "running", "completed", "failed", "cancelled")


class GlowBack(Guarded):
    """What plain requests and streams of this dialect share: error bodies, methods, headers."""

    dialect: ClassVar[str] = NAME

    @property
    def request_id(self) -> str:
        if "workbench_id" not in self.request.__dict__:
            given = self.request.headers.get("X-Request-ID", "")  # echoed as it is, else in the form its clients know
            self.request.__dict__["workbench_id"] = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        return super().request_id

    @property
    def route(self) -> Route | None:
        return self.operations.get(self.request.method or "")  # HEAD is not GET here

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Strict-Transport-Security", HSTS)

    @property
    def allowed(self) -> str:
        return ", ".join(sorted(self.operations))

    def _check_method(self) -> None:
        if self.request.method != "OPTIONS" or not self.context.config.origins:  # else a page asks before it sends
            raise MethodNotAllowed("Method Not Allowed", remedy=f"use {self.allowed}")

    def render_failure(self, failure: Failure) -> Any:
        status = failure.status
        message = MESSAGES.get(status, failure.message)
        details = _details(failure, "query" if self.request.method == "GET" else "body")
        if not self.request.path.startswith("/v1"):
            return {"detail": details if details is not None else message}
        return {"error": {"code": CODES.get(status, failure.code), "message": message, "details": details},
                "request_id": self.request_id}

    def _failure_body(self, failure: Failure) -> bytes:
        try:
            return super()._failure_body(failure)
        except (TypeError, orjson.JSONEncodeError):  # numbers and texts that only Python's own JSON can write
            self.set_header("Content-Type", "application/json")
            return json.dumps(self.render_failure(failure), default=str).replace("NaN", "null").replace(
                "Infinity", "null").encode()


def _details(failure: Failure, part: str) -> list[dict[str, Any]] | None:
    """What is wrong, field by field, for a 422."""
    if isinstance(failure.error, Findings):
        return failure.error.entries
    if failure.status != 422:
        return None
    return [finding(("header" if problem.field == KEY else part, *filter(None, problem.field.split("."))),
                    problem.message + (f" ({problem.remedy})" if problem.remedy else ""), None)
            for problem in failure.problems]


class Handler(GlowBack, BaseHandler):
    """A plain request of this dialect."""

    async def admit(self) -> None:
        length = self._length()
        if length is not None and length > MOST_BODY:
            self._limit = MOST_BODY
            raise self._too_large()  # said before anything else, even to strangers
        await super().admit()

    @property
    def idempotency_key(self) -> str | None:
        """Two requests with one key make one run."""
        return self.request.headers.get(KEY)

    async def backtest(self, id: str) -> Run:
        """The run of an id, if it is one of this dialect's backtests; raises `NotFound`."""
        return await backtest_of(self.services, id)

    async def optimization(self, id: str) -> Run | None:
        """The optimization of an id, None when there is none."""
        try:
            run = await self.services.runs.get(_checked(id))
        except NotFound:
            return None
        return run if run.kind == "optimization" and run.dialect == NAME else None


def _checked(id: str) -> str:
    try:
        if str(uuid.UUID(id)) == id:
            return id
    except ValueError:
        pass
    raise NotFound(NO_RUN)


async def backtest_of(services: Services, id: str) -> Run:
    """See `Handler.backtest`."""
    try:
        run = await services.runs.get(_checked(id))
    except NotFound:
        raise NotFound(NO_RUN) from None
    if run.kind != "backtest" or run.dialect != NAME:
        raise NotFound(NO_RUN)
    return run


class HealthHandler(Handler):
    async def get(self) -> None:
        self.write_json({"status": "healthy", "version": VERSION})


class BacktestsHandler(Handler):
    async def get(self) -> None:
        state, limit = read_list_query(self.request.query_arguments)
        page = await self.services.runs.list(dialect=NAME, kind="backtest", states=[state] if state else None,
                                             limit=limit)
        self.write_json([wire.status(run) for run in page.items])

    async def post(self) -> None:
        request = read_body(BacktestRequest, self.body, self.content_type)
        spec = await self.off_loop(spec_of, request, self.services.store, self.services.config.csv_root)
        run = await self.services.runs.submit(
            spec, dialect=NAME, lenient=True, name=request.run_name or "", owner=self.principal.name,
            request=storable(request.model_dump(mode="json")), idempotency_key=self.idempotency_key)
        self.write_json(wire.status(run), status=201)


class BacktestHandler(Handler):
    async def get(self, run_id: str) -> None:
        self.write_json(wire.status(await self.backtest(run_id)))

    async def delete(self, run_id: str) -> None:
        await self.services.runs.delete((await self.backtest(run_id)).id)
        self.set_status(204)
        self.finish()


class CancelHandler(Handler):
    async def post(self, run_id: str) -> None:
        run = await self.services.runs.cancel((await self.backtest(run_id)).id)
        self.write_json(wire.status(run))


class ResultsHandler(Handler):
    async def get(self, run_id: str) -> None:
        try:
            run = await self.backtest(run_id)
        except NotFound:
            raise Conflict(NOT_READY) from None
        if run.state != "completed":
            raise Conflict(NOT_READY)
        folder = self.services.runs.folder(run.id)
        self.write_bytes(await self.off_loop(lambda: dumps(wire.result(run, folder))), "application/json")


class OptimizationsHandler(Handler):
    async def get(self) -> None:
        _, limit = read_list_query({"limit": self.request.query_arguments["limit"]}
                                   if "limit" in self.request.query_arguments else {})
        page = await self.services.runs.list(dialect=NAME, kind="optimization", limit=limit)
        self.write_json([wire.optimization(await self.services.optimizations.status(run.id)) for run in page.items])

    async def post(self) -> None:
        request = read_body(OptimizationRequest, self.body, self.content_type)
        base = await self.off_loop(base_of, request, self.services.store, self.services.config.csv_root)
        dimensions = [each.dimension for each in request.search_space.parameters]
        if len({each.name for each in dimensions}) < len(dimensions):
            raise Invalid("a parameter is named twice", field="search_space.parameters", remedy="name each once")
        run = await self.services.optimizations.submit(
            base, dimensions, method=request.strategy, max_trials=request.max_trials,
            objective=request.objective_metric, direction=request.direction,
            validation={"mode": request.validation_mode, "fraction": request.validation_fraction,
                        "windows": request.walk_forward_windows},
            seed=request.random_seed, steps=request.grid_steps, exploration=request.exploration_weight,
            name=request.name, owner=self.principal.name, dialect=NAME, lenient=True,
            request=storable(request.model_dump(mode="json")), idempotency_key=self.idempotency_key)
        found = await self.services.optimizations.status(run.id)
        self.write_json(wire.optimization(found) | {"state": "pending"}, status=201)


class OptimizationHandler(Handler):
    async def get(self, optimization_id: str) -> None:
        if await self.optimization(optimization_id) is None:
            raise NotFound(NO_OPTIMIZATION)
        self.write_json(wire.optimization(await self.services.optimizations.status(optimization_id)))


class OptimizationResultsHandler(Handler):
    async def get(self, optimization_id: str) -> None:
        run = await self.optimization(optimization_id)
        if run is None:
            raise NotFound(NO_OPTIMIZATION)
        if not run.finished:
            raise Conflict(NOT_COMPLETED)
        service = self.services.optimizations
        found, trials = await service.status(run.id), await service.trials(run.id)
        await self.send_json(wire.optimization_result(found, trials))


class OptimizationCancelHandler(Handler):
    async def post(self, optimization_id: str) -> None:
        run = await self.optimization(optimization_id)
        try:
            if run is None or run.finished:
                raise Conflict(CANNOT_CANCEL)
            await self.services.optimizations.cancel(run.id)
        except (Conflict, NotFound):
            raise Conflict(CANNOT_CANCEL) from None
        self.write_json({"optimization_id": run.id, "state": "cancelled"})


class OptimizationResumeHandler(Handler):
    async def post(self, optimization_id: str) -> None:
        run = await self.optimization(optimization_id)
        try:
            if run is None or run.state not in ("cancelled", "failed"):
                raise Conflict(CANNOT_RESUME)
            await self.services.optimizations.resume(run.id)
        except (Conflict, NotFound):
            raise Conflict(CANNOT_RESUME) from None
        found = await self.services.optimizations.status(run.id)
        self.write_json(wire.optimization(found) | {"state": "running"})


def query_key(request: HTTPServerRequest) -> str | None:
    """The key in a stream's address, where browsers can put one."""
    return request.query_arguments.get("api_key", [b""])[-1].decode("utf-8", "replace").strip() or None


class BacktestStream(GlowBack, StreamHandler):
    """A run's events after `last_event_id`, as they come; closes with 1000 after the last one."""

    carriers: ClassVar[tuple[Carrier, ...]] = (query_key,)

    async def prepare(self) -> None:
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            await self.admit()
            raise NotFound("Not Found")
        await super().prepare()

    async def events(self, run_id: str) -> AsyncIterator[Event]:  # type: ignore[override]
        run = await backtest_of(self.services, run_id)
        async for event in self.services.runs.follow(run.id, max(0, self.query["last_event_id"])):
            yield event

    def render(self, event: Event) -> bytes:  # type: ignore[override]
        return dumps(wire.frame(event))


class RedirectHandler(Handler):
    """A slash too many at the end: the same without it."""

    def answer(self, **parts: str) -> None:
        query = f"?{self.request.query}" if self.request.query else ""
        self.set_status(307)
        self.set_header("Location", self.request.path.rstrip("/") + query)
        self.finish()

    get = post = delete = patch = put = answer  # type: ignore[assignment]


class UnknownHandler(Handler):
    async def admit(self) -> None:
        raise NotFound("Not Found")


ENVELOPE: Final = {
    "type": "object", "required": ["error", "request_id"],
    "properties": {
        "error": {"type": "object", "required": ["code", "message", "details"], "properties": {
            "code": {"type": "string"}, "message": {"type": "string"},
            "details": {"type": ["array", "null"], "items": {"type": "object", "required": ["type", "loc", "msg"]}}}},
        "request_id": {"type": "string"}}}
"""An error's body under `/v1`."""


def routes(services: Services) -> list[Route]:
    found = [route for prefix in PREFIXES for route in _routes(prefix)]
    slashed = dict.fromkeys(route.path + "/" for route in found if not route.websocket)
    methods = ("GET", "POST", "DELETE", "PATCH", "PUT")
    found += [Route(methods=methods, path=path, handler=RedirectHandler, auth=None, name="slash",
                    summary="Without the slash", tag=NAME, hidden=True, unmetered=True) for path in slashed]
    found.append(Route(methods=(*methods, "HEAD", "OPTIONS"), path="/v1/{rest:path}", handler=UnknownHandler, auth=None,
                       name="nowhere", summary="Nothing", tag=NAME, hidden=True, unmetered=True))
    return found


def _routes(prefix: str) -> list[Route]:
    run = (Path(name="run_id", doc="the run's id"),)
    search = (Path(name="optimization_id", doc="the optimization's id"),)
    hidden = not prefix  # the aliases differ only in their error bodies

    def route(methods: str, path: str, handler: type[Any], scope: str | None, summary: str, **more: Any) -> Route:
        return Route(methods=methods, path=prefix + path, handler=handler, auth=scope, summary=summary, tag=NAME,
                     hidden=hidden, max_body=MOST_BODY, options={"error_schema": ENVELOPE}, **more)

    limit = Query(name="limit", default=50, doc="1 to 200")
    found = [
        route("GET", "/backtests", BacktestsHandler, "read", "List backtests, newest first",
              query=(Query(name="state", doc="one of " + ", ".join(STATES)), limit), errors=(422,),
              answers={200: Answer(doc="status objects", model=LIST_OF_STATUS)}),
        route("POST", "/backtests", BacktestsHandler, "backtest", "Create a backtest", request=BacktestRequest,
              errors=(409, 413, 422), answers={201: Answer(doc="queued", model=STATUS)}),
        route("GET", "/backtests/{run_id}", BacktestHandler, "read", "Status of a backtest", parameters=run,
              errors=(404,), answers={200: Answer(doc="the status", model=STATUS)}),
        route("DELETE", "/backtests/{run_id}", BacktestHandler, "backtest", "Delete a finished backtest",
              parameters=run, errors=(404, 409), answers={204: Answer(doc="deleted")}),
        route("POST", "/backtests/{run_id}/cancel", CancelHandler, "backtest", "Cancel a backtest", parameters=run,
              request_required=False, errors=(404, 409), answers={200: Answer(doc="the status", model=STATUS)}),
        route("GET", "/backtests/{run_id}/results", ResultsHandler, "read", "Result of a completed backtest",
              parameters=run, errors=(409,), answers={200: Answer(doc="metrics, curve, trades, …", model=OBJECT)}),
        route("GET", "/backtests/{run_id}/stream", BacktestStream, "read", "Follow a backtest", parameters=run,
              websocket=True, errors=(404, 422), answers={101: Answer(doc="events as text frames")},
              query=(Query(name="last_event_id", kind="integer", default=0, doc="resume after this event"),
                     Query(name="api_key", doc="the token, for clients that cannot send headers"))),
        route("GET", "/optimizations", OptimizationsHandler, "read", "List optimizations, newest first",
              query=(limit,), errors=(422,), answers={200: Answer(doc="status objects", model=LIST_OF_STATUS)}),
        route("POST", "/optimizations", OptimizationsHandler, "backtest", "Create an optimization",
              request=OptimizationRequest, errors=(409, 413, 422), answers={201: Answer(doc="pending", model=OBJECT)}),
        route("GET", "/optimizations/{optimization_id}", OptimizationHandler, "read", "Status of an optimization",
              parameters=search, errors=(404,), answers={200: Answer(doc="the status", model=OBJECT)}),
        route("GET", "/optimizations/{optimization_id}/results", OptimizationResultsHandler, "read",
              "Result of a finished optimization", parameters=search, errors=(404, 409),
              answers={200: Answer(doc="trials and diagnosis", model=OBJECT)}),
        route("POST", "/optimizations/{optimization_id}/cancel", OptimizationCancelHandler, "backtest",
              "Cancel an optimization", parameters=search, request_required=False, errors=(409,),
              answers={200: Answer(doc="cancelled", model=OBJECT)}),
        route("POST", "/optimizations/{optimization_id}/resume", OptimizationResumeHandler, "backtest",
              "Resume a cancelled or failed optimization", parameters=search, request_required=False, errors=(409,),
              answers={200: Answer(doc="running again", model=OBJECT)}),
    ]
    if prefix:
        found.append(route("GET", "/healthz", HealthHandler, None, "Is it well", name="glowback_health", unmetered=True,
                           answers={200: Answer(doc="it answers", model=OBJECT)}))
    return found


OBJECT: Final = {"type": "object"}
_TIME: Final = {"type": ["string", "null"]}
STATUS: Final = {
    "type": "object",
    "required": ["run_id", "state", "progress", "created_at", "started_at", "finished_at", "error"],
    "properties": {"run_id": {"type": "string"}, "state": {"type": "string", "enum": list(STATES)},
                   "progress": {"type": "number", "minimum": 0, "maximum": 1}, "created_at": {"type": "string"},
                   "started_at": _TIME, "finished_at": _TIME, "error": _TIME},
}
LIST_OF_STATUS: Final = {"type": "array", "items": OBJECT}
