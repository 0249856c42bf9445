"""A server started in the background for whoever asks for one, and stopped with them."""

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engine.errors import Unavailable

PARENT: Final = "WORKBENCH_PARENT"
"""Environment variable that names the process with which a server ends."""


class ServerProcess:
    """`workbench serve` as a child process on a free port of this machine.

    `url` is where it listens, `token` its admin token. With `demo`, its market data is there when this is made.
    It ends with this interpreter, or on `stop()`. Raises `Unavailable` with the server's last words when it does not
    come up within `patience` seconds.
    """

    def __init__(self, *, data_dir: Path | None = None, demo: bool = True, arguments: Sequence[str] = (),
                 patience: float = 60.0) -> None:
        import secrets

        self.token = secrets.token_urlsafe(24)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if data_dir is None:
            self._folder = tempfile.TemporaryDirectory(prefix="workbench-demo-", ignore_cleanup_errors=True)
            data_dir = Path(self._folder.name)
        self.data_dir = data_dir
        command = [sys.executable, "-m", "workbench", "serve", "--no-browser", "--port", "0",
                   "--data-dir", str(data_dir), *(["--demo"] if demo else []), *arguments]
        self._lines: list[str] = []
        # In a session of its own, so that an interrupt of the notebook or the terminal cancels a run, not the server.
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, start_new_session=True,
            env={**os.environ, "WORKBENCH_TOKEN": self.token, PARENT: str(os.getpid())})
        told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(told, demo), daemon=True,
                                        name="workbench-server-output")
        self._reader.start()
        atexit.register(self.stop)
        try:
            url = told.get(timeout=patience)
        except queue.Empty:
            url = None
        if url is None:
            self.stop()
            raise Unavailable("the demo server did not start: " + (" ".join(self._lines[-5:]) or "no word from it"),
                              remedy="try `workbench doctor`, or start one yourself: workbench serve --demo")
        self.url = url

    def _read(self, told: "queue.SimpleQueue[str | None]", demo: bool) -> None:
        """Keep the last lines; tell the address once the server is ready to be used."""
        assert self._process.stdout is not None
        url = ""
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                del self._lines[:-50]
                self._lines.append(line.rstrip())
                if line.startswith("listening on "):
                    url = line.split()[-1].rstrip("/")
                if url and line.startswith(("demo report at ", "the demo could not") if demo else "listening on "):
                    told.put(url)
        told.put(None)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it gently, then firmly; safe to call again."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=8)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(timeout=2)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._folder is not None:
            self._folder.cleanup()
