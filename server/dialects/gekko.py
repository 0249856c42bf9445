"""Gekko's server API (0.6.8), the part that needs no connection to an exchange: information, history, backtests.

    their word              ours
    watch                   a market: exchange, asset and currency in any case
    candles in the history  the market's minute candles in the store, with vwp and trades where it has them
    backtest                a run of dialect "gekko" on the pool; the answer comes when it is computed, the run's
                            report for people a moment later. A client that leaves does not stop it.

Live instances and the WebSocket are in `gekko_live`.

Who may ask. Gekko knows no authentication, and its clients send none: they work with a server that runs open
(WORKBENCH_TOKEN empty, on loopback only). Else a token (`Authorization: Bearer`, `X-API-Key`) or, for a page of this
server, its session cookie. Gekko lets pages of every origin read and change everything; here only pages of the server
itself and of `--origins` may, and these get the CORS headers that they need; no answer says `*`.

Errors. 400, 404, 405 and 413 are the short texts that Gekko sends. What is a 500 there, or no answer at all, is a 4xx
with `{"type": "error", "error": …, "problems": […], "request_id": …}`. getCandles says two errors with status 200, as
there. It gives the range that was asked for, both ends inclusive; Gekko itself gives up to 999 minutes more.

The catch-all of `/api` must come after all other routes below `/api`.
"""

import re
from typing import Any, ClassVar, Final

from tornado.iostream import StreamClosedError

from engine.errors import Conflict, Invalid, NotFound, Problem, Unavailable, WorkbenchError
from engine.gekko_answer import FILE, READY, early_file
from engine.gekko_ranges import read_date
from engine.gekko_text import ROWS, figures, weave
from engine.model import FINISHED, Run
from server.dialects.base import BaseHandler
from server.dialects.encoding import dumps
from server.dialects.failures import Failure
from server.dialects.gekko_requests import MOST_BODY, read_body, read_size, spec_of
from server.dialects.gekko_texts import PARTS, STRATEGIES, VERSION
from server.dialects.guarded import Guarded
from server.dialects.routes import Answer, Path, Route
from server.services import Services
from server.services.histories import Batches, Histories, History

NAME: Final = "gekko"
JSON: Final = "application/json; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"
TEXTS: Final = {400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "request entity too large"}
METHODS: Final = "GET,HEAD,PUT,POST,DELETE"
SENSELESS: Final = {"type": "error", "error": "\n ERROR: This daterange does not make sense.\n"}
NO_TABLE: Final = {"type": "error", "error": "\n ERROR: DB error at `get`\n"}
PING: Final = 10.0
_TOKENS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,500}")
_UNEXPECTED: Final = re.compile(r"[A-Z]\w*(Error|Exception)\b")


class Gekko(Guarded):
    """What plain requests and the WebSocket of this dialect share."""

    dialect: ClassVar[str] = NAME

    def _answer_origin(self) -> None:
        super()._answer_origin()
        if not self.context.origins.knows(self.request.headers.get("Origin", "")):
            return
        self.lasting_header("Access-Control-Allow-Methods", METHODS)
        asked = self.request.headers.get("Access-Control-Request-Headers", "")
        if _TOKENS.fullmatch(asked):
            self.lasting_header("Access-Control-Allow-Headers", asked)

    @property
    def allowed(self) -> str:
        return ", ".join(sorted({*self.operations, *(["HEAD"] if "GET" in self.operations else [])}, reverse=True))

    def render_failure(self, failure: Failure) -> Any:
        first = failure.problems[0] if failure.problems else Problem("", failure.message)
        field = first.field if first.field not in failure.message else ""  # clients show these words alone
        said = str(Problem(field, failure.message, first.remedy))
        return {"type": "error", "error": said, "request_id": self.request_id, "problems": [
            {"field": each.field, "message": each.message, "remedy": each.remedy} for each in failure.problems]}

    def _failure_body(self, failure: Failure) -> bytes:
        body = super()._failure_body(failure)
        text = TEXTS.get(failure.status)
        self.set_header("Content-Type", TEXT if text else JSON)
        return text.encode() if text else body


