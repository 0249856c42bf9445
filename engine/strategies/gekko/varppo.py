"""Gekko's varPPO: a momentum index judged by thresholds that move with the PPO histogram."""

from typing import Any, Final

from engine.gekko_indicators import (
    PPO,
    RSI,
    TREND,
    TSI,
    gekko_ppo,
    gekko_rsi,
    gekko_trend,
    gekko_tsi,
    gekko_uo,
    uo_size,
)
from engine.strategies.base import Indicator, Parameter, Strategy
from engine.strategies.gekko.settings import HISTORY, persistence, real, warm_up, weight, whole

MOMENTUM: Final = ("TSI", "UO", "RSI")


def varppo(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, trend, the oscillator, the momentum
    gekko_ppo(state[5:13], params[1], params[2], params[3], bars[0, 3], out)
    value = 0.0
    if params[4] == 0.0:
        value = gekko_tsi(state[13:23], params[9], params[10], bars[0, 3])
    elif params[4] == 1.0:
        value = gekko_uo(state[13:], int(params[12]), int(params[14]), int(params[16]), params[11], params[13],
                         params[15], bars[0, 1], bars[0, 2], bars[0, 3])
    else:
        value = gekko_rsi(state[13:21], params[17], bars[0, 3])
    out[8] = value
    if state[0] < params[0]:
        return
    if params[4] == 2.0 and params[18] == 0.0:
        return
    histogram = out[7]
    low = params[7] + histogram * params[5]
    high = params[8] + histogram * params[6]
    below = value < low
    said = gekko_trend(state[1:5], params[19], below, not below and value > high)
    if said != 0.0:
        advice[0] = said


STRATEGIES: Final = (
    Strategy(
        name="gekko_varppo", title="Gekko varPPO", step=varppo,
        doc="Gekko's varPPO: buy when the momentum is below low + PPO histogram * weight_low for more candles than "
            "`persistence` asks, sell when it is above high + PPO histogram * weight_high. In Gekko the momentum RSI "
            "never advises; here it does unless `rsi_works` is off.",
        parameters=(
            HISTORY, weight("short", 12, "weight of PPO's fast average"),
            weight("long", 26, "weight of PPO's slow average"), weight("signal", 9, "weight of PPO's signal lines"),
            Parameter(name="momentum", type="choice", default="TSI", choices=MOMENTUM, doc="the momentum index"),
            real("weight_low", 120, "how the low threshold moves with the PPO histogram", step=1),
            real("weight_high", -120, "how the high threshold moves with the PPO histogram", step=1),
            real("low", -25, "low threshold of the momentum", step=1),
            real("high", 25, "high threshold of the momentum", step=1),
            weight("tsi_short", 13, "TSI: weight of the outer average"),
            weight("tsi_long", 25, "TSI: weight of the inner average"),
            real("first_weight", 4, "UO: weight of the first window", step=1),
            whole("first_period", 7, "UO: candles of the first window"),
            real("second_weight", 2, "UO: weight of the second window", step=1),
            whole("second_period", 14, "UO: candles of the second window"),
            real("third_weight", 1, "UO: weight of the third window", step=1),
            whole("third_period", 28, "UO: candles of the third window"),
            whole("interval", 14, "RSI: candles of the index"),
            Parameter(name="rsi_works", type="bool", default=True, doc="off: momentum RSI never advises, as in Gekko"),
            persistence(0),
        ),
        indicators=(
            Indicator(name="shortEMA", doc="fast exponential average"),
            Indicator(name="longEMA", doc="slow exponential average"),
            Indicator(name="macd", panel="own", doc="fast less slow average"),
            Indicator(name="ppo", panel="own", doc="macd in percent of the slow average"),
            Indicator(name="MACDsignal", panel="own", doc="exponential average of macd"),
            Indicator(name="MACDhist", panel="own", doc="macd less its signal"),
            Indicator(name="PPOsignal", panel="own", doc="exponential average of ppo"),
            Indicator(name="PPOhist", panel="own", doc="ppo less its signal"),
            Indicator(name="momentum", panel="own", doc="the momentum index"),
        ),
        state_size=lambda params, n: 1 + TREND + PPO + max(TSI, RSI, uo_size(
            int(params["first_period"]), int(params["second_period"]), int(params["third_period"]))),
        warm_up=warm_up, tags=("gekko", "mean reversion"),
    ),
)
