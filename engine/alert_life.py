"""The life of an alert on candles or ticks: one state machine, written once for backtests, live detection and tests.

    working -> onGoing -> closed
        \\-> aborted

A life is a vector of floats (see the positions below), moved on by `advance`, one candle at a time, in order of time.
A tick is a candle whose four prices are the tick's and whose end is its time. In a SELL everything is mirrored; the
table speaks of a BUY. What is certain within a candle is used; where its prices allow several stories, the worst for
whoever followed the alert is told.

    state    what the candle shows, first match counts           becomes   price   instant      reason
    any      the candle opens before the last one's end          (the caller leaves late candles out)
    working  it opens at or after the alert's expiry             aborted   -       the expiry   timed out
    working  it opens at or below the stop                       aborted   -       its open     invalidated
    working  it opens at or above the target                     aborted   -       its open     missed
    working  it opens at the start, or beyond it as seen from    onGoing   open    its open
             where the price stood when the alert was detected
    working  its range reaches the start                         onGoing   start   its end
    working  it reaches the target, never the start              aborted   -       its end      missed
    working  it reaches the stop, never the start                aborted   -       its end      invalidated
    working  it ends at or after the expiry                      aborted   -       the expiry   timed out
    onGoing  (in the candle of the start) it reaches the stop    closed    stop    its end      stopped
    onGoing  (in the candle of the start) its close counts as the best price since; its high may be from before
    onGoing  it opens at or below the level                      closed    open    its open     stopped, trailed
    onGoing  it reaches the level                                closed    level   its end      stopped, trailed
    onGoing  without trailing: it opens at or above the target   closed    open    its open     target
    onGoing  without trailing: it reaches the target             closed    target  its end      target
    onGoing  its high counts as the best price since; the level follows, for the candles after this one
    closed, aborted   nothing changes any more

The level is the stop at first. With trailing it is the best price since the start less the trailing distance, as soon
as that is not below the entry; once the best price has reached the target, less the tight distance. It only rises.
So with the level and the target (or a new best price) in one candle the level counts: the pessimistic order.
Missing candles change nothing by themselves: the next one that comes is judged by these rules, its open first.
A restart changes nothing: the vector is all there is to a life.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

__all__ = ["LIFE", "REASONS", "STATE_NAMES", "advance", "begin", "gain", "life_of", "switch_off"]

STATE: Final = 0  # 0 none, 1 working, 2 onGoing, 3 closed, 4 aborted
SIDE: Final = 1  # +1 BUY, -1 SELL
START: Final = 2
TARGET: Final = 3
STOP: Final = 4
TRAILING: Final = 5  # distance in price units, NaN: the profit is taken at the target
TIGHT: Final = 6  # distance once the target was reached
APPROACH: Final = 7  # +1: the price has to rise to the start (mirrored for SELL), -1: to come back to it
EXPIRES_AT: Final = 8  # microseconds, inf: never
DETECTED_AT: Final = 9
ENTRY: Final = 10
STARTED_AT: Final = 11
BEST: Final = 12
LEVEL: Final = 13
EXIT: Final = 14
ENDED_AT: Final = 15
REASON: Final = 16
LIFE: Final = 17
"""How many floats a life takes. Microseconds since 1970 stay below 2**53: floats hold them exactly."""

NONE: Final = 0.0
WORKING: Final = 1.0
ON_GOING: Final = 2.0
CLOSED: Final = 3.0
ABORTED: Final = 4.0
STATE_NAMES: Final = ("", "working", "onGoing", "closed", "aborted")

STOPPED: Final = 1.0
TRAILED: Final = 2.0
AT_TARGET: Final = 3.0
INVALIDATED: Final = 4.0
MISSED: Final = 5.0
TIMED_OUT: Final = 6.0
SWITCHED_OFF: Final = 7.0
REASONS: Final = ("", "stop hit", "profit kept by the trailing stop", "target reached",
                  "invalidated: the stop was passed before the start",
                  "missed: the target was reached before the start",
                  "timed out: the start was not reached in time", "detection was switched off")

Vector = Any
"""float64 array, shape (LIFE,)."""


def begin(life: Vector, side: float, start: float, target: float, stop: float, trailing: float, tight: float,
          price: float, detected_at: float, expires_at: float) -> None:
    """Make `life` that of an alert detected now, the price standing at `price`."""
    life[STATE] = WORKING
    life[SIDE] = side
    life[START] = start
    life[TARGET] = target
    life[STOP] = stop
    life[TRAILING] = trailing
    life[TIGHT] = tight
    life[APPROACH] = 1.0 if side * start > side * price else -1.0
    life[EXPIRES_AT] = expires_at
    life[DETECTED_AT] = detected_at
    life[ENTRY] = math.nan
    life[STARTED_AT] = math.nan
    life[BEST] = math.nan
    life[LEVEL] = stop
    life[EXIT] = math.nan
    life[ENDED_AT] = math.nan
    life[REASON] = 0.0


def advance(life: Vector, time: float, end: float, open: float, high: float, low: float, close: float) -> None:
    """Move the life on by one candle that opens at `time` and ends at `end` (microseconds)."""
    state = life[STATE]
    if state != WORKING and state != ON_GOING:
        return
    side = life[SIDE]
    highest = max(open, high, close)  # stored candles may have a high below their open
    lowest = min(open, low, close)
    # As a BUY sees it: a SELL's prices are their own negatives, and its low is its high.
    first, last = side * open, side * close
    up = highest if side > 0.0 else -lowest
    down = lowest if side > 0.0 else -highest
    start, target, stop = side * life[START], side * life[TARGET], side * life[STOP]
    if state == WORKING:
        approach = life[APPROACH]
        if time >= life[EXPIRES_AT]:
            _abort(life, life[EXPIRES_AT], TIMED_OUT)
        elif first <= stop:
            _abort(life, time, INVALIDATED)
        elif first >= target:
            _abort(life, time, MISSED)
        elif approach * (first - start) >= 0.0:
            _start(life, first, time)
        elif (approach > 0.0 and up >= start) or (approach < 0.0 and down <= start):
            _start(life, start, end)
        elif up >= target:
            _abort(life, end, MISSED)
        elif down <= stop:
            _abort(life, end, INVALIDATED)
        elif end >= life[EXPIRES_AT]:
            _abort(life, life[EXPIRES_AT], TIMED_OUT)
        if life[STATE] == ON_GOING:
            if down <= stop:
                _close(life, stop, end, STOPPED)
            elif life[TRAILING] != life[TRAILING] and last >= target:
                _close(life, target, end, AT_TARGET)
            else:
                _raise(life, max(side * life[ENTRY], last), target)
        return
    level = side * life[LEVEL]
    if down <= level:
        reason = TRAILED if level > stop else STOPPED
        if first <= level:
            _close(life, first, time, reason)
        else:
            _close(life, level, end, reason)
    elif life[TRAILING] != life[TRAILING] and up >= target:
        if first >= target:
            _close(life, first, time, AT_TARGET)
        else:
            _close(life, target, end, AT_TARGET)
    else:
        _raise(life, up, target)


def switch_off(life: Vector, price: float, at: float) -> None:
    """End an alert by hand: a working one is aborted, an ongoing one closed at `price`."""
    if life[STATE] == WORKING:
        _abort(life, at, SWITCHED_OFF)
    elif life[STATE] == ON_GOING:
        _close(life, life[SIDE] * price, at, SWITCHED_OFF)


def _start(life: Vector, price: float, at: float) -> None:
    life[STATE] = ON_GOING
    life[ENTRY] = life[SIDE] * price
    life[STARTED_AT] = at
    life[BEST] = life[ENTRY]


def _abort(life: Vector, at: float, reason: float) -> None:
    life[STATE] = ABORTED
    life[ENDED_AT] = at
    life[REASON] = reason


def _close(life: Vector, price: float, at: float, reason: float) -> None:
    life[STATE] = CLOSED
    life[EXIT] = life[SIDE] * price
    life[ENDED_AT] = at
    life[REASON] = reason


def _raise(life: Vector, price: float, target: float) -> None:
    """A best price, as a BUY sees it, and the level that follows it."""
    side = life[SIDE]
    best = max(side * life[BEST], price)
    life[BEST] = side * best
    distance = life[TIGHT] if best >= target else life[TRAILING]
    level = best - distance  # NaN without trailing: no comparison holds
    if level >= side * life[ENTRY] and level > side * life[LEVEL]:
        life[LEVEL] = side * level


def gain(life: Vector) -> float:
    """Gain in price units, positive when the price went the alert's way; NaN until it has closed."""
    return life[SIDE] * (life[EXIT] - life[ENTRY])


def life_of(direction: str, start: float, target: float, stop: float, *, price: float, detected_at: int = 0,
            expires_at: float = math.inf, trailing: float | None = None, tight: float | None = None) -> np.ndarray:
    """A new life; distances in price units, `tight` as `trailing` unless given."""
    life = np.zeros(LIFE)
    distance = math.nan if trailing is None else trailing
    begin(life, 1.0 if direction == "BUY" else -1.0, start, target, stop, distance,
          distance if tight is None else tight, price, float(detected_at), float(expires_at))
    return life


def live(life: Vector, candles: Sequence[Sequence[float]]) -> str:
    """Move a life through rows of (time, end, open, high, low, close) and say the state it is in then."""
    for row in candles:
        advance(life, *row)
    return STATE_NAMES[int(life[STATE])]


JITABLE: Final = (_start, _abort, _close, _raise, begin, advance)
"""What the compiled walk calls."""