class Handler(Gekko, BaseHandler):
    """A plain request of this dialect."""

    @property
    def histories(self) -> Histories:
        assert self.route is not None
        return self.route.options["histories"]

    def config(self) -> dict[str, Any]:
        """The body; see `read_body`."""
        return read_body(self.body, self.content_type)

    def reply(self, value: Any) -> None:
        self.write_bytes(dumps(value), JSON)


class InfoHandler(Handler):
    async def get(self) -> None:
        self.reply({"version": VERSION})


class StrategiesHandler(Handler):
    async def get(self) -> None:
        self.reply([{"name": name, "params": params} for name, params in STRATEGIES.items()])


class ConfigPartHandler(Handler):
    async def get(self, part: str) -> None:
        if part in PARTS:
            self.reply({"part": PARTS[part]})
        else:
            self.write_bytes("error :(", TEXT)


class ScanHandler(Handler):
    async def post(self) -> None:
        watch = self.config().get("watch")

        def work() -> list[dict[str, int]]:
            try:
                return ranges(self.histories.of(self.histories.resolve(watch)))
            except NotFound:
                return []

        self.reply(await self.off_loop(work))


class ScansetsHandler(Handler):
    async def post(self) -> None:
        self.config()
        found = await self.off_loop(self.histories.all)
        self.reply({"datasets": [
            {"exchange": each.market.exchange, "currency": each.market.currency, "asset": each.market.asset,
             "ranges": ranges(each)} for each in found], "errors": []})


def ranges(history: History) -> list[dict[str, int]]:
    """Ranges as they go over the wire: the order of the keys differs with and without gaps."""
    if history.whole:
        return [{"from": first, "to": last} for first, last in history.ranges]
    return [{"to": last, "from": first} for first, last in history.ranges]


