"""A parameter sweep: heatmap of two parameters, slices of one, trials in the order they ran."""

import holoviews as hv
import numpy as np

from engine.plots.returns import PLAIN
from engine.plots.style import Style, dressed, hover

SEQUENTIAL = {
    "light": ("#f4f7fb", "#cfe0f1", "#9cc3e6", "#5c9fd6", "#2277bd", "#0a5796", "#083c6b"),
    "dark": ("#1a2431", "#1d3a57", "#1f527f", "#246da8", "#3a8fd0", "#6cb4ec", "#b3dcff"),
}


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
) -> hv.HeatMap:
    """Best score for each pair of parameter values (other parameters may vary). NaN scores are left out."""
    keep = np.isfinite(score)
    xs, column = np.unique(x[keep], return_inverse=True)
    ys, row = np.unique(y[keep], return_inverse=True)
    best = np.full(len(xs) * len(ys), -np.inf)
    np.maximum.at(best, column * len(ys) + row, score[keep])
    cell = np.flatnonzero(np.isfinite(best))
    cells = {
        "x": np.array([_text(xs[i]) for i in cell // len(ys)]) if len(cell) else np.empty(0, str),
        "y": np.array([_text(ys[i]) for i in cell % len(ys)]) if len(cell) else np.empty(0, str),
        "score": best[cell],
    }
    return hv.HeatMap(cells, ["x", "y"], "score", label="sweep").opts(
        **PLAIN,
        height=height,
        cmap=list(SEQUENTIAL[style.name]),
        colorbar=True,
        xlabel=xlabel,
        ylabel=ylabel,
        tools=[hover([(xlabel, "@x"), (ylabel, "@y"), (objective, "@score{0.0000}")])],
        line_color=style.surface,
        hooks=[_ordered([_text(value) for value in xs], [_text(value) for value in ys]), dressed(style)],
    )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _ordered(columns: list[str], rows: list[str]):
    def hook(plot, element) -> None:
        figure = plot.handles["plot"]
        figure.x_range.factors, figure.y_range.factors = columns, rows
        if len(columns) > 20:
            figure.xaxis[0].major_label_orientation = 1.1

    return hook


def scores(
    value: np.ndarray, score: np.ndarray, style: Style, *, xlabel: str, objective: str, height: int = 240
) -> hv.Scatter:
    """One parameter (or the number of the trial) against the objective; the best trial is larger."""
    keep = np.isfinite(score)
    value, score = value[keep], score[keep]
    size = np.full(len(score), 5.0)
    if len(score):
        size[int(np.argmax(score))] = 12.0
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
) -> hv.Contours:
    """Parallel coordinates: each trial a line over its numeric parameters and its score, every axis scaled to 0..1."""
    keep = np.flatnonzero(np.isfinite(score))
    keep = keep[np.argsort(score[keep], kind="stable")][-most:]
    axes = [*columns, objective]
    stacked = np.column_stack([*(np.asarray(columns[name], float)[keep] for name in columns), score[keep]])
    low, span = stacked.min(0), np.ptp(stacked, axis=0)
    scaled = (stacked - low) / np.where(span > 0, span, 1.0)
    at = np.arange(len(axes), dtype=float)
    paths = [{"axis": at, "level": row, "score": float(score[trial])} for row, trial in zip(scaled, keep, strict=True)]
    ticks = [(float(i), name) for i, name in enumerate(axes)]
    return hv.Contours(paths, ["axis", "level"], "score", label="parallel").opts(
        **PLAIN,
        height=height,
        cmap=list(SEQUENTIAL[style.name][2:]),
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
