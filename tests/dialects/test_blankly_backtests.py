"""Detached backtests become runs like any other, whatever comes first and however often."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from engine import detached, times
from engine.errors import Invalid
from engine.metrics import METRICS
from tests.harness import running_server

pytestmark = pytest.mark.anyio
DAY = 86400.0
START = 1577836800.0
RESULT: dict[str, Any] = {
    "symbols": ["BTC-USD", "ETH-USD"], "quote_asset": "USD", "start_time": 1577836800, "stop_time": 1609459200.0,
    "account_values": [{"time": START + DAY * day, "value": value} for day, value in enumerate(
        [10000.0, 10100.0, 9900.0, 10200.0, 10500.0])],
    "trades": [
        {"symbol": "BTC-USD", "size": 1.0, "side": "buy", "id": "a", "time": START + DAY, "annotation": "RSI Low",
         "price": 100.0},
        {"symbol": "BTC-USD", "size": 1.0, "side": "sell", "id": "b", "time": START + 3 * DAY, "price": 150.0},
        {"symbol": "ETH-USD", "size": 2.0, "side": "sell", "id": "c", "time": START + DAY},
        {"symbol": "ETH-USD", "size": 2.0, "side": "sell", "id": "d", "time": START + DAY, "status": "canceled"}],
    "metrics": {"cagr": {"value": 14, "display_name": "Compound annual growth rate", "type": "percent"},
                "sortino": {"value": None, "display_name": "Sortino", "type": "number"},
                "sharpe": {"value": "failed: too few points", "display_name": "Sharpe", "type": "number"}},
    "indicators": {"rsi": {"values": [{"time": START, "value": 0.52}, {"time": START + DAY, "value": 0.53}],
                           "display_name": "Relative Strength Index", "type": "percent"},
                   "sma": {"values": [{"time": START + DAY, "value": 101.0}], "display_name": "SMA"}}}
STATUS = {"successful": True, "status_summary": "Completed", "status_details": "", "time_elapsed": 5.3,
          "description": "first try", "label": "v1"}


class Bench:
    def __init__(self, server: Any, client: httpx.AsyncClient) -> None:
        self.services, self.client = server.services, client
        self.headers = {"model_id": "m1", "api_key": "lab", "api_pass": server.services.admin_token}
        self.reader = {"Authorization": f"Bearer {server.services.admin_token}"}

    async def post(self, path: str, status: int = 200, headers: dict[str, str] | None = None,
                   **body: Any) -> httpx.Response:
        answer = await self.client.post(path, headers={**self.headers, **(headers or {})}, **body)
        assert answer.status_code == status, answer.text
        return answer

    async def runs(self) -> list[Any]:
        return list((await self.services.runs.list(kind="backtest", sort="created_at", descending=False)).items)

    async def get(self, path: str) -> Any:
        answer = await self.client.get("/workbench/api/runs" + path, headers=self.reader)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running_server(tmp_path, rate_limit=0) as server, httpx.AsyncClient(
            base_url=server.url, timeout=60) as client:
        yield Bench(server, client)


async def test_a_result_is_a_run_with_a_report(bench: Bench) -> None:
    id = str(uuid.uuid4())
    await bench.post("/v1/backtest/result", json={**RESULT, "backtest_id": id})
    [run] = await bench.runs()
    assert (run.id, run.state, run.kind, run.dialect, run.strategy) == (id, "completed", "backtest", "blankly", "m1")
    assert run.markets == ("reported:BTC/USD", "reported:ETH/USD") and run.resolution == "1d"
    assert run.metrics["total_return"] == pytest.approx(0.05) and set(run.metrics) == set(METRICS)
    assert run.metrics["max_drawdown"] == pytest.approx(9900 / 10100 - 1)
    summary = await bench.get(f"/{id}/result")
    assert summary["extra"]["reported by the model"] == {
        "Compound annual growth rate": 14, "Sortino": None, "Sharpe": "failed: too few points"}
    assert {warning["code"] for warning in summary["warnings"]} == {"unpriced"}
    equity = await bench.services.runs.table(id, "equity")
    assert equity["value"].to_pylist() == [10000.0, 10100.0, 9900.0, 10200.0, 10500.0]
    assert equity["positions"].to_pylist() == [0.0, 100.0, 100.0, 0.0, 0.0]
    [trip] = (await bench.services.runs.table(id, "roundtrips")).to_pylist()
    assert (trip["symbol"], trip["pnl"], trip["return"], trip["status"]) == ("reported:BTC/USD", 50.0, 0.5, "closed")
    fills = (await bench.services.runs.table(id, "fills")).to_pylist()
    assert [fill["reason"] for fill in fills] == ["RSI Low", "", ""] and len(fills) == 3
    indicators = (await bench.services.runs.table(id, "indicators")).to_pydict()
    assert indicators["Relative Strength Index"] == [0.52, 0.53] and indicators["SMA"][1] == 101.0
    assert np.isnan(indicators["SMA"][0])
    events = await bench.services.events.page("model/m1")
    assert [event.data["run"] for event in events if event.type == "backtest"] == [id]


async def test_the_first_documents_words_make_the_same_run(bench: Bench) -> None:
    await bench.post("/v1/backtest/backtest-result", headers={"backtesting": "1", "backtestingid": "4j4n2399"},
                     json=RESULT)
    await bench.post("/v1/backtest/backtest-status", json={**STATUS, "backtest_id": "4j4n2399"})
    [run] = await bench.runs()
    assert run.spec["backtest_id"] == "4j4n2399" and str(uuid.UUID(run.id)) == run.id
    assert (run.finished_at - run.started_at).total_seconds() == pytest.approx(5.3)
    assert run.tags == ("v1",) and run.notes == "first try"


async def test_one_backtest_by_whichever_way_it_is_named(bench: Bench) -> None:
    """In the body, else in the header, with or without the flag: the same on every route."""
    for path, body in (("result", RESULT), ("status", STATUS), ("log", {"line": "x", "type": "stdout"})):
        for headers, more in (({"backtestingid": "b1"}, {}), ({"backtesting": "1", "backtestingid": "b1"}, {}),
                              ({"backtesting": "1"}, {"backtest_id": "b1"}),
                              ({"backtesting": "1", "backtestingid": "another"}, {"backtest_id": "b1"})):
            await bench.post(f"/v1/backtest/{path}", headers=headers, json={**body, **more})
    [run] = await bench.runs()
    types = [event.type for event in await bench.services.events.page(f"run/{run.id}")]
    assert types == ["state"] * 4 + ["status"] * 4 + ["log"] * 4


async def test_a_status_may_come_first_or_twice(bench: Bench) -> None:
    await bench.post("/v1/backtest/status", data={**STATUS, "backtest_id": "b1"})
    assert await bench.runs() == []
    await bench.post("/v1/backtest/log", json={"line": "50 %", "type": "stdout", "backtest_id": "b1"})
    await bench.post("/log", data={"line": "90 %", "type": "stdout", "backtest_id": "b1"})
    await bench.post("/v1/backtest/result", json={**RESULT, "backtest_id": "b1"})
    await bench.post("/v1/backtest/status", data={**STATUS, "backtest_id": "b1"})
    [run] = await bench.runs()
    assert run.state == "completed" and run.tags == ("v1",) and run.notes == "first try"
    events = await bench.services.events.page(f"run/{run.id}")
    assert [event.type for event in events] == ["status", "log", "log", "state", "status"]
    assert [event.data["message"] for event in events if event.type == "log"] == ["50 %", "90 %"]


async def test_a_result_again_takes_the_place_of_the_first(bench: Bench) -> None:
    for factor in (1.0, 2.0):
        values = [{**point, "value": point["value"] * (factor if index else 1)} for index, point in enumerate(
            RESULT["account_values"])]
        await bench.post("/v1/backtest/result", json={**RESULT, "account_values": values, "backtest_id": "b1"})
        [run] = await bench.runs()
        await bench.services.runs.annotate(run.id, notes="mine", name="My own name")
    [run] = await bench.runs()
    assert run.metrics["total_return"] == pytest.approx(1.1) and (run.notes, run.name) == ("mine", "My own name")
    assert (await bench.services.runs.table(run.id, "equity"))["value"].to_pylist()[-1] == 21000.0
    states = [event.data["state"] for event in await bench.services.events.page(f"run/{run.id}")]
    assert states == ["completed", "completed"]
    await bench.services.runs.delete(run.id)
    assert await bench.runs() == []


async def test_without_an_id_each_result_gets_one(bench: Bench) -> None:
    for _ in range(2):
        await bench.post("/v1/backtest/result", json=RESULT)
    assert len({run.id for run in await bench.runs()}) == 2
    await bench.post("/v1/backtest/status", json={"successful": True, "label": "last"})
    assert [run.tags for run in await bench.runs()] == [(), ("last",)], "a status without one is about the latest"


async def test_a_repeated_request_without_an_id_is_the_same_backtest(bench: Bench) -> None:
    for model in ("m1", "m1", "m2"):
        await bench.post("/v1/backtest/result", headers={"Idempotency-Key": "k1", "model_id": model}, json=RESULT)
    assert [run.strategy for run in await bench.runs()] == ["m1", "m2"]
    await bench.post("/v1/backtest/result", headers={"Idempotency-Key": "k2"}, json=RESULT)
    assert len(await bench.runs()) == 3


async def test_a_backtest_that_failed_is_a_failed_run_until_its_result_comes(bench: Bench) -> None:
    await bench.post("/v1/backtest/status", json={"successful": False, "status_summary": "Error",
                                                  "status_details": "KeyError: 'USD'", "backtest_id": "b1"})
    [run] = await bench.runs()
    assert (run.state, run.error) == ("failed", "Error: KeyError: 'USD'")
    await bench.post("/v1/backtest/result", json={**RESULT, "backtest_id": "b1"})
    [run] = await bench.runs()
    assert (run.state, run.error) == ("completed", None)


async def test_the_run_of_another_is_not_overwritten(bench: Bench) -> None:
    id = str(uuid.uuid4())
    await bench.post("/v1/backtest/result", json={**RESULT, "backtest_id": id})
    for path, body in (("/v1/backtest/result", RESULT), ("/v1/backtest/status", STATUS)):
        answer = await bench.post(path, 409, headers={"model_id": "m2"}, json={**body, "backtest_id": id})
        assert answer.json()["field"] == "backtest_id"
    activity = bench.services.activity
    _, _, key = await activity.create_key((await activity.model("m1")).project, (await activity.create_model(
        (await activity.model("m1")).project, "m3", id="m3")).id)
    stranger = {"model_id": "m3", "api_pass": key}
    await bench.post("/v1/backtest/log", 409, headers=stranger, json={"line": "x", "backtest_id": id})
    assert [event.type for event in await bench.services.events.page(f"run/{id}")] == ["state"]
    await bench.post("/v1/backtest/log", headers=stranger, json={"line": "x", "backtest_id": str(uuid.uuid4())})
    await bench.post("/v1/backtest/result", json={**RESULT, "backtest_id": "b1"})
    await bench.post("/v1/backtest/result", headers={"model_id": "m2"}, json={**RESULT, "backtest_id": "b1"})
    assert len(await bench.runs()) == 3, "two models may use the same name"


async def test_a_result_as_the_kits_send_it(bench: Bench) -> None:
    """Multipart with JSON files, one symbol as a text, objects as names, empty lists not at all."""
    points = json.dumps({"account_values": RESULT["account_values"]})
    await bench.post("/v1/backtest/result", data={
        "symbols": "BTC-USD", "quote_asset": "USD", "start_time": "1577836800", "stop_time": "1609459200.0",
        "exchange": "demo", "backtest_id": "b1", "metrics": "cagr", "indicators": ["rsi", "sma"]},
        files={"account_values": ("x7", points.encode(), "application/octet-stream")})
    await bench.post("/v1/backtest/result", headers={"Content-Type": "application/x-www-form-urlencoded"},
                     content=b"symbols=A&symbols=B&account_values=time&account_values=value&trades=id&trades=side"
                             b"&quote_asset=USD&backtest_id=b2&start_time=1&stop_time=2")
    first, second = await bench.runs()
    assert first.markets == ("demo:BTC/USD",) and first.metrics["total_return"] == pytest.approx(0.05)
    assert second.state == "completed" and second.metrics["total_return"] is None
    summary = await bench.services.runs.summary(first.id)
    assert summary["extra"]["reported by the model"] == {"cagr": None}
    warnings = (await bench.services.runs.summary(second.id))["warnings"]
    assert [warning["code"] for warning in warnings] == ["no_equity"]


async def test_a_large_result_is_kept_whole(bench: Bench) -> None:
    values = [{"time": START + 60.0 * minute, "value": 10000.0 + minute % 977} for minute in range(200_000)]
    body = json.dumps({**RESULT, "account_values": values, "backtest_id": "big"}).encode()
    assert len(body) > 8 * 2**20
    await bench.post("/v1/backtest/result", content=body, headers={"Content-Type": "application/json"})
    [run] = await bench.runs()
    assert run.resolution == "1m" and (await bench.services.runs.table(run.id, "equity")).num_rows == 200_000


async def test_the_names_of_many_points_are_no_reason_to_refuse(bench: Bench) -> None:
    """The oldest kits send two for each point of the curve."""
    names = "&account_values=time&account_values=value" * 20_000
    body = "symbols=A&quote_asset=USD&backtest_id=b1&metrics=cagr" + names
    await bench.post("/v1/backtest/backtest-result", content=body.encode(),
                     headers={"Content-Type": "application/x-www-form-urlencoded"})
    [run] = await bench.runs()
    assert run.state == "completed"
    assert (await bench.services.runs.summary(run.id))["extra"]["reported by the model"] == {"cagr": None}


async def test_a_result_that_comes_many_times_at_once(bench: Bench) -> None:
    """As when a client gives up waiting and tries again."""
    values = [[{**point, "value": point["value"] * (factor if index else 1)} for index, point in enumerate(
        RESULT["account_values"])] for factor in range(1, 11)]
    await asyncio.gather(*(bench.post("/v1/backtest/result", json={
        **RESULT, "account_values": each, "backtest_id": "b1"}) for each in values))
    [run] = await bench.runs()
    last = (await bench.services.runs.table(run.id, "equity"))["value"].to_pylist()[-1]
    assert run.metrics["total_return"] == pytest.approx(last / 10_000 - 1), "the files are those of the row"


async def test_the_report_page_draws_it(bench: Bench, tmp_path: Path) -> None:
    """The run answers the calls the report is made of, as any other does."""
    await bench.post("/v1/backtest/result", json={**RESULT, "backtest_id": "b1"})
    [run] = await bench.runs()
    for table in ("equity", "fills", "roundtrips", "indicators"):
        assert (await bench.get(f"/{run.id}/tables/{table}"))["rows"] > 0
    listed = await bench.get("?dialect=blankly&kind=backtest")
    assert [item["id"] for item in listed["items"]] == [run.id]


# -- the arithmetic


def build(**changes: Any) -> Any:
    return detached.build({**RESULT, **changes}, model="m")


def trade(symbol: str, side: str, size: float, price: float | None, day: int, **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "side": side, "size": size, "price": price, "time": START + day * DAY, **more}


def test_roundtrips_at_the_average_price_with_fees_and_turns() -> None:
    trips = build(trades=[trade("A", "buy", 1, 100, 0, fee=1), trade("A", "buy", 1, 110, 1, fee=1),
                          trade("A", "sell", 3, 120, 2, fee=3), trade("A", "buy", 1, 90, 3)]).tables["roundtrips"]
    assert trips["direction"].tolist() == [1, -1] and trips["status"].tolist() == ["closed", "closed"]
    assert trips["entry_price"].tolist() == [105.0, 120.0] and trips["exit_price"].tolist() == [120.0, 90.0]
    assert trips["quantity"].tolist() == [2.0, 1.0] and trips["fees"].tolist() == [4.0, 1.0]
    assert trips["pnl"].tolist() == [26.0, 29.0] and trips["bars"].tolist() == [2, 1]


def test_an_open_position_is_valued_at_its_last_price() -> None:
    trips = build(trades=[trade("A", "buy", 2, 100, 0), trade("A", "sell", 1, 130, 2)]).tables["roundtrips"]
    assert trips["status"].tolist() == ["open"] and trips["pnl"].tolist() == [60.0]


def test_what_was_never_traded_counts_nowhere() -> None:
    tables = build(trades=[
        trade("A", "buy", 2, 100, 0), trade("A", "sell", 1, 130, 1, canceled_time=START),
        trade("A", "sell", 1, 130, 1, canceled_time=START, executed_time=START + DAY), trade("A", "sell", -1, 130, 2)])
    assert tables.tables["fills"]["time"].tolist()[:2] == [
        times.micros(times.parse(START + DAY * day)) for day in (0, 1)]
    assert tables.tables["equity"]["positions"].tolist()[-1] == 130.0, "one is held, last traded at 130"
    assert [warning["code"] for warning in tables.warnings] == ["unpriced"]


def test_values_are_sorted_and_the_last_of_equal_times_counts() -> None:
    equity = build(account_values=[{"time": START + DAY, "value": 2}, {"time": START, "value": "1"},
                                   {"time": START + DAY, "value": 3}, {"time": START + 2 * DAY, "value": None}],
                   trades=[]).tables["equity"]
    assert equity["value"].tolist() == [1.0, 3.0]
    assert equity["time"].tolist() == [times.micros(times.parse(START)), times.micros(times.parse(START + DAY))]


@pytest.mark.parametrize("body", [
    {}, {"account_values": [{"time": START, "value": 0}]}, {"account_values": [{"time": START, "value": -5.0}] * 3},
    {"account_values": [{"time": START, "value": 5.0}]}, {"trades": RESULT["trades"]},
    {**RESULT, "symbols": ["weird symbol!", ""], "quote_asset": None}, {**RESULT, "metrics": ["cagr"]},
    {**RESULT, "metrics": 5}, {**RESULT, "metrics": True},
    {**RESULT, "indicators": {"time": {"values": []}, "symbol": {"values": [{"time": START, "value": 1}]}}},
    {**RESULT, "account_values": [{"time": START + DAY * 40 * n, "value": 100 + n} for n in range(5)]},
    {**RESULT, "initial_account_value": 9000}],
    ids=["nothing", "zero", "negative", "one", "trades only", "odd symbols", "names", "a number", "a switch",
         "odd indicators", "sparse",
         "given start"])
def test_odd_reports_make_results_too(body: dict[str, Any], tmp_path: Path) -> None:
    result = detached.build(body, model="m")
    result.save(tmp_path / "r")
    json.dumps(result.summary(), allow_nan=False)


@pytest.mark.parametrize(("changes", "field"), [
    ({"account_values": 5}, "account_values"), ({"account_values": [5]}, "account_values[0]"),
    ({"account_values": [{"time": START, "value": "x"}]}, "account_values[0].value"), ({"trades": [5]}, "trades[0]"),
    ({"trades": [trade("A", "hold", 1, 1, 1)]}, "trades[0].side"), ({"trades": "x"}, "trades"),
    ({"trades": [{**trade("A", "buy", 1, 1, 1), "time": "x"}]}, "trades[0].time"), ({"start_time": "x"}, "start_time"),
    ({"indicators": {"a": {"values": [{"time": "x", "value": 1}]}}}, "indicators.a.values[0].time")],
    ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_read_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        build(**changes)
    assert caught.value.problems[0].field == field
