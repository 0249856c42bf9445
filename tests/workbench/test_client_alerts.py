"""Alerts, detection, subscribers, rules and notices through the client, against a real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.alerts import Alert
from engine.errors import Conflict, Forbidden, Invalid, NotFound
from tests.harness import running_server, until
from workbench.client import AsyncClient
from workbench.client_alerts import alert_of

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")]
LEVELS = {"start": 100.0, "target": 110.0, "stop": 95.0}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as server:
        yield server


@pytest.fixture
async def client(server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, server.services.admin_token) as client:
        yield client


async def test_an_alert_lives_and_is_found_by_what_it_is(client: AsyncClient) -> None:
    made = await client.post_alert("FOREX", "EUR/USD", **LEVELS, reason="by hand", duration="long")
    assert (made.state, made.direction, made.duration_strategy, made.reason) == ("working", "BUY", "long", "by hand")
    sold = await client.post_alert("STOCKS", "ACME", start=50, target=40, stop=55)
    assert sold.direction == "SELL"
    begun = await client.move_alert(made.id, "onGoing")
    assert begun.entry == 100.0 and begun.started_at is not None
    closed = await client.move_alert(made.id, "closed", exit=107.5, reason="enough")
    assert (closed.gain, closed.r, closed.reason) == (7.5, 1.5, "enough")
    assert await client.alert(made.id) == closed
    assert [one.id for one in (await client.alerts(states=["closed"], won=True)).items] == [made.id]
    assert (await client.alerts(states="closed", won=False)).total == 0
    assert [one.id for one in (await client.alerts(direction="SELL", ticker="acm")).items] == [sold.id]
    assert (await client.alerts(instruments="FOREX", since=closed.detected_at, until=closed.detected_at)).total == 1
    figures = {one["instrument"]: one for one in await client.alert_statistics()}
    assert figures["FOREX"]["hit_rate"] == 1.0 and figures["FOREX"]["average_r"] == 1.5
    assert figures["STOCKS"]["open"] == 1 and figures["STOCKS"]["hit_rate"] is None
    with pytest.raises(Conflict):
        await client.move_alert(made.id, "onGoing")
    with pytest.raises(NotFound):
        await client.alert(999)
    with pytest.raises(Invalid) as wrong:
        await client.post_alert("FOREX", "EUR/USD", start=1, target=2, stop=3)
    assert wrong.value.problems[0].field == "stop"


async def test_a_key_makes_one_alert(client: AsyncClient) -> None:
    first = await client.post_alert("FOREX", "EUR/USD", **LEVELS, key="once")
    assert (await client.post_alert("FOREX", "EUR/USD", **LEVELS, key="once")).id == first.id
    assert (await client.alerts()).total == 1


async def test_following_after_a_list_misses_nothing(client: AsyncClient) -> None:
    made = await client.post_alert("FOREX", "EUR/USD", **LEVELS)
    seen = await client.alerts()
    await client.move_alert(made.id, "onGoing")
    heard: list[Alert] = []

    async def hear() -> None:
        async for event in client.follow_alerts(seen.last):
            heard.append(alert_of(event.data))

    following = asyncio.create_task(hear())
    try:
        await until(lambda: [one.state for one in heard] == ["onGoing"])
        await client.move_alert(made.id, "closed", exit=95.0)
        await until(lambda: [one.state for one in heard] == ["onGoing", "closed"])
    finally:
        following.cancel()
    assert heard[-1] == await client.alert(made.id) and heard[-1].r == -1.0


async def test_hooks_and_detection(client: AsyncClient) -> None:
    hook = await client.create_hook("charts", template="{{ticker}} {{start}} {{target}} {{stop}}",
                                    defaults={"instrument": "FOREX"})
    assert hook["path"].startswith("/workbench/hooks/")
    assert [one["id"] for one in await client.hooks()] == [hook["id"]] and "path" not in (await client.hooks())[0]
    await client.delete_hook(hook["id"])
    assert await client.hooks() == []
    keys = [entry["key"] for entry in await client.detectors()]
    assert "breakout_retest_short" in keys
    times = [1_700_000_000_000_000 // 60_000_000 * 60_000_000 + minute * 60_000_000 for minute in range(120)]
    await client.upload({"time": [at // 1_000_000 for at in times], **{
        name: [100.0] * 120 for name in ("open", "high", "low", "close", "volume")}}, "test:COIN/USD", "1m")
    setting = await client.switch_detection("test:COIN/USD", "breakout_retest_short", params={"channel": 30})
    assert setting["state"] == "on" and setting["params"]["channel"] == 30
    paused = await client.switch_detection("test:COIN/USD", "breakout_retest_short", "paused")
    assert paused["params"]["channel"] == 30, "what is not given stays"
    assert [one["state"] for one in await client.detections()] == ["paused"]
    await client.forget_detection("test:COIN/USD", "breakout_retest_short")
    assert await client.detections() == []
    with pytest.raises(NotFound):
        await client.switch_detection("test:COIN/USD", "nothing")


async def test_subscribers_and_their_ledger(client: AsyncClient) -> None:
    made = await client.create_subscriber("ann@example.org", "a long password", access="FULL", credits=3)
    assert made["balance"] == 3
    assert await client.grant_credits(made["id"], -1, "taken back") == 2
    ledger = await client.credits(made["id"])
    assert ledger["balance"] == 2 == sum(entry["amount"] for entry in ledger["items"])
    changed = await client.change_subscriber(made["id"], access="FREE", instruments=["FOREX"])
    assert (changed["access"], changed["instruments"]) == ("FREE", ["FOREX"])
    assert [one["email"] for one in await client.subscribers()] == ["ann@example.org"]
    await client.delete_subscriber(made["id"])
    assert await client.subscribers() == []


async def test_rules_and_notices(client: AsyncClient, server: Any) -> None:
    rule = await client.create_rule("Silence", "no_heartbeat", 60, cooldown=600)
    silenced = await client.change_rule(rule["id"], silenced_until="2030-01-01T00:00:00Z")
    assert silenced["silenced_until"].startswith("2030-01-01") and silenced["cooldown"] == 600
    assert [one["name"] for one in await client.rules()] == ["Silence"]
    assert await client.firings(rule=rule["id"]) == []
    channel = await client.create_channel("Desk", "json://user:secret@127.0.0.1:1/", topics=["alert.closed"])
    assert "secret" not in channel["url"]
    assert (await client.change_channel(channel["id"], rate=5))["rate"] == 5
    told = await client.test_channel(channel["id"])
    assert told["topic"] == "test" and told["tried"][0]["error"]
    assert [one["id"] for one in await client.deliveries(channel=channel["id"])] == [told["id"]]
    assert (await client.delivery(told["id"]))["tried"]
    await client.delete_channel(channel["id"])
    await client.delete_rule(rule["id"])
    assert await client.channels() == [] and await client.rules() == []


async def test_a_reader_may_look_and_not_touch(client: AsyncClient, server: Any) -> None:
    made = await client.create_token("reader", ["read"])
    async with AsyncClient(server.url, made["token"]) as reader:
        assert (await reader.alerts()).total == 0
        for refused in (reader.post_alert("FOREX", "EUR/USD", **LEVELS), reader.subscribers(), reader.channels()):
            with pytest.raises(Forbidden):
                await refused
