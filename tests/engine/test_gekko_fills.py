"""Fill model "gekko": an ordinary result from Gekko's own trading."""

import numpy as np
import orjson
import pytest

from engine import gekko_backtest, result, simulate
from engine.errors import Invalid
from engine.fills.gekko_terms import read
from engine.spec import BacktestSpec
from tests.engine.gekko_golden import MARKET, candles, cases
from tests.engine.market_fakes import MemoryStore, walk

STORE = MemoryStore(candles("rw60d"))
MINUTE = 60_000_000


def spec(**changes):
    given = {"strategy": "gekko_macd", "markets": (MARKET.key,), "resolution": "1m", "cash": 1000.0,
             "fill_model": "gekko", "costs": {"fee_rate": 0.0025}, "fill_options": {"candle_size": 60}}
    return BacktestSpec.read({**given, **changes})


def config(name="MACD-60-10", **changes):
    return {**cases()[name]["request"], **changes}


def test_an_ordinary_run_is_gekko_s_run_with_the_same_settings(tmp_path):
    made = simulate.run(spec(), STORE)
    own = config()
    own["paperTrader"] = {**own["paperTrader"], "simulationBalance": {"asset": 0, "currency": 1000}}
    report = gekko_backtest.run(own, candles("rw60d"))
    said = made.extra["gekko"]["performanceReport"]
    assert {**said, "sharpe": None} == {**report.performanceReport, "sharpe": None}
    assert made.metrics["final_value"] == pytest.approx(report.performanceReport["balance"], rel=1e-9)
    assert made.tables["gekko_trades"]["price"].tolist() == [trade["price"] for trade in report.trades]
    fills, moved = made.tables["fills"], [trade for trade in report.trades if trade["cost"]]
    assert fills["price"].tolist() == [trade["price"] for trade in moved]
    assert (fills["time"] // 1_000_000 + 60).tolist() == [trade["date"] for trade in moved]
    assert fills["fee"] == pytest.approx([trade["cost"] for trade in moved], rel=1e-4)
    assert made.metrics["trades"] == len(report.roundtrips) and len(made.tables["indicators"]["macd"]) == 1440
    assert len(made.tables["equity"]["time"]) == 86_400
    made.save(tmp_path)
    orjson.dumps(made.summary(), option=orjson.OPT_SERIALIZE_NUMPY)
    again = result.load(tmp_path)
    np.testing.assert_array_equal(again.tables["gekko_candles"]["vwp"], report.candle_columns["vwp"])


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_whole_configuration_runs_with_its_own_strategy_and_balance(name):
    case = cases()[name]
    store = MemoryStore(candles(case["candles"]))
    made = simulate.run(spec(fill_options={"config": case["request"]}, strategy="gekko_noop"), store)
    report = made.extra["gekko"].get("performanceReport")
    assert report == case["backtest"].get("performanceReport")
    if report:
        assert made.metrics["final_value"] == pytest.approx(report["balance"], rel=1e-9)
        start = made.tables["fills"]
        assert start["reason"][0] == "initial" and start["quantity"][0] == 1 and start["fee"][0] == 0
        assert made.spec["cash"] == report["startBalance"]
    if name == "DEBUG_single-advice-60-10":
        assert made.tables["fills"]["reason"].tolist() == ["initial", "entry", "stop"]


def test_a_search_changes_a_configuration_s_parameters():
    changed = spec(fill_options={"config": config()}, strategy="gekko_macd", params={"short": 12, "persistence": 3})
    own = config()
    own["MACD"] = {**own["MACD"], "short": 12, "thresholds": {**own["MACD"]["thresholds"], "persistence": 3}}
    made = simulate.run(changed, STORE).extra["gekko"]["performanceReport"]
    assert made == gekko_backtest.run(own, candles("rw60d")).performanceReport
    assert made != cases()["MACD-60-10"]["backtest"]["performanceReport"]


def test_any_market_strategy_and_any_resolution_can_be_traded_so():
    market = walk(400, seed=2)
    made = simulate.run(spec(strategy="sma_cross", params={"fast": 5, "slow": 20}, markets=("demo:AAA/USD",),
                             resolution="1d", fill_options={}), MemoryStore(market))
    fills = made.tables["fills"]
    rows = np.searchsorted(market.time, fills["time"])
    np.testing.assert_array_equal(fills["price"], market.close[rows])
    assert len(rows) > 5 and (fills["side"][1:] != fills["side"][:-1]).all()
    report = made.extra["gekko"]["performanceReport"]
    assert report["endTime"] == "2021-02-04 00:00:00" and report["trades"] >= len(rows)


def test_the_single_advice_s_stop_looks_at_every_bar():
    made = simulate.run(spec(strategy="gekko_debug_single"), STORE)
    stop = cases()["DEBUG_single-advice-60-10"]["backtest"]["trades"][1]
    fills = made.tables["fills"]
    assert fills["reason"].tolist() == ["entry", "stop"]
    assert fills["price"][1] == stop["price"] and fills["time"][1] == (stop["date"] - 60) * 1_000_000


def test_a_search_over_a_gekko_strategy(tmp_path):
    from engine.candle_store import CandleStore
    from engine.reporter import Reporter
    from engine.trials import evaluate

    CandleStore(tmp_path).write(candles("rw60d").take(slice(0, 20_000)))
    job = {"spec": spec().model_dump(mode="json"), "candles": str(tmp_path), "objective": "total_return",
           "trials": [{"number": n, "params": {"up": up}} for n, up in enumerate((0.0, 5.0), 1)]}
    trials = evaluate(job, Reporter())["trials"]
    assert [trial["error"] for trial in trials] == [None] * len(trials)
    expected = simulate.run(spec(params={"up": 0.0}), MemoryStore(candles("rw60d").take(slice(0, 20_000))))
    assert trials[0]["metrics"]["total_return"] == expected.metrics["total_return"]


@pytest.mark.parametrize(("changes", "field"), [
    ({"direction": "both"}, "direction"), ({"costs": {"slippage": 0.01}}, "costs.slippage"),
    ({"costs": {"fixed_fee": 1}}, "costs.fixed_fee"), ({"sizing": {"value": 0.5}}, "sizing"),
    ({"fill_options": {"candle_size": 1.5}}, "fill_options.candle_size"),
    ({"fill_options": {"candleSize": 60}}, "fill_options.candleSize"), ({"params": {"x": 1}}, "params.x"),
    ({"fill_options": {"asset": -1}}, "fill_options.asset"), ({"fill_options": {"asset": "1"}}, "fill_options.asset"),
    ({"markets": ("a:B/C", "a:D/C")}, "markets"), ({"strategy": "momentum_rotation"}, "strategy"),
    ({"strategy": "nothing"}, "strategy"), ({"fill_options": {"config": {"tradingAdvisor": 3}}}, "tradingAdvisor"),
    ({"fill_options": {"config": [1]}}, "fill_options.config"),
    ({"fill_options": {"config": {}}, "params": {"nope": 1}}, "params.nope"),
])
def test_what_gekko_cannot_do_is_refused_before_anything_runs(changes, field):
    with pytest.raises(Invalid) as caught:
        read(spec(**changes))
    assert field in {problem.field for problem in caught.value.problems}
    assert all(problem.remedy for problem in caught.value.problems)


def test_reading_a_spec_needs_no_compiler():
    import subprocess
    import sys

    code = ("import sys; from engine.spec import BacktestSpec; from engine.fills.gekko_terms import read;"
            "read(BacktestSpec(strategy='gekko_macd', markets=('a:B/C',), fill_model='gekko'));"
            "print([m for m in ('numba', 'pandas', 'vectorbt') if m in sys.modules])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_too_short_a_range_is_told():
    made = simulate.run(spec(params={"history": 2000}), STORE)
    assert "warm_up" in {each["code"] for each in made.warnings} and made.metrics["fills"] == 0
    assert "performanceReport" not in made.extra["gekko"]
