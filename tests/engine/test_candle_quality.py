"""Calendars, gaps and faults of candles that are made to have them; fewer bars for charts."""

import time as clock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import times
from engine.candles import Candles, empty
from engine.demo import demo_candles
from engine.downsample import fewer_candles, line_points
from engine.errors import Invalid
from engine.model import Market
from engine.quality import quality

MARKET = Market("demo", "XBT", "USD")


def at(text: str) -> int:
    return times.micros(times.parse(text))


def bars(time: np.ndarray, resolution: int, seed: int = 0) -> Candles:
    random = np.random.default_rng(seed)
    n = len(time)
    close = 100 * np.exp(0.001 * random.normal(size=n).cumsum())
    return Candles(market=MARKET, resolution=resolution, time=time.astype(np.int64), open=close, high=close * 1.001,
                   low=close * 0.999, close=close, volume=random.random(n) + 1)


def around_the_clock(n: int, resolution: int = 60, start: str = "2020-01-01") -> Candles:
    return bars(at(start) + np.arange(n) * resolution * 10**6, resolution)


def weekdays(first: str, last: str) -> np.ndarray:
    """Midnights (microseconds) of Mondays to Fridays."""
    days = np.arange(np.datetime64(first), np.datetime64(last) + 1)
    days = days[np.is_busday(days)]
    return days.astype("datetime64[us]").astype(np.int64)


def session(first: str, last: str, *, summer: bool = False) -> Candles:
    """Minutes 14:30 to 20:59 UTC on weekdays; an hour earlier from 8 March to 1 November with `summer`."""
    days = weekdays(first, last)
    opens = np.full(len(days), 14 * 60 + 30)
    if summer:
        opens[(days >= at("2020-03-08")) & (days < at("2020-11-01"))] -= 60
    time = days[:, None] + (opens[:, None] + np.arange(390)) * times.MINUTE
    return bars(time.ravel(), 60)


def test_an_unbroken_market_is_flawless() -> None:
    found = quality(around_the_clock(20_000))
    assert (found.calendar, found.periods_per_year, found.coverage, found.findings) == ("24x7", 365.0, 1.0, ())
    assert found.bars_per_year == 525_600 and found.gaps == ()


def test_around_the_clock_every_missing_bar_counts() -> None:
    whole = around_the_clock(20_000)
    found = quality(whole.take(np.r_[0:100, 101:5000, 6000:20_000]))
    assert [(gap.start, gap.end, gap.missing) for gap in found.gaps] == [
        (whole.time[100], whole.time[100], 1), (whole.time[5000], whole.time[5999], 1000)]
    assert (found.missing_bars, found.gap_count, found.coverage) == (1001, 2, (20_000 - 1001) / 20_000)


def test_weekends_and_holidays_of_an_exchange_are_no_gaps() -> None:
    days = weekdays("2018-01-01", "2020-12-31")
    holidays = np.array([at(day) for day in ("2018-01-15", "2018-07-04", "2019-12-25")])
    outage = (days >= at("2019-03-04")) & (days <= at("2019-03-08"))
    found = quality(bars(days[~np.isin(days, holidays) & ~outage], 86400))
    assert found.calendar == "exchange" and found.weekdays == (0, 1, 2, 3, 4)
    assert [(gap.start, gap.missing) for gap in found.gaps if gap.severity == "session"] == [(h, 1) for h in holidays]
    (gap,) = [gap for gap in found.gaps if gap.severity == "gap"]
    assert (gap.start, gap.end, gap.missing) == (at("2019-03-04"), at("2019-03-08"), 5)
    assert found.coverage == found.rows / (found.rows + 5)
    assert found.periods_per_year == round((261 - 2 + 261 - 1 - 5 + 262) / 3, 1)
    assert "3 whole years" in found.periods_text


def test_without_a_whole_year_an_exchange_has_252_sessions() -> None:
    found = quality(bars(weekdays("2020-02-01", "2020-12-31"), 86400))
    assert found.periods_per_year == 252.0 and "no whole year" in found.periods_text


@pytest.mark.parametrize("summer", [False, True])
def test_nights_and_daylight_saving_are_no_gaps(summer: bool) -> None:
    found = quality(session("2020-01-06", "2020-12-18", summer=summer))
    assert found.calendar == "exchange" and found.gaps == () and found.coverage == 1.0
    assert found.bars_per_year == 252 * 390


