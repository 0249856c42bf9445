"""Moving average convergence divergence."""

from collections.abc import Mapping
from typing import Any

from engine.errors import Problem
from engine.indicators import ema
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    close = bars[0, 3]
    fast = ema(state[0:2], int(params[0]), close)
    slow = ema(state[2:4], int(params[1]), close)
    line = fast - slow
    if line != line:  # NaN: not enough bars
        return
    out[0] = line
    signal = ema(state[4:6], int(params[2]), line)
    if signal != signal:
        return
    out[1] = signal
    out[2] = line - signal
    if line > signal:
        advice[0] = 1.0
    elif line < signal:
        advice[0] = -1.0


def _rules(params: Mapping[str, Any]) -> list[Problem]:
    if params["fast"] < params["slow"]:
        return []
    return [Problem("params.fast", "the fast average must be shorter than the slow one",
                    f"use less than slow ({params['slow']})")]


STRATEGY = Strategy(
    name="macd",
    title="MACD",
    doc="Long while the MACD line (fast less slow exponential average of the close, G. Appel) is above its signal "
        "line, short (or flat) while below.",
    step=step,
    parameters=(
        Parameter(name="fast", type="int", default=12, low=1, high=5000, step=1, doc="bars in the fast average"),
        Parameter(name="slow", type="int", default=26, low=2, high=10000, step=1, doc="bars in the slow average"),
        Parameter(name="signal", type="int", default=9, low=1, high=5000, step=1, doc="bars in the signal line"),
    ),
    indicators=(
        Indicator(name="macd", panel="own", doc="fast less slow average"),
        Indicator(name="signal", panel="own", doc="exponential average of the MACD line"),
        Indicator(name="histogram", panel="own", doc="MACD line less signal line"),
    ),
    state_size=lambda params, n: 6,
    warm_up=lambda params: params["slow"] + params["signal"] - 1,
    rules=_rules,
    tags=("trend",),
)
