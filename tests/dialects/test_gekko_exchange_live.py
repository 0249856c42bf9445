"""Gekko's live instances and imports on an exchange on loopback whose sockets and answers misbehave, over the wire."""

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import times
from server.exchanges import sockets
from server.services import instance_trading
from tests.dialects.gekko_socket import listening
from tests.exchange_simulator import BEGIN, KEY, SECRET, ExchangeSimulator, expected, trades_of
from tests.harness import running_server, until
from tests.server.exchange_fakes import Clock
from tests.server.instance_stage import replay

pytestmark = pytest.mark.anyio
WATCH = {"exchange": "binance", "currency": "USDT", "asset": "BTC", "tickrate": 0.1}
FIGURES = ("open", "high", "low", "close", "vwp", "volume")
API = "/workbench/api"
LIMIT = 150.0
OVER = ("tradeCompleted", "tradeAborted", "tradeErrored", "tradeCancelled")


@pytest.fixture
def clock() -> Clock:
    return Clock(2004.1)  # minutes with trades before and after


@pytest.fixture
def simulator(clock: Clock) -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=clock) as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path, simulator: ExchangeSimulator, clock: Clock,
                 monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    for module, name, value in ((sockets, "SILENCE", 0.1), (sockets, "BREAKS", 100), (instance_trading, "POLL", 0.02)):
        monkeypatch.setattr(module, name, value)
    path = tmp_path / "exchanges.json"
    path.write_text(json.dumps({"binance": simulator.options()["sim"]}))
    async with running_server(tmp_path / "data", rate_limit=0, token="", exchanges=path,
                              allow_live_trading=True) as running:
        running.services.exchanges.clock = clock
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as opened:
        yield opened


def strategy(**more: Any) -> dict[str, Any]:
    """One that says short on its candles 1, 7, 13 … and long on 4, 10 …"""
    config = replay("DEBUG_toggle-advice-60-10")
    advisor = {**config["tradingAdvisor"], "candleSize": 1, "historySize": 1}
    return {**config, "watch": WATCH, "tradingAdvisor": advisor, "DEBUG_toggle-advice": {}, **more}


def events(said: list[dict[str, Any]], id: str, *kinds: str) -> list[Any]:
    return [each["event"]["payload"] for each in said
            if each["type"] == "gekko_event" and each["id"] == id and each["event"]["type"] in kinds]


def newest(clock: Clock) -> int:
    """The newest minute that must be known: it is over, and was followed by a trade."""
    minute = int(clock.now - 2) // 60 * 60
    for _ in range(2):
        while not trades_of(minute):
            minute -= 60
        minute -= 60
    return minute if trades_of(minute) else minute - 60


async def walk(clock: Clock, minutes: int, there: Callable[[], bool],
               trouble: Callable[[int], None] = lambda step: None) -> None:
    """Let time pass in thirds of minutes; `there` says whether everybody knows what can be known."""
    for step in range(3 * minutes):
        clock.now += 20
        trouble(step)
        await until(there)


async def test_watcher_and_paper_trader_lose_nothing_to_a_bad_line(server: Any, client: httpx.AsyncClient,
                                                                  simulator: ExchangeSimulator, clock: Clock) -> None:
    begun = int(clock()) // 60 * 60
    async with listening(server) as said:
        started = [(await client.post("/api/startGekko", json=config)).json()["id"] for config in (
            {"watch": WATCH, "mode": "realtime", "candleWriter": {"enabled": True}, "type": "market watcher"},
            strategy(type="paper trader"))]
        await until(simulator.spoken)
        assert simulator.opened == 1  # one line for both

        def there() -> bool:
            return all((found := events(said, id, "candle")) and _minute(found[-1]) >= newest(clock) for id in started)

        def trouble(step: int) -> None:
            simulator.say_twice = step % 5 == 2
            simulator.mute = 20 <= step < 26
            if step % 10 == 4:
                simulator.hang_up()
            if step == 30:
                simulator.say("{")
            if step == 33:
                simulator.fail("disconnect", "503", path="klines")

        clock.now += 70
        await until(there)
        await walk(clock, 15, there, trouble)
        simulator.no_sockets = True  # the line is dead for good
        simulator.hang_up()
        await walk(clock, 4, there)
        for id in started:
            assert (await client.post("/api/stopGekko", json={"id": id})).json() == {"status": "ok"}
        await until(lambda: [each["type"] for each in said].count("gekko_archived") == 2)
    assert simulator.opened > 4 and not simulator.sockets
    assert [each["type"] for each in said if each["type"] != "gekko_event"] == [
        "gekko_new", "gekko_new", *["gekko_stopped", "gekko_archived"] * 2]
    for id in started:
        heard = events(said, id, "candle")
        end = _minute(heard[-1]) + 60
        assert [_minute(each) for each in heard] == list(range(begun, end, 60))
        assert _rounded(heard) == _rounded(expected(begun, end))
    assert len(events(said, started[1], "tradeCompleted")) > 3
    state = (await client.get("/api/gekkos")).json()["archive"][started[1]]
    assert state["events"]["tradeCompleted"] == events(said, started[1], "tradeCompleted")
    assert (await client.post("/api/scan", json={"watch": WATCH})).json() == [{"from": begun, "to": end - 60}]
    stored = (await client.post("/api/getCandles", json={
        "watch": WATCH, "candleSize": 1, "daterange": {"from": begun * 1000, "to": (end - 60) * 1000}})).json()
    assert _rounded(stored) == _rounded(expected(begun, end))


