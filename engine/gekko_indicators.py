"""Gekko's indicators one candle at a time, with its order of operations: equal to its figures to the last bit.

Used inside compiled steps like `engine.indicators`: plain functions, state is a float64 slice that starts as zeros,
the `*_size` functions tell how long it must be. Differences from the common indicators are Gekko's: an average counts
from its first value, sums are never made afresh (their rounding is part of the figures), a division by zero gives an
infinity or NaN as in JavaScript instead of an error. Functions named `tulip_*` and `talib_*` follow the two libraries
whose functions Gekko wraps: they are computed anew over the last `NATIVE` candles at every candle, so that from candle
1,001 on the first value of their averages moves along.
"""

import math
from typing import Any, Final

__all__ = [
    "gekko_cci", "gekko_dema", "gekko_ema", "gekko_ppo", "gekko_rsi", "gekko_sma", "gekko_smma", "gekko_trend",
    "gekko_tsi", "gekko_uo", "quotient", "remember", "talib_macd", "tulip_adx", "tulip_macd",
]

State = Any
"""float64 array, shape (size,)."""

NATIVE: Final = 1000
"""Candles that the wrapped libraries see."""

EMA: Final = 2
DEMA: Final = 4
PPO: Final = 8
RSI: Final = 8
TSI: Final = 10
TREND: Final = 4


def sma_size(window: int) -> int:
    return window + 3


def uo_size(first: int, second: int, third: int) -> int:
    return 2 * (first + second + third) + 18 + 1


def cci_size(history: int) -> int:
    return history + 2


def native_size(columns: int) -> int:
    return 2 + columns * NATIVE


def quotient(a: float, b: float) -> float:
    """a / b by IEEE 754 where a division by zero would raise an error."""
    if b != 0.0:
        return a / b
    if a == 0.0 or a != a:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def gekko_ema(state: State, weight: float, value: float) -> float:
    """Exponential average with factor 2 / (weight + 1); before the first value it stands at that value."""
    k = quotient(2.0, weight + 1.0)
    if state[1] == 0.0:
        state[0] = value
        state[1] = 1.0
    state[0] = value * k + state[0] * (1.0 - k)
    return state[0]


def gekko_sma(state: State, window: int, value: float) -> float:
    """Mean of the last `window` values, or of those there are. The running sum is never made afresh."""
    place = int(state[0])  # state: place in the ring, values seen (up to window), sum, ring
    state[2] += value - state[3 + place]
    state[3 + place] = value
    if state[1] < window:
        state[1] += 1.0
    place += 1
    state[0] = 0.0 if place == window else place
    return state[2] / state[1]


def gekko_smma(state: State, window: float, value: float) -> float:
    """Smoothed average: 0 until `window` values are there, then their mean m, then (m * (window - 1) + value) / window.
    """
    state[0] += 1.0  # state: values seen, result, sum
    if state[0] <= window:
        state[2] += value
        if state[0] == window:
            state[1] = state[2] / state[0]
    else:
        state[1] = quotient(state[1] * (window - 1.0) + value, window)
    return state[1]


def gekko_dema(state: State, weight: float, value: float) -> float:
    """Double exponential average: 2 * EMA - EMA of the EMA."""
    inner = gekko_ema(state[0:2], weight, value)
    outer = gekko_ema(state[2:4], weight, inner)
    return 2.0 * inner - outer


def gekko_ppo(state: State, short: float, long: float, signal: float, value: float, out: Any) -> None:
    """Percentage price oscillator into out[0:8]: short average, long average, macd, ppo, macd's signal and histogram,
    ppo's signal and histogram."""
    fast = gekko_ema(state[0:2], short, value)
    slow = gekko_ema(state[2:4], long, value)
    macd = fast - slow
    ppo = 100.0 * quotient(macd, slow)
    out[0] = fast
    out[1] = slow
    out[2] = macd
    out[3] = ppo
    out[4] = gekko_ema(state[4:6], signal, macd)
    out[5] = macd - out[4]
    out[6] = gekko_ema(state[6:8], signal, ppo)
    out[7] = ppo - out[6]


