"""Walking a strategy's step over candles: the loops that every compiled strategy shares.

Only workers and notebooks load this module: it imports numba.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import float64, int64, types

from engine.candles import Candles
from engine.compiled import kernel, step_type
from engine.reporter import Reporter
from engine.strategies.base import Strategy
from engine.uploads import UploadedStrategy

CHUNK: Final = 500_000
"""Bars between two reports of progress."""

_VECTOR = types.Array(float64, 1, "C", readonly=True)
_OUT = types.Array(float64, 1, "C")
_TABLE = types.Array(float64, 2, "C")
_INTEGERS = types.Array(int64, 1, "C", readonly=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Advice:
    """What a strategy said.

    Scope "market": `exposure` has one value a bar of every market, markets one after another, shape (sum of bars,).
    Scope "portfolio": shape (len(time), markets). NaN is "as before". `indicators` has shape (k, rows) along the same
    rows (portfolio: along `time`).
    """

    exposure: np.ndarray
    indicators: np.ndarray


@kernel(types.void(step_type(), _OUT, _OUT, *[_VECTOR] * 5, _OUT, _TABLE, int64, int64, int64))
def _walk_market(step, params, state, opens, highs, lows, closes, volumes, advice, indicators, first, last, offset):
    """One market's bars first..last; row r of the market is written at offset + r."""
    bars = np.empty((1, 5))
    wish = np.empty(1)
    count = indicators.shape[0]
    out = np.empty(count)
    for row in range(first, last):
        bars[0, 0] = opens[row]
        bars[0, 1] = highs[row]
        bars[0, 2] = lows[row]
        bars[0, 3] = closes[row]
        bars[0, 4] = volumes[row]
        wish[0] = np.nan
        for k in range(count):
            out[k] = np.nan
        step(params, state, bars, wish, out)
        advice[offset + row] = wish[0]
        for k in range(count):
            indicators[k, offset + row] = out[k]


@kernel(types.void(step_type(), _OUT, _OUT, _INTEGERS, _INTEGERS, _INTEGERS, *[_VECTOR] * 5, _TABLE, _TABLE,
                   types.Array(int64, 1, "C"), int64, int64))
def _walk_portfolio(step, params, state, merged, starts, times, opens, highs, lows, closes, volumes, advice,
                    indicators, rows, first, last):
    """All markets together over merged[first:last]; `rows` holds each market's next row and is moved on."""
    n = len(rows)
    bars = np.empty((n, 5))
    wish = np.empty(n)
    count = indicators.shape[0]
    out = np.empty(count)
    for t in range(first, last):
        for s in range(n):
            row = rows[s]
            if row < starts[s + 1] and times[row] == merged[t]:
                bars[s, 0] = opens[row]
                bars[s, 1] = highs[row]
                bars[s, 2] = lows[row]
                bars[s, 3] = closes[row]
                bars[s, 4] = volumes[row]
                rows[s] = row + 1
            else:
                bars[s, :] = np.nan
            wish[s] = np.nan
        for k in range(count):
            out[k] = np.nan
        step(params, state, bars, wish, out)
        for s in range(n):
            advice[t, s] = wish[s]
        for k in range(count):
            indicators[k, t] = out[k]


def merged_time(candles: Sequence[Candles]) -> np.ndarray:
    """Every bar time of any market once, in order: int64 microseconds, shape (T,)."""
    first = candles[0].time
    if all(np.array_equal(each.time, first) for each in candles[1:]):
        return first
    return np.unique(np.concatenate([each.time for each in candles]))


def column(candles: Sequence[Candles], name: str) -> np.ndarray:
    """One column of all markets, one after another, contiguous; no copy for a single market."""
    if len(candles) == 1:
        return np.ascontiguousarray(getattr(candles[0], name))
    return np.concatenate([getattr(each, name) for each in candles])


def starts(candles: Sequence[Candles]) -> np.ndarray:
    """Where each market begins in `column`, and the end of the last: int64, shape (markets + 1,)."""
    return np.concatenate(([0], np.cumsum([len(each) for each in candles]))).astype(np.int64)


def walk(strategy: Strategy, params: dict[str, Any], candles: Sequence[Candles], merged: np.ndarray,
         reporter: Reporter) -> Advice:
    """The advice and indicators of `strategy` with resolved `params` on these candles."""
    if isinstance(strategy, UploadedStrategy):
        return strategy.walk(params, candles, merged, reporter)
    vector = strategy.vector(params)
    step = strategy.load()
    compiled = "python" not in strategy.speeds
    done, total = 0, sum(map(len, candles)) if strategy.scope == "market" else len(merged)
    lines = len(strategy.indicators)

    def report(bars: int) -> None:
        nonlocal done
        done += bars
        if done < total:
            reporter.progress(0.3 + 0.4 * done / total, "Running strategy")

    if strategy.scope == "market":
        exposure, indicators = np.empty(total), np.empty((lines, total))
        walk_market = _walk_market if compiled else _walk_market.py_func
        offset = 0
        for each in candles:
            state = np.zeros(strategy.state_size(params, 1))
            columns = [np.ascontiguousarray(getattr(each, name)) for name in ("open", "high", "low", "close", "volume")]
            for first in range(0, len(each), CHUNK):
                last = min(first + CHUNK, len(each))
                walk_market(step, vector, state, *columns, exposure, indicators, first, last, offset)
                report(last - first)
            offset += len(each)
        return Advice(exposure=exposure, indicators=indicators)
    exposure, indicators = np.empty((total, len(candles))), np.empty((lines, total))
    walk_portfolio = _walk_portfolio if compiled else _walk_portfolio.py_func
    begin = starts(candles)
    rows = begin[:-1].copy()
    state = np.zeros(strategy.state_size(params, len(candles)))
    columns = [column(candles, name) for name in ("time", "open", "high", "low", "close", "volume")]
    chunk = max(1, CHUNK // len(candles))
    for first in range(0, total, chunk):
        last = min(first + chunk, total)
        walk_portfolio(step, vector, state, merged, begin, *columns, exposure, indicators, rows, first, last)
        report(last - first)
    return Advice(exposure=exposure, indicators=indicators)


@kernel(types.void(step_type(), _OUT, _OUT, _TABLE, _OUT, _OUT))
def call(step, params, state, bars, advice, out):
    """One call of a compiled step from Python."""
    step(params, state, bars, advice, out)
