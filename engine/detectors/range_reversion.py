"""Range reversion: without a trend, a price that left its band and came back in is expected to go to the middle."""

from collections.abc import Mapping
from typing import Any, Final

from engine.detectors.base import LEVELS, common, preset
from engine.indicators import deviation_size, mean_size, rolling_deviation, rolling_mean
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    window, width, efficiency = int(params[3]), params[4], params[5]
    risk, reward = params[6], params[7]
    high, low, close = bars[0, 1], bars[0, 2], bars[0, 3]
    # state: bars seen, last close, outside (+1: the last closes lay below the band, -1: above), lowest low and highest
    # high since they left it, place in the ring of closes, sum of the changes in it
    a = 7
    b = a + window + 5
    c = b + window + 4
    d = c + window + 4
    true = high - low if state[0] == 0.0 else max(high, state[1]) - min(low, state[1])
    deviation = rolling_deviation(state[a:b], window, close)
    middle = rolling_mean(state[b:c], window, close)
    span = rolling_mean(state[c:d], window, true)
    place = int(state[5])
    then = state[d + place]  # the close `window` bars ago, once there have been so many
    state[d + place] = close
    state[5] = 0.0 if place + 1 == window else place + 1.0
    change = abs(close - state[1]) if state[0] > 0.0 else 0.0
    path = rolling_mean(state[d + window:], window, change)
    if state[0] >= window and deviation > 0.0 and span > 0.0 and path > 0.0:
        upper = middle + width * deviation
        lower = middle - width * deviation
        ratio = abs(close - then) / (path * window)
        out[3] = upper
        out[4] = middle
        out[5] = lower
        out[6] = ratio
        if close < lower:
            state[3] = min(state[3], low) if state[2] > 0.0 else low
            state[2] = 1.0
        elif close > upper:
            state[4] = max(state[4], high) if state[2] < 0.0 else high
            state[2] = -1.0
        else:
            side = state[2]
            if side != 0.0 and ratio <= efficiency:
                edge = min(state[3], low) if side > 0.0 else max(state[4], high)
                stop = edge - side * risk * span
                if side * (middle - close) >= reward * side * (close - stop):
                    advice[0] = side
                    out[0] = close
                    out[1] = middle
                    out[2] = stop
            state[2] = 0.0
    state[1] = close
    state[0] += 1.0


def why(direction: str, params: Mapping[str, Any], out: Mapping[str, float]) -> str:
    side, line = ("below", out["lower"]) if direction == "BUY" else ("above", out["upper"])
    return (f"came back into its band after closing {side} it ({line:g}) without a trend (efficiency "
            f"{out['efficiency_ratio']:.2f}); aims at the middle")


SOURCES: Final = (
    "J. Bollinger, Bollinger on Bollinger Bands (2001): bands of the mean and its standard deviations",
    "P. Kaufman, Smarter Trading (1995): the efficiency ratio, net change over the sum of changes",
)

_STRATEGY: Final = Strategy(
    name="range_reversion",
    title="Range reversion",
    doc="When closes have left Bollinger's band and one lies within it again, and Kaufman's efficiency ratio says "
        "that there is no trend, an alert begins at that close or better and aims at the band's middle; the stop lies "
        "beyond the extreme. Alerts that would win too little for their risk are not given.",
    step=step,
    parameters=(
        *common(patience=2, trail=0.0, tight=0.25),
        Parameter(name="window", type="int", default=20, low=3, high=2000, step=1,
                  doc="bars of the band, of the ratio and of the average true range (Bollinger: 20)"),
        Parameter(name="width", type="float", default=2.0, low=0.2, high=10.0, step=0.1,
                  doc="half the band's width in standard deviations (Bollinger: 2)"),
        Parameter(name="efficiency", type="float", default=0.35, low=0.0, high=1.0, step=0.05,
                  doc="the highest efficiency ratio that counts as no trend (0 noise, 1 a straight line)"),
        Parameter(name="risk", type="float", default=0.5, low=0.0, high=20.0, step=0.25,
                  doc="how far beyond the extreme the stop lies, in average true ranges"),
        Parameter(name="reward", type="float", default=0.75, low=0.05, high=50.0, step=0.05,
                  doc="the least distance from start to target, in R (start to stop)"),
    ),
    indicators=(*LEVELS, Indicator(name="upper", doc="upper band"), Indicator(name="middle", doc="mean"),
                Indicator(name="lower", doc="lower band"),
                Indicator(name="efficiency_ratio", panel="own", doc="Kaufman's efficiency ratio")),
    state_size=lambda params, n: 7 + deviation_size(params["window"]) + 3 * mean_size(params["window"])
    + params["window"],
    warm_up=lambda params: params["window"] + 1,
    tags=("reversion",),
)

SHORT: Final = preset(_STRATEGY, "short", bar=300, why=why, sources=SOURCES)
LONG: Final = preset(_STRATEGY, "long", bar=3600, why=why, sources=SOURCES, window=30, patience=3)
