"""Live instances over the wire: watchers, paper traders, trade bots."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from engine import errors
from engine.model import Event
from workbench.feed import Feed, Watcher, event_of
from workbench.transport import Transport

__all__ = ["InstanceCalls"]

INSTANCES: Final = "/workbench/api/instances"


class InstanceCalls:
    """What a client offers on live instances; a part of `workbench.client.AsyncClient`."""

    _http: Transport

    async def instances(self, *, state: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """Instances, newest first: id, kind, state, market, strategy, model, started_at, error, silent_because, the
        newest candle, advice, portfolio, balance and report, and how many trades. `state` is live, stopped or failed,
        `kind` watcher, papertrader or tradebot."""
        params = {"state": state, "kind": kind}
        return (await self._http.json("GET", INSTANCES, params=params))["items"]

    async def instance(self, instance_id: str) -> dict[str, Any]:
        """One instance, also with its config, the first and newest payload of each type of event (`initial`, `latest`)
        and all advices, trades and roundtrips (`lists`). Raises `NotFound`."""
        return await self._http.json("GET", _path(instance_id))

    async def start_instance(self, market: str = "", strategy: str = "", *, parameters: Mapping[str, Any] | None = None,
                             config: Mapping[str, Any] | None = None, **words: Any) -> dict[str, Any]:
        """Start a watcher (no strategy) or one of Gekko's strategies on live candles, with a paper trader.

        `parameters` is the strategy's own section, such as {"short": 10, …}. `words`: candle_size (minutes), history
        (candles to warm up with), since, asset and currency (what the portfolio begins with), fee (percent), `replay`
        ({"speed", "start", "end"}: play the stored candles; speed 0 is as fast as it goes), trade="real" with
        max_order_value and max_daily_loss. `config` takes the place of all others: a whole configuration of Gekko's.
        Raises `Invalid` naming what is wrong.
        """
        if config is not None:
            body: dict[str, Any] = {"config": dict(config)}
        else:
            body = {"market": market, "strategy": strategy, "parameters": dict(parameters or {}), **words}
        return await self._http.json("POST", INSTANCES, json=body)

    async def stop_instance(self, instance_id: str) -> dict[str, Any]:
        """Stop a live instance; it stays in the list. Raises `Conflict` when it is not live."""
        return await self._http.json("POST", f"{_path(instance_id)}/stop")

    async def delete_instance(self, instance_id: str) -> None:
        """Remove an instance that is not live; what it traded stays with its model."""
        await self._http.json("DELETE", _path(instance_id))

    async def halt_trading(self) -> list[str]:
        """Stop every trade bot with real orders, at once; the ids of those that were stopped."""
        return (await self._http.json("POST", f"{INSTANCES}/halt"))["stopped"]

    async def instance_events(self, instance_id: str, *, after: int = 0, limit: int = 1000,
                              types: Sequence[str] = ()) -> list[Event]:
        """What an instance said, after the given number; only of `types` (candle, advice, tradeCompleted …)."""
        params = {"after": after, "limit": limit, "type": list(types)}
        data = await self._http.json("GET", f"{_path(instance_id)}/events", params=params)
        return [event_of(entry) for entry in data["items"]]

    def follow_instance(self, instance_id: str, *, after: int = 0, patience: float | None = None,
                        watcher: Watcher | None = None) -> AsyncIterator[Event]:
        """What an instance says, as it says it, across lost connections; ends when it is archived.

        Types are Gekko's (candle, stratUpdate, advice, tradeCompleted …, with {"payload"}) and created, stopped,
        failed, archived."""
        return aiter(Feed(f"{self._http.url}{_path(instance_id)}/stream", headers=self._http.headers, after=after,
                          patience=patience, watcher=watcher))


def _path(instance_id: str) -> str:
    if not instance_id:
        raise errors.Invalid("no instance was named", field="id")
    return f"{INSTANCES}/{quote(instance_id, safe='')}"
