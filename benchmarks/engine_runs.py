"""The engine alone, and the same SMA cross as a bare numba loop and by vectorbt; in a process of its own.

    python -m benchmarks.engine_runs CANDLE_ROOT MARKET     -> one line of JSON, best seconds of each
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from benchmarks.peer_runs import FAST, SLOW
from engine import worker
from engine.candle_store import CandleStore
from engine.model import Market
from engine.simulate import run
from engine.spec import BacktestSpec


@numba.njit
def bare(opens: np.ndarray, closes: np.ndarray, fast: int, slow: int, fee: float) -> tuple[float, int]:
    """Long while the fast mean is above the slow one, all in, at the next open: nothing but the final equity."""
    cash, units, fills = 1.0, 0.0, 0
    quick, lazy = 0.0, 0.0
    wish = 0
    for t in range(len(closes)):
        if wish == 1 and units == 0.0:
            units = cash * (1.0 - fee) / opens[t]
            cash = 0.0
            fills += 1
        elif wish == 0 and units > 0.0:
            cash = units * opens[t] * (1.0 - fee)
            units = 0.0
            fills += 1
        quick += closes[t]
        lazy += closes[t]
        if t >= fast:
            quick -= closes[t - fast]
        if t >= slow:
            lazy -= closes[t - slow]
        if t >= slow - 1:
            wish = 1 if quick / fast > lazy / slow else 0
    return cash + units * closes[-1], fills


def by_vectorbt(closes: Any) -> int:
    import vectorbt

    fast, slow = closes.rolling(FAST).mean(), closes.rolling(SLOW).mean()
    made = vectorbt.Portfolio.from_signals(closes, fast > slow, fast < slow, fees=0.001, freq="1min", engine="rust")
    return len(made.orders.values)


def best(work: Callable[[], Any], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main(root: str, key: str) -> None:
    import pandas as pd

    warnings.simplefilter("ignore")
    worker.warm_up()
    spec = BacktestSpec(strategy="sma_cross", params={"fast": FAST, "slow": SLOW}, markets=(key,), resolution="1m",
                        costs={"fee_rate": 0.001})  # type: ignore[arg-type]
    store = CandleStore(Path(root))
    result = run(spec, store)
    candles = store.read(Market.parse(key), 60)
    closes = pd.Series(candles.close, pd.DatetimeIndex(candles.time.view("M8[us]")))
    bare(candles.open, candles.close, FAST, SLOW, 0.001)
    by_vectorbt(closes)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({
            "engine": best(lambda: run(spec, store)), "save": best(lambda: result.save(Path(folder) / "result")),
            "read": best(lambda: CandleStore(Path(root)).read(Market.parse(key), 60)),
            "bare": best(lambda: bare(candles.open, candles.close, FAST, SLOW, 0.001)),
            "vectorbt": best(lambda: by_vectorbt(closes)), "fills": len(result.tables["fills"]["time"])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
