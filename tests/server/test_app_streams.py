"""Streams over real WebSockets: order, resume, slow readers, close codes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from engine.errors import NotFound
from engine.model import Event
from server.dialects.routes import Answer, Query, Route
from server.dialects.streams import StreamHandler, frame_of
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio


class NumbersHandler(StreamHandler):
    """Follows `probe/{name}` until an event of type "end"."""

    rendered = 0

    async def events(self, name: str) -> AsyncIterator[Event]:
        if name == "unknown":
            raise NotFound("there is no such stream")
        if name == "broken":
            raise KeyError("a bug")
        async for event in self.services.events.follow(f"probe/{name}", self.query["after"]):
            yield event
            if event.type == "end":
                return

    def render(self, event: Event) -> bytes | None:
        type(self).rendered += 1
        return None if event.type == "quiet" else super().render(event)  # type: ignore[return-value]


class HandshakeHandler(NumbersHandler):
    refusals = "handshake"


class Probe:
    @staticmethod
    def routes(services: Any) -> list[Route]:
        query = (Query(name="after", kind="integer", default=0, low=0),)
        return [Route(methods="GET", path=f"/{path}/{{name}}", handler=handler, auth="read", summary="numbers",
                      query=query, websocket=True, answers={101: Answer(doc="the stream")})
                for path, handler in (("numbers", NumbersHandler), ("strict", HandshakeHandler))]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    import server.app

    monkeypatch.setattr(server.app, "DIALECTS", (*server.app.DIALECTS, Probe))
    NumbersHandler.rendered = 0
    async with running_server(tmp_path, rate_limit=0) as running:
        yield running


def link(server: Any, path: str, *, token: str | None = None, origin: str | None = None, **options: Any) -> connect:
    token = server.services.admin_token if token is None else token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return connect(server.url.replace("http", "ws") + path, additional_headers=headers, origin=origin,  # type: ignore
                   proxy=None, **options)


async def tell(server: Any, name: str, count: int, type: str = "number", **data: Any) -> None:
    events = server.services.events
    await server.services.db.write(lambda connection: [
        events.append(connection, f"probe/{name}", type, {"number": number, **data}) for number in range(count)])


async def closing(socket: Any) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 10)
    return socket.close_code, socket.close_reason


async def test_backlog_and_news_come_in_order_and_the_end_closes_with_1000(server: Any) -> None:
    await tell(server, "a", 5)
    async with link(server, "/numbers/a") as stream:
        first = [json.loads(await stream.recv()) for _ in range(5)]
        await tell(server, "a", 3)
        await tell(server, "a", 1, "end")
        rest = [json.loads(await stream.recv()) for _ in range(4)]
        assert await closing(stream) == (1000, "")
    events = first + rest
    assert [event["seq"] for event in events] == list(range(1, 10))
    assert set(events[0]) == {"id", "stream", "seq", "type", "at", "data"}
    assert events[0]["at"].endswith("Z") and events[0]["data"] == {"number": 0}
    await until(lambda: not server.context.streams)


async def test_a_reader_resumes_where_it_was(server: Any) -> None:
    await tell(server, "a", 10)
    async with link(server, "/numbers/a?after=7") as stream:
        assert [json.loads(await stream.recv())["seq"] for _ in range(3)] == [8, 9, 10]


async def test_an_event_is_encoded_once_for_all(server: Any) -> None:
    await tell(server, "a", 50)
    await tell(server, "a", 1, "end")

    async def read() -> int:
        async with link(server, "/numbers/a") as stream:
            return len([message async for message in stream])

    assert await asyncio.gather(*(read() for _ in range(20))) == [51] * 20
    assert NumbersHandler.rendered == 51


async def test_what_is_not_rendered_is_left_out(server: Any) -> None:
    await tell(server, "a", 2, "quiet")
    await tell(server, "a", 1, "end")
    async with link(server, "/numbers/a") as stream:
        assert [json.loads(message)["seq"] async for message in stream] == [3]


@pytest.mark.parametrize("size", [0, 1, 60, 61, 125, 126, 65535, 65536, 200_000])
async def test_frames_of_every_size(server: Any, size: int) -> None:
    assert frame_of(b"x" * size).endswith(b"x" * size)
    await tell(server, "a", 1, "end", text="x" * size)
    async with link(server, "/numbers/a", max_size=None) as stream:
        assert len(json.loads(await stream.recv())["data"]["text"]) == size


@pytest.mark.parametrize(("path", "code", "reason"), [
    ("/numbers/unknown", 1008, "there is no such stream"), ("/numbers/a?after=x", 1008, "the query is not valid"),
    ("/numbers/a?after=-1", 1008, "the query is not valid"),
])
async def test_what_cannot_be_followed_closes_with_1008(server: Any, path: str, code: int, reason: str) -> None:
    async with link(server, path) as stream:
        assert await closing(stream) == (code, reason)


async def test_a_bug_closes_with_1011_and_tells_nothing(server: Any) -> None:
    async with link(server, "/numbers/broken") as stream:
        code, reason = await closing(stream)
    assert code == 1011 and "bug" not in reason


async def test_bad_tokens_close_with_1008_or_are_refused_at_the_handshake(server: Any) -> None:
    async with link(server, "/numbers/a", token="wrong") as stream:
        assert await closing(stream) == (1008, "this token is not valid")
    async with link(server, "/numbers/a", token="") as stream:
        assert (await closing(stream))[0] == 1008
    with pytest.raises(InvalidStatus) as refused:
        async with link(server, "/strict/a", token="wrong"):
            pass
    assert refused.value.response.status_code == 401
    _, text = await server.services.users.create("bot", ["ingest"])
    async with link(server, "/numbers/a", token=text) as stream:
        assert (await closing(stream))[0] == 1008


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
async def test_foreign_pages_are_refused_even_with_a_token(server: Any, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with link(server, "/numbers/a", origin=origin):
            pass
    assert refused.value.response.status_code == 403


async def test_our_own_pages_follow_with_their_session(server: Any) -> None:
    import httpx

    await tell(server, "a", 1, "end")
    async with httpx.AsyncClient(base_url=server.url) as client:
        await client.post("/login", data={"token": server.services.admin_token})
        [cookie] = client.cookies.jar
    async with connect(server.url.replace("http", "ws") + "/numbers/a", origin=server.url, proxy=None,  # type: ignore
                       additional_headers={"Cookie": f"{cookie.name}={cookie.value}"}) as stream:
        assert json.loads(await stream.recv())["type"] == "end"


async def test_a_plain_request_is_told_to_upgrade(server: Any) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get("/numbers/a")
        assert answer.status_code == 426 and answer.headers["Upgrade"] == "websocket"
        assert answer.json()["error"]["code"] == "upgrade_required"
        assert (await client.post("/numbers/a")).status_code == 405


async def test_a_reader_that_never_reads_does_not_fill_memory_and_misses_nothing(server: Any) -> None:
    """32 MB wait for a client that reads nothing; the server buffers about one of them, and goes on when it reads."""
    text = "x" * 32_000
    await tell(server, "a", 1000, text=text)
    await tell(server, "a", 1, "end")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    narrow.connect(("127.0.0.1", server.port))
    narrow.setblocking(False)
    async with link(server, "/numbers/a", sock=narrow, max_queue=1, max_size=None) as stream:
        await until(lambda: server.context.streams)
        [handler] = server.context.streams
        await until(lambda: handler._unsent > 2**20 - 100_000)
        await asyncio.sleep(0.2)  # it has had the time to go on, and must not have
        assert handler._unsent < 2**20 + 100_000
        quick = 0
        async with link(server, "/numbers/a", max_size=None) as other:  # another reader is not held up
            async for _ in other:
                quick += 1
        assert quick == 1001
        seen = [json.loads(message)["seq"] async for message in stream]
    assert seen == list(range(1, 1002))


async def test_a_reader_that_leaves_is_forgotten(server: Any) -> None:
    async with link(server, "/numbers/a"):
        await until(lambda: server.context.streams)
    await until(lambda: not server.context.streams)
    stream = await link(server, "/numbers/a")
    await until(lambda: server.context.streams)
    stream.transport.abort()
    await until(lambda: not server.context.streams)


async def test_stopping_closes_streams_with_1001(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import server.app

    monkeypatch.setattr(server.app, "DIALECTS", (*server.app.DIALECTS, Probe))
    async with running_server(tmp_path) as running:
        stream = await link(running, "/numbers/a")
        await until(lambda: running.context.streams)
    assert await closing(stream) == (1001, "the server is stopping")
