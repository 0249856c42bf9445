"""GlowBack's routes over real sockets, without a pool: validation, errors, authentication, lists, limits."""

import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.services.users import Users
from tests.harness import running_server

pytestmark = pytest.mark.anyio

GOOD: dict[str, Any] = {"symbols": ["AAPL"], "start_date": "2023-01-01", "end_date": "2023-03-01",
                        "data_source": "sample"}
SEARCH: dict[str, Any] = {
    "name": "search",
    "search_space": {"parameters": [{"name": "short_period", "kind": "int_range", "low": 2, "high": 5}]},
    "base_backtest": GOOD}
ATTRIBUTES = "Input should be a valid dictionary or object to extract fields from"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    (tmp_path / "csv" / "inner").mkdir(parents=True)
    async with running_server(tmp_path / "data", csv_root=tmp_path / "csv", rate_limit=0) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.services.admin_token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as opened:
        yield opened


async def findings(client: httpx.AsyncClient, changes: dict[str, Any] | None = None,
                   **request: Any) -> list[dict[str, Any]]:
    if changes is not None:
        request["json"] = {**GOOD, **changes}
    answer = await client.post("/v1/backtests", **request)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("validation_error", "Request validation failed")
    plain = await client.post("/backtests", **request)
    assert (plain.status_code, plain.json()) == (422, {"detail": error["details"]})
    return error["details"]


