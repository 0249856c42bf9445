"""Roundtrip trades as clouds and bars: what they earned, how long they took, when they began."""

import numpy as np

from engine import analysis, times
from engine.plots.backend import hv
from engine.plots.returns import PLAIN, _limit, _zero_line
from engine.plots.style import Style, dressed, hover, money_axis, percent_axis, stamps

MOST_DOTS = 4000
"""Dots a scatter shows at most; the best, the worst and an even sample of the rest."""


def sample(values: np.ndarray, most: int = MOST_DOTS) -> np.ndarray:
    """Positions of at most `most` rows: the highest and lowest twentieth and every n-th of the others."""
    if len(values) <= most:
        return np.arange(len(values))
    order, edge = np.argsort(values, kind="stable"), most // 20
    rest = np.sort(order[edge:-edge])
    picked = rest[np.linspace(0, len(rest) - 1, most - 2 * edge).astype(int)]
    return np.sort(np.concatenate((order[:edge], picked, order[-edge:])))


def _dots(trips: analysis.Columns, style: Style) -> dict[str, np.ndarray]:
    rows = sample(np.asarray(trips["return"], float))
    gain = np.asarray(trips["return"], float)[rows]
    days = (trips["exit_time"][rows] - trips["entry_time"][rows]) / times.DAY
    unit, times_a_day = times.span_unit(float(np.median(days)) if len(days) else 0.0)
    return {
        "entry": stamps(trips["entry_time"][rows]),
        "return": gain,
        "mae": np.asarray(trips["mae"], float)[rows],
        "mfe": np.asarray(trips["mfe"], float)[rows],
        "pnl": np.asarray(trips["pnl"], float)[rows],
        "held": days * times_a_day,
        "unit": np.full(len(rows), unit),
        "symbol": np.asarray(trips["symbol"], dtype=str)[rows],
        "trade": rows + 1,
        "side": np.where(np.asarray(trips["direction"])[rows] > 0, "long", "short"),
        "color": np.where(gain >= 0, style.gain, style.loss),
    }


def _cloud(
    columns: dict[str, np.ndarray],
    x: str,
    y: str,
    style: Style,
    *,
    xlabel: str,
    ylabel: str,
    height: int,
    hooks: list,
    label: str,
) -> hv.Scatter:
    tip = hover(
        [
            ("Trade", "@trade @side @symbol"),
            ("Return", "@return{0.00%}"),
            ("Profit", "@pnl{0,0.00}"),
            ("Held", "@held{0.0} @unit"),
        ]
    )
    rest = [name for name in columns if name not in (x, y)]
    return hv.Scatter(columns, x, [y, *rest], label=label).opts(
        **{**PLAIN, "default_tools": ["box_zoom", "reset", "save"]},
        height=height,
        color="color",
        alpha=0.65,
        size=6,
        line_color=style.surface,
        line_width=0.5,
        xlabel=xlabel,
        ylabel=ylabel,
        show_grid=True,
        show_legend=False,
        tools=[tip],
        hooks=[*hooks, dressed(style)],
    )


def outcomes(trips: analysis.Columns, style: Style, *, height: int = 230) -> hv.Scatter:
    """Return of each trade over its entry time."""
    return _cloud(
        _dots(trips, style),
        "entry",
        "return",
        style,
        xlabel="",
        ylabel="Trade return",
        height=height,
        hooks=[percent_axis(), _zero_line(style)],
        label="outcomes",
    )


def holding(trips: analysis.Columns, style: Style, *, height: int = 230) -> hv.Scatter:
    """Holding time against return."""
    dots = _dots(trips, style)
    return _cloud(
        dots,
        "held",
        "return",
        style,
        xlabel=f"Holding time, {dots['unit'][0] if len(dots['unit']) else 'days'}",
        ylabel="Trade return",
        height=height,
        hooks=[percent_axis(), _zero_line(style)],
        label="holding",
    )


def excursions(trips: analysis.Columns, style: Style, *, which: str, height: int = 230) -> hv.Scatter:
    """Maximum adverse ("mae") or favourable ("mfe") excursion against return, fractions of the entry price."""
    name = {"mae": "Worst open loss (MAE)", "mfe": "Best open profit (MFE)"}[which]
    return _cloud(
        _dots(trips, style),
        which,
        "return",
        style,
        xlabel=name,
        ylabel="Trade return",
        height=height,
        hooks=[percent_axis(), percent_axis("x"), _zero_line(style)],
        label=which,
    )


def clock(trips: analysis.Columns, style: Style) -> hv.HeatMap:
    """Mean trade return by weekday and UTC hour of entry; only hours in which trades began are drawn."""
    count, mean = analysis.weekday_hour(trips["entry_time"], trips["return"])
    days, hours = np.nonzero(count)
    names = np.array(analysis.WEEKDAYS)
    shown = np.arange(hours.min(), hours.max() + 1) if len(hours) else np.arange(1)
    cells = {
        "hour": np.array([f"{hour:02d}" for hour in hours]),
        "day": names[days],
        "return": mean[days, hours],
        "trades": count[days, hours],
    }
    limit = _limit(mean, 0.001)
    rows = [day for day in analysis.WEEKDAYS if day in set(cells["day"]) or day in analysis.WEEKDAYS[:5]]
    return hv.HeatMap(cells, ["hour", "day"], ["return", "trades"], label="clock").opts(
        **PLAIN,
        height=230,
        cmap=list(style.diverging),
        clim=(-limit, limit),
        xlabel="Hour of entry (UTC)",
        ylabel="",
        line_color=style.surface,
        line_width=2,
        show_grid=False,
        tools=[hover([("", "@day @hour:00"), ("Mean return", "@return{0.00%}"), ("Trades", "@trades")])],
        hooks=[_factors([f"{hour:02d}" for hour in shown], rows[::-1]), dressed(style)],
    )


def _factors(columns: list[str], rows: list[str]):
    def hook(plot, element) -> None:
        figure = plot.handles["plot"]
        figure.x_range.factors, figure.y_range.factors = columns, rows
        for axis in (*figure.xaxis, *figure.yaxis):
            axis.axis_line_color = None

    return hook


def contribution(groups: dict[str, np.ndarray], style: Style, *, most: int = 20) -> hv.Bars:
    """Profit of each group (see `analysis.group_trades`), best on top; the extremes when there are more than `most`."""
    size = len(groups["group"])
    rows = (
        np.arange(size) if size <= most else np.concatenate((np.arange(most // 2), np.arange(size - most // 2, size)))
    )
    names = np.array([_short(name) for name in groups["group"][rows]])[::-1]
    pnl = groups["pnl"][rows][::-1]
    cells = {
        "group": names,
        "pnl": pnl,
        "trades": groups["trades"][rows][::-1],
        "color": np.where(pnl >= 0, style.gain, style.loss),
    }
    return hv.Bars(cells, "group", ["pnl", "trades", "color"], label="contribution").opts(
        **PLAIN,
        height=max(130, 26 * len(rows) + 60),
        invert_axes=True,
        color="color",
        line_color=None,
        bar_width=0.62,
        xlabel="",
        ylabel="Profit",
        show_legend=False,
        show_grid=True,
        tools=[hover([("", "@group"), ("Profit", "@pnl{0,0.00}"), ("Trades", "@trades")])],
        hooks=[money_axis("x"), _zero_line(style, "height"), dressed(style)],
    )


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
