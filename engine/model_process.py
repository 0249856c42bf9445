"""One model's process from its start to its end: what it prints, what it reports, what it uses, how it is stopped.

`ModelProcess.run` holds the calling thread until every process of the model is gone. It reads three pipes as they
fill: stdout, stderr and the one in which our reporter writes entries (JSON lines; its number is in
`WORKBENCH_ENTRIES`). Lines of one pipe keep their order. A few times a second the whole tree of processes is looked
at: more memory than the plan allows ends it, more processor time than the plan's share has it stopped and continued in
turn (SIGSTOP, SIGCONT).
"""

import contextlib
import os
import re
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson
import psutil

from engine.sandbox import Box, isolation

__all__ = ["ENTRIES", "Ending", "ModelProcess", "Usage"]

ENTRIES: Final = "WORKBENCH_ENTRIES"
MARK: Final = "WORKBENCH_MODEL_PROCESS"
PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
TICK: Final = 0.2
GRACE: Final = 4.0
"""Seconds between SIGINT and SIGKILL, as Blankly's hosting had it."""

LINE: Final = 8192
"""Bytes of a line that are kept; the rest is cut off and said to be."""

RATE: Final = 2000
"""Lines a second that are kept of each pipe; those beyond are counted and left out."""

_READ: Final = 2**16
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_CLOCK: Final = os.sysconf("SC_CLK_TCK")
_ENTRY: Final = 32 * 2**20
_PROGRESS: Final = re.compile(r"Progress:\s*\[[^\]]*\]\s*([0-9.]+)\s*%")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the model uses: bytes of memory now and at most, seconds of processor time, processes now."""

    memory: int = 0
    most: int = 0
    cpu: float = 0.0
    processes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How it ended. `reason` is "" for exit 0, else in words; `stopped` says that it was asked to."""

    code: int | None
    reason: str
    stopped: bool
    usage: Usage
    lines: int
    dropped: int
    tracebacks: int


@dataclass(slots=True)
class _Pipe:
    name: str
    rest: bytes = b""
    window: float = 0.0
    kept: int = 0
    dropped: int = 0
    cut: bool = False


