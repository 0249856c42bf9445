"""Fill model gekko over the native API: an ordinary run with an ordinary report, refusals that name the field."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.engine.gekko_golden import MARKET, candles, cases
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio
TOKEN = "a-secret-token-of-the-tests"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    async with running_server(tmp_path_factory.mktemp("server"), compute=True, token=TOKEN, rate_limit=0,
                              workers=1) as server:
        await asyncio.to_thread(server.services.store.write, candles("rw60d"))
        await until(lambda: server.services.pool.ready, 120)
        async with httpx.AsyncClient(base_url=server.url + "/workbench/api", timeout=60,
                                     headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            yield client


def spec(**changes: Any) -> dict[str, Any]:
    return {"strategy": "gekko_macd", "markets": [MARKET.key], "resolution": "1m", "cash": 1000.0,
            "fill_model": "gekko", "costs": {"fee_rate": 0.0025}, "fill_options": {"candle_size": 60}} | changes


async def completed(api: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post("/runs", json=body)
    assert answer.status_code == 201, answer.text

    async def finished() -> dict[str, Any] | None:
        run = (await api.get(f"/runs/{answer.json()['id']}")).json()
        return run if run["state"] in ("completed", "failed", "cancelled") else None

    run = await until(finished, 60)
    assert run["state"] == "completed", run
    return run


async def test_a_native_run_gives_an_ordinary_report_with_gekko_s_own_beside(api: httpx.AsyncClient) -> None:
    run = await completed(api, spec())
    result = (await api.get(f"/runs/{run['id']}/result")).json()
    report = result["extra"]["gekko"]["performanceReport"]
    assert result["metrics"]["final_value"] == pytest.approx(report["balance"], rel=1e-9)
    assert result["rows"]["gekko_trades"] == report["trades"] and result["rows"]["equity"] == 86_400
    fills = (await api.get(f"/runs/{run['id']}/tables/fills")).json()
    assert fills["rows"] == result["metrics"]["fills"] > 100


async def test_a_whole_configuration_gives_the_original_s_report(api: httpx.AsyncClient) -> None:
    case = cases()["DEBUG_single-advice-60-10"]
    run = await completed(api, spec(fill_options={"config": case["request"]}, strategy="gekko_debug_single"))
    result = (await api.get(f"/runs/{run['id']}/result")).json()
    assert result["extra"]["gekko"]["performanceReport"] == case["backtest"]["performanceReport"]


async def test_what_cannot_work_is_refused_at_once(api: httpx.AsyncClient) -> None:
    for changes, field in (({"direction": "both"}, "direction"), ({"params": {"x": 1}}, "params.x"),
                           ({"fill_options": {"config": {"tradingAdvisor": {"method": "../x"}}}},
                            "tradingAdvisor.method")):
        answer = await api.post("/runs", json=spec(**changes))
        assert answer.status_code == 422, answer.text
        problems = answer.json()["error"]["problems"]
        assert any(problem["field"].endswith(field) and problem["remedy"] for problem in problems), problems
