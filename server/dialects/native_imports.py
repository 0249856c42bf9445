"""Imports from exchanges, exchanges and their keys over the native API.

    GET    /workbench/api/imports                       POST the same: {"market", "start", "end"}
    GET    /workbench/api/imports/{id}                  DELETE the same
    POST   /workbench/api/imports/{id}/cancel, /resume
    GET    /workbench/api/imports/{id}/stream           WebSocket
    GET    /workbench/api/exchanges                     POST /workbench/api/exchanges/{name}/refresh
    GET    /workbench/api/exchange-keys                 PUT, DELETE /workbench/api/exchange-keys/{name}
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine import times
from engine.errors import NotFound
from engine.model import Event, Market
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Path, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services
from server.services.imports import STATES, Import

__all__ = ["import_json", "routes"]

BASE: Final = "/workbench/api"
ONE: Final = BASE + "/imports/{id}"
KEY: Final = BASE + "/exchange-keys/{name}"


class ImportRequest(BaseModel):
    """What to import: minutes of a market from `start` to before `end`; without `end` to now."""

    model_config = ConfigDict(extra="forbid")

    market: Annotated[str, Field(max_length=130, examples=["binance:BTC/USDT"])]
    start: str | int | float
    end: str | int | float | None = None


class KeyRequest(BaseModel):
    """The parts of a key, such as key and secret; `requires` of an exchange names them."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    values: dict[str, str]


def import_json(found: Import) -> dict[str, Any]:
    """An import as JSON; times are ISO text, progress a fraction."""
    def text(at: Any) -> str | None:
        return None if at is None else times.iso(at)

    return {"id": found.id, "market": found.market.key, "state": found.state, "progress": found.progress,
            "start": text(found.start), "end": text(found.end), "position": text(found.position),
            "latest": text(found.latest), "added": found.added, "missing": found.missing, "error": found.error,
            "dialect": found.dialect, "owner": found.owner, "created_at": text(found.created_at),
            "updated_at": text(found.updated_at), "finished_at": text(found.finished_at)}


class ImportList(BaseHandler):
    async def get(self) -> None:
        market = Market.parse(self.query["market"]) if self.query["market"] else None
        found = await self.services.imports.list(states=self.query["state"] or None, market=market,
                                                 limit=self.query["limit"])
        self.write_json({"items": [import_json(each) for each in found]})

    async def post(self) -> None:
        asked = await self.read_model(ImportRequest)
        market = Market.parse(asked.market)
        start = times.micros(times.parse(asked.start, field="start")) // times.SECOND
        ends = times.now() if asked.end is None else times.parse(asked.end, field="end")
        made = await self.services.imports.submit(
            Market(market.exchange.lower(), market.asset, market.currency), start, times.micros(ends) // times.SECOND,
            request={}, owner=self.principal.name)
        self.write_json(import_json(made), 201)


class OneImport(BaseHandler):
    async def get(self, id: str) -> None:
        self.write_json(import_json(await self.services.imports.get(id)))

    async def delete(self, id: str) -> None:
        await self.services.imports.delete(id)
        self.set_status(204)
        await self.finish()


class CancelImport(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(import_json(await self.services.imports.cancel(id)))


class ResumeImport(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(import_json(await self.services.imports.resume(id)))


class ImportStream(StreamHandler):
    def events(self, id: str) -> AsyncIterator[Event]:
        return self.services.imports.follow(id, self.query["after"])


class ExchangeList(BaseHandler):
    async def get(self) -> None:
        await self.send_json({"items": await self.services.exchanges.capabilities()})


class RefreshExchange(BaseHandler):
    async def post(self, name: str) -> None:
        await self.send_json(await self.services.exchanges.refresh(name))


class KeyList(BaseHandler):
    async def get(self) -> None:
        self.write_json({"items": [{"exchange": name} for name in await self.services.keys.names()]})


class OneKey(BaseHandler):
    async def put(self, name: str) -> None:
        asked = await self.read_model(KeyRequest)
        await self.services.keys.put(name, asked.values)
        self.write_json({"exchange": name.lower()})

    async def delete(self, name: str) -> None:
        if not await self.services.keys.remove(name):
            raise NotFound(f"there is no key for {name[:40]!r}")
        self.set_status(204)
        await self.finish()


def routes(services: Services) -> list[Route]:
    """The operations on imports, exchanges and their keys."""
    def route(methods: str, path: str, handler: type[Any], auth: str, summary: str, answers: dict[int, Answer],
              **rest: Any) -> Route:
        return Route(methods=methods, path=path, handler=handler, auth=auth, tag="imports", summary=summary,
                     answers=answers, **rest)

    one, id = Answer(doc="the import", model=_IMPORT), {"parameters": (Path(name="id", doc="the import's id"),)}
    name = {"parameters": (Path(name="name", doc="the exchange", examples=("binance",)),)}
    items = Answer(doc="a list", model={"type": "object", "required": ["items"], "properties": {
        "items": {"type": "array", "items": {"type": "object"}}}})
    gone = Answer(doc="done")
    return [
        route("GET", f"{BASE}/imports", ImportList, "read", "List imports, the newest first", {200: items},
              query=(Query(name="state", kind="choice", choices=STATES, many=True, default=()),
                     Query(name="market", high=130),
                     Query(name="limit", kind="integer", low=1, high=1000, default=100)),
              errors=(422,)),
        route("POST", f"{BASE}/imports", ImportList, "ingest", "Import minutes from an exchange", {201: one},
              request=ImportRequest, errors=(400, 422, 429)),
        route("GET", ONE, OneImport, "read", "One import", {200: one}, errors=(404,), **id),
        route("DELETE", ONE, OneImport, "ingest", "Forget an import that has ended; its candles stay", {204: gone},
              errors=(404, 409), **id),
        route("POST", ONE + "/cancel", CancelImport, "ingest", "Stop an import; what it stored stays", {200: one},
              errors=(404, 409), **id),
        route("POST", ONE + "/resume", ResumeImport, "ingest", "Go on with an import that was cancelled or failed",
              {200: one}, errors=(404, 409), **id),
        route("GET", ONE + "/stream", ImportStream, "read", "Follow an import (WebSocket)", {}, websocket=True,
              query=(Query(name="after", kind="integer", low=0, default=0, doc="the seq of the last event known"),),
              **id),
        route("GET", f"{BASE}/exchanges", ExchangeList, "read", "Exchanges and their markets", {200: items}),
        route("POST", f"{BASE}/exchanges/{{name}}/refresh", RefreshExchange, "ingest",
              "Load the markets of an exchange now", {200: Answer(doc="the exchange", model={"type": "object"})},
              errors=(404, 429, 503), **name),
        route("GET", f"{BASE}/exchange-keys", KeyList, "read", "Exchanges that a key is stored for", {200: items}),
        route("PUT", KEY, OneKey, "admin", "Store a key, encrypted; it cannot be read again",
              {200: Answer(doc="the exchange", model={"type": "object"})}, request=KeyRequest, errors=(400, 422),
              **name),
        route("DELETE", KEY, OneKey, "admin", "Forget a key", {204: gone}, errors=(404,), **name),
    ]


_TEXT: Final = {"type": "string"}
_IMPORT: Final = {"type": "object", "required": ["id", "market", "state", "progress", "added", "missing"], "properties":
                  dict.fromkeys(("id", "market", "state", "start", "end", "position"), _TEXT)
                  | {"progress": {"type": "number"}, "added": {"type": "integer"}, "missing": {"type": "integer"}}}
