"""Models over the wire: what bots are, what they did and how they fare."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from engine import errors, times
from engine.activity import Model, Order, Project
from engine.model import Event
from workbench.feed import Feed, Watcher, event_of
from workbench.transport import Transport

__all__ = ["CallEntry", "EventPage", "LogEntry", "ModelCalls", "Rows"]

API: Final = "/workbench/api"
T = TypeVar("T")
When = str | int | float | datetime | None
_INSTANTS: Final = frozenset({"at", "received_at", "created_at", "started_at", "ended_at", "heard_at", "executed_at",
                              "canceled_at", "last_error_at"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows(Generic[T]):
    """One page of a list: `next` is the cursor of the page after it (None at the end), `total` counts all that fit
    (None: not counted)."""

    items: tuple[T, ...]
    next: str | None
    total: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventPage(Generic[T]):
    """One page of events by rising number. `next` goes on: the `before` of the page before it when it was asked for
    from the end, else the `after` of the page after it; None when there is no more. `last` is the newest number."""

    items: tuple[T, ...]
    next: int | None
    last: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEntry:
    """A line of output: `at` is the bot's clock, `received_at` the server's."""

    seq: int
    at: datetime
    received_at: datetime
    type: str
    line: str
    run: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallEntry:
    """A function call, or anything else worth a line in the event log."""

    seq: int
    at: datetime
    received_at: datetime
    type: str
    args: Any = None
    response: Any = None
    annotation: str | None = None
    run: str = ""


def _of(kind: Any, data: Mapping[str, Any]) -> Any:
    """The value of its JSON; fields that this version does not know are left out."""
    names = kind.__dataclass_fields__
    known: dict[str, Any] = {name: times.parse(value, field=name) if name in _INSTANTS and value is not None else value
                             for name, value in data.items() if name in names}
    for name in ("symbols", "exchanges"):
        if name in known:
            known[name] = tuple(known[name] or ())
    return kind(**known)


def model_of(data: Mapping[str, Any]) -> Model:
    """The model of its JSON."""
    return _of(Model, data)


def order_of(data: Mapping[str, Any]) -> Order:
    """The order of its JSON, also of the data of an event of type `order`."""
    return _of(Order, data)


def log_of(event: Event) -> LogEntry:
    """The line of a followed event of type `log`."""
    return _of(LogEntry, {**event.data, "seq": event.seq, "received_at": event.at})


def call_of(event: Event) -> CallEntry:
    """The call of a followed event of type `call`."""
    return _of(CallEntry, {**event.data, "seq": event.seq, "received_at": event.at})


def path_of(id: str, *more: str) -> str:
    """The address of a model or of what is below it."""
    if not id:
        raise errors.Invalid("no model was named", field="id")
    return "/".join([f"{API}/models/{quote(id, safe='')}", *(quote(part, safe="") for part in more)])


def _text(at: When, field: str) -> str | None:
    return None if at is None or at == "" else times.iso(times.parse(at, field=field))


class ModelCalls:
    """The part of `AsyncClient` that is about models. Lists come in pages, oldest or newest first as said."""

    _http: Transport

    # -- models --------------------------------------------------------------------------------------------------

    async def models(self, *, project: str = "", dialect: str = "", kind: str = "", running: bool | None = None,
                     symbol: str = "", exchange: str = "", text: str = "", sort: str = "created_at",
                     descending: bool = True, limit: int = 100, cursor: str | None = None) -> Rows[Model]:
        """One page of the models that fit. `sort` is name, created_at, heard_at, project, orders, errors,
        last_error_at, started_at or running."""
        data = await self._http.json("GET", f"{API}/models", params={
            "project": project, "dialect": dialect, "kind": kind, "running": running, "symbol": symbol,
            "exchange": exchange, "q": text, "sort": sort, "order": "desc" if descending else "asc", "limit": limit,
            "cursor": cursor})
        return Rows(items=tuple(map(model_of, data["items"])), next=data["next"], total=data.get("total"))

    async def model(self, id: str) -> Model:
        """One model; raises `NotFound`."""
        return model_of(await self._http.json("GET", path_of(id)))

    async def create_model(self, name: str, *, project: str = "default", description: str = "",
                           kind: str = "strategy", id: str | None = None) -> Model:
        """Make a model. Bots that report with an unbound token make themselves known without this."""
        body = {"name": name, "project": project, "description": description, "kind": kind, "id": id}
        return model_of(await self._http.json("POST", f"{API}/models", json={
            key: value for key, value in body.items() if value is not None}))

    async def rename_model(self, id: str, *, name: str | None = None, description: str | None = None) -> Model:
        """Change a model's name or description; None leaves as it is."""
        given = {"name": name, "description": description}
        return model_of(await self._http.json("PATCH", path_of(id), json={
            key: value for key, value in given.items() if value is not None}))

    async def delete_model(self, id: str) -> None:
        """Remove a model with everything it reported, and end its keys."""
        await self._http.json("DELETE", path_of(id))

    async def overview(self, **params: Any) -> dict[str, Any]:
        """All models at a glance: state, heartbeat, profit, exposure, last error."""
        return await self._http.json("GET", f"{API}/overview", params=params)

    # -- projects and keys ---------------------------------------------------------------------------------------

    async def projects(self) -> list[Project]:
        """All projects."""
        return [_of(Project, entry) for entry in (await self._http.json("GET", f"{API}/projects"))["items"]]

    async def create_project(self, name: str, *, description: str = "", id: str | None = None) -> Project:
        """Make a project."""
        body = {"name": name, "description": description} | ({"id": id} if id is not None else {})
        return _of(Project, await self._http.json("POST", f"{API}/projects", json=body))

    async def create_key(self, *, model: str = "", project: str = "", name: str = "") -> dict[str, Any]:
        """Make a key for the bots of a project, or for one model: `api_key`, `api_pass` and `token`, its secret, which
        is never shown again."""
        path = path_of(model, "keys") if model else f"{API}/projects/{quote(project or 'default', safe='')}/keys"
        return await self._http.json("POST", path, json={"name": name})

    async def keys(self, *, model: str = "", project: str = "") -> list[dict[str, Any]]:
        """The keys of a model or a project, without their secrets."""
        path = path_of(model, "keys") if model else f"{API}/projects/{quote(project or 'default', safe='')}/keys"
        return (await self._http.json("GET", path))["items"]

    async def revoke_key(self, key_id: str) -> None:
        """Make a key worthless."""
        await self._http.json("DELETE", f"{API}/keys/{quote(key_id, safe='')}")

    # -- what a model did ----------------------------------------------------------------------------------------

    async def orders(self, id: str, *, symbol: str = "", exchange: str = "", side: str = "", kind: str = "",
                     status: Sequence[str] = (), text: str = "", run: str = "", traded: bool = False,
                     start: When = None, end: When = None, descending: bool = True, limit: int = 100,
                     cursor: str | None = None) -> Rows[Order]:
        """One page of a model's orders by the bot's clock; `traded` keeps those of which something was traded."""
        data = await self._http.json("GET", path_of(id, "trades" if traded else "orders"), params={
            "symbol": symbol, "exchange": exchange, "side": side, "kind": kind,
            "status": [status] if isinstance(status, str) else list(status), "q": text, "run": run,
            "start": _text(start, "start"), "end": _text(end, "end"), "order": "desc" if descending else "asc",
            "limit": limit, "cursor": cursor})
        return Rows(items=tuple(map(order_of, data["items"])), next=data["next"])

    async def trades(self, id: str, **filters: Any) -> Rows[Order]:
        """One page of the orders of which something was traded; filters as of `orders`."""
        return await self.orders(id, traded=True, **filters)

    async def order(self, id: str, order_id: str, *, run: str = "") -> Order:
        """One order; raises `NotFound`."""
        return order_of(await self._http.json("GET", path_of(id, "orders", order_id), params={"run": run}))

    async def logs(self, id: str, *, after: int | None = None, before: int | None = None, tail: int | None = None,
                   types: Sequence[str] = (), text: str = "", run: str = "", limit: int = 200) -> EventPage[LogEntry]:
        """One page of a model's output: from the end (`tail`), before a number, or after one (the default: from the
        first)."""
        return await self._numbered(id, "logs", LogEntry, after, before, tail, types, text, run, limit)

    async def calls(self, id: str, *, after: int | None = None, before: int | None = None, tail: int | None = None,
                    types: Sequence[str] = (), text: str = "", run: str = "",
                    limit: int = 200) -> EventPage[CallEntry]:
        """One page of a model's function calls with arguments and responses; positions as of `logs`."""
        return await self._numbered(id, "calls", CallEntry, after, before, tail, types, text, run, limit)

    async def screener(self, id: str, *, after: int | None = None, before: int | None = None,
                       tail: int | None = None, limit: int = 200) -> EventPage[dict[str, Any]]:
        """One page of a screener's results: dictionaries with seq, at, received_at, result, run."""
        return await self._numbered(id, "screener", None, after, before, tail, (), "", "", limit)

    async def model_events(self, id: str, *, after: int | None = None, before: int | None = None,
                           tail: int | None = None, types: Sequence[str] = (), text: str = "",
                           limit: int = 200) -> EventPage[Event]:
        """One page of everything a model did but its output."""
        return await self._numbered(id, "events", Event, after, before, tail, types, text, "", limit)

    async def _numbered(self, id: str, noun: str, kind: Any, after: int | None, before: int | None, tail: int | None,
                        types: Sequence[str], text: str, run: str, limit: int) -> EventPage[Any]:
        data = await self._http.json("GET", path_of(id, noun), params={
            "after": after, "before": before, "tail": tail,
            "type": [types] if isinstance(types, str) else list(types), "q": text, "run": run, "limit": limit})
        items = (entry if kind is None else event_of(entry) if kind is Event else _of(kind, entry)
                 for entry in data["items"])
        return EventPage(items=tuple(items), next=data["next"], last=data["last"])

    async def export(self, id: str, noun: str, format: str = "csv", **params: Any) -> bytes:
        """Orders, trades, logs, calls, screener or events of a model as the bytes of a file: format csv or parquet."""
        return (await self._http.request("GET", path_of(id, noun), params={**params, "format": format})).content

    # -- how it fares --------------------------------------------------------------------------------------------

    async def positions(self, id: str, **params: Any) -> dict[str, Any]:
        """Positions by symbol with realised and unrealised profit."""
        return await self._http.json("GET", path_of(id, "positions"), params=_plain(params))

    async def pnl(self, id: str, **params: Any) -> dict[str, Any]:
        """Profit: totals by currency and symbol, and the reported series when the model sends its own."""
        return await self._http.json("GET", path_of(id, "pnl"), params=_plain(params))

    async def equity(self, id: str, **params: Any) -> dict[str, Any]:
        """The equity curve; `points` asks the server to thin it out for drawing."""
        return await self._http.json("GET", path_of(id, "equity"), params=_plain(params))

    async def roundtrips(self, id: str, **params: Any) -> dict[str, Any]:
        """Closed trades, entry to exit."""
        return await self._http.json("GET", path_of(id, "roundtrips"), params=_plain(params))

    async def model_metrics(self, id: str, **params: Any) -> dict[str, Any]:
        """The figures that backtests have too, and those that the model reported of itself."""
        return await self._http.json("GET", path_of(id, "metrics"), params=_plain(params))

    async def match(self, id: str, **params: Any) -> dict[str, Any]:
        """A model's trades beside those of a backtest: match rate, differences in price and time."""
        return await self._http.json("GET", path_of(id, "match"), params=_plain(params))

    async def match_backtest(self, id: str, spec: Mapping[str, Any], *, name: str = "") -> dict[str, Any]:
        """Start a backtest on the time in which a model traded; gives the run. `spec` is a BacktestSpec's JSON, whose
        `start` and `end` may be left out."""
        return await self._http.json("POST", path_of(id, "match"), json={"spec": dict(spec), "name": name},
                                     headers={"Idempotency-Key": uuid.uuid4().hex})

    # -- following -----------------------------------------------------------------------------------------------

    def follow_model(self, id: str, after: int = 0, *, patience: float | None = None,
                     watcher: Watcher | None = None) -> AsyncIterator[Event]:
        """What a model does (all but its output) as it happens, each event once, across lost connections."""
        return aiter(Feed(f"{self._http.url}{path_of(id, 'stream')}", headers=self._http.headers, after=after,
                          patience=patience, watcher=watcher))

    def follow_logs(self, id: str, after: int = 0, *, patience: float | None = None,
                    watcher: Watcher | None = None) -> AsyncIterator[Event]:
        """A model's output as it comes; `log_of(event)` is its line."""
        return aiter(Feed(f"{self._http.url}{path_of(id, 'logs')}/stream", headers=self._http.headers, after=after,
                          patience=patience, watcher=watcher))

    # -- reporting -----------------------------------------------------------------------------------------------

    async def record(self, entries: Sequence[Any], *, model: str = "", atomic: bool = True,
                     key: str | None = None) -> dict[str, Any]:
        """Report entries (`engine.activity`, or their JSON objects with `kind`) for a model, in one commit. A bot
        uses `workbench.Bot`, which waits for nothing and loses nothing."""
        import msgspec

        body = b"\n".join(map(msgspec.json.encode, entries))
        headers = {"Content-Type": "application/x-ndjson"} | ({"Idempotency-Key": key} if key else {})
        return await self._http.json("POST", f"{API}/events", params={"model": model, "atomic": atomic}, content=body,
                                     headers=headers)


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Query parameters: instants as text."""
    return {name: times.iso(value) if isinstance(value, datetime) else value for name, value in params.items()}
