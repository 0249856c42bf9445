"""Profit from orders: examples worked by hand, an independent slow ledger, incremental against anew."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import times
from engine.activity import Order
from engine.model import Market
from engine.pnl import BACK, Ledger, curve, executed
from engine.pnl_figures import axis, figures_of
from engine.pnl_symbols import Pair, market_of, pair_of

START = datetime(2026, 3, 2, tzinfo=UTC)
KEY = ("", "BTC-USD")


def order(n: int, side: str, size: float | None, price: float | None, **more: object) -> Order:
    at = START + timedelta(minutes=n)
    return Order(**{"model": "m", "id": f"o{n:03}", "symbol": "BTC-USD", "side": side, "kind": "market", "at": at,
                    "received_at": at, "size": size, "price": price, **more})


def pair(order: Order) -> Pair:
    return pair_of(order.symbol)


def nothing(order: Order) -> float | None:
    return None


def ledger(*orders: Order) -> Ledger:
    return Ledger.of(orders, pair, nothing)


def test_long_at_average_cost_with_fees():
    made = ledger(order(1, "buy", 1, 100, fee=1), order(2, "buy", 1, 200, fee=1), order(3, "sell", 1, 180, fee=2))
    held = made.positions[KEY]
    assert (held.quantity, held.cost, held.realised, held.fees) == (1, 150, 30 - 4, 4)
    assert made.unrealised({KEY: 170.0}) == {"USD": 20}
    assert made.roundtrips == []


def test_flip_through_zero_splits_the_fee():
    made = ledger(order(1, "buy", 2, 100), order(2, "sell", 3, 110, fee=3), order(3, "buy", 1, 90))
    first, second = made.roundtrips
    assert (first.direction, first.quantity, first.pnl, first.fees) == ("long", 2, 20 - 2, 2)
    assert (second.direction, second.quantity, second.pnl, second.fees) == ("short", 1, 20 - 1, 1)
    assert made.realised() == {"USD": 37} and made.positions[KEY].quantity == 0


def test_funds_and_a_fee_in_the_asset_and_in_a_third_currency():
    made = ledger(order(1, "buy", None, 50, funds=100, fee=0.5, fee_currency="BTC"),
                  order(2, "buy", 1, 50, fee=0.1, fee_currency="BNB"))
    held = made.positions[KEY]
    assert held.quantity == 2.5 and made.outside == {"BNB": 0.1}
    assert held.realised + held.unrealised(50.0) == pytest.approx(2.5 * 50 - 150)


def test_without_a_price_it_is_apart_until_one_is_known():
    orders = [order(1, "buy", 1, None), order(2, "buy", 1, 10)]
    assert list(ledger(*orders).unpriced) == ["o001"] and ledger(*orders).positions[KEY].quantity == 1
    later = Ledger.of(orders, pair, lambda order: 20.0)
    assert not later.unpriced and later.positions[KEY].cost == 15


@pytest.mark.parametrize(("more", "counts"), [
    ({}, True), ({"status": "open"}, True), ({"status": "rejected"}, False), ({"status": "Canceled"}, False),
    ({"canceled_at": START}, False), ({"status": "canceled", "filled": 0.5}, True), ({"filled": 0.0}, False),
    ({"kind": "limit"}, False), ({"kind": "limit", "status": "open"}, False),
    ({"kind": "limit", "status": "closed"}, True),
    ({"kind": "limit", "status": "partially_filled", "filled": 0.5}, True),
    ({"kind": "stop", "executed_at": START}, True),
], ids=str)
def test_what_counts_as_executed(more: dict[str, object], counts: bool):
    assert executed(order(1, "buy", 1, 10, **more)) is counts
    assert bool(ledger(order(1, "buy", 1, 10, **more)).fills) is counts


def test_what_is_beyond_all_measure_is_apart():
    made = ledger(order(1, "buy", 1e299, 1e299), order(2, "buy", None, 1e-300, funds=1e29), order(3, "buy", 1, 10))
    assert set(made.unpriced) == {"o001", "o002"}
    assert made.unrealised() == {"USD": 0.0} and all(np.isfinite(fill.quantity) for fill in made.fills)


def test_late_and_changed_orders_ask_for_a_new_computation():
    made = ledger(order(1, "buy", 1, 10), order(5, "sell", 1, 12))
    assert not made.add(order(3, "buy", 1, 11), pair, nothing)
    assert not made.add(replace(order(5, "sell", 1, 12), status="canceled"), pair, nothing)
    assert made.add(order(6, "buy", 1, 11, kind="limit"), pair, nothing) and len(made.fills) == 2


def test_currencies_are_kept_apart():
    made = ledger(order(1, "buy", 1, 10), order(2, "sell", 1, 12), order(3, "buy", 1, 10, symbol="BTC/EUR"))
    assert made.realised() == {"USD": 2, "EUR": 0}


ORDERS = st.lists(st.tuples(st.sampled_from(("buy", "sell")), st.integers(1, 8), st.integers(1, 64), st.integers(0, 4)),
                  min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(ORDERS)
def test_equals_a_slow_ledger_of_fractions(rows):
    """Inventory kept as single units with their own mean, in exact arithmetic; cash is counted independently."""
    orders = [order(n, side, size / 4, price, fee=fee / 8) for n, (side, size, price, fee) in enumerate(rows)]
    units: list[Fraction] = []
    way, cash, realised = 0, Fraction(0), Fraction(0)
    for side, size, price, fee in rows:
        sign = 1 if side == "buy" else -1
        cash -= sign * Fraction(size, 4) * price + Fraction(fee, 8)
        realised -= Fraction(fee, 8)
        for _ in range(size):
            if units and way != sign:
                realised += way * (price - sum(units) / len(units)) / 4
                mean = sum(units) / len(units)
                units = [mean] * (len(units) - 1)
            else:
                units, way = [*units, Fraction(price)], sign
    made = ledger(*reversed(orders))
    held, last = made.positions[KEY], rows[-1][2]
    assert held.quantity == way * len(units) / 4
    assert held.realised == pytest.approx(float(realised), abs=1e-9)
    total = float(cash + Fraction(way * len(units), 4) * last)
    assert held.realised + held.unrealised() == pytest.approx(total, abs=1e-9)
    time = np.array([round(each.at.timestamp() * 1e6) for each in made.fills], np.int64)
    assert curve(made.fills, time, {})["USD"][-1] == pytest.approx(total, abs=1e-9)
    if not held.quantity:
        assert sum(trip.pnl for trip in made.roundtrips) == pytest.approx(total, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("buy", "sell")), st.floats(0.001, 10), st.floats(0.01, 1e5),
                          st.floats(0, 1)), max_size=30), st.randoms())
def test_one_by_one_is_bit_for_bit_the_whole(rows, random):
    orders = [order(n, side, size, price, fee=fee) for n, (side, size, price, fee) in enumerate(rows)]
    grown = Ledger()
    assert all(grown.add(each, pair, nothing) for each in orders)
    random.shuffle(orders)
    assert grown == ledger(*orders)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("buy", "sell")), st.floats(0.001, 10), st.floats(0.01, 1e5), st.floats(0, 1),
                          st.sampled_from(("BTC-USD", "ETH-EUR")), st.sampled_from(("", "BNB"))), max_size=25),
       st.randoms())
def test_taken_in_any_order_and_changed_is_bit_for_bit_the_whole(rows, random):
    orders = [order(n, side, size, price, fee=fee, symbol=symbol, fee_currency=paid)
              for n, (side, size, price, fee, symbol, paid) in enumerate(rows)]
    final = {each.id: each for each in orders}
    steps = random.sample(orders, len(orders))
    for each in random.sample(orders, len(orders) // 3):  # some are heard of again, with another price or not at all
        changed = replace(each, price=random.choice((each.price, None, 7.0)), status=random.choice((None, "canceled")))
        steps.append(changed)
        final[each.id] = changed
    grown = Ledger()
    assert all(grown.take(each, pair, nothing) for each in steps)
    whole = ledger(*final.values())
    assert grown == whole and list(grown.positions) == list(whole.positions)


def test_what_is_too_far_back_is_not_taken():
    orders = [order(n, "buy", 1, 10) for n in range(BACK + 2)]
    made = ledger(*orders)
    assert made.take(replace(orders[5], price=11.0), pair, nothing)
    assert made == ledger(*orders[:5], replace(orders[5], price=11.0), *orders[6:])
    assert not ledger(*orders).take(replace(orders[1], price=11.0), pair, nothing)
    assert ledger(*orders).take(replace(orders[0], annotation="why"), pair, nothing), "nothing that counts"


def test_totals_by_hand():
    """Bought for 100, worth 90 at its lowest, sold for 120 the day after; 8 more at 120 now worth 100."""
    made = ledger(order(0, "buy", 1, 100), order(26 * 60, "sell", 1, 120), order(27 * 60, "buy", 8, 120))
    start = times.micros(START)

    def marks(time: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        hours = (time - start) / 3.6e9
        return {KEY: np.where(hours < 1, np.nan, np.where(hours < 26, 90.0, np.where(hours <= 27, np.nan, 110.0)))}

    found = figures_of(made, marks, start + 30 * 3600 * 10**6)
    total = found.totals["USD"]
    assert (total.total, total.realised, total.unrealised, total.exposure) == (20 - 80, 20, -80, 880)
    assert total.today == -60 + 10, "10 lay below at midnight"
    assert (total.base, total.drawdown, total.max_drawdown) == (960, 80, 80)
    assert total.drawdown_fraction == pytest.approx(80 / 980) and found.spark[-1] == -60
    assert figures_of(Ledger(), marks, start).totals == {}


@pytest.mark.parametrize(("span", "width"), [(0, 60), (3600, 60), (86400 * 30, 900), (86400 * 365 * 3, 86400),
                                             (86400 * 365 * 60, 5 * 86400)], ids=str)
def test_the_axis_has_regular_bars_and_not_too_many(span: int, width: int):
    first = times.micros(START) + 5
    seconds, opens = axis(first, first + span * times.SECOND)
    assert seconds == width and len(opens) <= 5002 and set(np.diff(opens)) <= {width * times.SECOND}
    assert opens[0] <= first and opens[-1] < first + span * times.SECOND + 1 <= opens[-1] + 2 * width * times.SECOND


@pytest.mark.parametrize(("symbol", "asset", "currency"), [
    ("BTC-USD", "BTC", "USD"), ("BTC/USD", "BTC", "USD"), ("BTC/USDT:USDT", "BTC", "USDT"), ("BTCUSDT", "BTC", "USDT"),
    ("ETHBTC", "ETH", "BTC"), ("AAPL", "AAPL", "?"), ("BRK-B", "BRK-B", "?"), ("GBTC", "GBTC", "?"),
    ("btc-usd", "btc", "USD"), ("ethbtc", "eth", "BTC")], ids=str)
def test_symbols(symbol: str, asset: str, currency: str):
    assert pair_of(symbol) == Pair(asset, currency)


def test_the_bots_exchange_comes_first():
    markets = [Market("a", "BTC", "USD"), Market("kraken", "BTC", "USD"), Market("demo", "AAPL", "USD")]
    assert market_of("BTC-USD", "Kraken", markets) == markets[1]
    assert market_of("BTC-USD", "nowhere", markets) == markets[0]
    assert market_of("AAPL", "alpaca", markets) == markets[2]
    assert market_of("ETH-USD", "a", markets) is None
