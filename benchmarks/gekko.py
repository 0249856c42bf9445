"""Gekko's API over a year of minutes, beside the original's figures."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.bars import year
from benchmarks.serving import descendants, resident, warm_server
from benchmarks.table import Row, row
from engine.candle_store import CandleStore
from engine.model import Market
from tests.harness import ServerProcess

TITLE = "Gekko's API: a year of one-minute candles"
REMARK = ("Whole requests over HTTP on warm workers, median of nine (candleSize 1: of three). The original's figures "
          "are those of Gekko 0.6.8 on Node 12, on a machine of two cores over as many candles of a random walk. "
          "Memory is all of a worker's, shared libraries included, at a start that finds its machine code compiled; "
          "the one start that compiles it leaves 40 MB more.")
MARKETS = 100
WATCH = {"exchange": "bench", "currency": "USD", "asset": "M0"}
MACD = {"short": 10, "long": 21, "signal": 9, "thresholds": {"down": -0.025, "up": 0.025, "persistence": 1}}


def run() -> list[Row]:
    candles, source = year()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for asset, root, kept in (("M0", "candles", slice(None)), ("G0", "aside", _gapped(len(candles)))):
            part = candles.take(kept)
            CandleStore(folder / root).write(type(part)(**{**part.__dict__, "market": Market("bench", asset, "USD")}))
        for number in range(1, MARKETS):  # the same files under other names: links cost no disk
            _link(folder / "candles", "M0", folder, f"M{number}")
        with warm_server(folder) as server, _client(server) as http:
            _backtest(http, 60)  # compiled now and kept for the next start
        with warm_server(folder) as server, _client(server) as http:
            rows += _scansets(http, "", MARKETS)
            for number in range(MARKETS):
                _link(folder / "aside", "G0", folder, f"G{number}")
            rows += _scansets(http, ", and as many with holes", 2 * MARKETS)
            rows += _backtests(http, source, server.process.pid)
    return rows


def _gapped(count: int) -> np.ndarray:
    """Positions of a year with a hole in every week."""
    at = np.arange(count)
    return at[at % 10_080 > 90]


def _link(root: Path, asset: str, folder: Path, other: str) -> None:
    source, target = root / "bench" / f"{asset}+USD", folder / "candles" / "bench" / f"{other}+USD"
    for path in source.rglob("*.parquet"):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, place)


def _scansets(http: httpx.Client, what: str, count: int) -> list[Row]:
    def scan() -> None:
        answer = http.post("/api/scansets", json={})
        answer.raise_for_status()
        assert len(answer.json()["datasets"]) == count

    first = _seconds(scan)
    again = statistics.median(_seconds(scan) for _ in range(9))
    aim = {} if what else {"below": 0.2}
    return [row(f"scansets: {MARKETS} markets of a year{what}, first", first, "s", **aim),
            row("the same again", again, "s", **aim)]


def _client(server: ServerProcess) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=server.headers, timeout=300)


def _backtest(http: httpx.Client, size: int) -> dict[str, Any]:
    answer = http.post("/api/backtest", json={
        "watch": WATCH, "MACD": MACD, "backtest": {"daterange": "scan"},
        "tradingAdvisor": {"enabled": True, "method": "MACD", "candleSize": size, "historySize": 10},
        "paperTrader": {"enabled": True, "feeMaker": 0.25, "feeTaker": 0.25, "feeUsing": "maker",
                        "simulationBalance": {"asset": 1, "currency": 100}},
        "performanceAnalyzer": {"enabled": True, "riskFreeReturn": 2},
        "backtestResultExporter": {"enabled": True, "data": {
            "stratUpdates": False, "roundtrips": True, "stratCandles": size > 1, "stratCandleProps": ["open"],
            "trades": True}}})
    answer.raise_for_status()
    return answer.json()


def _backtests(http: httpx.Client, source: str, server: int) -> list[Row]:
    rows = []
    before = _most(server)
    for size, times, below, theirs in ((60, 9, 0.1, "6.3-9.7 s"), (1, 3, 1.0, "none: cut off after 120 s")):
        for _ in range(2 * (os.cpu_count() or 1)):
            found = _backtest(http, size)
        seconds = statistics.median(_seconds(lambda size=size: _backtest(http, size)) for _ in range(times))
        trades = len(found["trades"])
        rows += [row(f"POST /api/backtest, MACD, candleSize {size} ({source}, {trades:,} trades)", seconds, "s",
                     below=below),
                 Row(what=f"the original, candleSize {size}", figure=theirs)]
    most = _most(server)
    return [*rows, row("a worker's memory at its most", most / 2**20, "MB", below=400, digits=0),
            row("what these backtests added to it", (most - before) / 2**20, "MB", digits=0),
            Row(what="the original's (candleSize 60 / 1)", figure="128 MB / over 2,100 MB")]


def _most(server: int) -> float:
    return max(resident(pid, "VmHWM") for pid in descendants(server))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
