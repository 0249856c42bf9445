"""Candles with fills, trades and indicators that stay fluid at any length: only what is visible is ever sent."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from bokeh.layouts import column

from engine import analysis, times
from engine.errors import Invalid, NotFound
from engine.plots import candles as pictures
from engine.plots.render import Drawing, draw, hide_x, link, span_of
from engine.plots.style import Style
from workbench.views.data import Cache
from workbench.views.drawing import beside
from workbench.views.zoom import Zoom

FIRST_BARS = 350
"""Candles in the first view."""


class CandleChart:
    """One market of a run. `model` is the Bokeh layout, None without candles; `message` says what is shown."""

    def __init__(self, cache: Cache, symbol: str, look: Style, tables: Mapping[str, analysis.Columns]) -> None:
        self.symbol, self._cache, self._look = symbol, cache, look
        self._resolution = times.resolution(cache.spec.get("resolution", "1d"))
        self._fills = _of(symbol, tables["fills"], "symbol")
        self._trips = _of(symbol, tables["roundtrips"], "symbol")
        self._indicators = _of(symbol, tables["indicators"], "symbol")
        self._bounds = (0, 0)
        self._drawings: dict[str, Drawing] = {}
        self.model: Any = None
        self.zoom: Zoom | None = None
        self.message = ""
        self.heard: Callable[[], None] = lambda: None  # called when `message` may have changed

    @classmethod
    async def make(cls, cache: Cache, symbol: str, look: Style, *, live: bool = True) -> "CandleChart":
        """The chart of a market at the end of its range."""
        chart = cls(
            cache, symbol, look, {name: await cache.table(name) for name in ("fills", "roundtrips", "indicators")}
        )
        try:
            whole = await cache.part("candles", symbol=symbol, points=FIRST_BARS)
        except (NotFound, Invalid) as error:
            chart.message = str(error)
            return chart
        if not len(whole["time"]):
            chart.message = f"there are no candles of {symbol} in the run's range"
            return chart
        step = chart._resolution * times.SECOND
        chart._bounds = (int(whole["time"][0]) - step, int(whole.get("last", whole["time"])[-1]) + step)
        await beside(cache.data, chart._draw, whole, live)
        assert chart.zoom is not None
        await chart.zoom.now()
        return chart

    def _draw(self, candles: analysis.Columns, live: bool) -> None:
        look = self._look
        boxes = pictures.boxes(candles, self._resolution, look)
        panels = self._panels(candles)
        on_price = {name: self._line(name, None, None) for name, panel in panels.items() if panel == "price"}
        below = {name: self._line(name, None, None) for name, panel in panels.items() if panel != "price"}
        currency = self.symbol.rpartition("/")[2] if "/" in self.symbol else self._cache.currency
        self._drawings = {
            "price": draw(pictures.price(boxes, look, on_price, currency=currency), look),
            "volume": draw(pictures.volume(boxes, look), look),
        }
        if below:
            self._drawings["lines"] = draw(pictures.lines(below, look), look)
        figures = [drawing.figure for drawing in self._drawings.values()]
        link(figures, crosshair=look.muted)
        hide_x(figures[:-1])
        low, high = self._bounds
        axis = figures[0].x_range
        axis.update(start=low / 1000, end=high / 1000, reset_start=low / 1000, reset_end=high / 1000)
        axis.bounds = (low / 1000 - (high - low) / 5000, high / 1000 + (high - low) / 5000)
        axis.min_interval = self._resolution * 5000.0
        self.zoom = Zoom(figures[0], self._refresh, live=live)
        self.model = column(*figures, sizing_mode="stretch_width", spacing=0)

    def _panels(self, candles: analysis.Columns) -> dict[str, str]:
        """Which panel each indicator column belongs to, as the strategy says; else by whether it looks like a price."""
        from engine import strategies

        try:
            said = {
                entry.name: entry.panel for entry in strategies.get(str(self._cache.spec.get("strategy"))).indicators
            }
        except (Invalid, NotFound):
            said = {}
        low, high = float(np.nanmin(candles["low"])), float(np.nanmax(candles["high"]))
        panels: dict[str, str] = {}
        for name, values in self._indicators.items():
            if name in ("time", "symbol") or not len(values):
                continue
            finite = np.asarray(values, float)[np.isfinite(np.asarray(values, float))]
            if len(finite):
                like_price = low * 0.5 <= float(np.median(finite)) <= high * 2
                panels[name] = said.get(name) or ("price" if like_price else "own")
        return panels

    def _line(self, name: str, start: int | None, end: int | None) -> dict[str, np.ndarray]:
        part = analysis.between({"time": self._indicators["time"], "figure": self._indicators[name]}, start, end)
        rows = analysis.downsample(part["time"], np.asarray(part["figure"], float), pictures.POINTS)
        return {"time": part["time"][rows], "figure": np.asarray(part["figure"], float)[rows]}

    async def _refresh(self, start: int, end: int) -> None:
        margin = (end - start) // 4
        first, last = start - margin, end + margin
        candles = await self._cache.part("candles", symbol=self.symbol, start=first, end=last, points=pictures.BARS)
        if not len(candles["time"]):
            return
        price, look = self._drawings["price"], self._look
        boxes = pictures.boxes(candles, self._resolution, look)
        for label in ("wicks", "bodies"):
            price.fill(label, boxes)
        self._drawings["volume"].fill("volume", pictures.volumes(boxes))
        fills = analysis.between(self._fills, first, last)
        for label, columns in pictures.marks(fills, look).items():
            price.fill(label, columns)
        touching = (self._trips["entry_time"] <= last) & (self._trips["exit_time"] >= first)
        trips = {name: values[touching] for name, values in self._trips.items()}
        price.fill("trades", pictures.trades(trips, look))
        drawn: dict[str, list[np.ndarray]] = {"price": [], "lines": []}
        for which, drawing in self._drawings.items():
            for label in drawing.sources:
                if which != "volume" and label not in pictures.FIXED:
                    line = self._line(label, first, last)
                    drawing.fill(label, {"time": pictures.stamps(line["time"]), "figure": line["figure"]})
                    seen = analysis.between(line, start, end)["figure"]
                    drawn[which].append(seen)
        self._fit(candles, start, end, drawn)
        self._say(candles, len(fills["time"]), len(trips["pnl"]))

    def _fit(self, candles: analysis.Columns, start: int, end: int, drawn: dict[str, list[np.ndarray]]) -> None:
        """Value axes to what is visible; volume from zero."""
        seen = analysis.between({name: candles[name] for name in ("time", "low", "high", "volume")}, start, end)
        for which, values in (("price", [seen["low"], seen["high"], *drawn["price"]]), ("lines", drawn["lines"])):
            fit = span_of(values)
            if which in self._drawings and fit is not None:
                self._drawings[which].figure.y_range.update(start=fit[0], end=fit[1])
        if len(seen["volume"]):
            top = float(np.nanmax(seen["volume"])) * 1.1
            self._drawings["volume"].figure.y_range.update(start=0, end=top if top > 0 else 1)

    def _say(self, candles: analysis.Columns, fills: int, trips: int) -> None:
        joined = (
            int(np.max(candles.get("last", candles["time"]) - candles["time"])) // (self._resolution * times.SECOND) + 1
        )
        parts = [f"each candle joins up to {joined} bars; zoom in for single ones"] if joined > 1 else []
        if fills > pictures.MARKS or trips > pictures.MARKS:
            parts.append(f"{pictures.MARKS:,} of {max(fills, trips):,} fills and trades are drawn; zoom in for all")
        self.message = "; ".join(parts)
        self.heard()

    async def focus(self, entry: int, exit: int, columns: Mapping[str, Any]) -> None:
        """Show one trade with room around it and light it up. `columns` has entry_price, exit_price and pnl."""
        if self.zoom is None:
            return
        room = max(int((exit - entry) * 0.75), 25 * self._resolution * times.SECOND)
        one = {
            "entry_time": np.array([entry]),
            "exit_time": np.array([exit]),
            "entry_price": np.array([columns["entry_price"]]),
            "exit_price": np.array([columns["exit_price"]]),
            "pnl": np.array([columns["pnl"]]),
        }
        light = pictures.trades(one, self._look)
        await self.zoom.show(entry - room, exit + room, lambda: self._drawings["price"].fill("focus", light))

    async def whole(self) -> None:
        """Show the whole range and put the light out."""
        if self.zoom is not None:
            dark = pictures.no_trades(self._look)
            await self.zoom.show(*self._bounds, lambda: self._drawings["price"].fill("focus", dark))


def _of(symbol: str, table: analysis.Columns, column: str) -> dict[str, np.ndarray]:
    """The rows of one market."""
    keep = np.asarray(table[column]) == symbol if len(table[column]) else np.zeros(0, bool)
    return {name: np.asarray(values)[keep] for name, values in table.items()}
