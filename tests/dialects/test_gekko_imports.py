"""Gekko's imports, exchanges and keys on the wire, with an exchange on loopback behind the server."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.dialects.gekko_socket import listening
from tests.exchange_simulator import BEGIN, ExchangeSimulator, expected
from tests.harness import ServerProcess, running_server, until, wait_until
from tests.server.exchange_fakes import Clock
from tests.server.instance_stage import replay

pytestmark = pytest.mark.anyio

WATCH = {"exchange": "sim", "currency": "USDT", "asset": "BTC"}
KEY, SECRET = "AKey4Tests0nly", "ASecret4Tests0nly"


def body(watch: Any = WATCH, minutes: int = 1500, **more: Any) -> dict[str, Any]:
    return {"watch": watch, "importer": {"daterange": {"from": text(BEGIN), "to": text(BEGIN + minutes * 60)}},
            "candleWriter": {"enabled": True}} | more


def text(second: int) -> str:
    from engine import times

    return times.instant(second * times.SECOND).strftime("%Y-%m-%d %H:%M")


@pytest.fixture
def simulator() -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=Clock(3000.5)) as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path, simulator: ExchangeSimulator) -> AsyncIterator[Any]:
    options = simulator.options_file(tmp_path)
    async with running_server(tmp_path / "data", rate_limit=0, token="", exchanges=options) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as opened:
        yield opened


async def test_an_import_answers_reports_and_fills_the_history(server: Any, client: httpx.AsyncClient) -> None:
    async with listening(server) as said:
        asked = body()
        answer = await client.post("/api/import", json=asked)
        assert answer.status_code == 200
        made = answer.json()
        assert list(made) == ["watch", "id", "latest", "from", "to"]
        assert made | {"id": ""} == {"watch": WATCH, "id": "", "latest": "", **asked["importer"]["daterange"]}
        assert re.fullmatch(r"\d{5,16}", made["id"])
        await until(lambda: said and said[-1].get("updates") == {"done": True})
    assert {message["type"] for message in said} == {"import_update"}
    assert {message["import_id"] for message in said} == {made["id"]}
    latest = [message["updates"]["latest"] for message in said[:-1]]
    assert len(latest) >= 2 and latest == sorted(latest)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00Z", each) for each in latest)
    assert [message["updates"] for message in said[:-1]] == [{"latest": each, "done": False} for each in latest]
    assert (await client.get("/api/imports")).json() == [{**made, "latest": latest[-1], "done": True}]
    minutes = expected(BEGIN, BEGIN + 1500 * 60)
    assert (await client.post("/api/scan", json={"watch": WATCH})).json() == [
        {"from": BEGIN, "to": BEGIN + 1499 * 60}]
    assert (await client.post("/api/scansets")).json()["datasets"] == [
        {**WATCH, "ranges": [{"from": BEGIN, "to": BEGIN + 1499 * 60}]}]
    found = (await client.post("/api/getCandles", json={
        "watch": WATCH, "candleSize": 1, "daterange": {"from": BEGIN * 1000, "to": (BEGIN + 600) * 1000}})).json()
    assert [each["close"] for each in found] == [each["close"] for each in minutes[:11]]


async def test_an_import_that_runs_is_listed_as_running(server: Any, client: httpx.AsyncClient,
                                                        simulator: ExchangeSimulator) -> None:
    simulator.stuck_from = BEGIN + 1000 * 60
    made = (await client.post("/api/import", json=body())).json()

    async def advanced() -> Any:
        return [each for each in (await client.get("/api/imports")).json() if each["latest"]]

    (item,) = await until(advanced)
    assert list(item) == ["watch", "id", "latest", "from", "to", "done"] and item["done"] is False
    assert item["id"] == made["id"]


@pytest.mark.parametrize(("watch", "changes", "words"), [
    ({**WATCH, "asset": "XYZ"}, {}, "does not trade XYZ for USDT"), ({**WATCH, "exchange": "nosuch"}, {}, "nosuch"),
    (WATCH, {"importer": {"daterange": {"from": text(BEGIN + 600), "to": text(BEGIN)}}},
     "This daterange does not make sense.")])
async def test_what_turns_out_later_is_an_import_error(server: Any, client: httpx.AsyncClient, watch: Any,
                                                       changes: dict[str, Any], words: str) -> None:
    async with listening(server) as said:
        made = (await client.post("/api/import", json=body(watch, **changes))).json()
        await until(lambda: said)
    (message,) = said
    assert list(message) == ["type", "import_id", "error"] and message["import_id"] == made["id"]
    assert message["error"].startswith("\n ERROR: ") and message["error"].endswith("\n") and words in message["error"]
    assert (await client.get("/api/imports")).json() == []
    assert (await client.post("/api/scansets")).json() == {"datasets": [], "errors": []}


SENSELESS = [
    ({}, "watch"), (body(None), "watch"), (body("sim"), "watch"), (body({}), "watch.exchange"),
    (body({**WATCH, "exchange": "../../etc"}), "watch.exchange"), (body({**WATCH, "asset": 3}), "watch.asset"),
    (body({**WATCH, "currency": "US/DT"}), "watch.currency"),
    (body({**WATCH, "asset": "x'; DROP TABLE imports"}), "watch.asset"),
    (body(importer=None), "importer.daterange"), (body(importer={"daterange": "scan"}), "importer.daterange"),
    (body(importer={"daterange": {"from": "yesterday"}}), "importer.daterange.from"),
    (body(importer={"daterange": {"from": text(BEGIN), "to": [1]}}), "importer.daterange.to"),
    (body(importer={"daterange": {"from": 1_700_000_040}}), "start"),
    (body(candleWriter={"enabled": False}), "candleWriter.enabled")]


async def test_what_makes_no_sense_is_refused_with_a_reason(server: Any, client: httpx.AsyncClient) -> None:
    for content, field in SENSELESS:
        answer = await client.post("/api/import", json=content)
        assert (answer.status_code, answer.json()["type"]) == (422, "error"), content
        assert answer.json()["problems"][0]["field"] == field, content
    assert (await client.get("/workbench/api/imports")).json() == {"items": []}
    assert not (server.config.data_dir / "candles").exists()


async def test_bodies_that_are_none_are_refused(client: httpx.AsyncClient) -> None:
    for path in ("/api/import", "/api/addApiKey", "/api/removeApiKey"):
        for given in ("[]", "nonsense", '"text"', "{", '{"a":' * 60 + "1" + "}" * 60):
            answer = await client.post(path, content=given, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422), (path, given)


async def test_exchanges_are_a_list_that_the_user_interface_can_use(server: Any, client: httpx.AsyncClient) -> None:
    async def loaded() -> Any:
        found = {each["slug"]: each for each in (await client.get("/api/exchanges")).json()}
        return found if found["sim"]["markets"] else None

    found = await until(loaded)
    assert {"pair": ["USDT", "BTC"], "minimalOrder": {"amount": 0.0001, "unit": "asset", "price": 0.01, "order": 5.0}} \
        in found["sim"]["markets"]
    assert ["USDT", "BTC"] in [each["pair"] for each in found["poloniex"]["markets"]]
    for each in found.values():
        assert each["requires"][:2] == ["key", "secret"] and each["tradable"] is True
        assert {market["pair"][0] for market in each["markets"]} == set(each["currencies"])
        assert {market["pair"][1] for market in each["markets"]} == set(each["assets"])


# ---- keys


async def test_keys_are_stored_listed_replaced_and_removed(server: Any, client: httpx.AsyncClient) -> None:
    async with listening(server) as said:
        for exchange in ("bitstamp", "Bitfinex", "bitstamp"):
            answer = await client.post("/api/addApiKey", json={"exchange": exchange,
                                                               "values": {"key": KEY, "secret": SECRET}})
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert (await client.get("/api/apiKeys")).json() == ["bitfinex", "bitstamp"]
        assert await server.services.keys.values("bitstamp") == {"key": KEY, "secret": SECRET}
        for _ in range(2):
            assert (await client.post("/api/removeApiKey", json={"exchange": "bitstamp"})).json() == {"status": "ok"}
        await until(lambda: len(said) >= 4)
        assert (await client.get("/api/apiKeys")).json() == ["bitfinex"]
    assert said == [{"type": "apiKeys", "exchanges": names} for names in (
        ["bitstamp"], ["bitstamp", "bitfinex"], ["bitfinex", "bitstamp"], ["bitfinex"])]


NO_KEYS = [
    ({}, "exchange"), ({"exchange": "nosuch", "values": {"key": KEY}}, "exchange"),
    ({"exchange": "../x", "values": {"key": KEY}}, "exchange"), ({"exchange": 3, "values": {"key": KEY}}, "exchange"),
    ({"exchange": "kraken"}, "values"), ({"exchange": "kraken", "values": {}}, "values"),
    ({"exchange": "kraken", "values": [KEY]}, "values"), ({"exchange": "kraken", "values": {"key": 5}}, "values"),
    ({"exchange": "kraken", "values": {"key": " "}}, "values"),
    ({"exchange": "kraken", "values": {"key": KEY * 1000}}, "values"),
    ({"exchange": "kraken", "values": {f"p{number}": KEY for number in range(11)}}, "values")]


async def test_a_key_that_is_none_is_refused_and_not_repeated(client: httpx.AsyncClient) -> None:
    for content, field in NO_KEYS:
        answer = await client.post("/api/addApiKey", json=content)
        assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, field), content
        assert KEY not in answer.text
    assert (await client.get("/api/apiKeys")).json() == []


async def test_who_may_do_what(tmp_path: Path, simulator: ExchangeSimulator) -> None:
    async with running_server(tmp_path / "data", rate_limit=0) as running:
        texts = {scope: (await running.services.users.create(scope, [scope]))[1] for scope in ("read", "ingest")}
        async with httpx.AsyncClient(base_url=running.url) as client:
            for method, path, allowed in (
                    ("POST", "/api/import", {"ingest"}), ("GET", "/api/imports", {"read"}),
                    ("GET", "/api/exchanges", {"read"}), ("GET", "/api/apiKeys", {"read"}),
                    ("POST", "/api/addApiKey", set()), ("POST", "/api/removeApiKey", set())):
                assert (await client.request(method, path, json={})).status_code == 401
                for scope, token in texts.items():
                    answer = await client.request(method, path, json={}, headers={"Authorization": f"Bearer {token}"})
                    assert (answer.status_code == 403) == (scope not in allowed), (path, scope)


def test_a_key_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    """Answers, documents, WebSocket, log at its most talkative, and every file of the data directory."""
    seen: list[str] = []
    with ExchangeSimulator() as simulator:
        values = {"key": KEY, "secret": SECRET}
        with ServerProcess("--api-only", "--workers", "1", "--log-level", "debug", "--allow-live-trading",
                           "--rate-limit", "0", "--exchanges", str(simulator.options_file(tmp_path)),
                           data_dir=tmp_path / "data",
                           env={"WORKBENCH_TOKEN": ""}) as server, httpx.Client(
                               base_url=server.url, timeout=60) as client:
            def said(answer: httpx.Response) -> httpx.Response:
                seen.append(f"{answer.headers} {answer.text}")
                return answer

            async def use() -> None:
                async with connect(server.websocket_url + "/api", compression=None) as socket, \
                        connect(server.websocket_url + "/workbench/api/stream", compression=None) as firehose:
                    def post(path: str, content: Any, **more: Any) -> int:
                        return said(client.post(path, json=content, **more)).status_code

                    assert await asyncio.to_thread(post, "/api/addApiKey", {"exchange": "sim", "values": values}) == 200
                    for wrong in ({"exchange": "nosuch", "values": values}, {"exchange": "sim", **values},
                                  {"exchange": SECRET, "values": values}, {"exchange": "sim", "values": [KEY, SECRET]},
                                  {"exchange": "sim", "values": {"key": {"a": SECRET}}}):
                        assert await asyncio.to_thread(post, "/api/addApiKey", wrong) == 422
                    for content in (f'{{"exchange":"sim","values":{{"key":"{SECRET}"', f'"{SECRET}"'):
                        answer = await asyncio.to_thread(client.post, "/api/addApiKey", content=content,
                                                         headers={"Content-Type": "application/json"})
                        assert said(answer).status_code == 400
                    answer = await asyncio.to_thread(client.put, "/workbench/api/exchange-keys/sim",
                                                     json={"values": values})
                    assert said(answer).status_code == 200
                    for wrong in ({"values": {"key": [SECRET]}}, {"values": SECRET}, values):
                        answer = await asyncio.to_thread(client.put, "/workbench/api/exchange-keys/sim", json=wrong)
                        assert said(answer).status_code == 422
                    trader = {"watch": WATCH, "mode": "realtime", "trader": {"enabled": True, **values},
                              "market": {"type": "leech", "from": "2018-01-01T00:00:00Z"}, "key": KEY, "secret": SECRET,
                              "tradingAdvisor": {"enabled": True, "method": "MACD", "candleSize": 1, "historySize": 1}}
                    assert await asyncio.to_thread(post, "/api/startGekko", trader) == 422
                    bot = {**replay("DEBUG_toggle-advice-60-10"), "DEBUG_toggle-advice": {}, "watch": WATCH,
                           "key": KEY, "secret": SECRET, "trader": {
                               **trader["trader"], "maxOrderValue": 100, "maxDailyLoss": 10},
                           "market": {"type": "leech"}, "more": [{"secret": SECRET}, {"apiKey": {"key": KEY}}]}
                    started = await asyncio.to_thread(client.post, "/api/startGekko", json=bot)
                    id = said(started).json().get("id", "")
                    assert "-tradebot-" in id
                    for path in (f"/workbench/api/instances/{id}", f"/workbench/api/instances/{id}/events",
                                 "/api/gekkos"):
                        assert said(await asyncio.to_thread(client.get, path)).status_code == 200
                    await asyncio.to_thread(post, "/api/backtest", trader)
                    await asyncio.to_thread(post, "/api/import", body(values))
                    first = json.loads(await asyncio.wait_for(socket.recv(), 10))
                    assert first == {"type": "apiKeys", "exchanges": ["sim"]}
                    seen.append(str(await asyncio.wait_for(firehose.recv(), 10)))
                    for each in (socket, firehose):
                        try:
                            while True:
                                seen.append(str(await asyncio.wait_for(each.recv(), 0.3)))
                        except TimeoutError:
                            continue

            asyncio.run(use())
            paths = said(client.get("/openapi.json")).json()["paths"]
            for path, operations in paths.items():
                if "get" in operations and "{" not in path and "event-stream" not in json.dumps(operations["get"]):
                    said(client.get(path))
            said(client.get("/docs"))
        wait_until(lambda: server.process.poll() is not None)
        seen += [server.output, server.errors]
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    key_file = tmp_path / "data" / "exchange-keys.key"
    assert key_file in files and key_file.stat().st_mode & 0o777 == 0o600
    for word in (KEY, SECRET):
        assert [each for each in seen if word in each] == []
        assert [path for path in files if word.encode() in path.read_bytes()] == []
    assert "request" in server.errors and len(seen) > 30  # there was something to look through


async def test_without_its_file_or_with_another_a_key_is_of_no_use_and_can_be_stored_again(
        server: Any, tmp_path: Path) -> None:
    from engine.errors import NotFound, Unavailable
    from server.services.keys import FILE, Keys

    services = server.services

    def again() -> Keys:
        return Keys(db=services.db, events=services.events, exchanges=services.exchanges,
                    data_dir=server.config.data_dir)

    await services.keys.put("sim", {"key": KEY, "secret": SECRET})
    path = server.config.data_dir / FILE
    assert path.stat().st_mode & 0o777 == 0o600 and await again().values("SIM") == {"key": KEY, "secret": SECRET}
    right = path.read_bytes()
    path.unlink()
    with pytest.raises(Unavailable, match="is missing"):
        await again().values("sim")
    path.write_bytes(b"nonsense")
    with pytest.raises(Unavailable, match="cannot be used"):
        await again().values("sim")
    path.unlink()
    await again().put("kraken", {"key": KEY, "secret": SECRET})
    with pytest.raises(Unavailable, match="another"):
        await again().values("sim")
    assert path.read_bytes() != right
    await again().put("sim", {"key": "new", "secret": "newer"})
    assert await again().values("sim") == {"key": "new", "secret": "newer"}
    with pytest.raises(NotFound):
        await again().values("binance")
