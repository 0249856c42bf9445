"""Gekko's API, what concerns exchanges: imports, capability objects, keys.

    their word       ours
    import           an import of the service `imports`; `id` is its id, `latest` the newest trade or candle received
    exchange         one of ccxt's, or of the operator's file; capability objects are made of its markets
    api key          a key of `services.keys`; its parts go in and never come out

An import without `to` ends now, one without `from` begins where Gekko's does. What the exchange says of the market is
known only later: the answer is 200, and an unknown exchange, market or senseless range is an `import_error` on the
WebSocket, as in Gekko. Imports that failed or were cancelled are no longer listed; natively they are, and can be
resumed there.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from engine import times
from engine.errors import Invalid
from engine.gekko_ranges import read_date
from engine.model import Market
from server.dialects.gekko import NAME, Handler
from server.dialects.gekko_live_states import replay_capabilities
from server.dialects.gekko_requests import MOST_BODY
from server.dialects.routes import Answer, Route
from server.services import Services
from server.services.imports import Import

__all__ = ["routes", "watched"]

FIRST: Final = "2016-06-01 12:00:00"
"""Where an import begins that does not say."""

LISTED: Final = ("queued", "running", "completed")


def watched(config: Mapping[str, Any]) -> Market:
    """The market that `watch` names, on an exchange. Raises `Invalid` naming the part."""
    watch = config.get("watch")
    if not isinstance(watch, Mapping):
        raise Invalid("the section watch is missing", field="watch",
                      remedy='send "watch": {"exchange": …, "currency": …, "asset": …}')
    parts = []
    for name in ("exchange", "asset", "currency"):
        if not isinstance(watch.get(name), str) or not watch[name]:
            raise Invalid(f"{watch.get(name)!r} names no {name}"[:200], field=f"watch.{name}", remedy="give a text")
        parts.append(watch[name])
    try:
        return Market(parts[0].lower(), parts[1], parts[2])
    except Invalid as error:
        raise Invalid(error.message[:200], field=f"watch.{error.field}", remedy=error.remedy) from None


class ImportHandler(Handler):
    async def post(self) -> None:
        config = self.config()
        market = watched(config)
        importer, writer = config.get("importer"), config.get("candleWriter")
        daterange = importer.get("daterange") if isinstance(importer, Mapping) else None
        if not isinstance(daterange, Mapping):
            raise Invalid("the range is missing", field="importer.daterange", remedy='give {"from": …, "to": …}')
        if isinstance(writer, Mapping) and writer.get("enabled") is False:
            raise Invalid("without the candleWriter nothing would be stored", field="candleWriter.enabled",
                          remedy="send true")
        now = times.iso(times.now())
        start, end = (read_date(daterange.get(key, default), field=f"importer.daterange.{key}")
                      for key, default in (("from", FIRST), ("to", now)))
        request = {"watch": {name: config["watch"][name] for name in ("exchange", "currency", "asset")},
                   "from": daterange.get("from", FIRST), **({"to": daterange["to"]} if "to" in daterange else {})}
        made = await self.services.imports.submit(market, start, end, request=request, dialect=NAME,
                                                  owner=self.principal.name, lenient=True)
        self.reply({"watch": request["watch"], "id": made.id, "latest": "",
                    **{key: request[key] for key in ("from", "to") if key in request}})


class ImportsHandler(Handler):
    async def get(self) -> None:
        found = await self.services.imports.list(states=LISTED)
        self.reply([_item(each) for each in reversed(found)])


def _item(found: Import) -> dict[str, Any]:
    request, market = found.request, found.market
    watch = {"exchange": market.exchange, "currency": market.currency, "asset": market.asset}
    return {"watch": request.get("watch") or watch, "id": found.id,
            "latest": "" if found.latest is None else found.latest.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "from": request.get("from", _plain(found.start)), "to": request.get("to", _plain(found.end)),
            "done": found.state == "completed"}


def _plain(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")


class ExchangesHandler(Handler):
    async def get(self) -> None:
        played = await self.off_loop(self.services.instances.replayed)
        self.reply([*await self.services.exchanges.capabilities(), *replay_capabilities(played)])


class KeyNamesHandler(Handler):
    async def get(self) -> None:
        self.reply(await self.services.keys.names())


class AddKeyHandler(Handler):
    async def post(self) -> None:
        config = self.config()
        await self.services.keys.put(config.get("exchange"), config.get("values"))
        self.reply({"status": "ok"})


class RemoveKeyHandler(Handler):
    async def post(self) -> None:
        await self.services.keys.remove(self.config().get("exchange"))
        self.reply({"status": "ok"})


NOT_JSON: Final = Answer(doc="Gekko's short text: the body is not JSON", content=("text/plain",))


def routes(services: Services) -> list[Route]:
    """The operations on imports, exchanges and keys. They need no more than their services."""

    def route(method: str, path: str, handler: type[Any], scope: str, summary: str, answer: Answer,
              request: Mapping[str, Any] | None = None) -> Route:
        body: dict[str, Any] = {"request": request, "errors": (422,), "max_body": MOST_BODY} if request else {}
        return Route(methods=method, path=path, handler=handler, auth=scope, summary=summary, tag=NAME,
                     options={"error_schema": _ERROR}, answers={200: answer} | ({400: NOT_JSON} if request else {}),
                     **body)

    ok = Answer(doc="done", model=_object(status=_TEXT))
    return [
        route("POST", "/api/import", ImportHandler, "ingest", "Start an import",
              Answer(doc="it has begun; the WebSocket tells how it goes on", model={"type": "object"}),
              _object(watch=_WATCH, importer={"type": "object"}, candleWriter={"type": "object"})),
        route("GET", "/api/imports", ImportsHandler, "read", "Imports that run or are done",
              Answer(doc="the oldest first", model=_LIST)),
        route("GET", "/api/exchanges", ExchangesHandler, "read", "Exchanges and their markets",
              Answer(doc="capability objects; an exchange that was not used yet has its best-known markets only",
                     model=_LIST)),
        route("GET", "/api/apiKeys", KeyNamesHandler, "read", "Exchanges that a key is stored for",
              Answer(doc="names, never keys", model={"type": "array", "items": _TEXT})),
        route("POST", "/api/addApiKey", AddKeyHandler, "admin", "Store a key, encrypted", ok,
              _object(exchange=_TEXT, values={"type": "object", "additionalProperties": _TEXT})),
        route("POST", "/api/removeApiKey", RemoveKeyHandler, "admin", "Forget a key", ok, _object(exchange=_TEXT)),
    ]


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_TEXT: Final = {"type": "string"}
_WATCH: Final = _object(exchange=_TEXT, currency=_TEXT, asset=_TEXT)
_LIST: Final = {"type": "array", "items": {"type": "object"}}
_ERROR: Final = _object(type=_TEXT, error=_TEXT)
