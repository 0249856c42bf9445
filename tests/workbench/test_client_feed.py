"""The follower against a real socket that breaks, repeats itself and leaves things out: every event once, in order."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve

from engine.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from workbench.feed import Feed


def frame(seq: int, *, id: int | None = None) -> str:
    return json.dumps({"id": id or seq + 100, "stream": "run/a", "seq": seq, "type": "log",
                       "at": "2024-01-01T00:00:00.000000Z", "data": {"n": seq}})


@asynccontextmanager
async def scripted(*acts) -> AsyncIterator[tuple[str, list[int | None]]]:
    """A server whose nth connection does the nth act; `asked` are the positions that it was asked for."""
    asked: list[int | None] = []

    async def handle(socket: ServerConnection) -> None:
        query = parse_qs(urlsplit(socket.request.path).query)
        position = query.get("after") or query.get("after_id")
        asked.append(int(position[0]) if position else None)
        act = acts[min(len(asked), len(acts)) - 1]
        await act(socket, asked[-1] or 0)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/stream", asked


async def broken_after_three(socket: ServerConnection, after: int) -> None:
    for seq in range(after + 1, after + 4):
        await socket.send(frame(seq))
    socket.transport.abort()


async def rest(socket: ServerConnection, after: int) -> None:
    for seq in range(after + 1, 11):
        await socket.send(frame(seq))
    await socket.close(1000)


async def with_repeats(socket: ServerConnection, after: int) -> None:
    for seq in (max(after - 1, 1), after or 1, *range(after + 1, 11)):
        await socket.send(frame(seq))
    await socket.close(1000)


async def with_a_hole(socket: ServerConnection, after: int) -> None:
    await socket.send(frame(after + 1))
    await socket.send(frame(after + 3))
    await socket.wait_closed()


async def going_away(socket: ServerConnection, after: int) -> None:
    await socket.send(frame(after + 1))
    await socket.close(1001, "the server is stopping")


@pytest.mark.anyio
@pytest.mark.parametrize("acts", [
    (broken_after_three, broken_after_three, rest), (broken_after_three, with_repeats),
    (with_a_hole, with_a_hole, rest), (going_away, rest), (rest,),
])
async def test_every_event_comes_once_and_in_order(acts) -> None:
    async with scripted(*acts) as (url, asked):
        seen = [event.seq async for event in Feed(url)]
    assert seen == list(range(1, 11))
    assert len(asked) == len(acts)


@pytest.mark.anyio
async def test_it_asks_from_its_position_and_tells_of_the_loss() -> None:
    told: list[bool] = []
    async with scripted(broken_after_three, rest) as (url, asked):
        seen = [event.seq async for event in Feed(url, after=4, watcher=told.append)]
    assert seen == list(range(5, 11))
    assert asked == [4, 7]
    assert told == [True, False, True]


@pytest.mark.anyio
async def test_the_firehose_goes_by_ids_that_may_have_holes() -> None:
    async def first(socket: ServerConnection, after: int) -> None:
        await socket.send(frame(1, id=5))
        await socket.send(frame(1, id=9))
        socket.transport.abort()

    async def second(socket: ServerConnection, after: int) -> None:
        await socket.send(frame(1, id=9))
        await socket.send(frame(2, id=30))
        await socket.close(1000)

    async with scripted(first, second) as (url, asked):
        seen = [event.id async for event in Feed(url, after=None, by="id", position="after_id")]
    assert seen == [5, 9, 30]
    assert asked == [None, 9]


@pytest.mark.anyio
@pytest.mark.parametrize(("reason", "kind"), [("unknown run", NotFound), ("a token is needed", Unauthenticated),
                                              ("this token lacks the scope 'read'", Forbidden)])
async def test_a_refusal_is_raised_not_tried_again(reason: str, kind: type[Exception]) -> None:
    async def refuse(socket: ServerConnection, after: int) -> None:
        await socket.close(1008, reason)

    async with scripted(refuse) as (url, asked):
        with pytest.raises(kind):
            async for _ in Feed(url):
                pass
    assert len(asked) == 1


@pytest.mark.anyio
async def test_patience_ends() -> None:
    with pytest.raises(Unavailable, match="no connection"):
        async for _ in Feed("http://127.0.0.1:9/stream", patience=0.1):
            pass
