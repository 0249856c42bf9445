"""From HoloViews objects to Bokeh figures whose data sources a view can refresh."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.plots.style import Style


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A rendered figure. `sources` are the data sources of its elements, by the element's label."""

    figure: Any
    sources: dict[str, Any]

    def fill(self, label: str, columns: dict[str, np.ndarray]) -> None:
        """Put new columns under the element `label`; columns that it does not show are left out."""
        source = self.sources[label]
        source.data = {name: columns[name] for name in source.data if name in columns}


def draw(element: Any, style: Style, *, visible: bool = True) -> Drawing:
    """Render one element or overlay to a Bokeh figure, dressed in `style`."""
    from bokeh.document import Document

    from engine.plots.backend import hv

    # A document of its own: the current page's must not be touched, least of all from another thread.
    plot = hv.renderer("bokeh").get_plot(element, doc=Document())
    parts = plot.subplots.values() if getattr(plot, "subplots", None) else [plot]
    sources = {}
    for part in parts:
        source = part.handles.get("source")
        if source is not None:
            sources[part.current_frame.label if part.current_frame is not None else ""] = source
    style.dress(plot.state)
    plot.state.visible = visible
    return Drawing(figure=plot.state, sources=sources)


def warm_up(style: Style) -> None:
    """Draw a curve that nobody sees: the first drawing of a process imports what the others find there."""
    from engine.plots.backend import hv

    draw(hv.Curve(([0, 1], [0, 1]), "x", "y"), style)


def link(figures: Sequence[Any], *, crosshair: str | None = None) -> None:
    """Give stacked figures one x-range, one visible toolbar and, with a colour, one vertical crosshair."""
    from bokeh.models import CrosshairTool
    from bokeh.models.annotations import Span

    if not figures:
        return
    span = Span(dimension="height", line_color=crosshair, line_width=1, line_dash="dotted") if crosshair else None
    for figure in figures:
        figure.x_range = figures[0].x_range
        if figure is not figures[0]:
            figure.toolbar_location = None
        if span is not None:
            figure.add_tools(CrosshairTool(overlay=span, dimensions="height"))


def hide_x(figures: Iterable[Any]) -> None:
    """Take the x labels off figures that stand above another with the same axis."""
    for figure in figures:
        for axis in figure.xaxis:
            axis.major_label_text_font_size = "0px"
            axis.axis_label = None
            axis.major_tick_line_color = None
        figure.min_border_bottom = 2


def span_of(values: Iterable[np.ndarray], margin: float = 0.06) -> tuple[float, float] | None:
    """Lowest and highest finite value with a margin, or None when there is none."""
    low, high = np.inf, -np.inf
    for array in values:
        finite = array[np.isfinite(array)] if len(array) else array
        if len(finite):
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        return None
    gap = (high - low) * margin or abs(high) * 0.01 or 1.0
    return low - gap, high + gap
