"""Live instances over the native API and through the client."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import Conflict, Forbidden, Invalid, NotFound
from tests.engine.gekko_golden import candles
from tests.harness import running_server, until
from workbench.client import AsyncClient

pytestmark = pytest.mark.anyio
MARKET = candles("rw60d").take(slice(0, 900))
LAST = int(MARKET.time[-1]) // 60_000_000
MACD = {"short": 10, "long": 21, "signal": 9, "thresholds": {"down": -0.025, "up": 0.025, "persistence": 1}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as running:
        running.services.store.write(MARKET)
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, server.services.admin_token) as opened:
        yield opened


async def test_a_paper_trader_from_start_to_deletion(client: AsyncClient) -> None:
    begun = await client.start_instance("golden:BTC/USDT", "MACD", parameters=MACD, candle_size=3, history=5,
                                        currency=500.0, replay={"speed": 0})
    assert (begun["kind"], begun["state"], begun["market"], begun["strategy"]) == (
        "papertrader", "live", "replay:BTC/USDT", "MACD")
    seen = []
    async for event in client.follow_instance(begun["id"]):
        seen.append(event)
        if event.type == "candle" and event.data["payload"]["id"] == LAST:
            await client.stop_instance(begun["id"])
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert (seen[0].type, seen[-2].type, seen[-1].type) == ("created", "stopped", "archived")
    assert sum(event.type == "candle" for event in seen) == len(MARKET)
    one = await client.instance(begun["id"])
    trades = [event.data["payload"] for event in seen if event.type == "tradeCompleted"]
    assert one["lists"]["tradeCompleted"] == trades and one["trades"] == len(trades) > 0
    assert one["report"]["trades"] == len(trades) and one["state"] == "stopped" and one["ended_at"]
    events = await client.instance_events(begun["id"], types=["advice", "roundtrip"])
    assert {event.type for event in events} == {"advice", "roundtrip"}
    model = await client.model(begun["id"])
    assert (model.dialect, model.kind) == ("gekko", "papertrader")
    assert [each["id"] for each in await client.instances(state="stopped", kind="papertrader")] == [begun["id"]]
    assert await client.instances(state="live") == [] == await client.halt_trading()
    with pytest.raises(Conflict):
        await client.stop_instance(begun["id"])
    await client.delete_instance(begun["id"])
    with pytest.raises(NotFound):
        await client.instance(begun["id"])
    assert await client.instances() == []


async def test_a_watcher_and_a_whole_configuration(client: AsyncClient) -> None:
    watcher = await client.start_instance("golden:BTC/USDT", replay={"speed": 6000, "end": "2018-01-01T00:20:00Z"})
    assert (watcher["kind"], watcher["model"], watcher["strategy"]) == ("watcher", None, "")
    config = (await client.instance(watcher["id"]))["config"]
    other = await client.start_instance(config=config)

    async def heard() -> bool:
        one = await client.instance(other["id"])
        return one["candle"] is not None and one["candle"]["start"] == "2018-01-01T00:20:00.000Z"

    await until(heard)
    assert [each["id"] for each in await client.instances()] == [other["id"], watcher["id"]]


async def test_what_is_wrong_is_named(client: AsyncClient, server: Any) -> None:
    for words, field in (({"market": "nothing"}, "market"), ({"market": "golden:BTC/USDT", "replay": {"speed": -1}},
                                                            "replay.speed"),
                         ({"market": "golden:BTC/USDT", "strategy": "NOPE"}, "tradingAdvisor.method"),
                         ({"market": "golden:BTC/USDT", "strategy": "MACD", "replay": {}}, "MACD.short"),
                         ({"market": "golden:NO/NO", "replay": {}}, "watch.source"),
                         ({"candle_size": 0}, "candle_size"), ({"more": 1}, "more")):
        with pytest.raises(Invalid) as refused:
            await client.start_instance(**words)
        assert refused.value.problems[0].field == field
    with pytest.raises((NotFound, Forbidden)):
        await client.start_instance("binance:BTC/USDT", "MACD", parameters=MACD, trade="real", max_order_value=10,
                                    max_daily_loss=1)
    assert await client.instances() == []
    _, reader = await server.services.users.create("reader", ["read"])
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {reader}"}) as reading:
        base = "/workbench/api/instances"
        assert (await reading.get(base)).json() == {"items": []}
        for method, path in (("POST", base), ("POST", base + "/halt"), ("POST", base + "/x/stop"),
                             ("DELETE", base + "/x")):
            assert (await reading.request(method, path, json={})).status_code == 403
        assert (await reading.get(base + "/x")).status_code == 404
