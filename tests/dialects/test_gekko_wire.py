"""Gekko's API on a real server that runs open, as its clients need it: recorded answers and golden backtests."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from engine.candle_store import CandleStore
from engine.model import Market
from tests.engine.gekko_golden import candles, cases
from tests.harness import ServerProcess, wait_until

RECORDED = {path.stem: json.loads(path.read_text())
            for path in sorted((Path(__file__).parents[1] / "wire" / "gekko").glob("*.json"))}
GAPS = {"exchange": "golden", "currency": "USDT", "asset": "GAPS"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("gekko")
    store = CandleStore(folder / "candles")
    for market, name in (("golden:BTC/USDT", "rw60d"), ("golden:GAPS/USDT", "rw20d_gaps"),
                         ("poloniex:BTC/USDT", "rw60d"), ("poloniex:ETH/USDT", "rw20d_gaps")):
        store.write(replace(candles(name), market=Market.parse(market)))
    with ServerProcess("--rate-limit", "0", "--api-only", "--workers", "2", "--origins", "http://localhost:8080",
                       data_dir=folder, env={"WORKBENCH_TOKEN": ""}) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def asked(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    """A recorded request, sent."""
    body = request.get("body")
    content = body if isinstance(body, str) else None if body is None else json.dumps(body)
    return client.request(request["method"], request["path"], headers=request.get("headers"), content=content)


@pytest.mark.parametrize("name", sorted(RECORDED.keys() - {"getCandles-60"}))
def test_an_answer_is_the_recorded_one(client: httpx.Client, name: str) -> None:
    expected = RECORDED[name]["response"]
    answer = asked(client, RECORDED[name]["request"])
    assert answer.status_code == expected["status"]
    if "body" in expected:
        assert answer.json() == expected["body"]
        assert in_order(answer.json()) == in_order(expected["body"])
    else:
        assert answer.text == expected["text"]
    # The recorded `*` would let every page of the web read answers; pages of named origins get what they need.
    headers = {key: value for key, value in expected["headers"].items() if value != "*"
               and (key != "Access-Control-Allow-Methods" or expected["headers"]["Access-Control-Allow-Origin"] != "*")}
    assert {key: answer.headers.get(key) for key in headers} == headers
    assert answer.headers.get("Access-Control-Allow-Origin") != "*"


def in_order(value: Any) -> Any:
    """The value with the order of its keys made visible."""
    if isinstance(value, dict):
        return [(key, in_order(each)) for key, each in value.items()]
    return [in_order(each) for each in value] if isinstance(value, list) else None


def test_candles_are_the_recorded_ones_and_end_where_they_should(client: httpx.Client) -> None:
    recorded = RECORDED["getCandles-60"]
    found = asked(client, recorded["request"]).json()
    assert found == recorded["response"]["body"][:24]  # the original goes on beyond the end
    assert list(found[0]) == ["start", "open", "high", "low", "close", "vwp", "volume", "trades"]
    minutes = client.post("/api/getCandles", json={
        **recorded["request"]["body"], "candleSize": 1,
        "daterange": {"from": "2018-01-03 05:40", "to": "2018-01-03T05:53:00.000Z"}}).json()
    assert [each["start"] for each in minutes] == list(range(1514958000, 1514958000 + 14 * 60, 60))


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_backtest_s_answer_is_the_original_s_in_every_figure(client: httpx.Client, name: str) -> None:
    case = cases()[name]
    watch = GAPS if case["candles"] == "rw20d_gaps" else case["request"]["watch"]
    answer = client.post("/api/backtest", json={**case["request"], "watch": watch})
    assert answer.status_code == 200, answer.text
    found, expected = answer.json(), {**case["backtest"], "market": watch}
    assert {key: found.get(key) for key in expected} == expected
    assert [key for key in found if key in expected] == list(expected)
    assert found.keys() - expected.keys() <= {"stratUpdates", "stratCandles"}  # cut from most of the cases
    for key in ("performanceReport", "roundtrips", "trades"):
        if expected.get(key):
            assert in_order(found[key]) == in_order(expected[key])


def test_a_backtest_is_a_run_with_a_report(client: httpx.Client) -> None:
    request = cases()["MACD-60-10"]["request"] | {"trader": {"enabled": False, "key": "k-1", "secret": "s-1"}}
    answer = client.post("/api/backtest", json=request).json()
    run = client.get("/workbench/api/runs?dialect=gekko&limit=1").json()["items"][0]
    assert (run["strategy"], run["markets"], run["dialect"]) == ("gekko_macd", ["golden:BTC/USDT"], "gekko")
    assert "s-1" not in json.dumps(run) and "k-1" not in json.dumps(run)
    path = f"/workbench/api/runs/{run['id']}"
    wait_until(lambda: client.get(path).json()["state"] == "completed")
    result = client.get(path + "/result").json()
    assert result["rows"]["equity"] > 1000 and result["metrics"]["fills"] > 10
    assert result["metrics"]["final_value"] == pytest.approx(answer["performanceReport"]["balance"])
    again = client.post(path + "/rerun").json()
    wait_until(lambda: client.get(f"/workbench/api/runs/{again['id']}").json()["state"] == "completed")


def test_without_a_range_the_only_one_is_taken(client: httpx.Client) -> None:
    case = cases()["MACD-60-10"]
    request = {key: value for key, value in case["request"].items() if key != "backtest"}
    answer = client.post("/api/backtest", json=request).json()
    assert answer["performanceReport"] == case["backtest"]["performanceReport"]
    refused = client.post("/api/backtest", json=request | {"watch": GAPS})
    assert refused.status_code == 422 and "2 ranges" in refused.json()["error"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good request with one thing changed; `...` takes it out."""
    request = json.loads(json.dumps(cases()["MACD-60-10"]["request"]))
    *outer, key = path.split(".")
    place = request
    for each in outer:
        place = place[each]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return request


