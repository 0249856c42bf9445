"""Market orders filled at the next open.

Advice given after the close of bar t is filled at the open of the market's next bar. Slippage moves the price against
the trader: a buy pays open * (1 + slippage), a sell gets open * (1 - slippage). The fee is fee_rate * quantity * price
plus fixed_fee.

The wished position is sized at that open (see `engine.spec.Sizing`): a fraction of the equity, where equity is cash
plus all positions at their open (last close where there is no bar now); shared equally by the run's markets for a
market strategy, the strategy's own weights for a portfolio strategy. A market strategy's position is sized when its
advice changes; a portfolio strategy's at every advice.

No leverage: positions together, long and short, are never made larger than the equity. What may be spent is

    free = cash - 2 * market value of the shorts

because the proceeds of a short sale are set aside, and as much again secures it. At one open, orders that only reduce
a position come first, then sells, then buys. Where the opening parts of the sells (or buys) of one open cost more than
what is free, with fees, all of them are cut in the same proportion.

When equity falls to zero or below at a close, everything is closed at the next opens and trading stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import boolean, float64, int64, types

from engine.advice import Advice, column, starts
from engine.candles import Candles
from engine.compiled import kernel
from engine.result import Columns
from engine.spec import BacktestSpec

REASONS: Final = ("entry", "exit", "reverse", "resize", "liquidation")
_SIZING: Final = {"fraction": 0, "cash": 1, "units": 2}
_DIRECTION: Final = {"long": 1, "short": -1, "both": 0}

_VECTOR = types.Array(float64, 1, "C", readonly=True)
_INTEGERS = types.Array(int64, 1, "C", readonly=True)
_OUT = types.Array(float64, 1, "C")
_OUT_INTEGERS = types.Array(int64, 1, "C")


@dataclass(frozen=True, kw_only=True, eq=False)
class Filled:
    """The fills as the table `fills`, and what there is to say about them.

    `cut`: orders made smaller for lack of cash, by more than their costs; `refused`: orders that found no cash at all;
    `waiting`: positions of markets whose last advice found no further bar; `bankrupt_at`: bar time at whose close the
    equity was gone, or None; `cash`: what is left at the end.
    """

    fills: Columns
    cut: int
    refused: int
    waiting: np.ndarray
    bankrupt_at: int | None
    cash: float


@kernel(types.void(
    _INTEGERS, _INTEGERS, _INTEGERS, _VECTOR, _VECTOR, _VECTOR, types.Array(float64, 2, "C", readonly=True), boolean,
    int64, int64, float64, float64, float64, float64, float64, float64,
    _OUT_INTEGERS, _OUT_INTEGERS, _OUT_INTEGERS, _OUT_INTEGERS, _OUT, _OUT, _OUT, _OUT_INTEGERS, _OUT, _OUT))
def _fill(merged, begin, times, opens, closes, flat, matrix, portfolio, direction, sizing, size, share, cash, fee_rate,
          fixed_fee, slippage, at, symbol, advised, reason, quantity, price, fee, counts, pending, ledger):
    """The loop. Writes fills 0..counts[0], counts = fills, cut, refused, bankrupt bar (-1); ledger[0] = final cash."""
    n = len(begin) - 1
    position = np.zeros(n)
    last = np.zeros(n)
    wish = np.zeros(n)
    asked = np.zeros(n, np.int64)
    row = begin[:-1].copy()
    here = np.zeros(n, np.bool_)
    change = np.zeros(n)
    turn = np.zeros(n, np.int64)
    filled, shorts, waiting = 0, 0, 0
    stopped = False
    counts[3] = -1
    for t in range(len(merged)):
        now = merged[t]
        due = False
        for s in range(n):
            here[s] = row[s] < begin[s + 1] and times[row[s]] == now
            if here[s] and waiting > 0 and pending[s] == pending[s]:
                due = True
        if due:
            equity, owed = cash, 0.0
            for s in range(n):
                if position[s] != 0.0:
                    value = position[s] * (opens[row[s]] if here[s] else last[s])
                    equity += value
                    if value < 0.0:
                        owed -= value
            for s in range(n):
                turn[s] = -1
                if here[s] and pending[s] == pending[s]:
                    open_ = opens[row[s]]
                    if pending[s] == 0.0:
                        target = 0.0
                    elif sizing == 0:
                        target = pending[s] * size * share * max(equity, 0.0) / open_
                    elif sizing == 1:
                        target = pending[s] * size / open_
                    else:
                        target = pending[s] * size
                    change[s] = target - position[s]
                    if change[s] != 0.0 and (target == 0.0 or abs(change[s]) * open_ > 1e-9 * abs(equity)):
                        if position[s] * change[s] < 0.0 and position[s] * target >= 0.0:
                            turn[s] = 0
                        else:
                            turn[s] = 1 if change[s] < 0.0 else 2
                    pending[s] = np.nan
                    waiting -= 1
            for turn_now in range(3):
                part = 1.0  # of what is wished, that the cash can pay
                if turn_now > 0:
                    side = 1.0 if turn_now == 2 else -1.0
                    free, need = cash - 2.0 * owed, 0.0
                    for s in range(n):
                        if turn[s] == turn_now:
                            open_ = opens[row[s]]
                            paid = open_ * (1.0 + side * slippage)
                            closing = 0.0
                            if position[s] * side < 0.0:
                                closing = min(abs(change[s]), abs(position[s]))
                            free -= side * closing * paid + fixed_fee + fee_rate * closing * paid
                            if side > 0.0:
                                free += 2.0 * closing * open_
                                each = paid * (1.0 + fee_rate)
                            else:
                                each = 2.0 * open_ - paid * (1.0 - fee_rate)
                            need += (abs(change[s]) - closing) * each
                    if need > free and need > 0.0:
                        part = max(free, 0.0) / need
                for s in range(n):
                    if turn[s] != turn_now:
                        continue
                    open_ = opens[row[s]]
                    side = 1.0 if change[s] > 0.0 else -1.0
                    paid = open_ * (1.0 + side * slippage)
                    wanted = abs(change[s])
                    closing = 0.0
                    if position[s] * side < 0.0:
                        closing = min(wanted, abs(position[s]))
                    opening = wanted - closing
                    if opening > 0.0:
                        # `free` once the closing part is done: a cover frees what secured it.
                        owed_then = owed - closing * open_ if side > 0.0 else owed
                        free = cash - side * closing * paid - 2.0 * owed_then - fixed_fee - fee_rate * closing * paid
                        each = paid * (1.0 + fee_rate) if side > 0.0 else 2.0 * open_ - paid * (1.0 - fee_rate)
                        most = min(part * opening, free / each)
                        if opening > most:
                            if most <= 1e-9 * opening:  # what is left of the cash is rounding
                                counts[2] += 1
                                opening = 0.0
                            else:
                                if most * each + fixed_fee < 0.98 * opening * open_:
                                    counts[1] += 1
                                opening = most * (1.0 - 1e-12)
                    done = closing + opening
                    if done <= 0.0:
                        continue
                    cost = fee_rate * done * paid + fixed_fee
                    cash -= side * done * paid + cost
                    was = position[s]
                    position[s] = was + side * done if opening > 0.0 or closing < abs(was) else 0.0
                    if was < 0.0:
                        owed += was * open_
                        shorts -= 1
                    if position[s] < 0.0:
                        owed -= position[s] * open_
                        shorts += 1
                    if stopped:
                        why = 4
                    elif was == 0.0:
                        why = 0
                    elif position[s] == 0.0:
                        why = 1
                    elif was * position[s] < 0.0:
                        why = 2
                    else:
                        why = 3
                    at[filled] = t
                    symbol[filled] = s
                    advised[filled] = asked[s]
                    reason[filled] = why
                    quantity[filled] = side * done
                    price[filled] = paid
                    fee[filled] = cost
                    filled += 1
        for s in range(n):
            advice = np.nan
            if portfolio:
                advice = matrix[t, s]
            if here[s]:
                last[s] = closes[row[s]]
                if not portfolio:
                    advice = flat[row[s]]
                row[s] += 1
            if advice == advice and not stopped:
                advice = min(max(advice, -1.0), 1.0)
                if direction * advice < 0.0:
                    advice = 0.0
                if portfolio or advice != wish[s]:
                    wish[s] = advice
                    if pending[s] != pending[s]:
                        waiting += 1
                    pending[s] = advice
                    asked[s] = t
        if shorts > 0 and not stopped:
            equity = cash
            for s in range(n):
                equity += position[s] * last[s]
            if equity <= 0.0:
                stopped = True
                counts[3] = t
                waiting = 0
                for s in range(n):
                    pending[s] = np.nan
                    if position[s] != 0.0:
                        pending[s] = 0.0
                        asked[s] = t
                        waiting += 1
    counts[0] = filled
    ledger[0] = cash


def run(spec: BacktestSpec, candles: Sequence[Candles], merged: np.ndarray, advice: Advice, portfolio: bool) -> Filled:
    """Fill `advice` on these candles, one for each of the run's markets and without empty ones."""
    n = len(candles)
    begin = starts(candles)
    given = int(np.count_nonzero(advice.exposure == advice.exposure)) if portfolio else _changes(advice.exposure, n)
    room = given + 2 * n  # every fill answers one advice; a liquidation closes each market once
    at, symbol, advised, reason = (np.empty(room, np.int64) for _ in range(4))
    quantity, price, fee = (np.empty(room) for _ in range(3))
    counts, pending, ledger = np.zeros(4, np.int64), np.full(n, np.nan), np.zeros(1)
    fraction = spec.sizing.kind == "fraction"
    nothing = np.empty(0), np.empty((0, 0))
    _fill(
        merged, begin, column(candles, "time"), column(candles, "open"), column(candles, "close"),
        nothing[0] if portfolio else advice.exposure, advice.exposure if portfolio else nothing[1], portfolio,
        _DIRECTION[spec.direction], _SIZING[spec.sizing.kind], spec.sizing.value,
        1.0 if portfolio or not fraction else 1.0 / n, spec.cash,
        spec.costs.fee_rate, spec.costs.fixed_fee, spec.costs.slippage,
        at, symbol, advised, reason, quantity, price, fee, counts, pending, ledger,
    )
    used = slice(0, int(counts[0]))
    names = np.array(spec.markets, object)
    fills = {
        "time": merged[at[used]], "symbol": names[symbol[used]], "side": np.sign(quantity[used]).astype(np.int8),
        "quantity": np.abs(quantity[used]), "price": price[used].copy(), "fee": fee[used].copy(),
        "advised_at": merged[advised[used]], "reason": np.array(REASONS, object)[reason[used]],
    }
    return Filled(fills=fills, cut=int(counts[1]), refused=int(counts[2]),
                  waiting=np.flatnonzero(pending == pending), cash=float(ledger[0]),
                  bankrupt_at=int(merged[counts[3]]) if counts[3] >= 0 else None)


def _changes(exposure: np.ndarray, markets: int) -> int:
    """At most how many orders a market strategy's advice can make."""
    return int(np.count_nonzero(exposure[1:] != exposure[:-1])) + 1 + markets
