"""The processes of one model: found, looked at, signalled and ended, however they hang together.

Below bubblewrap nothing can leave the tree of the first process. Without it a process may outlive its parent and go on
elsewhere, so every process carries a mark in its environment, and those that do are the model's.

psutil says all this too, but it reads all of /proc for the children of one process, and this is asked for several times
a second for every model.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

__all__ = ["MARK", "ModelTree", "marked", "memory_of", "processor_time_of", "share_of"]

MARK: Final = "WORKBENCH_MODEL_PROCESS"
PATIENCE: Final = 5.0
"""Seconds to go after processes that start others while they are ended."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_CLOCK: Final = os.sysconf("SC_CLK_TCK")


class ModelTree:
    """`pid` is the first process; without `boxed` all that carry `mark` belong to the model too."""

    def __init__(self, pid: int, mark: str, *, boxed: bool) -> None:
        self._pid = pid
        self._mark = mark
        self._boxed = boxed
        self._strangers: set[int] = set()

    def pids(self) -> list[int]:
        """Process ids, the first one first."""
        found = [self._pid, *_descendants(self._pid)]
        return found if self._boxed else [*found, *self._elsewhere(set(found))]

    def signal(self, number: signal.Signals) -> None:
        """Signal the model's own processes: bubblewrap itself is passed over, or nothing could go on."""
        _send((pid for pid in self.pids() if _name(pid) != "bwrap"), number)

    def kill(self) -> None:
        """End all of them. Without a box they are stopped first, so that none can start others meanwhile."""
        until, known = time.monotonic() + PATIENCE, set(self.pids())
        if not self._boxed:
            new = known
            while new and time.monotonic() < until:
                _send(new, signal.SIGSTOP)
                new = set(self.pids()) - known
                known |= new
        _send(known, signal.SIGKILL)

    def _elsewhere(self, known: set[int]) -> list[int]:
        """Those with our mark beside the ones that are known. Who was a stranger once remains one."""
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._strangers &= there
        found = []
        for pid in there - self._strangers - known:
            if _mark(pid) == self._mark:
                found.append(pid)
            else:
                self._strangers.add(pid)
        return found


def marked(mark: str) -> list[int]:
    """The processes of this machine that carry a mark."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _mark(int(name)) == mark]


def memory_of(pid: int) -> int:
    """Bytes of memory that a process holds. Raises `OSError` when it is gone."""
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


def share_of(pid: int) -> int:
    """Bytes of memory that a process holds, what it shares with others counted in parts: dearer to ask for. 0 when it
    is gone; raises `PermissionError` where only the system may know."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
    return 0


def processor_time_of(pid: int) -> float:
    """Seconds of processor time that a process has used. Raises `OSError` when it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        parts = file.read().rpartition(b")")[2].split()
    return (int(parts[11]) + int(parts[12])) / _CLOCK


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _mark(pid: int) -> str | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for each in file.read().split(b"\0"):
            name, _, value = each.partition(b"=")
            if name == MARK.encode():
                return os.fsdecode(value)
    return None


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                for child in map(int, file.read().split()):
                    found += [child, *_descendants(child)]
    return found


def _name(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().decode(errors="replace").strip()
    return ""
