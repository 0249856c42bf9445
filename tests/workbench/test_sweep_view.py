"""A search's report: figures, map, table and the parameters of a chosen trial, from what the API answers."""

import numpy as np
import pandas as pd
import pytest

from engine.plots import sweep as pictures
from workbench import pictures as notebook
from workbench.theme import DARK, LIGHT
from workbench.views.sweep import SweepReport, backtest_of

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # Bokeh's, with pandas 3.1


def search(size: int = 40, *, direction: str = "maximize", fill_model: str = "next_bar") -> tuple[dict, dict]:
    """Status and trials of a search over fast, slow and a switch."""
    rng = np.random.default_rng(3)
    score = rng.normal(0.5, 0.3, size)
    score[3] = np.nan
    trials = {
        "number": np.arange(size), "state": np.array(["completed"] * size, object),
        "params.fast": rng.integers(5, 9, size), "params.slow": rng.integers(20, 120, size),
        "params.mode": np.array(["a", "b"] * (size // 2), object), "objective": score,
        "metrics.total_return": score * 2, "metrics.max_drawdown": -np.abs(score) / 2,
        "seconds": np.full(size, 0.01), "error": np.array([None] * 3 + ["no bars"] + [None] * (size - 4), object),
    }
    best = int(np.nanargmin(score) if direction == "minimize" else np.nanargmax(score))
    status = {
        "id": "a" * 36, "kind": "optimization", "state": "completed", "name": "", "metrics": {"deflated_sharpe": 0.87},
        "spec": {"base": {"strategy": "sma_cross", "markets": ["demo:AAPL/USD"], "resolution": "1d", "start": None,
                          "params": {"slow": 9, "band": 0.1}, "fill_model": fill_model},
                 "parameters": {"fast": [5, 6, 7, 8], "slow": {"low": 20, "high": 119}, "mode": ["a", "b"]},
                 "dimensions": [{"name": "slow", "kind": "int_range", "low": 20.0, "high": 119.0, "values": []}],
                 "method": "random", "objective": "sharpe", "direction": direction, "seed": 1,
                 "validation": {"mode": "holdout", "fraction": 0.25, "windows": 3}},
        "trials": {"completed": size - 1, "failed": 1, "total": size, "running": 0},
        "best": {"number": best, "objective": float(score[best]), "metrics": {"total_return": 1.5},
                 "parameters": {"fast": 5, "slow": 30, "mode": "a"}},
        "diagnostics": {"generalization_gap_sharpe": 0.25, "top_trials": 5,
                        "parameter_stability": {"fast": {"stable": True}, "slow": {"stable": False}}},
    }
    return status, trials


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("look", ["light", "dark"])
def test_the_report_shows_what_the_search_found(direction, look):
    status, trials = search(direction=direction)
    told = []
    view = SweepReport(look=look, chosen=lambda number, parameters: told.append((number, parameters)))
    view.update(status, trials)
    figures, head = view._tiles.object, view._head.object
    for words in ("40 of 40", "Failed trials: 1", "87.0 %", "0.25", "1 of 2", "+150.00 %"):
        assert words in figures or words.replace(" %", "") in figures, words
    assert "slow 20 to 119" in head and "the last 25% of the data" in head
    ranked = view.table.value["Sharpe ratio (objective)"].dropna().to_numpy()
    assert (np.diff(ranked) >= 0).all() if direction == "minimize" else (np.diff(ranked) <= 0).all()
    assert view.table.value["error"].to_list()[-1] == "no bars", "failed trials come last and say why"
    view.table.selection = [0]
    number, parameters = told[-1]
    assert number == status["best"]["number"]
    assert parameters == {"fast": int(trials["params.fast"][number]), "slow": int(trials["params.slow"][number]),
                          "mode": trials["params.mode"][number]}
    assert backtest_of(status, parameters)["params"] == {"slow": parameters["slow"], "band": 0.1,
                                                         "fast": parameters["fast"], "mode": parameters["mode"]}


def test_the_map_follows_the_choices():
    view = SweepReport(look="light")
    view.update(*search())
    assert "Sharpe ratio runs from" in view._told.object and "at fast" in view._told.object
    view.y.value = "mode"
    view.figure.value = "metrics.max_drawdown"
    assert "drawdown" in view._told.object and "mode" in view._told.object
    view.y.value = "fast"
    assert "at fast" in view._told.object, "one parameter alone is drawn as points"


def test_a_running_search_without_trials_has_an_empty_map():
    status, trials = search()
    view = SweepReport(look="light")
    view.update({**status, "state": "running", "best": None, "diagnostics": {}, "metrics": {},
                 "trials": {"completed": 0, "failed": 0, "total": 40}},
                {name: rows[:0] for name, rows in trials.items()})
    assert "No trials yet" in view._map[0].object and "0 of 40" in view._tiles.object
    view.update(status, trials)
    assert len(view._table) == 1 and len(view._more[0]) == 4


def test_figures_of_a_dialect_keep_their_units():
    view = SweepReport(look="light")
    view.update(*search(fill_model="glowback"))
    assert "150" not in view._tiles.object and "1.50" in view._tiles.object


def test_a_map_puts_many_values_together_and_keeps_the_best():
    x, y = np.arange(500), np.array([True, False] * 250, object)
    score = np.linspace(-1, 1, 500)
    for lowest, extreme in ((False, 1.0), (True, -1.0)):
        cells = pictures.heatmap(x, y, score, LIGHT, xlabel="x", ylabel="y", objective="s", lowest=lowest)
        shown = cells.dimension_values("score")
        assert len(np.unique(cells.dimension_values("x"))) == pictures.PLACES
        assert (np.nanmin(shown) if lowest else np.nanmax(shown)) == extreme


def test_ramps_begin_and_end_with_the_known_colours():
    colours = pictures.ramp(DARK)
    assert (colours[0], colours[-1], len(colours)) == ("#1a2431", "#b3dcff", 64)
    assert pictures.ramp(DARK, lowest=True) == colours[::-1]


@pytest.mark.parametrize(("direction", "best"), [("maximize", 0.9), ("minimize", 0.1)])
def test_a_notebooks_map_names_the_objective_and_knows_which_end_is_best(direction, best):
    trials = pd.DataFrame({"params.fast": [5, 5], "params.slow": [20, 20], "objective": [0.1, 0.9]})
    drawn = notebook.heatmap(trials, "fast", "slow", "objective", spec={"objective": "sharpe", "direction": direction})
    assert drawn.opts.get().kwargs["clabel"] == "Sharpe ratio"
    assert drawn.dimension_values("score").tolist() == [best]
