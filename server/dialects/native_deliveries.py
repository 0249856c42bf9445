"""Channels, and the log of what went out through them.

    GET, POST /workbench/api/channels        GET, PATCH, DELETE /workbench/api/channels/{id}
    POST /workbench/api/channels/{id}/test
    GET /workbench/api/deliveries            GET /workbench/api/deliveries/{id}    POST …/{id}/retry
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from engine import times
from engine.alerts import DURATIONS, INSTRUMENTS
from engine.errors import NotFound
from server.dialects.base import BaseHandler
from server.dialects.bodies import STRICT, Line, Whole, any_of
from server.dialects.routes import Answer, Path, Query, Route
from server.services import Services
from server.services.deliveries import Channel, Delivery
from server.services.notices import TOPICS

__all__ = ["routes"]

CHANNELS: Final = "/workbench/api/channels"
DELIVERIES: Final = "/workbench/api/deliveries"

Name = Annotated[Line, Field(min_length=1, max_length=200)]
Url = Annotated[str, Field(min_length=1, max_length=4000)]
Topics = Annotated[list[str], Field(min_length=1, max_length=50, description="of " + ", ".join(TOPICS))]
Rate = Annotated[Whole, Field(ge=0, le=100_000, description="notices a minute; 0: no limit")]
Words = Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=200)]


class Strict(BaseModel):
    model_config = STRICT


class Filters(Strict):
    """An empty list lets everything through. The first two concern alerts, the others rules."""

    instruments: Annotated[Words, any_of(INSTRUMENTS)] = []
    durations: Annotated[Words, any_of(DURATIONS)] = []
    rules: Words = []
    models: Words = []


class NewChannel(Strict):
    """`url`: a webhook's https address, or any address that apprise understands (mailto://, tgram://, slack://,
    discord://, json:// …). It is kept encrypted and never shown again as a whole."""

    name: Name
    kind: Literal["webhook", "apprise"]
    url: Url
    topics: Topics = [topic for topic in TOPICS if topic != "test"]
    filters: Filters = Filters()
    rate: Rate = 60


class ChannelChange(Strict):
    """Fields that are left out stay."""

    name: Name | None = None
    url: Url | None = None
    topics: Topics | None = None
    filters: Filters | None = None
    rate: Rate | None = None
    enabled: bool | None = None


def channel_json(channel: Channel) -> dict[str, Any]:
    return {"id": channel.id, "name": channel.name, "kind": channel.kind, "url": channel.shown,
            "topics": list(channel.topics), "filters": dict(channel.filters), "rate": channel.rate,
            "enabled": channel.enabled, "owner": channel.owner, "created_at": times.iso(channel.created_at)}


def delivery_json(delivery: Delivery, *, whole: bool = False) -> dict[str, Any]:
    pending = delivery.state == "pending"
    told = {"id": delivery.id, "channel": delivery.channel, "topic": delivery.topic, "state": delivery.state,
            "attempts": delivery.attempts, "created_at": times.iso(delivery.created_at),
            "next_at": times.iso(delivery.next_at) if pending else None,
            "finished_at": None if delivery.finished_at is None else times.iso(delivery.finished_at),
            "status": delivery.status, "error": delivery.error}
    if whole:
        told |= {"notice": dict(delivery.notice), "tried": [
            {"number": one.number, "at": times.iso(one.at), "ms": one.ms, "status": one.status, "error": one.error}
            for one in delivery.tried]}
    return told


def delivery_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFound(f"there is no delivery {text[:50]!r}")
    return int(text)


class ChannelsHandler(BaseHandler):
    async def get(self) -> None:
        self.write_json({"items": [channel_json(one) for one in await self.services.deliveries.channels()]})

    async def post(self) -> None:
        wanted = await self.read_model(NewChannel)
        channel, key = await self.services.deliveries.create_channel(
            wanted.name, wanted.kind, wanted.url, topics=wanted.topics, filters=wanted.filters.model_dump(),
            rate=wanted.rate, owner=self.principal.name)
        self.write_json(channel_json(channel) | {"key": key or None}, status=201)


