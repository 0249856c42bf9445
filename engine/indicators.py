"""Indicators one bar at a time: each takes its own slice of state and the newest value, and returns its newest value.

They are plain Python functions that run as they are and are compiled into the steps that use them. State is a float64
slice that starts as zeros; the `*_size` functions tell how long it must be. A value is NaN until there is enough data.
The same calls in the same order give the same bits, live and in a backtest.

Means and deviations keep sums of differences from an anchor near the values, and start afresh once every window: so
rounding does not grow with the length of the run, and a price that stands still has exactly its own mean.
"""

import math
from typing import Any

__all__ = ["change_over", "ema", "rolling_deviation", "rolling_highest", "rolling_lowest", "rolling_mean", "wilder_rsi"]

State = Any
"""float64 array, shape (size,)."""


def mean_size(window: int) -> int:
    return window + 4


def deviation_size(window: int) -> int:
    return window + 5


def ema_size() -> int:
    return 2


def extreme_size(window: int) -> int:
    return window + 3


def rsi_size() -> int:
    return 4


def change_size(lookback: int) -> int:
    return lookback + 3


def rolling_mean(state: State, window: int, value: float) -> float:
    """Mean of the last `window` values (simple moving average)."""
    place = int(state[0])  # state: place in the ring, values seen (up to window), anchor, sum of (value - anchor), ring
    if state[1] == 0.0:
        state[2] = value
    if state[1] >= window:
        state[3] -= state[4 + place] - state[2]
    else:
        state[1] += 1.0
    state[4 + place] = value
    state[3] += value - state[2]
    place += 1
    if place == window:
        place = 0
        state[2] = value
        total = 0.0
        for i in range(window):
            total += state[4 + i] - value
        state[3] = total
    state[0] = place
    if state[1] < window:
        return math.nan
    return state[2] + state[3] / window


def rolling_deviation(state: State, window: int, value: float) -> float:
    """Standard deviation of the last `window` values, divided by `window` (population), as Bollinger's bands use it."""
    place = int(state[0])  # state: as rolling_mean, then the sum of squares of (value - anchor), then the ring
    if state[1] == 0.0:
        state[2] = value
    if state[1] >= window:
        gone = state[5 + place] - state[2]
        state[3] -= gone
        state[4] -= gone * gone
    else:
        state[1] += 1.0
    state[5 + place] = value
    come = value - state[2]
    state[3] += come
    state[4] += come * come
    place += 1
    if place == window:
        place = 0
        state[2] = value
        total = 0.0
        squares = 0.0
        for i in range(window):
            difference = state[5 + i] - value
            total += difference
            squares += difference * difference
        state[3] = total
        state[4] = squares
    state[0] = place
    if state[1] < window:
        return math.nan
    mean = state[3] / window
    return math.sqrt(max(state[4] / window - mean * mean, 0.0))


def ema(state: State, window: int, value: float) -> float:
    """Exponential moving average with weight 2 / (window + 1), begun at the first value; NaN for window - 1 values."""
    if state[1] == 0.0:
        state[0] = value
    else:
        state[0] += (value - state[0]) * 2.0 / (window + 1.0)
    state[1] += 1.0
    return state[0] if state[1] >= window else math.nan


def rolling_highest(state: State, window: int, value: float) -> float:
    """Highest of the last `window` values."""
    place = int(state[0])  # state: place in the ring, values seen (up to window), highest, ring
    full = state[1] >= window
    gone = state[3 + place]
    state[3 + place] = value
    if not full:
        state[2] = value if state[1] == 0.0 else max(state[2], value)
        state[1] += 1.0
    elif value >= state[2]:
        state[2] = value
    elif gone == state[2]:
        highest = value
        for i in range(window):
            highest = max(highest, state[3 + i])
        state[2] = highest
    place += 1
    state[0] = 0 if place == window else place
    return state[2] if state[1] >= window else math.nan


def rolling_lowest(state: State, window: int, value: float) -> float:
    """Lowest of the last `window` values."""
    return -rolling_highest(state, window, -value)


def wilder_rsi(state: State, window: int, value: float) -> float:
    """Relative strength index 0..100 with Wilder's smoothing (J. W. Wilder, New Concepts in Technical Trading Systems,
    1978): the first averages are the means of the first `window` changes. 50 when nothing moved."""
    seen = state[0]  # state: values seen, last value, average gain, average loss
    change = value - state[1]
    state[1] = value
    state[0] = seen + 1.0
    if seen == 0.0:
        return math.nan
    gain = max(change, 0.0)
    loss = max(-change, 0.0)
    if seen <= window:
        state[2] += gain / window
        state[3] += loss / window
        if seen < window:
            return math.nan
    else:
        state[2] += (gain - state[2]) / window
        state[3] += (loss - state[3]) / window
    moved = state[2] + state[3]
    return 100.0 * state[2] / moved if moved > 0.0 else 50.0


def change_over(state: State, lookback: int, value: float) -> float:
    """Return of the value over `lookback` values: value / value then - 1; NaN where the older one is not positive."""
    place = int(state[0])  # state: place in the ring, values seen (up to lookback), unused, ring
    full = state[1] >= lookback
    then = state[3 + place]
    state[3 + place] = value
    if not full:
        state[1] += 1.0
    place += 1
    state[0] = 0 if place == lookback else place
    return value / then - 1.0 if full and then > 0.0 else math.nan
