"""The portfolio that people see is vectorbt's, and our ledger is the same to the ninth digit."""

import numpy as np
import pytest

from engine import portfolio, simulate
from engine.errors import Invalid, TooLarge
from engine.spec import BacktestSpec, Costs
from tests.engine.market_fakes import DAY, FIRST, MemoryStore, bars, walk

COSTS = Costs(fee_rate=0.001, fixed_fee=0.5, slippage=0.002)


def cross(candles, strategy="sma_cross", **more):
    params = {"fast": 3, "slow": 8} if strategy == "sma_cross" else {"lookback": 9, "top": 2, "every": 4}
    spec = BacktestSpec(strategy=strategy, params=params, costs=COSTS, direction=more.pop("direction", "both"),
                        markets=tuple(each.market.key for each in candles), **more)
    return simulate.run(spec, MemoryStore(*candles))


def from_orders(result, candles, cash):
    """vectorbt's own simulation of the same orders on dense arrays."""
    import pandas as pd
    import vectorbt as vbt

    time = result.tables["equity"]["time"]
    closes = np.column_stack([each.close for each in candles])
    shape = closes.shape
    size, price, fee = np.zeros(shape), closes.copy(), np.zeros(shape)
    fills = result.tables["fills"]
    names = [each.market.key for each in candles]
    call = np.tile(np.arange(shape[1]), (shape[0], 1))
    at = np.searchsorted(time, fills["time"])
    for row, name, side, quantity, paid, cost in zip(
            at, *(fills[key] for key in ("symbol", "side", "quantity", "price", "fee")), strict=True):
        s = names.index(name)
        size[row, s], price[row, s], fee[row, s] = side * quantity, paid, cost
    for row in np.unique(at):
        first = [names.index(name) for name in fills["symbol"][at == row]]
        call[row] = first + [s for s in range(shape[1]) if s not in first]
    index = pd.DatetimeIndex(time.view("M8[us]"))
    return vbt.Portfolio.from_orders(pd.DataFrame(closes, index=index), size=size, price=price, fixed_fees=fee, fees=0,
                                     slippage=0, init_cash=cash, cash_sharing=shape[1] > 1,
                                     group_by=shape[1] > 1 or None, call_seq=call, freq="1D")


@pytest.mark.parametrize(("markets", "strategy"), [(1, "sma_cross"), (3, "sma_cross"), (4, "momentum_rotation")])
def test_equity_and_trades_equal_vectorbt_s_own_simulation(markets, strategy):
    candles = [walk(300, seed=s, key=f"demo:M{s}/USD") for s in range(markets)]
    result = cross(candles, strategy)
    theirs = from_orders(result, candles, 100_000.0)
    assert len(result.tables["fills"]["time"]) == len(theirs.orders.values) > 20
    np.testing.assert_allclose(result.tables["equity"]["value"], theirs.value().to_numpy().reshape(-1), rtol=1e-9)
    np.testing.assert_allclose(result.tables["equity"]["cash"], theirs.cash().to_numpy().reshape(-1), rtol=1e-9,
                               atol=1e-6)
    records = theirs.positions.values
    trips = result.tables["roundtrips"]
    assert len(records) == len(trips["pnl"])
    np.testing.assert_allclose(np.sort(trips["pnl"]), np.sort(records["pnl"]), rtol=1e-8, atol=1e-6)
    assert result.metrics["total_return"] == pytest.approx(float(np.squeeze(theirs.total_return())), rel=1e-9)
    assert result.metrics["max_drawdown"] == pytest.approx(float(np.squeeze(theirs.max_drawdown())), rel=1e-9)


@pytest.mark.parametrize("markets", [1, 3])
def test_long_runs_on_fewer_rows_are_the_same_as_on_all(markets, monkeypatch):
    candles = [walk(2000, seed=s, key=f"demo:M{s}/USD", resolution=3600) for s in range(markets)]
    whole = cross(candles, resolution="1h")
    monkeypatch.setattr(portfolio, "WHOLE", 100)
    sparse = cross(candles, resolution="1h")
    for name, table in whole.tables.items():
        for key, column in table.items():
            if column.dtype.kind == "f":
                np.testing.assert_allclose(column, sparse.tables[name][key], rtol=1e-9, atol=1e-7, err_msg=name + key)
            else:
                np.testing.assert_array_equal(column, sparse.tables[name][key], err_msg=f"{name}.{key}")


