"""The form for a backtest, filled with what an earlier run was asked."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from engine.model import Run
from engine.spec import BacktestSpec
from workbench.requests import backtest_body, sweep_body
from workbench.views.form_values import asked, may_change, values_text
from workbench.views.new_backtest import numbers

AT = datetime(2026, 1, 1, tzinfo=UTC)


def run(spec: dict, **words) -> Run:
    return Run(**{"id": "1", "kind": "backtest", "state": "completed", "progress": 1, "created_at": AT, "spec": spec,
                  **words})


def whole(**words) -> dict:
    """The spec as the server keeps it."""
    body = backtest_body("sma_cross", "demo:AAPL/USD", fast=7, slow=30, start="2010-01-04", fee_rate=0.002,
                         sizing=0.5, **words)
    return BacktestSpec.model_validate(body).model_dump(mode="json")


def test_what_was_asked_fills_the_fields():
    values = asked(run(whole(benchmark="demo:IBM/USD", seed=3), name="Averages", tags=("calm", "tech")))
    assert values["strategy"] == "sma_cross" and values["markets"] == ["demo:AAPL/USD"]
    assert values["params"] == {"fast": 7, "slow": 30} and values["swept"] == {}
    assert values["start"] == date(2010, 1, 4) and values["end"] is None
    assert values["costs.fee_rate"] == 0.002 and values["sizing.value"] == 0.5 and values["sizing.kind"] == "fraction"
    assert values["benchmark"] == "demo:IBM/USD" and values["seed"] == 3
    assert values["name"] == "Averages" and values["tags"] == "calm, tech"


def test_what_was_searched_is_written_as_it_is_typed():
    body = sweep_body("sma_cross", "demo:AAPL/USD", fast=[5, 10], slow={"low": 20, "high": 40, "step": 10},
                      method="random", max_trials=30, objective="calmar", validation={"mode": "holdout"})
    values = asked(run({**body, "base": whole()}, kind="optimization"))
    assert values["swept"] == {"fast": "5, 10", "slow": "20:40:10"}
    assert [numbers(text, whole=True) for text in values["swept"].values()] == [[5, 10], [20, 30, 40]]
    assert (values["method"], values["max_trials"], values["objective"]) == ("random", 30, "calmar")
    assert values["validation"] == "holdout"


@pytest.mark.parametrize(("told", "typed"), [
    ({"low": 5, "high": 100}, "5:100:9"), ({"low": 0.5, "high": 4.5}, "0.5:4.5:0.4"), ([0.25, 1.0], "0.25, 1"),
    (7, "7"),
])
def test_values_are_typed_with_ten_steps_where_none_was_said(told, typed):
    assert values_text(told) == typed
    assert numbers(typed, whole=False)


def test_the_form_knows_no_files_and_no_other_fill_models():
    spec = whole()
    assert may_change(run(spec))
    assert may_change(run({"base": spec, "parameters": {}}, kind="optimization"))
    assert not may_change(run({**spec, "fill_model": "glowback"}))
    assert not may_change(run({**spec, "source": "csv"}))
    assert not may_change(replace(run({}), kind="live"))
