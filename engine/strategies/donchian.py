"""Breakout from Donchian's channel."""

from typing import Any

from engine.indicators import extreme_size, rolling_highest, rolling_lowest
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    entry, leave = int(params[0]), int(params[1])
    close = bars[0, 3]
    # state: position, the four channel lines as they stood after the bar before (one is added: zero means none yet)
    a = 6
    b = a + entry + 3
    c = b + entry + 3
    d = c + leave + 3
    position = state[0]
    if state[5] > 0.0:
        upper, lower, exit_long, exit_short = state[1], state[2], state[3], state[4]
        if upper == upper:
            out[0] = upper
            out[1] = lower
        if exit_long == exit_long:
            out[2] = exit_long
            out[3] = exit_short
        if upper == upper and close > upper:
            position = 1.0
        elif lower == lower and close < lower:
            position = -1.0
        elif (position > 0.0 and close < exit_long) or (position < 0.0 and close > exit_short):
            position = 0.0
        state[0] = position
        if upper == upper:
            advice[0] = position
    state[1] = rolling_highest(state[a:b], entry, bars[0, 1])
    state[2] = rolling_lowest(state[b:c], entry, bars[0, 2])
    state[3] = rolling_lowest(state[c:d], leave, bars[0, 2])
    state[4] = rolling_highest(state[d:], leave, bars[0, 1])
    state[5] = 1.0


STRATEGY = Strategy(
    name="donchian",
    title="Donchian breakout",
    doc="Goes long when the close is above the highest high of the last `entry` bars, short when below the lowest low; "
        "leaves when the close crosses the opposite line of the shorter `exit` channel. Channels end with the bar "
        "before.",
    step=step,
    parameters=(
        Parameter(name="entry", type="int", default=20, low=1, high=5000, step=1, doc="bars in the entry channel"),
        Parameter(name="exit", type="int", default=10, low=1, high=5000, step=1, doc="bars in the exit channel"),
    ),
    indicators=(
        Indicator(name="upper", doc="highest high of the entry channel"),
        Indicator(name="lower", doc="lowest low of the entry channel"),
        Indicator(name="exit_long", doc="lowest low of the exit channel"),
        Indicator(name="exit_short", doc="highest high of the exit channel"),
    ),
    state_size=lambda params, n: 6 + 2 * extreme_size(params["entry"]) + 2 * extreme_size(params["exit"]),
    warm_up=lambda params: params["entry"] + 1,
    tags=("trend", "breakout"),
)
