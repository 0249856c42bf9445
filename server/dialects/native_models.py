"""Models over the native API: what bots are and what they said they did.

    GET, POST /workbench/api/models            GET, PATCH, DELETE /workbench/api/models/{id}
    GET …/orders, …/orders/{order}, …/trades, …/logs, …/calls, …/screener, …/events      (format=json|csv|parquet)
    WS  …/stream?after=, …/logs/stream?after=

Lists of rows go on with `cursor`, lists of events with numbers: `after` (oldest first), `before` (newest first; `tail`
begins at the end). What filters orders or events is looked for piece by piece: a page may be short and still have a
`next`.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine.activity import Model, Order
from engine.model import Event
from server.dialects.base import BaseHandler
from server.dialects.native_exports import FILES, send_file
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.model_reads import BATCH, EventQuery, ModelQuery, OrderQuery

__all__ = ["routes"]

BASE: Final = "/workbench/api/models"
ONE: Final = BASE + "/{id}"


class ModelRequest(BaseModel):
    """A model to make; without an `id` it gets one. Bots that report make themselves known without this."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    project: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    description: Annotated[str, Field(max_length=20_000)] = ""
    kind: Annotated[str, Field(min_length=1, max_length=32)] = "strategy"
    id: Annotated[str | None, Field(min_length=1, max_length=128)] = None


