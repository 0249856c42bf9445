"""Reporting over real HTTP and WebSockets: NDJSON, errors by line, idempotency, gzip, acks after the commit."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness import running_server, until

pytestmark = pytest.mark.anyio
API = "/workbench/api"
TOKEN = "a-secret-token-of-the-tests"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with running_server(tmp_path_factory.mktemp("server"), token=TOKEN, rate_limit=0) as running:
        yield running


@pytest.fixture(scope="module")
async def api(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url + API, headers={"Authorization": f"Bearer {TOKEN}"},
                                 timeout=60) as client:
        yield client


def lines(*entries: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def log(line: str, **more: Any) -> dict[str, Any]:
    return {"kind": "log", "line": line, **more}


def order(id: str, **more: Any) -> dict[str, Any]:
    return {"kind": "order", "id": id, "symbol": "BTC-USD", "side": "buy", "size": 1.5, **more}


async def lines_of(api: httpx.AsyncClient, model: str) -> list[str]:
    answer = await api.get(f"/models/{model}/logs", params={"limit": 1000})
    return [each["line"] for each in answer.json()["items"]] if answer.status_code == 200 else []


async def test_mixed_kinds_are_kept_in_one_request(api: httpx.AsyncClient) -> None:
    answer = await api.post("/events?model=mixed", content=lines(
        {"kind": "lifecycle", "message": "up", "running": True}, order("o1"), log("hello", type="info"),
        {"kind": "order-change", "id": "o1", "changes": {"status": "done", "price": 99}},
        {"kind": "annotation", "id": "o1", "annotation": "because"}, {"kind": "symbol", "symbol": "BTC-USD"},
        {"kind": "call", "type": "get", "args": {"a": 1}, "response": [1]}, {"kind": "exchange", "exchange": "kraken"},
        {"kind": "metrics", "metrics": {"edge": {"value": 0.3}}}, {"kind": "auto-pnl", "enabled": False},
        {"kind": "pnl", "values": [{"time": "2026-01-01", "value": 5}]}, {"kind": "screener", "result": {"x": 1}},
        log("elsewhere", model="other")))
    assert (answer.status_code, answer.json()) == (200, {"accepted": 13, "errors": []})
    model = (await api.get("/models/mixed")).json()
    assert (model["running"], model["message"], model["auto_pnl"], model["orders"]) == (True, "up", False, 1)
    kept = (await api.get("/models/mixed/orders/o1")).json()
    assert (kept["status"], kept["price"], kept["annotation"]) == ("done", 99, "because")
    assert await lines_of(api, "other") == ["elsewhere"]


@pytest.mark.parametrize("body", [
    json.dumps(log("x")).encode(), json.dumps([log("x")]).encode(), b" \n\n" + lines(log("x")) + b"\n  \n",
    json.dumps(log("x")).encode() + b"\r\n",
], ids=["object", "array", "blank-lines", "windows"])
async def test_forms_of_a_body(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/events", params={"model": "forms"}, content=body)
    assert answer.status_code == 200 and answer.json()["accepted"] == 1
    assert answer.json()["seq"] == len(await lines_of(api, "forms"))


async def test_a_compressed_body(api: httpx.AsyncClient) -> None:
    body = gzip.compress(lines(*(log(f"line {number}") for number in range(1000))))
    answer = await api.post("/events?model=packed", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.json() == {"accepted": 1000, "errors": []}
    assert await lines_of(api, "packed") == [f"line {number}" for number in range(1000)]


@pytest.mark.parametrize(("body", "coding", "status"), [
    (b"nonsense", "gzip", 400), (gzip.compress(b"{}")[:-4], "gzip", 400), (b"{}", "br", 415),
    (gzip.compress(b" " * 70 * 2**20), "gzip", 413),
], ids=["no-gzip", "cut-short", "another-coding", "bomb"])
async def test_bodies_that_cannot_be_unpacked(api: httpx.AsyncClient, body: bytes, coding: str, status: int) -> None:
    answer = await api.post("/events?model=bad", content=body, headers={"Content-Encoding": coding})
    assert answer.status_code == status and answer.json()["error"]["problems"][0]["remedy"]


BAD = lines(log("good 1"), order("o1", size=-1), log("good 2"), {"kind": "lgo"}) + b"\nnot json\n" + lines(
    {"kind": "log"}, log("x", colour="red"), {"kind": "order-change", "id": "nowhere", "changes": {"price": 1}})
WRONG = {2: "size", 4: "kind", 6: "", 7: "line", 8: "colour", 9: "id"}


async def test_the_good_lines_are_kept_and_the_others_explained(api: httpx.AsyncClient) -> None:
    answer = await api.post("/events?model=partly&atomic=false", content=BAD)
    told = answer.json()
    assert (answer.status_code, told["accepted"]) == (200, 2)
    assert {each["line"]: each["field"] for each in told["errors"]} == WRONG
    assert all(each["error"] for each in told["errors"])
    assert await lines_of(api, "partly") == ["good 1", "good 2"]


@pytest.mark.parametrize(("body", "wrong"), [
    (BAD, {4: "kind", 6: "", 7: "line", 8: "colour"}), (lines(log("good"), order("o1", size=-1)), {2: "size"}),
    (lines(order("o1", funds=3.0)), {1: "funds"}), (json.dumps([log("good"), log("x", at="soon")]).encode(), {2: "at"}),
], ids=["unreadable", "senseless", "alone", "array"])
async def test_all_or_nothing(api: httpx.AsyncClient, body: bytes, wrong: dict[int, str]) -> None:
    answer = await api.post("/events?model=nothing", content=body)
    told = answer.json()
    assert (answer.status_code, told["accepted"]) == (422, 0)
    assert {each["line"]: each["field"] for each in told["errors"]} == wrong
    assert [each["field"] for each in told["error"]["problems"]] == [f"[{line}].{field}".rstrip(".")
                                                                    for line, field in wrong.items()]
    assert (await api.get("/models/nothing")).status_code == 404


async def test_no_line_that_is_good_is_an_error(api: httpx.AsyncClient) -> None:
    answer = await api.post("/events?model=nothing&atomic=false", content=lines(order("o1", size=-1)))
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "size"


@pytest.mark.parametrize("body", [b"", b"\n \n", b"[1,", b"[]"], ids=["empty", "blank", "cut-short", "no-entries"])
async def test_bodies_without_entries(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/events?model=nothing", content=body)
    assert (answer.status_code, answer.json().get("accepted")) in [(400, None), (200, 0)]


async def test_an_entry_needs_a_model(api: httpx.AsyncClient) -> None:
    answer = await api.post("/events", content=lines(log("whose?")))
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "model"
    answer = await api.post("/events", content=lines(log("mine")), headers={"X-Model": "by-header"})
    assert answer.status_code == 200 and await lines_of(api, "by-header") == ["mine"]


async def test_a_repeated_request_is_answered_as_before_and_kept_once(api: httpx.AsyncClient) -> None:
    body, headers = lines(log("once"), order("o1", size=-1), log("twice")), {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(api.post("/events?model=again&atomic=false", content=body, headers=headers)
                                     for _ in range(5)))
    assert {answer.text for answer in answers} == {answers[0].text} and answers[0].json()["accepted"] == 2
    assert await lines_of(api, "again") == ["once", "twice"]
    other = await api.post("/events?model=again", content=lines(log("other")), headers=headers)
    assert other.status_code == 409 and other.json()["error"]["problems"][0]["field"] == "Idempotency-Key"


async def test_a_bound_key_reports_for_its_model_alone(server: Any, api: httpx.AsyncClient) -> None:
    await api.post("/models", json={"name": "Bound", "id": "bound"})
    key = (await api.post("/models/bound/keys")).json()
    async with httpx.AsyncClient(base_url=server.url + API, headers={"X-API-Key": key["token"]}) as bot:
        assert (await bot.post("/events", content=lines(log("mine")))).json()["accepted"] == 1
        refused = await bot.post("/events?atomic=false", content=lines(log("theirs", model="mixed"), log("mine too")))
        assert refused.json()["accepted"] == 1 and refused.json()["errors"][0]["field"] == "model"
        assert (await bot.post("/events?model=unknown", content=lines(log("x")))).status_code in (403, 404)
        assert (await bot.get("/models")).status_code == 403
    assert await lines_of(api, "bound") == ["mine", "mine too"]


async def test_reading_does_not_allow_reporting(server: Any) -> None:
    _, text = await server.services.users.create("reader", ["read"])
    async with httpx.AsyncClient(base_url=server.url + API, headers={"X-API-Key": text}) as reader:
        assert (await reader.post("/events?model=m", content=lines(log("x")))).status_code == 403
    async with httpx.AsyncClient(base_url=server.url + API) as nobody:
        assert (await nobody.post("/events?model=m", content=lines(log("x")))).status_code == 401


async def test_large_batches_keep_their_order_and_the_server_answers_meanwhile(api: httpx.AsyncClient) -> None:
    count = 40_000
    body = b"".join(b'{"kind":"log","line":"%d"}\n' % number for number in range(count))
    work = asyncio.ensure_future(api.post("/events?model=large", content=body))
    slowest = 0.0  # seconds that the loop computed before it answered
    while not work.done():
        began = time.thread_time()
        await api.get("/me")
        slowest = max(slowest, time.thread_time() - began)
    assert work.result().json()["accepted"] == count
    page = (await api.get("/models/large/logs?tail=2")).json()
    assert [each["line"] for each in page["items"]] == ["39998", "39999"] and page["last"] == count
    assert slowest < 1.0


# -- the socket


def ingest(server: Any, query: str = "", **more: Any) -> Any:
    url = server.url.replace("http", "ws") + f"{API}/ingest?{query}"
    return connect(url, additional_headers={"Authorization": f"Bearer {more.pop('token', TOKEN)}"}, **more)


async def said(socket: Any) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 60))


def message(seq: int, *entries: dict[str, Any], **more: Any) -> str:
    return json.dumps({"seq": seq, "entries": entries, **more})


async def test_messages_are_acknowledged_in_order_after_their_commit(server: Any, api: httpx.AsyncClient) -> None:
    async with ingest(server, "model=socket") as socket:
        for seq in range(1, 301):
            entries = [log(f"{seq}.{number}") for number in range(200 if seq % 50 == 0 else 1)]
            await socket.send(message(seq, *entries))
        answers = [await said(socket) for _ in range(300)]
    assert [answer["ack"] for answer in answers] == list(range(1, 301))
    assert sum(answer["accepted"] for answer in answers) == 294 + 6 * 200
    found, after = [], 0
    while after is not None:
        page = (await api.get("/models/socket/logs", params={"limit": 1000, "after": after})).json()
        found += [each["line"] for each in page["items"]]
        after = page["next"]
    assert found == [f"{seq}.{number}" for seq in range(1, 301) for number in range(200 if seq % 50 == 0 else 1)]


async def test_a_message_sent_again_is_kept_once(server: Any, api: httpx.AsyncClient) -> None:
    for _ in range(2):
        async with ingest(server, "model=resent&session=desk") as socket:
            await socket.send(message(1, log("once")))
            assert await said(socket) == {"ack": 1, "accepted": 1, "errors": []}
    assert await lines_of(api, "resent") == ["once"]
    async with ingest(server, "model=resent&session=desk") as socket:
        await socket.send(message(1, log("another under the same number")))
        answer = await said(socket)
    assert (answer["nack"], answer["again"], answer["error"]["code"]) == (1, False, "conflict")


async def test_what_is_wrong_is_told_and_the_socket_goes_on(server: Any, api: httpx.AsyncClient) -> None:
    async with ingest(server, "model=wrong") as socket:
        await socket.send("nonsense")
        assert (await said(socket))["nack"] is None
        await socket.send(message(1, log("good"), order("o1", size=-1)))
        answer = await said(socket)
        assert (answer["nack"], answer["again"]) == (1, False)
        assert answer["error"]["problems"][0]["field"] == "[2].size"
        await socket.send(message(2, log("good"), order("o1", size=-1), {"kind": "what"}, atomic=False))
        answer = await said(socket)
        assert (answer["ack"], answer["accepted"]) == (2, 1)
        assert [(each["line"], each["field"]) for each in answer["errors"]] == [(2, "size"), (3, "kind")]
        await socket.send(json.dumps({"seq": 3, "entries": {}}))
        assert (await said(socket))["nack"] == 3
        await socket.send(message(4, log("at last")))
        assert (await said(socket))["ack"] == 4
    assert await lines_of(api, "wrong") == ["good", "at last"]


async def test_a_client_that_reads_nothing_is_held_back_and_loses_nothing(server: Any, api: httpx.AsyncClient) -> None:
    """Its messages wait in its own socket once the server has enough of them."""
    async with ingest(server, "model=held", max_queue=4) as socket:
        for seq in range(2000):
            await asyncio.wait_for(socket.send(message(seq, log("x" * 500))), 60)
        assert [(await said(socket))["ack"] for _ in range(2000)] == list(range(2000))
    assert (await api.get("/models/held/logs?tail=1")).json()["last"] == 2000


async def test_foreign_pages_and_bad_tokens_are_turned_away(server: Any) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with ingest(server, origin="https://evil.example"):
            pass
    assert caught.value.response.status_code == 403
    async with ingest(server, token="wrong-token") as socket:
        with pytest.raises(ConnectionClosed):
            await said(socket)
    assert socket.close_code == 1008


async def test_a_revoked_token_ends_the_socket(server: Any) -> None:
    token, text = await server.services.users.create("short-lived", ["ingest"])
    async with ingest(server, "model=revoked", token=text) as socket:
        await socket.send(message(1, log("while it lasts")))
        assert (await said(socket))["ack"] == 1
        await server.services.users.revoke(token.id)
        await socket.send(message(2, log("too late")))
        with pytest.raises(ConnectionClosed):
            await said(socket)
    assert socket.close_code == 1008
    await until(lambda: not server.context.streams)
