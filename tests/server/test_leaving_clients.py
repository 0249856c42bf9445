"""Clients that leave before they have their answer."""

import asyncio
import logging
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketClosedError

from server.dialects.base import BaseHandler
from tests.harness import running_server, until
from workbench.page_server import unless_left

pytestmark = pytest.mark.anyio


async def test_an_answer_to_nobody_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked, left = asyncio.Event(), asyncio.Event()
    off_loop = BaseHandler.off_loop

    async def late(self: BaseHandler, work: Any, *args: Any) -> Any:
        asked.set()
        await left.wait()
        return await off_loop(self, work, *args)

    async with running_server(tmp_path, rate_limit=0) as server:
        monkeypatch.setattr(BaseHandler, "off_loop", late)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        ended = asyncio.Event()
        monkeypatch.setattr(BaseHandler, "on_connection_close", lambda self: ended.set())
        writer.write(f"GET /workbench/api/models HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
                     f"Authorization: Bearer {server.services.admin_token}\r\n\r\n".encode())
        await asked.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await ended.wait()
        left.set()
        await until(lambda: any("/workbench/api/models" in str(vars(record)) for record in caplog.records
                                if record.name == "workbench.access"), message="the request did not end")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_words_to_a_browser_that_left_are_not_reported_and_mistakes_are(caplog: pytest.LogCaptureFixture) -> None:
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.addFilter(unless_left)
    try:
        for error in (WebSocketClosedError(), KeyError("a mistake")):
            asyncio_log.error("Task exception was never retrieved", exc_info=error)
        asyncio_log.error("something without an exception")
    finally:
        asyncio_log.removeFilter(unless_left)
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [KeyError, None]
