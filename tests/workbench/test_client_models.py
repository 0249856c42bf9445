"""Models through the clients, against a real server that bots reported to."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest

import workbench as wb
from engine.activity import Call, Lifecycle, LogLine, OrderChange, OrderPlaced
from engine.errors import Conflict, NotFound, Unauthenticated
from engine.model import Principal
from tests.harness import running_server, until
from workbench.client import AsyncClient
from workbench.client_models import call_of, log_of, order_of

pytestmark = pytest.mark.anyio
TOKEN = "a-secret-token-of-the-tests"
ADMIN = Principal(name="tests", scopes=frozenset({"admin"}))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with running_server(tmp_path_factory.mktemp("server"), token=TOKEN, rate_limit=0) as running:
        await running.services.activity.record([
            Lifecycle(model="grid", message="hello", running=True, started_at="2026-01-01"),
            *(OrderPlaced(model="grid", id=f"o{number}", symbol="BTC-USD", side="buy", size=1.0, price=100.0 + number,
                          at=1_767_225_600 + number) for number in range(5)),
            OrderChange(model="grid", id="o4", changes={"status": "rejected"}),
            LogLine(model="grid", line="one"), LogLine(model="grid", line="two", type="stderr"),
            Call(model="grid", type="get_price", args={"symbol": "BTC-USD"}, response=100.5)], principal=ADMIN)
        yield running


@pytest.fixture(scope="module")
async def client(server: Any) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, TOKEN) as client:
        yield client


async def test_models_come_as_values(client: AsyncClient) -> None:
    page = await client.models(running=True)
    assert [model.id for model in page.items] == ["grid"] and page.next is None and page.total == 1
    model = await client.model("grid")
    assert model == page.items[0]
    assert model.message == "hello" and model.started_at.year == 2026
    with pytest.raises(NotFound, match="nobody"):
        await client.model("nobody")


async def test_orders_logs_and_calls_come_as_values(client: AsyncClient) -> None:
    page = await client.orders("grid", limit=2)
    assert [order.id for order in page.items] == ["o4", "o3"] and page.items[0].status == "rejected"
    rest = await client.orders("grid", limit=10, cursor=page.next)
    assert [order.id for order in rest.items] == ["o2", "o1", "o0"] and rest.next is None
    assert [order.id for order in (await client.trades("grid", limit=1)).items] == ["o3"]
    assert (await client.order("grid", "o1")).price == 101.0
    assert [order.id for order in (await client.orders("grid", status="rejected")).items] == ["o4"]
    logs = await client.logs("grid", tail=1)
    assert logs.items[0].line == "two" and logs.next == 2 and logs.last == 2
    assert [each.line for each in (await client.logs("grid", before=logs.next)).items] == ["one"]
    call = (await client.calls("grid")).items[0]
    assert (call.type, call.args, call.response) == ("get_price", {"symbol": "BTC-USD"}, 100.5)


async def test_files(client: AsyncClient) -> None:
    lines = list(csv.DictReader(io.StringIO((await client.export("grid", "orders", "csv")).decode())))
    assert [line["id"] for line in lines] == [f"o{number}" for number in range(5)]
    assert (await client.export("grid", "logs", "parquet")).startswith(b"PAR1")


async def test_a_model_is_followed_across_what_comes_next(server: Any, client: AsyncClient) -> None:
    last = (await client.model_events("grid", tail=1)).last
    seen: list[Any] = []

    async def follow() -> None:
        async for event in client.follow_model("grid", last):
            seen.append(event)

    async def follow_output() -> None:
        async for event in client.follow_logs("grid", 2):
            seen.append(event)

    tasks = [asyncio.create_task(follow()), asyncio.create_task(follow_output())]
    try:
        await server.services.activity.record([
            OrderPlaced(model="grid", id="next", symbol="ETH-USD", side="sell", funds=50.0),
            Call(model="grid", type="sleep"), LogLine(model="grid", line="three")], principal=ADMIN)
        await until(lambda: len({event.type for event in seen} & {"order", "call", "log"}) == 3)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    by_type = {event.type: event for event in seen}
    assert order_of(by_type["order"].data).funds == 50.0
    assert call_of(by_type["call"]).type == "sleep"
    assert log_of(by_type["log"]).line == "three" and log_of(by_type["log"]).seq == 3


async def test_following_nobody_says_so(server: Any, client: AsyncClient) -> None:
    with pytest.raises(NotFound, match="nobody"):
        async for _ in client.follow_model("nobody"):
            pytest.fail("there is nothing to follow")
    async with AsyncClient(server.url, "wrong-token") as stranger:
        with pytest.raises(Unauthenticated):
            async for _ in stranger.follow_model("grid"):
                pytest.fail("there is nothing to follow")


async def test_models_are_made_renamed_and_deleted(client: AsyncClient) -> None:
    project = await client.create_project("Research", id="research")
    assert project in await client.projects()
    model = await client.create_model("Momentum", project="research", id="mom")
    assert model.project == "research" and model.running is None
    with pytest.raises(Conflict):
        await client.create_model("Momentum", id="mom")
    assert (await client.rename_model("mom", name="Mömentum")).name == "Mömentum"
    await client.delete_model("mom")
    with pytest.raises(NotFound):
        await client.model("mom")


async def test_a_key_shows_its_secret_once_and_reports_for_its_model_alone(server: Any, client: AsyncClient) -> None:
    await client.create_model("Keyed", id="keyed")
    key = await client.create_key(model="keyed", name="bot on the desk")
    assert key["api_key"] == key["project"] == "default" and key["token"] == key["api_pass"]
    listed = await client.keys(model="keyed")
    assert [each["name"] for each in listed] == ["bot on the desk"]
    assert not any("token" in each or "api_pass" in each for each in listed)
    assert [each["id"] for each in await client.keys(project="default")] == [key["id"]]
    principal = await server.services.users.principal(key["token"])
    assert (principal.project, principal.model, principal.scopes) == ("default", "keyed", {"ingest"})
    await client.revoke_key(key["id"])
    assert await server.services.users.principal(key["token"]) is None
    with pytest.raises(NotFound):
        await client.revoke_key("nothing")


async def test_notebooks_get_tables(server: Any) -> None:
    def work() -> None:
        with wb.Client(server.url, TOKEN) as client:
            assert client.models().loc["grid", "running"]
            model = client.model("grid")
            assert "grid" in repr(model) and "running" in repr(model)
            assert list(model.orders(limit=2, descending=False)["id"]) == ["o0", "o1"]
            assert list(model.logs()["line"])[:2] == ["one", "two"]
            assert model.calls().iloc[0]["type"] == "get_price"
            assert next(model.follow()).seq == 1
            assert len(client.models(text="no such thing")) == 0
            assert model.rename("Grid").data.name == "Grid"

    await asyncio.to_thread(work)
