"""Virtual environments for uploaded models: one for each interpreter and list of requirements, kept and used again.

A model names its Python version and its requirements.txt; the environment for that pair is made once, with uv when it
is there (a second with warm caches, where pip takes twenty), and found again by the hash of both. Installing can run
code of the packages, outside of any box: that only those may deploy who were given the right is the protection.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import Invalid, WorkbenchError

__all__ = ["Environment", "Venvs", "interpreter", "interpreters", "own_python"]

OLDEST: Final = (3, 8)
INSTALL_TIMEOUT: Final = 1800.0
LOOK: Final = 0.2
"""Seconds between looks whether an installation is to end."""

KEPT: Final = 20
"""Environments that are kept when others are made; the longest unused go first."""

_VERSION: Final = re.compile(r"^\s*(\d)\.(\d{1,2})(\.\d+)?\s*$")
_LOGIN: Final = re.compile(r"://[^/\s@]+@")
"""Names and passwords in the addresses of package indexes, which installers print."""

_NUMPY_OLD: Final = re.compile(r"^\s*blankly\b", re.IGNORECASE | re.MULTILINE)
_NUMPY_NAMED: Final = re.compile(r"^\s*numpy\b", re.IGNORECASE | re.MULTILINE)

Say = Callable[[str], None]


@functools.cache
def interpreters() -> Mapping[str, Path]:
    """The CPythons of this machine by version ("3.11"): this one, those on PATH, those of pyenv and uv. Looked for
    once in the life of a process: it takes seconds."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": Path(os.path.realpath(sys.executable))}
    homes = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions",
             Path.home() / ".local/share/uv/python"]
    inside = [str(folder / "bin") for home in homes if home.is_dir() for folder in sorted(home.iterdir(), reverse=True)]
    for minor in range(OLDEST[1], 20):
        name = f"3.{minor}"
        for place in (os.environ.get("PATH") or os.defpath, os.pathsep.join(inside)):
            if name not in found and (path := shutil.which(f"python{name}", path=place)) and _says(path) == name:
                found[name] = Path(os.path.realpath(path))
    return found


def interpreter(version: str) -> Path:
    """The interpreter for a version such as "3.11"; "" is this one. Raises `Invalid` (field "pythonVersion") for a
    version that is not installed."""
    known = interpreters()
    if not version:
        return next(iter(known.values()))
    match = _VERSION.fullmatch(version)
    name = f"{match[1]}.{match[2]}" if match else version
    if name not in known:
        raise Invalid(f"Python {version[:20]} is not installed on the machine that runs models",
                      field="pythonVersion", remedy="choose one of " + ", ".join(sorted(known, key=_order)))
    return known[name]


def own_python() -> Path:
    """The interpreter of this process's own environment, under a path that a box may be shown."""
    return Path(sys.executable).absolute()


def _says(path: str) -> str:
    """The version an interpreter says it is: shims of pyenv stand there for versions that are not."""
    try:
        told = subprocess.run([path, "-I", "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
                              capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A finished environment: its interpreter, whose folders must be readable, and whether it was there already."""

    python: Path
    folder: Path
    cached: bool


class Venvs:
    """All environments below one folder. Safe to use from several threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, version: str, requirements: str, say: Say = lambda line: None,
            stopped: Callable[[], bool] = lambda: False) -> Environment:
        """The environment for a Python version ("3.11"; "" for this one) and the text of a requirements.txt.

        `say` hears every line of the installation. Raises `Invalid` (field "pythonVersion") for a version that is not
        installed, `WorkbenchError` when the installation fails; nothing is kept of a failed one.
        """
        python = interpreter(version)
        wanted = _completed(requirements)
        name = hashlib.sha256(f"{python}\n{os.path.getmtime(python)}\n{wanted}".encode()).hexdigest()[:24]
        folder = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder / f".{name}.lock", stopped):
            cached = (folder / "ready").is_file()
            if not cached:
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    self._make(python, folder, wanted, say, stopped)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
            os.utime(folder / "ready")
        if not cached:
            self._tidy(keep=name)
        return Environment(python=folder / "bin" / "python", folder=folder, cached=cached)

    @contextmanager
    def held(self, environment: Environment) -> Iterator[Path]:
        """The environment's interpreter; while the block lasts the environment is not removed, however old."""
        with _folder_lock(environment.folder, fcntl.LOCK_SH):
            yield environment.python

    def _make(self, python: Path, folder: Path, requirements: str, say: Say, stopped: Callable[[], bool]) -> None:
        uv = _uv()
        if uv:
            _run([uv, "venv", "--quiet", "--python", str(python), str(folder)], say, stopped)
        else:
            _run([str(python), "-m", "venv", str(folder)], say, stopped)
        (folder / "requirements.txt").write_text(requirements)
        if any(line.strip() and not line.strip().startswith("#") for line in requirements.splitlines()):
            say("installing requirements with " + ("uv" if uv else "pip"))
            install = ([uv, "pip", "install", "--python", str(folder / "bin" / "python")] if uv else
                       [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check",
                        "--no-input", "--progress-bar", "off"])
            _run([*install, "-r", str(folder / "requirements.txt")], say, stopped)
        (folder / "ready").touch()

    def _tidy(self, keep: str) -> None:
        """Remove the longest unused environments; one that somebody holds is left."""
        ready = sorted(self._folder.glob("*/ready"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in ready[KEPT:]:
            if path.parent.name != keep and time.time() - path.stat().st_mtime > 86400:
                with suppress(OSError), _folder_lock(path.parent, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(path.parent, ignore_errors=True)


def _completed(requirements: str) -> str:
    """The requirements as they are installed. blankly's releases need a numpy below 2 and do not say so."""
    text = "\n".join(line.rstrip() for line in requirements.lstrip("\ufeff").splitlines()).strip()
    if _NUMPY_OLD.search(text) and not _NUMPY_NAMED.search(text):
        text += "\nnumpy<2"
    return text + "\n"


def _order(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else shutil.which("uv")


def _run(command: list[str], say: Say, stopped: Callable[[], bool]) -> None:
    """Run one step of an installation; every line it prints is said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WORKBENCH_", "PYTHON"))}
    last = ""
    until = time.monotonic() + INSTALL_TIMEOUT
    over = threading.Event()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", env=environment, start_new_session=True) as process:
        assert process.stdout is not None

        def watch() -> None:
            """End it when it is to end, also while it says nothing."""
            while not over.wait(LOOK):
                if stopped() or time.monotonic() > until:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)

        watching = threading.Thread(target=watch, name="installation", daemon=True)
        watching.start()
        try:
            for line in process.stdout:
                if line.strip():
                    last = _LOGIN.sub("://***@", line.strip())
                    say(last[:2000])
        finally:
            over.set()
            watching.join()
    if process.returncode < 0 and (stopped() or time.monotonic() > until):
        raise WorkbenchError("the installation was stopped" if stopped() else "the installation took too long")
    if process.returncode:
        raise WorkbenchError(f"the environment could not be made: {last[:500] or f'exit code {process.returncode}'}",
                             remedy="mend requirements.txt, or its versions for this Python")


@contextmanager
def _locked(path: Path, stopped: Callable[[], bool]) -> Iterator[None]:
    """Alone with a lock. Raises `WorkbenchError` when it is stopped while somebody else has it."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopped():
                    raise WorkbenchError("the installation was stopped") from None
                time.sleep(LOOK)
        yield


@contextmanager
def _folder_lock(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
