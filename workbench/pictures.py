"""Pictures that runs, sweeps and comparisons show of themselves in a notebook cell."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import NotFound

if TYPE_CHECKING:
    import pandas as pd


def _extension() -> None:
    """Make HoloViews show itself in this notebook, without asking any other server for scripts."""
    import holoviews as hv

    if not hv.extension._loaded:  # that the backend is known does not mean that cells can display it
        hv.extension("bokeh", logo=False, inline=True)


def _micros(index: Any) -> np.ndarray:
    return index.as_unit("us").asi8


def equity(name: str, table: "pd.DataFrame") -> Any:
    """Cumulative return of a run beside its benchmark (HoloViews)."""
    _extension()
    from engine.plots.equity import compared
    from workbench.theme import style

    time = _micros(table.index)
    curves = {name: (time, (table["value"] / table["value"].iloc[0] - 1).to_numpy())}
    if "benchmark" in table and np.isfinite(table["benchmark"].to_numpy(float)).any():
        curves["Benchmark"] = (time, (table["benchmark"] / table["benchmark"].iloc[0] - 1).to_numpy())
    return compared(curves, style(None))


def equities(tables: "Mapping[str, pd.DataFrame]") -> Any:
    """Cumulative returns of several runs (HoloViews)."""
    _extension()
    from engine.plots.equity import compared
    from workbench.theme import style

    return compared({name: (_micros(table.index), (table["value"] / table["value"].iloc[0] - 1).to_numpy())
                     for name, table in tables.items()}, style(None))


def heatmap(trials: "pd.DataFrame", x: str, y: str, value: str, *, spec: Mapping[str, Any]) -> Any:
    """The best of `value` for each pair of two swept parameters (HoloViews). `spec` is the sweep's: it says
    which figure the objective is, and whether the lowest is best."""
    _extension()
    from engine.metrics import METRICS
    from engine.plots.sweep import heatmap as drawn
    from workbench.theme import style

    def column(name: str) -> np.ndarray:
        for known in (name, f"params.{name}", f"metrics.{name}"):
            if known in trials.columns:
                return trials[known].to_numpy()
        raise NotFound(f"the trials have no column {name!r}", remedy="there are " + ", ".join(map(str, trials.columns)))

    key = str(spec.get("objective", value)) if value == "objective" else value.removeprefix("metrics.")
    return drawn(column(x), column(y), column(value).astype(float), style(None), xlabel=x, ylabel=y,
                 objective=METRICS[key].name if key in METRICS else key,
                 lowest=value == "objective" and spec.get("direction") == "minimize")
