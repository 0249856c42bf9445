"""What a bot reports, on disk until the server has it.

Entries are lines of numbered files that are only appended to, written before the call that reports returns: they
survive the end of the process, however it ends. What is being sent is written down first (file, from, to); so after a
crash the very same lines go out again under the very same key, and the server keeps them once.
"""

import contextlib
import os
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Batch", "Fsync", "Spool", "free_folder"]

Fsync = Literal["never", "batch", "always"]
"""When the disk is made to hold what was written: never by us, before each batch goes out, or within each call. The
process may die in any way; the policy is about power cuts."""

SEGMENT: Final = 16 * 2**20
RESERVE: Final = 0.1  # of the room, kept for orders and state
_POSITION: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Lines to send together under one key."""

    key: str
    body: bytes
    count: int
    segment: int
    start: int
    end: int


class Spool:
    """An append-only queue in a folder. Safe for many writing threads and one that sends.

    most: bytes of waiting entries from which on no more are taken. Raises `OSError` when the folder cannot be used and
    `BlockingIOError` when another process uses it.
    """

    def __init__(self, folder: Path, *, fsync: Fsync = "batch", most: int = 2**30, segment: int = SEGMENT) -> None:
        self.folder = folder
        self._fsync = fsync
        self._most = most
        self._rotate = segment
        self._lock = threading.RLock()  # a signal handler may report while its thread is reporting
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._guard = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._position = os.open(folder / "position", os.O_RDWR | os.O_CREAT, 0o600)
            self._recover()
        except BaseException:
            os.close(self._guard)
            raise

    def _own_id(self, *, new: bool = False) -> str:
        """A name for the keys of this folder, made with it."""
        path = self.folder / "id"
        if new or not path.exists() or not path.read_text().strip():
            partial = self.folder / "id.partial"
            partial.write_text(secrets.token_hex(12))
            partial.replace(path)
        return path.read_text().strip()

    def _recover(self) -> None:
        numbers = sorted(int(path.stem) for path in self.folder.glob("*.ndjson") if path.stem.isdigit())
        try:
            segment, start, end = map(int, os.pread(self._position, _POSITION, 0).split())
        except ValueError:
            segment, start, end = (numbers[0] if numbers else 1), 0, 0
        for number in [number for number in numbers if number < segment]:
            self._path(number).unlink()
        numbers = [number for number in numbers if number >= segment]
        if segment not in numbers:  # what it pointed to is gone: begin with what there is
            segment, start, end = (numbers[0] if numbers else segment), 0, 0
        size = self._path(segment).stat().st_size if segment in numbers else 0
        # A power cut may have taken what was not on the disk yet; the same places must not mean other lines then.
        self._id = self._own_id(new=max(start, end) > size)
        self._read, self._start, self._end = segment, min(start, size), min(end, size)
        start = self._start
        self._write = numbers[-1] if numbers else segment
        self.waiting = self.bytes = 0
        for number in numbers:
            self._count(number, start if number == segment else 0)
        self._open()

    def _count(self, number: int, start: int) -> None:
        """Count what waits in a file, and cut off a line that was not written whole."""
        with self._path(number).open("rb+") as file:
            file.seek(start)
            whole = start
            while piece := file.readline():
                if not piece.endswith(b"\n"):
                    file.truncate(whole)
                    if number == self._read and self._end > whole:
                        self._end, self._id = whole, self._own_id(new=True)
                    break
                whole += len(piece)
                self.waiting += 1
        self.bytes += whole - start

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.ndjson"

    def _open(self) -> None:
        self._file = os.open(self._path(self._write), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def _next_file(self) -> None:
        """Go on in another file; when it cannot be made, nothing has changed."""
        full = self._file
        if self._fsync != "never":
            os.fsync(full)
        self._write += 1
        try:
            self._open()
        except OSError:
            self._write -= 1
            raise
        os.close(full)

    # -- writing

    def append(self, line: bytes, *, important: bool = False) -> bool:
        """Take one entry (without its line end); False when there is no more room. Raises `OSError`."""
        data = line + b"\n"
        with self._lock:
            room = self._most if important else self._most * (1 - RESERVE)
            if self.bytes + len(data) > room:
                return False
            if self._size >= self._rotate:
                self._next_file()
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._file, data[written:])
            except OSError:
                with contextlib.suppress(OSError):  # a full disk took a part: nobody may read half a line
                    os.truncate(self._path(self._write), self._size)
                raise
            if self._fsync == "always":
                os.fsync(self._file)
            self._size += len(data)
            self.bytes += len(data)
            self.waiting += 1
        return True

    # -- sending

    def next(self, *, most_bytes: int, most_lines: int) -> Batch | None:
        """The oldest entries, written down as being sent; None when there are none. The same again until `done`."""
        with self._lock:
            while True:
                if self._end > self._start:
                    data = self._slice(self._start, self._end)
                    break
                ends = self._size if self._read == self._write else self._path(self._read).stat().st_size
                if self._start < ends:
                    data = _whole_lines(self._slice(self._start, min(ends, self._start + most_bytes)), most_lines)
                    if not data:  # one long line
                        data = _whole_lines(self._slice(self._start, ends), 1)
                    self._note(self._start, self._start + len(data))
                    break
                if self._read == self._write:
                    return None
                self._path(self._read).unlink()
                self._read += 1
                self._note(0, 0)
            return Batch(key=f"{self._id}-{self._read}-{self._start}-{self._end}", body=data, count=data.count(b"\n"),
                         segment=self._read, start=self._start, end=self._end)

    def done(self, batch: Batch) -> None:
        """The server has it."""
        with self._lock:
            self._note(batch.end, batch.end)
            self.waiting -= batch.count
            self.bytes -= len(batch.body)

    def shrink(self, batch: Batch) -> bool:
        """Send only the first half of it next; False when it is one line."""
        with self._lock:
            if batch.count < 2:
                return False
            half = _whole_lines(batch.body, batch.count // 2)
            self._note(batch.start, batch.start + len(half))
            return True

    def keep_refused(self, lines: bytes) -> Path:
        """Put aside what the server will not have, for a person to look at; where."""
        path = self.folder / "refused.ndjson"
        with path.open("ab") as file:
            file.write(lines)
        return path

    def _slice(self, start: int, end: int) -> bytes:
        with self._path(self._read).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def _note(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        os.pwrite(self._position, f"{self._read} {start} {end}".ljust(_POSITION).encode(), 0)
        if self._fsync != "never" and end > start:
            if self._read == self._write:
                os.fsync(self._file)
            os.fsync(self._position)

    def close(self) -> None:
        """Let go of the folder, and remove it when nothing is left in it."""
        with self._lock:
            os.close(self._file)
            os.close(self._position)
            if not self.waiting and not (self.folder / "refused.ndjson").exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._guard)


def _whole_lines(data: bytes, most: int) -> bytes:
    """At most `most` whole lines from the beginning of `data`."""
    end = at = 0
    for _ in range(most):
        at = data.find(b"\n", end)
        if at < 0:
            break
        end = at + 1
    return data[:end]


def free_folder(base: Path, name: str) -> list[Path]:
    """The folders that a bot of this name may use, in order: two at once must not share one."""
    return [base / name, *(base / f"{name}-{number}" for number in range(2, 100))]