def gekko_rsi(state: State, interval: float, value: float) -> float:
    """Relative strength index from two smoothed averages; 0 at the first candle, and while nothing has moved."""
    last = state[0]  # state: last value, values seen, then two smoothed averages
    seen = state[1]
    state[0] = value
    state[1] = 1.0
    if seen == 0.0:
        return 0.0
    up = value - last if value > last else 0.0
    down = last - value if value < last else 0.0
    gain = gekko_smma(state[2:5], interval, up)
    loss = gekko_smma(state[5:8], interval, down)
    if loss == 0.0:
        return 100.0 if gain != 0.0 else 0.0
    return 100.0 - quotient(100.0, 1.0 + quotient(gain, loss))


def gekko_tsi(state: State, short: float, long: float, value: float) -> float:
    """True strength index: 100 * twice smoothed momentum / twice smoothed size of it; 0 at the first candle."""
    last = state[0]  # state: last value, values seen, then four averages
    seen = state[1]
    state[0] = value
    state[1] = 1.0
    if seen == 0.0:
        return 0.0
    momentum = value - last
    inner = gekko_ema(state[2:4], long, momentum)
    size = gekko_ema(state[4:6], long, abs(momentum))
    outer = gekko_ema(state[6:8], short, inner)
    outer_size = gekko_ema(state[8:10], short, size)
    return quotient(100.0 * outer, outer_size)


def gekko_uo(state: State, first: int, second: int, third: int, weight1: float, weight2: float, weight3: float,
             high: float, low: float, close: float) -> float:
    """Ultimate oscillator: buying pressure against true range over three windows. The close before the first candle
    counts as 0."""
    last = state[0]
    state[0] = close
    bottom = min(low, last)
    pressure = close - bottom
    reach = max(high, last) - bottom
    a = 1
    b = a + 2 * (first + 3)
    c = b + 2 * (second + 3)
    # one after another, each with its own place in the state: pressure, then reach
    r1 = quotient(gekko_sma(state[a:a + first + 3], first, pressure), gekko_sma(state[a + first + 3:b], first, reach))
    r2 = quotient(gekko_sma(state[b:b + second + 3], second, pressure),
                  gekko_sma(state[b + second + 3:c], second, reach))
    r3 = quotient(gekko_sma(state[c:c + third + 3], third, pressure),
                  gekko_sma(state[c + third + 3:c + 2 * (third + 3)], third, reach))
    return quotient(100.0 * (weight1 * r1 + weight2 * r2 + weight3 * r3), weight1 + weight2 + weight3)


def gekko_cci(state: State, constant: float, history: int, high: float, low: float, close: float) -> float:
    """Commodity channel index of the typical price; NaN while there are fewer than `history` candles."""
    place = int(state[0])  # state: place in the ring, values seen (up to history), ring
    typical = (high + close + low) / 3.0
    state[2 + place] = typical
    if state[1] < history:
        state[1] += 1.0
    place += 1
    if place == history:
        place = 0
    state[0] = place
    if state[1] < history:
        return math.nan
    total = 0.0
    for i in range(place, history):  # oldest first
        total += state[2 + i]
    for i in range(place):
        total += state[2 + i]
    mean = total / history
    off = 0.0
    for i in range(place, history):
        off += abs(state[2 + i] - mean)
    for i in range(place):
        off += abs(state[2 + i] - mean)
    return quotient(typical - mean, constant * (off / history))


def gekko_trend(state: State, persistence: float, above: bool, below: bool) -> float:
    """Gekko's common rule of trends: 1 when `above` has to be advised, -1 when `below` has, else 0.

    A condition must have held `persistence` times since the trend turned; each trend is advised once. Neither of the
    two: nothing changes, the count stays.
    """
    if not above and not below:
        return 0.0  # state: direction, duration, persisted, advised
    direction = 1.0 if above else -1.0
    if state[0] != direction:
        state[0] = direction
        state[1] = 0.0
        state[2] = 0.0
        state[3] = 0.0
    state[1] += 1.0
    if state[1] >= persistence:
        state[2] = 1.0
    if state[2] == 1.0 and state[3] == 0.0:
        state[3] = 1.0
        return direction
    return 0.0


def remember(state: State, columns: int, a: float, b: float, c: float) -> int:
    """Put up to three figures of a candle into a ring of the last `NATIVE`; the number of candles in it.

    State: place of the oldest candle, candles in the ring, then one ring a column.
    """
    count = int(state[1])
    place = int(state[0])
    if count < NATIVE:
        row = count
        count += 1
        state[1] = count
    else:
        row = place
        state[0] = 0.0 if place + 1 == NATIVE else place + 1
    state[2 + row] = a
    if columns > 1:
        state[2 + NATIVE + row] = b
    if columns > 2:
        state[2 + 2 * NATIVE + row] = c
    return count


