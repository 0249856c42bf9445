"""Buy and hold."""

from typing import Any

from engine.strategies.base import Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    if state[0] == 0.0:
        state[0] = 1.0
        advice[0] = 1.0


STRATEGY = Strategy(
    name="buy_and_hold",
    title="Buy and hold",
    doc="Buys after the first bar of each market and never sells. The line that every other strategy has to beat.",
    step=step,
    warm_up=lambda params: 1,
    tags=("baseline",),
)
