"""Profit over real HTTP and WebSockets: figures of models, the overview, live trades beside a backtest."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from engine import times
from engine.activity import CustomMetrics, Entry, Lifecycle, LogLine, OrderPlaced
from engine.demo import demo_candles
from engine.model import Principal
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio
API = "/workbench/api"
TOKEN = "a-secret-token-of-the-tests"
ADMIN = Principal(name="admin", scopes=frozenset({"admin"}))
DAY = times.micros(times.parse("2026-03-02T00:00:00Z"))
HOUR = 3600 * times.SECOND


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def order(model: str, n: int, side: str, price: float | None, *, late: float = 0.0, **more: Any) -> OrderPlaced:
    return OrderPlaced(model=model, id=f"o{n}", side=side, price=price, **{
        "symbol": "BTC-USD", "size": 1.0, "at": times.iso(DAY + n * HOUR + round(late * times.SECOND)), **more})


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with running_server(tmp_path_factory.mktemp("server"), token=TOKEN, rate_limit=0) as running:
        await say(running, *(order("bot", n, "buy" if n % 2 else "sell", 100 + n, late=5, fee=0.1)
                             for n in range(1, 8)),
                  order("bot", 9, "buy", 3.0, symbol="ETH/EUR"), order("bot", 10, "buy", None, symbol="DOGE-USD"),
                  CustomMetrics(model="bot", metrics={"cagr": {"value": 0.5, "display_name": "CAGR", "type": "%"}}),
                  LogLine(model="bot", line="it broke", type="error"), Lifecycle(model="bot", running=True))
        await say(running, Lifecycle(model="idle", message="waiting"))
        await running.services.activity.create_project("Other", id="other")
        await running.services.activity.create_model("other", "Foreign", id="foreign")
        yield running


async def say(server: Any, *entries: Entry) -> None:
    await server.services.activity.record(entries, principal=ADMIN)


@pytest.fixture(scope="module")
async def api(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url + API, headers={"Authorization": f"Bearer {TOKEN}"},
                                 timeout=60) as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, status: int = 200, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_positions_and_totals(api: httpx.AsyncClient) -> None:
    told = await get(api, "/models/bot/positions")
    assert [(item["symbol"], item["currency"], item["quantity"]) for item in told["items"]] == [
        ("BTC-USD", "USD", 1.0), ("ETH/EUR", "EUR", 1.0), ("DOGE-USD", "USD", 0.0)]
    btc, _, doge = told["items"]
    assert (btc["average_cost"], btc["price"], btc["price_source"], btc["fills"]) == (107, 107, "fill", 7)
    assert btc["realised"] == pytest.approx(3 - 0.7) and btc["fees"] == pytest.approx(0.7) and doge["unpriced"] == 1
    told = await get(api, "/models/bot/pnl")
    assert told["totals"]["USD"]["total"] == pytest.approx(3 - 0.7) and told["totals"]["EUR"]["exposure"] == 3
    assert told["unpriced"] == 1 and told["reported"] is False and "average cost" in told["source"]
    assert sum(each["total"] for each in told["symbols"] if each["currency"] == "USD") == pytest.approx(2.3)


async def test_curves_roundtrips_and_metrics(api: httpx.AsyncClient) -> None:
    told = await get(api, "/models/bot/equity", points=20)
    curve = told["curves"]["USD"]
    assert list(told["curves"]) == ["USD", "EUR"] and len(curve["time"]) <= 20
    assert curve["value"][-1] == pytest.approx(2.3) and curve["base"] == 107 and "at work" in told["base_source"]
    trips = await get(api, "/models/bot/roundtrips", limit=2, order="asc")
    assert trips["total"] == 3 and trips["next"] == 2
    assert trips["items"][0]["pnl"] == pytest.approx(0.8) and trips["items"][0]["direction"] == "long"
    assert trips["items"][0]["entry_time"] == times.iso(DAY + HOUR + 5 * times.SECOND)
    told = await get(api, "/models/bot/metrics", capital=1000)
    usd = told["currencies"]["USD"]
    assert usd["metrics"]["total_return"] == pytest.approx(0.0023) and "365" in usd["periods"]
    assert told["reported"]["cagr"]["value"] == 0.5 and told["reported_label"] == "reported by the model"
    nothing = await get(api, "/models/idle/metrics")
    assert nothing["currencies"] == {} and (await get(api, "/models/idle/equity"))["curves"] == {}


@pytest.mark.parametrize(("path", "params", "status", "field"), [
    ("models/none/pnl", {}, 404, "id"), ("models/bot/equity", {"points": 1}, 422, "points"),
    ("models/bot/metrics", {"capital": 0}, 422, "capital"), ("models/bot/roundtrips", {"limit": 0}, 422, "limit"),
    ("models/bot/match", {}, 422, "run"), ("models/bot/match", {"run": str(uuid.uuid4())}, 404, ""),
    ("models/none/match", {"run": "x"}, 404, "id"), ("overview", {"limit": 0}, 422, "limit"),
], ids=["model", "points", "capital", "limit", "no-run", "run", "match-model", "overview"])
async def test_what_makes_no_sense(api: httpx.AsyncClient, path: str, params: dict[str, Any], status: int,
                                   field: str) -> None:
    told = await get(api, "/" + path, status, **params)
    assert field in json.dumps(told)


async def test_the_overview(api: httpx.AsyncClient) -> None:
    async def known() -> Any:
        found = await get(api, "/overview")
        return found if not found["pending"] else None

    items = {item["id"]: item for item in (await until(known))["items"]}
    bot = items["bot"]
    assert bot["total"] == {"USD": pytest.approx(2.3), "EUR": 0.0} and bot["exposure"]["USD"] == 107
    assert bot["last_error"] == "it broke" and bot["running"] is True and 0 <= bot["heartbeat_age"] < 600
    assert 1 < len(bot["equity"]) <= 60 and bot["currency"] == "USD" and bot["unpriced"] == 1
    assert items["idle"]["message"] == "waiting" and items["idle"]["total"] == {}
    assert items["foreign"]["heartbeat_age"] is None
    assert [item["id"] for item in (await get(api, "/overview", project="other"))["items"]] == ["foreign"]


async def test_a_bound_token_sees_only_its_own(server: Any, api: httpx.AsyncClient) -> None:
    _, text = await server.services.users.create("theirs", ["read"], owner="other", project="other")
    async with httpx.AsyncClient(base_url=server.url + API, headers={"Authorization": f"Bearer {text}"}) as theirs:
        assert [item["id"] for item in (await get(theirs, "/overview"))["items"]] == ["foreign"]
        for noun in ("pnl", "positions", "equity", "roundtrips", "metrics"):
            await get(theirs, f"/models/bot/{noun}", 404)
            await get(theirs, f"/models/foreign/{noun}")
        await get(theirs, "/models/bot/match", 404, run="x")
    async with httpx.AsyncClient(base_url=server.url + API) as nobody:
        await get(nobody, "/overview", 401)


async def test_following_the_profit(server: Any) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}{API}/models/live/profit/stream"
    await say(server, order("live", 1, "buy", 10))
    async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
        first = json.loads(await socket.recv())
        assert first["type"] == "profit" and first["data"]["totals"]["USD"]["exposure"] == 10
        await say(server, order("live", 2, "sell", 14))
        second = json.loads(await socket.recv())
        assert second["data"]["totals"]["USD"]["total"] == 4 and second["seq"] == first["seq"] + 1
    await until(lambda: not server.services.profit._watched)


async def detached(server: Any, trades: list[dict[str, Any]]) -> str:
    """A run of hourly values that a bot reported with these trades."""
    run = await server.services.detached.result(
        lambda: {"symbols": ["BTC-USD"], "quote_asset": "USD", "exchange": "kraken", "trades": trades,
                 "account_values": [{"time": (DAY + n * HOUR) / 1e6, "value": 1000.0 + n} for n in range(9)]},
        model="tester", backtest_id=str(uuid.uuid4()), principal=ADMIN)
    assert run.state == "completed", run.error
    return run.id


def trade(n: float, side: str, price: float, **more: Any) -> dict[str, Any]:
    return {"symbol": "BTC-USD", "side": side, "size": 1, "price": price, "time": (DAY + n * HOUR) / 1e6, **more}


async def test_live_trades_beside_a_backtest(server: Any, api: httpx.AsyncClient) -> None:
    run = await detached(server, [
        trade(0.5, "buy", 90), trade(1, "buy", 100), trade(2, "sell", 102), trade(3, "buy", 103 / 1.01),
        trade(4.5, "sell", 100), trade(6, "sell", 106)])
    told = await get(api, "/models/bot/match", run=run, tolerance=60)
    assert told["matched"] == 4 and told["only_backtest"] == 1, "half past one lies before the model's first trade"
    assert told["only_live"] == 3 and told["match_rate"] == pytest.approx(4 / 8)
    assert told["median_delay"] == 5 and told["worst_price_difference"] == pytest.approx(0.01)
    assert told["left_out"] == 1, "what was bought for euros"
    first = told["trades"][0]
    assert first["live"]["symbol"] == "BTC/USD" and first["live"]["price"] == 101 and first["backtest"]["price"] == 100
    assert first["price_difference"] == pytest.approx(0.01) and first["delay"] == 5
    alone = [(each["live"] or each["backtest"])["time"] for each in told["trades"]
             if not (each["live"] and each["backtest"])]
    assert alone == sorted(alone) and len(alone) == 4
    live, backtest = told["live"], told["backtest"]
    assert live["time"] == backtest["time"] and live["time"][0] == DAY + HOUR + 5 * times.SECOND
    assert live["value"][0] == pytest.approx(-0.1 / 107), "the first fee, of the largest capital at work"
    assert backtest["value"][0] == 0 and backtest["value"][-1] > 0 and told["live_base"] == 107
    wide = await get(api, "/models/bot/match", run=run, tolerance=3600)
    assert wide["matched"] > told["matched"]
    far = await get(api, "/models/bot/match", 422, run=run, start="2026-03-05T00:00:00Z", end="2026-03-04T00:00:00Z")
    assert "no time in common" in json.dumps(far)
    await get(api, "/models/idle/match", 409, run=run)


async def test_a_backtest_on_the_live_window(server: Any, api: httpx.AsyncClient) -> None:
    candles = demo_candles()[0]
    market = candles.market
    await server.services.markets.write(candles)
    first, last = int(candles.time[50]), int(candles.time[80])
    await say(server, OrderPlaced(model="replay", id="1", symbol=f"{market.asset}-{market.currency}", side="buy",
                                  size=1, at=times.iso(first + times.DAY)),
              Lifecycle(model="replay", running=False, ended_at=times.iso(last)))
    spec = {"strategy": "sma_cross", "markets": [market.key], "resolution": times.resolution_name(candles.resolution)}
    answer = await api.post("/models/replay/match", json={"spec": spec, "tags": ["match"]})
    assert answer.status_code == 201, answer.text
    run = answer.json()
    assert run["spec"]["start"] == times.iso(first + times.DAY) and run["spec"]["end"] == times.iso(last)
    assert run["kind"] == "backtest" and run["tags"] == ["match"] and "replay" in run["name"]
    again = await api.post("/models/replay/match", json={"spec": spec | {"source": "csv", "source_path": "/etc"}})
    assert again.status_code == 422 and "source" in again.text
    assert (await api.post("/models/idle/match", json={"spec": spec})).status_code == 409
