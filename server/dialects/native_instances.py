"""Live instances over the native API.

    GET, POST /workbench/api/instances       POST …/halt: no trade bot gives another order
    GET, DELETE /workbench/api/instances/{id}     POST …/{id}/stop
    GET …/{id}/events?after=                 WS …/{id}/stream?after=

The body of a new instance is either Gekko's configuration ({"config": …}) or the words below.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import Invalid
from engine.model import Event, Market
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.instance_rows import KINDS, STATES, Instance, stream_of

__all__ = ["routes"]

BASE: Final = "/workbench/api/instances"
ONE: Final = BASE + "/{id}"


class Replay(BaseModel):
    """Stored candles instead of an exchange: `speed` times faster than life, 0 is as fast as it goes. `start` and `end`
    as Gekko's dates."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    speed: Annotated[float, Field(ge=0, le=1e9)] = 60.0
    start: str | int | None = None
    end: str | int | None = None


class InstanceRequest(BaseModel):
    """A new instance: `config`, or the others. `strategy` is a name of Gekko's (MACD …), `parameters` its section;
    without a strategy it is a watcher. `history`: candles to warm up with. `replay` plays the market's stored candles.
    `fee` is in percent. `limits` (max_order_value, max_daily_loss) make it a trade bot with real orders.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    config: dict[str, Any] | None = None
    market: Annotated[str, Field(max_length=130)] = ""
    strategy: Annotated[str, Field(max_length=64)] = ""
    parameters: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    candle_size: Annotated[int, Field(ge=1, le=525_600)] = 60
    history: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    since: str | int | None = None
    asset: Annotated[float, Field(ge=0)] = 0.0
    currency: Annotated[float, Field(ge=0)] = 1000.0
    fee: Annotated[float, Field(ge=0, lt=100)] = 0.25
    risk_free: float = 2.0
    replay: Replay | None = None
    trade: Literal["paper", "real"] = "paper"
    max_order_value: Annotated[float | None, Field(gt=0)] = None
    max_daily_loss: Annotated[float | None, Field(gt=0)] = None


def config_of(wanted: InstanceRequest) -> dict[str, Any]:
    """Gekko's configuration of the words. Raises `Invalid`."""
    if wanted.config is not None:
        if wanted.model_fields_set != {"config"}:
            raise Invalid("config and other words exclude each other", field="config", remedy="give one of them")
        return {"mode": "realtime", **wanted.config}
    market = Market.parse(wanted.market)
    watch: dict[str, Any] = {"exchange": market.exchange, "asset": market.asset, "currency": market.currency}
    if wanted.replay is not None:
        watch |= {"exchange": "replay", "source": market.exchange, "speed": wanted.replay.speed}
        watch |= {name: value for name, value in (("from", wanted.replay.start), ("to", wanted.replay.end))
                  if value is not None}
    config: dict[str, Any] = {"mode": "realtime", "watch": watch, "candleWriter": {"enabled": True}}
    if not wanted.strategy:
        return config
    config |= {
        "market": {"type": "leech", **({} if wanted.since is None else {"from": wanted.since})},
        "tradingAdvisor": {"enabled": True, "method": wanted.strategy, "candleSize": wanted.candle_size,
                           "historySize": wanted.history},
        "performanceAnalyzer": {"enabled": True, "riskFreeReturn": wanted.risk_free},
        **wanted.sections, wanted.strategy: wanted.parameters}
    if wanted.trade == "real":
        config["trader"] = {"enabled": True, "maxOrderValue": wanted.max_order_value,
                            "maxDailyLoss": wanted.max_daily_loss}
    else:
        config["paperTrader"] = {
            "enabled": True, "feeTaker": wanted.fee, "feeMaker": wanted.fee, "feeUsing": "taker",
            "simulationBalance": {"asset": wanted.asset, "currency": wanted.currency}, "reportRoundtrips": True}
    return config


def _facts(instance: Instance, silence: str | None) -> dict[str, Any]:
    """An instance in a list."""
    advisor = instance.config.get("tradingAdvisor")
    strategy = advisor.get("method", "") if isinstance(advisor, Mapping) and instance.trades else ""
    return {
        "id": instance.id, "kind": instance.kind, "state": instance.state, "market": instance.market.key,
        "strategy": strategy, "model": instance.id if instance.trades else None, "owner": instance.owner,
        "started_at": instance.started_at, "updated_at": instance.updated_at, "ended_at": instance.ended_at,
        "error": instance.error, "silent_because": silence, "candle": instance.latest.get("candle"),
        "advice": instance.latest.get("advice"), "portfolio": instance.latest.get("portfolioChange"),
        "balance": (instance.latest.get("portfolioValueChange") or {}).get("balance"),
        "report": instance.latest.get("performanceReport"), "trades": len(instance.lists.get("tradeCompleted", ()))}


