"""Minute candles as histories: ranges that follow the store, candles equal to the engine's to the last bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import times
from engine.candle_store import CandleStore
from engine.errors import Invalid, NotFound
from engine.fills import gekko_trader
from engine.model import Market
from server.services import histories
from server.services.histories import Histories, batch
from tests.engine.gekko_golden import FIRST, candles

WATCH = {"exchange": "Kraken", "currency": "eur", "asset": "XBT"}
MARKET = Market("kraken", "XBT", "EUR")
RANDOM = np.random.default_rng(5)
GAPS = candles("rw20d_gaps")
GAPS = replace(GAPS, market=MARKET, volume=np.where(RANDOM.random(len(GAPS)) < 0.2, 0, RANDOM.random(len(GAPS))),
               extra={"vwp": (GAPS.open + GAPS.close) / 3, "trades": RANDOM.integers(0, 30, len(GAPS)).astype(float)})


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path)


@pytest.mark.parametrize("size", [1, 7, 60, 1440, len(GAPS), len(GAPS) + 1])
def test_candles_are_made_as_the_engine_makes_them(size: int) -> None:
    made = batch(GAPS, size)
    vwp, trades = (np.ascontiguousarray(GAPS.extra[name]) for name in ("vwp", "trades"))
    expected = gekko_trader.batch(size, GAPS.time, GAPS.open, GAPS.high, GAPS.low, GAPS.close, vwp, GAPS.volume, trades)
    assert len(made["start"]) == len(GAPS) // size
    assert np.array_equal(made["start"] * times.SECOND, expected.start)
    for name in ("open", "high", "low", "close", "vwp", "volume", "trades"):
        assert np.array_equal(made[name], getattr(expected, name)), name


def test_without_volume_and_without_vwp() -> None:
    bars = replace(GAPS.take(slice(0, 4)), volume=np.array([0.0, 0.0, 1.0, 3.0]), extra={})
    made = batch(bars, 2)
    assert made["vwp"].tolist() == [bars.open[0], (bars.close[2] * 1.0 + bars.close[3] * 3.0) / 4.0]
    assert made["trades"].tolist() == [0, 0] and made["trades"].dtype == np.int64


def test_ranges_follow_the_store(store: CandleStore) -> None:
    known = Histories(store)
    with pytest.raises(NotFound):
        known.resolve(WATCH)
    whole = replace(candles("rw60d"), market=MARKET)
    store.write(whole.take(slice(0, 100)))
    market = known.resolve(WATCH)
    assert market == MARKET
    assert (known.of(market).ranges, known.of(market).whole) == (((FIRST, FIRST + 99 * 60),), True)
    assert known.of(market) is known.of(market)
    store.write(whole.take(slice(100, 200)))
    assert known.of(market).ranges == ((FIRST, FIRST + 199 * 60),)
    store.write(whole.take(slice(300, 500)))  # now whole hours, counted back from the last candle
    assert (known.of(market).ranges, known.of(market).whole) == (
        ((FIRST + 19 * 60, FIRST + 199 * 60), (FIRST + 319 * 60, FIRST + 499 * 60)), False)
    assert np.array_equal(store.time(MARKET, 60), store.read(MARKET, 60).time)
    store.delete(MARKET)
    with pytest.raises(NotFound):
        known.of(market)
    with pytest.raises(NotFound):
        store.time(MARKET, 60)


def test_only_minutes_and_what_makes_minutes_are_history(store: CandleStore) -> None:
    known = Histories(store)
    seconds = np.arange(600, dtype=np.int64) * 30 * times.SECOND + FIRST * times.SECOND
    fine = replace(GAPS.take(slice(0, 600)), resolution=30, time=seconds)
    store.write(replace(fine, resolution=86_400, market=Market("x", "DAILY", "USD"),
                        time=fine.time // 30 * 86_400 - FIRST * 2880 * times.SECOND))
    assert known.all() == []
    store.write(replace(fine, market=Market("x", "FINE", "USD")))
    (history,) = known.all()
    assert (history.market.asset, history.ranges, history.whole) == ("FINE", ((FIRST, FIRST + 299 * 60),), True)


@pytest.mark.parametrize("watch", [None, [], {"exchange": "a"}, {"exchange": "a", "currency": "b", "asset": ""},
                                   {"exchange": "a", "currency": {}, "asset": "c"}])
def test_a_watch_that_names_nothing(store: CandleStore, watch: object) -> None:
    with pytest.raises(Invalid) as error:
        Histories(store).resolve(watch)
    assert error.value.field.startswith("watch")


def test_too_many_candles_for_one_answer(store: CandleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(GAPS)
    monkeypatch.setattr(histories, "MOST", 1000)
    known = Histories(store)
    with pytest.raises(Invalid, match="more than 1000 candles"):
        known.candles(MARKET, FIRST, FIRST + 1001 * 60, 60)
    assert len(known.candles(MARKET, FIRST, FIRST + 1000 * 60, 1)["start"]) == 1001 - missing(FIRST + 1000 * 60)


def missing(end: int) -> int:
    """Minutes up to `end` that the candles with gaps lack."""
    here = GAPS.time[GAPS.time <= end * times.SECOND]
    return (end - FIRST) // 60 + 1 - len(here)
