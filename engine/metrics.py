"""The figures of a backtest: one table of definitions, one function that computes them.

Risk figures come from daily returns: the last equity value of each UTC day. A market that trades every day has 365 of
them a year, days without a bar counting as unchanged; for an exchange only its sessions count, and `periods_per_year`
is their number a year as the data shows it. Bars of more than a day are taken as they are. The first return is
measured from the starting cash. What is not defined (no loss to divide by, fewer than two days) is None, never NaN.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from engine import times
from engine.model import Metric
from engine.result import Columns

_NORMAL: Final = NormalDist()
_EULER: Final = 0.5772156649015329
_TINY: Final = 1e-14
"""Deviations of returns below this are rounding, not risk."""
_PIECE: Final = 65_536
_GONE: Final = 1e-9


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.key: metric for metric in metrics}


def _m(key: str, name: str, unit: str, formula: str, better: str = "") -> Metric:
    return Metric(key=key, name=name, unit=unit, formula=formula, better=better)  # type: ignore[arg-type]


METRICS: Final[dict[str, Metric]] = _table(
    _m("total_return", "Total return", "fraction", "final value / starting cash - 1", "higher"),
    _m("annual_return", "Annual return (CAGR)", "fraction",
       "(1 + total return) ^ (periods per year / daily returns) - 1", "higher"),
    _m("volatility", "Volatility", "fraction", "standard deviation (n - 1) of daily returns * sqrt(periods per year)",
       "lower"),
    _m("sharpe", "Sharpe ratio", "ratio",
       "mean / standard deviation (n - 1) of daily returns * sqrt(periods per year), risk-free rate 0 (Sharpe 1994)",
       "higher"),
    _m("sortino", "Sortino ratio", "ratio",
       "mean daily return / root mean square of daily losses * sqrt(periods per year) (Sortino & Price 1994)",
       "higher"),
    _m("calmar", "Calmar ratio", "ratio", "annual return / |max drawdown| (Young 1991)", "higher"),
    _m("omega", "Omega ratio", "ratio",
       "sum of daily gains / sum of daily losses, threshold 0 (Keating & Shadwick 2002)", "higher"),
    _m("max_drawdown", "Max drawdown", "fraction",
       "lowest of value / highest value so far - 1 over all bars; the starting cash is the first peak", "higher"),
    _m("max_drawdown_days", "Longest drawdown", "days",
       "longest time from a peak to the bar that reaches it again, or to the end", "lower"),
    _m("time_under_water", "Time under water", "fraction", "bars below the highest value so far / bars", "lower"),
    _m("var_95", "Value at risk 95 %", "fraction", "5th percentile of daily returns (historical)", "higher"),
    _m("cvar_95", "Expected shortfall 95 %", "fraction", "mean of the worst 5 % of daily returns", "higher"),
    _m("skew", "Skewness", "ratio", "third standardised moment of daily returns (population)", "higher"),
    _m("kurtosis", "Excess kurtosis", "ratio", "fourth standardised moment of daily returns (population) - 3",
       "lower"),
    _m("tail_ratio", "Tail ratio", "ratio", "|95th percentile| / |5th percentile| of daily returns", "higher"),
    _m("win_rate", "Win rate", "fraction", "closed roundtrips with pnl > 0 / closed roundtrips", "higher"),
    _m("profit_factor", "Profit factor", "ratio", "sum of winning pnl / |sum of losing pnl|, closed roundtrips",
       "higher"),
    _m("expectancy", "Expectancy", "currency", "mean pnl of closed roundtrips", "higher"),
    _m("payoff_ratio", "Payoff ratio", "ratio", "mean winning pnl / |mean losing pnl|, closed roundtrips", "higher"),
    _m("sqn", "System quality number", "ratio",
       "sqrt(n) * mean pnl / standard deviation (n - 1) of pnl, closed roundtrips (Van Tharp, with pnl for R)",
       "higher"),
    _m("trades", "Trades", "count", "roundtrips, from flat to flat or to the opposite side, open ones included"),
    _m("fills", "Fills", "count", "executed orders"),
    _m("avg_holding_days", "Average holding time", "days", "mean of exit - entry, closed roundtrips"),
    _m("avg_holding_days_winners", "Average holding time, winners", "days", "as above, of those with pnl > 0"),
    _m("avg_holding_days_losers", "Average holding time, losers", "days", "as above, of those with pnl < 0"),
    _m("exposure", "Exposure", "fraction", "bars at whose close a position is held / bars"),
    _m("turnover", "Turnover", "ratio", "traded value (both sides) / mean equity, over the whole run", "lower"),
    _m("fees_paid", "Fees paid", "currency", "sum of all fees", "lower"),
    _m("psr", "Probabilistic Sharpe ratio", "fraction",
       "probability that the true Sharpe ratio is above 0: Phi(SR sqrt(n - 1) / sqrt(1 - skew SR + (kurtosis - 1) / 4 "
       "SR^2)), SR per day (Bailey & Lopez de Prado 2012)", "higher"),
    _m("beta", "Beta", "ratio", "covariance(strategy, benchmark) / variance(benchmark) of daily returns"),
    _m("alpha", "Alpha", "fraction", "(1 + mean(strategy - beta * benchmark))^periods per year - 1, daily returns",
       "higher"),
    _m("benchmark_return", "Benchmark return", "fraction", "last / first value of the benchmark curve - 1"),
    _m("final_value", "Final value", "currency", "equity at the last close", "higher"),
    _m("best_trade", "Best trade", "fraction", "highest return of a closed roundtrip", "higher"),
    _m("worst_trade", "Worst trade", "fraction", "lowest return of a closed roundtrip", "higher"),
    _m("periods_per_year", "Periods per year", "count", "returns in a year, from the data's calendar"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Periods:
    """How returns are annualised: how many a year, whether days or whole bars, and the words for people."""

    per_year: float
    every_day: bool
    by_bar: bool
    text: str


def periods_of(time: np.ndarray, resolution: int) -> Periods:
    """The rule for these bar times (int64 microseconds, ascending)."""
    if resolution > 86400:
        per_year = 365.25 * 86400 / resolution
        return Periods(per_year=per_year, every_day=False, by_bar=True,
                       text=f"returns of bars, {per_year:.4g} a year at {times.resolution_name(resolution)}")
    from engine.calendars import calendar_of

    calendar = calendar_of(time, resolution)
    return Periods(per_year=calendar.periods_per_year, every_day=calendar.kind == "24x7", by_bar=False,
                   text=f"daily returns; periods a year {calendar.text}")


def daily_values(time: np.ndarray, value: np.ndarray, periods: Periods) -> np.ndarray:
    """The values that returns are made of, shape (periods in the range,): see the module's text."""
    if periods.by_bar or not len(time):
        return value
    last = day_ends(time)
    days = time[last] // times.DAY
    if not periods.every_day or days[-1] - days[0] + 1 == len(days):
        return value[last]
    grid = np.arange(days[0], days[-1] + 1)
    return value[last[np.searchsorted(days, grid, side="right") - 1]]


