"""Every strategy: live equals backtest bit for bit, no look-ahead, readable without a compiler, clear refusals."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from engine import strategies
from engine.advice import merged_time, walk
from engine.errors import Invalid
from engine.live import Stepper
from engine.reporter import Reporter
from engine.strategies import Parameter, from_function
from tests.engine.market_fakes import bars
from tests.engine.market_fakes import walk as random_walk

SMALL = {
    "sma_cross": {"fast": 3, "slow": 8}, "macd": {"fast": 3, "slow": 6, "signal": 4}, "rsi": {"window": 4},
    "bollinger": {"window": 6, "width": 1.2}, "donchian": {"entry": 5, "exit": 3}, "buy_and_hold": {},
    "momentum_rotation": {"lookback": 4, "top": 2, "every": 3},
}
COLUMNS = ("open", "high", "low", "close", "volume")


def some_candles(name, rows=250):
    if strategies.get(name).scope == "market":
        return [random_walk(rows, seed=1)]
    full = [random_walk(rows, seed=seed, key=f"demo:M{seed}/USD") for seed in range(4)]
    full[2] = full[2].take(np.random.default_rng(0).random(rows) < 0.7)  # holes
    full[3] = full[3].take(slice(40, rows - 30))  # late and gone early
    return full


def backtest(strategy, params, candles):
    return walk(strategy, strategy.resolve(params), candles, merged_time(candles), Reporter())


def table(candles, merged):
    """bars (T, n, 5) with NaN rows."""
    made = np.full((len(merged), len(candles), 5), np.nan)
    for s, each in enumerate(candles):
        made[np.searchsorted(merged, each.time), s] = np.column_stack([getattr(each, name) for name in COLUMNS])
    return made


def test_the_examples_here_cover_every_strategy():
    assert set(SMALL) == {name for name in strategies.names() if not name.startswith("gekko_")}  # test_gekko_strategies


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("with_params", [True, False])
def test_live_equals_backtest_bit_for_bit(name, with_params):
    strategy, params = strategies.get(name), SMALL[name] if with_params else {}
    candles = some_candles(name)
    merged = merged_time(candles)
    advice = backtest(strategy, params, candles)
    stepper = Stepper(strategy, params, n=len(candles))
    exposure, lines = [], []
    for row in table(candles, merged):
        wish, out = stepper.push(row)
        exposure.append(wish)
        lines.append(out)
    assert np.array(exposure).reshape(advice.exposure.shape).tobytes() == advice.exposure.tobytes()
    assert np.ascontiguousarray(np.array(lines).T).tobytes() == advice.indicators.tobytes()
    assert np.isfinite(advice.exposure).any(), "the example never gives advice and shows nothing"
    assert len(strategy.indicators) == 0 or np.isfinite(advice.indicators).any(axis=1).all()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_was_said_does_not_depend_on_what_comes_later(name):
    strategy = strategies.get(name)
    candles = some_candles(name)
    whole = backtest(strategy, SMALL[name], candles)
    for k in (1, 2, 9, 60, 249):
        end = merged_time(candles)[k - 1]
        cut = [each.between(None, int(end)) for each in candles]
        if not all(map(len, cut)):
            continue
        part = backtest(strategy, SMALL[name], cut)
        np.testing.assert_array_equal(part.exposure, whole.exposure[:k])
        np.testing.assert_array_equal(part.indicators, whole.indicators[:, :k])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_step_is_the_same_as_plain_python(name):
    strategy = strategies.get(name)
    plain = from_function(strategy.step, params=strategy.parameters, scope=strategy.scope,
                          indicators=strategy.indicators, state=strategy.state_size)
    candles = some_candles(name, 80)
    compiled, python = (backtest(each, SMALL[name], candles) for each in (strategy, plain))
    np.testing.assert_array_equal(compiled.exposure, python.exposure)
    np.testing.assert_allclose(compiled.indicators, python.indicators, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_no_advice_before_the_warm_up_is_over(name):
    strategy = strategies.get(name)
    candles = some_candles(name)[:3]
    params = strategy.resolve(SMALL[name])
    exposure = backtest(strategy, params, candles).exposure.reshape(250, -1)
    first = int(np.argmax(np.isfinite(exposure).any(axis=1)))
    assert first + 1 >= strategy.warm_up(params)


def test_several_markets_have_a_state_each():
    strategy = strategies.get("sma_cross")
    one, two = random_walk(90, seed=1), random_walk(70, seed=2, key="demo:BBB/USD")
    both = backtest(strategy, SMALL["sma_cross"], [one, two])
    alone = backtest(strategy, SMALL["sma_cross"], [two])
    np.testing.assert_array_equal(both.exposure[90:], alone.exposure)


def test_a_walk_in_chunks_is_one_walk(monkeypatch):
    for name in ("macd", "momentum_rotation"):
        strategy, candles = strategies.get(name), some_candles(name)
        whole = backtest(strategy, SMALL[name], candles)
        monkeypatch.setattr("engine.advice.CHUNK", 17)
        parts = backtest(strategy, SMALL[name], candles)
        monkeypatch.undo()
        np.testing.assert_array_equal(whole.exposure, parts.exposure)
        np.testing.assert_array_equal(whole.indicators, parts.indicators)


# What each strategy says, checked with pandas.


def test_sma_cross_says_long_above_and_short_below():
    candles = random_walk(200, seed=3)
    close = pd.Series(candles.close)
    fast, slow = close.rolling(3).mean(), close.rolling(8).mean()
    expected = np.where(fast > slow, 1.0, np.where(fast < slow, -1.0, np.nan))
    advice = backtest(strategies.get("sma_cross"), SMALL["sma_cross"], [candles])
    np.testing.assert_array_equal(advice.exposure, expected)


def test_sma_cross_keeps_still_on_a_flat_price():
    exposure = backtest(strategies.get("sma_cross"), SMALL["sma_cross"], [bars([100.1] * 60)]).exposure
    assert np.isnan(exposure).all()


def test_macd_is_appel_s():
    candles = random_walk(200, seed=3)
    close = pd.Series(candles.close)
    line = close.ewm(span=3, adjust=False).mean() - close.ewm(span=6, adjust=False).mean()
    line[:5] = np.nan
    signal = line[5:].ewm(span=4, adjust=False, min_periods=4).mean().reindex(line.index)
    advice = backtest(strategies.get("macd"), SMALL["macd"], [candles])
    np.testing.assert_allclose(advice.indicators, [line, signal, line - signal], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(advice.exposure, np.where(signal.isna(), np.nan, np.sign(line - signal)))


def test_rsi_buys_low_and_sells_high():
    advice = backtest(strategies.get("rsi"), {"window": 4, "low": 25, "high": 75}, [random_walk(200, seed=3)])
    rsi = advice.indicators[0]
    np.testing.assert_array_equal(advice.exposure, np.where(rsi < 25, 1.0, np.where(rsi > 75, -1.0, np.nan)))
    assert {1.0, -1.0} <= set(advice.exposure)


def test_bollinger_enters_beyond_a_band_and_leaves_at_the_middle():
    candles = random_walk(300, seed=3)
    close = pd.Series(candles.close)
    middle, width = close.rolling(6).mean(), 1.2 * close.rolling(6).std(ddof=0)
    advice = backtest(strategies.get("bollinger"), SMALL["bollinger"], [candles])
    np.testing.assert_allclose(advice.indicators, [middle, middle + width, middle - width], rtol=1e-10)
    held, expected = 0.0, []
    for price, mid, wide in zip(close, middle, width, strict=True):
        if np.isnan(mid):
            expected.append(np.nan)
            continue
        if price < mid - wide:
            held = 1.0
        elif price > mid + wide:
            held = -1.0
        elif held * (price - mid) >= 0:
            held = 0.0
        expected.append(held)
    np.testing.assert_array_equal(advice.exposure, expected)


def test_donchian_breaks_out_of_the_channel_of_the_bars_before():
    candles = random_walk(300, seed=4)
    high, low = pd.Series(candles.high), pd.Series(candles.low)
    lines = [high.rolling(5).max().shift(), low.rolling(5).min().shift(), low.rolling(3).min().shift(),
             high.rolling(3).max().shift()]
    advice = backtest(strategies.get("donchian"), SMALL["donchian"], [candles])
    np.testing.assert_array_equal(advice.indicators, lines)
    held, expected = 0.0, []
    for price, upper, lower, leave_long, leave_short in zip(candles.close, *lines, strict=True):
        if price > upper:
            held = 1.0
        elif price < lower:
            held = -1.0
        elif (held > 0 and price < leave_long) or (held < 0 and price > leave_short):
            held = 0.0
        expected.append(np.nan if np.isnan(upper) else held)
    np.testing.assert_array_equal(advice.exposure, expected)
    assert {1.0, 0.0, -1.0} <= set(advice.exposure)


def test_momentum_rotation_holds_the_strongest():
    n = 12
    up, flat, down = (bars(100 * rate ** np.arange(n), key=f"demo:{key}/USD")
                      for key, rate in (("UP", 1.02), ("FLAT", 1.001), ("DOWN", 0.98)))
    params = {"lookback": 4, "top": 2, "every": 3, "positive": False}
    strategy = strategies.get("momentum_rotation")
    exposure = backtest(strategy, params, [down, flat, up]).exposure
    given = np.flatnonzero(np.isfinite(exposure).all(axis=1))
    assert given.tolist() == [4, 7, 10]
    assert exposure[4].tolist() == [0.0, 0.5, 0.5]
    only_down = backtest(strategy, {**params, "positive": True, "top": 3}, [down, flat, up]).exposure
    assert only_down[4] == pytest.approx([0.0, 1 / 3, 1 / 3])


def test_buy_and_hold_buys_once():
    exposure = backtest(strategies.get("buy_and_hold"), {}, [random_walk(20)]).exposure
    assert exposure[0] == 1.0 and np.isnan(exposure[1:]).all()


# Descriptions and refusals.


def test_descriptions_are_read_without_compiler_or_pandas():
    code = ("import sys, engine.strategies as s; s.describe(); s.get('macd').resolve({});"
            "print([m for m in ('numba', 'pandas', 'vectorbt') if m in sys.modules])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_every_parameter_and_indicator_is_described():
    for each in strategies.describe():
        assert each["title"] and each["doc"] and each["speeds"]
        for parameter in each["parameters"]:
            assert parameter["doc"] and (parameter["type"] in ("bool", "choice") or parameter["low"] is not None)
        assert all(line["doc"] and line["panel"] in ("price", "own") for line in each["indicators"])


def test_an_unknown_strategy_is_refused_with_the_names():
    with pytest.raises(Invalid) as caught:
        strategies.get("smacross")
    assert caught.value.field == "strategy" and "sma_cross" in caught.value.remedy


def test_all_wrong_parameters_are_named_at_once():
    with pytest.raises(Invalid) as caught:
        strategies.get("rsi").resolve({"window": 1, "low": "x", "speed": 3})
    assert {problem.field for problem in caught.value.problems} == {"params.window", "params.low", "params.speed"}
    assert "from 2 to 5000" in str(caught.value)


def test_parameters_that_do_not_fit_each_other_are_refused():
    for name, params in (("sma_cross", {"fast": 50, "slow": 50}), ("macd", {"fast": 30}), ("rsi", {"low": 80})):
        with pytest.raises(Invalid, match="params"):
            strategies.get(name).resolve(params)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, "ten", 2.5, 10**400, [1]])
def test_a_whole_number_must_be_one(value):
    with pytest.raises(Invalid):
        Parameter(name="n", type="int", default=1, low=1, high=10).read(value)


def test_numbers_as_text_and_whole_floats_are_good():
    whole = Parameter(name="n", type="int", default=1, low=1, high=10)
    assert (whole.read("7"), whole.read(7.0)) == (7, 7) and isinstance(whole.read(7.0), int)
    choice = Parameter(name="kind", type="choice", default="a", choices=("a", "b"))
    assert choice.read("b") == "b" and choice.encode("b") == 1.0
    assert Parameter(name="on", type="bool", default=False).read("true") is True


def test_a_function_becomes_a_strategy_in_both_speeds():
    @from_function(params={"level": 100.0}, indicators=["price"], state=0)
    def above(params, state, bars, advice, out):
        out[0] = bars[0, 3]
        advice[0] = 1.0 if bars[0, 3] > params[0] else 0.0

    quick = from_function(above.step, params={"level": 100.0}, indicators=["price"], compiled=True)
    assert above.speeds == ("python", "live") and "backtest" in quick.speeds
    candles = random_walk(50)
    python, machine = (backtest(each, {"level": 101}, [candles]) for each in (above, quick))
    np.testing.assert_array_equal(python.exposure, machine.exposure)
    np.testing.assert_array_equal(python.indicators, candles.close.reshape(1, -1))
    assert len(above.source_hash()) == 64


def test_a_stepper_refuses_bars_of_another_shape():
    with pytest.raises(Invalid, match="shape"):
        Stepper(strategies.get("rsi")).push(np.zeros((2, 5)))
    with pytest.raises(Invalid, match="one market"):
        Stepper(strategies.get("rsi"), n=2)
