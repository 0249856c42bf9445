"""Moving-average pullback: in a trend the price comes back to its average and turns; the alert begins past the turn."""

from collections.abc import Mapping
from typing import Any, Final

from engine.detectors.base import LEVELS, common, preset
from engine.errors import Problem
from engine.indicators import ema, ema_size, mean_size, rolling_mean
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    fast, slow, window = int(params[3]), int(params[4]), int(params[5])
    risk, reward = params[6], params[7]
    high, low, close = bars[0, 1], bars[0, 2], bars[0, 3]
    # state: bars seen, last close, armed (+1: a bar stood clear above the fast average, -1: below), lowest low and
    # highest high of the pullback
    a = 5
    b = a + 2
    c = b + 2
    true = high - low if state[0] == 0.0 else max(high, state[1]) - min(low, state[1])
    quick = ema(state[a:b], fast, close)
    calm = ema(state[b:c], slow, close)
    span = rolling_mean(state[c:], window, true)
    if quick == quick and calm == calm and span == span and span > 0.0:
        out[3] = quick
        out[4] = calm
        trend = 1.0 if quick > calm else -1.0
        if trend != state[2]:
            state[2] = 0.0
        if trend > 0.0:
            if low > quick:
                state[2] = 1.0
                state[3] = low
            elif state[2] > 0.0:
                state[3] = min(state[3], low)
                if close > quick and close > calm:
                    advice[0] = 1.0
                    out[0] = high
                    out[2] = state[3] - risk * span
                    out[1] = high + reward * (high - out[2])
                    state[2] = 0.0
        elif high < quick:
            state[2] = -1.0
            state[4] = high
        elif state[2] < 0.0:
            state[4] = max(state[4], high)
            if close < quick and close < calm:
                advice[0] = -1.0
                out[0] = low
                out[2] = state[4] + risk * span
                out[1] = low - reward * (out[2] - low)
                state[2] = 0.0
    state[1] = close
    state[0] += 1.0


def why(direction: str, params: Mapping[str, Any], out: Mapping[str, float]) -> str:
    trend, turn = ("rising", "above") if direction == "BUY" else ("falling", "below")
    return (f"{trend} trend ({params['fast']} against {params['slow']} bars): pulled back to the average at "
            f"{out['fast_average']:g} and closed {turn} it again")


SOURCES: Final = (
    "L. Connors and L. Raschke, Street Smarts (1995): the pullback to the 20-bar exponential average, entered above "
    "the turning bar's high",
    "J. W. Wilder, New Concepts in Technical Trading Systems (1978): true range",
)

_STRATEGY: Final = Strategy(
    name="ma_pullback",
    title="Moving-average pullback",
    doc="With the fast average above the slow one, and after a bar that stood clear above it, a bar that touches the "
        "fast average and closes above it again gives an alert at its high; the stop lies below the pullback's low. "
        "Mirrored for falling trends.",
    step=step,
    parameters=(
        *common(patience=3, trail=1.0, tight=0.25),
        Parameter(name="fast", type="int", default=20, low=2, high=1000, step=1,
                  doc="bars of the fast exponential average (Raschke: 20)"),
        Parameter(name="slow", type="int", default=50, low=3, high=5000, step=1,
                  doc="bars of the slow exponential average, which names the trend"),
        Parameter(name="window", type="int", default=14, low=2, high=2000, step=1,
                  doc="bars of the average true range, a plain mean"),
        Parameter(name="risk", type="float", default=0.5, low=0.0, high=20.0, step=0.25,
                  doc="how far below the pullback's low the stop lies, in average true ranges"),
        Parameter(name="reward", type="float", default=2.0, low=0.1, high=50.0, step=0.25,
                  doc="start to target, in R (start to stop)"),
    ),
    indicators=(*LEVELS, Indicator(name="fast_average", doc="the fast exponential average"),
                Indicator(name="slow_average", doc="the slow exponential average")),
    state_size=lambda params, n: 5 + 2 * ema_size() + mean_size(params["window"]),
    warm_up=lambda params: max(params["slow"], params["window"]) + 1,
    rules=lambda params: [] if params["fast"] < params["slow"] else [
        Problem("params.fast", "the fast average is not faster than the slow one", "make fast smaller than slow")],
    tags=("trend", "pullback"),
)

SHORT: Final = preset(_STRATEGY, "short", bar=300, why=why, sources=SOURCES)
LONG: Final = preset(_STRATEGY, "long", bar=3600, why=why, sources=SOURCES, slow=100, patience=6, reward=3.0,
                     trail=1.5)
