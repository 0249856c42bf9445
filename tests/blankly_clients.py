"""Blankly's own packages, each in an environment of its own below `.workbench/clients`, made once and used again.

They are the programs that people have: the tests run them unchanged. `python -m tests.requirements` installs them,
`python_of(name)` gives the interpreter of one, or says why there is none.
"""

import fcntl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["CLIENTS", "MissingClientError", "install", "python_of"]

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / ".workbench" / "clients"
CLIENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "slate-1.0.0b0": ("blankly-slate==1.0.0b0",),
    "slate-1.1.0b0": ("blankly-slate==1.1.0b0",),
    "slate-1.10.6b0": ("blankly-slate==1.10.6b0", "pandas==2.3.3", "numpy==1.26.4"),
    # Its own files name no bounds; with numpy 2 and pandas 3 it does not run.
    "blankly-1.15.0b0": ("blankly==1.15.0b0", "numpy==1.26.4", "pandas==2.3.3"),
    "blankly-1.18.23b0": ("blankly==1.18.23b0", "numpy==1.26.4", "pandas==2.3.3"),
    "blankly-1.18.25b0": ("blankly==1.18.25b0", "numpy==1.26.4", "pandas==2.3.3"),
}


class MissingClientError(Exception):
    """A client is not installed and cannot be now. `away`: the package index does not answer for any package."""

    def __init__(self, message: str, *, away: bool = False) -> None:
        super().__init__(message)
        self.away = away


def install() -> None:
    """Install every client that is missing. Raises `MissingClientError` with the installer's last words."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that start together install once
        for name, packages in CLIENTS.items():
            if not _ready(name):
                _install(name, packages)


def python_of(name: str) -> Path:
    """The interpreter that has this client; it is installed when it is missing. Raises `MissingClientError`."""
    if not _ready(name):
        install()
    return FOLDER / name / "bin" / "python"


def _ready(name: str) -> bool:
    mark = FOLDER / name / "installed"
    return mark.is_file() and mark.read_text() == _words(CLIENTS[name])


def _words(packages: tuple[str, ...]) -> str:
    return "\n".join((sys.version, *packages))


def _install(name: str, packages: tuple[str, ...]) -> None:
    folder = FOLDER / name
    uv = Path(sys.executable).with_name("uv")
    python = str(folder / "bin" / "python")
    if uv.is_file():
        make = [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        add = [str(uv), "pip", "install", "--quiet", "--python", python]
        probe = [*add, "--no-cache", "--dry-run", "--reinstall", "--no-deps", "pip"]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        add = [python, "-m", "pip", "install", "--quiet"]
        probe = [*add, "--no-cache-dir", "--dry-run", "--ignore-installed", "--no-deps", "pip"]
    for command in (make, [*add, *packages]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            away = command is not make and bool(subprocess.run(probe, capture_output=True, check=False).returncode)
            raise MissingClientError(f"{name} cannot be installed: {done.stderr.strip()[-500:]}", away=away)
    (folder / "installed").write_text(_words(packages))
