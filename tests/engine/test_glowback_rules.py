"""GlowBack's rules one by one, on bars made by hand."""

import math
from decimal import ROUND_HALF_UP, localcontext

import numpy as np
import pytest

from engine import times
from engine.errors import Invalid
from engine.fills.glowback_clock import Bars, Simulation, Terms, simulate
from engine.fills.glowback_ledger import Costs, Position, whole_bps
from engine.fills.glowback_report import daily_returns, drawdowns, figures
from engine.fills.glowback_strategies import CoveredCall, black_scholes_call, make, normal_cdf, read_parameters

DAY = times.DAY


def bars(opens: list[float], closes: list[float] | None = None, volume: float | list[float] = 1e9,
         step: int = DAY) -> Bars:
    n = len(opens)
    return Bars(time=np.arange(n, dtype=np.int64) * step, open=np.array(opens, float),
                close=np.array(opens if closes is None else closes, float),
                volume=np.broadcast_to(volume, n).astype(float))


def held(market: dict[str, Bars], *, days: int = 0, strategy: str = "buy_and_hold",
         params: dict[str, float] | None = None, terms: Terms | None = None, capital: float = 1000.0,
         resolution: int = 86_400) -> Simulation:
    last = max(int(each.time[-1]) for each in market.values())
    return simulate(symbols=list(market), bars=market, resolution=resolution, start=0, end=days * DAY or last,
                    capital=capital, strategy=make(strategy, params or {}, list(market)), terms=terms or Terms())


FREE = Terms(commission_bps=0, slippage_bps=0, latency_ms=0)


def test_latency_zero_buys_at_the_next_days_open_and_marks_to_its_close() -> None:
    found = held({"A": bars([10, 20, 40], [10, 25, 50])}, terms=FREE)
    (fill,) = found.ledger.fills
    assert (fill.day, fill.price, fill.quantity) == (1, 20.0, 95.0)
    assert found.value.tolist() == [1000.0, 1000 - 95 * 20 + 95 * 25, 1000 - 95 * 20 + 95 * 50]


def test_the_default_latency_prices_a_fill_with_the_following_bar() -> None:
    found = held({"A": bars([10, 20, 40])}, terms=Terms(commission_bps=0, slippage_bps=0))
    assert [(fill.day, fill.price) for fill in found.ledger.fills] == [(1, 40.0)]


def test_the_strict_rule_never_uses_a_later_days_bar() -> None:
    strict = Terms(commission_bps=0, slippage_bps=0, latency_rule="strict")
    assert held({"A": bars([10, 20, 40])}, terms=strict).ledger.fills[0].price == 20.0
    hours = bars([float(hour + 1) for hour in range(48)], step=times.HOUR)
    late = Terms(commission_bps=0, slippage_bps=0, latency_rule="strict", latency_ms=5_400_000)
    assert held({"A": hours}, terms=late, resolution=3_600).ledger.fills[0].price == 27.0  # the bar of 02:00
    last = Terms(commission_bps=0, slippage_bps=0, latency_rule="strict", latency_ms=10**9)
    assert held({"A": hours}, terms=last, resolution=3_600).ledger.fills[0].price == 48.0


def test_without_a_bar_to_execute_on_an_order_waits_for_ever() -> None:
    found = held({"A": bars([10, 20])}, days=9)
    assert len(found.ledger.orders) == 1 and not found.ledger.fills
    assert found.value.tolist() == [1000.0] * 10


def test_a_fill_takes_a_quarter_of_the_bars_volume_and_the_rest_tries_again() -> None:
    found = held({"A": bars([10, 10, 10, 10], volume=[0, 160, 0, 400])}, terms=FREE)
    assert [(fill.day, fill.quantity) for fill in found.ledger.fills] == [(1, 40.0), (3, 55.0)]


def test_orders_of_one_step_share_the_bars_volume_in_their_order() -> None:
    hours = bars([100.0] * 3 + [99.0, 98.0, 97.0] + [90.0] * 3, volume=40.0, step=8 * times.HOUR)
    found = held({"A": hours}, strategy="rsi", params={"lookback_period": 2}, terms=FREE, resolution=28_800)
    # Day 1 orders three times the same; a quarter of day 2's first bar fills the first and a bit of the second.
    quantity = 950 / 97
    assert [(fill.day, fill.order) for fill in found.ledger.fills] == [(2, 1), (2, 2)]
    assert [fill.quantity for fill in found.ledger.fills] == pytest.approx([quantity, 10 - quantity])
    assert len(found.ledger.orders) == 6