class CandlesHandler(Handler):
    async def post(self) -> None:
        config = self.config()
        size, daterange = read_size(config.get("candleSize")), config.get("daterange")
        if not isinstance(daterange, dict):
            raise Invalid("the range is missing", field="daterange", remedy='give {"from": …, "to": …}')
        start, end = (read_date(daterange.get(key), field=f"daterange.{key}") for key in ("from", "to"))
        if end <= start:
            self.reply(SENSELESS)
            return

        def work() -> bytes | None:
            try:
                market = self.histories.resolve(self.services.instances.stored(config.get("watch")))
            except NotFound:
                return None
            return rows(self.histories.candles(market, start // 60 * 60, end // 60 * 60, size))

        body = await self.off_loop(work)
        if body is None:
            self.reply(NO_TABLE)
        else:
            self.write_bytes(body, JSON)


def rows(columns: Batches) -> bytes:
    """Columns as a list of objects."""
    count = len(columns["start"])
    woven = []
    for first in range(0, count, ROWS):
        part = slice(first, min(first + ROWS, count))
        fields = [((b"," if place else b"{") + f'"{name}":'.encode(), figures(column[part]))
                  for place, (name, column) in enumerate(columns.items())]
        woven.append(weave([*fields, (b"}", None)], part.stop - first))
    return b"[" + b",".join(woven) + b"]"


class BacktestHandler(Handler):
    async def post(self) -> None:
        config = self.config()
        spec = await self.off_loop(spec_of, config, self.histories)
        run = await self.services.runs.submit(spec, dialect=NAME, lenient=True, owner=self.principal.name)
        body = await self._answer(run)
        try:
            self.write_bytes(body, JSON)
        except StreamClosedError:  # the client has left; the run is there to be looked at
            self._leave()

    async def _answer(self, run: Run) -> bytes:
        """The answer, once it is there. Raises what kept it from being made."""
        runs = self.services.runs
        folder = runs.folder(run.id)
        places = (early_file(folder.parent, run.id), folder / FILE)

        def read() -> bytes | None:
            for place in places:
                try:
                    return place.read_bytes()
                except FileNotFoundError:
                    continue
            return None

        async for event in runs.follow(run.id):
            state = event.data.get("state") if event.type == "state" else ""
            ready = event.type == "log" and str(event.data.get("message")).startswith(READY)
            if (ready or state in FINISHED) and (body := await self.off_loop(read)) is not None:
                return body
            if state == "cancelled":
                raise Conflict("the backtest was cancelled", remedy="send it again")
            if state in FINISHED:
                raise failure_of_run(str(event.data.get("error") or "there is no answer"))
        raise Unavailable("the server is stopping", remedy="try again in a moment")


def failure_of_run(words: str) -> WorkbenchError:
    """What a failed backtest's words mean: a fault of the workbench, or a request that asks for what cannot be done
    (also in the time and memory that a run may take)."""
    if _UNEXPECTED.match(words) or "no answer" in words or "worker process died" in words:
        return Unavailable(words, remedy="look at the server's log")
    field, colon, message = words.partition(": ")
    return Invalid(message, field=field) if colon and re.fullmatch(r"[A-Za-z_.]+", field) else Invalid(words)


class UnknownHandler(Handler):
    async def admit(self) -> None:
        self._answer_origin()
        self.context.origins.check_host(self.request)
        if self.request.method != "OPTIONS":
            raise NotFound("there is nothing at this address")


def routes(services: Services) -> list[Route]:
    more: dict[str, Any] = {"histories": Histories(services.store), "error_schema": _ERROR}

    def route(method: str, path: str, handler: type[Any], scope: str, summary: str, answer: Answer,
              **rest: Any) -> Route:
        body: dict[str, Any] = {"request": _CONFIG, "errors": (422,), "max_body": MOST_BODY} \
            if method == "POST" else {}
        answers = {status: Answer(doc=text, content=("text/plain",)) for status, text in TEXTS.items()}
        return Route(methods=method, path=path, handler=handler, auth=scope, summary=summary, tag=NAME, options=more,
                     answers={200: answer, **answers}, **body, **rest)

    return [
        route("GET", "/api/info", InfoHandler, "read", "The Gekko that is spoken here",
              Answer(doc="its version", model=_object(version=_TEXT))),
        route("GET", "/api/strategies", StrategiesHandler, "read", "Strategies with default parameters",
              Answer(doc="params is TOML", model=_list(_object(name=_TEXT, params=_TEXT)))),
        route("GET", "/api/configPart/{part}", ConfigPartHandler, "read", "Default settings of a plugin",
              Answer(doc="part is TOML; the text `error :(` for an unknown one", model=_object(part=_TEXT),
                     content=("text/plain",)),
              parameters=(Path(name="part", doc="one of " + ", ".join(PARTS), examples=tuple(PARTS)),)),
        route("POST", "/api/scan", ScanHandler, "read", "Ranges of a market's minute candles",
              Answer(doc="in seconds, oldest first", model=_list(_RANGE))),
        route("POST", "/api/scansets", ScansetsHandler, "read", "Ranges of all markets", request_required=False,
              answer=Answer(doc="all markets with minute candles", model=_object(
                  datasets=_list(_object(exchange=_TEXT, currency=_TEXT, asset=_TEXT, ranges=_list(_RANGE))),
                  errors=_list({"type": "object"})))),
        route("POST", "/api/getCandles", CandlesHandler, "read", "Candles of a range",
              Answer(doc="candles, or an object that says what is wrong", model={"type": ["array", "object"]})),
        route("POST", "/api/backtest", BacktestHandler, "backtest", "Run a backtest",
              Answer(doc="market, tradingAdvisor, strategyParameters, performanceReport and the lists that "
                         "backtestResultExporter.data asks for", model={"type": "object"}),
              description="A body is a configuration of Gekko; `backtestResultExporter.enabled` must be true."),
        *(Route(methods=("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"), path=path, handler=UnknownHandler,
                auth=None, name="nowhere", summary="Nothing", tag=NAME, hidden=True, unmetered=True)
          for path in ("/api", "/api/{rest:path}")),
    ]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT: Final = {"type": "string"}
_SECOND: Final = {"type": "integer"}
_RANGE: Final = {"type": "object", "required": ["from", "to"], "properties": {"from": _SECOND, "to": _SECOND}}
_CONFIG: Final = {"type": "object"}
_ERROR: Final = _object(type=_TEXT, error=_TEXT)
