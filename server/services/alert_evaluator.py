"""The server's end of the detection process (`engine.alert_worker`): begun at its first request, ended with the server.

Compiled steps would cost the server's process their compiler, and its loop the time they take; so they run next door.
"""

import asyncio
import pickle
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engine.errors import Unavailable, WorkbenchError

__all__ = ["Evaluator"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_START: Final = ("import sys; from engine.worker import keep_compiled; keep_compiled(sys.argv[2]); "
                 "from engine.alert_worker import main; main(sys.argv[1:2])")
"""Where machine code is kept must be said before the compiler is imported."""


class Evaluator:
    """One process, one request at a time. `life` counts the processes begun: a new one remembers nothing."""

    def __init__(self, *, compiled: Path, niceness: int = 5) -> None:
        self._compiled = compiled
        self._niceness = niceness
        self._process: asyncio.subprocess.Process | None = None
        self._alone = asyncio.Lock()
        self.life = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; raises `Unavailable` when the process died, `WorkbenchError` with what it could not do."""
        async with self._alone:
            process = await self._running()
            assert process.stdin is not None and process.stdout is not None
            body = pickle.dumps(request, protocol=5)
            try:
                process.stdin.write(struct.pack(">Q", len(body)) + body)
                await process.stdin.drain()
                (length,) = struct.unpack(">Q", await process.stdout.readexactly(8))
                answer = await process.stdout.readexactly(length)
            except (OSError, asyncio.IncompleteReadError):
                await self._end()
                raise Unavailable("the detection process died", remedy="try again: it is started anew") from None
            except BaseException:  # half an answer would be taken for the next one's
                await self._end()
                raise
        reply: dict[str, Any] = await asyncio.to_thread(pickle.loads, answer)
        if "error" in reply:
            raise WorkbenchError(f"detection failed: {reply['error']}")
        return reply

    async def close(self) -> None:
        """End the process."""
        async with self._alone:
            await self._end()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._end()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _START, str(self._niceness), str(self._compiled), cwd=_ROOT,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        except OSError as error:
            raise Unavailable(f"the detection process cannot be started: {error.strerror}") from None
        self.life += 1
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()  # it keeps nothing
        await process.wait()
        # The transport closes when its pipes have ended; until then it would be found open by the collector.
        transport = process._transport  # type: ignore[attr-defined]
        transport.close()
