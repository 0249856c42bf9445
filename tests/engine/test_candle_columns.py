"""Candles as columns: checking, cutting, resampling against a slow reference and pandas, fingerprint."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import times
from engine.candles import FIELDS, Candles, empty
from engine.errors import Invalid
from engine.model import Market

MARKET = Market("demo", "XBT", "USD")


def candles(time: list[int], resolution: int = 60, seed: int = 0, **extra: np.ndarray) -> Candles:
    """Random bars at the given minutes since 1970."""
    random = np.random.default_rng(seed)
    n = len(time)
    close = 100 + random.normal(size=n).cumsum()
    opens = close + random.normal(size=n)
    return Candles(market=MARKET, resolution=resolution, time=np.array(time, np.int64) * times.MINUTE, open=opens,
                   close=close, high=np.maximum(opens, close) + random.random(n),
                   low=np.minimum(opens, close) - random.random(n), volume=random.integers(0, 5, n).astype(float),
                   extra=extra)


def slowly(bars: Candles, resolution: int) -> list[tuple[float, ...]]:
    """Resampling as one would explain it: bar by bar, in plain Python."""
    width, anchor = resolution * 10**6, 4 * 86400 * 10**6 if resolution % 604800 == 0 else 0
    found: dict[int, list[float]] = {}
    for row in range(len(bars)):
        at = int(bars.time[row])
        begin = (at - anchor) // width * width + anchor
        o, h, l, c, v = (float(getattr(bars, name)[row]) for name in FIELDS)  # noqa: E741
        if begin not in found:
            found[begin] = [o, h, l, c, v]
        else:
            bar = found[begin]
            found[begin] = [bar[0], max(bar[1], h), min(bar[2], l), c, bar[4] + v]
    return [(begin, *bar) for begin, bar in found.items()]


minutes = st.lists(st.integers(-200_000, 200_000), min_size=1, max_size=200, unique=True).map(sorted)


@settings(max_examples=60, deadline=None)
@given(minutes, st.sampled_from([60, 120, 300, 420, 900, 3600, 14400, 86400, 172800, 604800, 1209600]),
       st.integers(0, 99))
def test_resampling_equals_the_slow_reference(time: list[int], resolution: int, seed: int) -> None:
    bars = candles(time, seed=seed)
    made = bars.resample(resolution)
    rows = zip(made.time, *(getattr(made, name) for name in FIELDS), strict=True)
    assert [tuple(map(float, row)) for row in rows] == slowly(bars, resolution)
    assert made.resolution == resolution and made.time.dtype == np.int64


@pytest.mark.parametrize(("resolution", "rule"), [(300, "5min"), (3600, "1h"), (86400, "1D"), (604800, "7D")])
def test_resampling_equals_pandas(resolution: int, rule: str) -> None:
    import pandas as pd

    minutes = np.unique(np.random.default_rng(3).integers(26_000_000, 26_060_000, 9_000)).tolist()
    bars = candles(minutes)
    frame = pd.DataFrame({name: getattr(bars, name) for name in FIELDS},
                         index=pd.to_datetime(bars.time, unit="us"))
    origin = pd.Timestamp("1970-01-05") if resolution == 604800 else "epoch"
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    wanted = frame.resample(rule, origin=origin).agg(how).dropna()
    made = bars.resample(resolution)
    assert made.time.tolist() == wanted.index.as_unit("us").astype("int64").tolist()
    for name in FIELDS:
        np.testing.assert_allclose(getattr(made, name), wanted[name].to_numpy(), rtol=1e-12)
    if resolution == 604800:
        assert all(times.instant(at).weekday() == 0 for at in made.time.tolist())


@settings(max_examples=40, deadline=None)
@given(minutes, st.sampled_from([(300, 3600), (900, 86400), (3600, 604800), (120, 360)]))
def test_resampling_in_two_steps_equals_one(time: list[int], steps: tuple[int, int]) -> None:
    bars = candles(time)
    twice, once = bars.resample(steps[0]).resample(steps[1]), bars.resample(steps[1])
    assert twice.fingerprint() == once.fingerprint()


def test_extra_columns_are_resampled_by_what_they_mean() -> None:
    bars = Candles(market=MARKET, resolution=60, time=np.arange(6) * times.MINUTE, open=np.arange(6.0),
                   high=np.full(6, 9.0), low=np.zeros(6), close=np.arange(6.0), volume=np.array([1, 3, 0, 0, 1, 1.0]),
                   extra={"vwp": np.array([1, 2, 5, 5, np.nan, 8]), "trades": np.array([1, 2, 0, 0, 1, 1.0]),
                          "funding": np.arange(6.0)})
    made = bars.resample(120)
    assert made.extra["vwp"].tolist() == [1.75, 2.0, 8.0]  # weighted; open of a silent bucket; the known half
    assert made.extra["trades"].tolist() == [3, 0, 2]
    assert made.extra["funding"].tolist() == [1, 3, 5]


@pytest.mark.parametrize("resolution", [30, 90, 61])
def test_a_resolution_that_is_no_multiple_is_refused(resolution: int) -> None:
    with pytest.raises(Invalid) as caught:
        candles([0, 1, 2]).resample(resolution)
    assert caught.value.field == "resolution"


def test_no_bars_resample_to_no_bars() -> None:
    assert len(empty(MARKET, 60).resample(3600)) == 0


def test_cutting_gives_views() -> None:
    bars = candles(list(range(10)))
    part = bars.between(2 * times.MINUTE, 4 * times.MINUTE)
    assert (part.time // times.MINUTE).tolist() == [2, 3, 4] and np.shares_memory(part.close, bars.close)
    assert len(bars.between(20 * times.MINUTE)) == len(bars.between(None, -1)) == len(bars.between(5, 4)) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_checking_sorts_and_the_last_of_a_time_wins(time: list[int]) -> None:
    given = candles(time)
    last = dict(zip(time, given.close.tolist(), strict=True))
    checked = given.checked()
    assert (checked.time // times.MINUTE).tolist() == sorted(last)
    assert checked.close.tolist() == [last[at] for at in sorted(last)]


def test_sound_bars_are_not_copied() -> None:
    bars = candles(list(range(5)))
    assert bars.checked().close is bars.close


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", FIELDS)
def test_what_is_not_finite_is_named_by_row_and_column(name: str, wrong: float) -> None:
    bars = candles([5, 6, 7])
    getattr(bars, name)[1] = wrong
    with pytest.raises(Invalid, match="row 2") as caught:
        bars.checked()
    assert caught.value.field == name


def test_times_in_another_unit_are_refused() -> None:
    bars = candles([1, 2])
    for factor in (1000, 10**9):
        with pytest.raises(Invalid, match="1900-2200"):
            Candles(**{**{f: getattr(bars, f) for f in FIELDS}, "market": MARKET, "resolution": 60,
                       "time": np.array([1_600_000_000, 1_600_000_060]) * 10**6 * factor}).checked()


@pytest.mark.parametrize(("instant", "sound"), [
    ("1899-12-31T23:59:00", False), ("1900-01-01T00:00:00", True), ("2199-12-31T23:59:00", True),
    ("2200-01-01T00:00:00", False)])
def test_a_candle_has_a_time_that_the_rest_of_the_workbench_can_read(instant: str, sound: bool) -> None:
    at = int(np.datetime64(instant, "us").astype(np.int64))
    bars = replace(candles([1]), time=np.array([at]))
    if sound:
        assert times.micros(times.parse(times.iso(int(bars.checked().time[0])))) == at
    else:
        with pytest.raises(Invalid, match="1900-2200"):
            bars.checked()


def test_minutes_cannot_pass_as_hours() -> None:
    with pytest.raises(Invalid, match="60 s apart cannot have the resolution 1h"):
        candles(list(range(30)), resolution=3600).checked()
    # A session that opens at half past has one short step a day.
    candles([30, 60, 120, 180, 240], resolution=3600).checked()


def test_columns_of_unequal_length_are_refused() -> None:
    bars = candles([1, 2])
    with pytest.raises(Invalid, match="time has 2"):
        Candles(market=MARKET, resolution=60, time=bars.time, open=bars.open[:1], high=bars.high, low=bars.low,
                close=bars.close, volume=bars.volume).checked()


def test_the_fingerprint_is_of_the_data_alone() -> None:
    bars = candles([1, 2, 3], vwp=np.zeros(3))
    same = Candles(market=Market("x", "y", "z"), resolution=60, **{k: v.copy() for k, v in bars.columns().items()
                                                                 if k != "vwp"}, extra={"vwp": -np.zeros(3)})
    assert bars.fingerprint() == same.fingerprint()
    for name, column in bars.columns().items():
        changed = bars.take(slice(None))
        column = column.copy()
        column[1] += 1
        changed = changed._with({**bars.columns(), name: column})
        assert changed.fingerprint() != bars.fingerprint()
    assert bars.take(slice(0, 2)).fingerprint() != bars.fingerprint()
    # Recorded results must stay comparable: this text may never change.
    assert candles([0, 1], seed=1).take(slice(0, 0)).fingerprint() == (
        "10131c7d44f409f5fc755f37e8a32e4b2fda97b9ad37cd0fd8eaa2b0a96f242a")