def _minute(candle: dict[str, Any]) -> int:
    """Watchers say when it began, strategies its number."""
    return int(candle["id"]) * 60 if "id" in candle else round(times.parse(candle["start"]).timestamp())


def _rounded(candles: list[dict[str, Any]]) -> list[list[float]]:
    return [[round(each[name], 6) for name in FIGURES if name != "vwp"] for each in candles]


async def test_a_trade_bot_trades_and_says_so(server: Any, client: httpx.AsyncClient, simulator: ExchangeSimulator,
                                              clock: Clock) -> None:
    trader = {"enabled": True, "maxOrderValue": LIMIT, "maxDailyLoss": 100.0}
    config = strategy(type="tradebot", trader=trader, paperTrader={"enabled": False})
    refused = await client.post("/api/startGekko", json=config)
    assert (refused.status_code, refused.text) == (200, "No API keys found for this exchange.")
    async with listening(server) as said:
        await client.post("/api/addApiKey", json={"exchange": "binance", "values": {"key": KEY, "secret": SECRET}})
        answer = await client.post("/api/startGekko", json={
            **config, "key": KEY, "Secret": SECRET, "trader": {**trader, "key": KEY, "passphrase": 123},
            "more": [{"apiKey": {"deep": SECRET}}]})
        state = answer.json()
        id = state["id"]
        assert state["config"]["trader"] == trader and state["config"]["more"] == [{}]
        assert state["type"] == "leech" and state["logType"] == "tradebot"
        await until(simulator.spoken)

        def there() -> bool:
            wishes, done = (events(said, id, *kinds) for kinds in (
                ("tradeInitiated",), ("tradeCompleted", "tradeAborted", "tradeErrored", "tradeCancelled")))
            found = events(said, id, "candle")
            return bool(found) and _minute(found[-1]) >= newest(clock) and len(wishes) <= len(done)

        clock.now += 70
        await until(there)
        await walk(clock, 12, there, lambda step: simulator.hang_up() if step == 9 else None)
        assert (await client.post("/api/stopGekko", json={"id": id})).json() == {"status": "ok"}
        await until(lambda: said[-1]["type"] == "gekko_archived")
    assert said[0] == {"type": "apiKeys", "exchanges": ["binance"]}
    assert said[1]["type"] == "gekko_new" and said[1]["state"] == state
    assert [each["type"] for each in said[-2:]] == ["gekko_stopped", "gekko_archived"]
    done = events(said, id, "tradeCompleted")
    assert [each["action"] for each in done[:2]] == ["buy", "sell"]
    placed = list(simulator.orders.values())
    assert [each.side for each in placed[:2]] == ["BUY", "SELL"] and all(each.cost <= LIMIT for each in placed)
    assert [each["price"] for each in done[:2]] == pytest.approx([each.cost / each.filled for each in placed[:2]])
    kinds = [each["event"]["type"] for each in said if each["type"] == "gekko_event"]
    first = kinds.index("tradeCompleted")
    assert kinds.index("advice") < kinds.index("tradeInitiated") < first < kinds.index("roundtrip")
    assert "portfolioChange" in kinds[kinds.index("tradeInitiated"):first + 4], kinds
    assert not [each for each in said if KEY in str(each) or SECRET in str(each)] and SECRET not in answer.text
    orders = (await client.get(f"{API}/models/{id}/orders")).json()["items"]
    assert len(orders) == len(done) >= 2


