"""Gekko one minute at a time: the original's events in order, and the backtest's figures."""

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import Invalid
from engine.gekko_backtest import simulate
from engine.gekko_live import PaperGekko, wire
from engine.gekko_settings import read_settings
from tests.engine import gekko_golden
from tests.engine.gekko_golden import candles, cases
from tests.engine.test_gekko_oracle import METHODS, minutes, rows_of, settings_of


def events_of(settings, market):
    gekko = PaperGekko(settings)
    return [event for minute in rows_of(market) for event in gekko.push(minute)] + gekko.finish()


def test_every_event_of_the_original_in_its_order():
    case = cases()["DEBUG_toggle-1-0.ALLEVENTS"]
    begin = 1_515_146_400 * 1_000_000
    market = candles(case["candles"]).between(begin, begin + 240 * 60_000_000)
    said = [wire(event) for event in events_of(read_settings(case["request"]), market)]
    assert len(said) == len(case["events"]) > 1000
    for ours, theirs in zip(gekko_golden.wire(said), case["events"], strict=True):
        assert ours == theirs and list(ours["payload"]) == list(theirs["payload"])


@pytest.mark.parametrize("method", METHODS)
def test_live_equals_backtest_event_by_event(method):
    random = np.random.default_rng(sum(map(ord, method)) + 1)
    trades = 0
    for _ in range(6):
        config = settings_of(random, method)
        trail = float(random.choice([0, 0.1, 0.5]))
        settings = read_settings(config)
        settings = replace(settings, trail=settings.trail or trail)
        market = minutes(random, 500)
        report = simulate(settings, market, watch=config["watch"], advisor=config["tradingAdvisor"])
        said = events_of(settings, market)

        def payloads(kind, said=said):
            return [payload for name, payload in said if name == kind]

        assert payloads("advice") == report.advices
        done = payloads("tradeCompleted")
        assert [trade | {"portfolio": None} for trade in done] == [
            trade | {"portfolio": None} for trade in gekko_golden.wire(report.trades)]
        assert [trade["portfolio"] for trade in done] == report.portfolios
        assert payloads("roundtrip") == gekko_golden.wire(report.roundtrips)
        assert payloads("stratCandle") == [{key: value for key, value in candle.items() if key != "portfolioValue"}
                                           for candle in report.stratCandles]
        assert [update["indicators"] for update in payloads("stratUpdate")] == gekko_golden.wire(report.indicators)
        assert (payloads("performanceReport") or [None])[-1] == report.performanceReport
        assert len(payloads("tradeInitiated")) == len(done)
        fired, created = payloads("triggerFired"), payloads("triggerCreated")
        assert len(fired) + len(payloads("triggerAborted")) <= len(created)
        trades += len(done)
    assert trades or method == "noop"


def test_what_was_before_the_start_only_warms_up():
    case = cases()["MACD-60-10"]
    settings = read_settings(case["request"])
    market = candles("rw60d").take(slice(0, 6000))
    gekko = PaperGekko(settings, started=1_514_764_800 + 3030 * 60)
    said = [(minute["start"], event) for minute in rows_of(market) for event in gekko.push(minute)]
    warmed = [start for start, (kind, _) in said if kind == "stratWarmupCompleted"]
    assert warmed == [1_514_764_800 + 3059 * 60]  # the candle from minute 3000, which is no older than one candle
    again = PaperGekko(settings, started=1_514_764_800 + 3030 * 60)
    assert [event for minute in rows_of(market) for event in again.push(minute)] == [event for _, event in said]
    assert all(start >= warmed[0] for start, (kind, _) in said if kind in ("advice", "tradeCompleted"))
    assert any(kind == "tradeCompleted" for _, (kind, _) in said)


def test_a_minute_that_was_already_there_is_refused():
    gekko = PaperGekko(read_settings(cases()["MACD-60-10"]["request"]))
    rows = list(rows_of(candles("rw60d").take(slice(0, 3))))
    gekko.push(rows[1])
    for minute in rows[:2]:
        with pytest.raises(Invalid, match="already"):
            gekko.push(minute)
    gekko.push(rows[2])
