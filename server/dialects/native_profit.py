"""How models fare, over the native API.

    GET /workbench/api/overview
    GET /workbench/api/models/{id}/positions, …/pnl, …/equity, …/roundtrips, …/metrics
    GET, POST /workbench/api/models/{id}/match       WS  …/profit/stream?after=

Profit is computed from the orders, at average cost and at the candle store's prices; of a model that switched that off
it is the series that it reports. Currencies are never added up. Times of curves are microseconds.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine import times
from engine.activity import Model
from engine.errors import NotFound
from engine.model import Event
from engine.spec import BacktestSpec
from server.dialects.base import BaseHandler
from server.dialects.native_runs import refuse_paths, run_json
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.profit_match import live_window, matched
from server.services.profit_overview import MOST, overview
from server.services.profit_views import REPORTED, View, equity, metrics, pnl, positions, roundtrips

__all__ = ["routes"]

BASE: Final = "/workbench/api"
ONE: Final = BASE + "/models/{id}"


class MatchRequest(BaseModel):
    """A backtest on the time in which the model traded: a spec as for runs, whose `start` and `end` are the live
    window's where it leaves them out."""

    model_config = ConfigDict(extra="forbid")

    spec: dict[str, Any]
    name: Annotated[str, Field(max_length=200)] = ""
    tags: Annotated[tuple[str, ...], Field(max_length=50)] = ()


class _OfModel(BaseHandler):
    async def seen(self, id: str) -> Model:
        """The model, if this token may see it; raises `NotFound`."""
        model = await self.services.models.model(id, project=self.principal.project)
        if self.principal.model not in ("", id):
            raise NotFound(f"there is no model {id[:128]!r}", field="id")
        return model


class Overview(BaseHandler):
    async def get(self) -> None:
        await self.send_json(await overview(
            self.services.db, self.services.profit, project=self.principal.project or self.query["project"] or "",
            model=self.principal.model, limit=self.query["limit"]))