@pytest.mark.parametrize(("base", "bps", "bought", "sold"), [
    (100.0, 5, 100.05, 99.950025), (244.4099, 5, 244.532105, 244.287756), (100.01, 0, 100.01, 100.01),
    (0.0001, 5, 0.0001, 0.0001), (100.001, 5, 100.051, 99.951024)])
def test_slippage_moves_the_price_and_rounds_to_six_decimals(base: float, bps: int, bought: float, sold: float) -> None:
    costs = Costs(slippage_bps=bps)
    assert (costs.price(base, 1), costs.price(base, -1)) == (bought, sold)


def test_a_price_halfway_between_two_millionths_is_rounded_to_the_even_one() -> None:
    costs = Costs(slippage_bps=5)
    assert costs.price(0.001, 1) == 0.001  # 0.0010005 exactly
    assert costs.price(0.003, 1) == 0.003002  # 0.0030015


def test_what_others_did_to_the_threads_decimal_context_changes_no_price() -> None:
    with localcontext() as context:
        context.rounding, context.prec = ROUND_HALF_UP, 3
        assert Costs(slippage_bps=5).price(0.001, 1) == 0.001
        assert Costs(slippage_bps=5).price(244.4099, 1) == 244.532105


@pytest.mark.parametrize(("given", "taken"), [(7.6, 8), (2.5, 3), (-4.0, 0), (0.4, 0)])
def test_slippage_is_taken_in_whole_basis_points(given: float, taken: int) -> None:
    assert whole_bps(given) == taken
    assert Terms(slippage_bps=given).costs.slippage_bps == taken


def test_the_default_commission_has_a_part_a_share_a_part_of_the_notional_and_a_minimum() -> None:
    assert Costs().commission(1000, 50.0) == 1.0 + 25.0
    assert Costs().commission(1, 50.0) == 1.0
    assert Costs(commission_bps=2.5).commission(1, 50.0) == 0.0125
    assert Costs(commission_bps=0.0).commission(1000, 50.0) == 0.0


def test_crossing_zero_realises_the_closed_part_and_restarts_the_basis() -> None:
    position = Position()
    assert position.add(1, 10, 5.0) == 0.0
    assert position.add(1, 10, 7.0) == 0.0
    assert position.basis == 6.0
    assert position.add(-1, 30, 9.0) == 60.0
    assert (position.quantity, position.basis) == (-10.0, 9.0)
    assert position.add(1, 10, 8.0) == 10.0
    assert (position.quantity, position.basis) == (0.0, 0.0)


def test_equal_means_are_no_signal_even_where_binary_fractions_differ() -> None:
    flat = bars([50.1] * 30)
    found = held({"A": flat}, strategy="ma_crossover", params={"short_period": 3, "long_period": 7}, terms=FREE)
    assert not found.ledger.orders


@pytest.mark.parametrize(("strategy", "params", "trades"), [
    ("ma_crossover", {"short_period": 2, "long_period": 100}, True),
    ("ma_crossover", {"short_period": 2, "long_period": 101}, False),
    ("rsi", {"lookback_period": 99}, True), ("rsi", {"lookback_period": 100}, False)])
def test_a_window_holds_a_hundred_closes(strategy: str, params: dict[str, float], trades: bool) -> None:
    falling = bars([1000.0 - day for day in range(150)])
    assert bool(held({"A": falling}, strategy=strategy, params=params, terms=FREE).ledger.orders) is trades


def test_one_memory_serves_all_symbols_of_a_crossover() -> None:
    up, down = bars([float(day + 10) for day in range(12)]), bars([float(50 - day) for day in range(12)])
    found = held({"U": up, "D": down}, strategy="ma_crossover", params={"short_period": 2, "long_period": 4},
                 terms=FREE)
    sides = [(order.symbol, order.side) for order in found.ledger.orders if order.placed == 3]
    assert sides == [("U", 1), ("D", -1)]
    assert [order.placed for order in found.ledger.orders if order.symbol == "U"][:3] == [3, 4, 5]  # it thrashes


def test_a_covered_call_is_assigned_above_the_strike_and_its_premium_is_income() -> None:
    rising = bars([100.0, 100.0] + [100.0] * 7 + [120.0] * 3)
    found = held({"A": rising}, strategy="covered_call", terms=FREE, capital=20_000.0)
    (call,) = found.ledger.calls
    assert (call.strike, call.expiry, call.contracts) == (105.0, 8 * DAY, 1)
    assert found.ledger.option_events[1][1] == "expired"  # day 8 closes at 100
    assert found.cash[-1] == pytest.approx(10_000 + call.income)
    sooner = bars([100.0, 100.0] + [120.0] * 9)
    assigned = held({"A": sooner}, strategy="covered_call", terms=FREE, capital=20_000.0)
    last = assigned.ledger.fills[-1]
    assert (last.reason, last.price, last.fee, last.day, last.side) == ("assignment", 105.0, 0.0, 8, -1)
    assert assigned.positions[-1] == 0.0
    assert assigned.pnl[-1] == pytest.approx(assigned.value[-1] - 20_000)


