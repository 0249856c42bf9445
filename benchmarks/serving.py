"""A server process to measure: warm workers, its memory, runs submitted and seen to their end."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.harness import ServerProcess


@contextmanager
def warm_server(folder: Path, *flags: str) -> Iterator[ServerProcess]:
    """`python -m server` on `folder`, without a rate limit, once all its workers are ready."""
    with ServerProcess("--rate-limit", "0", *flags, data_dir=folder) as server:
        warm(server)
        yield server


def warm(server: ServerProcess) -> None:
    deadline = time.monotonic() + 180
    while not (workers := httpx.get(server.url + "/healthz", timeout=30).json()["workers"])["ready"] \
            or workers["count"] < (os.cpu_count() or 1):
        if time.monotonic() > deadline:
            raise TimeoutError("the workers did not get ready")
        time.sleep(0.2)


def resident(pid: int, field: str = "VmRSS") -> float:
    """Bytes of a process in memory, now (VmRSS) or at their most (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children")
                for child in task.read_text().split()]
    return children + [each for child in children for each in descendants(child)]


class Runner:
    """Submits runs and knows from the firehose when each was completed."""

    def __init__(self, server: ServerProcess) -> None:
        self.http = httpx.Client(base_url=server.url + "/workbench/api", headers=server.headers, timeout=60)
        self.socket = connect(server.websocket_url + "/workbench/api/stream?prefix=run/",
                              additional_headers=server.headers, max_size=None)

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.http.close()

    def post(self, spec: dict[str, Any]) -> str:
        answer = self.http.post("/runs", json=spec)
        answer.raise_for_status()
        return answer.json()["id"]

    def ends(self, count: int) -> float:
        """Wait for `count` runs to complete; the moment (perf_counter) of the last. Raises when one does not."""
        while count:
            event = json.loads(self.socket.recv(timeout=120))
            state = event["data"].get("state") if event["type"] == "state" else None
            if state in ("failed", "cancelled"):
                raise RuntimeError(f"a run {state}: {event['data'].get('error')}")
            count -= state == "completed"
        return time.perf_counter()
