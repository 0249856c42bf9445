"""Gekko's candle batching and paper trader, compiled.

Batching: every `size` candles, counted from the first one and not by the clock, make one candle of the strategy; an
incomplete last one is dropped. Trading: on the close of the candle that completes the strategy's candle, at once, all
in, without slippage or limits; amounts are floored to 1e-8. The order of what happens within one candle is Gekko's:

    1. the strategy is asked (its advice counts when the direction is another than the last one),
    2. a trailing stop looks at the close and may sell,
    3. the advice is traded.

A stop that fires on the candle on which the strategy says "short" makes two sells, the second of nothing, and closes
the same roundtrip twice: Gekko does so too.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import float64, int64, types

from engine.compiled import kernel

BUY: Final = 1
SELL: Final = -1

_VECTOR = types.Array(float64, 1, "C", readonly=True)
_INTEGERS = types.Array(int64, 1, "C", readonly=True)
_OUT = types.Array(float64, 1, "C")
_OUT_INTEGERS = types.Array(int64, 1, "C")
_TABLE = types.Array(float64, 2, "C")
_OUT_ROWS = types.Array(int64, 2, "C")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """The strategy's candles, arrays of one length m: `start` in the unit of the given times, figures, and `last`, the
    position of the candle that completed each."""

    start: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    vwp: np.ndarray
    volume: np.ndarray
    trades: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


@kernel(types.void(int64, *[_VECTOR] * 6, _OUT, _OUT, _OUT, _OUT, _OUT))
def _batch(size, opens, highs, lows, vwps, volumes, counts, high, low, vwp, volume, trades):
    for k in range(len(high)):
        first = k * size
        top = highs[first]
        bottom = lows[first]
        amount = volumes[first]
        number = counts[first]
        weighted = vwps[first] * volumes[first]
        for i in range(first + 1, first + size):
            top = max(top, highs[i])
            bottom = min(bottom, lows[i])
            amount += volumes[i]
            number += counts[i]
            weighted += vwps[i] * volumes[i]
        high[k] = top
        low[k] = bottom
        volume[k] = amount
        trades[k] = number
        vwp[k] = weighted / amount if amount != 0.0 else opens[first]


def batch(size: int, time: np.ndarray, opens: np.ndarray, highs: np.ndarray, lows: np.ndarray, closes: np.ndarray,
          vwps: np.ndarray, volumes: np.ndarray, counts: np.ndarray) -> Batches:
    """The candles of `size` given candles each; float64 columns of one length, `size` >= 1. Candles of one each are the
    given ones, not copies, but for `vwp`, which is weighted and divided all the same."""
    if size == 1:
        vwp = opens.copy()
        np.divide(vwps * volumes, volumes, out=vwp, where=volumes != 0.0)
        return Batches(start=time, open=opens, high=highs, low=lows, close=closes, vwp=vwp, volume=volumes,
                       trades=counts, last=np.arange(len(time), dtype=np.int64))
    rows = len(time) // size
    last = np.arange(1, rows + 1, dtype=np.int64) * size - 1
    first = last - (size - 1)
    high, low, vwp, volume, trades = (np.empty(rows) for _ in range(5))
    _batch(size, opens, highs, lows, vwps, volumes, counts, high, low, vwp, volume, trades)
    return Batches(start=time[first], open=np.ascontiguousarray(opens[first]), high=high, low=low,
                   close=np.ascontiguousarray(closes[last]), vwp=vwp, volume=volume, trades=trades, last=last)


@kernel(int64(_VECTOR, _INTEGERS, _VECTOR, int64, float64, float64, float64, float64, int64, _OUT_INTEGERS, _OUT_ROWS,
              _OUT_INTEGERS, _TABLE, _OUT_INTEGERS, _OUT))
def _trade(closes, last, advice, warm, fee, asset, currency, trail, acts, advised, advised_at, sides, figures, counters,
           value):
    """Writes `advised` (direction of each counted advice) with `advised_at` (row: candle, strategy's candle), `sides`
    (BUY or SELL), `figures` (one row a trade: candle, number, advice, price, cost, amount, asset, currency, balance)
    and `value` (portfolio's value at every candle's close from the warm-up on, NaN before). Returns the number of
    trades; counters[0] is the number of advices."""
    n = len(closes)
    trades = 0
    advices = 0
    number = 0  # of the last trade: counts advices acted on
    direction = 0.0
    pending = 0  # advice that waits for its stop, 0 none
    stopped = False  # whether a stop is set
    distance = 0.0
    point = 0.0
    last_advice = 0
    begin = last[warm] if 0 <= warm < len(last) else n
    for m in range(min(begin, n)):
        value[m] = math.nan
    k = warm
    for m in range(begin, n):
        price = closes[m]
        act = 0.0
        if k < len(last) and last[k] == m:
            said = advice[k]
            if said == said and said != 0.0 and said != direction:
                direction = said
                act = said
                advised[advices] = 1 if said > 0.0 else -1
                advised_at[advices, 0] = m
                advised_at[advices, 1] = k
                advices += 1
                pending = advices if said > 0.0 and trail > 0.0 else 0
            k += 1
        if acts == 0:
            value[m] = math.nan
            continue
        if stopped and m > begin:
            if price > point + distance:
                point = price - distance
            if price <= point:
                stopped = False
                cost = (1.0 - fee) * (asset * price)
                currency += math.floor(asset * price * 1e8 * fee) / 1e8
                asset = 0.0
                sides[trades] = -1
                figures[trades, 0] = m
                figures[trades, 1] = number
                figures[trades, 2] = last_advice
                figures[trades, 3] = price
                figures[trades, 4] = cost
                figures[trades, 5] = currency / price if price != 0.0 else math.nan
                figures[trades, 6] = asset
                figures[trades, 7] = currency
                figures[trades, 8] = currency + price * asset
                trades += 1
                if pending == last_advice and pending != 0:
                    direction = -1.0
                    pending = 0
        if act != 0.0:
            number += 1
            last_advice = advices
            stopped = False
            if act > 0.0:
                cost = (1.0 - fee) * currency
                asset += math.floor(currency / price * 1e8 * fee) / 1e8 if price != 0.0 else math.nan
                currency = 0.0
                amount = asset
                if trail > 0.0:
                    stopped = True
                    distance = trail / 100.0 * price
                    point = price - distance
            else:
                cost = (1.0 - fee) * (asset * price)
                currency += math.floor(asset * price * 1e8 * fee) / 1e8
                asset = 0.0
                amount = currency / price if price != 0.0 else math.nan
            sides[trades] = 1 if act > 0.0 else -1
            figures[trades, 0] = m
            figures[trades, 1] = number
            figures[trades, 2] = last_advice
            figures[trades, 3] = price
            figures[trades, 4] = cost
            figures[trades, 5] = amount
            figures[trades, 6] = asset
            figures[trades, 7] = currency
            figures[trades, 8] = currency + price * asset
            trades += 1
        value[m] = currency + price * asset
    counters[0] = advices
    return trades


@dataclass(frozen=True, kw_only=True, eq=False)
class Trading:
    """What the paper trader did.

    Advices: `advised` (BUY or SELL), `advised_at` (candle), `advised_on` (the strategy's candle). Trades, one array
    each: `side`, `at` (candle), `number` (of the trade's id), `advice` (number of the advice), `price`, `cost`,
    `amount`, `asset` and `currency` held afterwards, `balance`. `value`: the portfolio's value at the close of every
    candle, NaN before the warm-up.
    """

    advised: np.ndarray
    advised_at: np.ndarray
    advised_on: np.ndarray
    side: np.ndarray
    at: np.ndarray
    number: np.ndarray
    advice: np.ndarray
    price: np.ndarray
    cost: np.ndarray
    amount: np.ndarray
    asset: np.ndarray
    currency: np.ndarray
    balance: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.side)


def trade(closes: np.ndarray, batches: Batches, advice: np.ndarray, *, warm: int, fee: float, asset: float,
          currency: float, trail: float = 0.0, enabled: bool = True) -> Trading:
    """Trade the advice (+1, -1 or NaN for each of the strategy's candles) given from candle `warm` (counted from 0) on.

    `fee` is the part that stays after the fee (1 - percent / 100), `trail` the percent of a trailing stop that every
    "long" carries (0: none). With `enabled` off nothing is traded and only the advices are counted.
    """
    most = int(np.isfinite(advice).sum()) + 1
    advised, advised_at = np.empty(most, np.int64), np.empty((most, 2), np.int64)
    sides, figures = np.empty(2 * most, np.int64), np.empty((2 * most, 9))
    counters, value = np.zeros(1, np.int64), np.empty(len(closes))
    trades = _trade(np.ascontiguousarray(closes), batches.last, np.ascontiguousarray(advice), warm, fee, asset,
                    currency, trail, int(enabled), advised, advised_at, sides, figures, counters, value)
    advices, rows = int(counters[0]), figures[:trades]
    named: dict[str, Any] = {name: rows[:, place].copy() for place, name in enumerate(
        ("at", "number", "advice", "price", "cost", "amount", "asset", "currency", "balance"))}
    for name in ("at", "number", "advice"):
        named[name] = named[name].astype(np.int64)
    return Trading(advised=advised[:advices], advised_at=advised_at[:advices, 0], advised_on=advised_at[:advices, 1],
                   side=sides[:trades], value=value, **named)


@dataclass(frozen=True, kw_only=True, eq=False)
class Roundtrips:
    """Entries and exits as Gekko's analyzer pairs them: `number`, trades `entry` and `leave` (positions)."""

    number: np.ndarray
    entry: np.ndarray
    leave: np.ndarray

    def __len__(self) -> int:
        return len(self.number)


@kernel(int64(_INTEGERS, _OUT_INTEGERS, _OUT_INTEGERS, _OUT_INTEGERS))
def _pair(sides, number, entry, leave):
    count = 0
    identity = 0
    opened = -1
    closed = False
    for i in range(len(sides)):
        if sides[i] > 0:
            if closed:
                identity += 1
                closed = False
            opened = i
        elif opened >= 0:
            number[count] = identity
            entry[count] = opened
            leave[count] = i
            count += 1
            closed = True
    return count


def pair(side: np.ndarray) -> Roundtrips:
    """The roundtrips of trades on these sides. A sell before the first buy is none; two sells in a row close twice."""
    number, entry, leave = (np.empty(len(side), np.int64) for _ in range(3))
    count = _pair(np.ascontiguousarray(side, np.int64), number, entry, leave)
    return Roundtrips(number=number[:count], entry=entry[:count], leave=leave[:count])
