"""Gekko's strategies for trying things out: noop, custom, and the two DEBUG ones."""

import math
from typing import Any, Final

from engine.strategies.base import Indicator, Parameter, Strategy
from engine.strategies.gekko.settings import HISTORY, real, warm_up


def noop(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0


def custom(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, the random number's seed, last advice
    if state[0] == 1.0:
        state[2] = 1.0
        seed = int(params[1])
        number = seed
        for _ in range(16):  # squares, because the sequences of proportional beginnings are proportional
            number = (number * number + seed + 12345) % 2147483647
        state[1] = number if number != 0 else 1
    state[1] = (state[1] * 48271.0) % 2147483647.0  # exact: below 2 ** 53
    out[0] = state[1] / 2147483647.0
    if state[0] >= params[0] and out[0] < params[2]:
        state[2] = -state[2]
        advice[0] = state[2]


def toggle(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, times asked
    if state[0] < params[0]:
        return
    turn = int(state[1]) % 6
    state[1] += 1.0
    if turn == 0:
        advice[0] = -1.0
    elif turn == 3:
        advice[0] = 1.0


def single(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    state[0] += 1.0  # state: candles, stage (0 before, 1 holding, 2 stopped), the stop, its distance
    if state[0] < params[0]:
        return
    price = bars[0, 3]
    if state[1] == 0.0:
        state[1] = 1.0
        state[3] = params[1] / 100.0 * price
        state[2] = price - state[3]
        advice[0] = 1.0
    elif state[1] == 1.0 and params[1] > 0.0:
        if price > state[2] + state[3]:
            state[2] = price - state[3]
        if price <= state[2]:
            state[1] = 2.0
            advice[0] = -1.0
    out[0] = state[2] if state[1] == 1.0 and params[1] > 0.0 else math.nan


STRATEGIES: Final = (
    Strategy(name="gekko_noop", title="Gekko noop", step=noop, doc="Gekko's noop: never advises anything.",
             parameters=(HISTORY,), warm_up=warm_up, tags=("gekko", "example")),
    Strategy(
        name="gekko_custom", title="Gekko custom", step=custom,
        doc="Gekko's example of a strategy of one's own: at random, on every tenth candle or so, sell, then buy, and "
            "so on. Here the random numbers come from `seed` (Lehmer's generator, factor 48271 modulo 2^31 - 1, "
            "begun at a hash of the seed), one a candle, so that a run can be made again; the original's cannot.",
        parameters=(HISTORY,
                    Parameter(name="seed", type="int", default=1, low=0, high=2_000_000_000, step=1,
                              doc="where the random numbers begin"),
                    real("chance", 0.1, "chance of an advice on a candle", low=0, high=1, step=0.01)),
        indicators=(Indicator(name="random", panel="own", doc="the candle's random number, 0..1"),),
        state_size=lambda params, n: 3, warm_up=warm_up, tags=("gekko", "example"),
    ),
    Strategy(
        name="gekko_debug_toggle", title="Gekko DEBUG_toggle-advice", step=toggle,
        doc="Gekko's DEBUG_toggle-advice: sells and buys in turn, every third candle.",
        parameters=(HISTORY,), state_size=lambda params, n: 2, warm_up=warm_up, tags=("gekko", "example"),
    ),
    Strategy(
        name="gekko_debug_single", title="Gekko DEBUG_single-advice", step=single,
        doc="Gekko's DEBUG_single-advice: buys once, with a trailing stop. Here the stop looks at the strategy's "
            "candles; with fill model gekko it looks at the candles they are made of, as in the original.",
        parameters=(HISTORY, real("trail", 0.5, "percent between price and stop; 0: no stop", low=0, high=100)),
        indicators=(Indicator(name="stop", doc="price at which it sells"),),
        state_size=lambda params, n: 4, warm_up=warm_up, tags=("gekko", "example"),
    ),
)
