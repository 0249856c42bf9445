"""Who may use Gekko's API, from which pages, and its WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from engine.errors import Invalid, Unavailable
from server.dialects import gekko, gekko_live
from tests.engine.gekko_golden import candles, cases
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio

PAGE = "http://desk.example"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0, origins=(PAGE,)) as running:
        yield running


@pytest.fixture
async def open_server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0, token="") as running:
        yield running


def bearer(server: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.services.admin_token}"}


async def test_a_token_or_a_session_is_needed_unless_the_server_is_open(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        for method, path in (("GET", "/api/info"), ("GET", "/api/strategies"), ("GET", "/api/configPart/paperTrader"),
                             ("POST", "/api/scan"), ("POST", "/api/scansets"), ("POST", "/api/getCandles"),
                             ("POST", "/api/backtest")):
            answer = await client.request(method, path, json={})
            assert (answer.status_code, answer.json()["type"]) == (401, "error")
            assert "WWW-Authenticate" in answer.headers
        assert (await client.get("/api/info", headers=bearer(server))).json() == {"version": "0.6.8"}
        assert (await client.get(f"/login?token={server.services.admin_token}")).status_code == 303
        assert (await client.get("/api/info")).json() == {"version": "0.6.8"}
        # The cookie travels by itself, so what comes with it must come from a page that may.
        for origin, status in ((None, 403), ("http://evil.example", 403), (server.url, 200), (PAGE, 200)):
            answer = await client.post("/api/scansets", headers={"Origin": origin} if origin else {})
            assert answer.status_code == status


async def test_scopes(server: Any) -> None:
    _, text = await server.services.users.create("reader", ["read"])
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {text}"}) as client:
        assert (await client.post("/api/scansets")).status_code == 200
        assert (await client.post("/api/backtest", json={})).status_code == 403


async def test_an_open_server_is_open_to_programs_and_not_to_foreign_pages(open_server: Any) -> None:
    async with httpx.AsyncClient(base_url=open_server.url) as client:
        assert (await client.post("/api/scansets")).json() == {"datasets": [], "errors": []}
        for origin in ("http://evil.example", "null"):
            answer = await client.post("/api/scansets", headers={"Origin": origin})
            assert answer.status_code == 403 and "Access-Control-Allow-Origin" not in answer.headers
        answer = await client.get("/api/info", headers={"Host": "evil.example"})
        assert answer.status_code == 403


async def test_pages_of_named_origins_get_what_they_ask_for(server: Any) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "x-requested-with,expires,cache-control,content-type"}
    async with httpx.AsyncClient(base_url=server.url) as client:
        for path in ("/api/backtest", "/api/nothing", "/api"):
            answer = await client.options(path, headers=asked)
            assert (answer.status_code, answer.content) == (204, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            assert answer.headers["Access-Control-Allow-Methods"] == "GET,HEAD,PUT,POST,DELETE"
            assert answer.headers["Access-Control-Allow-Headers"] == asked["Access-Control-Request-Headers"]
            foreign = await client.options(path, headers=asked | {"Origin": "http://evil.example"})
            assert not [name for name in foreign.headers if name.startswith("access-control")]
        answer = await client.get("/api/info", headers={"Origin": PAGE})  # a refusal can be read there too
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, PAGE)


@pytest.mark.parametrize("path", ["/", "/api"])
async def test_the_socket_is_kept_alive_and_says_nothing(open_server: Any, path: str,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    assert gekko_live.PING == 10.0
    monkeypatch.setattr(gekko_live, "PING", 0.1)
    frames: list[Opcode] = []
    address = open_server.url.replace("http", "ws") + path
    async with connect(address, compression=None, ping_interval=None) as socket:
        receive = socket.protocol.recv_frame

        def received(frame: Frame) -> None:
            frames.append(frame.opcode)
            receive(frame)

        monkeypatch.setattr(socket.protocol, "recv_frame", received)
        await socket.send("anything")  # is ignored
        await until(lambda: len(frames) >= 3)
        assert not open_server.context.stopping and len(open_server.context.streams) == 1
        open_server.context.close_streams()
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
    assert len(frames) > 3 and set(frames[:-1]) == {Opcode.PING}


async def test_the_socket_is_refused_to_strangers_and_foreign_pages(server: Any) -> None:
    address = server.url.replace("http", "ws")
    for path in ("/", "/api"):
        for headers, status in (({}, 401), ({"Origin": "http://evil.example", **bearer(server)}, 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(address + path, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == status
        for headers in (bearer(server), bearer(server) | {"Origin": PAGE}):
            async with connect(address + path, additional_headers=headers) as socket:
                assert (await socket.ping()) is not None


async def test_what_is_no_upgrade_goes_on_to_the_pages(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/")).headers["Location"] == "/docs"
        assert (await client.get("/api")).text == "Not Found"


async def test_every_route_is_documented(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path, verb in (("/api/info", "get"), ("/api/strategies", "get"), ("/api/configPart/{part}", "get"),
                       ("/api/scan", "post"), ("/api/scansets", "post"), ("/api/getCandles", "post"),
                       ("/api/backtest", "post"), ("/api", "get")):
        assert verb in paths[path], path
    for path in ("startGekko", "stopGekko", "deleteGekko"):
        assert "post" in paths[f"/api/{path}"], path
    assert not any("{rest}" in path for path in paths)


async def test_a_backtest_that_is_cancelled_ends_the_waiting(open_server: Any) -> None:
    """Without a pool: the run waits in the queue, like its client."""
    store, case = open_server.services.store, cases()["one-trade"]
    store.write(candles(case["candles"]))
    async with httpx.AsyncClient(base_url=open_server.url, timeout=60) as client:
        asked = asyncio.ensure_future(client.post("/api/backtest", json=case["request"]))
        await until(lambda: client_waits(client))
        run = (await client.get("/workbench/api/runs")).json()["items"][0]
        assert (await client.post(f"/workbench/api/runs/{run['id']}/cancel")).status_code == 200
        answer = await asked
    assert (answer.status_code, answer.json()["error"]) == (409, "the backtest was cancelled (send it again)")


async def client_waits(client: httpx.AsyncClient) -> bool:
    return (await client.get("/workbench/api/runs?state=queued")).json()["total"] == 1


@pytest.mark.parametrize(("words", "kind", "field"), [
    ("backtest.daterange: there is a hole (fill it)", Invalid, "backtest.daterange"),
    ("time limit of 5 s exceeded", Invalid, ""), ("memory limit of 9 MiB exceeded (10 MiB in use)", Invalid, ""),
    ("KeyError: 'x'", Unavailable, ""), ("The worker process died twice while this run was computed", Unavailable, "")])
def test_what_a_failed_run_says_decides_whose_fault_it_is(words: str, kind: type[Exception], field: str) -> None:
    error = gekko.failure_of_run(words)
    assert type(error) is kind and error.field == field