async def test_a_backtest_is_created_queued_with_nothing_begun(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/backtests", json=GOOD)
    body = answer.json()
    assert answer.status_code == 201
    assert uuid.UUID(body["run_id"]).version == 4
    assert body["created_at"].endswith("Z") and len(body["created_at"]) == len("2023-01-01T00:00:00.000000Z")
    assert {key: body[key] for key in ("state", "progress", "started_at", "finished_at", "error")} == {
        "state": "queued", "progress": 0.0, "started_at": None, "finished_at": None, "error": None}
    for prefix in ("/v1", ""):
        assert (await client.get(f"{prefix}/backtests/{body['run_id']}")).json() == body
        assert (await client.get(f"{prefix}/backtests")).json() == [body]


async def test_lists_are_filtered_and_limited_newest_first(client: httpx.AsyncClient) -> None:
    ids = [(await client.post("/v1/backtests", json=GOOD)).json()["run_id"] for _ in range(3)]
    assert [run["run_id"] for run in (await client.get("/v1/backtests?limit=2&colour=red")).json()] == ids[:0:-1]
    await client.post(f"/v1/backtests/{ids[0]}/cancel")
    assert [run["run_id"] for run in (await client.get("/v1/backtests?state=queued")).json()] == ids[:0:-1]
    assert [run["run_id"] for run in (await client.get("/v1/backtests?state=cancelled")).json()] == ids[:1]
    assert (await client.get("/v1/backtests?state=failed")).json() == []


@pytest.mark.parametrize(("query", "type", "loc"), [
    ("limit=0", "greater_than_equal", "limit"), ("limit=201", "less_than_equal", "limit"),
    ("limit=x", "int_parsing", "limit"), ("limit=", "int_parsing", "limit"), ("state=done", "enum", "state"),
    ("state=", "enum", "state")])
async def test_a_senseless_filter_is_refused(client: httpx.AsyncClient, query: str, type: str, loc: str) -> None:
    (found,) = (await client.get(f"/v1/backtests?{query}")).json()["error"]["details"]
    assert (found["type"], found["loc"]) == (type, ["query", loc])


async def test_a_body_that_is_no_json_object_is_refused_as_fastapi_words_it(client: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    assert await findings(client, content=b"", headers=json_type) == [
        {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}]
    assert await findings(client, content=b"null", headers=json_type) == [
        {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}]
    assert await findings(client, content=b'{"symbols": ', headers=json_type) == [
        {"type": "json_invalid", "loc": ["body", 12], "msg": "JSON decode error", "input": {},
         "ctx": {"error": "Expecting value"}}]
    assert await findings(client, content=b"{}", headers={"Content-Type": "text/plain"}) == [
        {"type": "model_attributes_type", "loc": ["body"], "msg": ATTRIBUTES, "input": "{}"}]
    assert await findings(client, json=[1]) == [
        {"type": "model_attributes_type", "loc": ["body"], "msg": ATTRIBUTES, "input": [1]}]
    (deep,) = await findings(client, content=b'{"symbols": [' + b"[" * 100_000, headers=json_type)
    assert deep["type"] == "json_invalid"


async def test_every_broken_field_is_reported_at_once(client: httpx.AsyncClient) -> None:
    found = await findings(client, json={})
    assert found == [{"type": "missing", "loc": ["body", name], "msg": "Field required", "input": {}}
                     for name in ("symbols", "start_date", "end_date")]


@pytest.mark.parametrize(("changes", "type", "loc", "extra"), [
    ({"symbols": []}, "too_short", ["symbols"], {"ctx": {"field_type": "List", "min_length": 1, "actual_length": 0}}),
    ({"symbols": ["A"] * 101}, "too_long", ["symbols"], {}),
    ({"symbols": [1]}, "string_type", ["symbols", 0], {"input": 1}),
    ({"symbols": "AAPL"}, "list_type", ["symbols"], {}),
    ({"start_date": "yesterday"}, "datetime_from_date_parsing", ["start_date"], {"input": "yesterday"}),
    ({"end_date": None}, "datetime_type", ["end_date"], {}),
    ({"start_date": "1066-10-14"}, "value_error", ["start_date"], {"ctx": {"error": {}}}),
    ({"resolution": "week"}, "string_pattern_mismatch", ["resolution"], {}),
    ({"strategy": None}, "model_attributes_type", ["strategy"], {"input": None}),
    ({"strategy": {"name": ""}}, "string_too_short", ["strategy", "name"], {}),
    ({"strategy": {"name": "a" * 129}}, "string_too_long", ["strategy", "name"], {}),
    ({"strategy": {"name": "Buy"}}, "string_pattern_mismatch", ["strategy", "name"], {}),
    ({"strategy": {"params": [1]}}, "dict_type", ["strategy", "params"], {}),
    ({"execution": {"latency_ms": 1.5}}, "int_from_float", ["execution", "latency_ms"], {"input": 1.5}),
    ({"execution": {"slippage_bps": "x"}}, "float_parsing", ["execution", "slippage_bps"], {}),
    ({"initial_capital": 0}, "greater_than", ["initial_capital"],
     {"msg": "Input should be greater than 0", "ctx": {"gt": 0.0}}),
    ({"initial_capital": 1e13}, "less_than_equal", ["initial_capital"], {}),
    ({"initial_capital": 10**30}, "less_than_equal", ["initial_capital"], {"input": 10**30}),
    ({"currency": "us"}, "string_too_short", ["currency"], {}),
    ({"currency": "dollars"}, "string_too_long", ["currency"], {}),
    ({"currency": "usd"}, "string_pattern_mismatch", ["currency"], {}),
    ({"timezone": "x" * 65}, "string_too_long", ["timezone"], {}),
    ({"benchmark_symbol": ""}, "string_too_short", ["benchmark_symbol"], {}),
    ({"data_source": "web"}, "string_pattern_mismatch", ["data_source"], {}),
    ({"data_quality_mode": "maybe"}, "string_pattern_mismatch", ["data_quality_mode"], {}),
    ({"portfolio_construction": {"target_weights": {" ": 1, "A": 0}}}, "value_error",
     ["portfolio_construction", "target_weights"], {}),
    ({"portfolio_construction": {}}, "value_error", ["portfolio_construction"], {}),
    ({"portfolio_construction": {"target_weights": {"A": 1}, "cash_floor_pct": 96}}, "less_than_equal",
     ["portfolio_construction", "cash_floor_pct"], {}),
    ({"data_source": "csv", "csv_data_path": "../.."}, "value_error", ["csv_data_path"], {"input": "../.."}),
    ({"data_source": "csv", "csv_data_path": "/etc"}, "value_error", ["csv_data_path"], {}),
    ({"data_source": "csv", "csv_data_path": "a\0b"}, "value_error", ["csv_data_path"], {})])
async def test_a_broken_field_is_named(client: httpx.AsyncClient, changes: dict[str, Any], type: str, loc: list[Any],
                                       extra: dict[str, Any]) -> None:
    (found,) = await findings(client, changes)
    assert (found["type"], found["loc"]) == (type, ["body", *loc])
    assert {key: found[key] for key in extra} == extra
    assert (await client.get("/v1/backtests")).json() == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_refused(client: httpx.AsyncClient, number: str) -> None:
    body = f'{{"symbols":["A"],"start_date":"2023-01-01","end_date":"2023-02-01","initial_capital":{number}}}'
    (found,) = await findings(client, content=body.encode(), headers={"Content-Type": "application/json"})
    assert (found["type"], found["loc"], found["input"]) == ("finite_number", ["body", "initial_capital"], None)


@pytest.mark.parametrize("changes", [
    {"symbols": ["A B/C", "A B/C", "€", "../x"]}, {"start_date": 1672531200, "end_date": "1680000000"},
    {"start_date": "2023-03-01", "end_date": "2023-01-01"}, {"resolution": "tick"}, {"initial_capital": "5000.5"},
    {"strategy": {"name": "unknown_one", "params": {"x": [1, {"y": None}], "big": 10**40}}},
    {"unknown": True, "timezone": "Mars/Olympus", "execution": {"slippage_bps": -3, "latency_ms": -1}},
    {"data_source": "csv"}, {"data_source": "csv", "csv_data_path": "inner"}, {"data_source": "default"},
    {"portfolio_construction": {"target_weights": {" spy ": 0.6, "x": -1}}}])
async def test_what_fails_only_later_is_accepted(client: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    answer = await client.post("/v1/backtests", json={**GOOD, **changes})
    assert (answer.status_code, answer.json()["state"]) == (201, "queued")


async def test_a_csv_link_out_of_the_root_is_refused(client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "X_1d.csv").write_text("")
    (tmp_path / "csv" / "inner" / "X_1d.csv").symlink_to(tmp_path / "secret" / "X_1d.csv")
    (tmp_path / "csv" / "link").symlink_to(tmp_path / "secret")
    for path in ("inner", "link"):
        (found,) = await findings(client, {"symbols": ["X"], "data_source": "csv", "csv_data_path": path})
        assert found["loc"] == ["body", "csv_data_path"]


async def test_without_a_csv_root_no_csv_is_read(tmp_path: Path) -> None:
    async with running_server(tmp_path) as server, httpx.AsyncClient(
            base_url=server.url, headers={"X-API-Key": server.services.admin_token}) as client:
        answer = await client.post("/backtests", json={**GOOD, "data_source": "csv", "csv_data_path": "/tmp"})
        (found,) = answer.json()["detail"]
        assert answer.status_code == 422 and found["loc"] == ["body", "csv_data_path"]
        assert "WORKBENCH_CSV_ROOT" in found["msg"]


@pytest.mark.parametrize(("method", "path", "status", "code", "message"), [
    ("GET", "/backtests/nope", 404, "not_found", "Run not found"),
    ("GET", "/backtests/5f0c2f6e-6d0b-4c3e-9a55-1f2b3c4d5e6f", 404, "not_found", "Run not found"),
    ("GET", "/backtests/nope/results", 409, "conflict", "Results not ready"),
    ("GET", "/backtests/nope/stream", 404, "not_found", "Not Found"),
    ("DELETE", "/backtests/nope", 404, "not_found", "Run not found"),
    ("POST", "/backtests/nope/cancel", 404, "not_found", "Run not found"),
    ("GET", "/optimizations/nope", 404, "not_found", "Optimization not found"),
    ("GET", "/optimizations/nope/results", 404, "not_found", "Optimization not found"),
    ("POST", "/optimizations/nope/cancel", 409, "conflict",
     "Cannot cancel — optimization not found or already finished"),
    ("POST", "/optimizations/nope/resume", 409, "conflict",
     "Cannot resume — optimization not found or not resumable"),
    ("PUT", "/backtests", 405, "method_not_allowed", "Method Not Allowed"),
    ("OPTIONS", "/backtests", 405, "method_not_allowed", "Method Not Allowed")])
async def test_errors_have_an_envelope_under_v1_and_a_detail_elsewhere(
        client: httpx.AsyncClient, method: str, path: str, status: int, code: str, message: str) -> None:
    answer = await client.request(method, f"/v1{path}", headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == status
    assert answer.json() == {"error": {"code": code, "message": message, "details": None}, "request_id": "mine-1"}
    assert answer.headers["X-Request-ID"] == "mine-1"
    plain = await client.request(method, path)
    assert (plain.status_code, plain.json()) == (status, {"detail": message})


async def test_head_is_not_allowed_and_unknown_addresses_are_404_for_anybody(client: httpx.AsyncClient) -> None:
    head = await client.head("/v1/backtests")
    assert (head.status_code, head.headers["Allow"], head.content) == (405, "GET, POST", b"")
    answer = await client.get("/v1/nothing/here", headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert (await client.put("/v1/backtests", headers={"Authorization": "Bearer wrong"})).status_code == 405


@pytest.mark.parametrize("path", ["/v1/backtests/", "/backtests/", "/v1/backtests/x/results/", "/optimizations/x/"])
async def test_a_slash_too_many_is_redirected(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await client.request(method, path + "?limit=3")
        assert (answer.status_code, answer.headers["Location"]) == (307, path[:-1] + "?limit=3")


async def test_security_headers_stand_on_every_answer(client: httpx.AsyncClient) -> None:
    for path, method in (("/v1/backtests", "GET"), ("/v1/nothing", "GET"), ("/backtests/x", "GET"),
                         ("/backtests", "PUT")):
        headers = (await client.request(method, path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
        assert headers["Strict-Transport-Security"].startswith("max-age=63072000")
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["Permissions-Policy"] == "geolocation=(), microphone=(), camera=()"
        assert uuid.UUID(headers["X-Request-ID"]).version == 4


async def test_a_long_body_is_413_even_for_strangers(client: httpx.AsyncClient) -> None:
    body = b" " * (2**20 + 1)
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = await client.post("/v1/backtests", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert answer.json()["error"]["message"] == "Request body too large"

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 2**16

    assert (await client.post("/v1/backtests", content=pieces())).status_code == 413


async def test_the_first_credential_present_decides(server: Any) -> None:
    token = server.services.admin_token
    unauthorized = {"code": "unauthorized", "message": "Invalid or missing API key", "details": None}
    async with httpx.AsyncClient(base_url=server.url) as client:
        for headers, status in (
                ({}, 401), ({"Authorization": f"Bearer {token}"}, 200), ({"Authorization": f"bEARER  {token}"}, 200),
                ({"X-API-Key": token}, 200), ({"X-API-Key": "bad"}, 401),
                ({"Authorization": "Bearer bad", "X-API-Key": token}, 401),
                ({"Authorization": f"Bearer {token}", "X-API-Key": "bad"}, 200),
                ({"Authorization": "Basic abc", "X-API-Key": token}, 200),
                ({"Authorization": "Bearer", "X-API-Key": token}, 200)):
            answer = await client.get("/v1/backtests", headers=headers)
            assert answer.status_code == status, headers
            if status == 401:
                assert answer.json()["error"] == unauthorized
        assert (await client.get(f"/v1/backtests?api_key={token}")).status_code == 401  # streams only
        assert (await client.get("/v1/healthz")).json()["status"] == "healthy"
        assert (await client.get("/healthz")).json()["status"] == "healthy"


async def test_a_token_may_only_do_what_its_scopes_say(server: Any) -> None:
    users: Users = server.services.users
    _, text = await users.create("reader", ["read"])
    async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": text}) as client:
        assert (await client.get("/v1/backtests")).status_code == 200
        answer = await client.post("/v1/backtests", json=GOOD)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_too_many_requests_are_429_with_a_unix_reset(tmp_path: Path) -> None:
    async with running_server(tmp_path, rate_limit=2) as server, httpx.AsyncClient(
            base_url=server.url, headers={"X-API-Key": server.services.admin_token}) as client:
        left = [int((await client.get("/v1/backtests")).headers["X-RateLimit-Remaining"]) for _ in range(2)]
        assert left == [1, 0]
        answer = await client.get("/v1/backtests")
        assert answer.status_code == 429
        assert answer.json()["error"] == {"code": "too_many_requests", "message": "Rate limit exceeded",
                                          "details": None}
        assert answer.headers["X-RateLimit-Limit"] == "2" and int(answer.headers["Retry-After"]) >= 1
        assert abs(int(answer.headers["X-RateLimit-Reset"]) - time.time()) < 120
        assert (await client.get("/v1/nothing")).status_code == 404  # not counted


async def test_an_idempotency_key_makes_one_run(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/v1/backtests", json=GOOD, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json()["run_id"] == answers[1].json()["run_id"]
    other = await client.post("/v1/backtests", json={**GOOD, "symbols": ["SPY"]}, headers={"Idempotency-Key": "k"})
    assert other.status_code == 409
    long = await client.post("/v1/backtests", json=GOOD, headers={"Idempotency-Key": "k" * 1000})
    assert [each["loc"] for each in long.json()["error"]["details"]] == [["header", "Idempotency-Key"]]


async def test_runs_of_other_dialects_are_not_seen_here(server: Any, client: httpx.AsyncClient) -> None:
    run = await server.services.runs.submit({"strategy": "x"}, lenient=True)
    assert (await client.get(f"/v1/backtests/{run.id}")).status_code == 404
    assert (await client.get("/v1/backtests")).json() == []


@pytest.mark.parametrize(("changes", "type", "loc"), [
    ({"name": ""}, "string_too_short", ["name"]), ({"description": "x" * 1025}, "string_too_long", ["description"]),
    ({"search_space": {"parameters": []}}, "too_short", ["search_space", "parameters"]),
    ({"search_space": {"parameters": [{"name": "x", "kind": "int_range"}]}}, "value_error",
     ["search_space", "parameters", 0]),
    ({"search_space": {"parameters": [{"name": "x", "kind": "magic"}]}}, "string_pattern_mismatch",
     ["search_space", "parameters", 0, "kind"]),
    ({"max_trials": 0}, "greater_than_equal", ["max_trials"]),
    ({"max_trials": 10_001}, "less_than_equal", ["max_trials"]),
    ({"concurrency": 129}, "less_than_equal", ["concurrency"]),
    ({"strategy": "best"}, "string_pattern_mismatch", ["strategy"]),
    ({"objective_metric": "x" * 65}, "string_too_long", ["objective_metric"]),
    ({"direction": "up"}, "string_pattern_mismatch", ["direction"]),
    ({"validation_fraction": 0.05}, "greater_than", ["validation_fraction"]),
    ({"validation_fraction": 0.9}, "less_than", ["validation_fraction"]),
    ({"walk_forward_windows": 11}, "less_than_equal", ["walk_forward_windows"]),
    ({"random_seed": 2**31}, "less_than_equal", ["random_seed"]),
    ({"exploration_weight": 1.1}, "less_than_equal", ["exploration_weight"]),
    ({"grid_steps": 1}, "greater_than_equal", ["grid_steps"]), ({"base_backtest": 5}, "dict_type", ["base_backtest"]),
    ({"base_backtest": {"symbols": []}}, "too_short", ["base_backtest", "symbols"])])
async def test_a_broken_search_is_refused_by_field(client: httpx.AsyncClient, changes: dict[str, Any], type: str,
                                                   loc: list[Any]) -> None:
    answer = await client.post("/v1/optimizations", json={**SEARCH, **changes})
    assert answer.status_code == 422
    found = answer.json()["error"]["details"][0]
    assert (found["type"], found["loc"]) == (type, ["body", *loc])
    assert (await client.get("/v1/optimizations")).json() == []


async def test_a_search_is_created_pending_and_can_be_cancelled_once(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/optimizations", json=SEARCH)
    body = answer.json()
    assert (answer.status_code, body["state"], body["max_trials"], body["best_trial"]) == (201, "pending", 100, None)
    id = body["optimization_id"]
    assert (await client.get(f"/optimizations/{id}/results")).json() == {"detail": "Optimization not yet completed"}
    assert (await client.post(f"/v1/optimizations/{id}/resume")).status_code == 409
    cancelled = await client.post(f"/v1/optimizations/{id}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (200, {"optimization_id": id, "state": "cancelled"})
    assert (await client.post(f"/v1/optimizations/{id}/cancel")).status_code == 409
    assert (await client.get(f"/v1/optimizations/{id}/results")).json()["trials"] == []
    assert [each["optimization_id"] for each in (await client.get("/optimizations?limit=1")).json()] == [id]
    assert (await client.post(f"/v1/optimizations/{id}/resume")).json()["state"] == "running"
    await client.post(f"/v1/optimizations/{id}/cancel")


async def test_a_backtest_can_be_cancelled_and_deleted(client: httpx.AsyncClient) -> None:
    id = (await client.post("/v1/backtests", json=GOOD)).json()["run_id"]
    assert (await client.delete(f"/v1/backtests/{id}")).status_code == 409
    assert (await client.post(f"/v1/backtests/{id}/cancel")).json()["state"] == "cancelled"
    assert (await client.get(f"/v1/backtests/{id}/results")).status_code == 409
    assert (await client.delete(f"/v1/backtests/{id}")).status_code == 204
    assert (await client.get(f"/v1/backtests/{id}")).status_code == 404


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '[1, {"inner": NaN}]'])
async def test_strategy_parameters_must_be_finite(client: httpx.AsyncClient, number: str) -> None:
    body = '{"symbols": ["AAPL"], "start_date": 0, "end_date": 1, "strategy": {"params": {"window": NUMBER}}}'
    body = body.replace("NUMBER", number)
    [found] = await findings(client, content=body, headers={"Content-Type": "application/json"})
    assert (found["type"], found["loc"]) == ("finite_number", ["body", "strategy", "params", "window"])
    search = ('{"name": "n", "search_space": {"parameters": [{"name": "a", "kind": "choice", "values": [1]}]}, '
              '"base_backtest": BASE}').replace("BASE", body)
    answer = await client.post("/v1/optimizations", content=search, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["details"][0]["loc"] == ["body", "base_backtest", "strategy", "params", "window"]


@pytest.mark.parametrize("number", [1e308, -1e308, 10**30, 1.5e-320])
async def test_absurd_but_finite_strategy_parameters_are_accepted(client: httpx.AsyncClient, number: float) -> None:
    answer = await client.post("/v1/backtests", json={**GOOD, "strategy": {"params": {"window": number}}})
    assert answer.status_code == 201, answer.text


async def test_a_latency_too_long_for_64_bits_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for latency, kind in ((2**63, "less_than"), (-2**63 - 1, "greater_than_equal")):
        [found] = await findings(client, {"execution": {"latency_ms": latency}})
        assert (found["type"], found["loc"]) == (kind, ["body", "execution", "latency_ms"])


async def test_half_a_character_is_refused_where_it_stands(client: httpx.AsyncClient) -> None:
    body = '{"symbols": ["A", "\\ud800"], "start_date": 0, "end_date": 1, "strategy": {"params": {"a": ["\\uDFFF"]}}}'
    found = await findings(client, content=body, headers={"Content-Type": "application/json"})
    assert [(each["type"], each["loc"]) for each in found] == [
        ("string_unicode", ["body", "symbols", 1]), ("string_unicode", ["body", "strategy", "params", "a", 0])]
    whole = '{"symbols": ["\\ud83d\\ude00"], "start_date": 0, "end_date": 1}'
    answer = await client.post("/v1/backtests", content=whole, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201


async def test_null_characters_are_refused_where_they_stand(client: httpx.AsyncClient) -> None:
    found = await findings(client, {"run_name": "a\x00b", "strategy": {"params": {"a\x00": 1}}})
    assert [(each["type"], each["loc"]) for each in found] == [
        ("value_error", ["body", "run_name"]), ("value_error", ["body", "strategy", "params"])]
    assert (await client.get("/v1/backtests/a%00b")).status_code == 404


async def test_the_documents_are_also_where_the_original_has_them(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as anybody:
        for path in ("/docs", "/redoc", "/v1/docs", "/v1/redoc"):
            answer = await anybody.get(path)
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), path
        found = (await anybody.get("/openapi.json")).json()
        assert (await anybody.get("/v1/openapi.json")).json() == found
        assert "/docs" in found["paths"] and "/v1/docs" not in found["paths"]


async def test_a_search_keeps_the_whole_of_a_long_name(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/optimizations", json={**SEARCH, "name": "x" * 256})
    assert (answer.status_code, answer.json()["name"]) == (201, "x" * 256)


async def test_a_query_that_is_no_text_is_named_as_query(client: httpx.AsyncClient) -> None:
    answer = await client.get("/backtests?limit=%00")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "limit"])


@pytest.mark.parametrize(("given", "echoed"), [("my request, 1", True), ("x" * 129, False), ("caf\xe9", False)])
async def test_a_request_id_is_echoed_or_replaced_by_a_uuid(client: httpx.AsyncClient, given: str,
                                                           echoed: bool) -> None:
    answer = await client.get("/v1/backtests/x", headers={"X-Request-ID": given.encode("latin-1")})
    found = answer.headers["X-Request-ID"]
    assert answer.json()["request_id"] == found
    assert (found == given) if echoed else (str(uuid.UUID(found)) == found)


@pytest.mark.parametrize(("kind", "low", "high"), [("int_range", 0, 1e308), ("int_range", -2.0**54, 0),
                                                   ("float_range", -1e308, 1), ("log_uniform", 1, 1e301)])
async def test_a_search_over_numbers_beyond_use_is_refused(client: httpx.AsyncClient, kind: str, low: float,
                                                          high: float) -> None:
    space = {"parameters": [{"name": "a", "kind": kind, "low": low, "high": high}]}
    answer = await client.post("/v1/optimizations", json={**SEARCH, "search_space": space})
    assert answer.status_code == 422, answer.text
    [found] = answer.json()["error"]["details"]
    assert found["loc"] == ["body", "search_space", "parameters", 0] and "within" in found["msg"]
