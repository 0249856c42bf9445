"""`workbench doctor`: look at what the workbench needs and say what to do about what is missing."""

import argparse
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from engine.errors import WorkbenchError

Verdict = Literal["ok", "note", "bad"]
Finding = tuple[Verdict, str, str]
NEEDED: Final = ("tornado", "sqlalchemy", "numpy", "numba", "pandas", "pyarrow", "vectorbt", "distributed", "panel",
                 "bokeh", "holoviews", "httpx", "websockets", "pydantic", "msgspec", "orjson")
LEAST_DISK: Final = 500 * 2**20


def examine(arguments: argparse.Namespace) -> int:
    """Print one line a check; status 1 when something is bad."""
    worst = 0
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _packages, lambda: _settings(arguments), _browser]
    if not arguments.quick:
        checks.append(_workers)
    for check in checks:
        for verdict, what, remedy in check():
            worst = max(worst, verdict == "bad")
            print(f"{verdict:4}  {what}" + (f"\n      {remedy}" if remedy else ""), flush=True)
    return worst


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] == (3, 11)
    yield ("ok" if good else "bad", f"Python {version} at {sys.executable}", "" if good else "use Python 3.11")


def _packages() -> Iterator[Finding]:
    missing = []
    for name in NEEDED:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield "bad", f"packages are missing: {', '.join(missing)}", "install them with: make venv"
    else:
        yield "ok", f"{len(NEEDED)} packages are installed", ""


def _settings(arguments: argparse.Namespace) -> Iterator[Finding]:
    """What the server would start with, and what hangs on it."""
    from workbench import mount

    try:
        config = mount.config_of(arguments)
    except WorkbenchError as error:
        yield from (("bad", f"{problem.field}: {problem.message}", problem.remedy) for problem in error.problems)
        return
    yield from _folder(config.data_dir)
    yield from _database(arguments)
    yield from _port(config.port)


def _folder(folder: Path) -> Iterator[Finding]:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK):
        yield "bad", f"the data directory {folder} cannot be written", "choose another with --data-dir"
        return
    free = shutil.disk_usage(place).free
    told = f"data directory {folder}{'' if folder.exists() else ' (not there yet)'}, {free / 2**30:.1f} GB free"
    yield ("ok" if free >= LEAST_DISK else "bad"), told, "" if free >= LEAST_DISK else "make room on this disk"
    secret = folder / "token"
    if secret.exists() and secret.stat().st_mode & 0o077:
        yield "bad", f"{secret} can be read by others", f"chmod 600 {secret}"


def _database(arguments: argparse.Namespace) -> Iterator[Finding]:
    from workbench import mount

    try:
        yield "ok", f"database {mount.check_database(arguments)}", ""
    except WorkbenchError as error:
        fresh = "there is no database" in error.message
        yield ("note" if fresh else "bad"), error.message, (
            "it is made at the first start" if fresh else error.remedy)


def _port(port: int) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    if not taken:
        yield "ok", f"port {port} is free", ""
        return
    import httpx

    try:
        told = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2, trust_env=False).json()
        yield "ok", f"a workbench {told['version']} runs on port {port}: {told['status']}", ""
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        yield "note", f"something else listens on port {port}", "choose another port with --port"


def _browser() -> Iterator[Finding]:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
                 None)
    if found:
        yield "ok", f"browser for the tests: {found}", ""
    else:
        yield "note", "no Chromium: only the browser tests need it", "Debian: apt-get install chromium"


def _workers() -> Iterator[Finding]:
    """A process of the kind that computes runs, up to its imports."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import engine.worker, vectorbt, numba; print(vectorbt.__version__)"],
            capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        yield "bad", "a pool process does not come up within three minutes", "is this machine overloaded?"
        return
    if done.returncode == 0:
        yield "ok", f"pool processes work ({os.cpu_count()} cores, vectorbt {done.stdout.strip()})", ""
    else:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        yield "bad", f"pool processes do not work: {last}", "install the environment anew with: make venv"
