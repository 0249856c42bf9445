"""Rotation into the strongest markets."""

from typing import Any

from engine.indicators import change_over, change_size
from engine.strategies.base import Indicator, Parameter, Strategy


def step(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    lookback, top, every, positive = int(params[0]), int(params[1]), int(params[2]), params[3] > 0.0
    n = bars.shape[0]
    # state: bars since the last rebalancing (-1 + 1 until the first), then n returns, then a ring for every symbol
    size = lookback + 3
    ranked = 0
    total = 0.0
    for i in range(n):
        begin = 1 + n + i * size
        if bars[i, 3] == bars[i, 3]:
            state[1 + i] = change_over(state[begin:begin + size], lookback, bars[i, 3])
        elif state[begin + 1] < lookback:
            state[1 + i] = bars[i, 3]  # NaN: not enough bars of its own yet
        if state[1 + i] == state[1 + i]:
            ranked += 1
            total += state[1 + i]
    if ranked == 0:
        return
    out[0] = total / ranked
    due = state[0] == 0.0
    state[0] += 1.0
    if state[0] >= every:
        state[0] = 0.0
    if not due:
        return
    for i in range(n):
        mine = state[1 + i]
        better = 0
        for j in range(n):  # ties go to the market named first
            if state[1 + j] > mine or (state[1 + j] == mine and j < i):
                better += 1
        held = mine == mine and better < top and (mine > 0.0 or not positive)
        advice[i] = 1.0 / top if held else 0.0


STRATEGY = Strategy(
    name="momentum_rotation",
    title="Momentum rotation",
    doc="Ranks all markets by their return over the lookback and holds the best few in equal parts, looking again "
        "every so many bars.",
    step=step,
    parameters=(
        Parameter(name="lookback", type="int", default=90, low=1, high=5000, step=5, doc="bars of the ranking return"),
        Parameter(name="top", type="int", default=3, low=1, high=500, step=1, doc="how many markets to hold"),
        Parameter(name="every", type="int", default=20, low=1, high=5000, step=1, doc="bars between rebalancings"),
        Parameter(name="positive", type="bool", default=True, doc="hold only markets that rose over the lookback"),
    ),
    indicators=(Indicator(name="breadth", panel="own", doc="mean lookback return of all ranked markets"),),
    scope="portfolio",
    state_size=lambda params, n: 1 + n + n * change_size(params["lookback"]),
    warm_up=lambda params: params["lookback"] + 1,
    tags=("momentum", "rotation"),
)
