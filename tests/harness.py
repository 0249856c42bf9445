"""What tests share: waiting for a condition instead of sleeping, and servers of their own."""

import asyncio
import inspect
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

__all__ = ["Held", "ServerProcess", "new_database", "running_server", "until", "wait_until"]

ROOT = Path(__file__).resolve().parents[1]


def wait_until(condition: Callable[[], Any], timeout: float = 90.0, message: str = "") -> Any:
    """Call `condition` until it gives something true, and return that; fail with `message` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(message or f"still waiting for {_source(condition)} after {timeout} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


async def until(condition: Callable[[], Any | Awaitable[Any]], timeout: float = 90.0, message: str = "") -> Any:
    """`wait_until` for coroutines: the loop goes on meanwhile; `condition` may itself be a coroutine function."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(message or f"still waiting for {_source(condition)} after {timeout} s")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _source(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


class Held:
    """The next reading or write of a database that is done for a function whose qualified name has `name` in it: it
    begins, or with `answer` is answered, when `release` is called. `reached` is set when that is all it waits for."""

    def __init__(self, db: Any, name: str, *, answer: bool = False) -> None:
        self._name, self._answer, self._armed = name, answer, True
        self.reached, self._go = asyncio.Event(), asyncio.Event()
        db.read, db.write = partial(self._call, db.read), partial(self._call, db.write)

    async def _call(self, call: Callable[[Any], Awaitable[Any]], work: Any) -> Any:
        if not self._armed or self._name not in work.__qualname__:
            return await call(work)
        self._armed = False
        found = await call(work) if self._answer else None
        self.reached.set()
        await self._go.wait()
        return found if self._answer else await call(work)

    async def wait(self) -> None:
        async with asyncio.timeout(60):
            await self.reached.wait()

    def release(self) -> None:
        self._go.set()


class ServerProcess:
    """A real server: `python -m server --port 0` in a data directory of its own (removed at `stop` unless given).

    with ServerProcess("--rate-limit", "0") as server:
        httpx.get(server.url + "/workbench/api/me", headers=server.headers)

    Without `compute` it has no pool, which saves several seconds of a processor: its scheduler is one that never is.
    `program` replaces `-m server`, for example ("-m", "workbench", "serve"). `env` adds to the environment, from which
    every WORKBENCH_ variable was taken. `output` and `errors` are what it wrote so far.
    """

    def __init__(self, *flags: str, program: tuple[str, ...] = ("-m", "server"), data_dir: Path | None = None,
                 env: Mapping[str, str] | None = None, port: int = 0, start_timeout: float = 120.0,
                 compute: bool = True) -> None:
        self._own = data_dir is None
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix="workbench-test-"))
        pool = () if compute else ("--scheduler", "tcp://127.0.0.1:9")
        self._command = [sys.executable, *program, "--port", str(port), "--data-dir", str(self.data_dir), *pool, *flags]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
        self._env = inherited | {"PYTHONUNBUFFERED": "1"} | dict(env or {})
        self._start_timeout = start_timeout
        self.url = ""
        self.process: subprocess.Popen[str]
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> "ServerProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> "ServerProcess":
        """Start and wait until it says where it listens."""
        self._lines = {"out": [], "err": []}
        self.process = subprocess.Popen(self._command, cwd=ROOT, env=self._env, text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
        said: queue.Queue[str | None] = queue.Queue()
        self._readers = [threading.Thread(target=self._read, args=(name, stream, said), daemon=True)
                         for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))]
        for reader in self._readers:
            reader.start()
        deadline = time.monotonic() + self._start_timeout
        while True:
            try:
                line = said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self.kill()
                raise AssertionError(f"the server did not start:\n{self.output}\n{self.errors}")
            if match := re.fullmatch(r"listening on (http://\S+)\n", line):
                self.url = match[1]
                return self

    def _read(self, name: str, stream: Any, said: "queue.Queue[str | None]") -> None:
        with stream:
            for line in stream:
                self._lines[name].append(line)
                if name == "out":
                    said.put(line)
        if name == "out":
            said.put(None)

    @property
    def output(self) -> str:
        return "".join(self._lines["out"])

    @property
    def errors(self) -> str:
        return "".join(self._lines["err"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def token(self) -> str:
        """The admin token: what WORKBENCH_TOKEN said, else what the server wrote into its data directory."""
        given = self._env.get("WORKBENCH_TOKEN")
        return given if given is not None else (self.data_dir / "token").read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM) and do not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 90.0) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(60)
        return code

    def stop(self, timeout: float = 90.0) -> int:
        """Ask it to stop, wait, and remove its data directory; its exit code."""
        try:
            if self.process.poll() is None:
                self.terminate()
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop:\n{self.errors}") from None
        finally:
            if self._own:
                shutil.rmtree(self.data_dir, ignore_errors=True)

    def kill(self) -> None:
        """End it and its workers at once, as a power cut would (kill -9); the data directory stays."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()


def new_database(path: Path) -> Path:
    """A SQLite database at `path` that has its tables and nothing in them, if there is none yet; `path`.

    The migrations run once in a process; what they made is copied, which is many times faster.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(_migrated())
    return path


@cache
def _migrated() -> bytes:
    from server.store import schema

    with tempfile.TemporaryDirectory(prefix="workbench-test-") as folder:
        path = Path(folder) / "workbench.sqlite"
        schema.upgrade(path)
        return path.read_bytes()


@asynccontextmanager
async def running_server(data_dir: Path, *, compute: bool = False, **settings: Any) -> AsyncIterator[Any]:
    """A `server.app.Server` in this loop, listening on a free port of loopback; without `compute` no pool starts.

    async with running_server(tmp_path, rate_limit=0) as server:
        server.services, server.url, server.services.admin_token
    """
    from server.app import Server
    from server.config import Config

    if "database_url" not in settings:
        new_database(data_dir / "workbench.sqlite")
    server = Server(Config(**{"data_dir": data_dir, "port": 0, "api_only": True, "shutdown_timeout": 2.0} | settings))
    await server.start(compute=compute)
    try:
        yield server
    finally:
        await server.stop()
