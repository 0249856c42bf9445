"""What tests share: waiting for a condition instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["until", "wait_until"]


def wait_until(condition: Callable[[], Any], timeout: float = 10.0, message: str = "") -> Any:
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


async def until(condition: Callable[[], Any | Awaitable[Any]], timeout: float = 10.0, message: str = "") -> Any:
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