@pytest.mark.parametrize(("path", "value", "field"), [
    ("watch", ..., "watch"), ("watch", "x", "watch"), ("watch.asset", ..., "watch.asset"),
    ("watch.asset", 5, "watch.asset"), ("watch.exchange", "nowhere", "watch"),
    ("watch.exchange", "../../etc/passwd", "watch"), ("watch.asset", "BTC; DROP TABLE runs", "watch"),
    ("watch.exchange", "x\0y", "watch"), ("watch.exchange", "e" * 100_000, "watch"),
    ("tradingAdvisor", ..., "tradingAdvisor"), ("tradingAdvisor.method", "../../evil", "tradingAdvisor.method"),
    ("tradingAdvisor.method", ["MACD"], "tradingAdvisor.method"),
    ("tradingAdvisor.candleSize", "60", "tradingAdvisor.candleSize"),
    ("tradingAdvisor.candleSize", ..., "tradingAdvisor.candleSize"), ("MACD", ..., "MACD"),
    ("MACD.short", "10", "MACD.short"), ("MACD.thresholds", 1, "MACD.thresholds.down"),
    ("paperTrader.feeMaker", "free", "paperTrader.feeMaker"),
    ("paperTrader.simulationBalance", ..., "paperTrader.simulationBalance"),
    ("backtestResultExporter.enabled", False, "backtestResultExporter.enabled"),
    ("backtestResultExporter", ..., "backtestResultExporter"),
    ("backtestResultExporter.data", 1, "backtestResultExporter.data"),
    ("backtest.daterange", 5, "backtest.daterange"),
    ("backtest.daterange.from", "yesterday", "backtest.daterange.from"),
    ("backtest.daterange.to", "2017-01-01", "backtest.daterange.to"),
    ("backtest.daterange.to", 8.64e15, "backtest.daterange.to"),
    ("backtest.daterange", {"from": "2001-01-01", "to": "2001-02-01"}, ""),
    ("backtest.daterange", {"from": 1514764800, "to": 1519948740}, ""),  # seconds: in January 1970
    ("backtest.batchSize", 0, "backtest.batchSize")])
