"""Imports from exchanges, exchanges and their keys over the wire."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from engine import errors, times
from engine.model import Event, Market
from workbench.feed import Feed, Watcher
from workbench.transport import Transport

__all__ = ["ImportCalls"]

API: Final = "/workbench/api"
When = str | int | float | datetime | None


class ImportCalls:
    """What a client offers on imports; a part of `workbench.client.AsyncClient`."""

    _http: Transport

    async def imports(self, *, states: Sequence[str] = (), market: str | Market = "",
                      limit: int = 100) -> list[dict[str, Any]]:
        """Imports, newest first: id, market, state, progress (0..1), start, end, position, added, missing, error …
        States are queued, running, completed, failed and cancelled."""
        params = {"state": [states] if isinstance(states, str) else list(states), "market": str(market), "limit": limit}
        return (await self._http.json("GET", f"{API}/imports", params=params))["items"]

    async def import_(self, import_id: str) -> dict[str, Any]:
        """One import. Raises `NotFound`."""
        return await self._http.json("GET", _path(import_id))

    async def start_import(self, market: str | Market, start: When, end: When = None) -> dict[str, Any]:
        """Fetch minutes of a market such as "binance:BTC/USDT" from `start` to before `end` (None: now) from its
        exchange. Minutes that are stored already stay as they are. Raises `Invalid` naming what is wrong."""
        body = {"market": str(market), "start": times.iso(times.parse(start, field="start"))}
        if end is not None and end != "":
            body["end"] = times.iso(times.parse(end, field="end"))
        return await self._http.json("POST", f"{API}/imports", json=body)

    async def cancel_import(self, import_id: str) -> dict[str, Any]:
        """Stop an import; what it stored stays. Raises `Conflict` when it is over."""
        return await self._http.json("POST", f"{_path(import_id)}/cancel")

    async def resume_import(self, import_id: str) -> dict[str, Any]:
        """Go on with an import that was cancelled or failed, where it was. Raises `Conflict` for others."""
        return await self._http.json("POST", f"{_path(import_id)}/resume")

    async def delete_import(self, import_id: str) -> None:
        """Forget an import that is over; its candles stay."""
        await self._http.json("DELETE", _path(import_id))

    def follow_import(self, import_id: str, *, after: int = 0, patience: float | None = None,
                      watcher: Watcher | None = None) -> AsyncIterator[Event]:
        """What becomes of an import: events "created", "state" and "progress", each with its facts in `import`."""
        return aiter(Feed(f"{self._http.url}{_path(import_id)}/stream", headers=self._http.headers, after=after,
                          patience=patience, watcher=watcher))

    async def exchanges(self) -> list[dict[str, Any]]:
        """The exchanges: slug, name, markets as far as known, what a key `requires`, providesHistory, tradable."""
        return (await self._http.json("GET", f"{API}/exchanges"))["items"]

    async def refresh_exchange(self, name: str) -> dict[str, Any]:
        """Load an exchange's markets now. Raises `NotFound`, `Unavailable`."""
        return await self._http.json("POST", f"{API}/exchanges/{quote(name, safe='')}/refresh")

    async def exchange_keys(self) -> list[str]:
        """The exchanges for which a key is stored. Nothing tells a key itself."""
        return [entry["exchange"] for entry in (await self._http.json("GET", f"{API}/exchange-keys"))["items"]]

    async def set_exchange_key(self, exchange: str, values: Mapping[str, str]) -> None:
        """Store an exchange's key, encrypted; `requires` of the exchange names its parts. It cannot be read again."""
        await self._http.json("PUT", _key_path(exchange), json={"values": dict(values)})

    async def remove_exchange_key(self, exchange: str) -> None:
        """Forget an exchange's key. Raises `NotFound`."""
        await self._http.json("DELETE", _key_path(exchange))


def _path(import_id: str) -> str:
    if not import_id:
        raise errors.Invalid("no import was named", field="id")
    return f"{API}/imports/{quote(import_id, safe='')}"


def _key_path(exchange: str) -> str:
    if not exchange:
        raise errors.Invalid("no exchange was named", field="exchange")
    return f"{API}/exchange-keys/{quote(exchange, safe='')}"
