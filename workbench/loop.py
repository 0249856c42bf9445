"""A private event loop on a thread of its own, so that synchronous calls work inside a running notebook loop."""

import asyncio
import atexit
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


class LoopThread:
    """Runs coroutines for callers that are not asynchronous themselves. Ends with the interpreter, or on `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="workbench-client", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; an interrupt of the caller cancels it."""
        if threading.current_thread() is self._thread or not self._loop.is_running():
            work.close()
            raise RuntimeError("this client is closed, or called from its own loop; make a new one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator, as they come. Leaving the loop early ends the source too."""
        items: queue.SimpleQueue[Any] = queue.SimpleQueue()

        async def pour() -> None:
            try:
                async for item in source:
                    items.put(item)
                items.put(_END)
            except BaseException as error:
                items.put(error)
                if not isinstance(error, Exception):
                    raise

        future = asyncio.run_coroutine_threadsafe(pour(), self._loop)
        try:
            while (item := items.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop the loop and its thread; cancels what still runs."""
        atexit.unregister(self.close)
        if not self._loop.is_running():
            return

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(timeout=2)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2)
        if not self._thread.is_alive():
            self._loop.close()
