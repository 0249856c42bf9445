"""Orders at the next open: prices, sizes, cash, order among markets, shorts, ruin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import simulate
from engine.spec import BacktestSpec, Costs, Sizing
from engine.strategies import from_function
from tests.engine.market_fakes import DAY, FIRST, MemoryStore, bars, walk


def told(table, scope="market"):
    """A strategy that gives this advice, a row (or number) a bar; None is "as before"."""
    rows = [row if isinstance(row, list | tuple) else [row] for row in table]

    @from_function(name="told", scope=scope, state=1)
    def strategy(params, state, bars, advice, out):
        at = int(state[0])
        state[0] += 1
        for s, value in enumerate(rows[at] if at < len(rows) else []):
            if value is not None:
                advice[s] = value

    return strategy


def run(candles, table, scope="market", **spec):
    candles = candles if isinstance(candles, list) else [candles]
    return simulate.run(BacktestSpec(strategy="told", markets=tuple(each.market.key for each in candles), **spec),
                        MemoryStore(*candles), strategy=told(table, scope))


def fills(result):
    table = result.tables["fills"]
    return [(int((at - FIRST) // DAY), name[5:8], int(side) * round(float(quantity), 6), float(price), reason)
            for at, name, side, quantity, price, reason in zip(
                *(table[key] for key in ("time", "symbol", "side", "quantity", "price", "reason")), strict=True)]


def codes(result):
    return {entry["code"] for entry in result.warnings}


def test_only_changed_advice_trades():
    result = run(bars([10, 10, 20, 5, 10]), [1, 1, 1, 0.5, 0.5], cash=100)
    assert fills(result) == [(1, "AAA", 10, 10, "entry"), (4, "AAA", -5, 10, "resize")]


def test_cash_and_units_sizing():
    assert fills(run(bars([10, 20, 20]), [1, 0], cash=100, sizing=Sizing(kind="cash", value=50))) == [
        (1, "AAA", 2.5, 20, "entry"), (2, "AAA", -2.5, 20, "exit")]
    assert fills(run(bars([10, 20, 20]), [1, 0], cash=100, sizing=Sizing(kind="units", value=3))) == [
        (1, "AAA", 3, 20, "entry"), (2, "AAA", -3, 20, "exit")]


def test_a_fraction_is_shared_by_the_markets():
    result = run([bars([10] * 3), bars([20] * 3, key="demo:BBB/USD")], [1], cash=100, sizing=Sizing(value=0.8))
    assert fills(result) == [(1, "AAA", 4, 10, "entry"), (1, "BBB", 2, 20, "entry")]


def test_direction_long_makes_short_advice_flat_and_short_the_reverse():
    table = [1, -1, 0, 1, None]
    candles = bars([10] * 5)
    assert [each[2] for each in fills(run(candles, table, cash=100))] == [10, -10, 10]
    assert [each[2] for each in fills(run(candles, table, cash=100, direction="short"))] == [-10, 10]
    assert fills(run(candles, table, cash=100, direction="both")) == [
        (1, "AAA", 10, 10, "entry"), (2, "AAA", -20, 10, "reverse"), (3, "AAA", 10, 10, "exit"),
        (4, "AAA", 10, 10, "entry")]


def test_advice_beyond_one_is_one():
    assert fills(run(bars([10] * 3), [7], cash=100))[0][2] == 10


def test_a_short_pays_when_the_price_falls():
    result = run(bars([10, 10, 8, 8]), [-1, None, 0], cash=100, direction="both", costs=Costs(fee_rate=0.01))
    table = result.tables["equity"]
    quantity = 99 / 9.9 * (1 - 1e-12)  # 100 - fee is what a short of quantity * 10 needs beside itself
    sold = result.tables["fills"]["quantity"][0]
    assert sold == pytest.approx(100 / (20 - 10 * 0.99), rel=1e-9) and sold < quantity
    final = 100 + sold * 10 * 0.99 - sold * 8 * 1.01
    assert table["value"][-1] == pytest.approx(final)
    assert result.tables["roundtrips"]["pnl"][0] == pytest.approx(final - 100)
    assert result.tables["roundtrips"]["direction"].tolist() == [-1]
    assert result.tables["roundtrips"]["mfe"][0] == pytest.approx(0.2)


def test_sells_come_before_buys_at_one_open():
    first, second = bars([10] * 4, key="demo:AAA/USD"), bars([20] * 4, key="demo:BBB/USD")
    result = run([first, second], [[0, 1], [1, 0]], scope="portfolio", cash=100)
    assert fills(result) == [(1, "BBB", 5, 20, "entry"), (2, "BBB", -5, 20, "exit"), (2, "AAA", 10, 10, "entry")]
    assert not codes(result) & {"orders_cut", "cash_exhausted"}


def test_a_portfolio_rebalances_at_every_advice():
    first, second = bars([10, 10, 20, 20]), bars([10, 10, 10, 10], key="demo:BBB/USD")
    result = run([first, second], [[0.5, 0.5], [0.5, 0.5]], scope="portfolio", cash=100)
    assert fills(result)[:2] == [(1, "AAA", 5, 10, "entry"), (1, "BBB", 5, 10, "entry")]
    assert fills(result)[2:] == [(2, "AAA", -1.25, 20, "resize"), (2, "BBB", 2.5, 10, "resize")]


def test_a_buy_takes_what_the_cash_pays_and_says_so():
    result = run(bars([10, 10, 10]), [1], cash=100, sizing=Sizing(kind="units", value=50), costs=Costs(fixed_fee=1))
    assert fills(result) == [(1, "AAA", 9.9, 10, "entry")]
    assert "orders_cut" in codes(result)
    assert result.tables["equity"]["cash"][-1] == pytest.approx(0, abs=1e-9)
    nothing = run(bars([10, 10, 10]), [1], cash=1, costs=Costs(fixed_fee=2))
    assert fills(nothing) == [] and "cash_exhausted" in codes(nothing)


def test_costs_alone_are_no_cut():
    result = run(bars([10] * 3), [1], cash=100, costs=Costs(fee_rate=0.1, slippage=0.05))
    assert "orders_cut" not in codes(result) and len(fills(result)) == 1


def test_an_order_waits_for_the_next_bar_of_its_market():
    often = bars([10] * 6)
    seldom = bars([10, 12, 14], key="demo:BBB/USD", times=[0, 3, 5])
    result = run([often, seldom], [[0, 1]], scope="portfolio", cash=120)
    assert fills(result) == [(3, "BBB", 10, 12, "entry")]
    assert result.tables["equity"]["value"].tolist() == [120, 120, 120, 120, 120, 140]


def test_a_market_without_a_bar_is_marked_at_its_last_close():
    often = bars([10] * 6)
    seldom = bars([10, 10, 30], [10, 20, 30], key="demo:BBB/USD", times=[0, 1, 5])
    value = run([often, seldom], [[0, 1]], scope="portfolio", cash=100).tables["equity"]["value"]
    assert value.tolist() == [100, 200, 200, 200, 200, 300]


def test_ruin_closes_everything_and_stops():
    candles = bars([10, 10, 10, 35, 10, 10], [10, 10, 30, 35, 10, 10])
    result = run(candles, [-1, None, None, None, 1, 0], cash=100, direction="both")
    assert fills(result) == [(1, "AAA", -10, 10, "entry"), (3, "AAA", 10, 35, "liquidation")]
    assert "bankrupt" in codes(result)
    assert result.tables["equity"]["value"][-1] == -150
    assert result.metrics["annual_return"] == -1.0 and result.metrics["max_drawdown"] == pytest.approx(-2.5)


def test_no_more_than_the_equity_is_ever_at_work():
    candles = [walk(60, seed=s, key=f"demo:M{s}/USD") for s in range(3)]
    result = run(candles, [[1, -1, 1]], scope="portfolio", cash=1000, direction="both",
                 sizing=Sizing(kind="cash", value=900))
    table = result.tables["equity"]
    assert table["gross"][1] <= 1.1 * table["value"][1]
    shares = [each[2] for each in fills(result)]  # the short first, the two buys share what it leaves
    assert len(shares) == 3 and shares[1] == pytest.approx(shares[2], rel=0.01) and "orders_cut" in codes(result)


ADVICE = st.lists(st.one_of(st.none(), st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0])), min_size=1, max_size=40)


@given(table=st.lists(st.tuples(*[ADVICE] * 2), min_size=1, max_size=1), seed=st.integers(0, 50),
       fee=st.sampled_from([0.0, 0.001, 0.1]), fixed=st.sampled_from([0.0, 5.0]),
       slippage=st.sampled_from([0.0, 0.002, 0.2]), direction=st.sampled_from(["long", "short", "both"]),
       kind=st.sampled_from([("fraction", 1.0), ("fraction", 2.0), ("cash", 700.0), ("units", 9.0)]),
       scope=st.sampled_from(["market", "portfolio"]))
@settings(max_examples=60, deadline=None)
def test_laws_of_filling(table, seed, fee, fixed, slippage, direction, kind, scope):
    columns = table[0]
    n = 2 if scope == "portfolio" else 1
    candles = [walk(45, seed=seed + s, key=f"demo:M{s}/USD", volatility=0.08) for s in range(n)]
    rows = max(map(len, columns[:n]))
    advice = [[column[t] if t < len(column) else None for column in columns[:n]] for t in range(rows)]
    result = run(candles, advice, scope=scope, cash=1000.0, direction=direction,
                 costs=Costs(fee_rate=fee, fixed_fee=fixed, slippage=slippage),
                 sizing=Sizing(kind=kind[0], value=kind[1]))
    made, equity = result.tables["fills"], result.tables["equity"]
    assert (made["quantity"] > 0).all() and (made["time"] > made["advised_at"]).all()
    by_name = {each.market.key: each for each in candles}
    for at, name, side, price, quantity, cost in zip(
            *(made[key] for key in ("time", "symbol", "side", "price", "quantity", "fee")), strict=True):
        opened = by_name[name].open[np.searchsorted(by_name[name].time, at)]
        assert price == pytest.approx(opened * (1 + side * slippage), rel=1e-12)
        assert cost == pytest.approx(fee * quantity * price + fixed, rel=1e-12)
    if direction == "long":
        assert (equity["cash"] >= -1e-9).all() and (result.tables["positions"]["quantity"] >= 0).all()
    if direction == "short":
        assert (result.tables["positions"]["quantity"] <= 0).all()
    traded = made["side"] * made["quantity"] * made["price"]
    assert equity["cash"][-1] == pytest.approx(1000.0 - traded.sum() - made["fee"].sum(), rel=1e-9, abs=1e-6)
    assert all(value is None or np.isfinite(value) for value in result.metrics.values())


def test_buys_at_one_open_share_the_cash_in_proportion():
    candles = [bars([10] * 3, key=f"demo:M{s}/USD") for s in range(50)]
    result = run(candles, [1], cash=1000, costs=Costs(fee_rate=0.01))
    bought = result.tables["fills"]["quantity"]
    assert len(bought) == 50 and bought == pytest.approx(np.full(50, 2 / 1.01))
    assert not codes(result) & {"orders_cut", "cash_exhausted"}
    assert -1e-9 <= result.tables["equity"]["cash"][-1] < 1e-6
    poor = run(candles, [1], cash=1000, sizing=Sizing(kind="cash", value=40))
    assert poor.tables["fills"]["quantity"] == pytest.approx(np.full(50, 2.0)) and "orders_cut" in codes(poor)
