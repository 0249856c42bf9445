"""GlowBack's backtests and optimizations on a real server with a pool: results, streams, resumption, restart."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.harness import ServerProcess, wait_until

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parents[1] / "golden" / "glowback"
CASES: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "cases.json.gz").read_bytes()))
YEAR: dict[str, Any] = {"symbols": ["AAPL"], "start_date": "2023-01-01", "end_date": "2023-12-31",
                        "data_source": "sample", "strategy": {"name": "ma_crossover"}}
LONG = {**YEAR, "symbols": ["AAPL", "SPY", "MSFT"], "start_date": "2000-01-01"}
PATIENCE = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--rate-limit", "0", "--api-only", env={"WORKBENCH_CSV_ROOT": str(GOLDEN)}) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as opened:
        yield opened


def created(client: httpx.Client, request: dict[str, Any]) -> str:
    answer = client.post("/v1/backtests", json=request)
    assert answer.status_code == 201, answer.text
    return answer.json()["run_id"]


def finished(client: httpx.Client, path: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        status = client.get(path).json()
        return status if status["state"] in ("completed", "failed", "cancelled") else None

    return wait_until(look, PATIENCE, f"{path} does not end")


async def follow(server: ServerProcess, id: str, after: int | None = None,
                 most: int | None = None) -> tuple[list[Any], Any]:
    """The events of a run and the close code; with `most` the connection is dropped after so many."""
    query = f"?api_key={server.token}" + ("" if after is None else f"&last_event_id={after}")
    events: list[Any] = []
    async with connect(f"{server.websocket_url}/v1/backtests/{id}/stream{query}") as socket:
        try:
            while most is None or len(events) < most:
                events.append(json.loads(await asyncio.wait_for(socket.recv(), PATIENCE)))
        except ConnectionClosed as closed:
            return events, closed.rcvd.code if closed.rcvd else None
    return events, None


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float | int) and not isinstance(expected, bool):
        return found == pytest.approx(expected, rel=1e-6)
    return found == expected


def test_all_of_the_originals_results_come_over_the_wire(client: httpx.Client) -> None:
    ids = {name: created(client, case["request"] | {"csv_data_path": "csv"}) for name, case in CASES.items()}
    for name, id in ids.items():
        case, status = CASES[name], finished(client, f"/v1/backtests/{id}")
        if "error" in case:
            assert (status["state"], status["error"]) == ("failed", case["error"])
            assert client.get(f"/v1/backtests/{id}/results").json()["error"]["message"] == "Results not ready"
            continue
        assert (status["state"], status["progress"], status["error"]) == ("completed", 1.0, None)
        found, expected = client.get(f"/v1/backtests/{id}/results").json(), case["result"]
        for key, value in expected["metrics_summary"].items():
            assert same(found["metrics_summary"][key], value), (name, key)
        for column, values in expected["equity_curve"].items():
            assert same([point[column] for point in found["equity_curve"]], values) if column == "timestamp" else \
                [point[column] for point in found["equity_curve"]] == pytest.approx(values, rel=1e-6), (name, column)
        assert len(found["trades"]) == len(expected["trades"])
        for trade, wanted in zip(found["trades"], expected["trades"], strict=True):
            assert all(same(trade[key], wanted[key]) for key in wanted), (name, trade)
        assert found["logs"] == expected["logs"]
        assert same(found["final_cash"], expected["final_cash"])
        assert found["final_positions"] == pytest.approx(expected["final_positions"], rel=1e-6)
        assert found["manifest"]["dataset"]["bar_counts"] == expected["manifest_dataset"]
        assert f"Recorded {len(found['order_events'])} order lifecycle events" in found["logs"]


def test_a_result_has_every_part_under_both_names(client: httpx.Client) -> None:
    request = {**YEAR, "benchmark_symbol": "SPY", "execution": {"commission_bps": 2},
               "portfolio_construction": {"target_weights": {" aapl ": 2, "spy": 0}}}
    id = created(client, request)
    finished(client, f"/v1/backtests/{id}")
    result = client.get(f"/backtests/{id}/results").json()
    assert set(result) == {
        "run_id", "metrics_summary", "equity_curve", "benchmark_curve", "benchmark_symbol", "trades", "exposures",
        "order_events", "option_trades", "option_events", "portfolio_construction", "portfolio_diagnostics",
        "constraint_hits", "tearsheet", "logs", "final_cash", "final_positions", "manifest"}
    first, *others = result["equity_curve"]
    assert set(first) == {"timestamp", "value", "equity", "cash", "positions", "total_pnl", "returns", "daily_return",
                          "drawdown"}
    assert first["daily_return"] is None and all(point["daily_return"] is not None for point in others)
    assert all(point["equity"] == point["value"] for point in others)
    assert all(point["value"] == pytest.approx(point["cash"] + point["positions"]) for point in others)
    trade = result["trades"][0]
    assert (trade["action"].lower(), trade["shares"]) == (trade["side"], trade["quantity"])
    assert len(result["exposures"]) == len(result["equity_curve"])
    assert result["benchmark_symbol"] == "SPY" and result["benchmark_curve"] == []
    assert result["portfolio_construction"]["target_weights"] == {"AAPL": 2.0}
    assert {next(iter(event)) for event in result["order_events"]} == {"OrderSubmitted", "OrderFilled"}
    assert result["metrics_summary"]["win_rate"] == 0.0 and 0 < result["metrics_summary"]["workbench_win_rate"] < 1
    assert result["metrics_summary"]["sample_data"] == 1.0
    manifest = result["manifest"]
    assert manifest["execution"]["minimum_commission"] == 0.0 and manifest["dataset"]["total_bars"] == 365
    replay = manifest["replay_request"]
    again = created(client, {
        **{key: replay[key] for key in ("symbols", "start_date", "end_date", "resolution", "initial_capital",
                                        "data_source")},
        "strategy": {"name": replay["strategy_name"], "params": replay["strategy_params"]},
        "execution": {key: replay[key] for key in ("commission_bps", "slippage_bps", "latency_ms")}})
    finished(client, f"/v1/backtests/{again}")
    assert client.get(f"/v1/backtests/{again}/results").json()["metrics_summary"] == result["metrics_summary"]


@pytest.mark.parametrize(("changes", "error"), [
    ({"strategy": {"name": "magic"}}, "Unsupported strategy. Use one of: buy_and_hold, ma_crossover, momentum, "
                                      "mean_reversion, rsi, covered_call."),
    ({"strategy": {"name": "ma_crossover", "params": {"short_period": 0}}}, "short_period"),
    ({"strategy": {"name": "rsi", "params": {"lookback_period": [3]}}}, "lookback_period"),
    ({"data_source": "csv"}, "csv_data_path is required when data_source='csv'"),
    ({"resolution": "second"}, "Invalid resolution: second"), ({"execution": {"latency_ms": -5}}, "latency_ms"),
    ({"end_date": "2022-01-01"}, "end_date"), ({"symbols": ["NOPE", "A/B"]}, "for symbol NASDAQ:A/B in date range"),
    ({"data_source": "default"}, "No data available for symbol NASDAQ:AAPL"),
    ({"data_quality_mode": "fail"}, "data quality mode 'fail' rejected the dataset: NASDAQ:AAPL: Detected")])
def test_what_cannot_run_ends_failed_with_its_reason(client: httpx.Client, changes: dict[str, Any], error: str) -> None:
    status = finished(client, f"/v1/backtests/{created(client, {**YEAR, **changes})}")
    assert status["state"] == "failed" and error in status["error"]
    assert status["finished_at"] is not None


async def test_a_run_tells_its_story_in_order_and_the_socket_closes_normally(server: ServerProcess,
                                                                             client: httpx.Client) -> None:
    id = created(client, YEAR)
    events, code = await follow(server, id)
    assert code == 1000
    assert [event["event_id"] for event in events] == list(range(1, len(events) + 1))
    assert {event["run_id"] for event in events} == {id}
    assert all(set(event) == {"event_id", "run_id", "type", "timestamp", "payload"} for event in events)
    assert all(event["timestamp"].endswith("Z") for event in events)
    assert [event["payload"] for event in events if event["type"] == "state"] == [
        {"state": "queued", "previous_state": None, "message": "Run queued"},
        {"state": "running", "previous_state": "queued", "error": None},
        {"state": "completed", "previous_state": "running", "error": None}]
    steps = [event["payload"] for event in events if event["type"] == "progress"]
    for step in ({"progress": 0.1, "message": "Initializing real engine"},
                 {"progress": 0.3, "message": "Loading market data"},
                 {"progress": 0.95, "message": "Collecting engine results"}):
        assert steps.count(step) == 1
    assert [step["progress"] for step in steps] == sorted(step["progress"] for step in steps)
    logs = [event["payload"] for event in events if event["type"] == "log"]
    assert {"message": "Processed 365 equity points"} in logs
    assert "sharpe_ratio" in {event["payload"]["name"] for event in events if event["type"] == "metric"}
    assert events[-1]["type"] == "state"
    for after, expected in ((0, events), (-5, events), (3, events[3:]), (10**6, [])):
        assert await follow(server, id, after) == (expected, 1000)


async def test_a_failed_run_ends_with_its_error(server: ServerProcess, client: httpx.Client) -> None:
    id = created(client, {**YEAR, "symbols": ["NOPE"]})
    events, code = await follow(server, id)
    assert code == 1000
    assert events[-1]["payload"]["state"] == "failed" and "NASDAQ:NOPE" in events[-1]["payload"]["error"]
    assert events[-1]["payload"]["error"] == client.get(f"/v1/backtests/{id}").json()["error"]


async def test_followers_that_reconnect_again_and_again_miss_and_double_nothing(server: ServerProcess,
                                                                                client: httpx.Client) -> None:
    id = created(client, LONG)

    async def patient() -> list[Any]:
        return (await follow(server, id))[0]

    async def restless(step: int) -> list[Any]:
        events: list[Any] = []
        while True:
            more, code = await follow(server, id, events[-1]["event_id"] if events else None, step)
            events += more
            if code is not None:
                assert code == 1000
                return events

    first, second, third = await asyncio.gather(patient(), restless(1), restless(3))
    assert first == second == third
    assert [event["event_id"] for event in first] == list(range(1, len(first) + 1))
    assert first[-1]["payload"]["state"] == "completed"


@pytest.mark.parametrize(("path", "key"), [
    ("nope", "good"), ("00000000-0000-4000-8000-000000000000", "good"), ("known", "bad"), ("known", "none"),
    ("known", "number")])
async def test_a_refused_stream_closes_with_1008(server: ServerProcess, client: httpx.Client, path: str,
                                                 key: str) -> None:
    id = created(client, YEAR) if path == "known" else path
    query = {"good": f"?api_key={server.token}", "bad": "?api_key=wrong", "none": "",
             "number": f"?api_key={server.token}&last_event_id=x"}[key]
    async with connect(f"{server.websocket_url}/backtests/{id}/stream{query}") as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), 10)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


async def test_a_stream_takes_its_key_from_headers_first(server: ServerProcess, client: httpx.Client) -> None:
    id = created(client, YEAR)
    finished(client, f"/v1/backtests/{id}")
    address = f"{server.websocket_url}/v1/backtests/{id}/stream"
    for headers, query, expected in (({"Authorization": f"Bearer {server.token}"}, "", 1000),
                                     ({"X-API-Key": server.token}, "?api_key=wrong", 1000),
                                     ({"X-API-Key": "wrong"}, f"?api_key={server.token}", 1008)):
        async with connect(address + query, additional_headers=headers) as socket:
            with pytest.raises(ConnectionClosed) as caught:
                while True:
                    await asyncio.wait_for(socket.recv(), 10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == expected


def test_posting_answers_while_runs_compute(client: httpx.Client) -> None:
    begun = time.monotonic()
    ids = [created(client, LONG) for _ in range(5)]
    assert {client.get(f"/v1/backtests/{id}").json()["state"] for id in ids} & {"queued", "running"}
    assert time.monotonic() - begun < 20
    assert all(finished(client, f"/v1/backtests/{id}")["state"] == "completed" for id in ids)


SEARCH: dict[str, Any] = {
    "name": "periods", "strategy": "grid", "grid_steps": 3, "base_backtest": YEAR, "validation_mode": "holdout",
    "search_space": {"parameters": [{"name": "short_period", "kind": "int_range", "low": 2, "high": 6},
                                    {"name": "long_period", "kind": "choice", "values": [8, 12]}]}}


@pytest.mark.parametrize("method", ["grid", "random", "bayesian"])
def test_a_search_tries_points_and_reports_the_best(client: httpx.Client, method: str) -> None:
    answer = client.post("/v1/optimizations", json={**SEARCH, "strategy": method, "max_trials": 6})
    assert (answer.status_code, answer.json()["state"]) == (201, "pending")
    path = f"/v1/optimizations/{answer.json()['optimization_id']}"
    status = finished(client, path)
    assert (status["state"], status["trials_completed"], status["trials_failed"], status["trials_running"]) == (
        "completed", 6, 0, 0)
    result = client.get(f"{path}/results").json()
    assert [trial["trial_id"] for trial in result["trials"]] == [f"trial-{number}" for number in range(1, 7)]
    objectives = [trial["objective"] for trial in result["trials"]]
    assert result["best_trial"]["objective"] == max(objectives) == status["best_trial"]["objective"]
    if method == "grid":
        assert [tuple(trial["parameters"].values()) for trial in result["trials"]] == [
            (2, 8), (2, 12), (4, 8), (4, 12), (6, 8), (6, 12)]
    trial = result["trials"][0]
    assert trial.keys() == result["best_trial"].keys() and result["best_trial"]["error"] is None
    assert trial["metrics"]["validation_windows"] == 1.0
    assert trial["objective"] == trial["metrics"]["validation_sharpe_ratio"]
    assert result["diagnostics"]["parameter_stability"].keys() == {"short_period", "long_period"}


def test_a_trials_figures_are_those_of_the_backtest_itself(client: httpx.Client) -> None:
    answer = client.post("/v1/optimizations", json={
        **SEARCH, "objective_metric": "total_return", "direction": "minimize", "base_backtest":
            {**CASES["ma_crossover__ALFA_default"]["request"], "csv_data_path": "csv"}, "strategy": "grid",
        "search_space": {"parameters": [{"name": "short_period", "kind": "choice", "values": [10]},
                                        {"name": "long_period", "kind": "choice", "values": [20]}]}})
    path = f"/v1/optimizations/{answer.json()['optimization_id']}"
    assert finished(client, path)["state"] == "completed"
    metrics = client.get(f"{path}/results").json()["trials"][0]["metrics"]
    expected = CASES["ma_crossover__ALFA_default"]["result"]["metrics_summary"]
    assert metrics["full_total_return"] == pytest.approx(expected["total_return"], rel=1e-6)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, rel=1e-6)


def test_a_search_that_cannot_work_fails_with_the_reason(client: httpx.Client) -> None:
    answer = client.post("/v1/optimizations", json={**SEARCH, "base_backtest": {**YEAR, "strategy": {"name": "magic"}}})
    status = finished(client, f"/v1/optimizations/{answer.json()['optimization_id']}")
    assert status["state"] == "failed" and "Unsupported strategy" in status["error"]


def test_a_cancelled_search_is_resumed_and_keeps_its_trials(client: httpx.Client) -> None:
    answer = client.post("/v1/optimizations", json={
        **SEARCH, "strategy": "random", "max_trials": 24, "base_backtest": LONG, "search_space": {"parameters": [
            {"name": "short_period", "kind": "int_range", "low": 2, "high": 20},
            {"name": "long_period", "kind": "int_range", "low": 21, "high": 60}]}})
    path = f"/v1/optimizations/{answer.json()['optimization_id']}"
    wait_until(lambda: client.get(path).json()["trials_completed"], PATIENCE)
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"
    kept = client.get(f"{path}/results").json()["trials"]
    assert 0 < len(kept) < 24
    assert client.post(f"{path}/resume").json()["state"] == "running"
    assert finished(client, path)["state"] == "completed"
    trials = client.get(f"{path}/results").json()["trials"]
    assert len(trials) == 24
    by_number = {trial["trial_number"]: trial for trial in trials}
    assert all(by_number[trial["trial_number"]] == trial for trial in kept)


def test_runs_and_their_events_survive_a_restart(tmp_path: Path) -> None:
    flags = ("--rate-limit", "0", "--api-only", "--workers", "1")
    with ServerProcess(*flags, data_dir=tmp_path) as server:
        with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
            done = created(client, YEAR)
            finished(client, f"/v1/backtests/{done}")
            before = client.get(f"/v1/backtests/{done}/results").json()
            events = asyncio.run(follow(server, done))
            waiting = [created(client, LONG) for _ in range(3)]
        server.kill()
    with ServerProcess(*flags, data_dir=tmp_path) as server, \
            httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        assert client.get(f"/v1/backtests/{done}/results").json() == before
        assert asyncio.run(follow(server, done)) == events
        for id in waiting:
            assert finished(client, f"/v1/backtests/{id}")["state"] == "completed"
            story, code = asyncio.run(follow(server, id))
            assert code == 1000 and [event["event_id"] for event in story] == list(range(1, len(story) + 1))
        assert [run["run_id"] for run in client.get("/v1/backtests").json()] == [*reversed(waiting), done]
