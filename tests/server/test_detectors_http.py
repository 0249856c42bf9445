"""Detectors over HTTP: descriptions, backtests on the real pool, detection switched on, alerts out of uploads."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from engine.candle_files import csv_text
from engine.candles import Candles
from tests.harness import running_server, until
from tests.server.alert_candles import ABOVE, BREAK, CALM, LOSE, PARAMS, RETEST, candles

pytestmark = pytest.mark.anyio
MARKET = "/workbench/api/markets/test/BTC/USD/candles"
DETECTION = "/workbench/api/detections/test/BTC/USD/breakout_retest_short"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with running_server(tmp_path_factory.mktemp("detectors"), compute=True, rate_limit=0, workers=1) as running:
        yield running


@pytest.fixture
async def api(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.services.admin_token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


async def upload(api: httpx.AsyncClient, bars: Candles, path: str = MARKET) -> None:
    answer = await api.post(path + "?resolution=1m", content=csv_text(bars), headers={"Content-Type": "text/csv"})
    assert answer.status_code < 300, answer.text


async def test_detectors_describe_themselves(api: httpx.AsyncClient) -> None:
    items = (await api.get("/workbench/api/detectors")).json()["items"]
    assert [(each["kind"], each["duration"]) for each in items][:2] == [
        ("breakout_retest", "short"), ("breakout_retest", "long")]
    one = await api.get(f"/workbench/api/detectors/{items[0]['key']}")
    assert one.json() == items[0] and one.json()["bar"] == "5m"
    assert (await api.get("/workbench/api/detectors/none")).status_code == 404


async def test_a_backtest_is_a_run_with_a_report(api: httpx.AsyncClient) -> None:
    path = MARKET.replace("BTC", "SOL")
    await upload(api, candles([*CALM, *BREAK, *ABOVE, *RETEST, *LOSE]), path)
    asked = {"markets": ["test:SOL/USD"], "params": PARAMS, "bar": "1m", "name": "before I switch it on"}
    answer = await api.post("/workbench/api/detectors/breakout_retest_short/backtest", json=asked)
    assert answer.status_code == 201, answer.text
    id = answer.json()["id"]

    async def ended() -> bool:
        return (await api.get(f"/workbench/api/runs/{id}")).json()["state"] in ("completed", "failed")

    await until(ended, 60)
    report = (await api.get(f"/workbench/api/detector-backtests/{id}")).json()
    assert (report["run"]["state"], report["run"]["dialect"], report["run"]["name"]) == (
        "completed", "alerts", "before I switch it on")
    assert (report["detector"], report["duration"], report["bar"], report["total"]) == (
        "breakout_retest_short", "short", "1m", 1)
    (alert,) = report["alerts"]
    assert (alert["state"], alert["r"], alert["gain"], alert["trailing"], alert["end"]) == (
        "closed", -1.0, -2.0, None, "stop hit")
    assert report["statistics"]["all"]["hit_rate"] == 0.0 and report["statistics"]["SELL"]["hit_rate"] is None
    assert report["statistics"]["all"]["seconds_to_end"] == 180.0
    listed = (await api.get("/workbench/api/runs?dialect=alerts")).json()["items"]
    assert [each["id"] for each in listed] == [id]
    whole = (await api.get(f"/workbench/api/runs/{id}/result")).json()
    assert whole["metrics"]["trades"] == 1 and whole["extra"]["alerts"]["all"]["closed"] == 1
    again = await api.post(f"/workbench/api/runs/{id}/rerun")
    assert again.status_code == 201


async def test_a_detectors_parameters_are_swept(api: httpx.AsyncClient) -> None:
    path = MARKET.replace("BTC", "ETH")
    await upload(api, candles([*CALM, *BREAK, *ABOVE, *RETEST, *LOSE]), path)
    base = {"strategy": "breakout_retest_short", "markets": ["test:ETH/USD"], "params": PARAMS, "resolution": "1m",
            "direction": "both", "fill_model": "alerts", "fill_options": {"bar": "1m"}}
    asked = {"base": base, "parameters": {"trail": [0.0, 1.0], "patience": [1, 50]}, "objective": "total_return"}
    answer = await api.post("/workbench/api/sweeps", json=asked)
    assert answer.status_code == 201, answer.text
    id = answer.json()["id"]

    async def ended() -> bool:
        return (await api.get(f"/workbench/api/runs/{id}")).json()["state"] in ("completed", "failed")

    await until(ended, timeout=120)
    trials = (await api.get(f"/workbench/api/sweeps/{id}/trials")).json()
    assert trials["total"] == 4, trials
    columns = trials["columns"]
    assert set(columns["state"]) == {"completed"}, trials
    assert sorted(zip(columns["params.patience"], columns["params.trail"], columns["metrics.trades"], strict=True)) == [
        (1, 0.0, 0), (1, 1.0, 0), (50, 0.0, 1), (50, 1.0, 1)], "who waits one bar is there at no retest"
    wrong = await api.post("/workbench/api/sweeps", json=asked | {"parameters": {"luck": [1, 2]}})
    assert wrong.status_code == 422 and "luck" in wrong.text


async def test_a_backtest_that_cannot_work_is_refused_with_the_field(api: httpx.AsyncClient) -> None:
    path = "/workbench/api/detectors/breakout_retest_short/backtest"
    for body, field in (({"markets": ["test:NONE/USD"]}, "markets.0"), ({"markets": ["nothing"]}, "markets.0"),
                        ({"markets": ["test:SOL/USD"], "params": {"channel": 0}}, "params.channel"),
                        ({"markets": ["test:SOL/USD"], "bar": "90s"}, "fill_options.bar")):
        answer = await api.post(path, json=body)
        assert answer.status_code == 422 and field in answer.text, answer.text
    assert (await api.post(path.replace("breakout_retest_short", "none"), json={"markets": ["a:B/C"]})
            ).status_code == 404
    assert (await api.get("/workbench/api/detector-backtests/none")).status_code == 404


async def test_uploads_become_alerts_once_detection_is_on(api: httpx.AsyncClient) -> None:
    await upload(api, candles(CALM))
    missing = await api.get(DETECTION)
    assert missing.status_code == 404
    answer = await api.put(DETECTION, json={"params": PARAMS, "bar": "1m", "ticker": "BTC/USD"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "on" and answer.json()["position"] is not None
    await upload(api, candles(BREAK + RETEST, 4))

    async def alerts() -> list[Any]:
        found: list[Any] = (await api.get("/workbench/api/alerts?ticker=btc")).json()["items"]
        return found if found and found[0]["state"] == "onGoing" else []

    (alert,) = await until(alerts)
    assert (alert["start"], alert["entry"], alert["duration_strategy"]) == (102.0, 102.0, "short")
    assert (await api.get(DETECTION)).json()["alert_id"] == alert["id"]
    assert (await api.put(DETECTION, json={"state": "paused"})).json()["params"]["channel"] == 3
    assert [each["state"] for each in (await api.get("/workbench/api/detections")).json()["items"]] == ["paused"]
    assert (await api.put(DETECTION, json={"state": "off"})).json()["alert_id"] is None
    assert (await api.delete(DETECTION)).status_code == 204
    assert (await api.delete(DETECTION)).status_code == 404
    ended = (await api.get(f"/workbench/api/alerts/{alert['id']}")).json()
    assert (ended["state"], ended["exit"]) == ("closed", 102.5)
    wrong = await api.put(DETECTION, json={"instrument": "TULIPS"})
    assert wrong.status_code == 422 and "instrument" in wrong.text


async def test_only_who_may_switches_detection(api: httpx.AsyncClient) -> None:
    made = await api.post("/workbench/api/tokens", json={"name": "reader", "scopes": ["read"]})
    token = made.json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert (await api.get("/workbench/api/detections", headers=headers)).status_code == 200
    assert (await api.put(DETECTION, json={}, headers=headers)).status_code == 403
    path = "/workbench/api/detectors/breakout_retest_short/backtest"
    assert (await api.post(path, json={"markets": ["test:SOL/USD"]}, headers=headers)).status_code == 403
