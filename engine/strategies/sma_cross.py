"""Crossing of two simple moving averages."""

from collections.abc import Mapping
from typing import Any

from engine.errors import Problem
from engine.indicators import mean_size, rolling_mean
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    fast_window, slow_window = int(params[0]), int(params[1])
    close = bars[0, 3]
    split = fast_window + 4
    fast = rolling_mean(state[:split], fast_window, close)
    slow = rolling_mean(state[split:], slow_window, close)
    out[0] = fast
    out[1] = slow
    if fast > slow:
        advice[0] = 1.0
    elif fast < slow:
        advice[0] = -1.0


def _rules(params: Mapping[str, Any]) -> list[Problem]:
    if params["fast"] < params["slow"]:
        return []
    return [Problem("params.fast", "the fast average must be shorter than the slow one",
                    f"use less than slow ({params['slow']})")]


STRATEGY = Strategy(
    name="sma_cross",
    title="Moving average cross",
    doc="Long while the fast simple moving average of the close is above the slow one, short (or flat) while below.",
    step=step,
    parameters=(
        Parameter(name="fast", type="int", default=10, low=1, high=5000, step=1, doc="bars in the fast average"),
        Parameter(name="slow", type="int", default=50, low=2, high=10000, step=1, doc="bars in the slow average"),
    ),
    indicators=(Indicator(name="fast", doc="fast average"), Indicator(name="slow", doc="slow average")),
    state_size=lambda params, n: mean_size(params["fast"]) + mean_size(params["slow"]),
    warm_up=lambda params: params["slow"],
    rules=_rules,
    tags=("trend",),
)
