"""Dates, ranges and gaps as Gekko reads them."""

import numpy as np
import pytest

from engine import gekko_backtest
from engine.errors import Invalid
from engine.gekko_ranges import read_date, read_range, require_candles, scan
from tests.engine.gekko_golden import FIRST, candles, cases

JANUARY = 1_514_764_800


@pytest.mark.parametrize(("given", "seconds"), [
    ("2018-01-03", JANUARY + 2 * 86400), ("2018-01-06 12:30", JANUARY + 5 * 86400 + 45000), ("2018", JANUARY),
    ("2018-01-06 12:30:00", JANUARY + 5 * 86400 + 45000), ("2018-01-01T00:00:00Z", JANUARY), ("2018-01", JANUARY),
    ("2018-01-01T00:00:00.999Z", JANUARY), ("2018-01-01T02:00:00+02:00", JANUARY), (JANUARY * 1000, JANUARY),
    (JANUARY, JANUARY // 1000), (1500.9, 1), (-1, -1), (0, 0), ("2018-01-01T00:00:00.000Z", JANUARY),
])
def test_dates(given, seconds):
    assert read_date(given, field="from") == seconds


@pytest.mark.parametrize("given", [
    None, True, "", "yesterday", "1514764800000", "2018-13-01", [], {}, float("nan"), float("inf"), 1e300, "2018-02-30",
    pytest.param(10**400, id="huge"), "2018-01-01T00:00:00+99:00",
])
def test_what_is_no_date_is_refused(given):
    with pytest.raises(Invalid) as caught:
        read_date(given, field="backtest.daterange.from")
    assert caught.value.field == "backtest.daterange.from" and caught.value.remedy


def test_a_range_ends_after_it_begins_and_what_is_missing_is_now():
    assert read_range({"from": "2018-01-01"}, now=JANUARY + 5) == (JANUARY, JANUARY + 5)
    for wrong in ({"from": "2018-01-02", "to": "2018-01-01"}, {"from": "2018-01-01", "to": "2018-01-01"}, "x", None,
                  []):
        with pytest.raises(Invalid) as caught:
            read_range(wrong)
        assert caught.value.field.startswith("backtest.daterange") and caught.value.remedy


def test_scan_of_the_golden_candles_is_the_original_s():
    assert scan(candles("rw20d_gaps").time // 1_000_000) == [(1514768340, 1515877140), (1515880740, 1516492740)]
    assert scan(candles("rw60d").time // 1_000_000) == [(1514764800, 1519948740)]


def test_scan_of_little_and_of_nothing():
    assert scan(np.array([], np.int64)) == [] and scan(np.array([JANUARY])) == [(JANUARY, JANUARY)]
    broken = JANUARY + 60 * np.array([0, 2, 3])
    assert scan(broken) == []
    whole = JANUARY + 60 * np.arange(1000)
    for missing, ranges in (([500, 501, 502], 1), ([500, 501, 502, 503], 2)):
        found = scan(np.delete(whole, missing))
        assert len(found) == ranges and found[-1][1] == whole[-1]


def naive(seconds):
    first, last = seconds[0], seconds[-1]
    if len(seconds) == (last - first) // 60 + 1:
        return [(first, last)]
    found, end, there = [], last, set(seconds)
    while end - 3600 > first:
        if sum(at in there for at in range(end - 3600, end + 1, 60)) + 3 > 60:
            found = [(end - 3600, found[0][1]), *found[1:]] if found and found[0][0] == end \
                else [(end - 3600, end), *found]
        end -= 3600
    return found


@pytest.mark.parametrize("seed", range(12))
def test_scan_equals_a_slow_one(seed):
    random = np.random.default_rng(seed)
    kept = random.random(3000) > 0.02
    for _ in range(4):
        begin = int(random.integers(3000))
        kept[begin:begin + int(random.integers(200))] = False
    seconds = JANUARY + 60 * np.flatnonzero(kept)
    assert scan(seconds) == naive(seconds.tolist())


@pytest.mark.parametrize("seed", range(20))
def test_a_block_without_candles_is_refused_as_when_reading_one_after_another(seed):
    random = np.random.default_rng(seed)
    start, minutes = JANUARY + int(random.integers(60)), int(random.choice([1, 7, 50]))
    end = start + int(random.integers(1, 20_000))
    times = np.arange(JANUARY, end + 1, 60)
    times = times[times >= start]
    for _ in range(int(random.integers(3))):
        hole = start + int(random.integers(0, end - start))
        times = times[(times < hole) | (times > hole + 60 * int(random.integers(130)))]
    fails, block, closed = False, start, False
    while not closed:
        last = block + minutes * 60 - 1
        closed = last >= end
        if not ((times >= block) & (times <= min(last, end))).any():
            fails |= not closed
        block += minutes * 60
    if fails:
        with pytest.raises(Invalid) as caught:
            require_candles(times, start, end, minutes)
        assert caught.value.field == "backtest.daterange" and caught.value.remedy
    else:
        require_candles(times, start, end, minutes)


def request(**daterange):
    return {**cases()["MACD-60-10"]["request"], "backtest": {"daterange": daterange}}


def test_both_ends_of_a_range_count():
    run = gekko_backtest.run
    report = run(request(**{"from": "2018-01-02T00:00:00Z", "to": "2018-01-02T00:59:00Z"}), candles("rw60d"))
    assert [candle["start"] for candle in report.stratCandles] == [FIRST + 86400]
    report = run(request(**{"from": "2018-01-02T00:00:01Z", "to": "2018-01-02T01:00:00Z"}), candles("rw60d"))
    assert [candle["start"] for candle in report.stratCandles] == [FIRST + 86460]


def test_without_a_range_the_only_one_is_used_and_several_are_refused():
    config = cases()["MACD-60-10"]["request"]
    for backtest in ({}, {"backtest": {}}, {"backtest": {"daterange": "scan"}}):
        asked = {key: value for key, value in config.items() if key != "backtest"} | backtest
        assert len(gekko_backtest.run(asked, candles("rw60d")).stratCandles) == 1440
        with pytest.raises(Invalid, match="2 ranges"):
            gekko_backtest.run(asked, candles("rw20d_gaps"))
        with pytest.raises(Invalid, match="no candles"):
            gekko_backtest.run(asked, candles("rw60d").take(slice(0, 0)))


def test_seconds_for_milliseconds_are_an_empty_range():
    report = gekko_backtest.run(request(**{"from": FIRST, "to": FIRST + 86400}), candles("rw60d"))
    assert report.performanceReport is None and report.stratCandles == report.trades == []
    assert b'"trades":[]' in report.json() and "performanceReport" not in report.answer()
    with pytest.raises(Invalid, match="no candles"):
        gekko_backtest.run(request(**{"from": FIRST, "to": FIRST * 2}), candles("rw60d"))


def test_a_hole_as_long_as_a_block_is_refused_and_a_larger_block_bridges_it():
    market = candles("rw60d")
    holed = market.take(np.delete(np.arange(20_000), np.arange(1000, 1050)))
    asked = request(**{"from": "2018-01-01", "to": "2018-01-10"})
    with pytest.raises(Invalid, match="50 minutes from 2018-01-01T16:40"):
        gekko_backtest.run(asked, holed)
    asked["backtest"]["batchSize"] = 100
    assert len(gekko_backtest.run(asked, holed).stratCandles) == (9 * 1440 + 1 - 50) // 60