class ModelChange(BaseModel):
    """What people call a model; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    description: Annotated[str | None, Field(max_length=20_000)] = None


def order_json(order: Order) -> dict[str, Any]:
    """An order as the native API shows it: its fields, instants as text."""
    return {each.name: getattr(order, each.name) for each in fields(order)}


class _OfModel(BaseHandler):
    async def seen(self, id: str) -> Model:
        """The model, if this token may see it; raises `NotFound`."""
        return await self.services.models.model(id, project=self.principal.project)


class Models(BaseHandler):
    async def get(self) -> None:
        query = self.query
        page = await self.services.models.models(ModelQuery(
            project=self.principal.project or query["project"] or "", dialect=query["dialect"] or "",
            kind=query["kind"] or "", running=query["running"], symbol=query["symbol"] or "",
            exchange=query["exchange"] or "", text=query["q"] or "", sort=query["sort"],
            descending=query["order"] == "desc", limit=query["limit"], cursor=query["cursor"]))
        await self.send_json({"items": page.items, "next": page.next, "total": page.total})

    async def post(self) -> None:
        wanted = await self.read_model(ModelRequest)
        model = await self.services.activity.create_model(
            self.principal.project or wanted.project, wanted.name, description=wanted.description, kind=wanted.kind,
            id=wanted.id)
        self.write_json(model, status=201)


class OneModel(_OfModel):
    async def get(self, id: str) -> None:
        self.write_json(await self.seen(id))

    async def patch(self, id: str) -> None:
        wanted = await self.read_model(ModelChange)
        await self.seen(id)
        self.write_json(await self.services.activity.change_model(id, name=wanted.name, description=wanted.description))

    async def delete(self, id: str) -> None:
        await self.seen(id)
        await self.services.deployments.remove(id)
        self.set_status(204)
        self.finish()


class Orders(_OfModel):
    traded = False

    async def get(self, id: str) -> None:
        query = self.query
        await self.seen(id)
        wanted = OrderQuery(
            run=query["run"], symbol=query["symbol"] or "", exchange=query["exchange"] or "",
            side=query["side"] or "", kind=query["kind"] or "", status=query["status"], traded=self.traded,
            text=query["q"] or "", start=query["start"], end=query["end"], descending=query["order"] == "desc",
            limit=query["limit"] or 100, cursor=query["cursor"])
        if query["format"] != "json":
            await send_file(self, "orders", query["format"], self._all(id, replace(wanted, descending=False)),
                            "trades" if self.traded else "orders")
            return
        page = await self.services.models.orders(id, wanted)
        await self.send_json({"items": [order_json(order) for order in page.items], "next": page.next})

    async def _all(self, id: str, query: OrderQuery) -> AsyncIterator[Sequence[Order]]:
        after = None
        while batch := await self.services.models.order_batch(id, query, after):
            yield batch
            if len(batch) < BATCH:
                return
            after = (_micros(batch[-1]), batch[-1].id)


def _micros(order: Order) -> int:
    from engine import times

    return times.micros(order.at)


class Trades(Orders):
    """The orders of which something was traded."""

    traded = True


class OneOrder(_OfModel):
    async def get(self, id: str, order: str) -> None:
        await self.seen(id)
        self.write_json(order_json(await self.services.models.one_order(id, order, self.query["run"])))


class Events(_OfModel):
    """A stream of the model in pages; subclasses choose the stream, the types and what is shown of an event."""

    noun = "events"
    types: tuple[str, ...] = ()
    text_in = ""

    def stream(self, id: str) -> str:
        return f"model/{id}"

    def show(self, event: Event) -> dict[str, Any]:
        return {"id": event.id, "stream": event.stream, "seq": event.seq, "type": event.type, "at": event.at,
                "data": event.data}

    async def get(self, id: str) -> None:
        query = self.query
        await self.seen(id)
        backwards = query["before"] is not None or query["tail"] is not None
        asked = query["type"]
        where = {"run": (query["run"],)} if query["run"] else {}
        if self.types and asked:
            where["type"] = asked
        wanted = EventQuery(
            types=self.types or asked, where=where, text=query["q"] or "", text_in=self.text_in,
            after=query["after"] or 0, before=query["before"], descending=backwards,
            limit=query["tail"] or query["limit"])
        if query["format"] != "json":
            await send_file(self, self.noun, query["format"], self._all(id, replace(wanted, descending=False)),
                            self.noun)
            return
        page = await self.services.models.events(self.stream(id), wanted)
        items = [self.show(event) for event in page.items]
        if backwards:
            items.reverse()
        await self.send_json({"items": items, "next": page.next, "last": page.last})

    async def _all(self, id: str, query: EventQuery) -> AsyncIterator[Sequence[Event]]:
        while True:
            page = await self.services.models.events(self.stream(id), replace(query, limit=BATCH), most=BATCH)
            if page.items:
                yield page.items
            if page.next is None:
                return
            query = replace(query, after=page.next)


class Logs(Events):
    noun = "logs"
    types = ("log",)
    text_in = "line"

    def stream(self, id: str) -> str:
        return f"model/{id}/log"

    def show(self, event: Event) -> dict[str, Any]:
        data = event.data
        return {"seq": event.seq, "received_at": event.at, "at": data.get("at"), "type": data.get("type"),
                "line": data.get("line"), "run": data.get("run") or ""}


class Calls(Events):
    noun = "calls"
    types = ("call",)

    def show(self, event: Event) -> dict[str, Any]:
        data = event.data
        return {"seq": event.seq, "received_at": event.at, "at": data.get("at"), "type": data.get("type"),
                "args": data.get("args"), "response": data.get("response"), "annotation": data.get("annotation"),
                "run": data.get("run") or ""}


class Screener(Events):
    noun = "screener"
    types = ("screener",)

    def show(self, event: Event) -> dict[str, Any]:
        return {"seq": event.seq, "received_at": event.at, "at": event.data.get("at"),
                "result": event.data.get("result"), "run": event.data.get("run") or ""}


class ModelStream(StreamHandler):
    suffix = ""

    async def events(self, id: str) -> AsyncIterator[Event]:  # type: ignore[override]
        await self.services.models.model(id, project=self.principal.project)
        async for event in self.services.events.follow(f"model/{id}{self.suffix}", self.query["after"]):
            yield event


class LogStream(ModelStream):
    suffix = "/log"


def routes(services: Services) -> list[Route]:
    """The operations on models."""
    id_path = (Path(name="id", doc="the model's id"),)
    one = Answer(doc="the model", model=_MODEL)
    form = Query(name="format", kind="choice", choices=("json", *FILES), default="json",
                 doc="csv and parquet hold everything that fits the filters, oldest first")
    run = Query(name="run", high=64, default="", doc="of this detached backtest instead of live")
    rows = (Query(name="symbol", high=64), Query(name="exchange", high=64),
            Query(name="side", kind="choice", choices=("buy", "sell")),
            Query(name="kind", kind="choice", choices=("market", "limit", "stop")),
            Query(name="status", many=True, high=64, doc="any of these, in any case"),
            Query(name="q", high=200, doc="part of the id, symbol, status or annotation"), run,
            Query(name="start", kind="time", doc="inclusive, by the bot's clock"),
            Query(name="end", kind="time", doc="inclusive"),
            Query(name="order", kind="choice", choices=("asc", "desc"), default="desc"),
            Query(name="limit", kind="integer", low=1, high=1000, default=100),
            Query(name="cursor", high=2000, doc="`next` of the page before"), form)
    numbers = (Query(name="after", kind="integer", low=0, doc="only later numbers, oldest first"),
               Query(name="before", kind="integer", low=1, doc="only earlier numbers, the newest page of them"),
               Query(name="tail", kind="integer", low=1, high=1000, doc="this many from the end"),
               Query(name="limit", kind="integer", low=1, high=1000, default=200),
               Query(name="type", many=True, high=64), Query(name="run", high=64, default=""),
               Query(name="q", high=200, doc="part of the text, in any case"), form)
    after = Query(name="after", kind="integer", low=0, default=0, doc="the seq of the last event known")
    orders = Answer(doc="a page of orders", model=_PAGE, content=tuple(FILES.values()))
    events = Answer(doc="a page in order of the numbers; with `before` or `tail`, `next` is the `before` of the page "
                    "before it, else the `after` of the page after it", model=_EVENTS, content=tuple(FILES.values()))
    paged = [
        Route(methods="GET", path=f"{ONE}/{noun}", handler=handler, auth="read", tag="models", parameters=id_path,
              summary=summary, query=query, answers={200: answer}, errors=(404, 422))
        for noun, handler, summary, query, answer in (
            ("orders", Orders, "A model's orders", rows, orders),
            ("trades", Trades, "A model's orders of which something was traded", rows, orders),
            ("logs", Logs, "A model's output", numbers, events),
            ("calls", Calls, "A model's function calls with arguments and responses", numbers, events),
            ("screener", Screener, "A screener's results", numbers, events),
            ("events", Events, "Everything a model did but its output", numbers, events))]
    return [
        Route(methods="GET", path=BASE, handler=Models, auth="read", tag="models", summary="List models",
              query=(Query(name="project", high=64), Query(name="dialect", high=32), Query(name="kind", high=32),
                     Query(name="running", kind="switch"), Query(name="symbol", high=64),
                     Query(name="exchange", high=64),
                     Query(name="q", high=200, doc="part of id, name, description, symbols, exchanges, last error"),
                     Query(name="sort", default="created_at", high=80),
                     Query(name="order", kind="choice", choices=("asc", "desc"), default="desc"),
                     Query(name="limit", kind="integer", low=1, high=1000, default=100),
                     Query(name="cursor", high=2000, doc="`next` of the page before")),
              answers={200: Answer(doc="a page of models", model=_PAGE)}, errors=(422,)),
        Route(methods="POST", path=BASE, handler=Models, auth="deploy", tag="models", summary="Make a model",
              request=ModelRequest, answers={201: one}, errors=(400, 404, 409, 413, 422)),
        Route(methods="GET", path=ONE, handler=OneModel, auth="read", tag="models", summary="One model",
              parameters=id_path, answers={200: one}, errors=(404,)),
        Route(methods="PATCH", path=ONE, handler=OneModel, auth="deploy", tag="models", parameters=id_path,
              summary="Rename or describe a model", request=ModelChange, answers={200: one},
              errors=(400, 404, 413, 422)),
        Route(methods="DELETE", path=ONE, handler=OneModel, auth="deploy", tag="models", parameters=id_path,
              summary="Delete a model with everything it reported", answers={204: Answer(doc="it is gone")},
              errors=(404,)),
        *paged,
        Route(methods="GET", path=ONE + "/orders/{order}", handler=OneOrder, auth="read", tag="models",
              parameters=(*id_path, Path(name="order", doc="the order's id")), summary="One order", query=(run,),
              answers={200: Answer(doc="the order", model={"type": "object", "required": ["id", "symbol", "side"]})},
              errors=(404,)),
        Route(methods="GET", path=ONE + "/stream", handler=ModelStream, auth="read", tag="models", parameters=id_path,
              summary="Follow a model (WebSocket)", query=(after,), websocket=True,
              description="Everything but its output, as it is committed."),
        Route(methods="GET", path=ONE + "/logs/stream", handler=LogStream, auth="read", tag="models",
              parameters=id_path, summary="Follow a model's output (WebSocket)", query=(after,), websocket=True),
    ]


_MODEL: Final = {"type": "object", "required": ["id", "project", "name", "created_at", "running", "orders"]}
_PAGE: Final = {"type": "object", "required": ["items", "next"], "properties": {
    "items": {"type": "array", "items": {"type": "object"}}, "next": {"type": ["string", "null"]},
    "total": {"type": "integer"}}}
_EVENTS: Final = {"type": "object", "required": ["items", "next", "last"], "properties": {
    "items": {"type": "array", "items": {"type": "object"}}, "next": {"type": ["integer", "null"]},
    "last": {"type": "integer"}}}
