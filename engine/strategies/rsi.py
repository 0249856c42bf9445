"""Relative strength index."""

from collections.abc import Mapping
from typing import Any

from engine.errors import Problem
from engine.indicators import rsi_size, wilder_rsi
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    value = wilder_rsi(state, int(params[0]), bars[0, 3])
    out[0] = value
    if value < params[1]:
        advice[0] = 1.0
    elif value > params[2]:
        advice[0] = -1.0


def _rules(params: Mapping[str, Any]) -> list[Problem]:
    if params["low"] < params["high"]:
        return []
    return [Problem("params.low", "the lower threshold must be below the upper one",
                    f"use less than high ({params['high']:g})")]


STRATEGY = Strategy(
    name="rsi",
    title="RSI reversal",
    doc="Goes long when Wilder's relative strength index falls below the lower threshold, short (or flat) when it "
        "rises above the upper one; in between it keeps what it has.",
    step=step,
    parameters=(
        Parameter(name="window", type="int", default=14, low=2, high=5000, step=1, doc="bars of Wilder's smoothing"),
        Parameter(name="low", type="float", default=30.0, low=0, high=100, step=5, doc="buy below this"),
        Parameter(name="high", type="float", default=70.0, low=0, high=100, step=5, doc="sell above this"),
    ),
    indicators=(Indicator(name="rsi", panel="own", doc="relative strength index, 0 to 100"),),
    state_size=lambda params, n: rsi_size(),
    warm_up=lambda params: params["window"] + 1,
    rules=_rules,
    tags=("mean reversion",),
)
