"""The sum in the text of engine/simulate.py, figure by figure."""

import pytest

from engine import simulate
from engine.spec import BacktestSpec, Costs
from engine.strategies import from_function
from tests.engine.market_fakes import MemoryStore, bars

OPENS = [10, 10, 11, 12, 13, 12, 11, 10, 9, 10]
CLOSES = [10, 11, 12, 13, 12, 11, 10, 9, 10, 11]
ADVICE = [None, 1.0, 1.0, 1.0, 0.0, 0.0, None, 1.0, 0.0, 0.0]


@from_function(name="told", state=1)
def told(params, state, bars, advice, out):
    """Gives the advice of the table."""
    given = ADVICE[int(state[0])]
    if given is not None:
        advice[0] = given
    state[0] += 1


def test_ten_bars_by_hand():
    candles = bars(OPENS, CLOSES)
    spec = BacktestSpec(strategy="told", markets=("demo:AAA/USD",), cash=1000.0,
                        costs=Costs(fee_rate=0.005, fixed_fee=2.0, slippage=0.01))
    result = simulate.run(spec, MemoryStore(candles), strategy=told)

    first = (1000 - 2) / (11 * 1.01 * 1.005)
    assert first == pytest.approx(89.3821, abs=1e-4) and first < 1000 / 11
    proceeds = first * 12 * 0.99
    cash = proceeds - 0.005 * proceeds - 2
    second = (cash - 2) / (9 * 1.01 * 1.005)
    last = second * 10 * 0.99
    final = last - 0.005 * last - 2

    fills = result.tables["fills"]
    assert ((fills["time"] - candles.time[0]) // 86_400_000_000).tolist() == [2, 5, 8, 9]
    assert ((fills["advised_at"] - candles.time[0]) // 86_400_000_000).tolist() == [1, 4, 7, 8]
    assert fills["side"].tolist() == [1, -1, 1, -1]
    assert fills["price"] == pytest.approx([11.11, 11.88, 9.09, 9.9])
    assert fills["quantity"] == pytest.approx([first, first, second, second])
    assert fills["fee"] == pytest.approx([0.005 * first * 11.11 + 2, 0.005 * proceeds + 2,
                                          0.005 * second * 9.09 + 2, 0.005 * last + 2])
    assert fills["reason"].tolist() == ["entry", "exit", "entry", "exit"]

    equity = result.tables["equity"]
    assert equity["value"] == pytest.approx(
        [1000, 1000, first * 12, first * 13, first * 12, cash, cash, cash, second * 10, final])
    assert equity["cash"] == pytest.approx([1000, 1000, 0, 0, 0, cash, cash, cash, 0, final], abs=1e-8)
    assert (equity["cash"] >= 0).all()
    assert equity["benchmark"] == pytest.approx([100 * close for close in CLOSES])

    trips = result.tables["roundtrips"]
    paid = first * 11.11 + 0.005 * first * 11.11 + 2
    assert trips["pnl"] == pytest.approx([cash - paid, final - cash])
    assert cash - paid == pytest.approx(cash - 1000)
    assert trips["return"] == pytest.approx([(cash - 1000) / (first * 11.11), (final - cash) / (second * 9.09)])
    assert trips["bars"].tolist() == [3, 1]
    assert trips["mfe"] == pytest.approx([13 / 11.11 - 1, 10 / 9.09 - 1])
    assert trips["mae"] == pytest.approx([11 / 11.11 - 1, 9 / 9.09 - 1])
    assert trips["status"].tolist() == ["closed", "closed"]

    metrics = result.metrics
    assert metrics["final_value"] == pytest.approx(final)
    assert metrics["total_return"] == pytest.approx(final / 1000 - 1)
    assert metrics["fees_paid"] == pytest.approx(sum(fills["fee"]))
    assert metrics["exposure"] == 0.4
    assert (metrics["trades"], metrics["fills"], metrics["win_rate"]) == (2, 4, 1.0)


def test_advice_on_the_last_bar_is_not_filled():
    candles = bars([10, 10, 10])

    @from_function(name="late", state=1)
    def late(params, state, bars, advice, out):
        state[0] += 1
        if state[0] == 3:
            advice[0] = 1.0

    result = simulate.run(BacktestSpec(strategy="late", markets=("demo:AAA/USD",)), MemoryStore(candles), strategy=late)
    assert len(result.tables["fills"]["time"]) == 0
    assert any("not filled: demo:AAA/USD" in line for line in result.logs)
    assert result.metrics["total_return"] == 0.0
