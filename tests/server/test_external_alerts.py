"""Bots' own alerts over the API, and what charting services post to hooks."""

import gzip
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from engine.errors import Invalid
from server.logs import scrub
from server.services.hooks import read_message, read_text
from tests.harness import running_server

pytestmark = pytest.mark.anyio
ALERTS, HOOKS = "/workbench/api/alerts", "/workbench/api/hooks"
ALERT = {"instrument": "CRYPTOCURRENCIES", "ticker": "BTC/USD", "durationStrategy": "short", "start": 100,
         "target": 110, "stop": 95}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    _, text = await server.services.users.create("bot", ["alerts"])
    headers = {"Authorization": f"Bearer {text}"}
    async with httpx.AsyncClient(base_url=server.url, timeout=20, headers=headers) as client:
        yield client


async def post(client: httpx.AsyncClient, **values: Any) -> dict[str, Any]:
    answer = await client.post(ALERTS, json=ALERT | values)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_bot_posts_and_moves_its_alert(client: httpx.AsyncClient) -> None:
    made = await post(client)
    assert made["state"] == "working" and made["direction"] == "BUY" and isinstance(made["id"], int)
    place = f"{ALERTS}/{made['id']}"
    assert (await client.patch(place, json={"state": "onGoing"})).json()["state"] == "onGoing"
    closed = (await client.patch(place, json={"state": "closed", "exit": 108})).json()
    assert (closed["gain"], closed["r"], closed["exit"]) == (8, 1.6, 108)
    assert (await client.get(place)).json() == closed
    assert (await client.get(f"{ALERTS}?state=closed&won=true")).json()["total"] == 1
    assert (await client.get(f"{ALERTS}/statistics")).json()["items"][0]["won"] == 1


@pytest.mark.parametrize(("moves", "status"), [
    pytest.param([("closed", 100)], 409, id="closed before it began"),
    pytest.param([("aborted", None), ("onGoing", None)], 409, id="aborted is the end"),
    pytest.param([("onGoing", None), ("closed", 90), ("aborted", None)], 409, id="closed is the end"),
    pytest.param([("onGoing", None), ("closed", 90), ("closed", 91)], 409, id="closed twice"),
    pytest.param([("onGoing", None), ("closed", None)], 422, id="closed without a price"),
    pytest.param([("onGoing", 5)], 422, id="a price too early"), pytest.param([("working", None)], 422, id="back"),
    pytest.param([("onGoing", None), ("aborted", None)], 409, id="aborted while it goes on"),
    pytest.param([("onGoing", None), ("onGoing", None)], 200, id="the same again")])
async def test_steps_that_life_does_not_take_are_refused(client: httpx.AsyncClient, moves: list[Any],
                                                         status: int) -> None:
    place = f"{ALERTS}/{(await post(client))['id']}"
    bodies = [{"state": state} | ({} if exit is None else {"exit": exit}) for state, exit in moves]
    statuses = [(await client.patch(place, json=body)).status_code for body in bodies]
    assert statuses == [*[200] * (len(moves) - 1), status]


@pytest.mark.parametrize(("change", "field"), [
    pytest.param({"stop": 120}, "stop", id="stop beyond target"), pytest.param({"target": 100}, "target", id="no way"),
    pytest.param({"instrument": "TULIPS"}, "instrument", id="instrument"),
    pytest.param({"durationStrategy": "medium"}, "durationStrategy", id="duration"),
    pytest.param({"ticker": ""}, "ticker", id="ticker"), pytest.param({"start": "x"}, "start", id="price"),
    pytest.param({"start": "100"}, "start", id="a number in quotes"),
    pytest.param({"start": True, "stop": 0}, "start", id="a truth for a price"),
    pytest.param({"target": 1e15}, "target", id="beyond all prices"),
    pytest.param({"start": 0, "stop": -5e-324}, "stop", id="the stop is all but the start"),
    pytest.param({"ticker": " "}, "ticker", id="blank"), pytest.param({"ticker": "A\nB"}, "ticker", id="two lines"),
    pytest.param({"reason": "a\0b"}, "reason", id="null"), pytest.param({"source": "\x1b"}, "source", id="escape"),
    pytest.param({"more": 1}, "more", id="unknown")])
async def test_what_makes_no_alert_is_refused_by_field(client: httpx.AsyncClient, change: dict[str, Any],
                                                       field: str) -> None:
    answer = await client.post(ALERTS, json=ALERT | change)
    assert answer.status_code == 422 and field in {each["field"] for each in answer.json()["error"]["problems"]}


@pytest.mark.parametrize("exit", [True, "108", 1e15, None])
async def test_an_exit_is_a_price(client: httpx.AsyncClient, exit: Any) -> None:
    place = f"{ALERTS}/{(await post(client))['id']}"
    await client.patch(place, json={"state": "onGoing"})
    answer = await client.patch(place, json={"state": "closed", "exit": exit})
    assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["field"] == "exit"
    assert (await client.get(place)).json()["state"] == "onGoing"


