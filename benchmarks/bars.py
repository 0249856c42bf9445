"""One-minute bars to run on: real ones when there are any, else seeded ones."""

import os
from pathlib import Path

import numpy as np

from engine.candles import Candles
from engine.model import Market

YEAR = 525_600
MINUTE = 60_000_000
FIRST = 1_483_228_800_000_000  # 2017-01-01
_NEAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "XBTUSD_bitmex_1m.parquet"


def real(rows: int) -> Candles | None:
    """The newest `rows` minutes of the file that WORKBENCH_BENCH_DATA names, or of one beside the repository."""
    path = Path(os.environ.get("WORKBENCH_BENCH_DATA") or _NEAR)
    if not path.is_file():
        return None
    from engine.candle_files import Target, read_file

    candles = read_file(path, Target(exchange="bench", asset="XBT", currency="USD"))[0]
    return candles.take(slice(-rows, None)) if len(candles) >= rows else None


def seeded(rows: int, name: str = "SEED") -> Candles:
    """A random walk of `rows` minutes, the same every time."""
    rng = np.random.default_rng(7)
    close = 1000.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0005, rows)))
    open_ = np.concatenate(([1000.0], close[:-1]))
    wick = np.abs(rng.normal(0.0, 0.0003, (2, rows)))
    return Candles(market=Market("bench", name, "USD"), resolution=60,
                   time=FIRST + MINUTE * np.arange(rows, dtype=np.int64), open=open_,
                   high=np.maximum(open_, close) * (1 + wick[0]), low=np.minimum(open_, close) * (1 - wick[1]),
                   close=close, volume=rng.uniform(1.0, 100.0, rows).round(3))


def year() -> tuple[Candles, str]:
    """A year of minutes, and where it comes from."""
    found = real(YEAR)
    return (found, "XBT/USD, BitMEX") if found is not None else (seeded(YEAR), "seeded random walk")
