"""Live against backtest: the same strategy on the same window, trade by trade."""

import asyncio
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
import panel as pn

from engine import times
from engine.errors import Conflict, WorkbenchError
from engine.model import FINISHED
from engine.plots import live as pictures
from engine.plots.render import draw
from engine.plots.style import Style, stamps
from workbench import cards
from workbench.client import AsyncClient
from workbench.views.base import explained
from workbench.views.drawing import beside
from workbench.views.live_rows import LiveRows, words
from workbench.views.model_symbols import fits

COLUMNS: Final = [
    {"key": "result", "title": "Match", "kind": "state"}, {"key": "at", "title": "Live (UTC)", "kind": "time"},
    {"key": "symbol", "title": "Symbol", "kind": "text"}, {"key": "side", "title": "Side", "kind": "side"},
    {"key": "price", "title": "Live price", "kind": "number"},
    {"key": "other_at", "title": "Backtest (UTC)", "kind": "time"},
    {"key": "other_price", "title": "Backtest price", "kind": "number"},
    {"key": "delay", "title": "Later by (s)", "kind": "number", "digits": 1},
    {"key": "slip", "title": "Price difference", "kind": "percent"}]


class Match:
    """The tab that compares. `view` is its layout."""

    def __init__(self, client: AsyncClient, model: str, look: Style) -> None:
        self._client, self._model, self._look = client, model, look
        self._runs = pn.widgets.Select(label="Backtest", options={}, width=420, margin=0)
        self._go = pn.widgets.Button(label="Compare", color="primary", width=110, margin=0, disabled=True)
        self._go.on_click(self._compared)
        self._strategy = pn.widgets.Select(label="Strategy", options={}, width=200, margin=0)
        self._market = pn.widgets.Select(label="Candles", options={}, width=260, margin=0)
        self._start = pn.widgets.Button(label="Run on the live window", width=190, margin=0, disabled=True)
        self._start.on_click(self._started)
        self._said = words("", look)
        self._tiles = words("", look)
        self._chart = pn.Column(sizing_mode="stretch_width", margin=0)
        self._trades = LiveRows(look, columns=COLUMNS, caption="Trades, live and in the backtest", page=100,
                                most=10_000, sortable=True, placeholder="Choose a backtest above.", typed=True)
        self.view = pn.Column(
            words("<h2>Live against a backtest</h2><p class=\"muted\">Choose a completed backtest of the same strategy "
                  "over the time in which this model traded, or start one.</p>", look),
            pn.FlexBox(self._runs, self._go, gap="8px", align_items="flex-end", margin=0, sizing_mode="stretch_width"),
            pn.FlexBox(self._strategy, self._market, self._start, gap="8px", align_items="flex-end", margin=0,
                       sizing_mode="stretch_width"),
            self._said, self._tiles, self._chart, self._trades, sizing_mode="stretch_width", margin=0,
            styles={"gap": "12px"})

    async def load(self) -> None:
        """The backtests that could be compared, and what one can be started with."""
        await self._list()
        traded, stored, strategies = await asyncio.gather(
            self._client.positions(self._model), self._client.markets(), self._client.strategies())
        symbols = {str(entry["symbol"]) for entry in traded["items"]}
        self._strategy.options = {str(entry["title"]): str(entry["name"]) for entry in strategies}
        fitting = [entry for entry in stored if any(fits(symbol, entry) for symbol in symbols)]
        self._market.options = {f"{entry['market']}, {entry['resolution']}": (entry["market"], entry["resolution"])
                                for entry in fitting}
        self._start.disabled = not (fitting and strategies)
        if not fitting and not self._runs.options:
            self._say("No candles of what this model trades are stored. <a href=\"/markets\">Import some</a>, then a "
                      "backtest can be run on the time in which it traded.")

    def _say(self, text: str) -> None:
        self._said.object = f'<p class="empty" role="status">{text}</p>' if text else ""

    async def _started(self, _event: Any) -> None:
        self._start.disabled = True
        self._say("The backtest runs …")
        market, resolution = self._market.value
        try:
            begun = await self._client.match_backtest(self._model, {
                "strategy": self._strategy.value, "markets": [market], "resolution": resolution})
            async for event in self._client.follow(str(begun["id"])):
                if event.type == "state" and event.data.get("state") in FINISHED:
                    break
            run = await self._client.run(str(begun["id"]))
            if run.state != "completed":
                raise Conflict(run.error or f"the backtest was {run.state}")
            await self._list()
            self._runs.value = run.id
            await self.compare(run.id)
        except WorkbenchError as error:
            self._said.object = f'<div class="error" role="alert">{explained(error)}</div>'
        finally:
            self._start.disabled = False

    async def _list(self) -> None:
        page = await self._client.runs(states=["completed"], limit=200)
        runs = [run for run in page.items if run.kind == "backtest"]
        self._runs.options = {f"{cards.title_of(run)} · {cards.span_of(run)} · {run.id[-6:]}": run.id for run in runs}
        self._go.disabled = not runs

    async def _compared(self, _event: Any) -> None:
        self._go.disabled = True
        self._said.object = '<p class="muted" role="status">Comparing …</p>'
        try:
            await self.compare(str(self._runs.value))
        except WorkbenchError as error:
            self._said.object = f'<div class="error" role="alert">{explained(error)}</div>'
        finally:
            self._go.disabled = False

    async def compare(self, run_id: str) -> None:
        """Show the model beside this run."""
        told = await self._client.match(self._model, run=run_id)
        self._said.object = ""
        self._tiles.object = tiles(told)
        self._trades.reset(rows(told))
        live, backtest = (curve(told.get(name) or {}) for name in ("live", "backtest"))
        if len(live["time"]) > 1 or len(backtest["time"]) > 1:
            drawing = await beside(None, lambda: draw(pictures.against(live, backtest, self._look), self._look))
            self._chart[:] = [pn.pane.Bokeh(drawing.figure, sizing_mode="stretch_width", margin=0)]
        else:
            self._chart[:] = [words('<p class="empty">There are no two curves to lay over each other.</p>',
                                          self._look)]