def test_a_covered_call_waits_for_enough_cash_and_for_all_its_shares() -> None:
    thin = bars([100.0] * 5, volume=[0, 160, 240, 240, 240])
    found = held({"A": thin}, strategy="covered_call", terms=FREE, capital=20_000.0)
    assert [fill.quantity for fill in found.ledger.fills] == [40.0, 60.0]
    assert found.ledger.option_events[0][0] == 2
    assert not held({"A": thin}, strategy="covered_call", terms=FREE, capital=9_999.0).ledger.orders


def test_the_premium_is_black_scholes_with_the_originals_normal_distribution() -> None:
    assert normal_cdf(0.0) == pytest.approx(0.5, abs=1e-8)
    assert normal_cdf(-1.0) + normal_cdf(1.0) == pytest.approx(1.0)
    assert black_scholes_call(102.9699, 108.12, 7 / 365.25, 0.01, 0.25) == pytest.approx(0.1219147234, rel=1e-8)
    assert isinstance(make("covered_call", {}, ["A"]), CoveredCall)


def test_the_clock_steps_days_from_the_start_and_knows_no_weekend() -> None:
    found = simulate(symbols=["A"], bars={"A": bars([10.0] * 4)}, resolution=86_400, start=9 * times.HOUR,
                     end=20 * DAY, capital=1000.0, strategy=make("buy_and_hold", {}, ["A"]), terms=FREE)
    assert len(found.time) == 20
    assert set(found.time % DAY) == {9 * times.HOUR}


def test_negative_latency_is_refused() -> None:
    with pytest.raises(Invalid, match="latency_ms"):
        Terms(latency_ms=-1)


@pytest.mark.parametrize("terms", [{"slippage_bps": 1e300}, {"commission_bps": -1e300}, {"commission_bps": 1e10}])
def test_costs_beyond_all_measure_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(Invalid, match=f"execution.{next(iter(terms))}"):
        Terms(**terms)
    held({"A": bars([10, 20, 40])}, terms=Terms(slippage_bps=-1e300, commission_bps=1e9))


def test_a_period_beyond_whole_numbers_of_64_bits_never_trades() -> None:
    assert read_parameters("rsi", {"lookback_period": 1e308})["lookback_period"] < 2**63
    assert not held({"A": bars([10] * 5)}, strategy="rsi", params={"lookback_period": 1e30}).ledger.fills


def test_figures_by_hand() -> None:
    value = np.array([100.0, 110.0, 99.0, 99.0])
    found = figures(value, 100.0, 2)
    returns = [0.0, 0.1, -0.1, 0.0]
    deviation = math.sqrt(sum(each**2 for each in returns) / 3)
    assert daily_returns(value).tolist() == pytest.approx(returns)
    assert drawdowns(value, 105.0).tolist() == pytest.approx([5 / 105 * 100, 0, 10, 10])
    assert found["total_return"] == pytest.approx(-1.0)
    assert found["annualized_return"] == pytest.approx((0.99 ** (252 / 4) - 1) * 100)
    assert found["volatility"] == pytest.approx(deviation * math.sqrt(252) * 100)
    assert found["sharpe_ratio"] == pytest.approx(-0.02 / 252 / deviation * math.sqrt(252))
    assert found["max_drawdown"] == pytest.approx(10.0)
    assert found["max_drawdown_duration_days"] == 2.0
    assert found["var_95"] == found["cvar_95"] == 0.0  # fewer than 20 points
    assert found["total_trades"] == 2.0 and found["win_rate"] == 0.0


def test_figures_of_nothing_gained_are_finite() -> None:
    flat = figures(np.full(30, 100.0), 100.0, 0)
    assert all(math.isfinite(value) for value in flat.values())
    assert flat["sharpe_ratio"] == flat["calmar_ratio"] == flat["skewness"] == flat["kurtosis"] == 0.0
    rising = figures(100.0 * 1.001 ** np.arange(30), 100.0, 0)
    assert rising["sortino_ratio"] < 9999.0  # the first return, 0, lies below the risk-free rate
    broke = figures(np.array([100.0, -50.0, -60.0]), 100.0, 0)
    assert broke["annualized_return"] == 0.0 and broke["max_drawdown"] == pytest.approx(160.0)
