"""Gekko's WebSocket as a client hears it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import connect


@asynccontextmanager
async def listening(server: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Everything that a server said since the connection was made; the list grows."""
    said: list[dict[str, Any]] = []
    async with connect(server.url.replace("http", "ws") + "/api", compression=None) as socket:
        async def listen() -> None:
            async for message in socket:
                said.append(json.loads(message))

        task = asyncio.create_task(listen())
        yield said
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
