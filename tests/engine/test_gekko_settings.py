"""Gekko's configuration: what the original swallows is swallowed, what makes it fail is named."""

import copy

import pytest

from engine import gekko_backtest
from engine.errors import Invalid
from engine.gekko_settings import METHODS, read_settings
from tests.engine.gekko_golden import candles, cases, wire


def config(path="", value=None, base="MACD-60-10"):
    """A request with one value replaced; `...` removes it."""
    made = copy.deepcopy(cases()[base]["request"])
    if path:
        *way, last = path.split(".")
        place = made
        for key in way:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return made


@pytest.mark.parametrize(("path", "value", "field"), [
    ("tradingAdvisor", ..., "tradingAdvisor"), ("tradingAdvisor", [], "tradingAdvisor"),
    ("tradingAdvisor.method", "../MACD", "tradingAdvisor.method"),
    ("tradingAdvisor.method", {}, "tradingAdvisor.method"), ("MACD.short", 10**400, "MACD.short"),
    ("tradingAdvisor.method", ..., "tradingAdvisor.method"),
    ("tradingAdvisor.candleSize", "60", "tradingAdvisor.candleSize"),
    ("tradingAdvisor.candleSize", ..., "tradingAdvisor.candleSize"),
    ("tradingAdvisor.candleSize", True, "tradingAdvisor.candleSize"),
    ("MACD", ..., "MACD"), ("MACD.thresholds", ..., "MACD.thresholds.up"), ("MACD.short", "ten", "MACD.short"),
    ("MACD.thresholds.persistence", None, "MACD.thresholds.persistence"),
    ("paperTrader.feeMaker", ..., "paperTrader.feeMaker"), ("paperTrader.feeMaker", "0.1", "paperTrader.feeMaker"),
    ("paperTrader.simulationBalance", ..., "paperTrader.simulationBalance"),
    ("paperTrader.simulationBalance.asset", None, "paperTrader.simulationBalance.asset"),
    ("paperTrader", 7, "paperTrader"), ("backtestResultExporter", ..., "backtestResultExporter"),
    ("backtestResultExporter.enabled", False, "backtestResultExporter.enabled"),
    ("backtestResultExporter.data", 1, "backtestResultExporter.data"), ("watch", ..., "watch"), ("watch", "x", "watch"),
    ("backtest.batchSize", 0, "backtest.batchSize"), ("backtest.batchSize", "x", "backtest.batchSize"),
    ("backtest.daterange", {"from": "2018-02-01", "to": "2018-01-01"}, "backtest.daterange.to"),
    ("backtest.daterange", {"from": "soon", "to": "2018-01-01"}, "backtest.daterange.from"),
    ("backtest.daterange", {"from": "2010-01-01", "to": "2010-02-01"}, "backtest.daterange"),
])
def test_what_makes_the_original_fail_is_named(path, value, field):
    with pytest.raises(Invalid) as caught:
        gekko_backtest.run(config(path, value), candles("rw60d"))
    assert field in {problem.field for problem in caught.value.problems}
    assert all(problem.remedy for problem in caught.value.problems)


_PPO = {"weightLow": 1, "weightHigh": 1, "persistence": 0}


@pytest.mark.parametrize(("method", "section", "field"), [
    ("DEMA", {"weight": 0, "thresholds": {"up": 1, "down": 1}}, "DEMA.weight"),
    ("TMA", {"short": 1.5, "medium": 2, "long": 3}, "TMA.short"),
    ("UO", {"first": {}, "second": {"weight": 1, "period": 1}}, "UO.first.period"),
    ("CCI", {"constant": 1, "history": 1e300, "thresholds": {"up": 1, "down": 1, "persistence": 0}}, "CCI.history"),
    ("tulip-adx", {"optInTimePeriod": 1, "thresholds": {"up": 1, "down": 1}}, "tulip-adx.optInTimePeriod"),
    ("tulip-macd", {"parameters": {"optInFastPeriod": 9, "optInSlowPeriod": 5, "optInSignalPeriod": 3},
                    "thresholds": {"up": 1, "down": 1}}, "tulip-macd.parameters.optInFastPeriod"),
    ("varPPO", {"momentum": "MFI", "thresholds": _PPO}, "varPPO.momentum"),
    ("varPPO", {"momentum": "TSI", "thresholds": _PPO}, "PPO"),
    ("varPPO", {"momentum": "RSI", "thresholds": _PPO}, "varPPO.momentum"),
    ("varPPO", 5, "varPPO"), ("varPPO", None, "varPPO"),
])
def test_settings_of_no_use_to_a_strategy_are_named(method, section, field):
    made = config("tradingAdvisor.method", method)
    made[method] = section
    with pytest.raises(Invalid) as caught:
        read_settings(made)
    assert field in {problem.field for problem in caught.value.problems}
    assert all(problem.remedy for problem in caught.value.problems)


def report(path="", value=None, base="MACD-60-10"):
    return gekko_backtest.run(config(path, value, base), candles("rw60d"))


