"""Pictures of a bot at work: the price with its orders and their reasons, its profit with drawdown, a curve in small.

Elements are made once, with empty or first columns; a view puts newer columns under the same labels or streams rows on
to them (`engine.plots.render`).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from engine import analysis
from engine.plots.backend import hv
from engine.plots.candles import CHART_OPTIONS
from engine.plots.equity import _fill_below
from engine.plots.style import Style, dressed, hover, money_axis, percent_axis, stamps

MARKS: Final = 1000
"""Orders on the screen at most."""
NOTES: Final = 40
"""Annotations written out beside their orders at most; the others are shown when the pointer rests on the order."""
NOTE_LENGTH: Final = 26
POINTS: Final = 1500
"""Points of a profit curve on the screen at most."""
SIDES: Final = ("Buy", "Sell")
_UNNAMED: Final = frozenset({"wicks", "bodies", "line", "notes", "chosen"})
_NO_BOXES: Final = {
    **{name: np.empty(0) for name in ("bottom", "top", "low", "high", "open", "close", "volume", "bars")},
    **{name: np.empty(0, "datetime64[ms]") for name in ("left", "right", "time", "until")},
    "color": np.empty(0, "U7")}


def no_boxes() -> dict[str, np.ndarray]:
    """The columns of no candles, with the names of `candles.boxes`."""
    return dict(_NO_BOXES)


def marks(orders: Sequence[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Columns of "Buy", "Sell" and "notes" from priced orders: {"time" (microseconds), "price", "side", "amount",
    "note", "id", "status"}. The last `MARKS` orders, and the last `NOTES` reasons, shortened."""
    orders = orders[-MARKS:]
    found = {}
    for label in SIDES:
        mine = [order for order in orders if order["side"] == label.lower()]
        found[label] = {
            "time": stamps(np.array([order["time"] for order in mine], np.int64)),
            "price": np.array([order["price"] for order in mine], float),
            **{name: np.array([str(order[name]) for order in mine], dtype=object)
               for name in ("side", "amount", "note", "id", "status")}}
    said = [order for order in orders if order["note"]][-NOTES:]
    found["notes"] = {
        "time": stamps(np.array([order["time"] for order in said], np.int64)),
        "price": np.array([order["price"] for order in said], float),
        "text": np.array([short(str(order["note"])) for order in said], dtype=object)}
    return found


def short(text: str) -> str:
    """A reason in a few letters."""
    text = " ".join(text.split())
    return text if len(text) <= NOTE_LENGTH else text[:NOTE_LENGTH - 1].rstrip() + "…"


