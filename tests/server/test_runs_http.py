"""Runs and sweeps over real HTTP and WebSockets: a whole server with its pool, and what clients may and may not say."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from engine import times
from engine.candles import Candles
from engine.demo import demo_candles
from engine.model import Market
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio
API = "/workbench/api"
TOKEN = "a-secret-token-of-the-tests"
AAPL: dict[str, Any] = {"strategy": "sma_cross", "markets": ["demo:AAPL/USD"], "start": "2010-01-04",
                        "end": "2011-12-30"}
FORMATS = ("json", "arrow", "csv", "parquet")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def holed() -> Candles:
    """Hours without end, and half a day missing."""
    hour = np.delete(np.arange(24 * 60), np.arange(300, 312))
    close = 100 + np.sin(hour / 9)
    return Candles(market=Market("demo", "HOLE", "USD"), resolution=3600,
                   time=times.micros(times.parse("2024-01-01")) + hour.astype(np.int64) * 3_600_000_000,
                   open=close, high=close + 1, low=close - 1, close=close, volume=np.full(len(hour), 5.0))


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "csv").mkdir()
    async with running_server(folder, compute=True, token=TOKEN, rate_limit=0, workers=1,
                              csv_root=folder / "csv") as running:
        for candles in (*demo_candles()[:4], holed()):
            await asyncio.to_thread(running.services.store.write, candles)
        await until(lambda: running.services.pool.ready, 120)
        yield running


@pytest.fixture(scope="module")
async def api(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url + API, headers={"Authorization": f"Bearer {TOKEN}"},
                                 timeout=60) as client:
        yield client


async def ended(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    async def finished() -> dict[str, Any] | None:
        run = (await api.get(f"/runs/{id}")).json()
        return run if run["state"] in ("completed", "failed", "cancelled") else None

    return await until(finished, 60)


async def submit(api: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await api.post("/runs", json=AAPL | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture(scope="module")
async def done(api: httpx.AsyncClient) -> dict[str, Any]:
    """A completed run of two markets."""
    run = await submit(api, markets=["demo:AAPL/USD", "demo:IBM/USD"], params={"fast": 5, "slow": 20}, name="two")
    found = await ended(api, run["id"])
    assert found["state"] == "completed", found
    return found


def frames(server: Any, path: str, token: str = TOKEN) -> Any:
    return connect(server.url.replace("http", "ws") + API + path,
                   additional_headers={"Authorization": f"Bearer {token}"})


async def hear(server: Any, path: str) -> tuple[list[dict[str, Any]], int]:
    """All frames until the server closes, and its close code."""
    heard = []
    async with frames(server, path) as socket:
        try:
            while True:
                heard.append(json.loads(await asyncio.wait_for(socket.recv(), 60)))
        except ConnectionClosed:
            return heard, socket.close_code


# -- one run's life


async def test_a_run_from_its_post_to_its_result(server: Any, api: httpx.AsyncClient) -> None:
    run = await submit(api, name="first", tags=["a", "b"], params={"fast": 3, "slow": 9})
    assert (run["state"], run["kind"], run["name"], run["tags"]) == ("queued", "backtest", "first", ["a", "b"])
    assert run["spec"]["start"] == "2010-01-04T00:00:00.000000Z" and run["resolution"] == "1d" and run["owner"]
    heard, code = await hear(server, f"/runs/{run['id']}/stream")
    assert code == 1000
    assert [frame["seq"] for frame in heard] == list(range(1, len(heard) + 1))
    assert [frame["data"]["state"] for frame in heard if frame["type"] == "state"] == ["queued", "running", "completed"]
    steps = [frame["data"] for frame in heard if frame["type"] == "progress"]
    assert [step["progress"] for step in steps if step["message"] in (
        "Initializing real engine", "Loading market data", "Collecting engine results")] == [0.1, 0.3, 0.95]
    assert {frame["stream"] for frame in heard} == {f"run/{run['id']}"}
    kept = (await api.get(f"/runs/{run['id']}/events")).json()["items"]
    assert kept == heard
    assert (await api.get(f"/runs/{run['id']}/events", params={"after": 2, "limit": 1})).json()["items"] == [heard[2]]

    found = (await api.get(f"/runs/{run['id']}")).json()
    assert found["progress"] == 1.0 and found["error"] is None and found["metrics"]["trades"] > 0
    assert found["created_at"] <= found["started_at"] <= found["finished_at"] and found["created_at"].endswith("Z")
    result = (await api.get(f"/runs/{run['id']}/result")).json()
    assert result["metrics"] == found["metrics"] and result["spec"]["params"] == {"fast": 3, "slow": 9}
    assert result["provenance"]["strategy"]["params"] == {"fast": 3, "slow": 9}

    again = await api.post(f"/runs/{run['id']}/rerun")
    assert again.status_code == 201 and again.json()["id"] != run["id"]
    other = await ended(api, again.json()["id"])
    assert other["metrics"] == found["metrics"] and other["name"] == "first"
    assert (await api.delete(f"/runs/{other['id']}")).status_code == 204
    for path in ("", "/events", "/result", "/tables/equity"):
        assert (await api.get(f"/runs/{other['id']}{path}")).status_code == 404
    assert (await api.delete(f"/runs/{other['id']}")).status_code == 404


async def test_names_tags_and_notes_are_changed_and_bounded(api: httpx.AsyncClient, done: dict[str, Any]) -> None:
    changed = (await api.patch(f"/runs/{done['id']}", json={"notes": "good", "tags": ["x", "x", "y"]})).json()
    assert (changed["name"], changed["notes"], changed["tags"]) == ("two", "good", ["x", "y"])
    assert (await api.patch(f"/runs/{done['id']}", json={})).json() == changed
    for body, field in (({"name": "n" * 201}, "name"), ({"tags": ["t" * 101]}, "tags"), ({"state": "queued"}, "state"),
                        ({"notes": 5}, "notes")):
        answer = await api.patch(f"/runs/{done['id']}", json=body)
        assert answer.status_code == 422 and answer.json()["error"]["problems"][0]["field"] == field, answer.text
    assert (await api.get(f"/runs/{done['id']}")).json() == changed


async def test_a_finished_run_is_neither_cancelled_nor_changed(api: httpx.AsyncClient, done: dict[str, Any]) -> None:
    answer = await api.post(f"/runs/{done['id']}/cancel")
    assert answer.status_code == 409 and "completed" in answer.json()["error"]["message"]


async def test_a_queued_run_is_cancelled_at_once(server: Any, api: httpx.AsyncClient) -> None:
    loads = [await submit(api, params={"fast": 2 + n, "slow": 40}) for n in range(8)]
    last = loads[-1]["id"]
    answer = await api.post(f"/runs/{last}/cancel")
    assert answer.status_code == 200 and answer.json()["state"] == "cancelled"
    assert (await api.post(f"/runs/{last}/cancel")).json() == answer.json()
    heard, code = await hear(server, f"/runs/{last}/stream")
    assert code == 1000 and heard[-1]["data"]["state"] == "cancelled"
    refused = await api.get(f"/runs/{last}/result")
    assert refused.status_code == 409 and refused.json()["error"]["problems"][0]["remedy"]
    assert {(await ended(api, run["id"]))["state"] for run in loads[:-1]} == {"completed"}
    assert (await api.get(f"/runs/{last}")).json()["state"] == "cancelled"


async def test_the_same_key_gives_the_same_run(api: httpx.AsyncClient) -> None:
    async def post(key: str, **changes: Any) -> httpx.Response:
        return await api.post("/runs", json=AAPL | changes, headers={"Idempotency-Key": key})

    first, *others = await asyncio.gather(*(post("k") for _ in range(5)))
    assert {each.json()["id"] for each in others} == {first.json()["id"]} and first.status_code == 201
    clash = await post("k", cash=5)
    assert clash.status_code == 409 and clash.json()["error"]["problems"][0]["field"] == "Idempotency-Key"
    assert (await post("other")).json()["id"] != first.json()["id"]
    assert (await post("k" * 256)).status_code == 422


# -- lists


async def test_the_list_is_filtered_sorted_and_paged(api: httpx.AsyncClient, done: dict[str, Any]) -> None:
    tags = {"tags": ["paged"]}
    made = [await submit(api, params={"fast": 2, "slow": 10 + n}, name=f"page {n}", **tags) for n in range(5)]
    for run in made:
        await ended(api, run["id"])

    async def ids(**query: Any) -> list[str]:
        answer = await api.get("/runs", params={"tag": "paged", **query})
        assert answer.status_code == 200, answer.text
        return [run["id"] for run in answer.json()["items"]]

    newest = [run["id"] for run in reversed(made)]
    assert await ids() == newest and await ids(order="asc") == newest[::-1]
    seen, cursor = [], None
    while True:
        query = {"tag": "paged", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/runs", params=query)).json()
        assert page["total"] == 5
        seen += [run["id"] for run in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == newest
    assert await ids(state="completed,failed") == newest and await ids(state="queued") == []
    assert await ids(q="PAGE 3") == [made[3]["id"]] and await ids(market="demo:IBM/USD") == []
    assert await ids(strategy="sma_cross", kind="backtest", dialect="native") == newest
    returns = {run["id"]: (await api.get(f"/runs/{run['id']}")).json()["metrics"]["total_return"] for run in made}
    best = sorted(returns, key=lambda id: (returns[id], id), reverse=True)
    assert await ids(sort="metrics.total_return") == best
    bound = returns[best[1]]
    assert set(await ids(metric=f"total_return>{bound}")) == {id for id in best if returns[id] >= bound}
    for query, field in ((("state", "gone"), "state"), (("limit", "0"), "limit"), (("limit", "501"), "limit"),
                         (("cursor", "zzz"), "cursor"), (("sort", "a'); DROP"), "sort"), (("sort", "nope"), "sort"),
                         (("kind", "x"), "kind"), (("order", "up"), "order"),
                         (("metric", "sharpe"), "metric"), (("metric", "sharpe>nan"), "metric")):
        answer = await api.get("/runs", params=dict([query]))
        problem = answer.json()["error"]["problems"][0]
        assert answer.status_code == 422 and problem["field"] == field and problem["remedy"], answer.text


# -- tables


def columns_of(form: str, body: bytes) -> pa.Table:
    if form == "arrow":
        return pa.ipc.open_stream(body).read_all()
    if form == "csv":
        return pa.csv.read_csv(io.BytesIO(body))
    return pa.parquet.read_table(io.BytesIO(body))


def numbers(values: list[Any]) -> list[float]:
    """What is missing is null in JSON and empty in CSV."""
    return [float("nan") if value is None else value for value in values]


@pytest.mark.parametrize("name", ["equity", "fills", "roundtrips", "indicators", "positions", "candles"])
async def test_a_table_says_the_same_in_every_form(api: httpx.AsyncClient, done: dict[str, Any], name: str) -> None:
    symbol = {"symbol": "demo:IBM/USD"} if name != "equity" else {}
    path = f"/runs/{done['id']}/tables/{name}"
    answers = {form: await api.get(path, params={"format": form, **symbol}) for form in FORMATS}
    assert {answer.status_code for answer in answers.values()} == {200}, answers["json"].text
    plain = answers["json"].json()
    assert plain["rows"] == plain["total"] > 3 and plain["offset"] == 0
    for form in FORMATS[1:]:
        table = columns_of(form, answers[form].content)
        assert table.column_names == list(plain["columns"]) and table.num_rows == plain["rows"], form
        number = next(key for key in ("price", "close", "value", "pnl", "fast") if key in plain["columns"])
        assert numbers(table[number].to_pylist()) == pytest.approx(numbers(plain["columns"][number]), nan_ok=True)
    first = "entry_time" if name == "roundtrips" else "time"
    at = plain["columns"][first][2]
    assert isinstance(at, int) and at % times.DAY == 0
    part = (await api.get(path, params={"offset": 1, "limit": 2, **symbol})).json()
    assert (part["rows"], part["offset"], part["total"]) == (2, 1, plain["total"])
    assert part["columns"][first] == plain["columns"][first][1:3]
    if name != "roundtrips":
        day = times.iso(at)
        one = (await api.get(path, params={"start": day, "end": day, **symbol})).json()
        wrong = await api.get(path, params={"start": day, "end": times.iso(at - times.DAY), **symbol})
        assert (wrong.status_code, wrong.json()["error"]["problems"][0]["field"]) == (422, "end")
        assert set(one["columns"]["time"]) == {at} and one["total"] >= 1
    later = await api.get(path, params={"start": "2030-01-01", **symbol})
    assert later.status_code in (200, 422)
    if later.status_code == 200:
        assert later.json()["total"] == 0


async def test_tables_are_downsampled_and_refuse_what_cannot_be(api: httpx.AsyncClient, done: dict[str, Any]) -> None:
    path = f"/runs/{done['id']}/tables/"
    whole = (await api.get(path + "equity")).json()
    few = (await api.get(path + "equity", params={"points": 30})).json()
    assert 3 < few["rows"] <= 40 and set(few["columns"]["time"]) < set(whole["columns"]["time"])
    bars = (await api.get(path + "candles", params={"points": 20, "symbol": "demo:AAPL/USD"})).json()
    assert 3 < bars["rows"] <= 40
    for name, query, status, field in (
            ("fills", {"points": 10}, 422, "points"), ("equity", {"symbol": "demo:AAPL/USD"}, 422, "symbol"),
            ("equity", {"format": "xml"}, 422, "format"), ("equity", {"points": 2}, 422, "points"),
            ("equity", {"offset": -1}, 422, "offset"), ("equity", {"start": "soon"}, 422, "start"),
            ("candles", {}, 422, "symbol"), ("candles", {"symbol": "demo:MSFT/USD"}, 422, "symbol"),
            ("secrets", {}, 404, "")):
        answer = await api.get(path + name, params=query)
        problem = answer.json()["error"]["problems"][0]
        assert (answer.status_code, problem["field"]) == (status, field) and problem["remedy"], answer.text


# -- streams


async def test_a_follower_goes_on_where_it_stopped(server: Any, done: dict[str, Any]) -> None:
    heard, _ = await hear(server, f"/runs/{done['id']}/stream")
    rest, code = await hear(server, f"/runs/{done['id']}/stream?after=3")
    assert rest == heard[3:] and code == 1000
    none, code = await hear(server, f"/runs/{done['id']}/stream?after=999999")
    assert none == [] and code == 1000


async def test_streams_refuse_with_1008(server: Any, done: dict[str, Any]) -> None:
    assert await hear(server, "/runs/00000000-0000-0000-0000-000000000000/stream") == ([], 1008)
    assert await hear(server, f"/runs/{done['id']}/stream?after=-1") == ([], 1008)
    async with frames(server, f"/runs/{done['id']}/stream", token="wrong") as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1008


async def test_the_firehose_carries_every_run(server: Any, api: httpx.AsyncClient) -> None:
    async with frames(server, "/stream?prefix=run/") as socket:
        runs = [await submit(api, params={"fast": 4, "slow": 30 + n}) for n in range(3)]
        open_, heard = {run["id"] for run in runs}, []
        while open_:
            frame = json.loads(await asyncio.wait_for(socket.recv(), 60))
            heard.append(frame)
            if frame["type"] == "state" and frame["data"]["state"] == "completed":
                open_.discard(frame["stream"].removeprefix("run/"))
    ids = [frame["id"] for frame in heard]
    assert ids == sorted(set(ids))
    middle = ids[len(ids) // 2]
    async with frames(server, f"/stream?prefix=run/&after_id={middle}") as socket:
        again = [json.loads(await asyncio.wait_for(socket.recv(), 60)) for id in ids if id > middle]
    assert again == [frame for frame in heard if frame["id"] > middle]


# -- what cannot work


def problems(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    found = answer.json()["error"]["problems"]
    assert all(each["remedy"] or " should " in each["message"] for each in found), found
    return {each["field"]: f"{each['message']} {each['remedy']}" for each in found}


@pytest.mark.parametrize(("changes", "field", "words"), [
    ({"strategy": "nope"}, "strategy", "sma_cross"),
    ({"params": {"fats": 5}}, "params.fats", "fast"),
    ({"params": {"fast": "five"}}, "params.fast", "number"),
    ({"params": {"fast": 2.5}}, "params.fast", "whole"),
    ({"params": {"fast": -1}}, "params.fast", ""),
    ({"params": {"fast": [1]}}, "params.fast", "one value"),
    ({"params": {"fast": 10**30}}, "params.fast", ""),
    ({"markets": ["demo:NONE/USD"]}, "markets.0", ""),
    ({"markets": ["AAPL"]}, "markets.0", "exchange:ASSET/CURRENCY"),
    ({"markets": ["demo:AAPL/USD", "demo:AAPL/USD"]}, "markets", "once"),
    ({"markets": []}, "markets", ""),
    ({"start": "2011-01-01", "end": "2010-01-01"}, "end", "not before"),
    ({"start": "2031-01-01", "end": None}, "start", "2000-03-01"),
    ({"start": None, "end": "1990-01-01"}, "end", "2000-03-01"),
    ({"start": "never"}, "start", "ISO 8601"),
    ({"resolution": "7 parsecs"}, "resolution", "1d"),
    ({"resolution": "1m"}, "resolution", ""),
    ({"benchmark": "demo:NONE/USD"}, "benchmark", ""),
    ({"cash": -5}, "cash", "greater than 0"),
    ({"cash": "much"}, "cash", "number"),
    ({"costs": {"fee_rate": 2}}, "costs.fee_rate", "less than 1"),
    ({"unknown": 1}, "unknown", "name"),
    ({"source": "csv", "source_path": "/etc"}, "source", "store"),
    ({"source": "csv"}, "source", "store"),
    ({"source": "sample"}, "source", "store"),
    ({"source_path": "/etc"}, "source_path", "store"),
    ({"fill_options": {"csv_root": "/"}}, "fill_options.csv_root", "leave it out"),
    ({"fill_model": "glowback", "strategy": "rsi", "fill_options": {"csv_root": "/"}}, "fill_options.csv_root",
     "commission_bps"),
    ({"fill_model": "glowback", "strategy": "rsi", "source": "csv", "source_path": "/etc",
      "fill_options": {"csv_root": "/"}}, "source", "store"),
    ({"fill_model": "glowback", "strategy": "rsi", "fill_options": {"commission_bps": "all"}},
     "fill_options.commission_bps", "number"),
    ({"fill_model": "glowback", "strategy": "sma_cross"}, "strategy", "ma_crossover"),
    ({"fill_model": "glowback", "strategy": "rsi", "params": {"lookback_period": 0}}, "params.lookback_period",
     "at least"),
    ({"name": "n" * 201}, "name", ""),
])
async def test_what_cannot_work_is_refused_with_its_field_and_remedy(
        api: httpx.AsyncClient, changes: dict[str, Any], field: str, words: str) -> None:
    before = (await api.get("/runs", params={"limit": 1})).json()["total"]
    found = problems(await api.post("/runs", json=AAPL | changes))
    assert field in found and words in found[field], found
    assert (await api.get("/runs", params={"limit": 1})).json()["total"] == before


async def test_all_that_is_wrong_is_said_at_once(api: httpx.AsyncClient) -> None:
    found = problems(await api.post("/runs", json=AAPL | {
        "strategy": "nope", "markets": ["demo:X/USD", "demo:AAPL/USD"], "benchmark": "demo:Y/USD"}))
    assert set(found) == {"strategy", "markets.0", "benchmark"}


@pytest.mark.parametrize("body", ['{"cash": NaN}', '{"cash": Infinity}', '{"cash": 1e999}', "{", "", "\xff",
                                  "[" * 9999], ids=range(7))
async def test_what_is_not_json_is_a_400(api: httpx.AsyncClient, body: str) -> None:
    for path in ("/runs", "/sweeps"):
        answer = await api.post(path, content=body.encode("latin-1"), headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "malformed", answer.text


@pytest.mark.parametrize("body", ["[]", "5", "null", '"text"', "{}"])
async def test_json_of_another_shape_is_a_422(api: httpx.AsyncClient, body: str) -> None:
    for path in ("/runs", "/sweeps"):
        answer = await api.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text


async def test_unknown_runs_are_404_everywhere(api: httpx.AsyncClient) -> None:
    for id in ("00000000-0000-0000-0000-000000000000", "..", "x", "%2e%2e%2fworkbench.sqlite", "a%00b"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/rerun"), ("GET", "/result"),
                             ("GET", "/tables/equity"), ("GET", "/events")):
            answer = await api.request(method, f"/runs/{id}{path}")
            assert answer.status_code == 404 or (id == ".." and answer.status_code in (404, 405)), (id, method, path)


async def test_data_holes_warn_or_fail_by_mode(api: httpx.AsyncClient) -> None:
    spec = {"markets": ["demo:HOLE/USD"], "resolution": "1h", "start": None, "end": None}
    warned, failed = await submit(api, **spec), await submit(api, **spec, data_mode="fail")
    assert (await ended(api, warned["id"]))["state"] == "completed"
    warnings = (await api.get(f"/runs/{warned['id']}/result")).json()["warnings"]
    (hole,) = [each for each in warnings if each["code"] == "data_holes"]
    assert "12 bars missing in 1 holes (12 from 2024-01-13T12:00Z" in hole["message"]
    found = await ended(api, failed["id"])
    assert found["state"] == "failed" and "2024-01-13T12:00Z" in found["error"] and "data_mode" in found["error"]


async def test_the_other_fill_model_runs_natively(api: httpx.AsyncClient) -> None:
    run = await submit(api, fill_model="glowback", strategy="rsi", fill_options={"commission_bps": 5})
    assert (await ended(api, run["id"]))["state"] == "completed"


# -- sweeps


SWEEP: dict[str, Any] = {"base": AAPL, "parameters": {"fast": [3, 5], "slow": {"low": 20, "high": 40, "step": 10}}}


async def test_a_sweep_from_its_post_to_its_best_trial(server: Any, api: httpx.AsyncClient) -> None:
    answer = await api.post("/sweeps", json=SWEEP | {"name": "grid", "objective": "total_return"},
                            headers={"Idempotency-Key": "sweep"})
    assert answer.status_code == 201 and answer.json()["kind"] == "optimization", answer.text
    id = answer.json()["id"]
    again = await api.post("/sweeps", json=SWEEP | {"name": "grid", "objective": "total_return"},
                           headers={"Idempotency-Key": "sweep"})
    assert again.json()["id"] == id
    heard, code = await hear(server, f"/runs/{id}/stream")
    assert code == 1000 and heard[-1]["data"]["state"] == "completed"
    found = (await api.get(f"/sweeps/{id}")).json()
    assert found["trials"] == {"completed": 6, "failed": 0, "running": 0, "total": 6}
    trials = (await api.get(f"/sweeps/{id}/trials", params={"sort": "objective", "order": "desc"})).json()
    assert trials["total"] == 6 and trials["columns"]["objective"] == sorted(trials["columns"]["objective"],
                                                                            reverse=True)
    assert found["best"]["objective"] == trials["columns"]["objective"][0]
    assert {tuple(pair) for pair in zip(trials["columns"]["params.fast"], trials["columns"]["params.slow"], strict=True)
            } == {(fast, slow) for fast in (3, 5) for slow in (20, 30, 40)}
    page = (await api.get(f"/sweeps/{id}/trials", params={"offset": 4, "limit": 9})).json()
    assert page["columns"]["number"] == [4, 5]
    best = await submit(api, params=found["best"]["parameters"])
    alone = (await ended(api, best["id"]))["metrics"]["total_return"]
    assert alone == pytest.approx(found["best"]["objective"], abs=1e-12)
    bad = await api.get(f"/sweeps/{id}/trials", params={"sort": "nothing"})
    assert problems(bad).keys() == {"sort"}
    assert (await api.get(f"/sweeps/{best['id']}")).status_code == 404
    assert (await api.post(f"/sweeps/{id}/resume")).status_code == 409
    assert (await api.post(f"/runs/{id}/rerun")).status_code == 409
    assert (await api.delete(f"/runs/{id}")).status_code == 204 and (await api.get(f"/sweeps/{id}")).status_code == 404


@pytest.mark.parametrize(("changes", "field"), [
    ({"base": AAPL | {"source": "csv", "source_path": "/etc"}}, "base.source"),
    ({"base": AAPL | {"source_path": "/etc"}}, "base.source_path"),
    ({"base": AAPL | {"fill_options": {"csv_root": "/"}}}, "base.fill_options.csv_root"),
    ({"base": AAPL | {"strategy": "nope"}}, "base.strategy"),
    ({"base": AAPL | {"markets": ["demo:NONE/USD"]}}, "base.markets.0"),
    ({"base": AAPL | {"start": "2012-01-01", "end": "2011-01-01"}}, "base.end"),
    ({"parameters": {}}, "parameters"),
    ({"parameters": {"nope": [1]}}, "parameters.nope"),
    ({"parameters": {"fast": []}}, "parameters.fast"),
    ({"parameters": {"fast": {"low": 9, "high": 1}}}, "parameters.fast"),
    ({"parameters": {"fast": {"low": 0, "high": 1e18, "step": 1e-9}}}, "parameters.fast"),
    ({"parameters": {f"p{n}": list(range(100)) for n in range(20)}}, "parameters"),
    ({"parameters": {"fast": list(range(1, 1001)), "slow": list(range(1001, 2001))}}, "parameters"),
    ({"max_trials": 10**9}, "max_trials"),
    ({"max_trials": 0}, "max_trials"),
    ({"objective": "luck"}, "objective"),
    ({"direction": "sideways"}, "direction"),
    ({"method": "psychic"}, "method"),
    ({"validation": {"mode": "walk_forward", "windows": 10**9}}, "validation.windows"),
    ({"validation": {"mode": "holdout", "fraction": 1.5}}, "validation.fraction"),
    ({"concurrency": 10**6}, "concurrency"),
])
async def test_sweeps_that_cannot_work_are_refused(api: httpx.AsyncClient, changes: dict[str, Any],
                                                   field: str) -> None:
    found = problems(await api.post("/sweeps", json=SWEEP | changes))
    assert field in found, found


async def test_a_sweep_is_cancelled_and_resumed(api: httpx.AsyncClient) -> None:
    wide = SWEEP | {"parameters": {"fast": list(range(2, 52)), "slow": {"low": 60, "high": 99, "step": 1}}}
    id = (await api.post("/sweeps", json=wide)).json()["id"]

    async def begun() -> dict[str, Any] | None:
        found = (await api.get(f"/sweeps/{id}")).json()
        return found if found["trials"]["completed"] else None

    found = await until(begun, 60)
    assert 0 <= found["trials"]["running"] <= 1, "one worker computes one trial at a time"
    answer = await api.post(f"/sweeps/{id}/cancel")
    assert answer.status_code == 200 and answer.json()["state"] == "cancelled"
    kept = (await api.get(f"/sweeps/{id}")).json()["trials"]
    assert 0 < kept["completed"] < kept["total"] == 2000 and kept["running"] == 0
    assert (await api.post(f"/sweeps/{id}/resume")).json()["state"] == "queued"
    assert (await ended(api, id))["state"] == "completed"
    assert (await api.get(f"/sweeps/{id}")).json()["trials"]["completed"] == 2000