def day_ends(time: np.ndarray) -> np.ndarray:
    """The position of each UTC day's last bar, from ascending times of at least one bar."""
    days = np.arange(time[0] // times.DAY, time[-1] // times.DAY + 1)
    return np.unique(np.searchsorted(time, (days + 1) * times.DAY) - 1)


def compute(*, equity: Columns, fills: Columns, roundtrips: Columns, cash: float,
            resolution: int, periods: Periods | None = None) -> dict[str, float | None]:
    """Every figure of `METRICS` from a result's tables; None where undefined.

    `equity` needs time, value, gross and benchmark of at least one bar; `cash` is the starting capital.
    """
    time, value, benchmark = equity["time"], equity["value"], equity["benchmark"]
    periods = periods or periods_of(time, resolution)
    figures: dict[str, float | None] = dict.fromkeys(METRICS)
    if not len(time):
        return figures
    final = float(value[-1])
    returns = _returns(daily_values(time, value, periods), cash)
    figures |= _risk(returns, periods.per_year)
    figures |= _drawdowns(time, value, cash)
    figures |= _trades(roundtrips)
    mean = float(np.mean(value))
    traded = float(np.dot(fills["quantity"], fills["price"])) if len(fills["time"]) else 0.0
    figures |= {
        "total_return": final / cash - 1.0, "final_value": final, "fills": float(len(fills["time"])),
        "fees_paid": float(np.sum(fills["fee"])) if len(fills["fee"]) else 0.0,
        "exposure": float(np.count_nonzero(equity["gross"])) / len(time),
        "turnover": traded / mean if mean > 0 else None,
        "benchmark_return": float(benchmark[-1] / benchmark[0] - 1.0) if benchmark[0] > 0 else None,
        "periods_per_year": periods.per_year,
    }
    figures |= _against(returns, _returns(daily_values(time, benchmark, periods), float(benchmark[0])),
                        periods.per_year)
    annual, deepest = figures["annual_return"], figures["max_drawdown"]
    if annual is not None and deepest is not None and deepest < 0:
        figures["calmar"] = annual / -deepest
    return {key: _plain(figures[key]) for key in METRICS}


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _returns(value: np.ndarray, initial: float) -> np.ndarray:
    """Returns from value to value, the first from `initial`; they end where nothing is left (a billionth of it)."""
    before = np.empty(len(value))
    before[0] = initial
    before[1:] = value[:-1]
    if value.min() <= _GONE * initial:
        end = int(np.argmax(value <= _GONE * initial)) + 1
        before, value = before[:end], value[:end]
    return value / before - 1.0


def _risk(returns: np.ndarray, per_year: float) -> dict[str, float | None]:
    n = len(returns)
    growth = float(np.prod(1.0 + returns))
    ordered = np.sort(returns)
    low, high = _percentile(ordered, 0.05), _percentile(ordered, 0.95)
    mean = float(returns.mean())
    losses = np.minimum(returns, 0.0)
    gained, lost = float(np.maximum(returns, 0.0).sum()), -float(losses.sum())
    downside = math.sqrt(float(np.dot(losses, losses)) / n)
    figures: dict[str, float | None] = {
        "annual_return": _power(growth, per_year / n),
        "var_95": low, "cvar_95": float(ordered[: int((n - 1) * 0.05) + 1].mean()),
        "tail_ratio": abs(high) / abs(low) if abs(low) > _TINY else None,
        "omega": gained / lost if lost > _TINY else None,
        "sortino": mean / downside * math.sqrt(per_year) if downside > _TINY else None,
    }
    if n < 2:
        return figures
    away = returns - mean
    squares = float(np.dot(away, away))
    deviation = math.sqrt(squares / (n - 1))
    figures["volatility"] = deviation * math.sqrt(per_year)
    if deviation > _TINY:
        spread = math.sqrt(squares / n)
        shape = away / spread
        skew, kurtosis = float(np.mean(shape**3)), float(np.mean(shape**4))
        figures |= {
            "sharpe": mean / deviation * math.sqrt(per_year), "skew": skew, "kurtosis": kurtosis - 3.0,
            "psr": probabilistic_sharpe(mean / deviation, n, skew, kurtosis),
        }
    return figures


def _power(growth: float, exponent: float) -> float | None:
    if growth <= 0:
        return -1.0
    try:
        return math.expm1(math.log(growth) * exponent)
    except OverflowError:
        return None


def _percentile(ordered: np.ndarray, q: float) -> float:
    """Linear interpolation between the nearest ranks, as numpy's default."""
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def _drawdowns(time: np.ndarray, value: np.ndarray, cash: float) -> dict[str, float | None]:
    under, deepest, peak = np.empty(len(value), bool), 0.0, cash
    for first in range(0, len(value), _PIECE):  # whole columns of shares would be tens of megabytes for long runs
        piece = value[first : first + _PIECE]
        share = np.maximum.accumulate(np.maximum(piece, peak))
        peak = float(share[-1])
        np.divide(piece, share, out=share)
        under[first : first + len(piece)] = share < 1.0 - 1e-12
        deepest = min(deepest, float(share.min()) - 1.0)
    if deepest > -1e-12:
        return {"max_drawdown": 0.0, "max_drawdown_days": 0.0, "time_under_water": 0.0}
    # A spell runs from the last bar at the peak to the bar that reaches it again (or the last bar).
    edge = np.flatnonzero(under[1:] != under[:-1]) + 1
    begins = ([0] if under[0] else []) + [int(at) - 1 for at in edge if under[at]]
    ends = [int(at) for at in edge if not under[at]] + ([len(time) - 1] if under[-1] else [])
    longest = max(int(time[end]) - int(time[begin]) for begin, end in zip(begins, ends, strict=True))
    return {"max_drawdown": deepest, "max_drawdown_days": longest / times.DAY,
            "time_under_water": float(np.count_nonzero(under)) / len(time)}


def _trades(roundtrips: Columns) -> dict[str, float | None]:
    closed = roundtrips["status"] == "closed"
    pnl = roundtrips["pnl"][closed]
    figures: dict[str, float | None] = {"trades": float(len(closed))}
    if not len(pnl):
        return figures
    won, lost = pnl > 0, pnl < 0
    gain, loss = float(pnl[won].sum()), -float(pnl[lost].sum())
    returns = roundtrips["return"][closed]
    days = (roundtrips["exit_time"][closed] - roundtrips["entry_time"][closed]) / times.DAY
    mean = float(pnl.mean())
    figures |= {
        "win_rate": float(np.count_nonzero(won)) / len(pnl), "expectancy": mean,
        "profit_factor": gain / loss if loss > 0 else None,
        "best_trade": float(returns.max()), "worst_trade": float(returns.min()),
        "avg_holding_days": float(days.mean()),
    }
    if won.any():
        figures["avg_holding_days_winners"] = float(days[won].mean())
    if lost.any():
        figures["avg_holding_days_losers"] = float(days[lost].mean())
    if won.any() and lost.any():
        figures["payoff_ratio"] = (gain / np.count_nonzero(won)) / (loss / np.count_nonzero(lost))
    if len(pnl) > 1:
        deviation = float(pnl.std(ddof=1))
        if deviation > 1e-12 * float(np.abs(pnl).max()):
            figures["sqn"] = math.sqrt(len(pnl)) * mean / deviation
    return figures


def _against(returns: np.ndarray, benchmark: np.ndarray, per_year: float) -> dict[str, float | None]:
    n = min(len(returns), len(benchmark))
    if n < 2:
        return {}
    returns, benchmark = returns[:n], benchmark[:n]
    away = benchmark - benchmark.mean()
    variance = float(np.dot(away, away))
    if variance <= n * _TINY**2:
        return {}
    beta = float(np.dot(away, returns)) / variance
    excess = float((returns - beta * benchmark).mean())
    return {"beta": beta, "alpha": _power(1.0 + excess, per_year)}


def probabilistic_sharpe(sharpe: float, n: int, skew: float, kurtosis: float, threshold: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio is above `threshold`, both per return (not annualised).

    `n` returns with this skewness and (plain, not excess) kurtosis. Bailey & Lopez de Prado, The Sharpe Ratio
    Efficient Frontier, Journal of Risk 15(2), 2012.
    """
    variance = 1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe * sharpe
    if n < 2 or not variance > 0:
        return None
    return _NORMAL.cdf((sharpe - threshold) * math.sqrt(n - 1) / math.sqrt(variance))


def expected_max_sharpe(variance: float, trials: int) -> float:
    """The Sharpe ratio that the best of `trials` skill-less strategies is expected to show.

    `variance` is that of the trials' Sharpe ratios, in the unit (per day or per year) of which the square root comes
    back. Bailey & Lopez de Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40(5), 2014, equation 1.
    """
    if trials < 2 or not variance > 0:
        return 0.0
    first = _NORMAL.inv_cdf(1.0 - 1.0 / trials)
    second = _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * ((1.0 - _EULER) * first + _EULER * second)


def deflated_sharpe(sharpe: float, n: int, skew: float, kurtosis: float, *, variance: float,
                    trials: int) -> float | None:
    """Probability that the true Sharpe ratio is above what the best of so many trials shows by luck.

    All Sharpe ratios per return (not annualised), `kurtosis` plain (3 for a normal distribution), `variance` that of
    the trials' Sharpe ratios. Same source as `expected_max_sharpe`, equation 2.
    """
    return probabilistic_sharpe(sharpe, n, skew, kurtosis, expected_max_sharpe(variance, trials))


def describe() -> list[dict[str, str]]:
    """The table as JSON."""
    return [{"key": each.key, "name": each.name, "unit": each.unit, "formula": each.formula, "better": each.better}
            for each in METRICS.values()]