def test_what_fails_or_hangs_in_the_original_is_refused_with_a_reason(client: httpx.Client, path: str, value: Any,
                                                                      field: str) -> None:
    answer = client.post("/api/backtest", json=changed(path, value))
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/json; charset=utf-8"), answer.text
    said = answer.json()
    assert said["type"] == "error" and said["error"]
    if field:
        assert field in [problem["field"] for problem in said["problems"]]
    for problem in said["problems"][:1]:
        assert problem["field"] in said["error"] and said["error"].count(f"({problem['remedy']})") <= 1


def test_a_gap_is_named(client: httpx.Client) -> None:
    """A batch without a candle ends a backtest of the original; what is known only to the engine is told as well."""
    answer = client.post("/api/backtest", json=changed("backtest", {
        "batchSize": 1, "daterange": cases()["GAPS-MACD-60-10"]["request"]["backtest"]["daterange"]}) | {"watch": GAPS})
    assert answer.status_code == 422 and "there are no candles in the 1 minutes from 2018-01-" in answer.json()["error"]
    assert answer.json()["problems"][0]["field"] == "backtest.daterange"


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/api/scan", {}, 422), ("/api/scan", {"watch": {"exchange": 1}}, 422), ("/api/scan", [], 422),
    ("/api/scan", {"watch": {"exchange": "no", "currency": "such", "asset": "market"}}, 200),
    ("/api/getCandles", {"watch": GAPS, "daterange": {"from": "2018-01-01", "to": "2018-01-02"}}, 422),
    ("/api/getCandles", {"watch": GAPS, "daterange": {"from": "2018-01-01", "to": "2018-01-02"}, "candleSize": 0}, 422),
    ("/api/getCandles", {"watch": GAPS, "candleSize": 1}, 422),
    ("/api/getCandles", {"daterange": {"from": "2018-01-01", "to": "2018-01-02"}, "candleSize": 1}, 422),
    ("/api/getCandles", {"watch": GAPS, "daterange": {"from": "never", "to": "2018-01-02"}, "candleSize": 1}, 422)])
def test_other_requests_are_refused_too(client: httpx.Client, path: str, body: Any, status: int) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert (answer.json() == []) if status == 200 else answer.json()["type"] == "error"


def test_no_candles_in_a_range_is_an_empty_list(client: httpx.Client) -> None:
    for size, to in ((1, "2001-01-02"), (10**8, "2030-01-01")):
        answer = client.post("/api/getCandles", json={
            "watch": GAPS, "daterange": {"from": "2001-01-01", "to": to}, "candleSize": size})
        assert (answer.status_code, answer.json()) == (200, [])


def test_names_of_markets_are_found_in_any_case_and_in_forms(client: httpx.Client) -> None:
    expected = RECORDED["scan-gaps"]["response"]["body"]
    assert client.post("/api/scan", json={"watch": {"exchange": "Poloniex", "currency": "usdt", "asset": "eth"}}
                       ).json() == expected
    form = {"watch[exchange]": "poloniex", "watch[currency]": "USDT", "watch[asset]": "ETH"}
    assert client.post("/api/scan", data=form).json() == expected
    assert client.post("/api/scan", data=form, headers={"Content-Type": "text/plain"}).status_code == 422


