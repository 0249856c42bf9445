"""Returns: monthly heatmap, years, distribution against the normal, rolling figures."""

from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from engine import analysis
from engine.plots.backend import hv
from engine.plots.equity import TIME_OPTIONS
from engine.plots.style import Style, dressed, hover, percent_axis, stamps

PLAIN: dict[str, Any] = {
    "responsive": True,
    "default_tools": ["save", "reset"],
    "active_tools": [],
    "toolbar": "above",
    "show_title": False,
}


def _limit(values: np.ndarray, least: float = 0.01) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return max(float(np.quantile(finite, 0.97)) if len(finite) else least, least)


def percent(value: float, digits: int = 1) -> str:
    """A fraction as signed percent with a true minus sign."""
    sign = "+" if value > 0 else ""
    text = f"{value * 100:z.{digits}f}"
    return (text if float(text) == 0 else sign + text).replace("-", "−")


def monthly(years: np.ndarray, table: np.ndarray, totals: np.ndarray, style: Style) -> hv.Overlay:
    """Calendar heatmap with a year column; figures are percent, printed in each cell. `table` is (years, 12)."""
    names = [*analysis.MONTHS, "Year"]
    whole = np.column_stack((table, totals))
    rows, cols = np.nonzero(np.isfinite(whole))
    labels = np.array([str(year) for year in years])
    cells = {
        "month": np.array(names)[cols],
        "year": labels[rows],
        "return": whole[rows, cols],
        "label": np.array([percent(value) for value in whole[rows, cols]]),
    }
    limit = _limit(table, 0.02)
    cells["ink"] = np.where(np.abs(cells["return"]) > 0.6 * limit, style.surface, style.text)
    tip = hover([("", "@month @year"), ("Return", "@return{0.00%}")])
    base = hv.HeatMap(cells, ["month", "year"], "return", label="monthly").opts(
        cmap=list(style.diverging),
        clim=(-limit, limit),
        tools=[tip],
        clipping_colors={"NaN": style.raised},
        line_color=style.surface,
        line_width=2,
    )
    text = hv.Labels(cells, ["month", "year"], ["label", "ink"], label="text").opts(
        text_color="ink", text_font_size="11px"
    )
    return (base * text).opts(
        **PLAIN,
        height=max(110, 27 * len(years) + 46),
        xaxis="top",
        xlabel="",
        ylabel="",
        show_grid=False,
        invert_yaxis=False,
        hooks=[_calendar_order(names, labels[::-1].tolist()), dressed(style)],
    )


def _calendar_order(columns: list[str], rows: list[str]):
    """A hook: factors in calendar order, also where a month has no data at all."""

    def hook(plot, element) -> None:
        from bokeh.models import FactorRange

        figure = plot.handles["plot"]
        for axis, factors in ((figure.x_range, columns), (figure.y_range, rows)):
            if isinstance(axis, FactorRange):
                axis.factors = factors
        for axis in (*figure.xaxis, *figure.yaxis):
            axis.axis_line_color = None

    return hook


def yearly(years: np.ndarray, totals: np.ndarray, style: Style, *, height: int = 210) -> hv.Bars:
    """One bar a calendar year, coloured by sign."""
    keep = np.isfinite(totals)
    cells = {
        "year": np.array([str(year) for year in years[keep]]),
        "return": totals[keep],
        "color": np.where(totals[keep] >= 0, style.gain, style.loss),
    }
    return hv.Bars(cells, "year", ["return", "color"], label="yearly").opts(
        **PLAIN,
        height=height,
        color="color",
        line_color=None,
        bar_width=0.62,
        xlabel="",
        ylabel="Return",
        show_legend=False,
        show_grid=True,
        tools=[hover([("", "@year"), ("Return", "@return{0.00%}")])],
        hooks=[percent_axis(), _zero_line(style), _ticks_when_crowded(int(keep.sum())), dressed(style)],
    )


def _ticks_when_crowded(count: int):
    def hook(plot, element) -> None:
        if count > 12:
            plot.handles["plot"].xaxis[0].major_label_orientation = 1.1

    return hook


def _zero_line(style: Style, dimension: Literal["width", "height"] = "width") -> Any:
    def hook(plot: Any, element: Any) -> None:
        from bokeh.models.annotations import Span

        figure = plot.handles["plot"]
        if not figure.select({"name": "zero"}):
            figure.add_layout(
                Span(
                    location=0,
                    dimension=dimension,
                    line_color=style.neutral,
                    line_width=1,
                    name="zero",
                    level="underlay",
                )
            )

    return hook


