"""Native requests take nothing for what it is not, and say by field what is wrong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.dialects.bodies import null_place
from tests.harness import running_server

pytestmark = pytest.mark.anyio
CHANNEL = {"name": "desk", "kind": "webhook", "url": "http://127.0.0.1:9/x"}
RULE = {"name": "silent", "condition": "no_heartbeat", "threshold": 60}
DETECTION = "/detections/demo/AAPL/USD/breakout_retest_short"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running_server(tmp_path, rate_limit=0) as server, httpx.AsyncClient(
            base_url=server.url + "/workbench/api", timeout=20,
            headers={"Authorization": f"Bearer {server.services.admin_token}"}) as client:
        yield client


@pytest.mark.parametrize(("method", "path", "body", "field"), [
    ("POST", "/channels", CHANNEL | {"rate": True}, "rate"),
    ("POST", "/channels", CHANNEL | {"name": " "}, "name"),
    ("POST", "/channels", CHANNEL | {"url": "http://host:0/"}, "url"),
    ("POST", "/channels", CHANNEL | {"filters": {"instruments": ["STOCKS", "TULIPS"]}}, "filters.instruments.1"),
    ("POST", "/channels", CHANNEL | {"filters": {"durations": ["medium"]}}, "filters.durations.0"),
    ("POST", "/rules", RULE | {"threshold": "60"}, "threshold"), ("POST", "/rules", RULE | {"window": True}, "window"),
    ("POST", "/rules", RULE | {"name": "a\nb"}, "name"), ("POST", "/rules", RULE | {"model": "a\0"}, "model"),
    ("PUT", DETECTION, {"ticker": "\t"}, "ticker"), ("PUT", DETECTION, {"params": {"a\0b": 1}}, "params"),
    ("POST", "/detectors/breakout_retest_short/backtest", {"markets": ["demo:AAPL/USD"], "risk": True}, "risk"),
    ("POST", "/hooks", {"name": "\x1b[31m"}, "name")])
async def test_wrong_types_and_unseen_signs_are_refused_by_field(
        client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], field: str) -> None:
    answer = await client.request(method, path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["problems"][0]["field"] == field
    listed = "/detections" if path == DETECTION else "/runs" if "backtest" in path else path
    assert (await client.get(listed)).json()["items"] == [], "nothing was made"


async def test_what_is_right_is_taken(client: httpx.AsyncClient) -> None:
    for path, body in (("/channels", CHANNEL | {"rate": 5.0, "filters": {"instruments": ["STOCKS"]}}),
                       ("/rules", RULE | {"threshold": 60.5, "name": "Wächter 👩‍🚀"})):
        assert (await client.post(path, json=body)).status_code == 201


@pytest.mark.parametrize(("data", "place"), [
    ({"a": [1, {"b": "x\0"}]}, "a.1.b"), ({"a\0": 1}, ""), ("\0", ""), ({"a": {"c\0": 1}}, "a"),
    ({"a": ["\\u0000"]}, None)])
def test_a_null_character_is_found(data: Any, place: str | None) -> None:
    assert null_place(data) == place
