"""The shell over real sockets: what is let in, what is refused, and how it is said."""

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import Busy, Conflict, Forbidden, Invalid, NotFound, Problem, TooLarge, Unavailable
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Query, Route
from tests.harness import running_server

pytestmark = pytest.mark.anyio

ERRORS = {"invalid": Invalid, "forbidden": Forbidden, "missing": NotFound, "conflict": Conflict, "large": TooLarge,
          "busy": Busy, "away": Unavailable}


class EchoHandler(BaseHandler):
    async def post(self) -> None:
        self.write_json({"got": await self.read_json()})

    async def get(self) -> None:
        self.write_json({"query": self.query})


class SpoolHandler(BaseHandler):
    async def post(self) -> None:
        self.body_file.seek(0)
        self.write_json({"size": len(self.body_file.read()), "in_memory": len(self.body)})


class FailHandler(BaseHandler):
    async def get(self, kind: str) -> None:
        if kind == "bug":
            raise KeyError("a secret of the inside")
        if kind == "many":
            raise Invalid("two things", problems=[Problem("a", "is wrong", "fix it"), Problem("b", "too")])
        raise ERRORS[kind]("said so", field="x", remedy="do otherwise")


class LargeHandler(BaseHandler):
    async def get(self) -> None:
        await self.send_json({"numbers": list(range(100_000))})


class Probe:
    """A dialect only for these tests."""

    @staticmethod
    def routes(services: Any) -> list[Route]:
        answers = {200: Answer(doc="what came")}
        return [
            Route(methods="POST", path="/probe", handler=EchoHandler, auth="read", summary="echo", max_body=3_000_000),
            Route(methods="GET", path="/probe", handler=EchoHandler, auth="read", summary="echo", answers=answers,
                  query=(
                Query(name="limit", kind="integer", default=5, low=1, high=10),
                Query(name="share", kind="number"), Query(name="at", kind="time"), Query(name="flag", kind="switch"),
                Query(name="kind", kind="choice", choices=("a", "b")), Query(name="tags", many=True))),
            Route(methods="POST", path="/probe/spool", handler=SpoolHandler, auth=None, summary="spool",
                  max_body="upload", spool=True),
            Route(methods="GET", path="/probe/fail/{kind}", handler=FailHandler, auth=None, summary="fail"),
            Route(methods="GET", path="/probe/large", handler=LargeHandler, auth=None, summary="large"),
            Route(methods="PUT", path="/probe/admin", handler=EchoHandler, auth="admin", summary="admin only"),
        ]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    import server.app

    monkeypatch.setattr(server.app, "DIALECTS", (*server.app.DIALECTS, Probe))
    async with running_server(tmp_path, max_upload=6_000_000, idle_timeout=4.0) as running:
        yield running


