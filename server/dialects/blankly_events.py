"""Blankly's Events API: what its kits, and anything that speaks like them, report of bots and of their backtests.

    POST /v1/model/lifecycle, used-symbol, used-exchange
    POST /v1/live/event, spot-market, spot-limit, spot-stop, update-trade, update-annotation, log, auto-pnl, set-pnl,
         set-custom-metric, screener-result
    POST /v1/backtest/backtest-result | result, backtest-status | status, log
    POST /log          the same log, as the kits address it
    GET  /time

Three generations of headers say who reports: `projectid modelid versionid token`, `PROJECT_ID MODEL_ID API_KEY
API_PASS`, `model_id api_key api_pass`; the secret (`token`, `api_pass`) is a key made here, and a Bearer token does as
well. Bodies are JSON, forms or multipart (see `blankly_body`), the words are in `blankly_words`. What is accepted is
answered 200 with an empty body, after the commit; what is not, with `{"error": text}` and the field's name.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tornado.httputil import HTTPServerRequest

from engine.errors import Forbidden, Invalid, Unauthenticated
from engine.model import Principal
from server.dialects.base import OFF_LOOP, BaseHandler
from server.dialects.blankly_body import Fields, parse
from server.dialects.blankly_dates import instant_of
from server.dialects.blankly_words import ENTRIES, switch_of, with_errors
from server.dialects.failures import Failure
from server.dialects.routes import Answer, Route
from server.services import Services
from server.services.activity_backtests import run_id

__all__ = ["routes"]

MAX_RESULT: Final = 100 * 2**20
MAX_NAMES: Final = 2_000_000
"""Fields of a result that is a form: the oldest kits send two names for each point of its curve."""
_TAG: Final = "blankly events"
_HEADERS: Final = ("Authorization, Content-Type, Idempotency-Key, X-Request-ID, projectid, modelid, versionid, token, "
                   "project_id, model_id, version_id, api_key, api_pass, time, backtesting, backtestingid")
"""What pages of the origins that the settings name may send."""


def _headers(request: HTTPServerRequest) -> dict[str, str]:
    """What the headers say, by names in small letters with underscores (proxies like hyphens better); read once."""
    found: dict[str, str] | None = request.__dict__.get("blankly_headers")
    if found is None:
        found = {name.lower().replace("-", "_"): value.strip() for name, value in request.headers.get_all()}
        request.__dict__["blankly_headers"] = found
    return found


def _api_pass(request: HTTPServerRequest) -> str | None:
    headers = _headers(request)
    return headers.get("api_pass") or headers.get("token") or None


class BlanklyHandler(BaseHandler):
    """Credentials and errors as these clients know them."""

    dialect = "blankly"
    carriers = (_api_pass,)

    def _answer_origin(self) -> None:
        super()._answer_origin()
        if self.request.method == "OPTIONS" and self.context.origins.knows(self.request.headers.get("Origin", "")):
            self.lasting_header("Access-Control-Allow-Headers", _HEADERS)

    def _header(self, *names: str) -> str:
        headers = _headers(self.request)
        return next((value for name in names if (value := headers.get(name))), "")

    @property
    def project(self) -> str:
        """The project that the headers name, "" for none; the secret is none, wherever it stands."""
        named = self._header("projectid", "project_id", "api_key")
        return "" if named == _api_pass(self.request) or named.startswith("wb_") else named

    @property
    def model(self) -> str:
        """The model that the request is about."""
        given = self._header("modelid", "model_id") or self.principal.model
        if not given:
            raise Unauthenticated("Missing a required header: model_id", field="model_id",
                                  remedy="send the model's id as modelid or model_id")
        return given

    @property
    def sender(self) -> Principal:
        """Who asks, if the project that it names is its own."""
        principal = self.principal
        if principal.project and self.project not in ("", principal.project):
            raise Unauthenticated("Not Authenticated", field="project_id",
                                  remedy="this key belongs to another project: send its id as projectid or api_key")
        return principal

    @property
    def at(self) -> Any:
        text = self._header("time")
        return instant_of(text) if text else None

    @property
    def named_backtest(self) -> str:
        """The backtest that the headers name, "" for none."""
        return self._header("backtestingid", "backtesting_id")

    @property
    def backtest(self) -> str:
        """The backtest that the headers say the request belongs to, "" for none."""
        flag, id = self._header("backtesting"), self.named_backtest
        if flag and switch_of(flag, "backtesting"):
            if not id:
                raise Invalid("Missing a required header: backtestingid", field="backtestingid",
                              remedy="send which backtest this belongs to")
            return id
        return ""

    async def fields(self) -> Fields:
        read = partial(parse, self.request.headers.get("Content-Type", ""), self.body)
        return Fields(await self.off_loop(read) if self._received > OFF_LOOP else read())

    def accept(self) -> None:
        self.write_bytes(b"", "text/plain; charset=utf-8")

    def _failure_body(self, failure: Failure) -> bytes:
        if failure.status == 422:
            failure = replace(failure, status=400)
        elif isinstance(failure.error, Forbidden) and self.route is not None and failure.error.field != "Host":
            failure = replace(failure, status=401)
        return super()._failure_body(failure)

    def render_failure(self, failure: Failure) -> Any:
        problem = failure.problems[0] if failure.problems else None
        message = problem.message if problem else failure.message
        if problem and problem.field and problem.field not in message:
            message = f"{problem.field}: {message}"
        if failure.status == 401 and not _api_pass(self.request) and self.admission is None:
            message = "Missing a required header: api_pass"
        elif failure.status == 401 and self.admission is None:
            message = "Not Authenticated"
        return {"error": message, "field": problem.field if problem else "",
                "remedy": problem.remedy if problem else "", "code": failure.code, "request_id": self.request_id}


class Report(BlanklyHandler):
    """Every route whose body is one entry."""

    async def post(self) -> None:
        await self.record(self.request.path, await self.fields())

    async def record(self, path: str, fields: Fields, backtest: str = "") -> None:
        principal, model = self.sender, self.model
        backtest = backtest or self.backtest
        words: dict[str, Any] = {"model": model, "at": self.at, "run": run_id(model, backtest) if backtest else ""}
        if path.startswith("/v1/live/spot-"):
            words["version"] = self._header("versionid", "version_id")
        await self.services.activity.record(
            [ENTRIES[path.rstrip("/")](fields, words)], principal=principal, dialect=self.dialect, project=self.project,
            key=self.request.headers.get("Idempotency-Key"))
        self.accept()


class BacktestLog(Report):
    async def post(self) -> None:
        fields = await self.fields()
        given = fields.text("backtest_id", "backtestingid") or self.named_backtest
        await self.record("/v1/live/log", fields, given or fields.needed_text("backtest_id"))


class BareLog(Report):
    async def post(self) -> None:
        fields = await self.fields()
        await self.record("/v1/live/log", fields, fields.text("backtest_id", "backtestingid") or "")


class BacktestResult(BlanklyHandler):
    async def post(self) -> None:
        principal, model = self.sender, self.model
        instant_of(self._header("time"))
        named, key = self.named_backtest, self.request.headers.get("Idempotency-Key")
        if key and not named:  # sent again, it is the same backtest
            named = "request " + hashlib.sha256(key.encode()).hexdigest()[:32]
        read = partial(_result, self.request.headers.get("Content-Type", ""), self.body, named)
        await self.services.detached.result(read, model=model, backtest_id=None, principal=principal,
                                            dialect=self.dialect, project=self.project)
        self.accept()


class BacktestStatus(BlanklyHandler):
    async def post(self) -> None:
        fields, principal, model = await self.fields(), self.sender, self.model
        given = fields.text("backtest_id", "backtestingid") or self.named_backtest
        status: dict[str, Any] = {name: fields.text(name) for name in (
            "status_summary", "status_details", "description", "label")}
        status |= {"successful": fields.switch("successful"), "time_elapsed": fields.number("time_elapsed")}
        if all(value is None for value in status.values()):
            raise Invalid("Missing required argument: successful", field="successful", remedy="send true or false")
        await self.services.detached.status(status, model=model, backtest_id=given or None, principal=principal,
                                            dialect=self.dialect, project=self.project)
        self.accept()


class Time(BlanklyHandler):
    def get(self) -> None:
        self.write_json({"time": time.time()})


def _result(content_type: str, body: bytes, named: str) -> Mapping[str, Any]:
    """The body of a result in the words of `engine.detached.build`. Runs in a thread."""
    fields = Fields(parse(content_type, body, MAX_NAMES))
    if fields.raw("account_values") is None and "json" in content_type.lower():
        fields.need("account_values")  # in a form, an empty list is not there
    return {
        "symbols": fields.several("symbols"), "quote_asset": fields.text("quote_asset"),
        "exchange": fields.text("exchange"), "backtest_id": fields.text("backtest_id", "backtestingid") or named,
        "start_time": _seconds(fields, "start_time"), "stop_time": _seconds(fields, "stop_time"),
        "account_values": _objects(fields, "account_values"), "trades": _objects(fields, "trades"),
        "metrics": fields.free("metrics"), "indicators": fields.free("indicators"),
        "initial_account_value": fields.number("initial_account_value"),
        "description": fields.text("description"), "label": fields.text("label"),
    }


def _objects(fields: Fields, name: str) -> Any:
    """A list of objects. A form, as the oldest kits send it, carries the names of their fields only: that is none."""
    value = fields.free(name)
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return []
    return [] if value is None else value


def _seconds(fields: Fields, name: str) -> Any:
    value = fields.instant(name)
    return None if value is None else instant_of(str(value), name)


_SUMMARIES: Final = {
    "/v1/model/lifecycle": "Say how a model is doing: message, startAt, endAt, running; null resets, absent keeps",
    "/v1/model/used-symbol": "Name a symbol that a model uses", "/v1/model/used-exchange": "Name an exchange",
    "/v1/live/event": "Report a call: type, args, response, annotation",
    "/v1/live/spot-market": "Report a market order", "/v1/live/spot-limit": "Report a limit order",
    "/v1/live/spot-stop": "Report a stop order", "/v1/live/update-trade": "Change anything of an order",
    "/v1/live/update-annotation": "Say why an order was given", "/v1/live/log": "Send a line of the log",
    "/v1/live/auto-pnl": "Let the profit be computed here, or not", "/v1/live/set-pnl": "Replace the profit series",
    "/v1/live/set-custom-metric": "Set figures of one's own", "/v1/live/screener-result": "Send a screener's result",
}
_FORMS: Final = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")


def routes(services: Services) -> list[Route]:
    """Everything the clients of the Events API call."""
    done = {200: Answer(doc="kept; the body is empty", content=("text/plain",))}
    body = {"type": "object", "additionalProperties": True}

    def post(path: str, handler: type[BlanklyHandler], summary: str, **more: Any) -> Route:
        return Route(methods="POST", path=path, handler=handler, auth="ingest", tag=_TAG, summary=summary, request=body,
                     request_content=_FORMS, answers=done, errors=(400, 404, 409, 413, 503), **more)

    found = [post(path, Report, summary) for path, summary in _SUMMARIES.items()]
    for path in ("/v1/backtest/backtest-result", "/v1/backtest/result"):
        found.append(post(path, BacktestResult, "Report a backtest's result: it becomes a run", max_body=MAX_RESULT))
    for path in ("/v1/backtest/backtest-status", "/v1/backtest/status"):
        found.append(post(path, BacktestStatus, "Report how a backtest went"))
    found.append(post("/v1/backtest/log", BacktestLog, "Send a line of a backtest's log"))
    found.append(post("/log", BareLog, "Send a line of the log"))
    found.append(Route(methods="GET", path="/time", handler=Time, auth=None, name="blankly_time", tag=_TAG,
                       summary="The server's time in seconds since 1970", answers={200: Answer(
                           doc="seconds", model={"type": "object", "required": ["time"],
                                                 "properties": {"time": {"type": "number"}}})}))
    # Express, on which the hosted service stood, minds no slash at the end.
    slashed = [replace(route, path=route.path + "/", hidden=True) for route in found if route.auth is not None]
    return with_errors(found + slashed)