def curve(columns: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """A curve of the answer as columns of the chart."""
    time = [times.micros(times.parse(at)) if isinstance(at, str) else int(at) for at in columns.get("time", ())]
    return {"time": stamps(np.array(time, np.int64)),
            "value": np.array([np.nan if each is None else each for each in columns.get("value", ())], float)}


def tiles(told: Mapping[str, Any]) -> str:
    """How well the two agree, in figures."""
    found = [("Match rate", cards.number(told.get("match_rate"), "percent")),
             ("Matched", f"{told.get('matched', 0):,}"), ("Only live", f"{told.get('only_live', 0):,}"),
             ("Only in the backtest", f"{told.get('only_backtest', 0):,}"),
             ("Median price difference", cards.number(told.get("median_price_difference"), "percent")),
             ("Median delay", f"{cards.number(told.get('median_delay'))} s")]
    return '<div class="tiles">' + "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in found) + "</div>"


_RESULTS: Final = {"matched": ("matched", "good"), "only_live": ("only live", "bad"),
                   "only_backtest": ("only in the backtest", "idle")}


def rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trades of both, as rows."""
    found = []
    for number, pair in enumerate(told.get("trades") or ()):
        live, other = pair.get("live") or {}, pair.get("backtest") or {}
        result = "matched" if live and other else "only_live" if live else "only_backtest"
        found.append({
            "id": str(number), "result": list(_RESULTS[result]), "type": _RESULTS[result][0],
            "at": _millis(live.get("time")), "other_at": _millis(other.get("time")),
            "symbol": (live or other).get("symbol"), "side": (live or other).get("side"),
            "price": live.get("price"), "other_price": other.get("price"), "delay": pair.get("delay"),
            "slip": pair.get("price_difference")})
    return found


def _millis(at: Any) -> float | None:
    return None if at is None else (times.micros(times.parse(at)) if isinstance(at, str) else at) / 1000
