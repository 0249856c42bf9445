"""One alert to thousands of listeners over Server-Sent Events, each with a credit of its own."""

import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.table import Row, row

TITLE = "Alerts (Server-Sent Events, listeners in another process)"
REMARK = ("Every listener is a subscriber of its own: an alert uses 5,000 credits in one write, and every block has "
          "another token. Time runs from asking for the alert's write to the block's arrival in the listeners' process "
          "(one clock), commit with synchronous=FULL included. Memory is what the server's resident set grew by.")
LISTENERS = 5000
ALERTS = 10


def run() -> list[Row]:
    found = measure(LISTENERS, ALERTS)
    return [row(f"working: asked to received by {LISTENERS:,}, p50", found["working"][0], "ms"),
            row(f"working: asked to received by {LISTENERS:,}, p99", found["working"][1], "ms", below=200),
            row(f"closed: asked to received by {LISTENERS:,}, p50", found["closed"][0], "ms"),
            row(f"closed: asked to received by {LISTENERS:,}, p99", found["closed"][1], "ms", below=200),
            row("memory of the server a connection", found["kib"], "KiB", below=20, digits=1),
            row(f"processor time of the server for one event to {LISTENERS:,}", found["cpu"], "ms"),
            row(f"blocks with a token of their own, of {LISTENERS * ALERTS:,}", found["tokens"], "",
                at_least=LISTENERS * ALERTS, digits=0)]


def measure(listeners: int, alerts: int) -> dict[str, Any]:
    """Milliseconds (p50, p99) of detection and of the end, KiB a connection, and distinct tokens."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-m", "benchmarks.alert_server", folder, str(listeners), str(alerts)],
                              stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])