def test_what_the_original_ignores_changes_nothing():
    expected = report().answer()
    made = config()
    made["paperTrader"] |= {"slippage": 50, "fee": 9, "feeTaker": 3, "reportInCurrency": False}
    made |= {"adapter": "sqlite", "sqlite": {"path": "/etc/passwd"}, "debug": False, "valid": True, "mode": "realtime",
             "market": {"type": "leech"}, "adviceWriter": {"enabled": True}, "type": "x", "data": 3}
    made["backtestResultExporter"] |= {"writeToDisk": True, "filename": "../../x"}
    assert gekko_backtest.run(made, candles("rw60d")).answer() == expected


def test_without_history_size_nothing_is_traded():
    for value in (..., "many", 5000, {}):
        made = report("tradingAdvisor.historySize", value)
        assert made.performanceReport is None and made.trades == [] and len(made.stratCandles) == 1440
    for value in (None, 0, 1, -5, "1", "0"):
        made = report("tradingAdvisor.historySize", value)
        assert made.performanceReport["startTime"] == "2018-01-01 00:59:00"
    assert report("tradingAdvisor.historySize", 2.5).performanceReport["startTime"] == "2018-01-01 02:59:00"


def test_any_number_is_a_candle_size():
    assert len(report("tradingAdvisor.candleSize", 60.0).stratCandles) == 1440
    assert len(report("tradingAdvisor.candleSize", -60).stratCandles) == 1440
    assert len(report("tradingAdvisor.candleSize", 7.5).stratCandles) == 86_400 // 15
    for size in (0, 0.3, 86_401, 1e30):
        assert report("tradingAdvisor.candleSize", size).stratCandles == [] or size == 0.3


def test_fees_are_the_maker_s_only_when_asked_for():
    assert {trade["feePercent"] for trade in report("paperTrader.feeUsing", "taker").trades} == {0.25}
    for using, percent in (("maker", 0.5), ("taker", 0.25), (None, 0.25), ("Maker", 0.25)):
        made = config("paperTrader.feeUsing", using)
        made["paperTrader"]["feeMaker"] = 0.5
        assert {trade["feePercent"] for trade in gekko_backtest.run(made, candles("rw60d")).trades} == {percent}


def test_plugins_that_are_off():
    made = report("paperTrader.enabled", False)
    assert made.trades == [] and made.performanceReport is None and len(made.advices) == 137
    made = report("performanceAnalyzer.enabled", False)
    assert len(made.trades) == 137 and made.roundtrips == [] and made.performanceReport is None
    assert report("performanceAnalyzer.riskFreeReturn", ...).performanceReport["sharpe"] is None


def test_only_what_was_asked_for_is_answered():
    made = report("backtestResultExporter.data", {"trades": False, "stratCandles": True, "stratCandleProps": [
        "vwp", "nonsense", "start", "open", "vwp"]})
    answer = made.answer()
    assert list(answer) == ["market", "tradingAdvisor", "strategyParameters", "performanceReport", "roundtrips",
                            "stratCandles"]
    assert list(answer["stratCandles"][0]) == ["vwp", "start", "open"]
    import json

    assert json.loads(made.json()) == wire(answer)
    assert "stratUpdates" not in report("backtestResultExporter.data", ...).answer()


def test_no_settings_are_no_strategy_parameters():
    made = config("tradingAdvisor.method", "noop")
    assert "strategyParameters" not in gekko_backtest.run(made, candles("rw60d")).answer()


def test_the_random_strategy_takes_a_seed():
    made = config("tradingAdvisor.method", "custom")
    runs = []
    for section in (None, {"my_custom_setting": 10}, {"seed": 5}, {"seed": 5}):
        made["custom"] = section
        runs.append(gekko_backtest.run(made, candles("rw60d")).trades)
    assert runs[0] == runs[1] != runs[2] == runs[3] and len(runs[2]) > 50


def test_varppo_with_rsi_never_advises_when_nothing_is_logged():
    made = config("varPPO.momentum", "RSI", base="varPPO-TSI")
    made |= {"debug": False, "RSI": {"interval": 14, "thresholds": {"low": 30, "high": 70, "persistence": 1}}}
    done = gekko_backtest.run(made, candles("rw60d"))
    assert done.advices == [] and list(done.stratUpdates[5]["indicators"]) == ["ppo", "rsi"]


def test_updates_of_the_libraries_are_empty_until_there_is_a_value():
    for base, name, first, keys in (
            ("tulip-macd-60-10", "mymacd", 20, ["macd", "macdSignal", "macdHistogram"]),
            ("talib-macd-60-10", "mymacd", 28, ["outMACD", "outMACDSignal", "outMACDHist"])):
        updates = [update["indicators"][name] for update in report(base=base).stratUpdates]
        assert updates[first - 1] == {} and list(updates[first]) == keys
    adx = [update["indicators"]["myadx"] for update in report(base="tulip-adx-60-10").stratUpdates]
    assert adx[27] == {} and isinstance(adx[28], float)
    cci = [update["indicators"]["cci"] for update in report(base="CCI-60-10").stratUpdates]
    assert cci[88] is False and isinstance(cci[89], float)


def test_every_path_names_a_parameter():
    from engine import strategies

    for method in METHODS.values():
        known = {parameter.name for parameter in strategies.get(method.strategy).parameters}
        assert set(method.paths) <= known


def test_fractions_of_periods_are_cut_off_by_the_libraries():
    whole = report(base="tulip-macd-60-10").trades
    assert report("tulip-macd.parameters.optInFastPeriod", 10.9, "tulip-macd-60-10").trades == whole
