"""The GlowBack engine against a second, slow writing-down of its rules, on random bars and settings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import times
from engine.fills.glowback_clock import Bars, Terms, simulate
from engine.fills.glowback_strategies import make, read_parameters
from tests.engine.glowback_oracle import DAY, Bar, Oracle

PARAMS = {
    "buy_and_hold": st.just({}),
    "ma_crossover": st.fixed_dictionaries({"short_period": st.integers(1, 5), "long_period": st.integers(1, 9)}),
    "momentum": st.fixed_dictionaries({"lookback_period": st.integers(1, 6),
                                       "momentum_threshold": st.sampled_from([0.0, 0.05, 2.0])}),
    "mean_reversion": st.fixed_dictionaries({
        "lookback_period": st.integers(1, 8), "entry_threshold": st.sampled_from([0.5, 1.0, 2.0]),
        "exit_threshold": st.sampled_from([0.2, 0.5, 1.0])}),
    "rsi": st.fixed_dictionaries({"lookback_period": st.integers(1, 6),
                                  "oversold_threshold": st.sampled_from([20, 30, 45]),
                                  "overbought_threshold": st.sampled_from([55, 70])}),
}


@st.composite
def cases(draw: st.DrawFn) -> Oracle:
    """A small market: days with holes, coarse prices (means tie), thin or no volume, one or three bars a day."""
    per_day = draw(st.sampled_from([1, 1, 1, 3]))
    names = ["A", "B", "C"][: draw(st.integers(1, 3))]
    days = draw(st.integers(3, 25))
    bars = {}
    for name in names:
        bars[name] = []
        price = draw(st.integers(50, 200))
        for day in range(days):
            if draw(st.integers(0, 6)) == 0:
                continue
            for hour in range(per_day):
                opened = price
                price = max(5, price + draw(st.integers(-8, 8)))
                volume = draw(st.sampled_from([0, 100, 1_000, 4_000_000]))
                bars[name].append(Bar(time=day * DAY + hour * 3_600, open=opened / 4, close=price / 4,
                                      volume=float(volume)))
    strategy = draw(st.sampled_from(sorted(PARAMS)))
    symbols = draw(st.permutations(names))
    return Oracle(
        symbols=[*symbols, *draw(st.sampled_from([[], [], symbols[:1]]))], bars=bars,
        start=draw(st.sampled_from([0, 3_600])), end=days * DAY, capital=draw(st.sampled_from([500.0, 100_000.0])),
        strategy=strategy,
        params=draw(PARAMS[strategy]), bar_seconds=DAY if per_day == 1 else 3_600,
        latency_ms=draw(st.sampled_from([0, 100, 3_600_001, 86_400_001])),
        slippage_bps=draw(st.sampled_from([0, 5, 8])), commission_bps=draw(st.sampled_from([None, 0.0, 2.5])))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_engine_and_oracle_trade_alike(case: Oracle) -> None:
    case.run()
    found = simulate(
        symbols=case.symbols, start=case.start * times.SECOND, end=case.end * times.SECOND, capital=case.capital,
        resolution=case.bar_seconds, strategy=make(case.strategy, case.params, case.symbols),
        terms=Terms(latency_ms=case.latency_ms, slippage_bps=case.slippage_bps, commission_bps=case.commission_bps),
        bars={name: Bars(time=np.array([bar.time for bar in each], np.int64) * times.SECOND,
                         open=np.array([bar.open for bar in each]), close=np.array([bar.close for bar in each]),
                         volume=np.array([bar.volume for bar in each])) for name, each in case.bars.items()})
    fills = [(int(found.time[fill.day]) // times.SECOND, fill.symbol, fill.side) for fill in found.ledger.fills]
    assert fills == [trade[:3] for trade in case.trades]
    for fill, trade in zip(found.ledger.fills, case.trades, strict=True):
        assert (fill.quantity, fill.price, fill.fee) == pytest.approx(trade[3:], rel=1e-9, abs=2e-6)
    assert len(found.ledger.orders) == case.orders
    for column, index in ((found.value, 0), (found.cash, 1), (found.positions, 2)):
        assert column == pytest.approx(np.array([point[index] for point in case.curve]), rel=1e-9, abs=1e-4)


def test_parameters_have_the_documented_defaults() -> None:
    assert read_parameters("ma_crossover", {}) == {"short_period": 10, "long_period": 20}
    assert read_parameters("momentum", {}) == {"lookback_period": 10, "momentum_threshold": 0.05}
    assert read_parameters("ma_crossover", {"short_period": 9.5, "long_period": "30"}) == {
        "short_period": 10, "long_period": 30}
