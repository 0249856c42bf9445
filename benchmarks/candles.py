"""Candles in and out."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bars import year
from benchmarks.table import Row, row
from engine.candle_files import arrow_stream, csv_text
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.model import Market
from tests.harness import ServerProcess

TITLE = "Candles: a year of one-minute bars"
REMARK = ("Uploads over HTTP, each into an empty market, read, checked, stored and synced before the answer; median of "
          "five. Reading is the store's own, from Parquet into columns.")
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
MARKETS = 100


def run() -> list[Row]:
    candles, source = year()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name, ServerProcess("--rate-limit", "0", data_dir=Path(name)) as server, \
            httpx.Client(base_url=server.url + "/workbench/api", headers=server.headers, timeout=120) as http:
        path = "/markets/bench/{}/USD/candles"
        for form, kind, body in (("Arrow", ARROW, arrow_stream(candles)), ("Parquet", PARQUET, _parquet(candles)),
                                 ("CSV", "text/csv", csv_text(candles))):
            names = iter(f"{form.upper()}{number}" for number in range(5))

            def upload(kind: str = kind, body: Any = body, names: Any = names) -> None:
                answer = http.post(path.format(next(names)), content=bytes(body), headers={"Content-Type": kind},
                                   params={"resolution": "1m"})
                answer.raise_for_status()
                assert answer.json()["added"] == len(candles)

            rows.append(row(f"upload as {form} ({source})", len(candles) / _median(upload), "rows/s", digits=0,
                            at_least=500_000))
        store = CandleStore(Path(name) / "candles")
        market = Market("bench", "ARROW0", "USD")
        rows.append(row("read the year", _median(lambda: store.read(market, 60)) * 1e3, "ms", below=50, digits=1))
        fetched = _median(lambda: http.get(path.format("ARROW0"), params={"resolution": "1m", "format": "arrow"}))
        rows.append(row("read the year over HTTP as Arrow", fetched * 1e3, "ms", digits=0))
    with tempfile.TemporaryDirectory() as name:
        day = candles.take(slice(0, 1440))
        for number in range(MARKETS):
            CandleStore(Path(name)).write(replace(day, market=Market("bench", f"M{number}", "USD")))
        cold = _median(lambda: CandleStore(Path(name)).datasets())
        store = CandleStore(Path(name))
        return [*rows, row(f"scan of {MARKETS} markets, first", cold * 1e3, "ms", digits=1),
                row(f"scan of {MARKETS} markets, again", _median(store.datasets) * 1e3, "ms", digits=1)]


def _parquet(candles: Candles) -> bytes:
    sink = pa.BufferOutputStream()
    columns = candles.columns()
    pq.write_table(pa.table({"timestamp": pa.array(columns.pop("time")).cast(pa.timestamp("us", tz="UTC")), **columns}),
                   sink)
    return bytes(sink.getvalue())


def _median(work: Callable[[], Any], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
