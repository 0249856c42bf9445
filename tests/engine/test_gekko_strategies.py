"""Gekko's strategies as ordinary ones: live equals backtest bit for bit, no look-ahead, the same as plain Python."""

import dataclasses

import numpy as np
import pytest

from engine import strategies
from engine.advice import merged_time, walk
from engine.errors import Invalid
from engine.gekko_settings import METHODS
from engine.live import Stepper
from engine.reporter import Reporter
from engine.strategies import from_function
from tests.engine.gekko_golden import candles as golden
from tests.engine.market_fakes import walk as random_walk

SMALL = {
    "gekko_macd": {"history": 3}, "gekko_ppo": {"persistence": 1}, "gekko_dema": {"weight": 5},
    "gekko_tma": {"short": 3, "medium": 7, "long": 20}, "gekko_rsi": {"interval": 5},
    "gekko_stochrsi": {"interval": 4, "persistence": 1}, "gekko_tsi": {"short": 4, "long": 8},
    "gekko_uo": {"first_period": 3, "second_period": 5, "third_period": 9, "low": 40, "high": 60},
    "gekko_cci": {"window": 10, "persistence": 2}, "gekko_varppo": {"momentum": "UO", "low": 45, "high": 55},
    "gekko_tulip_macd": {"fast": 3, "slow": 6, "signal": 4}, "gekko_talib_macd": {"fast": 3, "slow": 6, "signal": 4},
    "gekko_tulip_adx": {"period": 5}, "gekko_tulip_multi": {"period": 5, "macd_up": 0, "macd_down": 0, "signal": 5},
    "gekko_custom": {"seed": 7}, "gekko_debug_toggle": {"history": 0}, "gekko_debug_single": {"trail": 3},
}
NAMES = sorted(SMALL)
COLUMNS = ("open", "high", "low", "close", "volume")


def backtest(strategy, params, market):
    return walk(strategy, strategy.resolve(params), [market], merged_time([market]), Reporter())


def test_all_eighteen_are_there_and_described():
    named = {name for name in strategies.names() if name.startswith("gekko_")}
    assert named == {*SMALL, "gekko_noop"} == {method.strategy for method in METHODS.values()} and len(named) == 18
    for name in named:
        strategy = strategies.get(name)
        assert strategy.parameters[0].name == "history" and "gekko" in strategy.tags
        assert strategy.resolve({}) == {each.name: each.default for each in strategy.parameters}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [300, 1300])
def test_live_equals_backtest_bit_for_bit(name, rows):
    strategy, market = strategies.get(name), random_walk(rows, seed=4)
    whole = backtest(strategy, SMALL[name], market)
    stepper = Stepper(strategy, SMALL[name])
    table = np.column_stack([getattr(market, column) for column in COLUMNS])
    said = [stepper.push(row.reshape(1, 5)) for row in table]
    assert np.concatenate([advice for advice, _ in said]).tobytes() == whole.exposure.tobytes()
    lines = np.ascontiguousarray(np.array([out for _, out in said]).T)
    assert lines.tobytes() == whole.indicators.tobytes()
    assert np.isfinite(whole.exposure).any() and set(whole.exposure[np.isfinite(whole.exposure)]) <= {1.0, -1.0}
    assert np.isfinite(whole.indicators).any(axis=1).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_said_does_not_depend_on_what_comes_later(name):
    strategy, market = strategies.get(name), random_walk(200, seed=4)
    whole = backtest(strategy, SMALL[name], market)
    for k in (1, 2, 9, 60, 199):
        part = backtest(strategy, SMALL[name], market.take(slice(0, k)))
        np.testing.assert_array_equal(part.exposure, whole.exposure[:k])
        np.testing.assert_array_equal(part.indicators, whole.indicators[:, :k])


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_the_same_as_plain_python(name):
    strategy, market = strategies.get(name), random_walk(120, seed=4)
    plain = from_function(strategy.step, params=strategy.parameters, indicators=strategy.indicators,
                          state=strategy.state_size)
    compiled, python = (backtest(each, SMALL[name], market) for each in (strategy, plain))
    np.testing.assert_array_equal(compiled.exposure, python.exposure)
    np.testing.assert_array_equal(compiled.indicators, python.indicators)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("history", [0, 1, 40])
