"""Backtests of detectors: counts by hand, the portfolio beside them, errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import simulate, times
from engine.candle_store import CandleStore
from engine.detector_backtest import figures, statistics
from engine.errors import Invalid
from engine.result import load
from engine.spec import BacktestSpec
from engine.worker import run_batch
from tests.server.alert_candles import ABOVE, BEGIN, BREAK, CALM, LOSE, MARKET, PARAMS, RETEST, WIN, candles, wandering

# an alert that loses 1 R, one that wins 2 R, one that is aborted (missed), one that is open at the end; between them a
# bar that lets the channel down without a close outside it
MISSED = [(103.0, 107.0, 103.0, 103.0)]
DOWN = [(103.0, 103.0, 100.0, 102.5)]
ROWS = [*CALM, *BREAK, *ABOVE, *RETEST, *LOSE, *CALM, *BREAK, *RETEST, *WIN, *DOWN, *CALM, *BREAK, *MISSED, *DOWN,
        *CALM, *BREAK, *RETEST]


def spec(**changes: Any) -> BacktestSpec:
    return BacktestSpec.model_validate({
        "strategy": "breakout_retest_short", "params": PARAMS, "markets": [MARKET.key], "resolution": "1m",
        "fill_model": "alerts", "direction": "both", "cash": 10_000.0, "fill_options": {"bar": "1m"}} | changes)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    made = CandleStore(tmp_path / "candles")
    made.write(candles(ROWS))
    return made


def test_four_alerts_by_hand(store: CandleStore) -> None:
    result = simulate.run(spec(), store)
    table = result.tables["alerts"]
    assert list(zip(table["state"], table["gain"], table["r"], table["end"], strict=True))[:2] == [
        ("closed", -2.0, -1.0, "stop hit"), ("closed", 4.0, 2.0, "target reached")]
    assert list(table["state"][2:]) == ["aborted", "onGoing"]
    assert set(table["direction"]) == {"BUY"} and set(table["duration"]) == {"short"}
    assert table["started_at"][0] == BEGIN + 7 * times.MINUTE and table["ended_at"][0] == BEGIN + 8 * times.MINUTE
    whole = result.extra["alerts"]["all"]
    expected = {"alerts": 4, "open": 1, "aborted": 1, "started": 3, "closed": 2, "won": 1, "start_rate": 0.75,
                "hit_rate": 0.5, "average_r": 0.5, "average_win_r": 2.0, "average_loss_r": -1.0,
                "expectancy_r": pytest.approx(1 / 3), "total_r": 1.0, "best_r": 2.0, "worst_r": -1.0,
                "profit_factor": 2.0, "average_gain": 1.0, "seconds_to_start": 60.0, "seconds_in_market": 60.0,
                "ends": {"missed: the target was reached before the start": 1, "stop hit": 1, "target reached": 1}}
    assert {name: whole[name] for name in expected} == expected
    assert 0.09 < whole["hit_rate_low"] < 0.1 and 0.9 < whole["hit_rate_high"] < 0.91  # Wilson's for 1 of 2
    assert result.extra["alerts"]["short BUY"] == result.extra["alerts"]["BUY"] == whole
    assert result.extra["alerts"]["SELL"]["alerts"] == 0 and result.extra["alerts"]["SELL"]["hit_rate"] is None


def test_the_portfolio_risks_a_hundredth_between_start_and_stop(store: CandleStore) -> None:
    result = simulate.run(spec(), store)
    trades = result.tables["roundtrips"]
    # 1 % of 10,000 over a risk of 2.00 a unit: 50 units; -2.00 and +4.00 a unit
    assert list(trades["quantity"]) == [50.0] * 3 and list(trades["status"]) == ["closed", "closed", "open"]
    assert list(trades["pnl"][:2]) == [-100.0, 200.0]
    assert [str(each) for each in result.tables["fills"]["reason"]] == ["start", "stop", "start", "target", "start"]
    costly = simulate.run(spec(costs={"slippage": 0.01, "fee_rate": 0.001}), store)
    first = {name: column[0] for name, column in costly.tables["fills"].items()}
    assert first["price"] == 102.0 * 1.01 and first["fee"] == pytest.approx(0.001 * 50 * 102.0 * 1.01)
    assert np.array_equal(costly.tables["alerts"]["r"], result.tables["alerts"]["r"], equal_nan=True)  # without costs
    cut = simulate.run(spec(fill_options={"bar": "1m", "risk": 0.5}), store)
    assert cut.tables["fills"]["quantity"][0] == pytest.approx(10_000 / 102)
    assert "orders_cut" in [warning["code"] for warning in cut.warnings]


def test_the_job_of_a_pool_process_leaves_a_whole_result(store: CandleStore, tmp_path: Path) -> None:
    job = {"key": "a", "kind": "backtest", "run_id": "a", "spec": spec().model_dump(mode="json"),
           "candles": str(store.root), "results": str(tmp_path / "result")}
    reports: list[Any] = []
    finals = run_batch([job], lambda *report: reports.append(report), lambda key: False)
    assert finals["a"][0] == "done", finals
    result = load(tmp_path / "result")
    assert list(result.tables["alerts"]["state"]) == ["closed", "closed", "aborted", "onGoing"]
    assert result.extra["alerts"]["all"]["won"] == 1 and result.metrics["trades"] == 3
    assert any("4 alerts" in line for line in result.logs)


def test_several_markets_and_a_quiet_one(tmp_path: Path) -> None:
    from engine.model import Market

    store = CandleStore(tmp_path / "candles")
    other, still = Market("test", "ETH", "USD"), Market("test", "FLAT", "USD")
    store.write(wandering(5_000, 1))
    store.write(wandering(5_000, 2, market=other))
    store.write(candles([(1.0, 1.0, 1.0, 1.0)] * 5_000, market=still))
    result = simulate.run(spec(params={}, markets=[MARKET.key, other.key, still.key]), store)
    table = result.tables["alerts"]
    assert set(table["symbol"]) == {MARKET.key, other.key} and (np.diff(table["detected_at"]) >= 0).all()
    counted = result.extra["alerts"]
    for name in ("alerts", "closed", "won", "aborted", "open"):
        assert counted["all"][name] == counted["BUY"][name] + counted["SELL"][name] > 0 or name == "open"


def test_no_alert_at_all_is_a_result_too(tmp_path: Path) -> None:
    store = CandleStore(tmp_path / "candles")
    store.write(candles([(1.0, 1.0, 1.0, 1.0)] * 50))
    result = simulate.run(spec(), store)
    assert len(result.tables["alerts"]["time"]) == 0 and result.metrics["trades"] == 0
    assert result.extra["alerts"]["all"]["expectancy_r"] is None


@pytest.mark.parametrize(("changes", "field"), [
    ({"strategy": "sma_cross"}, "strategy"), ({"params": {"channel": 0}}, "params.channel"),
    ({"direction": "long"}, "direction"), ({"fill_options": {"bar": "90s"}}, "fill_options.bar"),
    ({"fill_options": {"bar": "1m", "risk": 2}}, "fill_options.risk"), ({"resolution": "1h"}, "fill_options.bar"),
], ids=["detector", "params", "direction", "bar", "risk", "resolution"])
def test_what_cannot_work_is_said(store: CandleStore, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        simulate.run(spec(**changes), store)
    assert error.value.problems[0].field == field


def test_statistics_of_no_table_are_all_there(store: CandleStore) -> None:
    table = {name: column[:0] for name, column in simulate.run(spec(), store).tables["alerts"].items()}
    assert figures(table)["alerts"] == 0
    assert set(statistics(table)) == {"all", "BUY", "SELL"}