async def test_a_trade_bot_in_trouble_shows_its_key_nowhere(server: Any, client: httpx.AsyncClient,
                                                            simulator: ExchangeSimulator, clock: Clock,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    """Not when orders are refused, lines break over signed questions, or the exchange takes the key no more."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    async with listening(server) as said:
        await client.post("/api/addApiKey", json={"exchange": "binance", "values": {"key": KEY, "secret": SECRET}})
        trader = {"enabled": True, "maxOrderValue": LIMIT, "maxDailyLoss": 100.0}
        id = (await client.post("/api/startGekko", json=strategy(trader=trader))).json()["id"]
        await until(simulator.spoken)
        simulator.reject = [f"the key {KEY} may not trade, {SECRET} neither"]
        clock.now += 70
        for step in range(30):
            clock.now += 20
            if step == 12:
                simulator.fail("disconnect", "503", "garbage", "429", path="account")
            if step == 20:
                simulator.fail("disconnect", "500", path="order")
            if step == 26:
                await client.post("/api/addApiKey", json={"exchange": "binance", "values": {"key": KEY, "secret": KEY}})
            await until(lambda: (found := events(said, id, "candle")) and _minute(found[-1]) >= newest(clock))
            await until(lambda: len(events(said, id, "tradeInitiated")) <= len(events(said, id, *OVER)))
        assert len(events(said, id, "tradeErrored")) == 2  # refused, and one whose answer was lost
        paths = (await client.get("/openapi.json")).json()["paths"]
        ours = [path for path in paths if path.count("{") == 1 and path.startswith((f"{API}/instances/",
                                                                                   f"{API}/models/"))]
        for path in (*(path for path in paths if "{" not in path), *(re.sub("{.*}", id, path) for path in ours)):
            known = paths.get(path, {}).get("get", {"": ""} if id in path else {})
            if known and not path.endswith("stream") and "event-stream" not in json.dumps(known):
                answer = await client.get(path)
                shown.append(f"{path} {answer.headers} {answer.text}")
        await client.post("/api/stopGekko", json={"id": id})
        shown += [json.dumps(each) for each in said]
    shown += [f"{each.getMessage()} {vars(each)}" for each in caplog.records]
    files = [path for path in server.config.data_dir.rglob("*") if path.is_file()]
    for word in (KEY, SECRET):
        assert [each[:300] for each in shown if word in each] == []
        assert [path for path in files if word.encode() in path.read_bytes()] == []
    assert len(shown) > 100 and files and simulator.questions("order") >= 2


async def test_an_import_is_followed_cancelled_and_resumed(server: Any, client: httpx.AsyncClient,
                                                           simulator: ExchangeSimulator) -> None:
    simulator.stuck_from = BEGIN + 1000 * 60
    async with listening(server) as said:
        made = (await client.post("/api/import", json={
            "watch": WATCH, "candleWriter": {"enabled": True}, "importer": {"daterange": {
                "from": BEGIN * 1000, "to": (BEGIN + 1500 * 60) * 1000}}})).json()
        await until(lambda: said)
        assert (await client.post(f"{API}/imports/{made['id']}/cancel")).json()["state"] == "cancelled"
        await until(lambda: said[-1]["type"] == "import_error")
        assert (await client.get("/api/imports")).json() == []  # Gekko forgets what did not end well
        count, simulator.stuck_from = len(said), None
        assert (await client.post(f"{API}/imports/{made['id']}/resume")).json()["state"] == "queued"
        await until(lambda: said[-1].get("updates") == {"done": True})
    assert {each["import_id"] for each in said} == {made["id"]}
    assert said[count - 1] == {"type": "import_error", "import_id": made["id"],
                               "error": "\n ERROR: the import was cancelled\n"}
    updates = [each["updates"] for each in (*said[:count - 1], *said[count:-1])]
    assert [list(each) for each in updates] == [["latest", "done"]] * len(updates) and not any(
        each["done"] for each in updates)
    latest = [each["latest"] for each in updates]
    assert latest == sorted(set(latest)) and len(said) > count + 1 > 2
    assert (await client.get("/api/imports")).json() == [{**made, "latest": latest[-1], "done": True}]
    assert (await client.post("/api/scan", json={"watch": WATCH})).json() == [
        {"from": BEGIN, "to": BEGIN + 1499 * 60}]
