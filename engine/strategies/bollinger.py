"""Bollinger's bands."""

from typing import Any

from engine.indicators import deviation_size, mean_size, rolling_deviation, rolling_mean
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    window = int(params[0])
    close = bars[0, 3]
    split = 1 + window + 4
    middle = rolling_mean(state[1:split], window, close)
    width = params[1] * rolling_deviation(state[split:], window, close)
    if middle != middle:  # NaN: not enough bars
        return
    out[0] = middle
    out[1] = middle + width
    out[2] = middle - width
    position = state[0]
    if close < middle - width:
        position = 1.0
    elif close > middle + width:
        position = -1.0
    elif (position > 0.0 and close >= middle) or (position < 0.0 and close <= middle):
        position = 0.0
    state[0] = position
    advice[0] = position


STRATEGY = Strategy(
    name="bollinger",
    title="Bollinger reversal",
    doc="Goes long when the close falls below the lower band and short when it rises above the upper one; takes the "
        "profit when the close is back at the middle. Bands are the moving average plus and minus a multiple of the "
        "population standard deviation.",
    step=step,
    parameters=(
        Parameter(name="window", type="int", default=20, low=2, high=5000, step=1, doc="bars in average and deviation"),
        Parameter(name="width", type="float", default=2.0, low=0.1, high=10, step=0.1, doc="deviations to each band"),
    ),
    indicators=(Indicator(name="middle", doc="moving average"), Indicator(name="upper", doc="upper band"),
                Indicator(name="lower", doc="lower band")),
    state_size=lambda params, n: 1 + mean_size(params["window"]) + deviation_size(params["window"]),
    warm_up=lambda params: params["window"],
    tags=("mean reversion",),
)
