"""The compiled engine against a slow second one, over settings, candle sizes, fees, stops and gaps at random."""

from dataclasses import replace

import numpy as np
import pytest

from engine.candles import Candles
from engine.gekko_backtest import simulate
from engine.gekko_settings import read_settings
from engine.model import Market
from tests.engine.gekko_golden import candles as golden
from tests.engine.gekko_golden import cases, wire
from tests.engine.gekko_oracle import Gekko

METHODS = ("MACD", "PPO", "DEMA", "TMA", "RSI", "StochRSI", "TSI", "UO", "CCI", "DEBUG_toggle-advice",
           "DEBUG_single-advice", "noop")


def minutes(random, rows):
    """Candles with flat stretches, jumps, minutes without volume, and holes."""
    step = random.normal(0, random.choice([0.0005, 0.004, 0.02]), rows) * (random.random(rows) < 0.8)
    close = np.round(random.choice([0.05, 7.0, 8000.0]) * np.exp(np.cumsum(step)), random.choice([2, 6]))
    close = np.maximum(close, 0.01)
    opened = np.concatenate((close[:1], close[:-1]))
    spread = close * random.random(rows) * 0.002
    volume = np.where(random.random(rows) < 0.2, 0, np.round(random.random(rows) * 9, 8))
    time = (1_514_764_800 + 60 * np.sort(random.choice(rows + rows // 20, rows, replace=False))) * 1_000_000
    return Candles(market=Market("a", "B", "C"), resolution=60, time=time.astype(np.int64), open=opened, close=close,
                   high=np.maximum(opened, close) + spread, low=np.minimum(opened, close) - spread, volume=volume,
                   extra={"vwp": (opened + close) / 2, "trades": np.floor(volume)})


def settings_of(random, method):
    pick = lambda *values: random.choice(np.array(values)).item()  # noqa: E731
    bounds = {"low": pick(10, 30, 45, 60), "high": pick(40, 55, 70, 90), "persistence": pick(0, 1, 2, 4)}
    levels = {"down": pick(-3, -0.025, 0, 0.1), "up": pick(-0.1, 0, 0.025, 2), "persistence": pick(0, 1, 3)}
    periods = {"short": pick(2, 7, 10.5), "long": pick(5, 21, 1), "signal": pick(1, 9, 3.25)}
    own = {
        "MACD": {**periods, "thresholds": levels}, "PPO": {**periods, "thresholds": levels},
        "DEMA": {"weight": pick(1, 2, 21), "thresholds": levels},
        "TMA": {"short": pick(1, 3, 7), "medium": pick(4, 25), "long": pick(9, 60)},
        "RSI": {"interval": pick(1, 2, 14), "thresholds": bounds},
        "StochRSI": {"interval": pick(1, 3, 8), "thresholds": bounds},
        "TSI": {"short": pick(2, 13), "long": pick(4, 25), "thresholds": {**bounds, "low": -20, "high": pick(-5, 20)}},
        "UO": {**{k: {"weight": pick(1, 2, 4.5), "period": pick(1, 3, 14)} for k in ("first", "second", "third")},
               "thresholds": bounds},
        "CCI": {"constant": pick(0.015, 0.1), "history": pick(1, 5, 30),
                "thresholds": {"up": pick(50, 100), "down": pick(-100, -20), "persistence": pick(0, 1, 3)}},
    }.get(method, {"__empty": True})
    return {
        "watch": {"exchange": "a", "currency": "C", "asset": "B"}, method: own,
        "tradingAdvisor": {"enabled": True, "method": method, "candleSize": pick(1, 2, 5, 17),
                           "historySize": pick(0, 1, 3, 10.5, 40)},
        "paperTrader": {"enabled": True, "feeMaker": pick(0, 0.25, 1), "feeTaker": 0.3, "feeUsing": pick("maker", "x"),
                        "simulationBalance": {"asset": pick(0, 1, 0.37), "currency": pick(100, 1000.5)}},
        "performanceAnalyzer": {"enabled": True, "riskFreeReturn": pick(0, 2)},
        "backtestResultExporter": {"enabled": True, "data": {"portfolioValues": True}},
    }


def rows_of(market):
    columns = {"start": market.time // 1_000_000, **market.columns()}
    keys = ("start", "open", "high", "low", "close", "vwp", "volume", "trades")
    return (dict(zip(keys, values, strict=True))
            for values in zip(*(columns[key].tolist() for key in keys), strict=True))


def same(config, market, trail):
    settings = replace(read_settings(config), trail=trail or read_settings(config).trail)
    ours = simulate(settings, market, watch=config["watch"], advisor=config["tradingAdvisor"])
    theirs = Gekko(config, trail)
    for minute in rows_of(market):
        theirs.feed(minute)
    assert [(each["recommendation"], each["date"]) for each in ours.advices] == theirs.advices
    assert len(ours.trades) == len(theirs.trades)
    for mine, after, other in zip(ours.trades, ours.portfolios, theirs.trades, strict=True):
        assert {**mine, "portfolio": after} == {**{k: v for k, v in other.items() if k != "after"},
                                                "portfolio": other["after"]}
    assert wire(ours.roundtrips) == wire(theirs.roundtrips)
    candles = ours.stratCandles
    for candle in candles:
        candle.pop("portfolioValue", None)
    assert candles == theirs.candles
    if ours.performanceReport:
        report = ours.performanceReport
        assert report["balance"] == theirs.balance and report["startBalance"] == theirs.start_balance
        assert (report["startPrice"], report["endPrice"]) == (theirs.start_price, theirs.end_price)
        assert report["trades"] == len(theirs.trades)
    else:
        assert not theirs.trades
    return len(theirs.trades), len(theirs.roundtrips), theirs


@pytest.mark.parametrize("method", METHODS)
def test_the_compiled_engine_does_what_the_slow_one_does(method):
    random = np.random.default_rng(sum(map(ord, method)))
    trades = 0
    for _ in range(25):
        config = settings_of(random, method)
        trail = float(random.choice([0, 0, 0.1, 0.5, 3])) if method != "DEBUG_single-advice" else 0.0
        trades += same(config, minutes(random, int(random.integers(40, 700))), trail)[0]
    assert trades > 25 or method == "noop" or (method == "DEBUG_single-advice" and trades > 15)


def test_a_stop_on_the_minute_of_a_short_advice_sells_twice_and_closes_twice():
    random = np.random.default_rng(5)
    doubled = 0
    for _ in range(40):
        config = settings_of(random, "DEBUG_toggle-advice")
        config["tradingAdvisor"] |= {"candleSize": 1, "historySize": 0}
        _, trips, slow = same(config, minutes(random, 400), 0.5)
        doubled += trips - len({trip["id"] for trip in slow.roundtrips})
    assert doubled > 5


def test_the_slow_engine_is_the_original():
    """So that agreeing with it means something."""
    for name in ("MACD-15-25-p3", "CCI-60-10", "StochRSI-60-10", "DEBUG_single-advice-60-10", "UO-60-10"):
        case = cases()[name]
        market = golden(case["candles"])
        slow = Gekko(case["request"])
        for minute in rows_of(market):
            slow.feed(minute)
        expected = case["backtest"]
        assert [trade["balance"] for trade in slow.trades] == [trade["balance"] for trade in expected["trades"]]
        assert wire(slow.roundtrips) == expected["roundtrips"]