class ChannelHandler(BaseHandler):
    async def get(self, id: str) -> None:
        self.write_json(channel_json(await self.services.deliveries.channel(id)))

    async def patch(self, id: str) -> None:
        wanted = await self.read_model(ChannelChange)
        self.write_json(channel_json(await self.services.deliveries.change_channel(
            id, **wanted.model_dump(exclude_none=True))))

    async def delete(self, id: str) -> None:
        await self.services.deliveries.delete_channel(id)
        self.set_status(204)
        self.finish()


class TestHandler(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(delivery_json(await self.services.deliveries.test(id), whole=True))


class DeliveriesHandler(BaseHandler):
    async def get(self) -> None:
        found = await self.services.deliveries.page(**self.query)
        await self.send_json({"items": [delivery_json(one) for one in found]})


class DeliveryHandler(BaseHandler):
    async def get(self, id: str) -> None:
        self.write_json(delivery_json(await self.services.deliveries.delivery(delivery_id(id)), whole=True))


class RetryHandler(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(delivery_json(await self.services.deliveries.retry(delivery_id(id)), whole=True))


def routes(services: Services) -> list[Route]:
    one = Answer(doc="the channel, its address masked", model={"type": "object", "required": ["id", "url", "topics"]})
    gone = Answer(doc="it is gone")
    many = Answer(doc="a page", model={"type": "object", "required": ["items"]})
    told = Answer(doc="the delivery with its attempts", model={"type": "object", "required": ["id", "state", "tried"]})
    place, number = (Path(name="id", doc="the channel's id"),), (Path(name="id", doc="the delivery's number"),)
    return [
        Route(methods="GET", path=CHANNELS, handler=ChannelsHandler, auth="admin", tag="deliveries",
              name="list_channels", summary="Where notices go", answers={200: many}),
        Route(methods="POST", path=CHANNELS, handler=ChannelsHandler, auth="admin", tag="deliveries",
              name="create_channel", summary="Make a channel", request=NewChannel, errors=(422,),
              description="A webhook's bodies are signed (standardwebhooks.com) with `key`, shown this once.",
              answers={201: one}),
        Route(methods="GET", path=CHANNELS + "/{id}", handler=ChannelHandler, auth="admin", tag="deliveries",
              name="get_channel", parameters=place, summary="One channel", answers={200: one}),
        Route(methods="PATCH", path=CHANNELS + "/{id}", handler=ChannelHandler, auth="admin", tag="deliveries",
              name="change_channel", parameters=place, summary="Change a channel", request=ChannelChange,
              errors=(422,), answers={200: one}),
        Route(methods="DELETE", path=CHANNELS + "/{id}", handler=ChannelHandler, auth="admin", tag="deliveries",
              name="delete_channel", parameters=place, summary="Delete a channel and its log", answers={204: gone}),
        Route(methods="POST", path=CHANNELS + "/{id}/test", handler=TestHandler, auth="admin", tag="deliveries",
              name="test_channel", parameters=place, summary="Send a test now", answers={200: told}),
        Route(methods="GET", path=DELIVERIES, handler=DeliveriesHandler, auth="admin", tag="deliveries",
              name="list_deliveries", summary="What went out, newest first", answers={200: many}, query=(
                  Query(name="channel", high=32), Query(name="state", kind="choice", choices=(
                      "pending", "delivered", "dead")),
                  Query(name="before", kind="integer", low=1, doc="the last id shown before"),
                  Query(name="limit", kind="integer", low=1, high=1000, default=100))),
        Route(methods="GET", path=DELIVERIES + "/{id}", handler=DeliveryHandler, auth="admin", tag="deliveries",
              name="get_delivery", parameters=number, summary="One delivery with its attempts", answers={200: told}),
        Route(methods="POST", path=DELIVERIES + "/{id}/retry", handler=RetryHandler, auth="admin", tag="deliveries",
              name="retry_delivery", parameters=number, summary="Try a dead delivery again", errors=(409,),
              answers={200: told}),
    ]
