"""The tear-sheet's arithmetic against examples worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from engine import analysis, times

DAY = times.DAY


def days(count: int, first: str = "2023-01-30") -> np.ndarray:
    return times.micros(times.parse(first)) + np.arange(count, dtype=np.int64) * DAY


def test_drawdown_is_the_fraction_below_the_highest_value_so_far():
    assert analysis.drawdown(np.array([100.0, 120, 90, 132, 66])) == pytest.approx([0, 0, -0.25, 0, -0.5])
    assert analysis.drawdown(np.array([90.0, 110]), initial=100) == pytest.approx([-0.1, 0])
    assert len(analysis.drawdown(np.empty(0))) == 0


def test_drawdown_periods_come_deepest_first_with_their_dates():
    time = days(8)
    worst, mild = analysis.drawdown_periods(time, np.array([100.0, 95, 90, 100, 110, 55, 77, 99]))
    assert worst == {"start": time[4], "trough": time[5], "end": None, "depth": pytest.approx(-0.5),
                     "days": 3.0, "to_trough": 1.0, "to_recovery": None}
    assert mild == {"start": time[0], "trough": time[2], "end": time[3], "depth": pytest.approx(-0.1),
                    "days": 3.0, "to_trough": 2.0, "to_recovery": 1.0}
    assert analysis.drawdown_periods(time, np.arange(1.0, 9)) == []
    assert analysis.drawdown_periods(time[:0], np.empty(0)) == []
    assert analysis.drawdown_periods(time[:1], np.ones(1)) == []


@given(some.lists(some.floats(1, 1e6), min_size=2, max_size=60))
def test_the_deepest_period_is_the_greatest_drawdown(values):
    value = np.array(values)
    found = analysis.drawdown_periods(days(len(value)), value, count=None)
    assert min((period["depth"] for period in found), default=0.0) == analysis.drawdown(value).min()
    assert sum(period["end"] is None for period in found) <= 1


def test_daily_takes_the_last_value_of_each_day():
    hour = times.HOUR
    time = np.array([0, 23 * hour, 24 * hour, 72 * hour + 5])
    day, value = analysis.daily(time, np.array([1.0, 2, 3, 4]))
    assert day.tolist() == [0, DAY, 3 * DAY]
    assert value.tolist() == [2, 3, 4]


def test_returns_count_from_the_initial_value_when_given():
    assert analysis.returns(np.array([110.0, 99])) == pytest.approx([-0.1])
    assert analysis.returns(np.array([110.0, 99]), 100) == pytest.approx([0.1, -0.1])
    assert np.isnan(analysis.returns(np.array([0.0, 5.0]))).all()


def test_monthly_returns_chain_to_the_year():
    time = np.array([times.micros(times.parse(day)) for day in
                     ("2022-11-15", "2022-11-30", "2022-12-30", "2023-01-31", "2023-03-31")])
    years, table, totals = analysis.monthly_returns(time, np.array([100.0, 110, 99, 108.9, 98.01]))
    assert years.tolist() == [2022, 2023]
    assert table[0, 10] == pytest.approx(0.1)
    assert table[0, 11] == pytest.approx(-0.1)
    assert table[1, 0] == pytest.approx(0.1)
    assert np.isnan(table[1, 1]), "no data in February"
    assert table[1, 2] == pytest.approx(-0.1)
    assert totals == pytest.approx([-0.01, -0.01])
    assert analysis.monthly_returns(time[:0], np.empty(0))[1].shape == (0, 12)


def test_rolling_figures_against_whole_window_arithmetic():
    gains = np.array([0.01, -0.02, 0.03, 0.0])
    other = np.array([0.02, -0.01, 0.01, 0.01])
    window = gains[1:]
    assert np.isnan(analysis.rolling_sharpe(gains, 3, 252)[:2]).all()
    assert analysis.rolling_sharpe(gains, 3, 252)[-1] == pytest.approx(window.mean() / window.std(ddof=1) * 252**0.5)
    assert analysis.rolling_volatility(gains, 3, 365)[-1] == pytest.approx(window.std(ddof=1) * 365**0.5)
    assert analysis.rolling_beta(gains, other, 3)[-1] == pytest.approx(
        np.cov(window, other[1:])[0, 1] / np.var(other[1:], ddof=1))
    assert analysis.rolling_beta(gains, gains, 3)[-1] == pytest.approx(1.0)
    assert np.isnan(analysis.rolling_sharpe(np.zeros(5), 3, 252)).all(), "no movement, no ratio"
    assert np.isnan(analysis.rolling_beta(gains, other, 9)).all(), "window longer than the data"


def test_normal_quantiles_are_symmetric_and_ordered():
    theory, sample = analysis.normal_quantiles(np.array([3.0, 1, 2, np.nan]))
    assert sample.tolist() == [1, 2, 3]
    assert theory == pytest.approx([-0.967422, 0, 0.967422], abs=1e-6)


TRIPS = {
    "symbol": np.array(["A", "A", "B"], object), "direction": np.array([1, -1, 1]),
    "entry_time": np.array([0, 10, 20]), "exit_time": np.array([5, 15, 25]),
    "pnl": np.array([10.0, -5, 20]), "return": np.array([0.1, -0.05, 0.2]), "fees": np.array([1.0, 1, 2]),
    "status": np.array(["closed", "closed", "open"], object),
}


def test_group_trades_adds_up_and_orders_by_profit():
    table = analysis.group_trades(TRIPS["symbol"], TRIPS)
    assert table["group"].tolist() == ["B", "A"]
    assert table["trades"].tolist() == [1, 2]
    assert table["win_rate"].tolist() == [1.0, 0.5]
    assert table["pnl"].tolist() == [20, 5]
    assert table["average_return"] == pytest.approx([0.2, 0.025])
    assert np.isnan(table["profit_factor"][0])
    assert table["profit_factor"][1] == 2.0
    assert table["fees"].tolist() == [2, 2]
    empty = {name: column[:0] for name, column in TRIPS.items()}
    assert all(len(column) == 0 for column in analysis.group_trades(empty["symbol"], empty).values())


def test_reasons_join_trades_with_the_fills_that_made_them():
    fills = {"time": np.array([0, 5, 10, 20]), "symbol": np.array(["A", "A", "A", "B"], object),
             "side": np.array([1, -1, -1, 1]), "reason": np.array(["cross", "stop", "flip", "cross"], object)}
    assert analysis.reasons(TRIPS, fills, "entry").tolist() == ["cross", "flip", "cross"]
    assert analysis.reasons(TRIPS, fills).tolist() == ["stop", "unknown", "open"]


def test_weekday_hour_places_a_known_instant():
    at = times.micros(times.parse("2023-01-31T14:59:00Z"))  # a Tuesday
    count, mean = analysis.weekday_hour(np.array([at, at + 1]), np.array([0.1, 0.3]))
    assert count[1, 14] == 2 == count.sum()
    assert mean[1, 14] == pytest.approx(0.2)
    assert np.isnan(mean).sum() == 167


def candles(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    close = 100 + np.cumsum(rng.normal(size=count))
    open_ = np.concatenate(([100.0], close[:-1]))
    return {"time": np.arange(count, dtype=np.int64) * times.MINUTE, "open": open_, "close": close,
            "high": np.maximum(open_, close) + 1, "low": np.minimum(open_, close) - 1, "volume": np.ones(count)}


def test_aggregated_candles_keep_extremes_ends_and_volume():
    whole = candles(10)
    few = analysis.aggregate_candles(whole, 4)
    assert few["time"].tolist() == whole["time"][[0, 3, 6, 9]].tolist()
    assert few["last"].tolist() == whole["time"][[2, 5, 8, 9]].tolist()
    assert few["open"][1] == whole["open"][3]
    assert few["close"][1] == whole["close"][5]
    assert few["high"][1] == whole["high"][3:6].max()
    assert few["low"].min() == whole["low"].min()
    assert few["volume"].tolist() == [3, 3, 3, 1]
    assert analysis.aggregate_candles(whole, 10)["close"] is whole["close"]


@given(some.integers(1, 3000), some.integers(1, 500))
def test_aggregation_never_makes_more_bars_than_asked(count, bars):
    whole = candles(count)
    few = analysis.aggregate_candles(whole, bars)
    assert len(few["time"]) <= bars
    assert few["high"].max() == whole["high"].max()
    assert few["volume"].sum() == count
    assert few["close"][-1] == whole["close"][-1]


def test_downsampling_keeps_ends_and_extremes():
    time, value = np.arange(100_000), np.sin(np.arange(100_000) / 500)
    value[77_777] = 9.0
    rows = analysis.downsample(time, value, 1000)
    assert len(rows) <= 1000
    assert rows[0] == 0
    assert rows[-1] == 99_999
    assert 77_777 in rows
    assert analysis.downsample(time[:5], value[:5], 1000).tolist() == [0, 1, 2, 3, 4]


def test_between_is_inclusive_at_both_ends():
    table = {"time": np.arange(10), "x": np.arange(10) * 2}
    assert analysis.between(table, 3, 5)["x"].tolist() == [6, 8, 10]
    assert len(analysis.between(table, None, None)["time"]) == 10


def test_correlation_uses_common_days_only():
    time = days(8)
    value = np.array([100.0, 101, 99, 103, 104, 100, 98, 105])
    matrix = analysis.correlation([(time, value), (time[1:], value[1:] * 2), (time, 200 / value)])
    assert matrix[0, 1] == pytest.approx(1)
    assert matrix[0, 2] == pytest.approx(-1, abs=0.02)
    assert np.isnan(analysis.correlation([(time[:2], value[:2]), (time, value)])).all()
