"""Candles with fills, trades and indicators: the elements, and the columns under them for any range.

HoloViews has no candlestick: it is `Segments * Rectangles`. At most `BARS` boxes are ever drawn; a view fetches the
candles of the visible range, aggregates them (`analysis.aggregate_candles`) and fills the same data sources again.
"""

from typing import Any

import numpy as np

from engine import analysis, times
from engine.plots.backend import hv
from engine.plots.equity import TIME_OPTIONS
from engine.plots.style import Style, dressed, hover, money_axis, stamps

BARS = 800
"""Candles on the screen at most."""
MARKS = 1200
"""Fills or trades on the screen at most."""
POINTS = 1600
"""Points of an indicator line on the screen at most."""
CHART_OPTIONS: dict[str, Any] = {
    **TIME_OPTIONS,
    "default_tools": ["xpan", "xwheel_zoom", "xbox_zoom", "reset", "save"],
    "active_tools": ["xpan", "xwheel_zoom"],
}


def boxes(candles: analysis.Columns, resolution: int, style: Style) -> dict[str, np.ndarray]:
    """Columns of bodies, wicks and volume bars from aggregated candles; `resolution` is seconds of the finest bar.

    A box is as wide as 70 % of the time its bars cover; a flat candle gets a body of a hair's height.
    """
    time, last = candles["time"], candles.get("last")
    if last is None:  # joined elsewhere without saying how far: as far as to the next one
        step = int(np.median(np.diff(time))) if len(time) > 2 else resolution * times.SECOND
        last = time + max(step - resolution * times.SECOND, 0)
    width = last - time + resolution * times.SECOND
    up = candles["close"] >= candles["open"]
    low, high = np.fmin(candles["open"], candles["close"]), np.fmax(candles["open"], candles["close"])
    hair = (np.nanmax(candles["high"]) - np.nanmin(candles["low"])) * 0.0015 if len(time) else 0.0
    centre = time + (last - time) // 2
    middle, reach = stamps(centre), (width * 0.35).astype(np.int64)
    return {
        "left": stamps(centre - reach),
        "right": stamps(centre + reach),
        "bottom": np.where(high - low < hair, low - hair / 2, low),
        "top": np.where(high - low < hair, high + hair / 2, high),
        "time": middle,
        "until": middle,
        "low": candles["low"],
        "high": candles["high"],
        "open": candles["open"],
        "close": candles["close"],
        "volume": candles["volume"],
        "color": np.where(up, style.gain, style.loss),
        "bars": (width // (resolution * times.SECOND)).astype(np.int64),
    }


def price(
    columns: dict[str, np.ndarray],
    style: Style,
    overlays: dict[str, dict[str, np.ndarray]],
    *,
    height: int = 400,
    currency: str = "",
) -> hv.Overlay:
    """The candle chart. `columns` from `boxes`; `overlays` name -> {"time", "figure"} are indicator lines.

    Elements for fills and trades are made empty: fill them with `marks` and `trades`.
    """
    tip = hover(
        [
            ("", "@time{%a %d %b %Y %H:%M}"),
            ("Open", "@open{0,0.00[0000]}"),
            ("High", "@high{0,0.00[0000]}"),
            ("Low", "@low{0,0.00[0000]}"),
            ("Close", "@close{0,0.00[0000]}"),
            ("Volume", "@volume{0,0.[00]}"),
            ("Bars in one", "@bars"),
        ]
    )
    tip.formatters = {"@time": "datetime"}
    empty = marks(_NO_FILLS, style)
    fill_tip = hover(
        [
            ("Fill", "@side @quantity{0,0.[0000]} @ @price{0,0.00[0000]}"),
            ("", "@time{%d %b %Y %H:%M}"),
            ("Fee", "@fee{0,0.00}"),
            ("Reason", "@reason"),
        ]
    )
    fill_tip.formatters = {"@time": "datetime"}
    lines = trades(_NO_TRADES, style)
    held = ("x0", "y0", "x1", "y1")
    details = ["side", "quantity", "fee", "reason"]
    parts = [
        hv.Segments(lines, list(held), "color", label="focus").opts(color="color", line_width=9, alpha=0.3),
        hv.Segments(columns, ["time", "low", "until", "high"], "color", label="wicks").opts(
            color="color", line_width=1
        ),
        hv.Rectangles(
            columns,
            ["left", "bottom", "right", "top"],
            ["time", "open", "high", "low", "close", "volume", "bars", "color"],
            label="bodies",
        ).opts(color="color", line_color=None, tools=[tip]),
    ]
    for position, (name, line) in enumerate(overlays.items()):
        parts.append(
            hv.Curve({"time": stamps(line["time"]), "figure": line["figure"]}, "time", "figure", label=name).opts(
                color=style.series[(position * 3) % len(style.series)], line_width=1.4
            )
        )
    parts.append(
        hv.Segments(lines, list(held), "color", label="trades").opts(color="color", line_width=1.8, line_dash="dashed")
    )
    for label, marker, color in (("Buy", "triangle", style.accent), ("Sell", "inverted_triangle", style.series[1])):
        parts.append(
            hv.Scatter(empty[label], "time", ["price", *details], label=label).opts(
                marker=marker, color=color, size=11, line_color=style.surface, line_width=1, tools=[fill_tip]
            )
        )
    return hv.Overlay(parts).opts(
        **CHART_OPTIONS,
        height=height,
        ylabel=currency,
        legend_position="top_left",
        hooks=[_candle_legend, dressed(style)],
    )


_HIDDEN = {"focus", "wicks", "bodies", "trades"}
FIXED = frozenset({*_HIDDEN, "Buy", "Sell"})
"""Labels of the price chart that are not indicators."""


def _candle_legend(plot: Any, element: Any) -> None:
    """Only fills and indicators are named; a click on a name hides it."""
    for legend in plot.handles["plot"].legend:
        legend.items = [item for item in legend.items if getattr(item.label, "value", None) not in _HIDDEN]
        legend.click_policy = "hide"


def volumes(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of volume bars, from those of `boxes`."""
    return {
        "left": columns["left"],
        "right": columns["right"],
        "bottom": np.zeros(len(columns["left"])),
        "top": columns["volume"],
        "color": columns["color"],
    }


def volume(columns: dict[str, np.ndarray], style: Style, *, height: int = 80) -> hv.Rectangles:
    """Volume bars under the candles."""
    return hv.Rectangles(volumes(columns), ["left", "bottom", "right", "top"], "color", label="volume").opts(
        **CHART_OPTIONS,
        height=height,
        ylabel="Volume",
        yticks=2,
        color="color",
        alpha=0.45,
        line_color=None,
        hooks=[money_axis(), dressed(style)],
    )


def lines(curves: dict[str, dict[str, np.ndarray]], style: Style, *, height: int = 120) -> hv.Overlay:
    """Indicators in a panel of their own below the price: name -> {"time", "figure"}."""
    parts = []
    for position, (name, line) in enumerate(curves.items()):
        tip = hover([(name, "@figure{0,0.00[00]}"), ("", "@time{%d %b %Y %H:%M}")])
        tip.formatters = {"@time": "datetime"}
        parts.append(
            hv.Curve({"time": stamps(line["time"]), "figure": line["figure"]}, "time", "figure", label=name).opts(
                color=style.series[(position * 3) % len(style.series)], line_width=1.3, tools=[tip]
            )
        )
    return hv.Overlay(parts).opts(
        **CHART_OPTIONS, height=height, ylabel="", yticks=4, legend_position="top_left", hooks=[dressed(style)]
    )


_NO_FILLS = {
    "time": np.empty(0, np.int64),
    "side": np.empty(0, np.int64),
    "price": np.empty(0),
    "quantity": np.empty(0),
    "fee": np.empty(0),
    "reason": np.empty(0, object),
}
_NO_TRADES = {
    "entry_time": np.empty(0, np.int64),
    "exit_time": np.empty(0, np.int64),
    "entry_price": np.empty(0),
    "exit_price": np.empty(0),
    "pnl": np.empty(0),
}


def thin(size: int, most: int = MARKS) -> np.ndarray:
    """Positions of at most `most` rows, evenly spread, both ends kept."""
    return np.arange(size) if size <= most else np.unique(np.linspace(0, size - 1, most).astype(int))


def marks(fills: analysis.Columns, style: Style) -> dict[str, dict[str, np.ndarray]]:
    """Columns of the "Buy" and "Sell" triangles, at most `MARKS` fills in all."""
    rows = thin(len(fills["time"]))
    chosen = {name: np.asarray(fills[name])[rows] for name in ("time", "side", "price", "quantity", "fee", "reason")}
    found = {}
    for label, sign in (("Buy", 1), ("Sell", -1)):
        keep = np.sign(chosen["side"]) == sign
        found[label] = {
            "time": stamps(chosen["time"][keep]),
            "price": chosen["price"][keep],
            "quantity": chosen["quantity"][keep],
            "fee": chosen["fee"][keep],
            "reason": np.array([str(text or "") for text in chosen["reason"][keep]]),
            "side": np.full(int(keep.sum()), label),
        }
    return found


def trades(trips: analysis.Columns, style: Style) -> dict[str, np.ndarray]:
    """Columns of the lines from entry to exit, at most `MARKS`."""
    rows = thin(len(trips["entry_time"]))
    return {
        "x0": stamps(trips["entry_time"][rows]),
        "y0": np.asarray(trips["entry_price"], float)[rows],
        "x1": stamps(trips["exit_time"][rows]),
        "y1": np.asarray(trips["exit_price"], float)[rows],
        "color": np.where(np.asarray(trips["pnl"], float)[rows] >= 0, style.gain, style.loss),
    }


def no_trades(style: Style) -> dict[str, np.ndarray]:
    """The columns of no lines at all."""
    return trades(_NO_TRADES, style)
