"""A parameter sweep: heatmap of two parameters, slices of one, trials in the order they ran."""

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.plots.backend import hv
from engine.plots.returns import PLAIN
from engine.plots.style import Style, dressed, hover

LETTERS = 60
"""What fits below a map side by side; longer names of columns are turned."""
PLACES = 20
"""Columns or rows of a map at most; more different numbers than these are put together."""
SEQUENTIAL = {
    "light": ("#f4f7fb", "#cfe0f1", "#9cc3e6", "#5c9fd6", "#2277bd", "#0a5796", "#083c6b"),
    "dark": ("#1a2431", "#1d3a57", "#1f527f", "#246da8", "#3a8fd0", "#6cb4ec", "#b3dcff"),
}


def ramp(style: Style, begin: int = 0, *, lowest: bool = False, steps: int = 64) -> list[str]:
    """Many colours between the sequential ones from `begin` on; turned round when the `lowest` value is best."""
    known = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in SEQUENTIAL[style.name][begin:]])
    at = np.linspace(0, len(known) - 1, steps)
    mixed = np.column_stack([np.interp(at, np.arange(len(known)), known[:, part]) for part in range(3)]).round()
    return ["#" + "".join(f"{int(part):02x}" for part in color) for color in (mixed[::-1] if lowest else mixed)]


def heatmap(
    x: np.ndarray,
    y: np.ndarray,
    score: np.ndarray,
    style: Style,
    *,
    xlabel: str,
    ylabel: str,
    objective: str,
    height: int = 380,
    lowest: bool = False,
) -> hv.HeatMap:
    """Best score for each pair of parameter values (other parameters may vary). NaN scores are left out.

    The highest is best, or the `lowest`.
    """
    keep = np.isfinite(score)
    sign = -1.0 if lowest else 1.0
    xs, column = _places(x[keep])
    ys, row = _places(y[keep])
    best = np.full(len(xs) * len(ys), -np.inf)
    np.maximum.at(best, column * len(ys) + row, sign * score[keep])
    cell = np.flatnonzero(np.isfinite(best))
    cells = {
        "x": xs[cell // len(ys)] if len(cell) else np.empty(0, str),
        "y": ys[cell % len(ys)] if len(cell) else np.empty(0, str),
        "score": sign * best[cell],
    }
    return hv.HeatMap(cells, ["x", "y"], "score", label="sweep").opts(
        **PLAIN,
        height=height,
        cmap=ramp(style, 1, lowest=lowest),  # what is paler has no trial
        colorbar=True,
        clabel=objective,
        xlabel=xlabel,
        ylabel=ylabel,
        tools=[hover([(xlabel, "@x"), (ylabel, "@y"), (objective, "@score{0.0000}")])],
        line_color=style.surface,
        clipping_colors={"NaN": style.raised},
        hooks=[_ordered(list(xs), list(ys)), dressed(style)],
    )


def _places(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The names of an axis' places, in order, and the place of each value; many different numbers share `PLACES`."""
    known, place = np.unique(values.astype(str) if values.dtype.kind == "O" and not _numbers(values) else
                             values.astype(float) if values.dtype.kind == "O" else values, return_inverse=True)
    if len(known) <= PLACES or known.dtype.kind not in "fiu":
        return np.array([_text(value) for value in known], dtype=str), place
    low, high = float(known[0]), float(known[-1])
    if known.dtype.kind in "iu" or not (known % 1).any():  # whole numbers: whole bounds that do not overlap
        edges = np.unique(np.linspace(low, high + 1, PLACES + 1).round())
        names = [_text(first) if first == last else f"{first:g}–{last:g}"
                 for first, last in zip(edges[:-1], edges[1:] - 1, strict=True)]
    else:
        edges = np.linspace(low, high, PLACES + 1)
        names = [f"{edges[i]:.4g}–{edges[i + 1]:.4g}" for i in range(PLACES)]
    place = np.clip(np.searchsorted(edges, values.astype(float), side="right") - 1, 0, len(names) - 1)
    return np.array(names, dtype=str), place


def _numbers(values: np.ndarray) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _ordered(columns: list[str], rows: list[str]) -> Callable[[Any, Any], None]:
    def hook(plot: Any, element: Any) -> None:
        figure = plot.handles["plot"]
        figure.x_range.factors, figure.y_range.factors = columns, rows
        if sum(map(len, columns)) > LETTERS:
            figure.xaxis[0].major_label_orientation = 1.1

    return hook


def scores(
    value: np.ndarray, score: np.ndarray, style: Style, *, xlabel: str, objective: str, height: int = 240,
    lowest: bool = False,
) -> hv.Scatter:
    """One parameter (or the number of the trial) against the objective; the best trial is larger."""
    keep = np.isfinite(score)
    value, score = value[keep], score[keep]
    size = np.full(len(score), 5.0 if len(score) > 60 else 8.0)
    if len(score):
        size[int(np.argmin(score) if lowest else np.argmax(score))] = 13.0
    return hv.Scatter({"value": value, "score": score, "size": size}, "value", ["score", "size"], label="trials").opts(
        **PLAIN,
        height=height,
        color=style.strategy,
        alpha=0.6,
        size="size",
        line_color=style.surface,
        xlabel=xlabel,
        ylabel=objective,
        show_grid=True,
        hooks=[dressed(style)],
        tools=[hover([(xlabel, "@value"), (objective, "@score{0.0000}")])],
    )


def parallel(
    columns: dict[str, np.ndarray],
    score: np.ndarray,
    style: Style,
    *,
    objective: str,
    most: int = 500,
    height: int = 320,
    lowest: bool = False,
) -> hv.Contours:
    """Parallel coordinates: each trial a line over its numeric parameters and its score, every axis scaled to 0..1."""
    keep = np.flatnonzero(np.isfinite(score))
    keep = keep[np.argsort(-score[keep] if lowest else score[keep], kind="stable")][-most:]  # the best drawn last
    axes = [*columns, objective]
    stacked = np.column_stack([*(np.asarray(columns[name], float)[keep] for name in columns), score[keep]])
    low, span = stacked.min(0), np.ptp(stacked, axis=0)
    scaled = (stacked - low) / np.where(span > 0, span, 1.0)
    at = np.arange(len(axes), dtype=float)
    paths = [{"axis": at, "level": row, "score": float(score[trial])} for row, trial in zip(scaled, keep, strict=True)]
    ticks = [(float(i), f"{name}\n{least:.4g} to {least + width:.4g}".replace("-", "−"))
             for i, (name, least, width) in enumerate(zip(axes, low, span, strict=True))]
    return hv.Contours(paths, ["axis", "level"], "score", label="parallel").opts(
        **PLAIN,
        height=height,
        cmap=ramp(style, 2, lowest=lowest),
        clabel=objective,
        line_width=1.2,
        alpha=0.7,
        xticks=ticks,
        xlabel="",
        ylabel="low … high",
        yticks=[(0.0, "low"), (1.0, "high")],
        colorbar=True,
        tools=[hover([(objective, "@score{0.0000}")])],
        hooks=[dressed(style)],
    )
