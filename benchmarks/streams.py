"""How soon a follower hears of a commit, and many followers of one run."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.stream_server import TOKEN
from benchmarks.table import Row, row

TITLE = "Streams (WebSocket, followers in another process)"
REMARK = ("An event's way from asking for its write to its arrival at the follower, its commit (synchronous=FULL) "
          "included; the commit alone is shown beside it. Many followers: all connected while the run is queued, then "
          "the run goes through its events to completion; each must get every event once, in order, and a close with "
          "code 1000.")
NOTES = 600
FOLLOWERS = 1000
EVENTS = 100


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, _started("benchmarks.stream_server", folder) as server:
        assert server.stdin and server.stdout
        url = f"ws://127.0.0.1:{int(server.stdout.readline())}/workbench/api"
        with _following(f"{url}/stream?prefix=bench", 1, NOTES) as follower:
            print("notes", NOTES, 0.005, file=server.stdin, flush=True)
            commits = json.loads(server.stdout.readline())
            late = json.loads(follower.stdout.readline())["late"]  # type: ignore[union-attr]
        rows = [row("asked to received, p50", late[len(late) // 2] * 1e3, "ms", below=5, digits=2),
                row("asked to received, p99", late[int(len(late) * 0.99)] * 1e3, "ms", digits=2),
                row("of this until the commit was acknowledged, p50", commits[len(commits) // 2] * 1e3, "ms", digits=2)]
        print("run", EVENTS, file=server.stdin, flush=True)
        id = server.stdout.readline().strip()
        with _following(f"{url}/runs/{id}/stream", FOLLOWERS, 0) as follower:
            began = time.perf_counter()
            print("go", file=server.stdin, flush=True)
            told = json.loads(follower.stdout.readline())  # type: ignore[union-attr]
            seconds = time.perf_counter() - began
            server.stdout.readline()
        complete = min(told["whole"], told["codes"].get("1000", 0), told["events"].get(str(EVENTS + 3), 0))
        return [*rows,
                row(f"of {FOLLOWERS:,} followers of one run completed", complete, "", at_least=FOLLOWERS, digits=0),
                row(f"from its begin to the last of {FOLLOWERS * (EVENTS + 3):,} frames", seconds, "s", digits=2)]


@contextmanager
def _started(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdin
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


@contextmanager
def _following(url: str, followers: int, events: int) -> Iterator[subprocess.Popen[str]]:
    with _started("benchmarks.followers", url, TOKEN, str(followers), str(events)) as process:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the followers did not connect")
        yield process
