"""Gekko's strategies made of moving averages: MACD, PPO, DEMA, TMA."""

from typing import Any, Final

from engine.gekko_indicators import (
    DEMA,
    EMA,
    PPO,
    TREND,
    gekko_dema,
    gekko_ema,
    gekko_ppo,
    gekko_sma,
    gekko_trend,
    sma_size,
)
from engine.strategies.base import Indicator, Strategy
from engine.strategies.gekko.settings import HISTORY, persistence, real, warm_up, weight, whole


def macd(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, three averages
    close = bars[0, 3]
    difference = gekko_ema(state[5:7], params[1], close) - gekko_ema(state[7:9], params[2], close)
    result = difference - gekko_ema(state[9:11], params[3], difference)
    out[0] = result
    if state[0] >= params[0]:
        said = gekko_trend(state[1:5], params[6], result > params[5], result < params[4])
        if said != 0.0:
            advice[0] = said


def ppo(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, the oscillator
    gekko_ppo(state[5:13], params[1], params[2], params[3], bars[0, 3], out)
    if state[0] >= params[0]:
        result = out[3] - out[6]
        said = gekko_trend(state[1:5], params[6], result > params[5], result < params[4])
        if said != 0.0:
            advice[0] = said


def dema(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, double average, simple average
    close = bars[0, 3]
    out[0] = gekko_dema(state[5:9], params[1], close)
    out[1] = gekko_sma(state[9:], int(params[1]), close)
    if state[0] >= params[0]:
        difference = out[1] - out[0]
        said = gekko_trend(state[1:5], 0.0, difference > params[3], difference < params[2])
        if said != 0.0:
            advice[0] = said


def tma(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, three averages
    close = bars[0, 3]
    place = 1
    for i in range(3):
        window = int(params[1 + i])
        own = state[place:place + window + 3]
        gekko_sma(own, window, close)
        out[i] = gekko_sma(own, window, close)  # each candle counts twice in Gekko
        place += window + 3
    if state[0] >= params[0]:
        short, medium, long = out[0], out[1], out[2]
        if short > medium and medium > long:
            advice[0] = 1.0
        elif (short < medium and medium > long) or (short > medium and medium < long):
            advice[0] = -1.0


_MACD = (weight("short", 10, "weight of the fast average"), weight("long", 21, "weight of the slow average"),
         weight("signal", 9, "weight of the signal line"))

STRATEGIES: Final = (
    Strategy(
        name="gekko_macd", title="Gekko MACD", step=macd,
        doc="Gekko's MACD: long when the histogram (fast less slow exponential average, less its signal line) has been "
            "above `up` for `persistence` candles, sell when it has been below `down`.",
        parameters=(HISTORY, *_MACD, real("down", -0.025, "sell below this", step=0.005),
                    real("up", 0.025, "buy above this", step=0.005), persistence(1)),
        indicators=(Indicator(name="macd", panel="own", doc="difference of the averages less its signal line"),),
        state_size=lambda params, n: 1 + TREND + 3 * EMA, warm_up=warm_up, tags=("gekko", "trend"),
    ),
    Strategy(
        name="gekko_ppo", title="Gekko PPO", step=ppo,
        doc="Gekko's percentage price oscillator: long when PPO less its signal line has been above `up` for "
            "`persistence` candles, sell when it has been below `down`.",
        parameters=(HISTORY, weight("short", 12, "weight of the fast average"),
                    weight("long", 26, "weight of the slow average"), weight("signal", 9, "weight of the signal lines"),
                    real("down", -0.025, "sell below this", step=0.005),
                    real("up", 0.025, "buy above this", step=0.005), persistence(2)),
        indicators=(
            Indicator(name="shortEMA", doc="fast exponential average"),
            Indicator(name="longEMA", doc="slow exponential average"),
            Indicator(name="macd", panel="own", doc="fast less slow average"),
            Indicator(name="ppo", panel="own", doc="macd in percent of the slow average"),
            Indicator(name="MACDsignal", panel="own", doc="exponential average of macd"),
            Indicator(name="MACDhist", panel="own", doc="macd less its signal"),
            Indicator(name="PPOsignal", panel="own", doc="exponential average of ppo"),
            Indicator(name="PPOhist", panel="own", doc="ppo less its signal"),
        ),
        state_size=lambda params, n: 1 + TREND + PPO, warm_up=warm_up, tags=("gekko", "trend"),
    ),
    Strategy(
        name="gekko_dema", title="Gekko DEMA", step=dema,
        doc="Gekko's DEMA: long when the simple average is more than `up` above the double exponential average, sell "
            "when it is more than `down` below. (So it buys while the faster average lags: as the original does.)",
        parameters=(HISTORY, whole("weight", 21, "candles of the averages"),
                    real("down", -0.025, "sell below this difference", step=0.005),
                    real("up", 0.025, "buy above this difference", step=0.005)),
        indicators=(Indicator(name="dema", doc="double exponential average"),
                    Indicator(name="sma", doc="simple average")),
        state_size=lambda params, n: 1 + TREND + DEMA + sma_size(int(params["weight"])), warm_up=warm_up,
        tags=("gekko", "trend"),
    ),
    Strategy(
        name="gekko_tma", title="Gekko TMA", step=tma,
        doc="Gekko's triple moving average: long while short > medium > long average; sell when the short one crosses "
            "below the medium one, or rises above it while that is below the long one. Every close counts twice in the "
            "averages, as in the original.",
        parameters=(HISTORY, whole("short", 7, "values in the short average"),
                    whole("medium", 25, "values in the medium average"),
                    whole("long", 99, "values in the long average")),
        indicators=(Indicator(name="short", doc="short average"), Indicator(name="medium", doc="medium average"),
                    Indicator(name="long", doc="long average")),
        state_size=lambda params, n: 1 + sum(sma_size(int(params[key])) for key in ("short", "medium", "long")),
        warm_up=warm_up, tags=("gekko", "trend"),
    ),
)
