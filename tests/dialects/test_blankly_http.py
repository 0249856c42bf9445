"""The Events API over HTTP, as its document and its later generations have it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine import times
from tests.harness import running_server

pytestmark = pytest.mark.anyio
ORDER = {"symbol": "BTC-USD", "size": 8.3, "id": "o1", "side": "buy"}
OLDEST = "projectid modelid token"
MIDDLE = "PROJECT_ID MODEL_ID API_PASS"
NEWEST = "api_key model_id api_pass"


class Bot:
    """A bot with a key of its own, and what the server keeps of it."""

    def __init__(self, server: Any, client: httpx.AsyncClient, project: str, model: str, key: str) -> None:
        self.services, self.client = server.services, client
        self.project, self.id, self.key = project, model, key
        self.headers = self.named(NEWEST)

    def named(self, generation: str) -> dict[str, str]:
        return dict(zip(generation.split(), (self.project, self.id, self.key), strict=True))

    async def post(self, path: str, status: int = 200, headers: dict[str, str] | None = None,
                   **body: Any) -> httpx.Response:
        answer = await self.client.post(path, headers={**self.headers, **(headers or {})}, **body)
        assert answer.status_code == status, answer.text
        assert (answer.content == b"") == (status == 200)
        return answer

    async def events(self, suffix: str = "") -> list[tuple[str, Any]]:
        return [(event.type, event.data) for event in await self.services.events.page(f"model/{self.id}{suffix}")]

    async def model(self) -> Any:
        return await self.services.activity.model(self.id)

    async def order(self, id: str = "o1") -> Any:
        return await self.services.activity.order(self.id, id)


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    async with running_server(tmp_path, rate_limit=0) as server, httpx.AsyncClient(base_url=server.url) as client:
        activity = server.services.activity
        project = await activity.create_project("desk")
        model = await activity.create_model(project.id, "Momentum", dialect="blankly")
        _, api_key, api_pass = await activity.create_key(project.id, model.id)
        yield Bot(server, client, api_key, model.id, api_pass)


async def test_the_time_is_public(bot: Bot) -> None:
    answer = await bot.client.get("/time")
    assert answer.status_code == 200
    assert abs(answer.json()["time"] - times.now().timestamp()) < 5


async def test_every_route_of_the_document(bot: Bot) -> None:
    await bot.post("/v1/model/lifecycle", json={"message": "Running", "startAt": 1644682832.742, "endAt": None,
                                                "running": True})
    await bot.post("/v1/model/used-symbol", json={"symbol": "BTC-USD"})
    await bot.post("/v1/model/used-exchange", json={"exchange": "coinbase_pro"})
    await bot.post("/v1/live/event", json={"args": {"symbol": "BTC-USD"}, "response": {"message": "ok"},
                                           "type": "get_price", "annotation": "RSI low"})
    await bot.post("/v1/live/spot-market", json=ORDER)
    await bot.post("/v1/live/spot-limit", json={**ORDER, "id": "o2", "price": 2532.43, "annotation": "RSI low"})
    await bot.post("/v1/live/spot-stop", json={"symbol": "BTC-USD", "funds": 542.22, "id": "o3", "side": "sell",
                                               "price": 2532.43, "active": 53532.24})
    await bot.post("/v1/live/log", json={"line": "Executed market buy for 2.1 BTC", "type": "stdout"})
    model = await bot.model()
    assert (model.message, model.running, model.symbols, model.exchanges) == (
        "Running", True, ("BTC-USD",), ("coinbase_pro",))
    assert times.iso(model.started_at) == "2022-02-12T16:20:32.742000Z" and model.ended_at is None
    assert [type for type, _ in await bot.events()] == [
        "created", "lifecycle", "symbol", "exchange", "call", "order", "order", "order"]
    assert (await bot.events())[4][1]["args"] == {"symbol": "BTC-USD"}
    orders = [await bot.order(id) for id in ("o1", "o2", "o3")]
    assert [(order.kind, order.size, order.funds, order.price, order.activate) for order in orders] == [
        ("market", 8.3, None, None, None), ("limit", 8.3, None, 2532.43, None),
        ("stop", None, 542.22, 2532.43, 53532.24)]
    assert (await bot.events("/log"))[0][1]["line"] == "Executed market buy for 2.1 BTC"


async def test_limit_orders_of_the_document_count_and_open_ones_do_not(bot: Bot) -> None:
    """The document adds limit and stop orders to the profit and has no word for their state."""
    for number, more in enumerate(({}, {"status": "open"}, {"canceled_time": 1644682832}, {"filled": 0})):
        await bot.post("/v1/live/spot-limit", json={**ORDER, "id": f"l{number}", "size": 1, "price": 100.0, **more})
    await bot.post("/v1/live/spot-stop", json={**ORDER, "id": "s", "side": "sell", "size": 1, "price": 110.0,
                                               "active": 111.0})
    assert (await bot.services.profit.figures(bot.id)).totals["USD"].realised == 10.0
    assert [(await bot.order(f"l{number}")).status for number in range(4)] == ["done", "open", None, None]


async def test_gaps_of_a_series_are_left_out(bot: Bot) -> None:
    await bot.post("/v1/live/set-pnl", data={"values": '[{"time": 1, "value": NaN}, {"time": 2, "value": 5}]'})
    assert await bot.services.activity.pnl_points(bot.id) == [(2_000000, 5.0)]
    answer = await bot.post("/v1/live/set-pnl", 400, json={"values": [{"time": 1}]})
    assert answer.json()["field"] == "values[0]"


async def test_what_later_generations_added(bot: Bot) -> None:
    await bot.post("/v1/live/spot-limit", data={**ORDER, "price": "5", "executed_time": "1644682832",
                                                "exchange": "demo"})
    await bot.post("/v1/live/spot-limit", data={**ORDER, "id": "o2", "price": "5", "activate": "6", "funds": ""})
    await bot.post("/v1/live/spot-stop", data={**ORDER, "id": "o3", "price": "5", "activate": "6"})
    await bot.post("/v1/live/update-trade", data={"id": "o1", "status": "filled", "price": "5.5", "venue": "x",
                                                  "type": "spot-limit"})
    await bot.post("/v1/live/update-annotation", data={"id": "o1", "annotation": "why"})
    await bot.post("/v1/live/auto-pnl", data={"enabled": "False"})
    await bot.post("/v1/live/set-pnl", data={"values": '[{"time": 1651647605, "value": 10}]'})
    await bot.post("/v1/live/set-custom-metric", data={
        "metrics": '{"alpha": {"value": 1.5, "display_name": "Alpha", "type": "percentage"}}'})
    await bot.post("/v1/live/set-custom-metric", data={"metrics": "beta"})
    await bot.post("/v1/live/screener-result", data={"result": ["AAPL", "MSFT"]})
    await bot.post("/v1/live/screener-result", json={"result": {"AAPL": {"RSI": 29.5}}})
    order = await bot.order()
    assert (order.status, order.price, order.annotation, order.exchange, order.extra) == (
        "filled", 5.5, "why", "demo", {"venue": "x"})
    assert order.executed_at.timestamp() == 1644682832
    assert [(await bot.order(id)).kind for id in ("o1", "o2", "o3")] == ["limit", "stop", "stop"]
    model = await bot.model()
    assert model.auto_pnl is False and model.metrics["alpha"]["display_name"] == "Alpha" and "beta" in model.metrics
    assert await bot.services.activity.pnl_points(bot.id) == [(1651647605_000000, 10.0)]
    assert [data["result"] for type, data in await bot.events() if type == "screener"] == [
        ["AAPL", "MSFT"], {"AAPL": {"RSI": 29.5}}]


@pytest.mark.parametrize("form", ["json", "form", "multipart", "no content type"])
async def test_bodies_in_every_form(bot: Bot, form: str) -> None:
    body = {key: str(value) for key, value in ORDER.items()}
    if form == "json":
        await bot.post("/v1/live/spot-market", json=body)
    elif form == "form":
        await bot.post("/v1/live/spot-market", data=body)
    elif form == "multipart":
        await bot.post("/v1/live/spot-market", files={key: (None, value) for key, value in body.items()})
    else:
        await bot.post("/v1/live/spot-market", content=b"symbol=BTC-USD&size=8.3&id=o1&side=BUY")
    assert (await bot.order()).size == 8.3


async def test_every_generation_of_headers(bot: Bot) -> None:
    for number, generation in enumerate((OLDEST, MIDDLE, NEWEST, "api-key model-id api-pass")):
        bot.headers = bot.named(generation) | {"versionid": f"v{number}"}
        await bot.post("/v1/live/spot-market", json={**ORDER, "id": f"o{number}"})
        assert (await bot.order(f"o{number}")).version == f"v{number}"
    bot.headers = {"Authorization": f"Bearer {bot.key}"}
    await bot.post("/v1/live/log", json={"line": "a key for one model needs no model's id"})
    bot.headers = {"projectid": bot.project, "token": bot.key}
    await bot.post("/v1/live/log", json={"line": "nor here"})
    assert len(await bot.events("/log")) == 2


async def test_a_page_of_a_named_origin_may_send_every_header(tmp_path: Path) -> None:
    async with running_server(tmp_path, origins=("https://desk.example",)) as server, httpx.AsyncClient(
            base_url=server.url) as client:
        asked = {"Origin": "https://desk.example", "Access-Control-Request-Method": "POST"}
        answer = await client.options("/v1/live/log", headers=asked)
        allowed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
        for generation in (OLDEST, MIDDLE, NEWEST, "versionid time backtesting backtestingid content-type"):
            assert set(generation.lower().split()) <= allowed
        foreign = await client.options("/v1/live/log", headers=asked | {"Origin": "https://evil.example"})
        assert not [name for name in foreign.headers if name.startswith("access-control")]


async def test_strangers_are_told_so(bot: Bot) -> None:
    log = {"line": "x", "type": "stdout"}
    other = await bot.services.activity.create_project("other")
    sibling = await bot.services.activity.create_model(bot.project, "Sibling")
    _, other_key, other_pass = await bot.services.activity.create_key(other.id)
    _, reader = await bot.services.users.create("reader", ["read"])
    for headers, status, text in (
            ({}, 401, "Missing a required header"), ({**bot.headers, "api_pass": "wrong"}, 401, "Not Authenticated"),
            ({**bot.headers, "api_key": "another"}, 401, "Not Authenticated"),
            ({**bot.headers, "model_id": sibling.id}, 401, "another model"),
            ({**bot.headers, "api_pass": reader}, 401, "ingest"),
            ({"api_pass": other_pass, "api_key": other_key}, 401, "model_id"),
            ({"api_pass": other_pass, "api_key": other_key, "model_id": bot.id}, 404, bot.id)):
        answer = await bot.client.post("/v1/live/log", json=log, headers=headers)
        assert answer.status_code == status and text in answer.json()["error"], answer.text
    assert await bot.events("/log") == []
    [token] = await bot.services.activity.keys(bot.project)
    await bot.services.users.revoke(token.id)
    assert (await bot.post("/v1/live/log", 401, json=log)).json()["error"] == "Not Authenticated"


async def test_the_admin_makes_models_by_naming_them(bot: Bot) -> None:
    bot.headers = {"token": bot.services.admin_token or "", "modelid": "fresh", "projectid": "lab"}
    await bot.post("/v1/live/log", json={"line": "x"})
    model = await bot.services.activity.model("fresh")
    assert (model.project, model.dialect) == ("lab", "blankly")
    bot.headers = {"api_key": bot.headers["token"], "api_pass": bot.headers["token"], "model_id": "careless"}
    await bot.post("/v1/live/log", json={"line": "x"})
    assert (await bot.services.activity.model("careless")).project == "default", "a secret names no project"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/live/spot-market", {**ORDER, "funds": 5}, "funds"), ("/v1/live/spot-market", {**ORDER, "size": None}, "size"),
    ("/v1/live/spot-market", {**ORDER, "size": "many"}, "size"),
    ("/v1/live/spot-market", {**ORDER, "side": "x"}, "side"), ("/v1/live/spot-market", {**ORDER, "size": 1e31}, "size"),
    ("/v1/live/spot-market", {**ORDER, "symbol": None}, "symbol"), ("/v1/live/spot-market", {**ORDER, "id": ""}, "id"),
    ("/v1/live/spot-limit", ORDER, "price"), ("/v1/live/spot-stop", {**ORDER, "price": 5}, "active"),
    ("/v1/live/log", {}, "line"), ("/v1/live/event", {"args": {}}, "type"), ("/v1/live/auto-pnl", {}, "enabled"),
    ("/v1/live/set-pnl", {"values": "x"}, "values"), ("/v1/live/set-custom-metric", {}, "metrics"),
    ("/v1/live/screener-result", {}, "result"), ("/v1/live/update-trade", {"status": "x"}, "id"),
    ("/v1/live/update-annotation", {"id": "o1"}, "annotation"), ("/v1/model/used-symbol", {}, "symbol"),
    ("/v1/model/used-exchange", {}, "exchange"), ("/v1/model/lifecycle", {"startAt": "soon"}, "startAt"),
    ("/v1/model/lifecycle", {"running": "maybe"}, "running"), ("/v1/backtest/result", {}, "account_values"),
    ("/v1/backtest/result", {"account_values": [{"time": "x", "value": 1}]}, "account_values[0].time"),
    ("/v1/backtest/status", {"backtest_id": "b"}, "successful"),
    ("/v1/backtest/status", {"successful": True}, "backtest_id"),
    ("/v1/backtest/log", {"line": "x"}, "backtest_id"),
]


async def test_a_wrong_body_names_its_field(bot: Bot) -> None:
    for path, body, field in WRONG:
        answer = (await bot.post(path, 400, json=body)).json()
        assert answer["field"] == field and isinstance(answer["error"], str) and answer["error"], (path, body)
    assert len(await bot.events()) == 1, "nothing of them is kept"


async def test_other_errors_are_json_too(bot: Bot) -> None:
    for path, status, more in (
            ("/v1/live/log", 400, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
            ("/v1/live/update-trade", 404, {"json": {"id": "never", "status": "x"}}),
            ("/v1/live/log", 400, {"json": {"line": "x"}, "headers": {"time": "soon"}}),
            ("/v1/live/log", 400, {"json": {"line": "x"}, "headers": {"backtesting": "1"}}),
            ("/v1/live/log", 413, {"content": b"line=" + b"x" * (9 * 2**20)})):
        answer = await bot.post(path, status, **more)
        assert isinstance(answer.json()["error"], str)
    answer = await bot.client.get("/v1/live/log", headers=bot.headers)
    assert answer.status_code == 405 and isinstance(answer.json()["error"], str)


async def test_the_header_time_dates_what_is_reported(bot: Bot) -> None:
    for text in ("1644682832.742", "1644682832742", "Sat, 12 Feb 2022 16:20:32 GMT", "2022-02-12T16:20:32Z"):
        await bot.post("/v1/live/log", headers={"time": text}, json={"line": "x"})
    assert {data["at"][:19] for _, data in await bot.events("/log")} == {"2022-02-12T16:20:32"}
    await bot.post("/v1/live/log", json={"line": "now"})
    assert (await bot.events("/log"))[-1][1]["at"][:4] >= "2024"
    assert (await bot.model()).heard_at.year >= 2024, "a bot's clock changes nothing but its own times"


async def test_backtesting_headers_keep_live_and_backtest_apart(bot: Bot) -> None:
    await bot.post("/v1/live/spot-market", json=ORDER)
    for flag in ("1", "true"):
        await bot.post("/v1/live/spot-market", headers={"backtesting": flag, "backtestingid": "b1"},
                       json={**ORDER, "size": 2})
    backtest = {"backtesting": "True", "backtestingid": "b1"}
    await bot.post("/v1/live/spot-market", headers={**backtest, "backtesting": "0"}, json={**ORDER, "size": 3})
    await bot.post("/v1/live/log", headers=backtest, json={"line": "in backtest"})
    await bot.post("/v1/model/lifecycle", headers=backtest, json={"running": True})
    assert (await bot.order()).size == 3.0 and (await bot.model()).orders == 1
    assert (await bot.model()).running is None
    run = (await bot.events("/log"))[0][1]["run"]
    assert (await bot.services.activity.order(bot.id, "o1", run)).size == 2.0
    assert [event.type for event in await bot.services.events.page(f"run/{run}")] == ["log", "lifecycle"]


async def test_a_backtest_leaves_the_figures_of_the_live_model_alone(bot: Bot) -> None:
    live, other = [{"time": 1651647605, "value": 10}], [{"time": 1651647605, "value": -99}]
    backtest = {"backtesting": "1", "backtestingid": "b1"}
    await bot.post("/v1/live/set-pnl", json={"values": live})
    await bot.post("/v1/live/set-pnl", headers=backtest, json={"values": other})
    for path, body in (("set-custom-metric", {"metrics": {"alpha": 1}}), ("auto-pnl", {"enabled": False}),
                       ("screener-result", {"result": ["AAPL"]})):
        await bot.post(f"/v1/live/{path}", headers=backtest, json=body)
    await bot.post("/v1/model/used-symbol", headers=backtest, json={"symbol": "BTC-USD"})
    model = await bot.model()
    assert (model.symbols, model.metrics, model.auto_pnl) == ((), {}, True)
    assert await bot.services.activity.pnl_points(bot.id) == [(1651647605_000000, 10.0)]
    [screener] = [data for type, data in await bot.events() if type == "screener"]
    admin = {"Authorization": f"Bearer {bot.services.admin_token}"}
    place = f"/workbench/api/models/{bot.id}/screener"
    [shown] = (await bot.client.get(place, headers=admin)).json()["items"]
    table = (await bot.client.get(place, headers=admin, params={"format": "csv"})).text
    assert shown["run"] == screener["run"] and screener["run"] in table
    events = await bot.services.events.page(f"run/{screener['run']}")
    assert [event.type for event in events] == ["pnl", "metrics", "auto-pnl", "symbol"]
    assert events[0].data["values"] == [[1651647605_000000, -99.0]]


async def test_lifecycle_keys_that_are_absent_keep_and_null_resets(bot: Bot) -> None:
    await bot.post("/v1/model/lifecycle", data={"message": "Started", "start_at": "1795265339.9", "running": "True"})
    await bot.post("/v1/model/lifecycle", json={"endAt": 1795265400})
    model = await bot.model()
    assert (model.message, model.running) == ("Started", True) and model.started_at and model.ended_at
    await bot.post("/v1/model/lifecycle", json={"message": None, "start_at": None, "running": None})
    model = await bot.model()
    assert (model.message, model.running, model.started_at) == (None, None, None) and model.ended_at
    await bot.post("/v1/model/lifecycle", data={"message": "Started", "running": "True"})
    await bot.post("/v1/model/lifecycle", data={"message": "null", "endAt": "undefined", "running": "null"})
    model = await bot.model()
    assert (model.message, model.running, model.ended_at) == (None, None, None), "a form can only say it in words"


async def test_a_repeated_key_keeps_a_write_once(bot: Bot) -> None:
    for _ in range(3):
        await bot.post("/v1/live/log", headers={"Idempotency-Key": "k1"}, json={"line": "once"})
    await bot.post("/v1/live/log", 409, headers={"Idempotency-Key": "k1"}, json={"line": "other"})
    assert [data["line"] for _, data in await bot.events("/log")] == ["once"]


async def test_every_line_of_a_second_is_kept_in_order(bot: Bot) -> None:
    for number in range(20):
        await bot.post("/v1/live/log" if number % 2 else "/log", headers={"time": "1644682832"},
                       data={"line": str(number), "type": "stdout"})
    await asyncio.gather(*(bot.post("/log", data={"line": "many", "type": "stdout"}) for _ in range(50)))
    lines = [data["line"] for _, data in await bot.events("/log")]
    assert lines == [*map(str, range(20)), *["many"] * 50]


async def test_a_slash_at_the_end_does_not_matter(bot: Bot) -> None:
    await bot.post("/v1/live/log/", json={"line": "x"})
    await bot.post("/v1/live/spot-market/", json=ORDER)
    assert len(await bot.events("/log")) == 1 and (await bot.order()).size == 8.3
    assert "/v1/live/log/" not in (await bot.client.get("/openapi.json")).json()["paths"]


async def test_the_dashboard_keeps_its_address(bot: Bot) -> None:
    answer = await bot.client.get("/", headers=bot.headers)
    assert "docs" not in answer.headers.get("Content-Type", "") and answer.status_code in (200, 302, 303, 401, 404)
    paths = (await bot.client.get("/openapi.json")).json()["paths"]
    assert "/v1/live/spot-market" in paths and "/time" in paths
