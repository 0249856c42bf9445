"""GlowBack's figures from an equity curve, with that program's formulas and units.

n counts the points of the curve, which are calendar days, while a year has 252: weekends enter as days without return.
That is kept for compatibility; the workbench's own figures (`engine.metrics`) annualise by the data's calendar.
"""

import math
from typing import Final

import numpy as np

YEAR: Final = 252
RISK_FREE: Final = 0.02
NO_LOSS: Final = 9999.0
ALWAYS_ZERO: Final = ("average_loss", "average_win", "largest_loss", "largest_win", "profit_factor",
                      "total_commissions", "win_rate")
"""Figures that the original never computes; the corrected ones are given as `workbench_…`."""


def drawdowns(value: np.ndarray, capital: float) -> np.ndarray:
    """Percent below the running peak, which starts at the capital; float64 of the curve's length."""
    peak = np.maximum.accumulate(np.maximum(value, capital)) if len(value) else value
    return np.where(peak > 0, (peak - value) / np.where(peak > 0, peak, 1.0) * 100, 0.0)


def daily_returns(value: np.ndarray) -> np.ndarray:
    """Fractions, the first 0; 0 where the value before was not positive."""
    returns = np.zeros(len(value))
    before = value[:-1]
    returns[1:] = np.divide(value[1:] - before, before, out=np.zeros(len(before)), where=before > 0)
    return returns


def figures(value: np.ndarray, capital: float, trades: int) -> dict[str, float]:
    """The performance keys of `metrics_summary` for a curve `value` (float64, length n)."""
    n = len(value)
    returns = daily_returns(value)
    final = float(value[-1]) if n else capital
    total = final / capital - 1
    growth = (1 + total) ** (YEAR / n) - 1 if n and 1 + total > 0 else 0.0
    mean = float(returns.mean()) if n else 0.0
    deviation = float(returns.std(ddof=1)) if n > 1 else 0.0
    down = returns - RISK_FREE / YEAR
    down = down[down < 0]
    downside = math.sqrt(float(np.mean(down**2))) * math.sqrt(YEAR) if len(down) else 0.0
    worst = float(drawdowns(value, capital).max(initial=0.0))
    tail = math.floor(0.05 * n)
    ordered = np.sort(returns)
    return {
        "initial_capital": capital, "final_value": final, "total_return": total * 100,
        "annualized_return": growth * 100, "volatility": deviation * math.sqrt(YEAR) * 100,
        "sharpe_ratio": (mean - RISK_FREE / YEAR) / deviation * math.sqrt(YEAR) if deviation > 0 else 0.0,
        "sortino_ratio": (growth - RISK_FREE) / downside if downside > 0 else NO_LOSS,
        "max_drawdown": worst, "max_drawdown_duration_days": float(_longest_drawdown(value)),
        "calmar_ratio": growth / (worst / 100) if worst > 0 else 0.0,
        "var_95": _positive_zero(-float(ordered[tail])) if n >= 20 else 0.0,
        "cvar_95": _positive_zero(-float(ordered[:tail + 1].mean())) if n >= 20 else 0.0,
        "skewness": _moment(returns, 3) if n >= 3 else 0.0,
        "kurtosis": _moment(returns, 4) - 3 if n >= 4 and returns.std() > 0 else 0.0,
        "total_trades": float(trades), **dict.fromkeys(ALWAYS_ZERO, 0.0),
    }


def _longest_drawdown(value: np.ndarray) -> int:
    """The longest run of points below the running peak, which starts at the first point."""
    if not len(value):
        return 0
    below = value < np.maximum.accumulate(value)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], below, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _moment(returns: np.ndarray, power: int) -> float:
    deviation = float(returns.std())
    return float(np.mean((returns - returns.mean()) ** power)) / deviation**power if deviation > 0 else 0.0


def _positive_zero(number: float) -> float:
    return number + 0.0