async def test_compressed_json_is_refused_with_the_reason(client: httpx.AsyncClient) -> None:
    answer = await client.post(ALERTS, content=gzip.compress(orjson.dumps(ALERT)), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400 and "uncompressed" in answer.json()["error"]["problems"][0]["remedy"]


async def test_filters_of_lists_are_checked(client: httpx.AsyncClient) -> None:
    for query, field in (("duration=medium", "duration"), ("state=x", "state"), ("sort=x", "sort"),
                         ("since=2024-02-01T00:00:00Z&until=2024-01-01T00:00:00Z", "until")):
        for path in (ALERTS, f"{ALERTS}/statistics"):
            if (path, field) == (f"{ALERTS}/statistics", "sort"):
                continue
            answer = await client.get(f"{path}?{query}")
            assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["field"] == field, query


async def test_a_ticker_is_found_by_any_part_in_any_case(client: httpx.AsyncClient) -> None:
    await post(client, ticker="Ünï/USD")
    for part, total in (("Ünï", 1), ("ÜNÏ/u", 1), ("usd", 1), ("uni", 0)):
        assert (await client.get(ALERTS, params={"ticker": part})).json()["total"] == total, part


async def test_an_idempotency_key_makes_one_alert(client: httpx.AsyncClient, server: Any) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await client.post(ALERTS, json=ALERT, headers=key)
    again = await client.post(ALERTS, json=ALERT, headers=key)
    assert first.json()["id"] == again.json()["id"]
    assert (await client.post(ALERTS, json=ALERT | {"ticker": "ETH/USD"}, headers=key)).status_code == 409
    _, other = await server.services.users.create("other", ["alerts"])
    theirs = await client.post(ALERTS, json=ALERT, headers=key | {"Authorization": f"Bearer {other}"})
    assert theirs.json()["id"] != first.json()["id"], "keys of different tokens have nothing to do with each other"


async def test_scopes(client: httpx.AsyncClient, server: Any) -> None:
    id = (await post(client))["id"]
    for scopes, statuses in (("read", [200, 403, 403]), ("subscribe", [403, 403, 403]), ("ingest", [403, 403, 403])):
        _, text = await server.services.users.create(scopes, [scopes])
        headers = {"Authorization": f"Bearer {text}"}
        found = [(await client.get(ALERTS, headers=headers)).status_code,
                 (await client.post(ALERTS, json=ALERT, headers=headers)).status_code,
                 (await client.patch(f"{ALERTS}/{id}", json={"state": "onGoing"}, headers=headers)).status_code]
        assert found == statuses, scopes
    assert {(await client.get(f"{ALERTS}/{id}")).status_code for id in ("999", "x")} == {404}


# -- hooks


async def test_a_hook_takes_json_and_the_same_message_once(client: httpx.AsyncClient) -> None:
    made = (await client.post(HOOKS, json={"name": "chart", "defaults": {"instrument": "STOCKS"}})).json()
    body = b'{"symbol": "AAPL", "price": "1,010.5", "tp": 1100, "sl": 1000, "durationStrategy": "long", "volume": 1}'
    answers = [await client.post(made["path"], content=body, headers={"Content-Type": kind, "Authorization": ""})
               for kind in ("application/json", "text/plain; charset=utf-8")]
    assert [answer.status_code for answer in answers] == [201, 201] and answers[0].json() == answers[1].json()
    alert = (await client.get(f"{ALERTS}/{answers[0].json()['id']}")).json()
    assert alert["ticker"] == "AAPL" and alert["start"] == 1010.5 and alert["source"] == "hook chart"
    moved = await client.post(made["path"], json={"id": alert["id"], "state": "onGoing"})
    assert moved.json() == {"id": alert["id"], "state": "onGoing"}
    assert (await client.post(made["path"], json={"id": alert["id"], "state": "working"})).status_code == 409
    [hook] = (await client.get(HOOKS)).json()["items"]
    assert "cannot become" in hook["error"] and "path" not in hook
    assert (await client.get(f"{ALERTS}")).json()["total"] == 1


@pytest.mark.parametrize(("change", "field"), [
    pytest.param({"ticker": {"a": 1}}, "ticker", id="an object for a ticker"),
    pytest.param({"ticker": True}, "ticker", id="a truth"), pytest.param({"ticker": "a\0"}, "ticker", id="null"),
    pytest.param({"durationStrategy": "medium"}, "durationStrategy", id="duration"),
    pytest.param({"instrument": ["STOCKS"]}, "instrument", id="a list"),
    pytest.param({"reason": {"a": 1}}, "reason", id="reason"), pytest.param({"key": [1]}, "key", id="a list for a key"),
    pytest.param({"key": "k" * 201}, "key", id="a long key"), pytest.param({"state": "closed"}, "id", id="no id"),
    pytest.param({"id": 1}, "state", id="no state"), pytest.param({"start": "0x64"}, "start", id="hexadecimal"),
    pytest.param({"start": "1_00"}, "start", id="underscore"), pytest.param({"start": None}, "start", id="none"),
    pytest.param({"start": "69,5", "target": "70,5", "stop": "68,5"}, "start", id="commas before a fraction")])
async def test_messages_of_hooks_are_taken_for_what_they_are(client: httpx.AsyncClient, change: dict[str, Any],
                                                             field: str) -> None:
    path = (await client.post(HOOKS, json={"name": "chart"})).json()["path"]
    answer = await client.post(path, json=ALERT | change)
    assert answer.status_code == 422 and field in {each["field"] for each in answer.json()["error"]["problems"]}
    assert (await client.get(ALERTS)).json()["total"] == 0
    number = await client.post(path, json=ALERT | {"ticker": 7203, "key": 5, "durationStrategy": None})
    assert number.status_code == 201 and (await client.get(f"{ALERTS}?ticker=7203")).json()["total"] == 1


@pytest.mark.parametrize(("defaults", "field"), [
    ({"instrument": "TULIPS"}, "defaults.instrument"), ({"durationStrategy": "medium"}, "defaults.durationStrategy"),
    ({"start": "abc"}, "defaults.start"), ({"ticker": {"a": 1}}, "defaults.ticker"),
    ({"market": "x"}, "defaults.market"), ({"key": "k"}, "defaults"), ({"id": 1}, "defaults"),
    ({"symbol": "x"}, "defaults")])
async def test_defaults_that_no_message_can_have_are_refused(client: httpx.AsyncClient, defaults: dict[str, Any],
                                                             field: str) -> None:
    answer = await client.post(HOOKS, json={"name": "chart", "defaults": defaults})
    assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["field"] == field
    assert (await client.get(HOOKS)).json()["items"] == []


async def test_a_hook_takes_text_of_its_template(client: httpx.AsyncClient) -> None:
    made = (await client.post(HOOKS, json={
        "name": "text", "template": "{{ticker}} buy at {{start}}, target {{target}}; stop {{stop}}",
        "defaults": {"instrument": "FOREX", "durationStrategy": "long"}})).json()
    answer = await client.post(made["path"], content="EUR/USD  buy at 1.10, target 1.2; stop 1.05\n")
    assert answer.status_code == 201
    alert = (await client.get(f"{ALERTS}/{answer.json()['id']}")).json()
    assert (alert["ticker"], alert["start"], alert["target"], alert["stop"]) == ("EUR/USD", 1.1, 1.2, 1.05)
    wrong = await client.post(made["path"], content="sell everything")
    assert wrong.status_code == 422 and "template" in wrong.text


async def test_an_unknown_hook_is_not_found_and_guessing_is_slowed_down(client: httpx.AsyncClient) -> None:
    made = (await client.post(HOOKS, json={"name": "gone"})).json()
    assert (await client.delete(f"{HOOKS}/{made['id']}")).status_code == 204
    assert (await client.post(made["path"], json=ALERT)).status_code == 404
    statuses = [(await client.post(f"/workbench/hooks/{'x' * 43}", json=ALERT)).status_code for _ in range(40)]
    assert set(statuses) == {404, 429} and statuses[-1] == 429


async def test_the_secret_of_a_hook_stays_out_of_the_log_and_the_database(
        client: httpx.AsyncClient, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = (await client.post(HOOKS, json={"name": "chart"})).json()
    secret = made["path"].rpartition("/")[2]
    assert scrub(f"POST {made['path']} 201") == "POST /workbench/hooks/*** 201"
    with caplog.at_level(logging.INFO):
        answer = await client.post(made["path"], json={"ticker": "x"})
    assert answer.status_code == 422 and secret not in answer.text
    row = await server.services.db.read(lambda connection: str(connection.exec_driver_sql("SELECT * FROM hooks").all()))
    assert secret not in row and made["id"] in row


@pytest.mark.parametrize("template", ["no places", "{{ticker}}{{start}}", "{{ticker}} {{ticker}}", "{{colour}} x"])
async def test_templates_that_cannot_work_are_refused(client: httpx.AsyncClient, template: str) -> None:
    answer = await client.post(HOOKS, json={"name": "x", "template": template})
    assert answer.status_code == 422 and "template" in answer.text


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff\xfe", b"hello", b'{"start": true}', b'{"start": "abc"}'])
def test_messages_that_say_nothing_are_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        read_message(body, "")


def test_text_is_read_by_places() -> None:
    assert read_text("a (b)  at 5", "{{ticker}} ({{reason}}) at {{start}}") == {
        "ticker": "a", "reason": "b", "start": "5"}
