"""Jobs for the pool's tests: small programs told by the spec's strategy, run in real worker processes."""

import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import Invalid
from engine.reporter import Reporter


def nothing() -> None:
    """A warm-up that costs nothing."""


def _trials(job: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Trials whose sharpe is -(x - 7)^2; three a job, so that chunks come back in parts; x = 13 kills its worker."""
    done = []
    for trial in job["trials"][:3]:
        reporter.progress(0.5)
        x = trial["params"]["x"]
        if x == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(job["spec"]["params"].get("pause", 0))
        done.append({"number": trial["number"], "range": trial["range"], "seconds": 0.0, "periods": 100,
                     "error": "x is 3" if x == 3 else None,
                     "metrics": {} if x == 3 else {"sharpe": -float(x - 7) ** 2, "periods_per_year": 252.0,
                                                   "skew": 0.0, "kurtosis": 3.0}})
    return {"trials": done}


def do(job: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Behave as `params["act"]` says."""
    if job["kind"] == "trials":
        return _trials(job, reporter)
    params = job["spec"]["params"]
    act = params.get("act", "quick")
    reporter.progress(0.1, "Initializing real engine")
    reporter.progress(0.3, "Loading market data")
    folder = Path(job["results"]) if "results" in job else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "half").write_text("half")
    trace = params.get("trace")
    if trace:
        with open(trace, "a") as file:
            file.write(f"{job['run_id']} {os.getpid()}\n")
    if act == "listen":
        until = time.monotonic() + params.get("seconds", 30)
        while time.monotonic() < until:
            reporter.progress(0.5)
            time.sleep(0.005)
    elif act == "gate":
        while not os.path.exists(params["gate"]):
            reporter.progress(0.5)
            time.sleep(0.005)
    elif act == "deaf":
        time.sleep(params.get("seconds", 60))
    elif act == "invalid":
        raise Invalid("no such thing", field="params.thing", remedy="leave it out")
    elif act == "crash":
        raise ZeroDivisionError("by zero \udc80\0")
    elif act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "die_once":
        mark = Path(params["mark"])
        if not mark.exists():
            mark.write_text("died")
            while not os.path.exists(params["gate"]):  # the server has heard that it began
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGKILL)
    elif act == "hoard":
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1)) * (16 * 2**20))
            time.sleep(0.005)
    elif act == "chatty":
        for step in range(20_000):
            reporter.progress(0.3 + step / 40_000, f"bar {step}")
        reporter.log("a log\udc80")
        reporter.metric("nan", float("nan"))
        reporter.metric("answer", 42)
    reporter.progress(0.95, "Collecting engine results")
    if folder:
        (folder / "summary.json").write_text("{}")
    if folder and act == "elsewhere":  # as on a worker that has another folder under this path
        shutil.rmtree(folder)
    return {"metrics": {"answer": float(params.get("answer", 42))}, "warnings": 0, "rows": {}}
