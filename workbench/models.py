"""Models as notebooks see them: tables one call away."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.activity import Model
from engine.model import Event
from workbench.client import AsyncClient
from workbench.client_deployments import ModelDeployment
from workbench.loop import LoopThread

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LiveModel", "ModelTables"]


class ModelTables:
    """The part of `Client` that is about models."""

    asynchronous: AsyncClient
    _loop: LoopThread

    def models(self, *, limit: int = 1000, **filters: Any) -> "pd.DataFrame":
        """The models as a table; filters as in `AsyncClient.models`: project, running, symbol, text, sort …"""
        async def collect() -> list[Model]:
            found: list[Model] = []
            cursor: str | None = None
            while len(found) < limit:
                page = await self.asynchronous.models(limit=min(limit - len(found), 1000), cursor=cursor, **filters)
                found += page.items
                cursor = page.next
                if cursor is None:
                    break
            return found

        columns = ["id", "name", "project", "running", "message", "heard_at", "orders", "errors", "last_error",
                   "symbols", "exchanges", "dialect", "kind", "created_at"]
        return _table((asdict(model) for model in self._loop.call(collect())), columns, "id")

    def model(self, id: str) -> "LiveModel":
        """One model; raises `NotFound`."""
        return LiveModel(self, self._loop.call(self.asynchronous.model(id)))

    def create_model(self, name: str, **words: Any) -> "LiveModel":
        """Make a model; words as of `AsyncClient.create_model`."""
        return LiveModel(self, self._loop.call(self.asynchronous.create_model(name, **words)))

    def create_key(self, *, model: str = "", project: str = "", name: str = "") -> dict[str, Any]:
        """Make a key with which bots report; its secret is in the answer and never shown again."""
        return self._loop.call(self.asynchronous.create_key(model=model, project=project, name=name))


class LiveModel(ModelDeployment):
    """One model: what it is (`data`), what it did and how it fares, asked of the server at each call."""

    def __init__(self, client: ModelTables, data: Model) -> None:
        self._client = client
        self._data = data

    def __repr__(self) -> str:
        state = {True: "running", False: "stopped", None: "state unknown"}[self._data.running]
        return f"<model {self._data.id!r} {self._data.name!r}, {state}, {self._data.orders} orders>"

    @property
    def id(self) -> str:
        """The model's identity."""
        return self._data.id

    @property
    def data(self) -> Model:
        """The whole record, as it is now."""
        self._data = self._client._loop.call(self._client.asynchronous.model(self.id))
        return self._data

    def _call(self, work: Any) -> Any:
        return self._client._loop.call(work)

    @property
    def _ask(self) -> AsyncClient:
        return self._client.asynchronous

    def orders(self, *, limit: int = 1000, **filters: Any) -> "pd.DataFrame":
        """The newest orders as a table; filters as in `AsyncClient.orders`: symbol, side, status, traded, start …"""
        async def collect() -> list[Any]:
            found: list[Any] = []
            cursor: str | None = None
            while len(found) < limit:
                page = await self._ask.orders(self.id, limit=min(limit - len(found), 1000), cursor=cursor, **filters)
                found += page.items
                cursor = page.next
                if cursor is None:
                    break
            return found

        columns = ["at", "id", "symbol", "side", "kind", "size", "funds", "price", "filled", "status", "fee",
                   "fee_currency", "exchange", "annotation", "received_at"]
        return _table((asdict(order) for order in self._call(collect())), columns, "at")

    def trades(self, **filters: Any) -> "pd.DataFrame":
        """The orders of which something was traded."""
        return self.orders(traded=True, **filters)

    def logs(self, tail: int = 200, **filters: Any) -> "pd.DataFrame":
        """The end of the output as a table; `types=["stderr"]`, `text="refused"` narrow it."""
        page = self._call(self._ask.logs(self.id, tail=tail, **filters))
        return _table(map(asdict, page.items), ["seq", "at", "type", "line", "received_at"], "seq")

    def calls(self, tail: int = 200, **filters: Any) -> "pd.DataFrame":
        """The latest function calls with arguments and responses."""
        page = self._call(self._ask.calls(self.id, tail=tail, **filters))
        return _table(map(asdict, page.items), ["seq", "at", "type", "args", "response", "annotation"], "seq")

    def positions(self, **params: Any) -> dict[str, Any]:
        """Positions by symbol with realised and unrealised profit."""
        return self._call(self._ask.positions(self.id, **params))

    def pnl(self, **params: Any) -> dict[str, Any]:
        """Profit: totals by currency and symbol."""
        return self._call(self._ask.pnl(self.id, **params))

    def equity(self, **params: Any) -> dict[str, Any]:
        """The equity curve."""
        return self._call(self._ask.equity(self.id, **params))

    def metrics(self, **params: Any) -> dict[str, Any]:
        """The figures that backtests have too, and those that the model reported of itself."""
        return self._call(self._ask.model_metrics(self.id, **params))

    def match(self, **params: Any) -> dict[str, Any]:
        """Its trades beside those of a backtest."""
        return self._call(self._ask.match(self.id, **params))

    def export(self, noun: str, format: str = "csv") -> bytes:
        """Orders, trades, logs, calls, screener or events as the bytes of a file: csv or parquet."""
        return self._call(self._ask.export(self.id, noun, format))

    def follow(self, after: int = 0) -> Iterator[Event]:
        """What it does, as it happens; never ends by itself."""
        return self._client._loop.iterate(self._ask.follow_model(self.id, after))

    def live(self, *, look: str | None = None) -> Any:
        """Its page as a Panel view for a notebook cell. What it shows goes on while the kernel is free; after a long
        cell it catches up."""
        import panel as pn

        from workbench.views.model_live import ModelLive

        if not pn.extension._loaded:
            pn.extension("tabulator", inline=True)
        view = ModelLive(self._ask, self.id, look=look)
        self._call(view.load())
        view.go_on()
        return view

    def rename(self, name: str, description: str | None = None) -> "LiveModel":
        """Call it something else."""
        self._data = self._call(self._ask.rename_model(self.id, name=name, description=description))
        return self

    def delete(self) -> None:
        """Remove it with everything it reported."""
        self._call(self._ask.delete_model(self.id))


def _table(rows: Any, columns: list[str], index: str) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows), columns=columns).set_index(index)
