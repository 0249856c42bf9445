"""Gekko's live instances and its WebSocket.

    POST /api/startGekko, /api/stopGekko, /api/deleteGekko   GET /api/gekkos     WS / and /api

    their word            ours
    watcher               an instance of kind "watcher"; all that watch one market share one feed
    leech, stratrunner    an instance that runs a strategy: "papertrader", or "tradebot" with real orders
    live and archive      the states "live", and "stopped" or "failed"
    watch.exchange        an exchange, or "replay": stored candles of `watch.source`, `watch.speed` times faster than
                          life (0: as fast as it goes), from `watch.from` to `watch.to`

Where they know better: what cannot work (no such strategy, settings or market section) is a 422 that says why, where
Gekko starts the instance and lets it crash; what turns out later is told as there, with `gekko_error`. Keys that a
client puts into a configuration are dropped. A strategy runner needs no watcher: it has its market watched itself.

A tradebot needs `--allow-live-trading`, a stored key, and two limits in its section `trader`: `maxOrderValue` and
`maxDailyLoss`, in the market's currency.

Messages come in the order in which things happened, each encoded once for all clients; there is no past: a client that
connects asks for the state with GET. What clients say is ignored.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from engine import times
from engine.errors import Conflict, Invalid, NotFound
from engine.model import Event
from server.dialects.encoding import dumps
from server.dialects.gekko import JSON, MOST_BODY, NAME, PING, TEXT, TEXTS, Gekko, Handler
from server.dialects.gekko_live_states import BASE, error_text, instance_message, merged, state_of
from server.dialects.routes import Answer, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.instances import DELETED

__all__ = ["routes"]

NO_KEYS: Final = "No API keys found for this exchange."
_OK: Final = {"status": "ok"}
_NOT_OK: Final = {"status": "not ok"}


class StartHandler(Handler):
    async def post(self) -> None:
        config = self.config()
        if "mode" not in config:
            raise Invalid("the mode is missing", field="mode", remedy='send "mode": "realtime"')
        trader, watch = config.get("trader"), config.get("watch")
        if isinstance(trader, dict) and trader.get("enabled") and isinstance(watch, dict) and not (
                await self.services.keys.has(str(watch.get("exchange")))):
            self.write_bytes(NO_KEYS, TEXT)
            return
        try:
            instance = await self.services.instances.begin(merged(BASE, config), principal=self.principal)
        except NotFound as error:
            raise Invalid(error.message, field=error.field, remedy=error.remedy) from None
        body = dumps(state_of(instance))
        for _ in range(3):  # the socket's clients hear of it before the one who asked
            await asyncio.sleep(0)
        self.write_bytes(body, JSON)


class StopHandler(Handler):
    async def post(self) -> None:
        try:
            await self.services.instances.stop(_id(self.config()))
        except (NotFound, Conflict):
            self.reply(_NOT_OK)
        else:
            self.reply(_OK)


class DeleteHandler(Handler):
    async def post(self) -> None:
        id = _id(self.config())
        try:
            await self.services.instances.remove(id)
        except (NotFound, Conflict):
            self.reply(_OK if id else _NOT_OK)  # Gekko says "ok" although nothing was deleted
        else:
            self.reply(_OK)


def _id(config: Mapping[str, Any]) -> str:
    id = config.get("id")
    return id if isinstance(id, str) else ""


class GekkosHandler(Handler):
    async def get(self) -> None:
        found = await self.services.instances.list()
        shown: dict[str, dict[str, Any]] = {"live": {}, "archive": {}}
        for each in found:
            shown["live" if each.live else "archive"][each.id] = state_of(each)
        self.write_bytes(await self.off_loop(dumps, shown) if len(found) > 20 else dumps(shown), JSON)


class SocketHandler(Gekko, StreamHandler):
    """Updates of imports, keys and live instances."""

    refusals = "handshake"

    @property
    def ping_interval(self) -> float:
        return PING

    @property
    def ping_timeout(self) -> float:
        return PING

    async def events(self) -> AsyncIterator[Event]:  # type: ignore[override]
        async for event in self.services.events.follow_all():
            if event.stream.partition("/")[0] in MESSAGES:
                yield event

    def render(self, event: Event) -> bytes | None:  # type: ignore[override]
        message = MESSAGES[event.stream.partition("/")[0]](event)
        return None if message is None else dumps(message)


def _deleted(event: Event) -> dict[str, Any]:
    return {"type": "gekko_deleted", "id": event.data.get("id")}


def _import(event: Event) -> dict[str, Any] | None:
    id = event.stream.partition("/")[2]
    if event.type == "progress":
        latest = (event.data.get("import") or {}).get("latest")
        if latest is None:
            return None
        text = times.parse(latest).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "import_update", "import_id": id, "updates": {"latest": text, "done": False}}
    state = event.data.get("state")
    if event.type != "state" or state not in ("completed", "failed", "cancelled"):
        return None
    if state == "completed":
        return {"type": "import_update", "import_id": id, "updates": {"done": True}}
    return {"type": "import_error", "import_id": id,
            "error": error_text(event.data.get("error") or "the import was cancelled")}


def _keys(event: Event) -> dict[str, Any] | None:
    return {"type": "apiKeys", "exchanges": event.data.get("exchanges")}


MESSAGES: Final = {"instance": instance_message, DELETED: _deleted, "import": _import, "keys": _keys}
"""What becomes of events, by the first part of their stream's name."""


def routes(services: Services) -> list[Route]:
    def post(path: str, handler: type[Any], summary: str, answer: Answer, *more: int) -> Route:
        answers = {status: Answer(doc=text, content=("text/plain",)) for status, text in TEXTS.items()}
        return Route(methods="POST", path=path, handler=handler, auth="backtest", summary=summary, tag=NAME,
                     request={"type": "object"}, max_body=MOST_BODY, errors=(422, *more),
                     answers={200: answer, **answers}, options=_OPTIONS)

    status = Answer(doc='{"status": "ok"}, or "not ok"', model=_object("status"))
    socket: dict[str, Any] = {
        "handler": SocketHandler, "auth": "read", "tag": NAME, "websocket": True, "upgrade": True,
        "summary": "Updates over WebSocket, here or at `/`", "options": _OPTIONS,
        "answers": {101: Answer(doc="messages of the types import_update, import_error, gekko_new, gekko_event, "
                                    "gekko_stopped, gekko_error, gekko_archived, gekko_deleted, apiKeys"),
                    404: Answer(doc="without the upgrade", content=("text/plain",))}}
    return [
        post("/api/startGekko", StartHandler, "Start a watcher or a strategy",
             Answer(doc="its state; a text when there is no key for real orders", model=_object("id", "config"),
                    content=("text/plain",)), 403, 429),
        post("/api/stopGekko", StopHandler, "Stop an instance; it moves to the archive", status, 503),
        post("/api/deleteGekko", DeleteHandler, "Delete an instance from the archive", status, 503),
        Route(methods="GET", path="/api/gekkos", handler=GekkosHandler, auth="read", tag=NAME, options=_OPTIONS,
              summary="All instances", answers={200: Answer(doc="states by id", model=_object("live", "archive"))}),
        Route(methods="GET", path="/", hidden=True, **socket),  # to others this address is a page
        Route(methods="GET", path="/api", **socket),
    ]


def _object(*names: str) -> dict[str, Any]:
    return {"type": "object", "required": list(names)}


_OPTIONS: Final = {"error_schema": _object("type", "error")}
