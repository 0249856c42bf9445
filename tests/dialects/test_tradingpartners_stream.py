"""The alert stream over real sockets: grammar, credits, resuming, slow readers, ends."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse

from server.dialects import tradingpartners_desk, tradingpartners_stream
from tests.harness import ServerProcess, running_server, until

pytestmark = pytest.mark.anyio
STREAM = "/api/v1/alerts"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
PING = rb'event: ping\ndata: \{"ping":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"\}\n\n'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as running:
        yield running


async def subscribe(server: Any, name: str = "ann", credits: int = 10, **values: Any) -> tuple[int, dict[str, str]]:
    """A subscriber's number and headers."""
    services = server.services
    made = await services.subscribers.create(f"{name}@example.org", **{"access": "FULL"} | values)
    if credits:
        await services.credits.grant(made.id, credits)
    return made.id, {"Authorization": f"Bearer {await services.subscribers.issue(made.id)}"}


async def detect(server: Any, ticker: str = "BTC/USD", instrument: str = "CRYPTOCURRENCIES",
                 duration: str = "short") -> int:
    alert = await server.services.alerts.create(instrument=instrument, ticker=ticker, start=69002.0, target=69872.4,
                                                stop=68997.0, duration_strategy=duration)
    return alert.id


async def live(server: Any, id: int, exit: float | None = 69870.4) -> None:
    """An alert's life after its detection; without an exit it is aborted."""
    if exit is None:
        await server.services.alerts.move(id, "aborted")
    else:
        await server.services.alerts.move(id, "onGoing")
        await server.services.alerts.move(id, "closed", exit=exit)


class Listener:
    """Reads a stream with a client library until `stop`. `pings` are kept apart."""

    def __init__(self, source: Any) -> None:
        self.response = source.response
        self.events: list[ServerSentEvent] = []
        self.pings = 0
        self.task = asyncio.create_task(self._read(source))

    async def _read(self, source: Any) -> None:
        async for event in source.aiter_sse():
            if event.event == "ping":
                self.pings += 1
            else:
                self.events.append(event)

    async def take(self, count: int) -> list[dict[str, Any]]:
        """The data of the first `count` events, with their names."""
        await until(lambda: len(self.events) >= count or self.task.done())
        assert len(self.events) >= count, "the stream ended"
        return [{"event": event.event, **event.json()} for event in self.events[:count]]

    async def ended(self) -> None:
        await asyncio.wait_for(self.task, 60)


@asynccontextmanager
async def listening(server: Any, headers: dict[str, str], last: str | int | None = None) -> AsyncIterator[Listener]:
    more = {} if last is None else {"Last-Event-ID": str(last)}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client, \
            aconnect_sse(client, "GET", STREAM, headers=headers | more) as source:
        assert source.response.status_code == 200, await source.response.aread()
        listener = Listener(source)
        await until(lambda: listener.pings)
        try:
            yield listener
        finally:
            listener.task.cancel()


