"""Gekko's live instances over the wire: states, messages in order, a server that is killed, the web application."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect

from engine.candle_store import CandleStore
from tests.engine.gekko_golden import FOLDER, candles
from tests.harness import ServerProcess, running_server, until, wait_until
from tests.server.instance_stage import replay

pytestmark = pytest.mark.anyio
MARKET = candles("rw60d").take(slice(0, 600))
WATCHER = {"watch": {"exchange": "replay", "currency": "USDT", "asset": "BTC", "speed": 600}, "mode": "realtime",
           "candleWriter": {"enabled": True}, "type": "market watcher"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0, token="") as running:
        running.services.store.write(MARKET)
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as opened:
        yield opened


def toggling(size: int = 1, **watch: Any) -> dict[str, Any]:
    config = replay("DEBUG_toggle-advice-60-10", **watch)
    config["tradingAdvisor"] = {**config["tradingAdvisor"], "candleSize": size, "historySize": 3}
    return {**config, "DEBUG_toggle-advice": {"__empty": True}, "type": "paper trader", "valid": True}


def skeleton(value: Any) -> Any:
    """Keys in their order and kinds of values."""
    if isinstance(value, dict):
        return {key: skeleton(each) for key, each in value.items()}
    return type(value).__name__


def recording(name: str) -> dict[str, Any]:
    """A request of the original and its answer."""
    return orjson.loads(gzip.decompress((FOLDER / "live.json.gz").read_bytes()))[name]


async def test_the_state_of_a_new_instance_is_that_of_the_original(client: httpx.AsyncClient) -> None:
    for config, name in ((WATCHER, "20-startGekko-watcher"), (toggling(speed=60), "22-startGekko-papertrader")):
        theirs = recording(name)["answer"]
        ours = (await client.post("/api/startGekko", json=config)).json()
        assert list(ours) == list(theirs)
        assert skeleton({**ours, "config": 0}) == skeleton({**theirs, "config": 0})
        assert ours["events"] == {"initial": {}, "latest": {}}
        strategy = {"DEBUG_toggle-advice"} & set(theirs["config"])
        assert set(ours["config"]) == set(theirs["config"]) | strategy
        assert ours["config"]["childToParent"] == {"enabled": True}
        assert re.fullmatch(r"\d{4}(-\d\d){4}-(watcher|papertrader)-\d+", ours["id"])
        assert (ours["type"], ours["logType"]) == (theirs["type"], theirs["logType"])


async def collected(server: Any, path: str, messages: list[dict[str, Any]], ready: asyncio.Event) -> None:
    async with connect(server.url.replace("http", "ws") + path, max_size=2**24) as socket:
        await socket.ping()
        ready.set()
        async for frame in socket:
            messages.append(orjson.loads(frame))


@pytest.mark.parametrize("path", ["/", "/api"])
async def test_messages_come_in_their_order(server: Any, client: httpx.AsyncClient, path: str) -> None:
    messages: list[dict[str, Any]] = []
    ready = asyncio.Event()
    listening = asyncio.ensure_future(collected(server, path, messages, ready))
    await ready.wait()
    state = (await client.post("/api/startGekko", json=toggling())).json()
    id = state["id"]

    async def over() -> bool:
        live = (await client.get("/api/gekkos")).json()["live"]
        candle = live[id]["events"]["latest"].get("candle")
        return candle is not None and candle["id"] * 60 == int(MARKET.time[-1]) // 1_000_000

    await until(over)
    shown = (await client.get("/api/gekkos")).json()["live"][id]
    assert (await client.post("/api/stopGekko", json={"id": id})).json() == {"status": "ok"}
    assert (await client.post("/api/deleteGekko", json={"id": id})).json() == {"status": "ok"}
    await until(lambda: messages and messages[-1]["type"] == "gekko_deleted")
    listening.cancel()
    kinds = [message["type"] for message in messages]
    assert kinds[0] == "gekko_new" and kinds[-3:] == ["gekko_stopped", "gekko_archived", "gekko_deleted"]
    assert set(kinds[1:-3]) == {"gekko_event"} and {message["id"] for message in messages} == {id}
    assert messages[0] == {"type": "gekko_new", "id": id, "state": state}
    # a client's own reducer comes to the state that the server shows
    events: dict[str, Any] = {"initial": {}, "latest": {}}
    for message in messages[1:-3]:
        kind, payload = message["event"]["type"], message["event"]["payload"]
        if kind in ("advice", "tradeCompleted", "roundtrip"):
            events.setdefault(kind, []).append(payload)
        if kind != "marketUpdate":
            events["initial"].setdefault(kind, payload)
        if kind not in ("marketStart", "stratWarmupCompleted"):
            events["latest"][kind] = payload
    assert shown["events"] == events and len(events["tradeCompleted"]) > 100
    assert {key: list(value) for key, value in events["latest"].items()}.keys() <= {
        "candle", "stratCandle", "stratUpdate", "advice", "portfolioChange", "portfolioValueChange", "tradeInitiated",
        "tradeCompleted", "roundtripUpdate", "roundtrip", "performanceReport"}
    theirs = next(iter(value for value in recording("53-gekkos-after-stop")["answer"]["archive"].values()
                       if not value["errored"]))
    for kind, payload in theirs["events"]["latest"].items():
        assert list(events["latest"][kind]) == list(payload), kind


async def test_a_watcher_says_where_the_market_begins_and_each_candle(server: Any, client: httpx.AsyncClient) -> None:
    messages: list[dict[str, Any]] = []
    ready = asyncio.Event()
    listening = asyncio.ensure_future(collected(server, "/", messages, ready))
    await ready.wait()
    id = (await client.post("/api/startGekko", json=WATCHER)).json()["id"]
    await until(lambda: len(messages) > 8)
    listening.cancel()
    events = [message["event"] for message in messages[1:]]
    assert [event["type"] for event in events[:3]] == ["marketStart", "marketUpdate", "candle"]
    assert events[0] == {"type": "marketStart", "payload": "2018-01-01T00:00:00.000Z"}
    assert list(events[2]["payload"]) == ["start", "open", "high", "low", "close", "vwp", "volume", "trades"]
    state = (await client.get("/api/gekkos")).json()["live"][id]
    assert state["events"]["initial"]["marketStart"] == "2018-01-01T00:00:00.000Z"
    assert "marketStart" not in state["events"]["latest"] and "marketUpdate" not in state["events"]["initial"]
    answer = await client.post("/api/getCandles", json={
        "watch": state["config"]["watch"], "candleSize": 1,
        "daterange": {"from": "2018-01-01T00:00:00Z", "to": "2018-01-01T00:02:00Z"}})
    assert [candle["close"] for candle in answer.json()] == MARKET.close[:3].tolist()


async def test_bad_requests_get_an_answer_and_leave_nothing(server: Any, client: httpx.AsyncClient) -> None:
    good = toggling()
    for change, field in (({"mode": "nonsense"}, "mode"), ({"watch": 5}, "watch"), ({"mode": None}, "mode"),
                          ({"tradingAdvisor": {"enabled": True, "method": "NOPE", "candleSize": 1}},
                           "tradingAdvisor.method"), ({"market": {"type": "../../x"}}, "market.type")):
        answer = await client.post("/api/startGekko", json={**good, **change})
        assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, field)
    assert (await client.post("/api/startGekko", content=b"{", headers={"Content-Type": "application/json"})
            ).status_code == 400
    assert (await client.post("/api/startGekko")).status_code == 422
    for body, stop, remove in (({}, "not ok", "not ok"), ({"id": "nope"}, "not ok", "ok"), ({"id": 7}, "not ok",
                                                                                         "not ok")):
        assert (await client.post("/api/stopGekko", json=body)).json() == {"status": stop}
        assert (await client.post("/api/deleteGekko", json=body)).json() == {"status": remove}
    assert (await client.get("/api/gekkos")).json() == {"live": {}, "archive": {}}
    theirs = recording("78-startGekko-trader-nokeys")
    answer = await client.post("/api/startGekko", json=theirs["request"])
    assert (answer.status_code, answer.text) == (200, "No API keys found for this exchange.")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_what_fails_later_is_told_as_the_original_does(server: Any, client: httpx.AsyncClient) -> None:
    messages: list[dict[str, Any]] = []
    ready = asyncio.Event()
    listening = asyncio.ensure_future(collected(server, "/", messages, ready))
    await ready.wait()
    config = {**WATCHER, "watch": {"exchange": "nosuchexchange", "asset": "A", "currency": "B"}}
    id = (await client.post("/api/startGekko", json=config)).json()["id"]
    await until(lambda: messages and messages[-1]["type"] == "gekko_archived")
    listening.cancel()
    assert [message["type"] for message in messages] == ["gekko_new", "gekko_error", "gekko_archived"]
    state = (await client.get("/api/gekkos")).json()["archive"][id]
    assert messages[1]["error"] == state["errorMessage"] and state["errorMessage"].startswith("\n ERROR: ")
    assert (state["active"], state["stopped"], state["errored"]) == (False, True, True)


def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 twice in the middle; nothing is lost, nothing doubled, and the archive is still there."""
    CandleStore(tmp_path / "candles").write(MARKET)
    server = ServerProcess("--api-only", "--rate-limit", "0", data_dir=tmp_path, env={"WORKBENCH_TOKEN": ""},
                           compute=False)
    last = int(MARKET.time[-1]) // 60_000_000
    with server, httpx.Client(timeout=60) as client:
        def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
            return client.post(f"{server.url}/api/{path}", json=body).json()

        old = post("startGekko", WATCHER)["id"]
        assert post("stopGekko", {"id": old}) == {"status": "ok"}
        id = post("startGekko", toggling(2, speed=3600))["id"]

        def minute() -> int:
            live = client.get(f"{server.url}/api/gekkos").json()["live"]
            return live[id]["events"]["latest"].get("candle", {}).get("id", 0)

        for part in (0.2, 0.5):
            wait_until(lambda part=part: minute() > last - (1 - part) * len(MARKET))
            server.kill()
            server.start()
        assert minute() < last
        wait_until(lambda: minute() == last, timeout=60)
        found = client.get(f"{server.url}/workbench/api/instances/{id}/events?limit=10000").json()["items"]
        assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
        heard = [each["data"]["payload"]["id"] for each in found if each["type"] == "candle"]
        assert heard == list(range(last - len(MARKET) + 1, last + 1))
        archive = client.get(f"{server.url}/api/gekkos").json()["archive"]
        assert archive[old]["stopped"] and not archive[old]["errored"]
        state = client.get(f"{server.url}/api/gekkos").json()["live"][id]
        assert [each["data"]["payload"] for each in found if each["type"] == "tradeCompleted"] == \
            state["events"]["tradeCompleted"]
        done = [f"{trade['id']}-{trade['action']}" for trade in state["events"]["tradeCompleted"]]
        recorded: list[str] = []

        def all_recorded() -> bool:
            page = client.get(f"{server.url}/workbench/api/models/{id}/orders?limit=200").json()["items"]
            recorded[:] = [order["id"] for order in page]
            return len(recorded) >= len(done)

        with suppress(AssertionError):
            wait_until(all_recorded)
        assert sorted(recorded) == sorted(done), server.errors[-3000:]
        assert len(done) > 50


