"""The portfolio over time: value against the benchmark, underwater, exposure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine import analysis
from engine.plots.backend import hv
from engine.plots.style import Style, dressed, hover, money_axis, percent_axis, stamps

TOOLS = ("xpan", "xbox_zoom", "xwheel_zoom", "reset", "save")
TIME_OPTIONS: dict[str, Any] = {
    "responsive": True, "xlabel": "", "default_tools": list(TOOLS), "active_tools": ["xbox_zoom"], "show_grid": True,
    "toolbar": "above", "show_title": False,
}


WORST = "worst"
"""Label of the shaded drawdowns, which no refresh touches."""


def prepare(equity: analysis.Columns) -> dict[str, np.ndarray]:
    """The full columns of the charts from the "equity" table.

    Adds drawdown (fractions of the peak over all time, not only of a view), exposure = gross / value and
    net = positions / value.
    """
    value = np.asarray(equity["value"], float)
    safe = np.where(value > 0, value, np.nan)
    return {
        "time": np.asarray(equity["time"]), "value": value,
        "benchmark": np.asarray(equity.get("benchmark", np.full(len(value), np.nan)), float),
        "drawdown": analysis.drawdown(value), "exposure": np.asarray(equity["gross"], float) / safe,
        "net": np.asarray(equity["positions"], float) / safe,
    }


def window(prepared: analysis.Columns, start: int | None, end: int | None, points: int = 2000) -> dict[str, np.ndarray]:
    """A part of `prepare`'s full columns for the screen, times as datetime64: at most about `points` rows, chosen so
    that value, benchmark and drawdown keep their extremes."""
    part = analysis.between(prepared, start, end)
    if len(part["time"]) > points:
        third = max(points // 3, 4)
        rows = np.unique(np.concatenate([analysis.downsample(part["time"], part[name], third)
                                         for name in ("value", "benchmark", "drawdown")]))
        part = {name: column[rows] for name, column in part.items()}
    return {**part, "time": stamps(part["time"])}


def equity(columns: analysis.Columns, style: Style, *, worst: Sequence[Mapping[str, Any]] = (), log: bool = False,
           height: int = 300, currency: str = "USD", benchmark: str = "Benchmark") -> hv.Overlay:
    """Portfolio value against the benchmark; `worst` drawdowns (see `analysis.drawdown_periods`) are shaded."""
    end = columns["time"][-1] if len(columns["time"]) else None
    spans = [(stamps(np.array([period["start"]]))[0],
              stamps(np.array([period["end"]]))[0] if period["end"] is not None else end) for period in worst]
    shades = hv.VSpans(spans, label=WORST).opts(color=style.shade, alpha=0.08, line_alpha=0)
    tip = hover([("", "@time{%a %d %b %Y %H:%M}"), ("Strategy", f"@value{{0,0.00}} {currency}"),
                 (benchmark, f"@benchmark{{0,0.00}} {currency}"), ("Drawdown", "@drawdown{0.00%}")],
                mode="vline", dates=("time",), attachment="horizontal")
    tip.formatters = {"@time": "datetime"}
    mine = hv.Curve(columns, "time", ["value", "benchmark", "drawdown"], label="Strategy").opts(
        color=style.strategy, line_width=1.8, tools=[tip])
    parts = [shades] if spans else []
    if np.isfinite(columns["benchmark"]).any():
        parts.append(hv.Curve(columns, "time", "benchmark", label=benchmark).opts(
            color=style.benchmark, line_width=1.3, line_dash=[5, 3]))
    return hv.Overlay([*parts, mine]).opts(
        **TIME_OPTIONS, height=height, ylabel=currency, logy=log, legend_position="top_left", **_whole(columns),
        hooks=[money_axis(), _quiet_legend, dressed(style)])


def _whole(columns: analysis.Columns) -> dict[str, Any]:
    """The range from the first to the last bar, without room beside it."""
    time = columns["time"]
    return {"xlim": (time[0], time[-1])} if len(time) > 1 else {}


def _quiet_legend(plot: Any, element: Any) -> None:
    """Shading needs no legend entry."""
    for legend in plot.handles["plot"].legend:
        legend.items = [item for item in legend.items if getattr(item.label, "value", None) != WORST]


def _fill_below(color: str, column: str, alpha: float = 0.22):
    """A hook that fills between a curve and zero, from the curve's own data source."""
    def hook(plot: Any, element: Any) -> None:
        source = plot.handles.get("source")
        if source is not None and column in source.data and not plot.handles["plot"].select({"name": "fill"}):
            plot.handles["plot"].varea(x="time", y1=0, y2=column, source=source, fill_color=color, fill_alpha=alpha,
                                       name="fill", level="underlay")

    return hook


def underwater(columns: analysis.Columns, style: Style, *, height: int = 130) -> hv.Curve:
    """Drawdown from the peak so far, as percent."""
    tip = hover([("", "@time{%d %b %Y}"), ("Drawdown", "@drawdown{0.00%}")], mode="vline", dates=("time",))
    tip.formatters = {"@time": "datetime"}
    return hv.Curve(columns, "time", "drawdown", label="Drawdown").opts(
        **TIME_OPTIONS, height=height, ylabel="Drawdown", yticks=4, color=style.loss, line_width=1.1, tools=[tip],
        hooks=[percent_axis(), _fill_below(style.loss, "drawdown"), dressed(style)])


def exposure(columns: analysis.Columns, style: Style, *, height: int = 110) -> hv.Overlay:
    """Gross exposure (sum of absolute positions) and net exposure as fractions of the portfolio's value."""
    tip = hover([("", "@time{%d %b %Y}"), ("Gross", "@exposure{0.0%}"), ("Net", "@net{0.0%}")], mode="vline",
                dates=("time",))
    tip.formatters = {"@time": "datetime"}
    gross = hv.Curve(columns, "time", ["exposure", "net"], label="Gross").opts(
        color=style.neutral, line_width=1.0, interpolation="steps-post", tools=[tip],
        hooks=[_fill_below(style.neutral, "exposure", 0.25)])
    net = hv.Curve(columns, "time", "net", label="Net").opts(
        color=style.strategy, line_width=1.1, interpolation="steps-post")
    return (gross * net).opts(**TIME_OPTIONS, height=height, ylabel="Exposure", yticks=3, legend_position="top_left",
                              hooks=[percent_axis(), dressed(style)])


def compared(curves: dict[str, tuple[np.ndarray, np.ndarray]], style: Style, *, height: int = 320,
             ylabel: str = "Cumulative return") -> hv.Overlay:
    """Several runs' cumulative returns on one axis: label -> (time in microseconds, fractions)."""
    parts = []
    for position, (label, (time, value)) in enumerate(curves.items()):
        rows = analysis.downsample(time, value, 1500)
        tip = hover([("", label.replace("@", "(at)")), ("", "@time{%d %b %Y}"), (ylabel, "@value{0.00%}")],
                    dates=("time",))
        tip.formatters = {"@time": "datetime"}
        parts.append(hv.Curve({"time": stamps(time[rows]), "value": value[rows]}, "time", "value", label=label).opts(
            color=style.series[position % len(style.series)], line_width=1.7,
            line_dash="solid" if position < len(style.series) else "dashed", tools=[tip]))
    return hv.Overlay(parts).opts(**TIME_OPTIONS, height=height, ylabel=ylabel, legend_position="top_left",
                                  hooks=[percent_axis(), dressed(style)])
