"""Models over real HTTP and WebSockets: lists, pages, filters, files and streams of what bots reported."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from sqlalchemy import insert
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from engine import times
from server.store.tables.activity import models, orders, projects
from tests.harness import running_server

pytestmark = pytest.mark.anyio
API = "/workbench/api"
TOKEN = "a-secret-token-of-the-tests"
T0 = times.micros(times.parse("2026-01-01"))
SECOND = 1_000_000


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def model_row(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "project_id": "p1", "name": id.title(), "dialect": "native", "kind": "strategy",
            "created_at": T0, "symbols": ["BTC-USD"], "exchanges": ["kraken"], "auto_pnl": True, "metrics": {},
            "orders": 0, "errors": 0, "description": "", "running": None, "heard_at": None, "last_error": None} | more


def order_row(number: int, **more: Any) -> dict[str, Any]:
    return {"model_id": "alpha", "run_id": "", "id": f"o{number:05d}", "symbol": "BTC-USD", "exchange": "kraken",
            "kind": "market", "side": "buy" if number % 2 else "sell", "size": 1.0 + number, "price": 100.0,
            "at": T0 + number // 2 * SECOND, "received_at": T0 + number * SECOND, "status": None, "filled": None,
            "canceled_at": None, "annotation": None, "extra": None} | more


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with running_server(tmp_path_factory.mktemp("server"), token=TOKEN, rate_limit=0) as running:
        log = running.services.events

        def fill(connection: Any) -> None:
            connection.execute(insert(projects), [
                {"id": id, "name": id, "description": "", "owner": "", "created_at": T0} for id in ("p1", "p2")])
            connection.execute(insert(models), [
                model_row("alpha", running=True, heard_at=T0 + 5, orders=6003, name="Grid of bitcoin"),
                model_row("beta", running=False, heard_at=T0 + 9, symbols=["ETH-USD"], created_at=T0 + 1),
                model_row("gamma", project_id="p2", dialect="gekko", kind="watcher", created_at=T0 + 2,
                          last_error="No funds left"),
                *(model_row(f"m{number:03d}", created_at=T0 + 10) for number in range(40))])
            connection.execute(insert(orders), [order_row(number) for number in range(6000)])
            connection.execute(insert(orders), [
                order_row(7001, status="Open", symbol="ETH-USD"), order_row(7002, status="canceled", filled=0.0),
                order_row(7003, status="canceled", filled=0.5, annotation="Half of it went through"),
                order_row(7004, run_id="r1")])
            log.append_many(connection, "model/alpha/log", [
                ("log", {"line": f"tick {number} of the Market", "type": "stderr" if number % 100 == 0 else "stdout",
                         "at": times.iso(T0 + number * SECOND)}) for number in range(6500)])
            log.append_many(connection, "model/alpha", [
                ("call", {"type": "get_price", "args": {"symbol": "BTC-USD"}, "response": number,
                          "at": times.iso(T0)}) if number % 3 else
                ("screener", {"result": {"rank": number}, "at": times.iso(T0)}) for number in range(90)])

        await running.services.db.write(fill)
        yield running


@pytest.fixture(scope="module")
async def api(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url + API, headers={"Authorization": f"Bearer {TOKEN}"},
                                 timeout=60) as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def all_pages(api: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    items, cursor = [], None
    while True:
        page = await get(api, path, **params, **({"cursor": cursor} if cursor else {}))
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            return items


async def test_models_are_listed_with_state(api: httpx.AsyncClient) -> None:
    page = await get(api, "/models", project="p1", running="true")
    assert page["total"] == 1 and page["next"] is None
    alpha = page["items"][0]
    assert (alpha["id"], alpha["running"], alpha["orders"]) == ("alpha", True, 6003)
    assert alpha["heard_at"] == "2026-01-01T00:00:00.000005Z"
    assert await get(api, "/models/alpha") == alpha


@pytest.mark.parametrize(("params", "expected"), [
    ({"project": "p2"}, ["gamma"]), ({"dialect": "gekko"}, ["gamma"]), ({"kind": "watcher"}, ["gamma"]),
    ({"symbol": "ETH-USD"}, ["beta"]), ({"q": "BITCOIN"}, ["alpha"]), ({"q": "no funds"}, ["gamma"]),
    ({"q": "%"}, []),
], ids=["project", "dialect", "kind", "symbol", "name", "last-error", "wildcard"])
async def test_models_are_filtered(api: httpx.AsyncClient, params: dict[str, str], expected: list[str]) -> None:
    assert [each["id"] for each in (await get(api, "/models", **params))["items"]] == expected


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["name", "created_at", "heard_at", "project", "orders", "errors", "last_error_at",
                                  "started_at", "running"])
async def test_pages_of_models_hold_each_once_in_order(api: httpx.AsyncClient, sort: str, order: str) -> None:
    items = await all_pages(api, "/models", sort=sort, order=order, limit=7)
    assert len(items) == len({each["id"] for each in items}) == 43
    key = {"name": lambda each: each["name"].lower(), "running": lambda each: bool(each["running"])}.get(
        sort, lambda each: each[sort])
    values = [key(each) for each in items]
    there = [value for value in values if value is not None]
    assert values == sorted(there, reverse=order == "desc") + [None] * (len(values) - len(there))


async def test_a_cursor_of_another_order_is_refused(api: httpx.AsyncClient) -> None:
    cursor = (await get(api, "/models", limit=1))["next"]
    for params in ({"cursor": cursor, "sort": "name"}, {"cursor": "nonsense"}, {"sort": "shoe_size"}):
        answer = await api.get("/models", params=params)
        assert answer.status_code == 422
        assert answer.json()["error"]["problems"][0]["field"] in ("cursor", "sort")


async def test_orders_come_by_the_bots_clock(api: httpx.AsyncClient) -> None:
    page = await get(api, "/models/alpha/orders", limit=3)
    assert [each["id"] for each in page["items"]] == ["o07003", "o07002", "o07001"]
    items = await all_pages(api, "/models/alpha/orders", limit=999, order="asc")
    assert [each["id"] for each in items] == [f"o{number:05d}" for number in (*range(6000), 7001, 7002, 7003)]
    newest = await all_pages(api, "/models/alpha/orders", limit=1000)
    assert newest == items[::-1]


@pytest.mark.parametrize(("params", "expected"), [
    ({"symbol": "ETH-USD"}, ["o07001"]), ({"status": "open,CANCELED"}, ["o07003", "o07002", "o07001"]),
    ({"q": "half of"}, ["o07003"]), ({"run": "r1"}, ["o07004"]),
    ({"end": "2026-01-01T00:00:00Z"}, ["o00001", "o00000"]),
    ({"start": "2026-01-01T00:58:21Z"}, ["o07003", "o07002"]), ({"side": "sell", "q": "o0700"}, ["o07002"]),
], ids=["symbol", "status", "text", "run", "end", "start", "side"])
async def test_orders_are_filtered(api: httpx.AsyncClient, params: dict[str, str], expected: list[str]) -> None:
    assert [each["id"] for each in (await get(api, "/models/alpha/orders", **params))["items"]] == expected


async def test_trades_are_orders_of_which_something_was_traded(api: httpx.AsyncClient) -> None:
    page = await get(api, "/models/alpha/trades", limit=2)
    assert [each["id"] for each in page["items"]] == ["o07003", "o05999"]


async def test_one_order(api: httpx.AsyncClient) -> None:
    order = await get(api, "/models/alpha/orders/o07003")
    assert (order["filled"], order["extra"], order["run"]) == (0.5, {}, "")
    assert (await api.get("/models/alpha/orders/o99999")).status_code == 404


async def test_logs_are_read_from_the_end_and_back(api: httpx.AsyncClient) -> None:
    page = await get(api, "/models/alpha/logs", tail=2)
    assert [each["line"] for each in page["items"]] == ["tick 6498 of the Market", "tick 6499 of the Market"]
    assert (page["next"], page["last"]) == (6499, 6500)
    before = await get(api, "/models/alpha/logs", before=page["next"], limit=1000)
    assert [each["seq"] for each in before["items"]] == list(range(5499, 6499))
    after = await get(api, "/models/alpha/logs", after=6498)
    assert [each["seq"] for each in after["items"]] == [6499, 6500] and after["next"] is None


async def test_logs_are_found_by_type_and_text_in_short_steps(api: httpx.AsyncClient) -> None:
    found, after = [], 0
    while after is not None:
        page = await get(api, "/models/alpha/logs", type="stderr", q="MARKET", after=after, limit=20)
        found += page["items"]
        after = page["next"]
    assert [each["seq"] for each in found] == list(range(1, 6500, 100))
    last = await get(api, "/models/alpha/logs", type="stderr", tail=1)
    assert last["items"][0]["line"] == "tick 6400 of the Market"
    assert (await get(api, "/models/alpha/logs", q="at all"))["items"] == []  # only lines are looked at


async def test_calls_and_screener_results(api: httpx.AsyncClient) -> None:
    calls = await get(api, "/models/alpha/calls", tail=1)
    assert calls["items"][0]["response"] == 89 and calls["items"][0]["args"] == {"symbol": "BTC-USD"}
    results = await get(api, "/models/alpha/screener", after=0, limit=1000)
    assert [each["result"]["rank"] for each in results["items"]] == list(range(0, 90, 3))
    events = await get(api, "/models/alpha/events", type="screener,call", limit=5)
    assert [each["seq"] for each in events["items"]] == [1, 2, 3, 4, 5] and events["next"] == 5


@pytest.mark.parametrize("noun", ["orders", "trades", "logs", "calls", "screener", "events"])
async def test_files_hold_everything(api: httpx.AsyncClient, noun: str) -> None:
    counts = {"orders": 6003, "trades": 6001, "logs": 6500, "calls": 60, "screener": 30, "events": 90}
    text = await api.get(f"/models/alpha/{noun}", params={"format": "csv"})
    assert text.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert text.headers["Content-Disposition"] == f'attachment; filename="{noun}.csv"'
    lines = list(csv.DictReader(io.StringIO(text.text)))
    table = pyarrow.parquet.read_table(io.BytesIO(
        (await api.get(f"/models/alpha/{noun}", params={"format": "parquet"})).content))
    assert len(lines) == table.num_rows == counts[noun]
    assert list(lines[0]) == table.column_names
    clock = "at" if "at" in lines[0] else "received_at"
    assert [times.micros(times.parse(line[clock])) for line in lines] == table[clock].cast("int64").to_pylist()


async def test_a_file_of_nothing_has_its_columns(api: httpx.AsyncClient) -> None:
    text = await api.get("/models/beta/orders", params={"format": "csv"})
    assert text.text.startswith("at,id,symbol") and text.text.count("\n") == 1
    table = pyarrow.parquet.read_table(io.BytesIO(
        (await api.get("/models/beta/orders", params={"format": "parquet"})).content))
    assert table.num_rows == 0 and "price" in table.column_names


@pytest.mark.parametrize("path", ["", "/orders", "/trades", "/logs", "/calls", "/screener", "/events", "/orders/o1"])
async def test_an_unknown_model_is_not_found(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(f"/models/nobody{path}")
    assert answer.status_code == 404 and "nobody" in answer.json()["error"]["message"]


async def test_a_model_is_renamed_and_followers_hear_of_it(server: Any, api: httpx.AsyncClient) -> None:
    url = server.url.replace("http", "ws") + API + "/models/m000/stream"
    async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
        answer = await api.patch("/models/m000", json={"name": "Zorro", "description": "It was m000"})
        assert (answer.json()["name"], answer.json()["description"]) == ("Zorro", "It was m000")
        event = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert (event["stream"], event["seq"], event["type"]) == ("model/m000", 1, "changed")
    assert (await api.patch("/models/m000", json={"name": ""})).status_code == 422
    assert (await api.patch("/models/nobody", json={"name": "x"})).status_code == 404
    await api.patch("/models/m000", json={"name": "M000"})


async def test_output_is_followed_from_a_number(server: Any) -> None:
    url = server.url.replace("http", "ws") + API + "/models/alpha/logs/stream?after=6498"
    async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
        seen = [json.loads(await asyncio.wait_for(socket.recv(), 10))["seq"] for _ in range(2)]
    assert seen == [6499, 6500]


async def test_an_unknown_models_stream_is_closed_with_the_reason(server: Any) -> None:
    url = server.url.replace("http", "ws") + API + "/models/nobody/stream"
    async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), 10)
    assert caught.value.rcvd.code == 1008 and "nobody" in caught.value.rcvd.reason


async def test_a_bound_token_sees_its_project_alone(server: Any, api: httpx.AsyncClient) -> None:
    _, text = await server.services.users.create("bound", ["read"], project="p2")
    async with httpx.AsyncClient(base_url=server.url + API, headers={"X-API-Key": text}) as bound:
        assert [each["id"] for each in (await get(bound, "/models"))["items"]] == ["gamma"]
        assert [each["id"] for each in (await get(bound, "/projects"))["items"]] == ["p2"]
        assert (await bound.get("/models/alpha")).status_code == 404
        assert (await bound.get("/models/alpha/logs")).status_code == 404
