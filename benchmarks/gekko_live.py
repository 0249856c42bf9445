"""Fifty live instances on one server process."""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx

from benchmarks.table import Row, row
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.model import Market
from tests.harness import ServerProcess

TITLE = "Live instances"
REMARK = ("Fifty paper traders (MACD on 5-minute candles), each on a market and a feed of its own, replayed; what the "
          "server's process takes of one core, all that it saves (with fsync) included. Life has one candle a minute.")
INSTANCES = 50
SECONDS = 20
SPEEDS = (1, 20, 60)
STRATEGY = {"short": 10, "long": 21, "signal": 9, "thresholds": {"down": -0.025, "up": 0.025, "persistence": 1}}


def run() -> list[Row]:
    rows = []
    for speed in SPEEDS:
        with tempfile.TemporaryDirectory() as folder:
            share = _share(Path(folder), speed)
        name = "as fast as life" if speed == 1 else f"{speed} times faster than life"
        rows.append(row(f"{INSTANCES} instances {name}, {INSTANCES * speed} candles a minute, of a core",
                        100 * share, "%", digits=1, **({"below": 20} if speed == 1 else {})))
    return rows


def _share(folder: Path, speed: int) -> float:
    """Of a core, what the server's process takes."""
    store = CandleStore(folder / "candles")
    candles = _minutes()
    for number in range(INSTANCES):
        store.write(replace(candles, market=Market("bench", f"A{number}", "USD")))
    server = ServerProcess("--api-only", "--rate-limit", "0", "--workers", "1", data_dir=folder)
    with server, httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        for number in range(INSTANCES):
            client.post("/workbench/api/instances", json={
                "market": f"bench:A{number}/USD", "strategy": "MACD", "parameters": STRATEGY, "candle_size": 5,
                "history": 10, "replay": {"speed": speed}}).raise_for_status()
        while speed > 1 and not all(each["candle"] for each in client.get("/workbench/api/instances").json()["items"]):
            time.sleep(0.5)
        while not client.get("/healthz").json()["workers"]["ready"]:
            time.sleep(0.5)
        time.sleep(3)
        before, began = _cpu(server.process.pid), time.perf_counter()
        time.sleep(SECONDS)
        used, passed = _cpu(server.process.pid) - before, time.perf_counter() - began
        return used / passed


def _cpu(process: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _minutes() -> Candles:
    """Two days of minutes."""
    import numpy as np

    from engine import times

    random = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.001, 2880)))
    opened = np.concatenate(([100.0], close[:-1]))
    return Candles(market=Market("bench", "A", "USD"), resolution=60, open=opened, close=close,
                   high=np.maximum(opened, close), low=np.minimum(opened, close), volume=np.ones(2880),
                   time=1_514_764_800 * times.SECOND + np.arange(2880, dtype=np.int64) * times.MINUTE)