def test_scansets_lists_every_market_in_order_and_writes_nothing(client: httpx.Client, server: ServerProcess) -> None:
    before = sorted(str(path) for path in (server.data_dir / "candles").rglob("*"))
    client.post("/api/scan", json={"watch": {"exchange": "new", "currency": "A", "asset": "B"}})
    found = client.post("/api/scansets").json()
    assert [(each["exchange"], each["currency"], each["asset"]) for each in found["datasets"]] == [
        ("golden", "USDT", "BTC"), ("golden", "USDT", "GAPS"), ("poloniex", "USDT", "BTC"), ("poloniex", "USDT", "ETH")]
    assert found["datasets"][3]["ranges"] == RECORDED["scan-gaps"]["response"]["body"]
    assert found["datasets"][2]["ranges"] == RECORDED["scan-full"]["response"]["body"] and found["errors"] == []
    assert sorted(str(path) for path in (server.data_dir / "candles").rglob("*")) == before


def test_bodies_that_are_too_large_or_too_deep(client: httpx.Client) -> None:
    answer = client.post("/api/scan", json={"x": "y" * 2**20})
    assert (answer.status_code, answer.text) == (413, "request entity too large")
    answer = client.post("/api/scan", data={"x": "y" * 60_000})
    assert (answer.status_code, answer.text) == (413, "request entity too large")
    deep = b'{"watch":' * 100 + b"1" + b"}" * 100
    json_type = {"Content-Type": "application/json"}
    assert client.post("/api/scan", content=deep, headers=json_type).status_code == 422
    for text in (b"5", b'"x"', b"null", b"[" * 100_000):
        answer = client.post("/api/backtest", content=text, headers=json_type)
        assert (answer.status_code, answer.text) == (400, "Bad Request")


def test_methods_and_addresses(client: httpx.Client) -> None:
    assert client.get("/api/configPart/nope").text == "error :("
    assert client.head("/api/info").status_code == 200
    wrong = client.post("/api/info")
    assert (wrong.status_code, wrong.text) == (405, "Method Not Allowed")
    assert {each.strip() for each in wrong.headers["Allow"].split(",")} == {"GET", "HEAD"}
    for path in ("/api", "/api/nothing", "/api/imports/1"):  # what is not there is not pretended
        assert (client.post(path, json={}).status_code, client.post(path, json={}).text) == (404, "Not Found")
    assert client.get("/", follow_redirects=False).status_code == 303


def test_a_client_that_leaves_holds_nothing_up(client: httpx.Client, server: ServerProcess) -> None:
    total = client.get("/workbench/api/runs?dialect=gekko").json()["total"]
    body = json.dumps(cases()["MACD-60-10"]["request"]).encode()
    head = (f"POST /api/backtest HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
    wait_until(lambda: client.get("/workbench/api/runs?dialect=gekko").json()["total"] == total + 5)
    wait_until(lambda: client.get("/workbench/api/runs?dialect=gekko&state=queued,running").json()["total"] == 0)
    assert client.post("/api/backtest", json=cases()["one-trade"]["request"]).status_code == 200
    work = server.data_dir / "results" / ".work"
    wait_until(lambda: not list(work.glob("*")))
    assert "Traceback" not in server.errors


def test_many_at_once(client: httpx.Client) -> None:
    names = ["MACD-60-10", "PPO-60-10", "RSI-60-10", "noop-60-10"] * 3
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda name: client.post("/api/backtest", json=cases()[name]["request"]), names))
    for name, answer in zip(names, answers, strict=True):
        assert answer.json().get("performanceReport") == cases()[name]["backtest"].get("performanceReport")


def processor_time(server: ServerProcess) -> float:
    """Seconds that a server and its workers have taken of the processors."""
    process = psutil.Process(server.process.pid)
    used = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in used)


def test_a_warm_backtest_takes_a_moment(client: httpx.Client, server: ServerProcess) -> None:
    """Two months of minutes; the bound is far above what it takes on an idle machine, and far below Gekko's seconds."""
    request = cases()["MACD-60-10"]["request"]
    took = []
    for _ in range(5):
        begun = processor_time(server)
        assert client.post("/api/backtest", json=request).status_code == 200
        took.append(processor_time(server) - begun)
    assert min(took) < 1.0
