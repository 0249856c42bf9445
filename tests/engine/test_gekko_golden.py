"""Gekko's engine gives the figures of the real program to the last bit."""

from datetime import UTC, datetime

import numpy as np
import pytest

from engine import gekko_backtest
from tests.engine.gekko_golden import candles, cases, recorded, wire

NAMES = sorted(cases())


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def test_every_strategy_of_the_original_has_a_case_but_the_random_one():
    from engine.gekko_settings import METHODS

    tried = {case["request"]["tradingAdvisor"]["method"] for case in cases().values()}
    assert set(METHODS) - tried == {"custom"} and len(METHODS) == 18


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_the_original_s(name):
    case = cases()[name]
    report = gekko_backtest.run(case["request"], candles(case["candles"]))
    expected, answer = case["backtest"], wire(report.answer())
    for key, value in expected.items():
        assert answer[key] == value, key
    assert ("performanceReport" in answer) == ("performanceReport" in expected)
    assert [key for key in answer if key in expected] == list(expected)
    for key in ("performanceReport", "roundtrips", "trades"):  # their keys come in the same order too
        ours, theirs = answer.get(key), expected.get(key)
        if theirs:
            assert list(ours if key == "performanceReport" else ours[0]) == \
                list(theirs if key == "performanceReport" else theirs[0])
    advices = [{**each, "date": iso(each["date"])} for each in report.advices]
    assert wire(advices) == case["advices"]


@pytest.mark.parametrize("name", [
    "MACD-60-10", "PPO-60-10", "one-trade", "noop-60-10", "CCI-60-10", "tulip-multi-strat-60-10", "tulip-adx-60-10",
    "DEMA-60-10", "varPPO-TSI", "talib-macd-60-10", "TSI-60-10"])
def test_json_in_parts_is_the_same_answer(name, monkeypatch):
    import json

    case = cases()[name]
    monkeypatch.setattr("engine.gekko_text.ROWS", 97)
    report = gekko_backtest.run(case["request"], candles(case["candles"]))
    assert report.lists() == ["stratUpdates", "roundtrips", "stratCandles", "trades"]
    assert json.loads(report.json()) == wire(report.answer())
    for key, value in case["backtest"].items():
        assert json.loads(report.json())[key] == value


@pytest.mark.parametrize("name", sorted(recorded()))
def test_an_answer_of_its_server_is_met_whole_and_in_order(name):
    import json

    case = recorded()[name]
    answer = gekko_backtest.run(case["request"], candles("rw60d")).json()
    assert json.loads(answer) == case["answer"]
    kept = [json.loads(text, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
            for text in (answer, json.dumps(case["answer"]))]
    assert kept[0] == kept[1]


def test_the_portfolio_s_value_is_the_original_s_after_every_event():
    case = cases()["DEBUG_toggle-1-0.ALLEVENTS"]
    expected: dict[str, float] = {}
    for event in case["events"]:  # of several values in one minute the last
        if event["type"] == "stratCandle":
            now = event["payload"]["start"]
        elif event["type"] == "portfolioValueChange":
            expected[now] = event["payload"]["balance"]
    request = {**case["request"], "backtestResultExporter": {"enabled": True, "data": {
        "stratCandles": True, "portfolioValues": True, "stratCandleProps": ["close"]}}}
    rows = wire(gekko_backtest.run(request, candles(case["candles"])).stratCandles)
    starts = [row["start"] for row in rows]
    assert len(rows) == 241 and "portfolioValue" not in rows[0]
    assert list(rows[1]) == ["close", "start", "portfolioValue"]
    seen = expected[iso(starts[0])]
    for before, row in zip(starts, rows[1:], strict=False):
        seen = expected.get(iso(before), seen)
        assert row["portfolioValue"] == seen


def test_by_reference_values_are_as_clients_know_them_and_right_elsewhere():
    case = cases()["PPO-60-10"]
    report = gekko_backtest.run(case["request"], candles(case["candles"]))
    assert all(trade["portfolio"] == report.trades[-1]["portfolio"] for trade in report.trades)
    for trade, after in zip(report.trades, report.portfolios, strict=True):
        assert after["asset"] == (trade["amount"] if trade["action"] == "buy" else 0)
        assert after["currency"] == (0 if trade["action"] == "buy" else pytest.approx(trade["balance"]))
    shown = [update["indicators"]["ppo"] for update in report.stratUpdates]
    assert all(each == shown[-1] for each in shown)
    right = [each["ppo"] for each in report.indicators]
    assert right[-1] == shown[-1] and right[0]["shortEMA"] == pytest.approx(report.stratCandles[0]["close"])
    assert len({each["ppo"] for each in right[1:]}) > 1400


def test_progress_reaches_the_reporter():
    from engine.errors import Cancelled
    from engine.reporter import Reporter

    class Stopping(Reporter):
        def progress(self, fraction, message=""):
            raise Cancelled("stop")

    case = cases()["DEBUG_toggle-1-0.ALLEVENTS"]
    with pytest.raises(Cancelled):
        gekko_backtest.run(case["request"], candles(case["candles"]), Stopping())


def test_candles_without_vwp_and_trades_use_the_close():
    from dataclasses import replace

    bare = replace(candles("rw60d"), extra={})
    report = gekko_backtest.run(cases()["MACD-60-10"]["request"], bare)
    rows = report.stratCandles
    np.testing.assert_allclose(
        [row["vwp"] for row in rows[:3]],
        [np.average(bare.close[k * 60:k * 60 + 60], weights=bare.volume[k * 60:k * 60 + 60]) for k in range(3)])
    assert rows[0]["trades"] == 0
    assert wire(report.trades) == cases()["MACD-60-10"]["backtest"]["trades"]