async def raw(server: Any, headers: dict[str, str], version: str = "1.1") -> tuple[Any, Any, bytes]:
    """A connection that asked for the stream, and the answer's head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    lines = [f"GET {STREAM} HTTP/{version}", f"Host: 127.0.0.1:{server.port}", "Accept-Encoding: gzip",
             *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    return reader, writer, await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)


async def test_an_alerts_life_is_told_byte_for_byte(server: Any) -> None:
    id, headers = await subscribe(server)
    reader, writer, head = await raw(server, headers, "1.0")  # no chunks around the blocks
    assert b"Content-Type: text/event-stream\r\n" in head and b"Content-Encoding" not in head
    assert re.fullmatch(PING, await asyncio.wait_for(reader.readuntil(b"\n\n"), 60))
    alert = await detect(server)
    await live(server, alert)
    blocks = [await asyncio.wait_for(reader.readuntil(b"\n\n"), 60) for _ in range(3)]
    token = (await server.services.credits.of_alert(alert))[id].token
    at = r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z'
    wanted = [
        rf'id: 1\nevent: working\ndata: {{"durationStrategy":"short","id":{alert},"instrument":"CRYPTOCURRENCIES",'
        rf'"start":69002,"startedAt":"{at}","stop":68997,"target":69872\.4,"ticker":"BTC/USD","token":"{token}"}}\n\n',
        rf'id: 2\nevent: onGoing\ndata: {{"id":{alert},"token":"{token}"}}\n\n',
        rf'id: 3\nevent: closed\ndata: {{"id":{alert},"exit":69870\.4,"gain":868\.\d+,"closedAt":"{at}",'
        rf'"token":"{token}","tokenState":"CONSUMED"}}\n\n']
    for block, pattern in zip(blocks, wanted, strict=True):
        assert re.fullmatch(pattern.encode(), block), block
    assert re.fullmatch(UUID, token)
    writer.close()
    await until(lambda: not server.context.streams)


async def test_chunks_are_whole_blocks_and_head_and_ping_come_at_once(server: Any) -> None:
    _, headers = await subscribe(server)
    reader, writer, head = await raw(server, headers)
    assert b"Transfer-Encoding: chunked\r\n" in head and b"Content-Encoding" not in head
    assert b"X-Accel-Buffering: no" in head and b"no-transform" in head

    async def chunk() -> bytes:
        size = int(await reader.readline(), 16)
        return (await reader.readexactly(size + 2))[:-2]

    assert re.fullmatch(PING, await asyncio.wait_for(chunk(), 5))
    await detect(server)
    block = await asyncio.wait_for(chunk(), 60)
    assert block.startswith(b"id: 1\nevent: working\ndata: {") and block.endswith(b"}\n\n") and block.count(b"\n") == 4
    writer.close()


async def test_a_ping_comes_at_connect_and_again_and_again(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tradingpartners_desk.PING < 15
    monkeypatch.setattr(tradingpartners_desk, "PING", 0.05)
    _, headers = await subscribe(server)
    async with listening(server, headers) as listener:
        await until(lambda: listener.pings >= 4)
        assert not listener.events


@pytest.mark.parametrize(("exit", "state", "balance"), [
    pytest.param(69870.4, "CONSUMED", 9, id="won"), pytest.param(68000.0, "REIMBURSED", 10, id="lost"),
    pytest.param(None, "REIMBURSED", 10, id="aborted")])
async def test_a_credit_is_used_and_settled(server: Any, exit: float | None, state: str, balance: int) -> None:
    id, headers = await subscribe(server)
    async with listening(server, headers) as listener:
        alert = await detect(server)
        await listener.take(1)
        assert (await server.services.subscribers.get(id)).balance == 9
        await live(server, alert, exit)
        count = 2 if exit is None else 3
        told = await listener.take(count)
    assert [each["event"] for each in told] == ["working", "aborted"] if exit is None else ["working", "onGoing",
                                                                                             "closed"]
    assert told[-1]["tokenState"] == state and len({each["token"] for each in told}) == 1
    assert (await server.services.subscribers.get(id)).balance == balance
    assert await server.services.credits.unbalanced() == {}


async def test_every_subscriber_has_a_token_of_its_own_and_all_connections_of_one_share_it(server: Any) -> None:
    _, ann = await subscribe(server, "ann")
    bob_id, bob = await subscribe(server, "bob")
    async with listening(server, ann) as first, listening(server, ann) as second, listening(server, bob) as third:
        alert = await detect(server)
        await live(server, alert)
        told = [await each.take(3) for each in (first, second, third)]
    assert told[0] == told[1]
    assert told[2][0]["token"] != told[0][0]["token"]
    assert {**told[2][0], "token": ""} == {**told[0][0], "token": ""}
    assert (await server.services.subscribers.get(bob_id)).balance == 9


async def test_preferences_choose_alerts_and_changes_count_at_once(server: Any) -> None:
    id, headers = await subscribe(server, instruments=["FOREX"], durations=["long"])
    async with listening(server, headers) as listener, httpx.AsyncClient(base_url=server.url) as client:
        for instrument, duration in (("FOREX", "short"), ("STOCKS", "long"), ("FOREX", "long")):
            await detect(server, f"{instrument} {duration}", instrument, duration)
        assert (await listener.take(1))[0]["ticker"] == "FOREX long"
        answer = await client.put("/api/v1/users/preferences", headers=headers, json={"instruments": ["STOCKS"]})
        assert answer.json() == {"instruments": ["STOCKS"], "durationStrategies": ["long"]}
        await detect(server, "no", "FOREX", "long")
        await detect(server, "yes", "STOCKS", "long")
        assert (await listener.take(2))[1]["ticker"] == "yes"
    assert (await server.services.subscribers.get(id)).balance == 8


async def test_resuming_misses_nothing_doubles_nothing_and_costs_once(server: Any) -> None:
    id, headers = await subscribe(server)
    async with listening(server, headers) as listener:
        first = await detect(server, "A")
        before = await listener.take(1)
        last = listener.events[0].id
    await live(server, first, 1.0)
    second = await detect(server, "B")
    async with listening(server, headers, last) as listener:
        await live(server, second)
        after = await listener.take(5)
        assert [int(event.id) for event in listener.events] == [2, 3, 4, 5, 6]
    assert [(each["event"], each["id"]) for each in after] == [
        ("onGoing", first), ("closed", first), ("working", second), ("onGoing", second), ("closed", second)]
    assert after[1]["token"] == before[0]["token"] and after[1]["tokenState"] == "REIMBURSED"
    async with listening(server, headers, 0) as listener:
        again = await listener.take(6)
        assert again[1:] == after and again[0] == before[0]
    assert (await server.services.subscribers.get(id)).balance == 9
    assert await server.services.credits.unbalanced() == {}


async def test_who_comes_late_hears_nothing_of_what_began_before(server: Any) -> None:
    id, headers = await subscribe(server)
    alert = await detect(server, "before")
    async with listening(server, headers) as listener:
        await live(server, alert)
        await detect(server, "after")
        told = await listener.take(1)
    assert told[0]["event"] == "working" and told[0]["ticker"] == "after"
    assert (await server.services.subscribers.get(id)).balance == 9


async def test_the_last_credit_ends_the_stream_with_payment_required(server: Any) -> None:
    id, headers = await subscribe(server, credits=1)
    async with listening(server, headers) as listener:
        alert = await detect(server)
        told = await listener.take(2)
        await listener.ended()
    assert told[0]["event"] == "working" and told[1]["event"] == "error" and told[1]["code"] == 402
    assert listener.events[1].id == listener.events[0].id, "an error has no number of its own"
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get(STREAM, headers=headers)
        assert answer.status_code == 402 and answer.json()["code"] == 402 and answer.json()["message"]
    await live(server, alert, None)
    await until(lambda: _balance_is(server, id, 1))
    async with listening(server, headers, listener.events[0].id) as listener:
        assert (await listener.take(1))[0]["tokenState"] == "REIMBURSED"


async def _balance_is(server: Any, id: int, balance: int) -> bool:
    return (await server.services.subscribers.get(id)).balance == balance


async def test_renewal_goes_on_and_is_written_down(server: Any) -> None:
    id, headers = await subscribe(server, credits=1, automatic_renewal=True, renewal=5)
    async with listening(server, headers) as listener:
        for number in range(7):
            await detect(server, str(number))
        told = await listener.take(7)
    assert [each["ticker"] for each in told] == [str(number) for number in range(7)]
    entries = await server.services.credits.entries(id)
    assert [entry.kind for entry in entries].count("renewal") == 2 and sum(entry.amount for entry in entries) == 4
    assert await server.services.credits.unbalanced() == {}


@pytest.mark.parametrize("values", [pytest.param({"access": "FREE"}, id="free"),
                                    pytest.param({"credits": 0}, id="no credit")])
async def test_the_stream_is_for_full_access_with_credit(server: Any, values: dict[str, Any]) -> None:
    _, headers = await subscribe(server, **values)
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get(STREAM, headers=headers)
    assert answer.status_code == 402 and answer.json()["message"] == "payment required"
    assert not server.context.streams


async def test_losing_access_ends_an_open_stream(server: Any) -> None:
    id, headers = await subscribe(server)
    async with listening(server, headers) as listener:
        await server.services.subscribers.change(id, access="FREE")
        assert (await listener.take(1))[0]["code"] == 402
        await listener.ended()


async def test_an_open_stream_outlives_its_token(server: Any) -> None:
    id, headers = await subscribe(server, password="correct horse")
    async with listening(server, headers) as listener:
        await server.services.subscribers.change(id, password="battery staple")
        async with httpx.AsyncClient(base_url=server.url) as client:
            answer = await client.get(STREAM, headers=headers)
            assert answer.status_code == 401 and answer.json()["code"] == 12
        await detect(server)
        assert (await listener.take(1))[0]["event"] == "working"


async def test_the_operator_listens_with_a_token_or_the_cookie_of_a_page_never_the_query(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get(f"{STREAM}?token={server.services.admin_token}")).status_code == 401
        answer = await client.post("/login", data={"token": server.services.admin_token})
        cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    bearer = {"Authorization": f"Bearer {server.services.admin_token}"}
    async with listening(server, cookie) as first, listening(server, bearer) as second:
        alert = await detect(server)
        assert (await first.take(1)) == (await second.take(1))
        await live(server, alert, None)
        await first.take(2)
    assert await server.services.credits.unbalanced() == {}


async def test_a_reader_that_stalls_is_bounded_and_loses_nothing(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradingpartners_stream, "BUFFER", 20_000)
    _, stalled = await subscribe(server, "stalled", 1000)
    _, quick = await subscribe(server, "quick", 1000)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    lines = [f"GET {STREAM} HTTP/1.0", f"Host: 127.0.0.1:{server.port}",
             *(f"{name}: {value}" for name, value in stalled.items()), "", ""]
    connection.sendall("\r\n".join(lines).encode())
    await until(lambda: len(server.context.streams) == 1)
    line = next(iter(server.context.streams))
    line._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with listening(server, quick) as listener:
        for first in range(0, 400, 50):
            await asyncio.gather(*(detect(server, f"{number:0120d}") for number in range(first, first + 50)))
        await listener.take(400)
        # It waits, with more than half of the bound unsent: the system may yet have taken a little of what it held.
        await until(lambda: line._drained is not None and line._unsent > 10_000)
        assert line._unsent < 40_000
        await asyncio.gather(*(detect(server, "x" * 120) for _ in range(100)))
        await listener.take(500)
        assert line._unsent < 40_000, "what is written ahead has a bound"
    received = b""

    def read() -> bytes:
        nonlocal received
        received += connection.recv(65536)
        return received

    connection.settimeout(60)
    while received.count(b"event: working") < 500:
        await asyncio.to_thread(read)
    connection.close()
    numbers = [int(text) for text in re.findall(rb"^id: (\d+)$", received, re.MULTILINE)]
    assert numbers == list(range(1, 501))
    await until(lambda: not server.context.streams)


@pytest.mark.parametrize(("headers", "status", "code"), [
    pytest.param({}, 401, 10, id="nothing"), pytest.param({"Authorization": "Basic abc"}, 401, 11, id="basic"),
    pytest.param({"Authorization": "Bearer"}, 401, 11, id="empty"),
    pytest.param({"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"}, 401, 12, id="not ours")])
async def test_refusals_are_numbered(server: Any, headers: dict[str, str], status: int, code: int) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get(STREAM, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code) and answer.json()["message"]


async def test_a_strange_last_event_id_is_refused_and_a_future_one_is_now(server: Any) -> None:
    _, headers = await subscribe(server)
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get(STREAM, headers=headers | {"Last-Event-ID": "abc"})
        assert answer.status_code == 400 and "Last-Event-ID" in answer.json()["description"]
        assert (await client.head(STREAM, headers=headers)).headers["Content-Type"] == "text/event-stream"
        assert (await client.post(STREAM, headers=headers)).status_code == 405
    async with listening(server, headers, 10**9) as listener:
        await detect(server)
        assert (await listener.take(1))[0]["event"] == "working"


async def test_a_stopping_server_ends_streams(tmp_path: Path) -> None:
    async with running_server(tmp_path, rate_limit=0) as server:
        _, headers = await subscribe(server)
        async with httpx.AsyncClient(base_url=server.url) as client, aconnect_sse(
                client, "GET", STREAM, headers=headers) as source:
            listener = Listener(source)
            await until(lambda: listener.pings)
            server.context.close_streams()
            await listener.ended()


def test_kill_9_in_the_middle_of_a_life_loses_and_doubles_nothing(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    last: str | None = None
    alert = 0
    body = {"instrument": "STOCKS", "ticker": "AAPL", "durationStrategy": "long", "start": 10, "target": 12, "stop": 9}
    steps: list[dict[str, Any]] = [{}, {"state": "onGoing"}, {"state": "closed", "exit": 12}]
    server = ServerProcess("--rate-limit", "0", "--api-only", data_dir=tmp_path, compute=False)
    for step in steps:
        server.start()
        with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
            headers = {"Last-Event-ID": last} if last else {}
            with client.stream("GET", STREAM, headers=headers) as answer:
                lines = answer.iter_lines()
                while not next(lines).startswith("data"):
                    pass
                if step:
                    assert client.patch(f"/workbench/api/alerts/{alert}", json=step).status_code == 200
                else:
                    alert = client.post("/workbench/api/alerts", json=body).json()["id"]
                for line in lines:
                    if line.startswith("id: "):
                        last = line[4:]
                    elif line.startswith("data: ") and "token" in line:
                        told.append(json.loads(line[6:]))
                        break
        server.kill()
    server.start()
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        ledger = client.get("/workbench/api/subscribers/1/credits").json()
    server.stop()
    assert last == "3" and [set(each) > {"id", "token"} for each in told] == [True, False, True]
    assert len({each["token"] for each in told}) == 1 and told[2]["tokenState"] == "CONSUMED"
    assert [entry["kind"] for entry in ledger["items"]] == ["consumption", "use", "renewal"]
    assert ledger["balance"] == sum(entry["amount"] for entry in ledger["items"])
