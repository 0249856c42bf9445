"""Folders that models run in, and what is left of them when a server or a host is killed.

Who uses a folder holds a lock on it, which ends with its process. A folder that nobody holds is removed with
all that still runs in it: a model that went on alone would act twice beside the one that is started in its place.
"""

import fcntl
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from engine.model_tree import marked

__all__ = ["folder", "sweep"]

PREFIX: Final = f"model-{socket.gethostname()}-"
"""Another machine may have its models in the same folder, and looks after them itself."""


@contextmanager
def folder(scratch: Path) -> Iterator[Path]:
    """A new folder for one life of a model; gone at the end of the block."""
    scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _held(scratch):
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch))
            stack.callback(shutil.rmtree, made, ignore_errors=True)
            stack.enter_context(_held(made))
        yield made


def sweep(scratch: Path) -> int:
    """Remove the folders that nobody holds, and end what runs in them; how many there were. Blocks."""
    if not scratch.is_dir():
        return 0
    found = 0
    with _held(scratch):
        for each in scratch.glob(f"{PREFIX}*"):
            if _free(each):
                for pid in marked(str(each)):
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                shutil.rmtree(each, ignore_errors=True)
                found += 1
    return found


def _free(each: Path) -> bool:
    try:
        with _held(each, fcntl.LOCK_NB):
            return True
    except OSError:
        return False


@contextmanager
def _held(path: Path, how: int = 0) -> Iterator[None]:
    """Alone with a folder. Raises `BlockingIOError` with LOCK_NB when somebody else is."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)