def tulip_macd(state: State, fast: int, slow: int, signal: int, count: int, out: Any) -> None:
    """Tulip's MACD over the ring in `state` into out[0:3]: macd, signal, histogram; NaN for fewer than `slow` values.

    The averages begin at the first value with factors 2 / (n + 1), but exactly 0.15 and 0.075 for 12 and 26; signal
    begins at the first macd.
    """
    if count < slow:
        return
    short_part = 2.0 / (fast + 1.0)
    long_part = 2.0 / (slow + 1.0)
    if fast == 12 and slow == 26:
        short_part = 0.15
        long_part = 0.075
    part = 2.0 / (signal + 1.0)
    place = int(state[0])
    short = state[2 + place]
    long = short
    line = 0.0
    smooth = 0.0
    for i in range(count):
        place_i = place + i
        if place_i >= NATIVE:
            place_i -= NATIVE
        value = state[2 + place_i]
        if i > 0:
            short = (value - short) * short_part + short
            long = (value - long) * long_part + long
        line = short - long
        if i == slow - 1:
            smooth = line
        if i >= slow - 1:
            smooth = (line - smooth) * part + smooth
    out[0] = line
    out[1] = smooth
    out[2] = line - smooth


def tulip_adx(state: State, period: int, count: int) -> float:
    """Tulip's average directional index over the ring of high, low, close in `state`; NaN below 2 * period - 1 candles.

    Wilder's sums without dividing by the period; the first value is the mean of the first `period` values of DX.
    """
    if count < 2 * period - 1:
        return math.nan
    keep = (period - 1.0) / period
    part = 1.0 / period
    reach = 0.0
    plus = 0.0
    minus = 0.0
    index = 0.0
    place = int(state[0])
    for i in range(1, count):
        now = place + i
        if now >= NATIVE:
            now -= NATIVE
        then = NATIVE - 1 if now == 0 else now - 1
        high = state[2 + now]
        low = state[2 + NATIVE + now]
        close = state[2 + 2 * NATIVE + then]
        true = max(high - low, abs(high - close), abs(low - close))
        up = high - state[2 + then]
        down = state[2 + NATIVE + then] - low
        if up < 0.0:
            up = 0.0
        elif up > down:
            down = 0.0
        if down < 0.0:
            down = 0.0
        elif down > up:
            up = 0.0
        if i < period:
            reach += true
            plus += up
            minus += down
            if i < period - 1:
                continue
        else:
            reach = reach * keep + true
            plus = plus * keep + up
            minus = minus * keep + down
        a = quotient(plus, reach)
        b = quotient(minus, reach)
        dx = quotient(abs(a - b), a + b) * 100.0
        if i <= 2 * period - 2:
            index += dx
        else:
            index = index * keep + dx
    return index * part


def talib_macd(state: State, fast: int, slow: int, signal: int, count: int, out: Any) -> None:
    """TA-Lib's MACD over the ring in `state` into out[0:3]: line, signal, histogram.

    NaN for fewer than slow + signal - 1 values. Both averages begin at value `slow` with the mean of their last values
    there, the signal with the mean of the first `signal` values of the line. A fast period longer than the slow one
    changes places with it.
    """
    if slow < fast:
        fast, slow = slow, fast
    if count < slow + signal - 1:
        return
    place = int(state[0])
    fast_part = 2.0 / (fast + 1)
    slow_part = 2.0 / (slow + 1)
    part = 2.0 / (signal + 1)
    short = 0.0
    long = 0.0
    line = 0.0
    smooth = 0.0
    for i in range(count):
        now = place + i
        if now >= NATIVE:
            now -= NATIVE
        value = state[2 + now]
        if i < slow:
            long += value
            if i >= slow - fast:
                short += value
            if i < slow - 1:
                continue
            long = long / slow
            short = short / fast
        else:
            short = (value - short) * fast_part + short
            long = (value - long) * slow_part + long
        line = short - long
        if i < slow + signal - 1:
            smooth += line
            if i == slow + signal - 2:
                smooth = smooth / signal
        else:
            smooth = (line - smooth) * part + smooth
    out[0] = line
    out[1] = smooth
    out[2] = line - smooth