def test_the_strategy_is_asked_first_on_the_candle_of_its_history(name, history):
    strategy, market = strategies.get(name), random_walk(250, seed=4)
    params = strategy.resolve({**SMALL[name], "history": history})
    exposure = backtest(strategy, params, market).exposure
    assert int(np.argmax(np.isfinite(exposure))) + 1 >= strategy.warm_up(params) >= max(1, history)


@pytest.mark.parametrize("name", NAMES)
def test_flat_and_tiny_prices_end_in_no_error(name, capfd):
    market = random_walk(150, seed=4)
    flat = np.full(150, 7.25)
    still = dataclasses.replace(market, open=flat, high=flat, low=flat, close=flat, volume=np.zeros(150))
    for each in (still, dataclasses.replace(still, close=np.full(150, 1e-9), low=np.full(150, 1e-9))):
        backtest(strategies.get(name), SMALL[name], each)
    assert capfd.readouterr().err == ""  # an error inside a compiled step is only printed


def test_the_random_strategy_is_the_same_for_a_seed_and_another_for_another():
    strategy, market = strategies.get("gekko_custom"), random_walk(5000, seed=4)
    one, again, other = (backtest(strategy, {"seed": seed}, market) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.exposure, again.exposure)
    assert not np.array_equal(one.exposure, other.exposure, equal_nan=True)
    said = one.exposure[np.isfinite(one.exposure)]
    assert said[0] == -1.0 and (said[1:] != said[:-1]).all() and 400 < len(said) < 600
    assert abs(one.indicators[0].mean() - 0.5) < 0.02
    assert abs(np.corrcoef(one.indicators[0], other.indicators[0])[0, 1]) < 0.05


def test_the_wrapped_libraries_see_a_thousand_candles():
    """From candle 1,001 on a figure is that of the last 1,000 candles alone."""
    market = golden("rw60d").resample(3600)
    for name in ("gekko_tulip_macd", "gekko_talib_macd", "gekko_tulip_adx", "gekko_tulip_multi"):
        strategy = strategies.get(name)
        whole = backtest(strategy, {}, market)
        for end in (1000, 1001, 1234, 1440):
            part = backtest(strategy, {}, market.take(slice(end - 1000, end)))
            np.testing.assert_array_equal(part.indicators[:, -1], whole.indicators[:, end - 1])
        before = backtest(strategy, {}, market.take(slice(1, 1001)))
        assert not np.array_equal(before.indicators[:, -1], whole.indicators[:, 999])


def test_tulip_s_macd_has_its_own_factors_for_12_and_26():
    market = random_walk(60, seed=4)
    lines = backtest(strategies.get("gekko_tulip_macd"), {"fast": 12, "slow": 26, "signal": 9}, market).indicators
    short = long = market.close[0]
    for price in market.close[1:]:
        short, long = short + 0.15 * (price - short), long + 0.075 * (price - long)
    assert lines[0, -1] == pytest.approx(short - long, rel=1e-12)
    assert np.isnan(lines[0, 24]) and lines[2, 25] == 0.0


def test_talib_s_fast_and_slow_periods_change_places_when_they_are_the_wrong_way_round():
    market = random_walk(60, seed=4)
    one, other = (backtest(strategies.get("gekko_talib_macd"), {"fast": a, "slow": b}, market).indicators
                  for a, b in ((5, 9), (9, 5)))
    np.testing.assert_array_equal(one, other)
    assert np.isnan(one[0, 15]) and np.isfinite(one[:, 16]).all()  # 9 + 9 - 2


def test_momentum_rsi_of_varppo_works_here_and_is_still_in_gekko():
    market = random_walk(400, seed=4)
    strategy = strategies.get("gekko_varppo")
    params = {"momentum": "RSI", "low": 40, "high": 60, "weight_low": 0, "weight_high": 0}
    assert np.isfinite(backtest(strategy, params, market).exposure).any()
    assert np.isnan(backtest(strategy, {**params, "rsi_works": False}, market).exposure).all()


def test_wrong_parameters_are_refused():
    for name, params in (("gekko_tulip_macd", {"fast": 30}), ("gekko_macd", {"persistence": -1}),
                         ("gekko_tulip_adx", {"period": 1}), ("gekko_varppo", {"momentum": "MFI"}),
                         ("gekko_rsi", {"interval": 2.5})):
        with pytest.raises(Invalid, match="params"):
            strategies.get(name).resolve(params)
