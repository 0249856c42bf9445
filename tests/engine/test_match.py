"""Live trades beside a backtest's."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.match import Trade, match

START = datetime(2026, 3, 2, tzinfo=UTC)


def trade(second: int, side: str = "buy", price: float = 100.0, symbol: str = "BTC-USD") -> Trade:
    return Trade(symbol=symbol, side=side, at=START + timedelta(seconds=second), price=price)


TRADES = st.lists(st.builds(trade, st.integers(0, 30), st.sampled_from(("buy", "sell"))), max_size=3)


@given(TRADES.filter(len))
def test_identical_is_whole(trades):
    found = match(trades, reversed(trades), timedelta())
    assert (found.rate, found.worst_late, found.worst_price) == (1, 0, 0)
    assert not found.only_live and not found.only_backtest


def test_differences_by_hand():
    found = match([trade(0), trade(65, "sell", 110), trade(500)], [trade(5, price=125), trade(60, "sell", 100),
                  trade(900, symbol="ETH-USD")], timedelta(seconds=10))
    assert found.rate == 2 / 4 and found.median_late == 5 and [pair.late for pair in found.pairs] == [-5, 5]
    assert abs(found.worst_price - 0.2) < 1e-12 and abs(found.median_price - 0.15) < 1e-12
    assert [each.at.second for each in found.only_live] == [20] and found.only_backtest[0].symbol == "ETH-USD"


def test_nothing_to_match():
    found = match([], [], timedelta(seconds=1))
    assert found.rate is None and found.median_late is None and found.worst_price is None


@settings(max_examples=60, deadline=None)
@given(TRADES, TRADES, st.integers(0, 8))
def test_as_many_pairs_as_can_be(live, backtest, seconds):
    found, most = match(live, backtest, timedelta(seconds=seconds)), 0
    for order in permutations(range(len(backtest) + len(live)), len(live)):
        fits = sum(j < len(backtest) and (a.symbol, a.side) == (backtest[j].symbol, backtest[j].side)
                   and abs(a.at - backtest[j].at) <= timedelta(seconds=seconds)
                   for a, j in zip(live, order, strict=True))
        most = max(most, fits)
    assert len(found.pairs) == most
    assert len(found.pairs) * 2 + len(found.only_live) + len(found.only_backtest) == len(live) + len(backtest)