def test_the_books_balance_at_every_bar():
    candles = [walk(200, seed=s, key=f"demo:M{s}/USD") for s in range(3)]
    result = cross(candles)
    equity, held = result.tables["equity"], result.tables["positions"]
    # vectorbt takes cash of less than a millionth for none.
    np.testing.assert_allclose(equity["value"], equity["cash"] + equity["positions"], rtol=1e-9)
    value = held["value"].reshape(200, 3)
    np.testing.assert_allclose(equity["positions"], value.sum(axis=1), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(equity["gross"], np.abs(value).sum(axis=1), rtol=1e-9, atol=1e-7)
    assert held["symbol"][:3].tolist() == ["demo:M0/USD", "demo:M1/USD", "demo:M2/USD"]
    trips = result.tables["roundtrips"]
    assert equity["value"][-1] - 100_000 == pytest.approx(trips["pnl"].sum(), rel=1e-9)
    assert trips["fees"].sum() == pytest.approx(result.tables["fills"]["fee"].sum())


def columns(rows, symbol="demo:AAA/USD"):
    """Fills of (bar, signed quantity, price, fee)."""
    bar, change, price, fee = (np.array(each, float) for each in zip(*rows, strict=True))
    at = (FIRST + bar * DAY).astype(np.int64)
    return {"time": at, "symbol": np.full(len(rows), symbol, object), "side": np.sign(change).astype(np.int8),
            "quantity": np.abs(change), "price": price, "fee": fee, "advised_at": at,
            "reason": np.full(len(rows), "entry", object)}


def test_several_fills_at_one_bar_make_one_roundtrip():
    candles = bars([10, 10, 12, 12], spread=0.1)
    spec = BacktestSpec(strategy="own", markets=("demo:AAA/USD",), cash=1000)
    made = columns([(1, 3, 10.0, 1.0), (1, 2, 11.0, 1.0), (2, -1, 12.0, 0.0), (3, -4, 13.0, 2.0)])
    result = portfolio.build(spec, [candles], made, extra={"own": 1}, logs=["hello"])
    trips = result.tables["roundtrips"]
    assert trips["quantity"].tolist() == [5.0]
    assert trips["entry_price"][0] == pytest.approx((30 + 22) / 5)
    assert trips["exit_price"][0] == pytest.approx((12 + 52) / 5)
    assert trips["pnl"][0] == pytest.approx(12 + 52 - 30 - 22 - 4)
    assert trips["mae"][0] == pytest.approx(9 / 10.4 - 1) and trips["mfe"][0] == pytest.approx(13.2 / 10.4 - 1)
    assert result.tables["equity"]["cash"].tolist() == [1000, 946, 958, 1008]
    assert result.extra == {"own": 1} and result.logs == ("hello",)


def test_an_open_trade_is_marked_at_the_last_close():
    candles = bars([10, 10, 12, 14], spread=0.1)
    result = portfolio.build(BacktestSpec(strategy="own", markets=("demo:AAA/USD",), cash=1000), [candles],
                             columns([(1, -5, 10.0, 1.0)]))
    trips = result.tables["roundtrips"]
    assert trips["status"].tolist() == ["open"] and trips["direction"].tolist() == [-1]
    assert trips["exit_price"][0] == 14 and trips["exit_time"][0] == candles.time[-1]
    assert trips["pnl"][0] == pytest.approx(-21) and trips["bars"][0] == 2
    assert trips["mae"][0] == pytest.approx(1 - 15.4 / 10) and trips["mfe"][0] == pytest.approx(1 - 9 / 10)
    assert result.metrics["trades"] == 1 and result.metrics["win_rate"] is None


def test_own_equity_of_a_fill_model_takes_the_place_of_ours():
    candles = bars([10, 11, 12])
    curve = np.array([1000.0, 900.0, 1100.0])
    result = portfolio.build(BacktestSpec(strategy="own", markets=("demo:AAA/USD",), cash=1000), [candles],
                             columns([(1, 1, 11.0, 0.0)]), equity={"value": curve}, benchmark=np.array([1.0, 2.0, 3.0]))
    assert result.tables["equity"]["value"].tolist() == curve.tolist()
    assert result.metrics["total_return"] == pytest.approx(0.1)
    assert result.metrics["benchmark_return"] == pytest.approx(2.0)


def test_fills_off_the_bars_or_out_of_order_are_refused():
    candles = bars([10, 11, 12])
    spec = BacktestSpec(strategy="own", markets=("demo:AAA/USD",))
    for rows in ([(0.5, 1, 10.0, 0.0)], [(2, 1, 10.0, 0.0), (1, -1, 10.0, 0.0)], [(9, 1, 10.0, 0.0)]):
        with pytest.raises(Invalid, match="time order"):
            portfolio.build(spec, [candles], columns(rows))


def test_a_run_too_large_for_memory_is_refused(monkeypatch):
    monkeypatch.setattr(portfolio, "MOST_CELLS", 10)
    with pytest.raises(TooLarge, match="too many"):
        cross([walk(20)])


def test_the_benchmark_holds_all_markets_in_equal_parts_each_from_its_first_close():
    early, late = bars([10, 20, 20]), bars([5, 10], key="demo:BBB/USD", times=[1, 2])
    result = cross([early, late])
    assert result.tables["equity"]["benchmark"].tolist() == pytest.approx([100_000, 150_000, 200_000])


def test_a_named_benchmark_is_held_from_the_first_bar():
    other = bars([4, 5, 6], key="demo:IDX/USD")
    candles = bars([10, 9, 8])
    spec = BacktestSpec(strategy="buy_and_hold", markets=("demo:AAA/USD",), benchmark="demo:IDX/USD", cash=100)
    result = simulate.run(spec, MemoryStore(candles, other))
    assert result.tables["equity"]["benchmark"].tolist() == pytest.approx([100, 125, 150])
    assert result.metrics["benchmark_return"] == pytest.approx(0.5)
