"""Whole backtests over a year of minutes and over five million bars, beside other libraries."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bars import seeded, year
from benchmarks.peer_runs import FAST, SLOW
from benchmarks.serving import Runner, descendants, resident, warm_server
from benchmarks.table import Row, row
from engine.candle_store import CandleStore
from engine.candles import Candles

TITLE = f"Backtests: SMA cross {FAST}/{SLOW}, fee 0.1 %, one-minute bars"
REMARK = ("From the POST until the event of the completed run arrived at a follower, results stored, on warm workers; "
          "median of nine. The engine alone: candles read, run, portfolio, metrics, provenance, in one process, best "
          "of five. The others get the bars ready made and only run; nautilus_trader is left out (15 s when it was "
          "last measured).")
PEERS = Path(".workbench") / "peers"
MANY = 5_000_000


def run() -> list[Row]:
    candles, source = year()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        CandleStore(folder / "candles").write(candles)
        with warm_server(folder) as server, Runner(server) as runner:
            whole = _whole(runner, candles, 9)
        alone = json.loads(subprocess.run(
            [sys.executable, "-m", "benchmarks.engine_runs", str(folder / "candles"), candles.market.key],
            capture_output=True, check=True).stdout.splitlines()[-1])
        rows = [row(f"{len(candles):,} bars ({source}), POST to completed", statistics.median(whole), "s", below=0.3),
                row("the engine's part of it", alone["engine"], "s", below=0.1),
                row("storing its tables", alone["save"], "s"),
                row(f"a bare numba loop (this one made {alone['fills']:,} fills)", alone["bare"], "s", digits=4),
                row("vectorbt from_signals, rust engine, indicators included", alone["vectorbt"], "s")]
        rows += _peers(candles, folder)
    many = seeded(MANY, "MANY")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        CandleStore(folder / "candles").write(many)
        with warm_server(folder) as server, Runner(server) as runner:
            whole = _whole(runner, many, 3)
            most = max(resident(pid, "VmHWM") for pid in descendants(server.process.pid))
    return [*rows, row(f"{MANY:,} bars, POST to completed", statistics.median(whole), "s", below=1.5, digits=2),
            row("a worker's memory at its most", most / 2**20, "MB", below=1024, digits=0)]


def _whole(runner: Runner, candles: Candles, times: int) -> list[float]:
    """Seconds of each run, after one for each worker that is not counted."""
    spec = {"strategy": "sma_cross", "params": {"fast": FAST, "slow": SLOW}, "markets": [candles.market.key],
            "resolution": "1m", "costs": {"fee_rate": 0.001}}
    for _ in range(os.cpu_count() or 1):
        runner.post(spec)
    runner.ends(os.cpu_count() or 1)
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        runner.post(spec)
        seconds.append(runner.ends(1) - began)
    return seconds


def _peers(candles: Candles, folder: Path) -> list[Row]:
    """The libraries of peers.txt, in their own environment; one row that says why when there is none."""
    python = PEERS / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", PEERS], check=True, capture_output=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", Path(__file__).with_name("peers.txt")],
                           check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        return [Row(what="backtesting.py, backtrader", figure="not installed: " + said.decode().strip()[-60:])]
    bars = folder / "bars.parquet"
    pq.write_table(pa.table(candles.columns()), bars)
    rows = []
    for library in ("backtesting.py", "backtrader"):
        done = subprocess.run([python, "-P", Path(__file__).with_name("peer_runs.py"), library, bars],
                              capture_output=True)  # -P: or our queue.py would stand for the standard one
        if done.returncode:
            rows.append(Row(what=library, figure="failed: " + done.stderr.decode().strip().splitlines()[-1][:60]))
        else:
            rows.append(row(library, json.loads(done.stdout.splitlines()[-1])["seconds"], "s", digits=1))
    return rows
