"""Many short backtests at once."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import FIRST, seeded
from benchmarks.serving import Runner, resident, warm_server
from benchmarks.table import Row, row
from engine import times
from engine.candle_store import CandleStore

TITLE = "Queue: short backtests"
REMARK = ("All are posted one after another over one connection while the workers compute; from the first POST to the "
          "event of the last completed run.")
RUNS = 200
DAYS = 365


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bars = replace(seeded(DAYS, "DAILY"), resolution=86400,
                       time=FIRST + times.DAY * np.arange(DAYS, dtype=np.int64))
        CandleStore(folder / "candles").write(bars)
        spec: dict[str, Any] = {"strategy": "sma_cross", "params": {"fast": 10, "slow": 30},
                                "markets": [bars.market.key]}
        with warm_server(folder) as server, Runner(server) as runner:
            for _ in range(8):
                runner.post(spec)
            runner.ends(8)
            before = resident(server.process.pid)
            began = time.perf_counter()
            posts = sorted(_post(runner, spec | {"params": {"fast": 2 + number % 20, "slow": 30}})
                           for number in range(RUNS))
            taken = time.perf_counter() - began
            seconds = runner.ends(RUNS) - began
            after = resident(server.process.pid)
    return [row(f"{RUNS} runs over a year of days, completed", RUNS / seconds, "runs/s", at_least=65, digits=0),
            row("POST, p50", posts[RUNS // 2] * 1e3, "ms", digits=1),
            row("POST, p99", posts[int(RUNS * 0.99)] * 1e3, "ms", below=20, digits=1),
            row("all posted after", taken, "s", digits=2),
            row("server's memory, growth", (after - before) / 2**20, "MB", digits=1)]


def _post(runner: Runner, spec: dict[str, Any]) -> float:
    began = time.perf_counter()
    runner.post(spec)
    return time.perf_counter() - began