def histogram(gains: np.ndarray, style: Style, *, height: int = 240) -> hv.Overlay:
    """Daily returns in bins, with the normal density of the same mean and deviation (scaled to days)."""
    gains = gains[np.isfinite(gains)]
    low, high = float(np.quantile(gains, 0.001)), float(np.quantile(gains, 0.999))
    reach = max(abs(low), abs(high), 1e-6) * 1.15
    edges = np.linspace(-reach, reach, min(61, max(13, int(2 * len(gains) ** (1 / 2)) // 2 * 2 + 1)))
    count, _ = np.histogram(np.clip(gains, -reach, reach), edges)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    bars = {
        "left": edges[:-1],
        "zero": np.zeros(len(count)),
        "right": edges[1:],
        "days": count.astype(float),
        "color": np.where(middle >= 0, style.gain, style.loss),
    }
    tip = hover([("From", "@left{0.00%}"), ("To", "@right{0.00%}"), ("Days", "@days{0}")])
    boxes = hv.Rectangles(bars, ["left", "zero", "right", "days"], "color", label="Days").opts(
        color="color", alpha=0.75, line_color=style.surface, line_width=0.5, tools=[tip]
    )
    parts = [boxes]
    deviation = float(gains.std(ddof=1)) if len(gains) > 1 else 0.0
    if deviation > 0:
        normal = NormalDist(float(gains.mean()), deviation)
        grid = np.linspace(-reach, reach, 161)
        density = np.array([normal.pdf(x) for x in grid]) * len(gains) * width
        parts.append(
            hv.Curve({"return": grid, "normal": density}, "return", "normal", label="Normal").opts(
                color=style.text, line_width=1.2, line_dash=[4, 3]
            )
        )
    return hv.Overlay(parts).opts(
        **PLAIN,
        height=height,
        xlabel="Daily return",
        ylabel="Days",
        show_grid=True,
        show_legend=False,
        hooks=[percent_axis("x", 1), dressed(style)],
    )


def quantiles(gains: np.ndarray, style: Style, *, height: int = 240) -> hv.Overlay:
    """Normal Q-Q: sample quantiles against those of the standard normal, with the line of mean and deviation."""
    theory, sample = analysis.normal_quantiles(gains)
    mean, deviation = float(np.mean(sample)), float(np.std(sample, ddof=1)) if len(sample) > 1 else 0.0
    ends = np.array([theory[0], theory[-1]])
    line = hv.Curve({"normal": ends, "return": mean + deviation * ends}, "normal", "return", label="Normal").opts(
        color=style.text, line_width=1.2, line_dash=[4, 3]
    )
    dots = hv.Scatter({"normal": theory, "return": sample}, "normal", "return", label="Returns").opts(
        color=style.strategy,
        size=4,
        alpha=0.7,
        line_color=None,
        tools=[hover([("Normal quantile", "@normal{0.00}"), ("Return", "@return{0.00%}")])],
    )
    return (line * dots).opts(
        **PLAIN,
        height=height,
        padding=0.05,
        xlabel="Standard normal quantile",
        ylabel="Daily return",
        show_grid=True,
        show_legend=False,
        hooks=[percent_axis("y", 1), dressed(style)],
    )


def rolling(
    day: np.ndarray,
    curves: dict[str, np.ndarray],
    style: Style,
    *,
    ylabel: str,
    percents: bool = False,
    height: int = 150,
    level: float = 0.0,
) -> hv.Overlay:
    """Rolling figures over days: label -> values (NaN before the first full window)."""
    parts, form = [], "0.0%" if percents else "0.00"
    for position, (label, values) in enumerate(curves.items()):
        kept = np.isfinite(values)
        rows = np.flatnonzero(kept)
        rows = rows[analysis.downsample(day[rows], values[rows], 900)]
        tip = hover([("", "@time{%d %b %Y}"), (f"{ylabel}, {label}", f"@figure{{{form}}}")], dates=("time",))
        tip.formatters = {"@time": "datetime"}
        parts.append(
            hv.Curve({"time": stamps(day[rows]), "figure": values[rows]}, "time", "figure", label=label).opts(
                color=(style.strategy, style.series[1])[position % 2], line_width=(1.1, 1.6)[position % 2], tools=[tip]
            )
        )
    hooks = [percent_axis()] if percents else []
    return hv.Overlay(parts).opts(
        **TIME_OPTIONS,
        height=height,
        ylabel=ylabel,
        yticks=4,
        legend_position="top_left",
        hooks=[*hooks, _level(level, style), dressed(style)],
    )


def _level(at: float, style: Style):
    def hook(plot, element) -> None:
        from bokeh.models.annotations import Span

        plot.handles["plot"].add_layout(
            Span(location=at, dimension="width", line_color=style.neutral, line_width=1, level="underlay")
        )

    return hook
