"""Breakout with retest: the price leaves its channel, and the alert waits for it to come back to the line it broke."""

from collections.abc import Mapping
from typing import Any, Final

from engine.detectors.base import LEVELS, common, preset
from engine.indicators import extreme_size, mean_size, rolling_highest, rolling_lowest, rolling_mean
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    channel, window = int(params[3]), int(params[4])
    margin, risk, reward = params[5], params[6], params[7]
    high, low, close = bars[0, 1], bars[0, 2], bars[0, 3]
    # state: bars seen, last close, the channel and the true range as they stood after the bar before, whether the last
    # close lay outside
    a = 6
    b = a + channel + 3
    c = b + channel + 3
    outside = 0.0
    if state[0] > 0.0:
        upper, lower, span = state[2], state[3], state[4]
        if upper == upper and span == span and span > 0.0:
            out[3] = upper
            out[4] = lower
            if close > upper + margin * span:
                outside = 1.0
            elif close < lower - margin * span:
                outside = -1.0
            if outside != 0.0 and outside != state[5]:
                start = upper if outside > 0.0 else lower
                advice[0] = outside
                out[0] = start
                out[1] = start + outside * reward * risk * span
                out[2] = start - outside * risk * span
        true = max(high, state[1]) - min(low, state[1])
    else:
        true = high - low
    state[2] = rolling_highest(state[a:b], channel, high)
    state[3] = rolling_lowest(state[b:c], channel, low)
    state[4] = rolling_mean(state[c:], window, true)
    state[5] = outside
    state[1] = close
    state[0] += 1.0


def why(direction: str, params: Mapping[str, Any], out: Mapping[str, float]) -> str:
    side, line = ("above", out["upper"]) if direction == "BUY" else ("below", out["lower"])
    edge = "highest high" if direction == "BUY" else "lowest low"
    return f"closed {side} the {edge} of {params['channel']} bars ({line:g}); waiting for a retest of that line"


SOURCES: Final = (
    "R. Donchian's channel of highest highs and lowest lows",
    "R. Edwards and J. Magee, Technical Analysis of Stock Trends: throwbacks to the broken line",
    "J. W. Wilder, New Concepts in Technical Trading Systems (1978): true range",
)

_STRATEGY: Final = Strategy(
    name="breakout_retest",
    title="Breakout with retest",
    doc="When a bar closes outside the channel of the bars before it (the close before lay within), an alert waits at "
        "the broken line for the price to come back. Stop and target are multiples of the average true range away.",
    step=step,
    parameters=(
        *common(patience=12, trail=1.0, tight=0.25),
        Parameter(name="channel", type="int", default=20, low=2, high=2000, step=1,
                  doc="bars of the channel, ending with the bar before (Donchian: 20)"),
        Parameter(name="window", type="int", default=14, low=2, high=2000, step=1,
                  doc="bars of the average true range, a plain mean (Wilder: 14, with his smoothing)"),
        Parameter(name="margin", type="float", default=0.1, low=0.0, high=10.0, step=0.05,
                  doc="how far outside the close must lie, in average true ranges"),
        Parameter(name="risk", type="float", default=1.0, low=0.05, high=20.0, step=0.25,
                  doc="start to stop, in average true ranges"),
        Parameter(name="reward", type="float", default=2.0, low=0.1, high=50.0, step=0.25,
                  doc="start to target, in R (start to stop)"),
    ),
    indicators=(*LEVELS, Indicator(name="upper", doc="highest high of the channel"),
                Indicator(name="lower", doc="lowest low of the channel")),
    state_size=lambda params, n: 6 + 2 * extreme_size(params["channel"]) + mean_size(params["window"]),
    warm_up=lambda params: max(params["channel"], params["window"]) + 1,
    tags=("breakout",),
)

SHORT: Final = preset(_STRATEGY, "short", bar=300, why=why, sources=SOURCES, channel=24, patience=12)
LONG: Final = preset(_STRATEGY, "long", bar=3600, why=why, sources=SOURCES, channel=48, patience=24, risk=1.5,
                     reward=3.0, trail=1.5)
