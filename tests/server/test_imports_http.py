"""Imports, exchanges and keys over the native API."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from engine import times
from tests.exchange_simulator import BEGIN, ExchangeSimulator
from tests.harness import running_server, until
from tests.server.exchange_fakes import Clock

pytestmark = pytest.mark.anyio

API = "/workbench/api"
ASKED = {"market": "sim:BTC/USDT", "start": times.iso(BEGIN * times.SECOND),
         "end": times.iso((BEGIN + 1500 * 60) * times.SECOND)}


@pytest.fixture
def simulator() -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=Clock(3000.5)) as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path, simulator: ExchangeSimulator) -> AsyncIterator[Any]:
    options = simulator.options_file(tmp_path)
    async with running_server(tmp_path / "data", rate_limit=0, exchanges=options) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.services.admin_token}"}
    async with httpx.AsyncClient(base_url=server.url + API, headers=headers, timeout=60) as opened:
        yield opened


async def state(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/imports/{id}")).json()
    return found


async def test_the_life_of_an_import(server: Any, client: httpx.AsyncClient, simulator: ExchangeSimulator) -> None:
    simulator.stuck_from = BEGIN + 1000 * 60
    answer = await client.post("/imports", json=ASKED)
    assert answer.status_code == 201
    made = answer.json()
    assert made["state"] == "queued" and made | ASKED == made and made["owner"] == "admin"

    async def advanced() -> bool:
        return bool((await state(client, made["id"]))["added"])

    await until(advanced)
    found = await state(client, made["id"])
    assert found["state"] == "running" and 0 < found["progress"] < 1 and found["latest"] < found["position"]
    assert (await client.delete(f"/imports/{made['id']}")).status_code == 409
    assert (await client.post(f"/imports/{made['id']}/cancel")).json()["state"] == "cancelled"
    simulator.stuck_from = None
    assert (await client.post(f"/imports/{made['id']}/resume")).json()["state"] == "queued"
    types = []
    headers = {"Authorization": f"Bearer {server.services.admin_token}"}
    async with connect(f"{server.url.replace('http', 'ws')}{API}/imports/{made['id']}/stream",
                       additional_headers=headers) as socket:
        async for text in socket:
            event = json.loads(text)
            types.append(event["data"].get("state") or event["type"])
            if event["data"].get("state") == "completed":
                break
    assert types[:3] == ["created", "running", "progress"]
    assert [each for each in types if each not in ("created", "progress")] == [
        "running", "cancelled", "queued", "running", "completed"]
    for filters, count in (({}, 1), ({"state": "completed,failed"}, 1), ({"state": "running"}, 0),
                           ({"market": "sim:BTC/USDT"}, 1), ({"market": "sim:ETH/USDT"}, 0)):
        assert len((await client.get("/imports", params=filters)).json()["items"]) == count
    assert (await client.post(f"/imports/{made['id']}/cancel")).status_code == 409
    assert (await client.delete(f"/imports/{made['id']}")).status_code == 204
    assert (await client.get(f"/imports/{made['id']}")).status_code == 404
    (dataset,) = (await client.get("/markets")).json()["items"]
    assert (dataset["market"], dataset["rows"]) == ("sim:BTC/USDT", 1500)


async def test_what_is_wrong_is_named(client: httpx.AsyncClient) -> None:
    for content, field in (({}, "market"), ({**ASKED, "market": "BTC"}, "market"),
                           ({**ASKED, "start": "soon"}, "start"), ({**ASKED, "end": ASKED["start"]}, "end"),
                           ({**ASKED, "more": 1}, "more")):
        answer = await client.post("/imports", json=content)
        assert (answer.status_code, answer.json()["error"]["problems"][0]["field"]) == (422, field), content
    for method, path in (("GET", "/imports/1"), ("DELETE", "/imports/1"), ("POST", "/imports/1/cancel"),
                         ("POST", "/imports/1/resume"), ("DELETE", "/exchange-keys/kraken"),
                         ("POST", "/exchanges/nosuch/refresh"), ("POST", "/exchanges/..%2fx/refresh")):
        assert (await client.request(method, path)).status_code == 404, path
    assert (await client.get("/imports", params={"state": "odd"})).status_code == 422


async def test_exchanges_and_keys(client: httpx.AsyncClient, simulator: ExchangeSimulator) -> None:
    assert (await client.post("/exchanges/sim/refresh")).json()["assets"] == ["BTC", "ETH"]
    listed = {each["slug"]: each for each in (await client.get("/exchanges")).json()["items"]}
    assert listed["sim"]["assets"] == ["BTC", "ETH"] and "binance" in listed
    simulator.fail(*["503"] * 20)
    assert (await client.post("/exchanges/simkraken/refresh")).status_code == 503
    assert (await client.put("/exchange-keys/Kraken", json={"values": {"key": "k", "secret": "s"}})).json() == {
        "exchange": "kraken"}
    assert (await client.get("/exchange-keys")).json() == {"items": [{"exchange": "kraken"}]}
    assert (await client.delete("/exchange-keys/kraken")).status_code == 204
    assert (await client.get("/exchange-keys")).json() == {"items": []}
