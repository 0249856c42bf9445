"""Uploaded models: from the upload of 5 MB to the first line of the log, and twenty models beside ingest."""

import io
import os
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.ingest import TOKEN, load
from benchmarks.table import Row, row
from tests.harness import ServerProcess, wait_until

TITLE = "Uploaded models"
REMARK = ("Deploying: from the first byte of the upload of 5 MB that do not compress to the log line being readable "
          "over the API, with the environment already there; a new model and other bytes each time. Twenty models "
          "print a line a second while orders are posted one at a time; rounds with and without them take turns.")
MODELS = 20
DEPLOYS = 10
ROUNDS = 5
SECONDS = 3.0
SCRIPT = b"import time\nwhile True:\n    print('here', flush=True)\n    time.sleep(1)\n"


def zipped(size: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/bot.py", SCRIPT)
        archive.writestr("model/data.bin", os.urandom(size))
    return buffer.getvalue()


def ask(http: httpx.Client, method: str, path: str, **words: Any) -> Any:
    answer = http.request(method, path, **words)
    answer.raise_for_status()
    return answer.json()


def deploy(http: httpx.Client, name: str, body: bytes) -> tuple[str, float]:
    """The model's id, and the seconds until its first line could be read."""
    id = str(ask(http, "POST", "/models", json={"name": name})["id"])
    began = time.perf_counter()
    ask(http, "POST", f"/models/{id}/versions", content=body, params={"file": "model.zip"})
    ask(http, "PUT", f"/models/{id}/deployment", json={"plan": "nano"})
    wait_until(lambda: ask(http, "GET", f"/models/{id}/logs", params={"tail": 1})["items"], 120)
    return id, time.perf_counter() - began


def stop(http: httpx.Client, ids: list[str]) -> None:
    for id in ids:
        ask(http, "DELETE", f"/models/{id}/deployment")
    wait_until(lambda: all(each["state"] != "stopping" for each in ask(http, "GET", "/deployments")["items"]), 60)


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, ServerProcess(
            "--api-only", "--rate-limit", "0", "--workers", "1", "--log-level", "error", data_dir=Path(folder),
            env={"WORKBENCH_TOKEN": TOKEN}) as server, httpx.Client(
            base_url=f"{server.url}/workbench/api", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as http:
        wait_until(lambda: httpx.get(server.url + "/healthz").json()["workers"]["ready"], 120)
        first, cold = deploy(http, "first", zipped())
        stop(http, [first])
        took = []
        for number in range(DEPLOYS):
            id, seconds = deploy(http, f"deploy {number}", zipped(5 * 2**20))
            took.append(seconds)
            stop(http, [id])
        many = [deploy(http, f"model {number}", zipped())[0] for number in range(MODELS)]
        stop(http, many)
        p99: dict[bool, list[float]] = {False: [], True: []}
        rate: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for busy in (False, True):
                if busy:
                    for id in many:
                        ask(http, "PUT", f"/models/{id}/deployment", json={"plan": "nano"})
                    wait_until(lambda: sum(bool(each["usage"].get("memory"))
                                           for each in ask(http, "GET", "/deployments")["items"]) == MODELS, 120)
                done = load(server.port, "/workbench/api/events?model=m", 1, SECONDS)
                p99[busy].append(done["p99_ms"])
                rate[busy].append(done["rate"])
                if busy:
                    stop(http, many)
    alone, beside = statistics.median(p99[False]), statistics.median(p99[True])
    return [
        row("deploy of 5 MB to the first line of the log, warm environments: median", statistics.median(took), "s",
            digits=2, below=1.5),
        row(f"the slowest of {DEPLOYS}", max(took), "s", digits=2),
        row("deploy of a small model that needs a new environment", cold, "s", digits=2),
        row("orders of 1 connection, no models: p99, median of rounds", alone, "ms", digits=2),
        row("the highest of those rounds", max(p99[False]), "ms", digits=2),
        row(f"orders of 1 connection beside {MODELS} models: p99, median of rounds", beside, "ms", digits=2),
        row("p99 beside them / the highest without", beside / max(p99[False]), "times", digits=2, below=1.0),
        row("orders of 1 connection, no models", statistics.median(rate[False]), "/s", digits=0),
        row(f"orders of 1 connection beside {MODELS} models", statistics.median(rate[True]), "/s", digits=0)]
