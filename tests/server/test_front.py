"""The front on real sockets: which handler gets a request, bodies in pieces, connections that say nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from server.dialects.routes import UPGRADE
from server.front import Table
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, idle_timeout=4.0) as server:
        yield server


async def connect(server: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


def head(server: Any, path: str, *lines: str, method: str = "POST") -> bytes:
    host = server.url.removeprefix("http://")
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}",
                        f"Authorization: Bearer {server.services.admin_token}", *lines, "", ""]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer with a Content-Length."""
    top = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()
    length = next((int(line.partition(":")[2]) for line in top.split("\r\n") if line.lower().startswith(
        "content-length:")), 0)
    return int(top.split()[1]), await asyncio.wait_for(reader.readexactly(length), 60)


def asked(path: str, **headers: str) -> HTTPServerRequest:
    class Nobody:
        context = None

    return HTTPServerRequest(connection=Nobody(), start_line=RequestStartLine("GET", path, "HTTP/1.1"),  # type: ignore[arg-type]
                             headers=HTTPHeaders({"Host": "localhost", **headers}))


async def test_paths_find_what_the_routes_say(server: Any) -> None:
    table = Table(server.context)
    exact = table.find(asked("/workbench/api/runs"))
    placed = table.find(asked("/workbench/api/runs/a%20b%2Fc"))
    assert exact is not None and placed is not None
    assert exact[2] == {} and placed[2] == {"id": b"a b/c"}
    assert exact[1]["operations"] != placed[1]["operations"]
    assert table.find(asked("/workbench/api/runs/a/nothing/of/this")) is None
    assert table.find(asked("/nothing")) is None
    for path in server.context.routes:  # every route is found under its own path, none hides behind another
        if "{" not in path:
            plain = path.removesuffix(UPGRADE)
            assert table.find(asked(plain, **({"Upgrade": "websocket"} if plain != path else {}))) is not None, path


async def test_the_socket_at_a_path_is_found_by_its_upgrade_alone(server: Any) -> None:
    table = Table(server.context)
    assert table._upgrades, "there is a path that is both a page and a socket"
    for path, target in table._upgrades.items():
        assert table.find(asked(path, Upgrade="WebSocket")) is target
        plain = table.find(asked(path))
        assert plain is None or plain is not target


async def test_a_small_body_may_come_in_pieces_and_requests_one_after_the_other(server: Any) -> None:
    reader, writer = await connect(server)
    body = json.dumps({"name": "pieces", "scopes": ["read"]}).encode()
    for _ in range(2):  # the same connection again
        writer.write(head(server, "/workbench/api/tokens", f"Content-Length: {len(body)}",
                          "Content-Type: application/json"))
        for start in range(0, len(body), 7):
            writer.write(body[start:start + 7])
            await writer.drain()
            await asyncio.sleep(0)
        status, said = await answer(reader)
        assert status == 201, said
        assert json.loads(said)["name"] == "pieces"
    writer.close()


async def test_leave_to_send_a_body_is_given(server: Any) -> None:
    reader, writer = await connect(server)
    body = json.dumps({"name": "asked first", "scopes": ["read"]}).encode()
    writer.write(head(server, "/workbench/api/tokens", f"Content-Length: {len(body)}", "Expect: 100-continue",
                      "Content-Type: application/json"))
    assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    writer.write(body)
    assert (await answer(reader))[0] == 201
    writer.close()


async def test_a_silent_connection_is_closed_and_one_that_is_left_midway_is_forgotten(server: Any) -> None:
    front = server._http
    silent, _keep = await connect(server)
    assert await asyncio.wait_for(silent.read(), 60) == b""
    _, writer = await connect(server)
    writer.write(head(server, "/workbench/api/tokens", "Content-Length: 50", "Content-Type: application/json") + b"{")
    await until(lambda: len(server.context.in_flight) == 1)
    writer.close()
    await until(lambda: not server.context.in_flight)
    await until(lambda: not front.deadlines and not front._connections)
    _keep.close()


async def test_a_path_that_nobody_serves_is_answered_in_words(server: Any) -> None:
    reader, writer = await connect(server)
    writer.write(head(server, "/nothing/here", method="GET"))
    status, said = await answer(reader)
    assert status == 404 and b"error" in said
    writer.close()
