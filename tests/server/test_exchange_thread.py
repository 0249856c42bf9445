"""The thread that talks to exchanges ends what it began."""

import asyncio
import contextlib

import pytest

from engine.errors import Unavailable
from server.exchanges.thread import LoopThread

pytestmark = pytest.mark.anyio


async def test_what_ending_work_begins_is_seen_to_its_end() -> None:
    """As a line does that is cut off: closing its connection takes several turns of the loop."""
    thread, said = LoopThread("exchanges"), list[str]()

    async def hang_up() -> None:
        for _ in range(3):
            await asyncio.sleep(0.001)
        said.append("hung up")

    async def listen() -> None:
        kept = set()
        try:
            said.append("up")
            await asyncio.Event().wait()
        finally:
            kept.add(asyncio.ensure_future(hang_up()))

    listening = asyncio.ensure_future(thread.run(listen))
    while not said:
        await asyncio.sleep(0)
    await thread.close()
    assert said == ["up", "hung up"]
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    with pytest.raises(Unavailable):
        await thread.run(hang_up)
