"""Gekko's strategies that sell high and buy low: RSI, StochRSI, TSI, UO, CCI."""

from typing import Any, Final

from engine.gekko_indicators import (
    RSI,
    TREND,
    TSI,
    cci_size,
    gekko_cci,
    gekko_rsi,
    gekko_trend,
    gekko_tsi,
    gekko_uo,
    quotient,
    uo_size,
)
from engine.strategies.base import Indicator, Strategy
from engine.strategies.gekko.settings import HISTORY, persistence, real, warm_up, weight, whole


def rsi(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, the index
    result = gekko_rsi(state[5:13], params[1], bars[0, 3])
    out[0] = result
    if state[0] >= params[0]:
        said = gekko_trend(state[1:5], params[4], result > params[3], result < params[2])
        if said != 0.0:
            advice[0] = -said  # high means sell


def stoch_rsi(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, the index, place in the ring, values seen, ring
    window = int(params[1])
    result = gekko_rsi(state[5:13], params[1], bars[0, 3])
    place = int(state[13])
    state[15 + place] = result
    state[13] = 0.0 if place + 1 == window else place + 1
    if state[14] < window:
        state[14] += 1.0
    lowest = result
    highest = result
    for i in range(int(state[14])):
        lowest = min(lowest, state[15 + i])
        highest = max(highest, state[15 + i])
    stoch = quotient(result - lowest, highest - lowest) * 100.0
    out[0] = result
    out[1] = stoch
    if state[0] >= params[0]:
        said = gekko_trend(state[1:5], params[4], stoch > params[3], stoch < params[2])
        if said != 0.0:
            advice[0] = -said
        elif not stoch > params[3] and not stoch < params[2]:
            state[2] = 0.0  # a trend must be on consecutive candles


def tsi(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, the index
    result = gekko_tsi(state[5:15], params[1], params[2], bars[0, 3])
    out[0] = result
    if state[0] >= params[0]:
        said = gekko_trend(state[1:5], params[5], result > params[4], result < params[3])
        if said != 0.0:
            advice[0] = -said


def uo(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, the oscillator
    result = gekko_uo(state[5:], int(params[2]), int(params[4]), int(params[6]), params[1], params[3], params[5],
                      bars[0, 1], bars[0, 2], bars[0, 3])
    out[0] = result
    if state[0] >= params[0]:
        said = gekko_trend(state[1:5], params[9], result > params[8], result < params[7])
        if said != 0.0:
            advice[0] = -said


def cci(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend (direction, duration, persisted, advised), the index
    history = int(params[2])
    result = gekko_cci(state[5:], params[1], history, bars[0, 1], bars[0, 2], bars[0, 3])
    out[0] = result
    if state[0] < params[0] or state[0] < history:
        return
    persistence = params[5]
    direction = 1.0 if result >= params[4] else -1.0 if result <= params[3] else 0.0
    if direction == 0.0:
        if state[1] != 0.0:
            state[1] = 0.0
            state[2] = 0.0
            state[3] = 0.0
            state[4] = 0.0
        else:
            state[2] += 1.0
    elif state[1] != direction:
        state[1] = direction
        state[2] = 1.0
        state[3] = 0.0
        state[4] = 0.0
        if persistence == 0.0:
            state[4] = 1.0
            advice[0] = -direction
    elif (state[3] == 1.0 or persistence == 0.0) and state[4] == 0.0:
        state[4] = 1.0
        state[2] += 1.0
        advice[0] = -direction
    else:
        state[2] += 1.0
        if state[2] >= persistence:
            state[3] = 1.0


def _thresholds(low: float, high: float, lasting: int) -> tuple[Any, ...]:
    return (real("low", low, "buy below this", step=1), real("high", high, "sell above this", step=1),
            persistence(lasting))


STRATEGIES: Final = (
    Strategy(
        name="gekko_rsi", title="Gekko RSI", step=rsi,
        doc="Gekko's RSI: sell when the index has been above `high` for `persistence` candles, buy when below `low`.",
        parameters=(HISTORY, whole("interval", 14, "candles of the index"), *_thresholds(30, 70, 1)),
        indicators=(Indicator(name="rsi", panel="own", doc="relative strength index"),),
        state_size=lambda params, n: 1 + TREND + RSI, warm_up=warm_up, tags=("gekko", "mean reversion"),
    ),
    Strategy(
        name="gekko_stochrsi", title="Gekko StochRSI", step=stoch_rsi,
        doc="Gekko's StochRSI: where the index stands between its lowest and highest of `interval` candles, 0..100. "
            "Sell when it has been above `high` for `persistence` consecutive candles, buy when below `low`.",
        parameters=(HISTORY, whole("interval", 3, "candles of the index and of its range"), *_thresholds(20, 80, 3)),
        indicators=(Indicator(name="rsi", panel="own", doc="relative strength index"),
                    Indicator(name="stoch", panel="own", doc="the index within its range")),
        state_size=lambda params, n: 1 + TREND + RSI + 2 + int(params["interval"]), warm_up=warm_up,
        tags=("gekko", "mean reversion"),
    ),
    Strategy(
        name="gekko_tsi", title="Gekko TSI", step=tsi,
        doc="Gekko's true strength index: sell when it has been above `high` for `persistence` candles, buy when below "
            "`low`.",
        parameters=(HISTORY, weight("short", 13, "weight of the outer average"),
                    weight("long", 25, "weight of the inner average"), *_thresholds(-25, 25, 1)),
        indicators=(Indicator(name="tsi", panel="own", doc="true strength index"),),
        state_size=lambda params, n: 1 + TREND + TSI, warm_up=warm_up, tags=("gekko", "mean reversion"),
    ),
    Strategy(
        name="gekko_uo", title="Gekko UO", step=uo,
        doc="Gekko's ultimate oscillator: sell when it has been above `high` for `persistence` candles, buy when below "
            "`low`.",
        parameters=(HISTORY, real("first_weight", 4, "weight of the first window", step=1),
                    whole("first_period", 7, "candles of the first window"),
                    real("second_weight", 2, "weight of the second window", step=1),
                    whole("second_period", 14, "candles of the second window"),
                    real("third_weight", 1, "weight of the third window", step=1),
                    whole("third_period", 28, "candles of the third window"), *_thresholds(30, 70, 1)),
        indicators=(Indicator(name="uo", panel="own", doc="ultimate oscillator"),),
        state_size=lambda params, n: 1 + TREND + uo_size(
            int(params["first_period"]), int(params["second_period"]), int(params["third_period"])),
        warm_up=warm_up, tags=("gekko", "mean reversion"),
    ),
    Strategy(
        name="gekko_cci", title="Gekko CCI", step=cci,
        doc="Gekko's commodity channel index: sell at or above `up`, buy at or below `down`. With a persistence the "
            "advice comes one candle after it has been reached.",
        parameters=(HISTORY, real("constant", 0.015, "constant multiplier", low=0, step=0.001),
                    whole("window", 90, "candles of the index (Gekko's `history`)"),
                    real("down", -100, "buy at or below this", step=1),
                    real("up", 100, "sell at or above this", step=1), persistence(0)),
        indicators=(Indicator(name="cci", panel="own", doc="commodity channel index"),),
        state_size=lambda params, n: 1 + TREND + cci_size(int(params["window"])),
        warm_up=lambda params: max(1, int(params["history"]), int(params["window"])),
        tags=("gekko", "mean reversion"),
    ),
)