class InstanceList(BaseHandler):
    async def get(self) -> None:
        instances, query = self.services.instances, self.query
        found = [each for each in await instances.list(query["state"]) if query["kind"] in (None, each.kind)]
        await self.send_json({"items": [_facts(each, instances.silence(each.id)) for each in reversed(found)]})

    async def post(self) -> None:
        config = config_of(await self.read_model(InstanceRequest))
        instance = await self.services.instances.begin(config, principal=self.principal)
        self.write_json(_facts(instance, None), status=201)


class OneInstance(BaseHandler):
    async def get(self, id: str) -> None:
        seq = await self.services.instances.told(id)  # first: what is said meanwhile is said again
        instance = await self.services.instances.get(id)
        await self.send_json(_facts(instance, self.services.instances.silence(id)) | {
            "seq": seq, "config": instance.config, "initial": instance.initial, "latest": instance.latest,
            "lists": instance.lists})

    async def delete(self, id: str) -> None:
        await self.services.instances.remove(id)
        self.set_status(204)
        self.finish()


class StopInstance(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(_facts(await self.services.instances.stop(id), None))


class Halt(BaseHandler):
    async def post(self) -> None:
        stopped = await self.services.instances.halt()
        self.write_json({"stopped": [each.id for each in stopped]})


class InstanceEvents(BaseHandler):
    async def get(self, id: str) -> None:
        await self.services.instances.get(id)
        types = self.query["type"] or None
        page = await self.services.events.page(stream_of(id), self.query["after"], self.query["limit"], types)
        await self.send_json({"items": [{
            "id": each.id, "stream": each.stream, "seq": each.seq, "type": each.type, "at": each.at, "data": each.data}
            for each in page]})


class InstanceStream(StreamHandler):
    async def events(self, id: str) -> AsyncIterator[Event]:  # type: ignore[override]
        await self.services.instances.get(id)
        async for event in self.services.events.follow(stream_of(id), self.query["after"]):
            yield event
            if event.type == "archived":
                return


def routes(services: Services) -> list[Route]:
    """The operations on live instances."""
    one = Answer(doc="the instance", model={"type": "object", "required": ["id", "kind", "state", "market"]})
    id_path = (Path(name="id", doc="the instance's id"),)
    after = Query(name="after", kind="integer", low=0, default=0, doc="the number of the last event that is known")
    shared: dict[str, Any] = {"tag": "instances"}
    return [
        Route(methods="GET", path=BASE, handler=InstanceList, auth="read", summary="Instances, newest first",
              query=(Query(name="state", kind="choice", choices=STATES, doc="only those in this state"),
                     Query(name="kind", kind="choice", choices=KINDS, doc="only those of this kind")),
              answers={200: Answer(doc="instances", model={"type": "object", "required": ["items"]})}, **shared),
        Route(methods="POST", path=BASE, handler=InstanceList, auth="backtest", request=InstanceRequest,
              summary="Start a watcher or a strategy on live or replayed candles", answers={201: one},
              errors=(400, 403, 404, 422, 429, 503), **shared),
        Route(methods="POST", path=BASE + "/halt", handler=Halt, auth="backtest",
              summary="Stop every trade bot; open orders are cancelled", answers={200: Answer(
                  doc="which were stopped", model={"type": "object", "required": ["stopped"]})}, **shared),
        Route(methods="GET", path=ONE, handler=OneInstance, auth="read", parameters=id_path, answers={200: one},
              summary="One instance with its configuration and what it said up to the event `seq`",
              errors=(404,), **shared),
        Route(methods="DELETE", path=ONE, handler=OneInstance, auth="backtest", parameters=id_path,
              summary="Delete an instance that was stopped or failed", errors=(404, 409, 503), answers={
                  204: Answer(doc="deleted")}, **shared),
        Route(methods="POST", path=ONE + "/stop", handler=StopInstance, auth="backtest", parameters=id_path,
              summary="Stop an instance", answers={200: one}, errors=(404, 409, 503), **shared),
        Route(methods="GET", path=ONE + "/events", handler=InstanceEvents, auth="read", parameters=id_path,
              summary="What an instance said", errors=(404, 422), query=(
                  after, Query(name="limit", kind="integer", low=1, high=10_000, default=1000),
                  Query(name="type", many=True, high=64, doc="only these types")),
              answers={200: Answer(doc="events", model={"type": "object", "required": ["items"]})}, **shared),
        Route(methods="GET", path=ONE + "/stream", handler=InstanceStream, auth="read", parameters=id_path,
              websocket=True, query=(after,), summary="What an instance says, as it says it",
              answers={101: Answer(doc="events; ends after the one of type archived")}, **shared),
    ]