@pytest.fixture
async def client(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.services.admin_token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


async def raw(server: Any, data: bytes, *, timeout: float = 60.0) -> bytes:
    """Send bytes as they are and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), timeout)
    finally:
        writer.close()


async def test_health_needs_no_token(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as anonymous:
        answer = await anonymous.get("/healthz")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "healthy" and body["database"] is True
    assert set(body["workers"]) == {"ready", "count", "reason"} and body["version"]
    assert bool(body["workers"]["reason"]) != body["workers"]["ready"]
    assert "X-RateLimit-Limit" not in answer.headers


async def test_health_is_degraded_when_the_database_is_away(server: Any, client: httpx.AsyncClient) -> None:
    await server.services.db.close()
    answer = await client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "degraded" and answer.json()["database"] is False
    await server.services.db.open()


async def test_every_answer_carries_the_protective_headers(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/workbench/api/me", "/nothing", "/probe/fail/bug", "/login", "/docs"):
        answer = await client.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize("name", ["abc-123", "A.b_c:d/e", "x" * 128])
async def test_a_sane_request_id_is_echoed_in_header_and_body(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get("/nothing", headers={"X-Request-ID": name})
    assert answer.headers["X-Request-ID"] == name == answer.json()["request_id"]


@pytest.mark.parametrize("name", ["", "a b", "<script>", "x" * 129, 'a"b', "é"])
async def test_an_odd_request_id_is_replaced(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get("/nothing", headers={"X-Request-ID": name.encode()})
    assert answer.headers["X-Request-ID"] not in ("", name)
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


async def test_unknown_paths_are_404_in_json_before_any_question_of_tokens(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.url) as anonymous:
        for path in ("/nothing", "/workbench/api/none", "/workbench/api/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
                     "//etc/passwd", "/workbench/api/tokens/%00/x"):
            answer = await anonymous.get(path)
            assert answer.status_code == 404, path
            assert answer.json()["error"]["code"] == "not_found"


async def test_a_path_that_is_not_text_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/workbench/api/tokens/%ff%fe")
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "malformed"


async def test_a_wrong_method_is_told_what_is_allowed(client: httpx.AsyncClient) -> None:
    answer = await client.patch("/probe", json={})
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert (await client.request("BREW", "/probe")).status_code == 405


async def test_head_and_options(client: httpx.AsyncClient) -> None:
    got, head = await client.get("/probe"), await client.head("/probe")
    assert head.status_code == 200 and head.content == b""
    assert head.headers["Content-Length"] == str(len(got.content))
    options = await client.options("/probe")
    assert options.status_code == 204 and options.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert "Access-Control-Allow-Origin" not in options.headers


@pytest.mark.parametrize(("kind", "status", "code"), [
    ("invalid", 422, "invalid"), ("forbidden", 403, "forbidden"), ("missing", 404, "not_found"),
    ("conflict", 409, "conflict"), ("large", 413, "too_large"), ("busy", 429, "busy"), ("away", 503, "unavailable"),
])
async def test_errors_become_statuses_with_field_and_remedy(client: httpx.AsyncClient, kind: str, status: int,
                                                            code: str) -> None:
    answer = await client.get(f"/probe/fail/{kind}")
    assert answer.status_code == status
    assert answer.json() == {"error": {"code": code, "message": "said so", "problems": [
        {"field": "x", "message": "said so", "remedy": "do otherwise"}]}, "request_id": answer.headers["X-Request-ID"]}
    assert ("Retry-After" in answer.headers) == (status in (429, 503))


async def test_all_problems_are_told_at_once(client: httpx.AsyncClient) -> None:
    problems = (await client.get("/probe/fail/many")).json()["error"]["problems"]
    assert [problem["field"] for problem in problems] == ["a", "b"]


async def test_a_bug_is_a_500_that_tells_nothing_but_is_logged(client: httpx.AsyncClient,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    answer = await client.get("/probe/fail/bug")
    assert answer.status_code == 500
    assert "secret" not in answer.text and "KeyError" not in answer.text
    assert answer.json()["error"]["code"] == "internal"
    record = next(record for record in caplog.records if record.getMessage() == "unexpected error")
    assert "a secret of the inside" in str(record.exc_info[1])
    assert record.facts["request_id"] == answer.json()["request_id"]


@pytest.mark.parametrize(("body", "hint"), [
    (b"{", "send valid JSON"), (b"", "send JSON"), (b'{"a": NaN}', "null"), (b"[Infinity]", "null"), (b"\xff\xfe", ""),
    (b"[" * 5000 + b"]" * 5000, ""), (b'{"a": 1e999}', ""), (b"{'a': 1}", ""), (b"[1,]", ""), (b"\x00", ""),
])
async def test_what_is_not_json_is_refused(client: httpx.AsyncClient, body: bytes, hint: str) -> None:
    answer = await client.post("/probe", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "malformed" and hint in error["problems"][0]["remedy"]


async def test_json_over_a_megabyte_is_read_too(client: httpx.AsyncClient) -> None:
    value = ["x" * 1000] * 1500
    assert (await client.post("/probe", json=value)).json()["got"] == value
    assert (await client.post("/probe", content=b"[" + b"1," * 700_000 + b"NaN]")).status_code == 400


async def test_a_long_body_is_refused_by_its_length_and_the_answer_arrives(client: httpx.AsyncClient) -> None:
    answer = await client.post("/probe", content=b"x" * 30_000_000)
    assert answer.status_code == 413
    assert answer.json()["error"]["problems"][0]["remedy"] == "send at most 3000000 bytes"


async def test_a_chunked_body_is_counted_as_it_comes(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 200_000_000:
            sent += 65536
            yield b"x" * 65536

    try:
        answer = await client.post("/probe", content=endless())
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"
    except (httpx.WriteError, httpx.ReadError):
        pytest.fail("the answer did not reach a client that was still sending")


async def test_a_length_larger_than_any_memory_is_refused(server: Any) -> None:
    head = f"POST /probe HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.services.admin_token}\r\n"
    answer = await raw(server, head.encode() + b"Content-Length: 999999999999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413") and b"too_large" in answer
    answer = await raw(server, head.encode() + b"Content-Length: 99999999999999999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")


async def test_uploads_are_spooled_and_may_be_larger(client: httpx.AsyncClient) -> None:
    answer = await client.post("/probe/spool", content=b"x" * 5_000_000)
    assert answer.json() == {"size": 5_000_000, "in_memory": 0}
    assert (await client.post("/probe/spool", content=b"x" * 6_000_001)).status_code == 413


async def test_an_upload_to_a_full_disk_is_told(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, **options: Any) -> None:
            pass

        def write(self, chunk: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr("server.dialects.base.tempfile.SpooledTemporaryFile", Full)
    for size in (10, 5_000_000):  # whole, and piece by piece
        answer = await client.post("/probe/spool", content=b"x" * size)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "No space left" in answer.json()["error"]["message"] and "Retry-After" in answer.headers


async def test_a_refused_body_leaves_the_connection_usable(server: Any, client: httpx.AsyncClient) -> None:
    for _ in range(3):
        answer = await client.post("/probe", content=b"{}" * 1000, headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401
    assert (await client.post("/probe", json=[1])).status_code == 200


async def test_a_refused_chunked_body_is_answered(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000

    answer = await client.post("/probe", content=chunks(), headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert (await client.post("/probe", json=[1])).status_code == 200


async def test_query_parameters_are_read_and_all_problems_named(client: httpx.AsyncClient) -> None:
    answer = await client.get("/probe?limit=7&share=0.5&at=2024-01-31&flag=yes&kind=b&tags=a,b&tags=c&other=1")
    assert answer.json()["query"] == {"limit": 7, "share": 0.5, "at": 1706659200000000, "flag": True, "kind": "b",
                                      "tags": ["a", "b", "c"]}
    assert (await client.get("/probe")).json()["query"]["limit"] == 5
    answer = await client.get("/probe?limit=11&share=nan&at=yesterday&flag=perhaps&kind=c&tags=%ff")
    assert answer.status_code == 422
    problems = {problem["field"]: problem["remedy"] for problem in answer.json()["error"]["problems"]}
    assert set(problems) == {"limit", "share", "at", "flag", "kind", "tags"}
    assert problems["limit"] == "use 1 to 10" and problems["kind"] == "choose one of a, b"


@pytest.mark.parametrize("text", ["1.5", "1e3", "--1", "", " ", "9" * 400, "٣", "0x10", "1_0"])
async def test_odd_whole_numbers(client: httpx.AsyncClient, text: str) -> None:
    answer = await client.get("/probe", params={"limit": text})
    assert answer.status_code == (200 if text == "" else 422)


async def test_large_answers_are_compressed_for_those_who_ask(client: httpx.AsyncClient) -> None:
    packed = await client.get("/probe/large", headers={"Accept-Encoding": "gzip"})
    plain = await client.get("/probe/large", headers={"Accept-Encoding": "identity"})
    refused = await client.get("/probe/large", headers={"Accept-Encoding": "gzip;q=0"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2
    assert "Content-Encoding" not in plain.headers and "Content-Encoding" not in refused.headers
    assert packed.json() == plain.json()
    assert "Accept-Encoding" in plain.headers["Vary"]


async def test_headers_cannot_be_injected(server: Any, client: httpx.AsyncClient) -> None:
    for path in ("/login?next=/%0d%0aSet-Cookie:x=1&token=", "/login?next=%0aX:1", "/a%0d%0aX-Evil:1"):
        answer = await client.get(path + (server.services.admin_token if path.endswith("token=") else ""))
        assert "x-evil" not in answer.headers and "x" not in answer.headers
        assert "x=1" not in answer.headers.get("Set-Cookie", "")
    answer = await raw(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\r\n b: c\r\n"
                               b"Connection: close\r\n\r\n")
    assert b"\r\nb: c" not in answer


@pytest.mark.parametrize("request_bytes", [
    b"GET /\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
    b"POST /probe HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /probe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /probe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
])
async def test_broken_requests_do_no_harm(server: Any, client: httpx.AsyncClient, request_bytes: bytes) -> None:
    answer = await raw(server, request_bytes)
    assert b" 500 " not in answer.partition(b"\r\n")[0] and b" 200 " not in answer.partition(b"\r\n")[0]
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc", b"G"])
async def test_a_connection_that_says_nothing_more_is_closed(server: Any, beginning: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(beginning)
    await writer.drain()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_client_that_leaves_in_the_middle_is_forgotten(server: Any, client: httpx.AsyncClient) -> None:
    from tests.harness import until

    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /probe/spool HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    await writer.drain()
    await until(lambda: server.context.in_flight)
    writer.transport.abort()
    await until(lambda: not server.context.in_flight)


async def test_foreign_host_names_are_refused_on_loopback(server: Any, client: httpx.AsyncClient) -> None:
    for name in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "10.0.0.1"):
        answer = await client.get("/healthz", headers={"Host": name})
        assert answer.status_code == 403, name
        assert answer.json()["error"]["problems"][0]["field"] == "Host"
    for name in ("localhost", f"127.0.0.1:{server.port}", "[::1]:80", "sub.localhost:8888", "LOCALHOST"):
        assert (await client.get("/healthz", headers={"Host": name})).status_code == 200, name


async def test_two_hosts_or_none_are_refused(server: Any) -> None:
    two = await raw(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n")
    none = await raw(server, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert two.split()[1] in (b"400", b"403") and none.split()[1] in (b"400", b"403")


async def test_metrics_count_what_was_answered(server: Any, client: httpx.AsyncClient) -> None:
    await client.get("/workbench/api/me")
    await client.get("/probe/fail/bug")
    events = server.services.events
    await server.services.db.write(lambda connection: [events.append(connection, "x", "y", {}) for _ in range(3)])
    text = (await client.get("/metrics")).text
    assert 'workbench_requests_total{method="GET",route="/workbench/api/me",status="200"} 1.0' in text
    assert "workbench_events_total 3.0" in text
    assert 'route="/probe/fail/{kind}",status="500"' in text
    for name in ("workbench_resident_bytes", "workbench_open_streams", "workbench_workers", "workbench_events_total",
                 "workbench_request_seconds_bucket"):
        assert name in text


async def test_pages_named_in_the_settings_may_read_answers(tmp_path: Path) -> None:
    async with running_server(tmp_path, origins=("https://desk.example",)) as server, \
            httpx.AsyncClient(base_url=server.url) as client:
        asked = {"Origin": "https://desk.example", "Access-Control-Request-Method": "POST"}
        answer = await client.options("/workbench/api/tokens", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "https://desk.example"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        refused = await client.get("/workbench/api/me", headers={"Origin": "https://desk.example"})
        assert refused.status_code == 401 and "Access-Control-Allow-Origin" in refused.headers
        foreign = await client.get("/healthz", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in foreign.headers and "Origin" in foreign.headers["Vary"]


async def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    from server.app import Server
    from server.config import Config

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server(Config(data_dir=tmp_path, port=taken.getsockname()[1]))
        with pytest.raises(Unavailable, match="choose another --port"):
            await server.start(compute=False)


async def test_json_answers_have_one_form(client: httpx.AsyncClient) -> None:
    answer = await client.get("/workbench/api/info")
    body = json.loads(answer.content)
    assert answer.headers["Content-Type"] == "application/json"
    assert body["limits"]["rate_limit"] == 6000 and body["database"] == "sqlite" and body["cores"] >= 1