@dataclass(kw_only=True, eq=False)
class ModelProcess:
    """`inner` is the command line in the box; without bubblewrap it is started in `folder`. `slot` tells models apart
    that run at once.

    `on_line(pipe, text)` hears every line ("stdout" or "stderr"), `on_entry(object)` what the reporter writes,
    `on_progress(fraction)` the progress bar, `on_usage(usage)` what it uses, about once a second.
    """

    box: Box
    inner: Sequence[str]
    slot: int = 0
    folder: Path | None = None
    on_line: Callable[[str, str], None] = lambda pipe, text: None
    on_entry: Callable[[Mapping[str, Any]], None] = lambda entry: None
    on_progress: Callable[[float], None] = lambda fraction: None
    on_usage: Callable[[Usage], None] = lambda usage: None
    grace: float = GRACE
    usage: Usage = field(default_factory=Usage)
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _lines: int = 0
    _dropped: int = 0
    _tracebacks: int = 0
    _printed: int = 0
    _past_cpu: dict[int, float] = field(default_factory=dict)

    def run(self, stopped: Callable[[], bool] = lambda: False) -> Ending:
        """Start the process and see it through. `stopped` is asked several times a second; True ends the model with
        SIGINT, and after the grace time with SIGKILL."""
        entries_read, entries_write = os.pipe()
        try:
            given = {ENTRIES: str(entries_write), MARK: self._mark}
            box = replace(self.box, environment={**self.box.environment, **given})
            with _started(box.command(self.inner, slot=self.slot), box.environment) as (command, environment, fds):
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    pass_fds=(entries_write, *fds), cwd=self.folder, start_new_session=True, env=environment)
        except OSError:
            os.close(entries_read)
            raise
        finally:
            os.close(entries_write)
        assert process.stdout is not None and process.stderr is not None
        try:
            with selectors.DefaultSelector() as selector, process.stdout, process.stderr, \
                    os.fdopen(entries_read, "rb", buffering=0) as entries:
                for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr"), (entries, "entries")):
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, selectors.EVENT_READ, _Pipe(name))
                return self._see_through(process, selector, stopped)
        finally:
            self._kill(process)
            process.wait()

    # -- the loop

    def _see_through(self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector,
                     stopped: Callable[[], bool]) -> Ending:
        began = looked = told = time.monotonic()
        reason, interrupted, asked = "", 0.0, False
        paused = 0.0  # until when the tree is held still
        while True:
            for key, _ in selector.select(TICK):
                self._read(selector, key)
            now = time.monotonic()
            if paused and now >= paused:
                self._signal(process, signal.SIGCONT)
                paused = 0.0
            if now - looked >= TICK:
                over = self._look(process, now - looked)
                looked = now
                if over and not paused and not interrupted:
                    self._signal(process, signal.SIGSTOP)
                    paused = now + over
                if now - told >= 1.0:
                    told = now
                    self.on_usage(self.usage)
            if not reason:
                reason = self._broken(now - began)
                if reason:
                    self._kill(process)
            if not asked and stopped():
                asked, interrupted = True, now
                self._signal(process, signal.SIGCONT)
                self._signal(process, signal.SIGINT)
            if interrupted and now - interrupted > self.grace:
                self._kill(process)
            if process.poll() is not None:
                self._kill(process)  # what it left behind, where no process namespace does that
                self._drain(selector)
                return self._ending(process, reason, asked)

    def _broken(self, seconds: float) -> str:
        """Which limit of the plan is broken, in words."""
        plan = self.box.plan
        if self.usage.memory > plan.memory * 2**20:
            return f"out of memory: the plan {plan.name} has {plan.memory} MiB"
        if plan.seconds is not None and seconds > plan.seconds:
            return f"time limit of {plan.seconds:g} s exceeded"
        if self._printed > plan.output * 2**20:
            return f"it printed more than the {plan.output} MiB that the plan {plan.name} allows"
        return ""

    def _ending(self, process: subprocess.Popen[bytes], reason: str, asked: bool) -> Ending:
        code = process.returncode
        if not reason and not asked and code:
            number = -code if code < 0 else code - 128 if code > 128 else 0
            with contextlib.suppress(ValueError):
                reason = f"killed by {signal.Signals(number).name}" if number else ""
            reason = reason or f"exit code {code}"
        self.on_usage(self.usage)
        return Ending(code=code, reason=reason, stopped=asked, usage=self.usage, lines=self._lines,
                      dropped=self._dropped, tracebacks=self._tracebacks)

    # -- reading

    def _read(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> bool:
        try:
            data = os.read(key.fd, _READ)
        except BlockingIOError:
            return False
        pipe: _Pipe = key.data
        if not data:
            selector.unregister(key.fileobj)
            self._flush(pipe)
            return False
        if pipe.name == "entries":
            self._entries(pipe, data)
        else:
            self._printed += len(data)
            self._text(pipe, data)
        return True

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """Read what the pipes still hold. Somebody who kept one open must not keep us."""
        until = time.monotonic() + 2.0
        for key in tuple(selector.get_map().values()):
            while self._read(selector, key) and time.monotonic() < until:
                pass
            self._flush(key.data)

    def _flush(self, pipe: _Pipe) -> None:
        rest, pipe.rest = pipe.rest, b""
        if rest and pipe.name != "entries":
            self._line(pipe, rest)
        if pipe.dropped:
            self._tell_dropped(pipe)

    def _text(self, pipe: _Pipe, data: bytes) -> None:
        *lines, pipe.rest = (pipe.rest + data).split(b"\n")
        for line in lines:
            self._line(pipe, line)
        if b"\r" in pipe.rest:
            *drawn, last = pipe.rest.split(b"\r")
            for part in filter(None, drawn):
                self._line(pipe, part)
            pipe.rest = b"\r" + last  # still a line that was drawn over: its end alone is no empty line
        if len(pipe.rest) > 2 * LINE:  # a line without an end
            self._line(pipe, pipe.rest)
            pipe.rest, pipe.cut = b"", True

    def _line(self, pipe: _Pipe, raw: bytes) -> None:
        """Tell of a line. One that was drawn over with carriage returns is told of in its parts, without the progress
        bars in it."""
        if pipe.cut:  # the rest of a line that was told of already
            pipe.cut = False
            return
        for part in raw.split(b"\r") if b"\r" in raw else (raw,):
            if b"Progress:" not in part:
                if part or part is raw:
                    self._tell(pipe, part)
            elif left := self._without_bar(part):
                self._tell(pipe, left)

    def _without_bar(self, part: bytes) -> bytes:
        text = part.decode(errors="replace")
        found = _PROGRESS.search(text)
        if not found:
            return part
        with contextlib.suppress(ValueError):
            self.on_progress(min(1.0, max(0.0, float(found[1]) / 100)))
        return (text[: found.start()] + text[found.end() :]).strip().encode()

    def _tell(self, pipe: _Pipe, raw: bytes) -> None:
        now = time.monotonic()
        if now - pipe.window >= 1.0:
            if pipe.dropped:
                self._tell_dropped(pipe)
            pipe.window, pipe.kept = now, 0
        if pipe.kept >= RATE:
            pipe.dropped += 1
            self._dropped += 1
            return
        pipe.kept += 1
        text = raw[:LINE].decode(errors="replace") + (" … (cut)" if len(raw) > LINE else "")
        if text.startswith("Traceback (most recent call last)"):
            self._tracebacks += 1
        self._lines += 1
        self.on_line(pipe.name, text.replace("\0", "\\0"))

    def _tell_dropped(self, pipe: _Pipe) -> None:
        self.on_line(pipe.name, f"… {pipe.dropped} lines left out: more than {RATE} in a second")
        pipe.dropped = 0

    def _entries(self, pipe: _Pipe, data: bytes) -> None:
        *lines, pipe.rest = (pipe.rest + data).split(b"\n")
        if len(pipe.rest) > _ENTRY:
            pipe.rest = b""
            self.on_line("stderr", f"an entry of more than {_ENTRY // 2**20} MiB was left out")
        for line in lines:
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                entry = None
            if isinstance(entry, dict):
                self.on_entry(entry)
            elif line.strip():
                self.on_line("stderr", f"not an entry: {line[:200].decode(errors='replace')}")

    # -- the tree of processes

    def _tree(self, process: subprocess.Popen[bytes]) -> list[int]:
        """Process ids of the model. Below bubblewrap nothing can leave the tree; else those that carry our mark belong
        to it too."""
        found = [process.pid, *_descendants(process.pid)]
        if isolation().kind != "bubblewrap":
            known = set(found)
            for each in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if each.pid not in known and each.environ().get(MARK) == self._mark:
                        found.append(each.pid)
        return found

    def _look(self, process: subprocess.Popen[bytes], seconds: float) -> float:
        """Take stock of memory and processor time; how long to hold the tree still, 0 while it keeps to its share."""
        memory, used = 0, 0.0
        clocks: dict[int, float] = {}
        for pid in self._tree(process):
            with contextlib.suppress(OSError, ValueError, IndexError):
                memory += _resident(pid)
                clocks[pid] = _processor_time(pid)
                used += clocks[pid] - self._past_cpu.get(pid, 0.0)
        self._past_cpu = clocks
        self.usage = Usage(memory=memory, most=max(self.usage.most, memory), cpu=self.usage.cpu + max(0.0, used),
                           processes=len(clocks))
        share = self.box.plan.cpu / 1000
        return min(1.0, used / share - seconds) if used > share * seconds * 1.1 else 0.0

    def _signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Signal the model's own processes: bubblewrap itself is passed over, or nothing could go on."""
        for pid in self._tree(process):
            with contextlib.suppress(OSError):
                if _name(pid) != "bwrap":
                    os.kill(pid, number)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        tree = self._tree(process)
        if process.poll() is None:
            process.kill()
        for pid in tree:
            if pid != process.pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


# What psutil says too, but it reads all of /proc for the children of one process, and this is asked for several times
# a second for every model.


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                for child in map(int, file.read().split()):
                    found += [child, *_descendants(child)]
    return found


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


def _processor_time(pid: int) -> float:
    with open(f"/proc/{pid}/stat", "rb") as file:
        parts = file.read().rpartition(b")")[2].split()
    return (int(parts[11]) + int(parts[12])) / _CLOCK


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().decode(errors="replace").strip()


@contextlib.contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[Any, Any, Any]]:
    """The command line, environment and files to start a box with, so that nobody reads its environment off the list
    of processes."""
    if command[0] != "bwrap":
        yield list(command), dict(environment), ()
        return
    split = command.index("--")
    options = os.memfd_create("options")
    try:
        os.write(options, b"".join(part.encode() + b"\0" for part in command[1:split]))
        os.lseek(options, 0, os.SEEK_SET)
        yield ["bwrap", "--args", str(options), *command[split:]], {"PATH": PATH}, (options,)
    finally:
        os.close(options)
