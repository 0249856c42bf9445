"""Indicators against formulas written another way."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import indicators

PRICES = 100 * np.exp(np.cumsum(np.random.default_rng(5).normal(0, 0.02, 400)))


def over(function, size, window, values):
    state = np.zeros(size)
    return np.array([function(state, window, float(value)) for value in values])


@pytest.mark.parametrize("window", [1, 2, 7, 50])
def test_rolling_mean_is_pandas_rolling_mean(window):
    ours = over(indicators.rolling_mean, indicators.mean_size(window), window, PRICES)
    np.testing.assert_allclose(ours, pd.Series(PRICES).rolling(window).mean(), rtol=1e-13)


@pytest.mark.parametrize("window", [2, 7, 50])
def test_rolling_deviation_is_pandas_population_deviation(window):
    ours = over(indicators.rolling_deviation, indicators.deviation_size(window), window, PRICES)
    np.testing.assert_allclose(ours, pd.Series(PRICES).rolling(window).std(ddof=0), rtol=1e-9)


def test_a_price_that_stands_still_is_its_own_mean_and_does_not_deviate():
    prices = np.concatenate((PRICES[:30], np.full(100, 100.1)))
    for window in (3, 10):
        assert (over(indicators.rolling_mean, indicators.mean_size(window), window, prices)[-50:] == 100.1).all()
        assert (over(indicators.rolling_deviation, indicators.deviation_size(window), window, prices)[-50:] == 0).all()


def test_rounding_does_not_grow_with_the_length_of_the_run():
    prices = np.concatenate(([1e12], 1.0 + np.arange(20_000) % 7 * 1e-6))
    mean = over(indicators.rolling_mean, indicators.mean_size(50), 50, prices)
    assert mean[-1] == pytest.approx(prices[-50:].mean(), rel=1e-15)


@pytest.mark.parametrize("window", [1, 5, 26])
def test_ema_is_pandas_ewm(window):
    expected = pd.Series(PRICES).ewm(span=window, adjust=False, min_periods=window).mean()
    np.testing.assert_allclose(over(indicators.ema, indicators.ema_size(), window, PRICES), expected, rtol=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_extremes_are_those_of_the_window(values, window):
    size = indicators.extreme_size(window)
    series = pd.Series(values)
    np.testing.assert_array_equal(over(indicators.rolling_highest, size, window, values), series.rolling(window).max())
    np.testing.assert_array_equal(over(indicators.rolling_lowest, size, window, values), series.rolling(window).min())


def test_rsi_follows_wilder_s_recursion():
    window = 14
    change = np.diff(PRICES)
    gain, loss = np.maximum(change, 0), np.maximum(-change, 0)
    up, down = gain[:window].mean(), loss[:window].mean()
    expected = [np.nan] * window + [100 - 100 / (1 + up / down)]
    for more, less in zip(gain[window:], loss[window:], strict=True):
        up, down = (up * (window - 1) + more) / window, (down * (window - 1) + less) / window
        expected.append(100 - 100 / (1 + up / down))
    np.testing.assert_allclose(over(indicators.wilder_rsi, indicators.rsi_size(), window, PRICES), expected, rtol=1e-10)


def test_rsi_at_its_edges():
    size = indicators.rsi_size()
    assert over(indicators.wilder_rsi, size, 3, [1, 2, 3, 4, 5])[-1] == 100
    assert over(indicators.wilder_rsi, size, 3, [5, 4, 3, 2, 1])[-1] == 0
    assert over(indicators.wilder_rsi, size, 3, [7, 7, 7, 7, 7])[-1] == 50


def test_change_over_a_lookback():
    values = [100.0, 110.0, 121.0, 0.0, 50.0, 60.0]
    ours = over(indicators.change_over, indicators.change_size(2), 2, values)
    np.testing.assert_allclose(ours, [np.nan, np.nan, 0.21, -1.0, 50 / 121 - 1, np.nan], rtol=1e-12)
