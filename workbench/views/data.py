"""What a view reads of a run: one protocol, and the ways to meet it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from engine import analysis
from engine.errors import NotFound
from engine.model import Run
from engine.result import TABLES, BacktestResult

Columns = dict[str, np.ndarray]
_LINES = 500
_MOST_PAGES = 50


@runtime_checkable
class RunData(Protocol):
    """A finished run.

    `run` is the record (`engine.model.Run` or its JSON), or None when there is none. `summary` is
    `BacktestResult.summary()`. `table` answers columns as `engine.result.TABLES` describes them, and "candles" (time,
    open, high, low, close, volume) of one symbol; it may also answer an awaitable of them. `start` and `end` are
    integer microseconds, inclusive. `points` asks for about that many rows for drawing: lines keep their extremes,
    candles are joined (open of the first, highest high, lowest low, close of the last, summed volume, and `last` =
    the open time of the last candle inside).
    """

    run: Any
    summary: Mapping[str, Any]

    def table(self, name: str, *, points: int | None = None, start: int | None = None, end: int | None = None,
              symbol: str | None = None) -> Columns | Awaitable[Columns]: ...


class LocalRun:
    """A result in this process, with its candles by market key when they are at hand."""

    def __init__(self, result: BacktestResult, candles: Mapping[str, Mapping[str, np.ndarray]] | None = None,
                 run: Run | Mapping[str, Any] | None = None) -> None:
        self.run = run
        self.summary: Mapping[str, Any] = result.summary()
        self._tables = result.tables
        self._candles = candles or {}

    def table(self, name: str, *, points: int | None = None, start: int | None = None, end: int | None = None,
              symbol: str | None = None) -> Columns:
        """See `RunData.table`. Raises `NotFound` for an unknown table or candles that are not at hand."""
        if name == "candles":
            key = symbol or next(iter(self._candles), None)
            if key is None or key not in self._candles:
                raise NotFound(f"there are no candles of {key} with this result", field="symbol")
            part = analysis.between(self._candles[key], start, end)
            return analysis.aggregate_candles(part, points) if points else part
        if name not in self._tables:
            raise NotFound(f"this run has no table {name!r}", field="name", remedy="tables are " + ", ".join(TABLES))
        columns = dict(self._tables[name])
        if symbol is not None and "symbol" in columns:
            keep = np.asarray(columns["symbol"]) == symbol
            columns = {key: values[keep] for key, values in columns.items()}
        if "time" in columns:
            columns = analysis.between(columns, start, end)
        if points and name == "equity" and len(columns["time"]) > points:
            rows = analysis.downsample(columns["time"], columns["value"], points)
            columns = {key: values[rows] for key, values in columns.items()}
        return columns


class ClientRun:
    """A run on a server. Without `call` the answers are awaitables for the caller's loop (pages); with it, `call`
    runs each coroutine to its end and answers at once (notebooks, whose client lives on a loop of its own)."""

    def __init__(self, client: Any, run_id: str, call: Callable[[Awaitable[Any]], Any] | None = None) -> None:
        self.id = run_id
        self.run: Any = None
        self.summary: Mapping[str, Any] = {}
        self._client, self._call = client, call

    def load(self) -> Any:
        """Fetch the record and the summary; an awaitable unless made with `call`."""
        return self._answer(self._load())

    async def _load(self) -> None:
        if not self.summary:
            self.run = await self._client.run(self.id)
            self.summary = await self._client.result(self.id)
            if self.summary.get("spec", {}).get("fill_model") == "reported" and not self.summary.get("logs"):
                self.summary = {**self.summary, "logs": await self._output()}

    async def _output(self) -> list[str]:
        """What a model printed in its backtest: the last lines, which are events of its run."""
        lines: list[str] = []
        after = 0
        for _ in range(_MOST_PAGES):
            page = await self._client.events(self.id, after=after)
            for event in page:
                if event.type == "log":
                    mark = "" if event.data.get("type") == "stdout" else f"[{event.data.get('type')}] "
                    lines.append(f"{mark}{event.data.get('message', '')}")
            del lines[:-_LINES]
            if len(page) < 1000:
                return lines
            after = page[-1].seq
        return [*lines, "… the rest is in the run's events"]

    def table(self, name: str, *, points: int | None = None, start: int | None = None, end: int | None = None,
              symbol: str | None = None) -> Any:
        """See `RunData.table`."""
        return self._answer(self._table(name, points, start, end, symbol))

    async def _table(self, name: str, points: int | None, start: int | None, end: int | None, symbol: str | None
                     ) -> Columns:
        return dict(await self._client.table(self.id, name, symbol=symbol, start=start, end=end, points=points))

    def _answer(self, work: Awaitable[Any]) -> Any:
        return self._call(work) if self._call else work


def run_data(source: Any, run_id: str | None = None) -> RunData:
    """The run behind what a caller has: run data as it is, a result, a client and a run's id, or a notebook's run."""
    if isinstance(source, BacktestResult):
        return LocalRun(source)
    if run_id is not None:
        return ClientRun(source, run_id)
    client = getattr(source, "_client", None)
    if client is not None and hasattr(client, "asynchronous"):
        return ClientRun(client.asynchronous, source.id, client._loop.call)
    return source


def waits(data: RunData) -> bool:
    """Whether the data must be awaited."""
    if isinstance(data, ClientRun):
        return data._call is None
    return inspect.iscoroutinefunction(data.table)


class Cache:
    """A run's data, each whole table fetched once."""

    def __init__(self, data: RunData) -> None:
        self.data = data
        self._tables: dict[str, Columns] = {}

    async def load(self) -> None:
        """Fetch what comes before any table."""
        load = getattr(self.data, "load", None)
        if load is not None:
            await settled(load())

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.data.summary

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.data.summary.get("spec", {})

    @property
    def metrics(self) -> Mapping[str, float | None]:
        return self.data.summary.get("metrics", {})

    @property
    def currency(self) -> str:
        return str(self.spec.get("currency", ""))

    @property
    def cash(self) -> float | None:
        """What the portfolio began with, None when the spec does not say."""
        return self.spec.get("cash")

    @property
    def periods_per_year(self) -> float:
        """Daily returns in a year, as the run was annualised; 252 when it does not say."""
        return float(self.metrics.get("periods_per_year") or 252.0)

    async def table(self, name: str) -> Columns:
        """A whole table; empty columns when the run has none of that name."""
        if name not in self._tables:
            try:
                self._tables[name] = dict(await settled(self.data.table(name)))
            except NotFound:
                self._tables[name] = {key: np.empty(0) for key in TABLES.get(name, ())}
        return self._tables[name]

    async def part(self, name: str, **options: Any) -> Columns:
        """A part of a table, not kept."""
        return await settled(self.data.table(name, **options))


async def settled(value: Any) -> Any:
    """The value, awaited if it has to be."""
    return await value if inspect.isawaitable(value) else value


def begin(data: RunData, work: Callable[[], Any]) -> None:
    """Do a coroutine function's work on behalf of a widget: at once for data at hand, else on the page's loop."""
    if waits(data):
        import panel as pn

        pn.state.execute(work)
    else:
        drive(work())


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never has to wait, without a loop; raises RuntimeError when it does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("this data has to be awaited; use the async form")
