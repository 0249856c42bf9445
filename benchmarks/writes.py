"""Committed small POSTs beside an empty handler."""

import json
import statistics
import subprocess
import sys
import tempfile

from benchmarks.table import Row, row
from benchmarks.write_server import TOKEN

TITLE = "Acknowledged, committed small POSTs (SQLite, synchronous=FULL)"
REMARK = ("Both handlers run in one process on one loop and are loaded in turn by a generator in another "
          "process. The committed POST passes authentication, limits and JSON reading, appends an event and answers "
          "after the commit; the empty handler is Tornado's own, answering `{}`.")
BODY = b'{"text": "a small note", "value": 1.25}'


def load(port: int, path: str, connections: int, seconds: float = 2.0) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.load", f"127.0.0.1:{port}", "POST", path, str(connections),
               str(seconds), "Content-Type: application/json", f"Authorization: Bearer {TOKEN}"]
    done = json.loads(subprocess.run(command, input=BODY, capture_output=True, check=True).stdout)
    if done["errors"]:
        raise RuntimeError(f"{done['errors']} answers of {path} were errors")
    return done


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.write_server", folder, ""], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        assert process.stdin and process.stdout
        try:
            ours, empty = map(int, process.stdout.readline().split())
            rows = []
            for connections, times in ((1, 1), (32, 5), (256, 1)):
                pairs = [(load(empty, "/", connections), load(ours, "/bench/notes", connections)) for _ in range(times)]
                ratio = statistics.median(ours["rate"] / empty["rate"] for empty, ours in pairs)
                best_empty, best = (max(each, key=lambda one: one["rate"]) for each in zip(*pairs, strict=True))
                rows += [row(f"empty Tornado handler, {connections} connections", best_empty["rate"], "/s", digits=0),
                         row(f"committed POST, {connections} connections", best["rate"], "/s", digits=0),
                         row(f"committed POST, {connections} connections, p99", best["p99_ms"], "ms", digits=1),
                         row(f"committed / empty, {connections} connections (median of {times})", ratio * 100, "%",
                             digits=0, at_least=75 if connections == 32 else None)]
            return rows
        finally:
            process.stdin.close()
            process.wait(30)
