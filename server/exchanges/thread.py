"""A thread with an event loop of its own: what talks to exchanges builds tables of thousands of markets and parses
megabytes of JSON, and would hold up every stream if it did so on the server's loop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from engine.errors import Unavailable

__all__ = ["LoopThread"]

FAREWELL: Final = 5.0  # seconds
T = TypeVar("T")


class LoopThread:
    """Starts when it is first needed. `run` may be called from one loop, that of the server."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `await work()` gives over there. Cancelling the caller cancels the work. Raises `Unavailable` once
        closed."""
        if self._closed:
            raise Unavailable("the server is stopping", remedy="try again in a moment")

        async def called() -> T:
            return await work()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(called(), self._started()))

    def tell(self, callback: Callable[[], object]) -> None:
        """Let `callback` be called over there, some time soon; never once closed."""
        if not self._closed and self._loop is not None:
            self._loop.call_soon_threadsafe(callback)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._work, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop

    @staticmethod
    def _work(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            _cancel(loop)
            if farewells := asyncio.all_tasks(loop):  # begun by what was cancelled: connections being closed
                loop.run_until_complete(asyncio.wait(farewells, timeout=FAREWELL))
                _cancel(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def close(self) -> None:
        """Cancel what runs and end the thread; what that begins, to end well, has its time."""
        self._closed = True
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)


def _cancel(loop: asyncio.AbstractEventLoop) -> None:
    for task in (tasks := asyncio.all_tasks(loop)):
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
