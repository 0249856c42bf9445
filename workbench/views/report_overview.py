"""The first tab: value against the benchmark, underwater, exposure, worst drawdowns, warnings."""

from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import CustomJS
from bokeh.models.widgets import RadioButtonGroup

from engine import analysis
from engine.plots import equity as pictures
from engine.plots.render import Drawing, draw, hide_x, link, span_of
from engine.plots.style import Style
from workbench import theme
from workbench.views import tables
from workbench.views.blocks import Block
from workbench.views.data import Cache
from workbench.views.zoom import Zoom

POINTS = 2000


class Overview:
    """The charts of one run. `blocks` are its cards; `follow` makes zooming fetch finer columns."""

    def __init__(self, cache: Cache, equity: analysis.Columns, look: Style) -> None:
        self._times = np.asarray(equity["time"], np.int64)
        size = len(self._times)
        self._full = pictures.prepare(equity) if size else {}
        self._drawings: dict[str, Drawing] = {}
        self.zoom: Zoom | None = None
        periods = analysis.drawdown_periods(self._times, np.asarray(equity["value"], float), 10) if size else []
        if size > 1:
            charts = self._charts(cache, periods[:5], look)
        else:
            charts = tables.empty("No equity curve", "the run has one bar only" if size else "the run has no bars")
        note = "The five deepest drawdowns are shaded. Drag to zoom in; the charts move together." if size > 1 else ""
        self.blocks = [
            Block(title="Portfolio value", note=note, content=charts),
            Block(content=tables.warnings(cache.summary.get("warnings", ())), span=5),
            Block(content=tables.drawdowns(periods), span=7),
        ]

    def _charts(self, cache: Cache, worst: list[dict[str, Any]], look: Style) -> Any:
        columns = self._columns(None, None)
        name = str(cache.spec.get("benchmark") or "Benchmark")
        words: dict[str, Any] = {"currency": cache.currency or "value", "benchmark": name, "worst": worst}
        drawn = self._drawings = {"linear": draw(pictures.equity(columns, look, **words), look)}
        parts = [drawn["linear"].figure]
        if (self._full["value"] > 0).all():
            drawn["log"] = draw(pictures.equity(columns, look, log=True, **words), look, visible=False)
            parts = [scale_switch(parts[0], drawn["log"].figure, look), parts[0], drawn["log"].figure]
        drawn["underwater"] = draw(pictures.underwater(columns, look), look)
        drawn["exposure"] = draw(pictures.exposure(columns, look), look)
        figures = [drawing.figure for drawing in drawn.values()]
        link(figures, crosshair=look.muted)
        hide_x(figures[:-1])
        return column(*parts, *figures[-2:], sizing_mode="stretch_width", spacing=0)

    def _columns(self, start: int | None, end: int | None) -> dict[str, np.ndarray]:
        return pictures.window(self._full, start, end, POINTS)

    def follow(self) -> None:
        """Fetch finer columns and fit the value axes whenever the view moves."""
        if self._drawings:
            self.zoom = Zoom(self._drawings["linear"].figure, self._refresh)

    async def _refresh(self, start: int, end: int) -> None:
        margin = (end - start) // 4
        columns = self._columns(start - margin, end + margin)
        for drawing in self._drawings.values():
            for label in drawing.sources:
                if label != pictures.WORST:
                    drawing.fill(label, columns)
        seen = analysis.between(self._full, start, end)
        fits = {
            "linear": span_of([seen["value"], seen["benchmark"]]),
            "underwater": span_of([seen["drawdown"], np.zeros(1)]),
            "exposure": span_of([seen["exposure"], seen["net"], np.zeros(1)]),
        }
        if fits["linear"] is not None:
            low = min(np.nanmin(seen[name], initial=np.inf) for name in ("value", "benchmark"))
            fits["log"] = (max(fits["linear"][0], low * 0.97) if low > 0 else fits["linear"][0], fits["linear"][1])
        for name, drawing in self._drawings.items():
            fit = fits.get(name)
            if fit is not None:
                drawing.figure.y_range.update(start=fit[0], end=fit[1])


def scale_switch(linear: Any, log: Any, look: Style) -> RadioButtonGroup:
    """Buttons that show one of two figures; they work in the browser alone, so in exported files too."""
    switch = RadioButtonGroup(
        labels=["Linear", "Log"], active=0, width=130, margin=(0, 0, 2, 0), stylesheets=[theme.button_css(look)]
    )
    switch.js_on_change(
        "active",
        CustomJS(
            args={"linear": linear, "log": log},
            code="linear.visible = cb_obj.active === 0; log.visible = cb_obj.active === 1;",
        ),
    )
    return switch


async def build(cache: Cache, look: Style) -> Overview:
    """The tab of a run."""
    return Overview(cache, await cache.table("equity"), look)
