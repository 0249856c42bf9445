"""Stored candles as candles: joined from afar, single ones after zooming in."""

from typing import Any

import numpy as np
from bokeh.layouts import column

from engine import analysis, times
from engine.plots import candles as pictures
from engine.plots.render import Drawing, draw, hide_x, link, span_of
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.drawing import beside
from workbench.views.zoom import Zoom

FIRST_BARS = 350


class MarketChart:
    """A dataset's candles and volume. `model` is the Bokeh layout; zooming fetches what is seen."""

    def __init__(self, client: AsyncClient, market: str, resolution: str, look: Style) -> None:
        self._client, self._market, self._name, self._look = client, market, resolution, look
        self._seconds = times.resolution(resolution)
        self._drawings: dict[str, Drawing] = {}
        self.model: Any = None
        self.zoom: Zoom | None = None

    @classmethod
    async def make(cls, client: AsyncClient, market: str, resolution: str, look: Style) -> "MarketChart":
        """The chart of the whole dataset. Raises `NotFound` for a market that is not stored."""
        chart = cls(client, market, resolution, look)
        whole = await client.candles(market, resolution, points=FIRST_BARS)
        await beside(None, chart._draw, whole)
        assert chart.zoom is not None
        await chart.zoom.now()
        return chart

    def _draw(self, candles: analysis.Columns) -> None:
        boxes = pictures.boxes(candles, self._seconds, self._look)
        currency = self._market.rpartition("/")[2]
        self._drawings = {
            "price": draw(pictures.price(boxes, self._look, {}, currency=currency, height=320), self._look),
            "volume": draw(pictures.volume(boxes, self._look), self._look)}
        figures = [drawing.figure for drawing in self._drawings.values()]
        link(figures, crosshair=self._look.muted)
        hide_x(figures[:-1])
        for legend in figures[0].legend:
            legend.visible = False
        step = self._seconds * 1000
        low, high = int(candles["time"][0]) / 1000 - step, int(candles["time"][-1]) / 1000 + step
        figures[0].x_range.update(start=low, end=high, reset_start=low, reset_end=high)
        figures[0].x_range.min_interval = step * 5.0
        self.zoom = Zoom(figures[0], self._refresh)
        self.model = column(*figures, sizing_mode="stretch_width", spacing=0)

    async def _refresh(self, start: int, end: int) -> None:
        margin = (end - start) // 4
        candles = await self._client.candles(self._market, self._name, start=times.instant(start - margin),
                                             end=times.instant(end + margin), points=pictures.BARS)
        if not len(candles["time"]):
            return
        boxes = pictures.boxes(candles, self._seconds, self._look)
        for label in ("wicks", "bodies"):
            self._drawings["price"].fill(label, boxes)
        self._drawings["volume"].fill("volume", pictures.volumes(boxes))
        seen = analysis.between({name: candles[name] for name in ("time", "low", "high", "volume")}, start, end)
        fit = span_of([seen["low"], seen["high"]])
        if fit is not None:
            self._drawings["price"].figure.y_range.update(start=fit[0], end=fit[1])
            top = float(np.nanmax(seen["volume"])) * 1.1
            self._drawings["volume"].figure.y_range.update(start=0, end=top if top > 0 else 1)