def test_a_hole_within_a_session_is_a_gap_and_an_early_close_is_not() -> None:
    whole = session("2020-01-06", "2020-06-26", summer=True)
    hole = (whole.time >= at("2020-05-05T15:00")) & (whole.time < at("2020-05-05T15:30"))
    early = (whole.time >= at("2020-05-22T17:00")) & (whole.time < at("2020-05-23"))
    found = quality(whole.take(~hole & ~early))
    assert [(gap.start, gap.end, gap.missing, gap.severity) for gap in found.gaps] == [
        (at("2020-05-05T15:00"), at("2020-05-05T15:29"), 30, "gap"),
        (at("2020-05-22T17:00"), at("2020-05-22T19:59"), 180, "session")]
    assert found.coverage == found.rows / (found.rows + 30) and found.missing_sessions == 1


def test_faults_are_counted_and_listed() -> None:
    whole = around_the_clock(1000)
    whole.high[10] = whole.close[10] - 1
    whole.low[20] = whole.open[20] + 1
    whole.close[500] *= 3
    whole.volume[100:150] = 0
    whole.low[300] = -1
    found = quality(whole)
    assert [(time - whole.time[0]) // times.MINUTE for time in found.bad_bars] == [10, 20, 500]
    assert [(time - whole.time[0]) // times.MINUTE for time in found.outliers] == [500, 501]
    assert (found.zero_volume, found.longest_zero_volume, found.non_positive) == (50, 50, 1)
    assert len(found.findings) == 4


def test_doubles_are_counted_although_the_store_never_has_them() -> None:
    whole = around_the_clock(100)
    found = quality(whole.take(np.r_[0:50, 40:100]))
    assert found.duplicates == 1 and found.rows == 110 and found.gap_count == 0


def test_no_bars_have_no_quality() -> None:
    found = quality(empty(MARKET, 60))
    assert (found.rows, found.first, found.coverage, found.findings) == (0, None, 0.0, ("there are no bars",))
    assert found.to_json()["first"] is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=120, unique=True).map(sorted),
       st.sampled_from([60, 900, 3600, 86400, 604800]))
def test_any_bars_can_be_judged(steps: list[int], resolution: int) -> None:
    candles = bars(at("2010-01-01") + np.array(steps) * resolution * 10**6, resolution)
    found = quality(candles)
    assert 0 < found.coverage <= 1 and found.periods_per_year > 0
    assert found.missing_bars == sum(gap.missing for gap in found.gaps if gap.severity == "gap")
    inside = (candles.time[0], candles.time[-1])
    assert all(inside[0] <= gap.start <= gap.end <= inside[1] and gap.missing > 0 for gap in found.gaps)
    if found.calendar == "24x7":
        assert len(candles) + found.missing_bars == (inside[1] - inside[0]) // (resolution * 10**6) + 1
    import json

    json.dumps(found.to_json())


def test_a_million_bars_are_judged_quickly() -> None:
    candles = around_the_clock(1_000_000)
    started = clock.process_time()
    quality(candles)
    assert clock.process_time() - started < 2


def test_the_demo_follows_an_exchange() -> None:
    for candles in demo_candles():
        found = quality(candles)
        assert found.calendar == "exchange" and 250 < found.periods_per_year < 253 and found.coverage > 0.99


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=200, unique=True).map(sorted),
       st.sampled_from([60, 420, 3600, 86400, 604800]), st.integers(2, 60))
def test_fewer_candles_keep_the_shape(steps: list[int], resolution: int, points: int) -> None:
    candles = bars(at("1969-06-01") + np.array(steps) * resolution * 10**6, resolution)
    drawn = fewer_candles(candles, points)
    assert 1 <= len(drawn) <= points and drawn.resolution % resolution == 0
    assert (drawn is candles) == (len(candles) <= points)
    assert (drawn.open[0], drawn.close[-1]) == (candles.open[0], candles.close[-1])
    assert (drawn.high.max(), drawn.low.min()) == (candles.high.max(), candles.low.min())
    assert drawn.volume.sum() == pytest.approx(candles.volume.sum())


def test_fewer_candles_have_a_round_resolution() -> None:
    candles = around_the_clock(100_000)
    assert times.resolution_name(fewer_candles(candles, 2000).resolution) == "1h"
    with pytest.raises(Invalid) as caught:
        fewer_candles(candles, 1)
    assert caught.value.field == "points"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), max_size=400), st.integers(3, 80))
def test_points_of_a_line_are_some_of_its_own(values: list[float], points: int) -> None:
    y = np.array(values)
    picked = line_points(np.arange(len(y)), y, points)
    finite = np.flatnonzero(np.isfinite(y))
    assert len(picked) <= points and (np.diff(picked) > 0).all() and np.isin(picked, finite).all()
    if len(finite):
        assert (picked[0], picked[-1]) == (finite[0], finite[-1])
    if len(finite) <= points:
        assert len(picked) == len(finite)


def test_a_spike_stays_visible() -> None:
    y = np.sin(np.arange(100_000) / 1000)
    y[54_321] = 9.0
    assert 54_321 in line_points(np.arange(100_000) * 60_000_000, y, 500)