class _Asked(_OfModel):
    """Answers from the model's book."""

    async def get(self, id: str) -> None:
        model = await self.seen(id)
        answer = await self.services.profit.ask(id, self.answer)
        await self.send_json({"model": id} | self.complete(model, answer))

    def answer(self, view: View) -> dict[str, Any]:
        """Made in a thread."""
        raise NotImplementedError

    def complete(self, model: Model, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


class Positions(_Asked):
    def answer(self, view: View) -> dict[str, Any]:
        return positions(view)


class Pnl(_Asked):
    def answer(self, view: View) -> dict[str, Any]:
        return pnl(view)


class Equity(_Asked):
    def answer(self, view: View) -> dict[str, Any]:
        return equity(view, self.query["points"], self.query["capital"])


class Roundtrips(_Asked):
    def answer(self, view: View) -> dict[str, Any]:
        query = self.query
        return roundtrips(view, symbol=query["symbol"] or "", descending=query["order"] == "desc",
                          limit=query["limit"], offset=query["offset"])


class Metrics(_Asked):
    def answer(self, view: View) -> dict[str, Any]:
        return metrics(view, self.query["capital"])

    def complete(self, model: Model, answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {"reported": dict(model.metrics), "reported_label": REPORTED}


class Match(_OfModel):
    async def get(self, id: str) -> None:
        query = self.query
        await self.send_json({"model": id, "run": query["run"]} | await matched(
            self.services.profit, self.services.runs, await self.seen(id), query["run"],
            tolerance=query["tolerance"], start=query["start"], end=query["end"], capital=query["capital"]))

    async def post(self, id: str) -> None:
        wanted = await self.read_model(MatchRequest)
        model = await self.seen(id)
        first, last = await self.services.profit.ask(id, lambda view: live_window(view, model))
        spec = BacktestSpec.read({"start": times.iso(first), "end": times.iso(last)} | wanted.spec)
        refuse_paths(spec, "spec.")
        run = await self.services.runs.submit(
            spec, name=wanted.name or f"{model.name[:180]}: live window", tags=wanted.tags, owner=self.principal.name,
            idempotency_key=self.request.headers.get("Idempotency-Key"))
        self.write_json(run_json(run), status=201)


class ProfitStream(StreamHandler):
    async def events(self, id: str) -> AsyncIterator[Event]:  # type: ignore[override]
        await self.services.models.model(id, project=self.principal.project)
        if self.principal.model not in ("", id):
            raise NotFound(f"there is no model {id[:128]!r}", field="id")
        async for event in self.services.profit.follow(id, self.query["after"]):
            yield event


def routes(services: Services) -> list[Route]:
    """The operations on profit."""
    id_path = (Path(name="id", doc="the model's id"),)
    points = Query(name="points", kind="integer", low=3, high=100_000, doc="at most this many, extremes kept")
    capital = Query(name="capital", kind="number", low=1e-9, high=1e15,
                    doc="the capital that equity and fractions are based on; else the largest that was at work")

    def get(noun: str, handler: type, summary: str, answer: Answer, *query: Query) -> Route:
        return Route(methods="GET", path=f"{ONE}/{noun}", handler=handler, auth="read", tag="models", summary=summary,
                     parameters=id_path, query=query, answers={200: answer}, errors=(404, 422))

    return [
        Route(methods="GET", path=BASE + "/overview", handler=Overview, auth="read", tag="models",
              summary="All models at a glance: state, heartbeat, profit, exposure, last error",
              description="Figures that are not known yet are computed in the background: `pending` says so.",
              query=(Query(name="project", high=64),
                     Query(name="limit", kind="integer", low=1, high=MOST, default=MOST)),
              answers={200: Answer(doc="the models heard of last first", model=_OVERVIEW)}, errors=(422,)),
        get("positions", Positions, "A model's positions with realised and unrealised profit",
            Answer(doc="by symbol, open ones first", model=_POSITIONS)),
        get("pnl", Pnl, "A model's profit by currency and symbol", Answer(doc="totals", model=_PNL)),
        get("equity", Equity, "A model's profit and equity over time", Answer(doc="curves by currency", model=_CURVES),
            points, capital),
        get("roundtrips", Roundtrips, "A model's closed trades, entry to exit", Answer(doc="a page", model=_TRIPS),
            Query(name="symbol", high=64),
            Query(name="order", kind="choice", choices=("asc", "desc"), default="desc", doc="by exit"),
            Query(name="limit", kind="integer", low=1, high=10_000, default=100),
            Query(name="offset", kind="integer", low=0, default=0, doc="`next` of the page before")),
        get("metrics", Metrics, "The figures of backtests for what a model did live, and those that it reports",
            Answer(doc="by currency; `reported` is what the model says of itself", model=_METRICS), capital),
        get("match", Match, "A model's trades beside those of a backtest", Answer(doc="pairs and curves", model=_MATCH),
            Query(name="run", required=True, low=1, high=64, doc="the id of a completed backtest"),
            Query(name="tolerance", kind="number", low=0, high=31 * 86400,
                  doc="seconds between trades that belong together; else one bar of the backtest and a minute"),
            Query(name="start", kind="time", doc="of the time compared; else the later beginning of the two"),
            Query(name="end", kind="time", doc="else the earlier end"), capital),
        Route(methods="POST", path=ONE + "/match", handler=Match, auth="backtest", tag="models", parameters=id_path,
              summary="Start a backtest on the time in which a model traded", request=MatchRequest,
              answers={201: Answer(doc="the run", model={"type": "object", "required": ["id", "state"]})},
              errors=(400, 404, 409, 413, 422, 503)),
        Route(methods="GET", path=ONE + "/profit/stream", handler=ProfitStream, auth="read", tag="models",
              parameters=id_path, summary="Follow a model's profit (WebSocket)", websocket=True,
              query=(Query(name="after", kind="integer", low=0, doc="the seq of the last event known; else from now"),),
              description="Its figures as they change, at most one event a second, as long as somebody follows."),
    ]


def _object(*names: str) -> dict[str, Any]:
    return {"type": "object", "required": list(names)}


_OVERVIEW: Final = _object("items", "pending", "at")
_POSITIONS: Final = _object("items", "unpriced", "at")
_PNL: Final = _object("totals", "symbols", "unpriced", "reported", "outside_fees", "source", "at")
_CURVES: Final = _object("curves", "reported", "base_source", "unpriced", "at")
_TRIPS: Final = _object("items", "total", "next")
_METRICS: Final = _object("currencies", "reported", "reported_label", "base_source", "at")
_MATCH: Final = _object("match_rate", "matched", "only_live", "only_backtest", "trades", "live", "backtest")
