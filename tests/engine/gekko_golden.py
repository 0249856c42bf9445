"""Gekko's own results, and the candles it ran on."""

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from engine.candles import Candles
from engine.model import Market

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "gekko"
FIRST = 1_514_764_800  # 2018-01-01, in seconds
MARKET = Market("golden", "BTC", "USDT")


@functools.cache
def cases() -> dict[str, dict[str, Any]]:
    return json.loads(gzip.decompress((FOLDER / "cases.json.gz").read_bytes()))


@functools.cache
def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(gzip.decompress((FOLDER / "recorded.json.gz").read_bytes()))


@functools.cache
def candles(name: str) -> Candles:
    table = parquet.read_table(FOLDER / f"{name}.parquet")
    columns = {key: table[key].to_numpy() for key in table.column_names}
    opened = columns["open"].astype(np.int64)
    prices = {key: (opened + columns[key]) / 100 for key in ("high", "low", "close")}
    extra = {key: columns[key].astype(float) for key in ("vwp", "trades") if key in columns}
    volume = columns.get("volume", np.ones(len(opened)))
    return Candles(market=MARKET, resolution=60, time=(FIRST + columns["minute"].astype(np.int64) * 60) * 1_000_000,
                   open=opened / 100, volume=volume, extra=extra, **prices)


def wire(value: Any) -> Any:
    """The value after a journey as JSON (NaN and infinities are null there)."""
    import orjson

    return json.loads(orjson.dumps(value))
