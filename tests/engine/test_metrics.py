"""Figures by hand, against empyrical, against the published examples, and never NaN."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import metrics, simulate
from engine.spec import BacktestSpec
from tests.engine.market_fakes import DAY, FIRST, MemoryStore, bars, walk

NO_FILLS = {name: np.empty(0) for name in ("time", "quantity", "price", "fee")}
NO_TRIPS = {"status": np.empty(0, object),
            **{name: np.empty(0) for name in ("pnl", "return", "entry_time", "exit_time")}}


def curve(values, benchmark=None, times=None, resolution=86400):
    value = np.asarray(values, float)
    at = np.arange(len(value)) if times is None else np.asarray(times)
    return {"time": (FIRST + at * resolution * 1_000_000).astype(np.int64), "value": value,
            "gross": np.zeros(len(value)), "benchmark": value if benchmark is None else np.asarray(benchmark, float)}


def compute(values, cash=None, benchmark=None, resolution=86400, trips=NO_TRIPS, fills=NO_FILLS, times=None):
    table = curve(values, benchmark, times, resolution)
    return metrics.compute(equity=table, fills=fills, roundtrips=trips, cash=cash or float(values[0]),
                           resolution=resolution)


def trips(pnl, returns, days, status=None):
    entry = np.full(len(pnl), FIRST)
    return {"pnl": np.array(pnl, float), "return": np.array(returns, float), "entry_time": entry,
            "exit_time": entry + (np.array(days) * DAY).astype(np.int64),
            "status": np.array(status or ["closed"] * len(pnl), object)}


def test_the_table_is_complete_and_speaks():
    assert list(compute([1, 2, 3])) == list(metrics.METRICS)
    for key, metric in metrics.METRICS.items():
        assert metric.key == key and metric.name and len(metric.formula) > 10
        assert metric.unit in {"fraction", "ratio", "currency", "count", "days"}
    assert [row["key"] for row in metrics.describe()] == list(metrics.METRICS)


# Against empyrical, on a year of an exchange and of a market that never closes.


@pytest.mark.parametrize("calendar", ["exchange", "24x7"])
def test_figures_equal_empyrical(calendar):
    import empyrical
    import pandas as pd

    random = np.random.default_rng(11)
    days = np.arange(800)
    if calendar == "exchange":
        days = days[(days + 2) % 7 < 5]  # the first day is a Wednesday
    noise = random.normal(0.0006, 0.01, len(days))
    market = random.normal(0.0004, 0.012, len(days))
    value, benchmark = 1000 * np.cumprod(1 + noise + 0.4 * market), 50 * np.cumprod(1 + market)
    ours = compute(value, cash=1000.0, benchmark=benchmark, times=days)
    per_year = ours["periods_per_year"]
    assert per_year == 365 if calendar == "24x7" else 250 < per_year < 264
    returns = pd.Series(noise + 0.4 * market)
    theirs_bench = pd.Series(np.concatenate(([0.0], market[1:])))
    expected = {
        "total_return": empyrical.cum_returns_final(returns),
        "annual_return": empyrical.annual_return(returns, annualization=per_year),
        "volatility": empyrical.annual_volatility(returns, annualization=per_year),
        "sharpe": empyrical.sharpe_ratio(returns, annualization=per_year),
        "sortino": empyrical.sortino_ratio(returns, annualization=per_year),
        "calmar": empyrical.calmar_ratio(returns, annualization=per_year),
        "max_drawdown": empyrical.max_drawdown(returns),
        "omega": empyrical.omega_ratio(returns, annualization=1),
        "tail_ratio": empyrical.tail_ratio(returns),
        "var_95": empyrical.value_at_risk(returns, 0.05),
        "cvar_95": empyrical.conditional_value_at_risk(returns, 0.05),
        "beta": empyrical.beta(returns, theirs_bench),
        "alpha": empyrical.alpha(returns, theirs_bench, annualization=per_year),
    }
    assert {key: ours[key] for key in expected} == pytest.approx(expected, rel=1e-9)


def test_moments_equal_scipy():
    from scipy import stats

    returns = np.random.default_rng(2).standard_t(4, 500) / 100
    ours = compute(np.cumprod(1 + returns), cash=1.0)
    assert ours["skew"] == pytest.approx(stats.skew(returns))
    assert ours["kurtosis"] == pytest.approx(stats.kurtosis(returns))


def test_figures_equal_vectorbt():
    import pandas as pd

    candles = walk(500, seed=8)
    result = simulate.run(BacktestSpec(strategy="sma_cross", markets=("demo:AAA/USD",), params={"fast": 3, "slow": 9}),
                          MemoryStore(candles))
    value = result.tables["equity"]["value"]
    returns = pd.Series(value, index=pd.DatetimeIndex(candles.time.view("M8[us]"))).pct_change().fillna(
        value[0] / 100_000 - 1)
    theirs = returns.vbt.returns(freq="1D", year_freq="365D")
    assert result.metrics["sharpe"] == pytest.approx(theirs.sharpe_ratio(), rel=1e-9)
    assert result.metrics["sortino"] == pytest.approx(theirs.sortino_ratio(), rel=1e-9)
    assert result.metrics["max_drawdown"] == pytest.approx(theirs.max_drawdown(), rel=1e-9)
    assert result.metrics["volatility"] == pytest.approx(theirs.annualized_volatility(), rel=1e-9)


# By hand.


def test_drawdown_by_hand():
    figures = compute([100, 120, 90, 108, 120, 126, 110, 112], cash=100.0)
    assert figures["max_drawdown"] == pytest.approx(-0.25)
    assert figures["max_drawdown_days"] == 3  # from the peak on day 1 to day 4
    assert figures["time_under_water"] == 4 / 8
    assert compute([90, 80, 95], cash=100.0)["max_drawdown"] == pytest.approx(-0.2)
    rising = compute([100, 101, 102])
    assert (rising["max_drawdown"], rising["max_drawdown_days"], rising["time_under_water"]) == (0, 0, 0)
    assert rising["calmar"] is None


def test_a_fall_within_a_day_is_a_drawdown_but_no_daily_return():
    figures = compute([100, 50, 100, 100, 101, 102], resolution=12 * 3600)
    assert figures["max_drawdown"] == -0.5
    assert figures["var_95"] == pytest.approx(np.percentile([-0.5, 1.0, 0.02], 5))


def test_trades_by_hand():
    figures = compute([100, 101], trips=trips([10, -5, 20, -5, 0, 7], [0.1, -0.05, 0.2, -0.05, 0, 0.07],
                                              [1, 2, 3, 4, 5, 6], ["closed"] * 5 + ["open"]))
    pnl = np.array([10, -5, 20, -5, 0])
    assert figures["trades"] == 6
    assert figures["win_rate"] == 2 / 5
    assert figures["profit_factor"] == 3.0
    assert figures["expectancy"] == 4.0
    assert figures["payoff_ratio"] == 3.0
    assert figures["sqn"] == pytest.approx(math.sqrt(5) * 4 / pnl.std(ddof=1))
    assert (figures["best_trade"], figures["worst_trade"]) == (0.2, -0.05)
    assert figures["avg_holding_days"] == 3
    assert (figures["avg_holding_days_winners"], figures["avg_holding_days_losers"]) == (2, 3)


def test_turnover_and_fees_by_hand():
    fills = {"time": np.arange(2), "quantity": np.array([5.0, 5.0]), "price": np.array([10.0, 12.0]),
             "fee": np.array([1.0, 2.0])}
    figures = compute([100, 110, 120], fills=fills)
    assert figures["turnover"] == pytest.approx(110 / 110) and figures["fees_paid"] == 3 and figures["fills"] == 2


def test_weekend_days_of_a_market_that_never_closes_count_as_unchanged():
    values = 100 * np.cumprod(1 + np.random.default_rng(3).normal(0, 0.02, 60))
    days = np.delete(np.arange(60), [20, 21, 40])
    holes = compute(values[days], times=days)
    values[[20, 21, 40]] = values[[19, 19, 39]]
    filled = compute(values)
    assert holes["periods_per_year"] == 365
    assert holes["sharpe"] == pytest.approx(filled["sharpe"])
    assert holes["annual_return"] == pytest.approx(filled["annual_return"])


def test_weekly_bars_are_annualised_as_weeks():
    value = 100 * np.cumprod(1 + np.random.default_rng(1).normal(0.002, 0.02, 60))
    figures = compute(value, cash=100.0, resolution=7 * 86400)
    returns = np.diff(np.concatenate(([100], value))) / np.concatenate(([100], value[:-1]))
    assert figures["periods_per_year"] == pytest.approx(52.18, abs=0.01)
    assert figures["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(365.25 / 7))


def test_minutes_are_annualised_by_days():
    candles = walk(3 * 1440, resolution=60, volatility=0.001)
    daily = candles.close[1439::1440]
    figures = compute(candles.close, cash=100.0, resolution=60)
    returns = np.diff(np.concatenate(([100], daily))) / np.concatenate(([100], daily[:-1]))
    assert figures["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(365))


def test_what_is_not_defined_is_none():
    one = compute([100.0])
    for key in ("sharpe", "volatility", "calmar", "beta", "alpha", "psr", "skew", "win_rate", "expectancy", "omega"):
        assert one[key] is None, key
    flat = compute([100.0] * 50)
    assert flat["total_return"] == 0 and flat["sharpe"] is None and flat["sortino"] is None and flat["beta"] is None


# Published examples.


def test_the_published_deflated_sharpe_ratio():
    """Bailey & Lopez de Prado 2014, the numerical example: SR 2.5 a year over 1,250 days (250 a year), skewness -3,
    kurtosis 10, the best of 100 trials whose yearly Sharpe ratios have the variance 1/2."""
    threshold = metrics.expected_max_sharpe(0.5 / 250, 100)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    found = metrics.deflated_sharpe(2.5 / math.sqrt(250), 1250, -3, 10, variance=0.5 / 250, trials=100)
    assert found == pytest.approx(0.9004, abs=5e-5)
    fewer = metrics.deflated_sharpe(2.5 / math.sqrt(250), 1250, -3, 10, variance=0.5 / 250, trials=46)
    assert fewer == pytest.approx(0.9505, abs=5e-4)


def test_probabilistic_sharpe_of_normal_returns():
    found = metrics.probabilistic_sharpe(0.1, 101, 0.0, 3.0)
    assert found == pytest.approx(0.5 * (1 + math.erf(0.1 * 10 / math.sqrt(1.005) / math.sqrt(2))))
    assert metrics.probabilistic_sharpe(0.1, 101, 0.0, 3.0, threshold=0.1) == 0.5
    assert metrics.probabilistic_sharpe(0.1, 1, 0.0, 3.0) is None
    assert metrics.expected_max_sharpe(0.5, 1) == 0.0


# Laws.


VALUES = st.lists(st.floats(min_value=-1e3, max_value=1e9, allow_nan=False), min_size=1, max_size=60)


@given(VALUES, st.floats(min_value=1e-3, max_value=1e9), st.sampled_from([60, 3600, 86400, 604800]))
@settings(max_examples=150, deadline=None)
def test_a_figure_is_finite_or_none(values, cash, resolution):
    with np.errstate(all="raise", under="ignore"):
        figures = compute(values, cash=cash, benchmark=np.abs(values) + 1e-6, resolution=resolution)
    for key, value in figures.items():
        assert value is None or math.isfinite(value), key
    for key in ("time_under_water", "exposure", "psr"):
        assert figures[key] is None or 0 <= figures[key] <= 1
    assert figures["max_drawdown"] <= 0


@given(st.lists(st.floats(min_value=1, max_value=1000), min_size=3, max_size=40), st.sampled_from([0.001, 7.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_the_unit_of_money_does_not_matter(values, scale):
    plain, scaled = (compute(np.array(values) * by, benchmark=np.array(values[::-1]) * by) for by in (1.0, scale))
    for key, metric in metrics.METRICS.items():
        if metric.unit != "currency" and plain[key] is not None and scaled[key] is not None:
            assert scaled[key] == pytest.approx(plain[key], rel=1e-6, abs=1e-6), key


def test_a_long_flat_benchmark_of_bars():
    figures = simulate.run(BacktestSpec(strategy="buy_and_hold", markets=("demo:AAA/USD",)),
                           MemoryStore(bars([10.0] * 30))).metrics
    assert figures["total_return"] == 0 and figures["beta"] is None and figures["benchmark_return"] == 0
