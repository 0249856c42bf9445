"""Detectors: signals worked by hand, no look-ahead, one candle at a time as all at once, with every duration."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine import detectors
from engine.alert_life import SIDE, START, STOP, TARGET
from engine.alert_walk import DETECTED, ENDED, STARTED, Slot, slot_of, walk
from engine.errors import Invalid
from engine.live import Stepper
from tests.server.alert_candles import wandering

KEYS = detectors.names()


def columns(candles: Any) -> Any:
    return tuple(np.ascontiguousarray(getattr(candles, name)) for name in
                 ("time", "open", "high", "low", "close", "volume"))


def told(happened: Any) -> list[Any]:
    """What happened, comparable bit by bit."""
    return [(each.kind, each.life.tobytes(), tuple(each.out.items()) if each.kind == DETECTED else ())
            for each in happened]


def signals(key: str, bars: list[tuple[float, float, float, float]], **params: Any) -> list[tuple[Any, ...]]:
    """(bar, advice, start, target, stop) of every signal on these bars (open, high, low, close)."""
    stepper = Stepper(detectors.get(key).strategy, params)
    found = []
    for place, bar in enumerate(bars):
        advice, out = stepper.push(np.array([[*bar, 1.0]]))
        if advice[0] == advice[0]:
            found.append((place, float(advice[0]), *(round(float(value), 9) for value in out[:3])))
    return found


def mirrored(bars: list[tuple[float, float, float, float]]) -> list[tuple[float, float, float, float]]:
    return [(200 - o, 200 - low, 200 - high, 200 - c) for o, high, low, c in bars]


CALM = [(101.0, 102.0, 100.0, 101.0)] * 4
BREAKOUT = [*CALM, (101.0, 103.0, 101.0, 102.5), (102.5, 104.0, 102.0, 103.5), (103.0, 103.0, 101.0, 102.0),
            (102.0, 106.0, 102.0, 105.0)]
# channel of 3, true range of 2 bars: bar 4 closes above 102 (range 2): 102, 102 + 2 * 2, 102 - 2. Bar 5 is still
# outside: the same breakout. Bar 7 comes from within (104 was the high): range (2 + 2.5) / 2.
BROKEN = [(4, 1.0, 102.0, 106.0, 100.0), (7, 1.0, 104.0, 108.5, 101.75)]

TREND = [(float(p), p + 1.0, p - 1.0, float(p)) for p in (100, 101, 102, 103, 106, 110)]
# averages of 2 and 3 bars; true range of 2. Bar 5 stands clear above the fast average; bar 6 touches it and closes
# below, bar 7 closes above it again: start at its high, stop half a range below the lowest low since bar 5.
PULLBACK = [*TREND, (110.0, 110.0, 106.0, 107.0), (107.0, 111.0, 106.5, 110.0)]


def test_a_breakout_by_hand_and_its_mirror() -> None:
    params = {"channel": 3, "window": 2, "margin": 0.0, "risk": 1.0, "reward": 2.0}
    assert signals("breakout_retest_short", BREAKOUT, **params) == BROKEN
    assert signals("breakout_retest_short", mirrored(BREAKOUT), **params) == [
        (bar, -side, 200 - start, 200 - target, 200 - stop) for bar, side, start, target, stop in BROKEN]
    assert signals("breakout_retest_short", BREAKOUT, **{**params, "margin": 0.4}) == BROKEN[1:2] != []


def test_a_pullback_by_hand_and_its_mirror() -> None:
    params = {"fast": 2, "slow": 3, "window": 2, "risk": 0.5, "reward": 2.0}
    span = (4.0 + 4.5) / 2  # bar 6: 110 to 106; bar 7: 111 to 106.5
    stop = 106.0 - 0.5 * span
    expected = (7, 1.0, 111.0, 111.0 + 2 * (111.0 - stop), stop)
    assert signals("ma_pullback_short", PULLBACK, **params) == [expected]
    assert signals("ma_pullback_short", mirrored(PULLBACK), **params) == [
        (7, -1.0, 89.0, pytest.approx(200 - expected[3]), pytest.approx(200 - stop))]


def test_a_reversion_by_hand_and_its_mirror() -> None:
    # band of 4 closes, 1 deviation; closes 100, 102, 100, 102, 98 leave it below, 100 comes back.
    bars = [(c, c + 1, c - 1, c) for c in (100.0, 102.0, 100.0, 102.0, 98.0, 100.0)]
    params = {"window": 4, "width": 1.0, "efficiency": 0.5, "risk": 0.0, "reward": 0.1}
    # then: middle (100 + 102 + 98 + 100) / 4 = 100, no way to win: no alert; with a last close of 99: middle 99.75,
    # stop at the lowest low 97, net change |99 - 102| of the path 2 + 2 + 4 + 1.
    assert signals("range_reversion_short", bars, **params) == []
    bars[-1] = (98.0, 99.5, 97.5, 99.0)
    assert signals("range_reversion_short", bars, **params) == [(5, 1.0, 99.0, 99.75, 97.0)]
    assert signals("range_reversion_short", mirrored(bars), **params) == [(5, -1.0, 101.0, 100.25, 103.0)]
    assert signals("range_reversion_short", bars, **{**params, "efficiency": 0.3}) == []  # 3 / 9 is a trend then
    assert signals("range_reversion_short", bars, **{**params, "reward": 0.5}) == []  # 0.75 for 2


@pytest.mark.parametrize("key", KEYS)
def test_every_detector_says_what_it_is(key: str) -> None:
    detector = detectors.get(key)
    described = detector.describe()
    assert described["key"] == key == f"{described['kind']}_{described['duration']}"
    assert [each["name"] for each in described["parameters"][:3]] == ["patience", "trail", "tight"]
    assert [each["name"] for each in described["indicators"][:3]] == ["start", "target", "stop"]
    assert all(each["doc"] for each in described["parameters"]) and described["sources"] and described["doc"]
    assert detector.resolve({}) == {each["name"]: each["default"] for each in described["parameters"]}
    assert len(described["indicators"]) <= 8


def test_there_are_three_kinds_in_two_durations() -> None:
    assert sorted((each["kind"], each["duration"]) for each in detectors.describe()) == [
        (kind, duration) for kind in ("breakout_retest", "ma_pullback", "range_reversion")
        for duration in ("long", "short")]
    with pytest.raises(Invalid, match="no detector"):
        detectors.get("tea_leaves")
    with pytest.raises(Invalid) as error:
        slot_of("x", "ma_pullback_long", {"fast": 100, "slow": 100})
    assert error.value.problems[0].field == "params.fast"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("bar", [60, 300], ids=["1m", "5m"])
def test_alerts_both_ways_have_sound_levels(key: str, bar: int) -> None:
    detector = detectors.get(key)
    found, _ = walk([slot := slot_of("x", key, bar=bar)], columns(candles := wandering(20_000, 7)), [0], [20_000])
    detected = [each for each in found if each.kind == DETECTED]
    sides = [each.life[SIDE] for each in detected]
    assert min(sides.count(1.0), sides.count(-1.0)) > 3
    for each in detected:
        side, start = each.life[SIDE], each.life[START]
        assert side * each.life[TARGET] > side * start > side * each.life[STOP]
        assert detector.why("BUY" if side > 0 else "SELL", slot.params, each.out)
        assert each.at % (bar * 1_000_000) == 0
    assert all(each.at >= int(candles.time[slot.detector.warm_up(slot.params) - 1]) for each in detected)
    kinds = [each.kind for each in found]
    assert all(after == DETECTED for before, after in pairwise(kinds) if before == ENDED)
    assert kinds.count(STARTED) > 3  # one alert at a time: each is detected, may begin, and ends


@pytest.mark.parametrize("key", KEYS)
def test_what_comes_later_changes_nothing_before(key: str) -> None:
    candles = wandering(3_000, 11)
    whole, _ = walk([slot_of("x", key, bar=120)], columns(candles), [0], [len(candles)])
    assert len(whole) > 5
    for length in (400, 1_111, 2_500):
        cut, _ = walk([slot_of("x", key, bar=120)], columns(candles.take(slice(0, length))), [0], [length])
        assert told(cut) == told([each for each in whole if each.row < length])


@given(seed=some.integers(0, 1000), cuts=some.lists(some.integers(0, 400), max_size=8).map(sorted),
       gaps=some.sets(some.integers(0, 399), max_size=60), key=some.sampled_from(KEYS),
       bar=some.sampled_from([60, 180]))
@settings(max_examples=40, deadline=None)
def test_however_candles_are_cut_and_missing_live_is_the_backtest(seed: int, cuts: list[int], gaps: set[int], key: str,
                                                                  bar: int) -> None:
    candles = wandering(400, seed)
    candles = candles.take(np.array([row not in gaps for row in range(400)]))
    cuts = [0, *(min(cut, len(candles)) for cut in cuts), len(candles)]
    params = {"channel": 5} if "breakout" in key else {"window": 8}
    whole = slot_of("x", key, params, bar=bar)
    found, _ = walk([whole], columns(candles), [0], [len(candles)])
    live = slot_of("x", key, params, bar=bar)
    pieces = []
    for first, last in pairwise(cuts):
        again = max(0, first - 3)  # the last ones once more: they are late, or the same again
        some_, _ = walk([live], columns(candles.take(slice(again, last))), [0], [last - again])
        pieces += some_
        live = Slot(market="x", detector=live.detector, params=live.params, bar=bar,  # a restart from what was kept
                    gathered=np.frombuffer(live.gathered.tobytes()).copy(),
                    memory=np.frombuffer(live.memory.tobytes()).copy(),
                    life=np.frombuffer(live.life.tobytes()).copy())
    assert told(pieces) == told(found)
    assert live.memory.tobytes() == whole.memory.tobytes() and live.life.tobytes() == whole.life.tobytes()


def test_slots_of_one_call_do_not_touch_each_other() -> None:
    candles = [wandering(500, seed) for seed in range(6)]
    whole: Any = tuple(np.concatenate(column) for column in zip(*(columns(each) for each in candles), strict=True))
    keys = [{"channel": channel} for channel in (4, 20, 6, 9, 30, 5)]
    together = [slot_of(str(place), "breakout_retest_short", params, bar=60) for place, params in enumerate(keys)]
    found, completed = walk(together, whole, [500 * place for place in range(6)], [500 * place + 500
                                                                                   for place in range(6)])
    assert completed.all()
    for place, params in enumerate(keys):
        alone, _ = walk([slot_of(str(place), "breakout_retest_short", params, bar=60)], columns(candles[place]), [0],
                        [500])
        assert told(alone) == told([each for each in found if each.market == str(place)]) != []


def test_a_detector_walks_as_a_strategy_does() -> None:
    """The step that makes alerts is the one that any strategy loop runs: a bar of five minutes is the resampled one."""
    from engine.advice import walk as walk_strategy
    from engine.reporter import Reporter

    candles = wandering(5_000, 3)
    bars = candles.resample(300)
    detector = detectors.get("ma_pullback_short")
    advice = walk_strategy(detector.strategy, dict(detector.resolve({})), [bars], bars.time, Reporter())
    ends = bars.time[np.isfinite(advice.exposure)] + 300_000_000
    found, _ = walk([slot_of("x", detector.key, {"patience": 1})], columns(candles), [0], [len(candles)])
    detected = [each.at for each in found if each.kind == DETECTED]
    assert len(detected) > 3 and set(detected) <= set(ends.tolist())