def path(orders: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The line through the orders' own prices, for symbols without candles."""
    return {"time": stamps(np.array([order["time"] for order in orders], np.int64)),
            "price": np.array([order["price"] for order in orders], float)}


def price(columns: dict[str, np.ndarray], orders: Sequence[dict[str, Any]], style: Style, *, height: int = 380,
          currency: str = "") -> hv.Overlay:
    """Candles (`candles.boxes`, or `no_boxes()`) under triangles for orders. Without candles a line joins the orders'
    prices. Labels: wicks, bodies, line, chosen, Buy, Sell, notes."""
    drawn = marks(orders)
    bars = hover([("", "@time{%a %d %b %Y %H:%M}"), ("Open", "@open{0,0.00[000000]}"),
                  ("High", "@high{0,0.00[000000]}"), ("Low", "@low{0,0.00[000000]}"),
                  ("Close", "@close{0,0.00[000000]}")])
    bars.formatters = {"@time": "datetime"}
    tip = hover([("", "@side @amount at @price{0,0.00[000000]}"), ("Time", "@time{%d %b %Y %H:%M:%S}"),
                 ("Why", "@note"), ("Status", "@status"), ("Order", "@id")])
    tip.formatters = {"@time": "datetime"}
    parts: list[Any] = [
        hv.Segments(columns, ["time", "low", "until", "high"], "color", label="wicks").opts(color="color",
                                                                                             line_width=1),
        hv.Rectangles(columns, ["left", "bottom", "right", "top"],
                      ["time", "open", "high", "low", "close", "volume", "bars", "color"], label="bodies").opts(
            color="color", line_color=None, tools=[bars]),
        hv.Curve(path([] if len(columns["time"]) else orders), "time", "price", label="line").opts(
            color=style.neutral, line_width=1.2, interpolation="steps-post"),
        hv.Scatter({"time": np.empty(0, "datetime64[ms]"), "price": np.empty(0)}, "time", "price",
                   label="chosen").opts(marker="circle", size=24, color=style.accent, alpha=0.25, line_color=None)]
    for label, marker, color in (("Buy", "triangle", style.accent), ("Sell", "inverted_triangle", style.loss)):
        parts.append(hv.Scatter(drawn[label], "time", ["price", "side", "amount", "note", "id", "status"],
                                label=label).opts(
            marker=marker, color=color, size=12, line_color=style.surface, line_width=1, tools=[tip]))
    parts.append(hv.Labels(drawn["notes"], ["time", "price"], "text", label="notes").opts(
        text_font_size="10.5px", text_color=style.muted, text_align="left", text_baseline="bottom", xoffset=0))
    return hv.Overlay(parts).opts(**CHART_OPTIONS, height=height, ylabel=currency, legend_position="top_left",
                                  hooks=[_legend, _beside, dressed(style)])


def _legend(plot: Any, element: Any) -> None:
    """Only the sides are named; a click on a name hides it."""
    for legend in plot.handles["plot"].legend:
        legend.items = [item for item in legend.items if getattr(item.label, "value", None) not in _UNNAMED]
        legend.click_policy = "hide"


def _beside(plot: Any, element: Any) -> None:
    """Reasons stand to the upper right of their triangles, whatever the zoom."""
    from bokeh.models import Text

    for renderer in plot.handles["plot"].renderers:
        if isinstance(getattr(renderer, "glyph", None), Text):
            renderer.glyph.update(x_offset=8, y_offset=-6)


def profit_columns(time: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of the profit charts: `time` in microseconds, `value` in currency; adds the drop from the highest profit
    so far, in currency (profit may begin at zero, so a fraction would mean nothing). At most about `POINTS` rows,
    extremes kept."""
    time, value = np.asarray(time, np.int64), np.asarray(value, float)
    below = value - np.maximum.accumulate(value) if len(value) else value
    if len(time) > POINTS:
        rows = np.unique(np.concatenate([analysis.downsample(time, each, POINTS // 2) for each in (value, below)]))
        time, value, below = time[rows], value[rows], below[rows]
    return {"time": stamps(time), "value": value, "below": below}


def profit(columns: dict[str, np.ndarray], style: Style, *, height: int = 200, currency: str = "") -> hv.Curve:
    """Profit over time."""
    tip = hover([("", "@time{%a %d %b %Y %H:%M:%S}"), ("Profit", f"@value{{0,0.00}} {currency}"),
                 ("Below its peak", f"@below{{0,0.00}} {currency}")], mode="vline", attachment="horizontal")
    tip.formatters = {"@time": "datetime"}
    return hv.Curve(columns, "time", ["value", "below"], label="Profit").opts(
        **CHART_OPTIONS, height=height, ylabel=currency, color=style.strategy, line_width=1.7, tools=[tip],
        interpolation="linear", hooks=[money_axis(), dressed(style)])


def drawdown(columns: dict[str, np.ndarray], style: Style, *, height: int = 90, currency: str = "") -> hv.Curve:
    """How far below its peak the profit is, in currency."""
    return hv.Curve(columns, "time", "below", label="Drawdown").opts(
        **CHART_OPTIONS, height=height, ylabel="Drawdown", yticks=3, color=style.loss, line_width=1.1,
        hooks=[money_axis(), _fill_below(style.loss, "below"), dressed(style)])


def against(live: dict[str, np.ndarray], backtest: dict[str, np.ndarray], style: Style, *, height: int = 280
            ) -> hv.Overlay:
    """Live and backtest profit on one axis; columns `time` (datetime64) and `value`, in fractions of the money at
    work at the start of the common window."""
    parts = []
    for label, columns, color, dash in (("Live", live, style.strategy, "solid"),
                                        ("Backtest", backtest, style.series[1], "dashed")):
        tip = hover([(label, "@value{0.00%}"), ("", "@time{%d %b %Y %H:%M}")])
        tip.formatters = {"@time": "datetime"}
        parts.append(hv.Curve(columns, "time", "value", label=label).opts(
            color=color, line_width=1.8, line_dash=dash, tools=[tip]))
    return hv.Overlay(parts).opts(**CHART_OPTIONS, height=height, ylabel="Return", legend_position="top_left",
                                  hooks=[percent_axis(digits=1), dressed(style)])
