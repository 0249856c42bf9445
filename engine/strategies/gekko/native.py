"""Gekko's strategies on the indicators of Tulip and TA-Lib: tulip-macd, talib-macd, tulip-adx, tulip-multi-strat."""

from typing import Any, Final

from engine.gekko_indicators import native_size, remember, talib_macd, tulip_adx, tulip_macd
from engine.strategies.base import Indicator, Strategy
from engine.strategies.gekko.settings import HISTORY, ordered, real, warm_up, whole


def tulip_macd_step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, last advice, closes
    count = remember(state[2:], 1, bars[0, 3], 0.0, 0.0)
    tulip_macd(state[2:], int(params[1]), int(params[2]), int(params[3]), count, out)
    if state[0] >= params[0]:
        difference = out[0] - out[1]
        if params[4] > difference and state[1] != -1.0:
            state[1] = -1.0
            advice[0] = -1.0
        elif params[5] < difference and state[1] != 1.0:
            state[1] = 1.0
            advice[0] = 1.0


def talib_macd_step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, last advice, closes
    count = remember(state[2:], 1, bars[0, 3], 0.0, 0.0)
    talib_macd(state[2:], int(params[1]), int(params[2]), int(params[3]), count, out)
    if state[0] >= params[0]:
        difference = out[0] - out[1]
        if params[4] > difference and state[1] != -1.0:
            state[1] = -1.0
            advice[0] = -1.0
        elif params[5] < difference and state[1] != 1.0:
            state[1] = 1.0
            advice[0] = 1.0


def tulip_adx_step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, last advice, highs, lows, closes
    count = remember(state[2:], 3, bars[0, 1], bars[0, 2], bars[0, 3])
    index = tulip_adx(state[2:], int(params[1]), count)
    out[0] = index
    if state[0] >= params[0]:
        if params[2] > index and state[1] != -1.0:
            state[1] = -1.0
            advice[0] = -1.0
        elif params[3] < index and state[1] != 1.0:
            state[1] = 1.0
            advice[0] = 1.0


def multi_step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, closes, then highs, lows, closes
    count = remember(state[1:1003], 1, bars[0, 3], 0.0, 0.0)
    remember(state[1003:], 3, bars[0, 1], bars[0, 2], bars[0, 3])
    tulip_macd(state[1:1003], int(params[2]), int(params[3]), int(params[4]), count, out)
    index = tulip_adx(state[1003:], int(params[1]), count)
    out[3] = index
    if state[0] >= params[0]:
        if index > params[5] and params[7] < out[2]:
            advice[0] = 1.0
        elif index < params[6] and params[8] > out[2]:
            advice[0] = -1.0


_LINES = (
    Indicator(name="macd", panel="own", doc="fast less slow average"),
    Indicator(name="signal", panel="own", doc="average of the MACD line"),
    Indicator(name="histogram", panel="own", doc="MACD line less signal line"),
)
_ADX = Indicator(name="adx", panel="own", doc="average directional index")
_MACD_LEVELS = (real("down", -0.025, "sell below this histogram", step=0.005),
                real("up", 0.025, "buy above this histogram", step=0.005))
_MOST = 990  # the libraries see the last 1,000 candles

STRATEGIES: Final = (
    Strategy(
        name="gekko_tulip_macd", title="Gekko tulip-macd", step=tulip_macd_step,
        doc="Gekko's MACD on Tulip's indicator, computed anew over the last 1,000 candles: buy when the histogram is "
            "above `up`, sell when it is below `down`.",
        parameters=(HISTORY, whole("fast", 10, "candles of the fast average", high=_MOST),
                    whole("slow", 21, "candles of the slow average", high=_MOST),
                    whole("signal", 9, "candles of the signal line", high=_MOST), *_MACD_LEVELS),
        indicators=_LINES, state_size=lambda params, n: 2 + native_size(1), warm_up=warm_up,
        rules=ordered("fast", "slow"), tags=("gekko", "trend"),
    ),
    Strategy(
        name="gekko_talib_macd", title="Gekko talib-macd", step=talib_macd_step,
        doc="Gekko's MACD on TA-Lib's indicator, computed anew over the last 1,000 candles: buy when the histogram is "
            "above `up`, sell when it is below `down`.",
        parameters=(HISTORY, whole("fast", 10, "candles of the fast average", low=2, high=_MOST),
                    whole("slow", 21, "candles of the slow average", low=2, high=_MOST),
                    whole("signal", 9, "candles of the signal line", high=_MOST), *_MACD_LEVELS),
        indicators=_LINES, state_size=lambda params, n: 2 + native_size(1), warm_up=warm_up,
        tags=("gekko", "trend"),
    ),
    Strategy(
        name="gekko_tulip_adx", title="Gekko tulip-adx", step=tulip_adx_step,
        doc="Gekko's ADX on Tulip's indicator, computed anew over the last 1,000 candles: buy above `up`, sell below "
            "`down`.",
        parameters=(HISTORY, whole("period", 15, "candles of the index", low=2, high=_MOST // 2),
                    real("down", 20, "sell below this", step=1), real("up", 30, "buy above this", step=1)),
        indicators=(_ADX,), state_size=lambda params, n: 2 + native_size(3), warm_up=warm_up, tags=("gekko", "trend"),
    ),
    Strategy(
        name="gekko_tulip_multi", title="Gekko tulip-multi-strat", step=multi_step,
        doc="Gekko's example of two of Tulip's indicators together: buy when ADX is above `up` and the MACD histogram "
            "above `macd_up`, sell when ADX is below `down` and the histogram below `macd_down`.",
        parameters=(HISTORY, whole("period", 2, "candles of ADX", low=2, high=_MOST // 2),
                    whole("fast", 4, "candles of the fast average", high=_MOST),
                    whole("slow", 7, "candles of the slow average", high=_MOST),
                    whole("signal", 23, "candles of the signal line", high=_MOST),
                    real("up", 24.52, "buy above this ADX", step=1), real("down", 55.74, "sell below this ADX", step=1),
                    real("macd_up", 14.498233170768081, "buy above this histogram", step=1),
                    real("macd_down", -9.65220944122072, "sell below this histogram", step=1)),
        indicators=(*_LINES, _ADX), state_size=lambda params, n: 1 + native_size(1) + native_size(3), warm_up=warm_up,
        rules=ordered("fast", "slow"), tags=("gekko", "trend"),
    ),
)