# -- the web application


@pytest.fixture
def application(tmp_path: Path) -> Path:
    folder = tmp_path / "application"
    (folder / "vendor").mkdir(parents=True)
    (folder / "index.html").write_text("<title>Gekko</title>")
    (folder / "vendor" / "d3.js").write_text("d3")
    (folder / "UIconfig.js").write_text("the original")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


async def test_the_application_is_served_and_nothing_else(tmp_path: Path, application: Path) -> None:
    async with running_server(tmp_path / "data", rate_limit=0, gekko_ui=application) as server:
        token = server.services.admin_token
        async with httpx.AsyncClient(base_url=server.url) as client:
            refused = await client.get("/gekko/", headers={"Accept": "text/html"})
            assert (refused.status_code, refused.headers["Location"]) == (303, "/login?next=%2Fgekko%2F")
            assert (await client.get("/gekko/vendor/d3.js")).status_code == 401
            await client.get(f"/login?token={token}")
            page = await client.get("/gekko/")
            assert page.text == "<title>Gekko</title>" and page.headers["Content-Type"].startswith("text/html")
            assert "connect-src 'self'" in page.headers["Content-Security-Policy"]
            moved = await client.get("/gekko")
            assert (moved.status_code, moved.headers["Location"]) == (301, "/gekko/")
            script = await client.get("/gekko/vendor/d3.js")
            assert script.text == "d3" and "javascript" in script.headers["Content-Type"]
            config = await client.get("/gekko/UIconfig.js")
            found = orjson.loads(config.text.removeprefix("window.CONFIG = ").removesuffix(";\n"))
            assert found["ui"] == {"ssl": False, "host": "127.0.0.1", "port": server.port, "path": "/"}
            for path in ("link.txt", "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "vendor/../../secret.txt",
                         "vendor", "vendor/", "//etc/passwd", "%2fetc%2fpasswd", "vendor%5c..%5c..%5csecret.txt",
                         "x%00.js", "nothing.js", "vendor/..%2f..%2fsecret.txt"):
                answer = await client.get(httpx.URL(server.url).copy_with(raw_path=f"/gekko/{path}".encode()))
                assert answer.status_code in (400, 404), path
                assert "secret" not in answer.text


async def test_a_folder_without_the_application_is_refused(tmp_path: Path) -> None:
    from engine.errors import Invalid

    with pytest.raises(Invalid, match=r"index\.html"):
        async with running_server(tmp_path / "data", gekko_ui=tmp_path):
            pass


async def test_without_the_setting_there_is_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.get("/gekko/")).status_code == 404
