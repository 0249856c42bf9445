"""Live instances and imports as notebooks see them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engine.model import Event, Market
from workbench.client import AsyncClient, When
from workbench.loop import LoopThread
from workbench.progress import progress_for

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InstanceTables", "LiveInstance"]


class InstanceTables:
    """The part of `Client` that is about live instances, imports and exchanges."""

    asynchronous: AsyncClient
    _loop: LoopThread

    def instances(self, *, state: str | None = None, kind: str | None = None) -> "pd.DataFrame":
        """Watchers, paper traders and trade bots as a table, newest first; `state` is live, stopped or failed."""
        columns = ["id", "kind", "state", "market", "strategy", "started_at", "ended_at", "balance", "trades", "error"]
        return _table(self._loop.call(self.asynchronous.instances(state=state, kind=kind)), columns)

    def instance(self, id: str) -> "LiveInstance":
        """One instance; raises `NotFound`."""
        self._loop.call(self.asynchronous.instance(id))
        return LiveInstance(self, id)

    def start_instance(self, market: str = "", strategy: str = "", *, parameters: Mapping[str, Any] | None = None,
                       config: Mapping[str, Any] | None = None, **words: Any) -> "LiveInstance":
        """Start a watcher, or a strategy with a paper trader; words as of `AsyncClient.start_instance`:

        `client.start_instance("demo:WALK/USD", "MACD", parameters={…}, candle_size=5, replay={"speed": 600})`.
        """
        begun = self._loop.call(self.asynchronous.start_instance(
            market, strategy, parameters=parameters, config=config, **words))
        return LiveInstance(self, begun["id"])

    def stop_instance(self, id: str) -> None:
        """Stop a live instance; it stays in the list."""
        self._loop.call(self.asynchronous.stop_instance(id))

    def delete_instance(self, id: str) -> None:
        """Remove an instance that is not live; what it traded stays with its model."""
        self._loop.call(self.asynchronous.delete_instance(id))

    def follow_instance(self, id: str, *, after: int = 0) -> Iterator[Event]:
        """What an instance says, as it says it; ends when it is archived."""
        return self._loop.iterate(self.asynchronous.follow_instance(id, after=after))

    def halt_trading(self) -> list[str]:
        """Stop every trade bot with real orders, at once; the ids of those that were stopped."""
        return self._loop.call(self.asynchronous.halt_trading())

    def imports(self, **filters: Any) -> "pd.DataFrame":
        """Imports as a table, newest first; filters as of `AsyncClient.imports`."""
        columns = ["id", "market", "state", "progress", "start", "end", "position", "added", "missing", "error"]
        return _table(self._loop.call(self.asynchronous.imports(**filters)), columns)

    def start_import(self, market: str | Market, start: When, end: When = None, *, wait: bool = False,
                     progress: bool | None = None) -> dict[str, Any]:
        """Fetch minutes of a market from its exchange, from `start` to before `end` (None: now). With `wait` it shows
        progress and returns when the import is over."""
        made = self._loop.call(self.asynchronous.start_import(market, start, end))
        if not wait:
            return made
        bar = progress_for(f"import of {made['market']}", progress)
        for event in self._loop.iterate(self.asynchronous.follow_import(made["id"])):
            facts = event.data.get("import") or {}
            bar.update(float(facts.get("progress") or 0.0), str(facts.get("position") or ""))
            if event.data.get("state") in ("completed", "failed", "cancelled"):
                bar.close(str(event.data["state"]))
                break
        return self._loop.call(self.asynchronous.import_(made["id"]))

    def cancel_import(self, id: str) -> dict[str, Any]:
        """Stop an import; what it stored stays."""
        return self._loop.call(self.asynchronous.cancel_import(id))

    def resume_import(self, id: str) -> dict[str, Any]:
        """Go on with an import that was cancelled or failed."""
        return self._loop.call(self.asynchronous.resume_import(id))

    def exchanges(self) -> "pd.DataFrame":
        """The exchanges: name, how many markets are known, history, trading, what a key consists of."""
        rows = [{"exchange": each["slug"], "name": each["name"], "markets": len(each["markets"]),
                 "history": bool(each["providesFullHistory"]), "tradable": each["tradable"],
                 "key": ", ".join(each["requires"])} for each in self._loop.call(self.asynchronous.exchanges())]
        return _table(rows, ["exchange", "name", "markets", "history", "tradable", "key"])

    def exchange_keys(self) -> list[str]:
        """The exchanges for which a key is stored. Nothing tells a key itself."""
        return self._loop.call(self.asynchronous.exchange_keys())


class LiveInstance:
    """One instance, asked of the server at each call."""

    def __init__(self, client: InstanceTables, id: str) -> None:
        self._client, self.id = client, id

    def __repr__(self) -> str:
        return f"<instance {self.id!r}>"

    @property
    def data(self) -> dict[str, Any]:
        """Everything, as it is now: state, config, newest candle and advice, portfolio, report, lists."""
        return self._client._loop.call(self._client.asynchronous.instance(self.id))

    @property
    def state(self) -> str:
        """live, stopped or failed."""
        return str(self.data["state"])

    def _list(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(self.data["lists"].get(name, []))

    @property
    def advices(self) -> "pd.DataFrame":
        """All advices so far."""
        return self._list("advice")

    @property
    def trades(self) -> "pd.DataFrame":
        """All trades so far."""
        return self._list("tradeCompleted")

    @property
    def roundtrips(self) -> "pd.DataFrame":
        """All closed roundtrips so far."""
        return self._list("roundtrip")

    def follow(self, after: int = 0) -> Iterator[Event]:
        """What it says, as it says it; ends when it is archived."""
        return self._client.follow_instance(self.id, after=after)

    def stop(self) -> None:
        """End it; it stays in the list."""
        self._client.stop_instance(self.id)

    def delete(self) -> None:
        """Remove it from the list; what it traded stays with its model."""
        self._client.delete_instance(self.id)


def _table(rows: Any, columns: list[str]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows), columns=columns).set_index(columns[0])
