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

from engine.model_tree import MARK, ModelTree, memory_of, processor_time_of, share_of
from engine.sandbox import Box, isolation

__all__ = ["ENTRIES", "Ending", "ModelProcess", "Usage"]

ENTRIES: Final = "WORKBENCH_ENTRIES"
PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
TICK: Final = 0.2
GRACE: Final = 4.0
"""Seconds between SIGINT and SIGKILL, as Blankly's hosting had it."""

LINE: Final = 8192
"""Bytes of a line that are kept; the rest is cut off and said to be."""

SILENT: Final = 60.0
"""Seconds without a beat after which a model that used to beat does not answer."""

RATE: Final = 2000
"""Lines a second that are kept of each pipe; those beyond are counted and left out."""

WEIGH: Final = 1.0
"""Seconds between looks at its files, where no box limits them."""

_READ: Final = 2**16
_ENTRY: Final = 32 * 2**20
_PROGRESS: Final = re.compile(r"Progress:\s*\[[^\]]*\]\s*([0-9.]+)\s*%")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the model uses: bytes of memory now and at most, seconds of processor time, processes now; and whether it
    answers: one that has begun to say that it is alive, and then said so no more, does not."""

    memory: int = 0
    most: int = 0
    cpu: float = 0.0
    processes: int = 0
    answers: bool = True


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

    Where there is no box, `mark` tells the model's processes from others, and `disk` is the folder whose size the plan
    limits (`folder` unless it is given).

    `on_line(pipe, text)` hears every line ("stdout" or "stderr"), `on_entry(object)` what the reporter writes,
    `on_progress(fraction)` the progress bar, `on_usage(usage)` what it uses, about once a second.
    """

    box: Box
    inner: Sequence[str]
    slot: int = 0
    folder: Path | None = None
    disk: Path | None = None
    on_line: Callable[[str, str], None] = lambda pipe, text: None
    on_entry: Callable[[Mapping[str, Any]], None] = lambda entry: None
    on_progress: Callable[[float], None] = lambda fraction: None
    on_usage: Callable[[Usage], None] = lambda usage: None
    grace: float = GRACE
    usage: Usage = field(default_factory=Usage)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _lines: int = 0
    _dropped: int = 0
    _tracebacks: int = 0
    _printed: int = 0
    _unwinding: bool = False
    _raised: str = ""
    _past_cpu: dict[int, float] = field(default_factory=dict)
    _beat: float = 0.0
    _weighed: float = 0.0
    _weight: int = 0
    _boxed: bool = field(init=False)
    _tree: ModelTree = field(init=False)

    def run(self, stopped: Callable[[], bool] = lambda: False) -> Ending:
        """Start the process and see it through. `stopped` is asked several times a second; True ends the model with
        SIGINT, and after the grace time with SIGKILL."""
        entries_read, entries_write = os.pipe()
        try:
            given = {ENTRIES: str(entries_write), MARK: self.mark}
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
        self._boxed = isolation().kind == "bubblewrap"
        self._tree = ModelTree(process.pid, self.mark, boxed=self._boxed)
        try:
            with selectors.DefaultSelector() as selector, process.stdout, process.stderr, \
                    os.fdopen(entries_read, "rb", buffering=0) as entries:
                for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr"), (entries, "entries")):
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, selectors.EVENT_READ, _Pipe(name))
                return self._see_through(process, selector, stopped)
        finally:
            self._tree.kill()
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
                self._tree.signal(signal.SIGCONT)
                paused = 0.0
            if now - looked >= TICK:
                over = self._look(now - looked)
                looked = now
                if over and not paused and not interrupted:
                    self._tree.signal(signal.SIGSTOP)
                    paused = now + over
                if now - told >= 1.0:
                    told = now
                    self.on_usage(self.usage)
            if not reason:
                reason = self._broken(now - began)
                if reason:
                    self._tree.kill()
            if not asked and stopped():
                asked, interrupted = True, now
                self._tree.signal(signal.SIGCONT)
                self._tree.signal(signal.SIGINT)
            if interrupted and now - interrupted > self.grace:
                self._tree.kill()
            if process.poll() is not None:
                self._tree.kill()  # what it left behind, where no process namespace does that
                self._drain(selector)
                return self._ending(process, reason, asked)

    def _broken(self, seconds: float) -> str:
        """Which limit of the plan is broken, in words."""
        plan = self.box.plan
        if self.usage.memory > plan.memory * 2**20:
            return f"out of memory: the plan {plan.name} has {plan.memory} MiB"
        if plan.seconds is not None and seconds > plan.seconds:
            return f"time limit of {plan.seconds:g} s exceeded"
        if not self._boxed and self.usage.processes > plan.processes:  # in a box the system holds it to that
            return f"more than the {plan.processes} processes that the plan {plan.name} allows"
        if not self._boxed and self._written() > plan.disk * 2**20:
            return f"its files take more than the {plan.disk} MiB that the plan {plan.name} allows"
        if self._printed > plan.output * 2**20:
            return f"it printed more than the {plan.output} MiB that the plan {plan.name} allows"
        return ""

    def _written(self) -> int:
        """Bytes of the files below its folder; looked up once a second."""
        now = time.monotonic()
        if (folder := self.disk or self.folder) is not None and now - self._weighed >= WEIGH:
            self._weighed, self._weight = now, 0
            for path, _, names in os.walk(folder):
                for name in names:
                    with contextlib.suppress(OSError):
                        self._weight += os.lstat(os.path.join(path, name)).st_blocks * 512
        return self._weight

    def _ending(self, process: subprocess.Popen[bytes], reason: str, asked: bool) -> Ending:
        code = process.returncode
        if not reason and not asked and code:
            number = -code if code < 0 else code - 128 if code > 128 else 0
            with contextlib.suppress(ValueError):
                reason = f"killed by {signal.Signals(number).name}" if number else ""
            reason = reason or (f"{self._raised[:300]} (exit code {code})" if self._raised else f"exit code {code}")
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
        began = text.startswith("Traceback (most recent call last)")
        self._tracebacks += began
        if pipe.name == "stderr":  # the line that ends a traceback is what it died of, if it is the last of all
            self._raised = text if self._unwinding and text[:1].strip() else ""
            self._unwinding = began or (self._unwinding and not self._raised)
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
                if entry.get("kind") == "beat":
                    self._beat = time.monotonic()
                else:
                    self.on_entry(entry)
            elif line.strip():
                self.on_line("stderr", f"not an entry: {line[:200].decode(errors='replace')}")

    # -- the tree of processes

    def _look(self, seconds: float) -> float:
        """Take stock of memory and processor time; how long to hold the tree still, 0 while it keeps to its share."""
        memory, used = 0, 0.0
        clocks: dict[int, float] = {}
        for pid in self._tree.pids():
            with contextlib.suppress(OSError, ValueError, IndexError):
                memory += memory_of(pid)
                clocks[pid] = processor_time_of(pid)
                used += clocks[pid] - self._past_cpu.get(pid, 0.0)
        self._past_cpu = clocks
        if memory > self.box.plan.memory * 2**20:  # forked processes share most of what each of them holds
            with contextlib.suppress(PermissionError):
                memory = sum(map(share_of, clocks))
        self.usage = Usage(memory=memory, most=max(self.usage.most, memory), cpu=self.usage.cpu + max(0.0, used),
                           processes=len(clocks),
                           answers=not self._beat or time.monotonic() - self._beat < SILENT)
        share = self.box.plan.cpu / 1000
        return min(1.0, used / share - seconds) if used > share * seconds * 1.1 else 0.0


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
