"""Start and size of the server."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.serving import resident, warm
from benchmarks.table import Row, row
from tests.harness import ServerProcess

TITLE = "Start and size"
REMARK = ("Imports in fresh interpreters, best of five. A start is the time from the command to the first answer of "
          "`/healthz`, in a data directory that was used before. Memory is what the server's own process holds "
          "(its workers are other processes), three seconds after everything is warm.")
FORBIDDEN = ("pandas", "vectorbt", "panel", "bokeh", "holoviews", "distributed")
IMPORT = ("import json, sys, time; t = time.perf_counter(); import server.app; "
          f"print(json.dumps([time.perf_counter() - t, [name for name in {FORBIDDEN!r} if name in sys.modules]]))")
SERVE = ("-m", "workbench", "serve", "--no-browser")


def run() -> list[Row]:
    imports = [json.loads(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True).stdout)
               for _ in range(5)]
    found = sorted({name for _, names in imports for name in names})
    rows = [row("import server.app", min(seconds for seconds, _ in imports), "s", below=0.6),
            Row(what=f"of {', '.join(FORBIDDEN)} imported by it", figure=", ".join(found) or "none", aim="none",
                met=not found)]
    with tempfile.TemporaryDirectory() as folder:
        for flags, name in (((*SERVE, "--api-only"), "without pages"), (SERVE, "with pages")):
            seconds, resident = _serve(flags, Path(folder))
            rows += [row(f"start to first answer, {name}", seconds, "s", below=5, digits=2),
                     row(f"idle server, {name}", resident / 2**20, "MB", below=150, digits=0)]
    return rows


def _serve(program: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """(seconds to the first answer of a second start, resident bytes once warm)."""
    with ServerProcess(program=program, data_dir=folder):
        pass
    began = time.perf_counter()
    with ServerProcess(program=program, data_dir=folder) as server:
        httpx.get(server.url + "/healthz").raise_for_status()
        seconds = time.perf_counter() - began
        warm(server)
        if "--api-only" not in program:
            httpx.get(server.url + "/runs", headers=server.headers, follow_redirects=True, timeout=60)
        time.sleep(3.0)
        return seconds, resident(server.process.pid)
