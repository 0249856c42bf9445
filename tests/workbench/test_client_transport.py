"""Requests over a real socket: what is tried again, what is not, and what errors become."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from engine.errors import Busy, Conflict, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable, WorkbenchError
from workbench.client import AsyncClient
from workbench.transport import Transport, error_of


class Scripted(RequestHandler):
    """Answers from a list; remembers what came."""

    def initialize(self, answers: list, seen: list) -> None:
        self.answers, self.seen = answers, seen

    def _answer(self) -> None:
        self.seen.append((self.request.method, dict(self.request.headers)))
        status, headers, body = self.answers.pop(0) if self.answers else (200, {}, {"fine": True})
        if status == 0:
            self.request.connection.stream.close()  # as a server that dies
            self._auto_finish = False
            return
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.finish(body)

    get = post = delete = _answer


@asynccontextmanager
async def scripted(answers: list) -> AsyncIterator[tuple[str, list]]:
    seen: list = []
    http = HTTPServer(Application([(".*", Scripted, {"answers": answers, "seen": seen})]))
    sockets = bind_sockets(0, "127.0.0.1")
    http.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}", seen
    finally:
        http.stop()
        await http.close_all_connections()


def problem(code: str, *problems: dict) -> dict:
    return {"error": {"code": code, "message": "no", "problems": list(problems)}, "request_id": "r1"}


@pytest.mark.anyio
async def test_a_get_is_tried_again_after_503_429_and_a_lost_connection() -> None:
    answers = [(503, {"Retry-After": "0"}, {}), (429, {"Retry-After": "0"}, {}), (0, {}, {}), (200, {}, {"n": 1})]
    async with scripted(answers) as (url, seen):
        transport = Transport(url)
        assert await transport.json("GET", "/x") == {"n": 1}
        assert len(seen) == 4
        await transport.close()


@pytest.mark.anyio
async def test_a_post_without_a_key_is_sent_once_and_one_with_a_key_again() -> None:
    async with scripted([(503, {"Retry-After": "0"}, problem("unavailable")),
                         (503, {"Retry-After": "0"}, {}), (201, {}, {"n": 1})]) as (url, seen):
        transport = Transport(url)
        with pytest.raises(Unavailable):
            await transport.json("POST", "/x", json={})
        assert len(seen) == 1
        assert await transport.json("POST", "/x", json={}, headers={"Idempotency-Key": "k"}) == {"n": 1}
        assert [headers.get("Idempotency-Key") for _, headers in seen] == [None, "k", "k"]
        await transport.close()


@pytest.mark.anyio
async def test_it_gives_up_after_so_many_attempts_with_the_servers_word() -> None:
    async with scripted([(429, {"Retry-After": "0"}, problem("busy", {
            "field": "", "message": "too many requests", "remedy": "slow down"}))] * 3) as (url, seen):
        transport = Transport(url, attempts=3)
        with pytest.raises(Busy, match=r"too many requests \(slow down\)"):
            await transport.json("GET", "/x")
        assert len(seen) == 3
        await transport.close()


@pytest.mark.anyio
async def test_where_nothing_listens_the_error_says_what_to_start() -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    port = sockets[0].getsockname()[1]
    sockets[0].close()
    transport = Transport(f"http://127.0.0.1:{port}", attempts=1)
    with pytest.raises(Unavailable, match="workbench serve"):
        await transport.json("GET", "/x")
    await transport.close()


@pytest.mark.anyio
async def test_what_is_no_workbench_is_said_to_be_none() -> None:
    async with scripted([(200, {}, "<html>a router</html>")]) as (url, _):
        transport = Transport(url)
        with pytest.raises(Unavailable, match="not a workbench"):
            await transport.json("GET", "/x")
        await transport.close()


@pytest.mark.anyio
async def test_clients_that_share_connections_do_not_share_credentials_or_cookies() -> None:
    async with scripted([(200, {"Set-Cookie": "session=mine; Path=/"}, {})]) as (url, seen):
        async with AsyncClient(url, "first") as client:
            other = client.speaking_as({"Cookie": "session=other"})
            await client.me()
            await other.me()
            await client.me()
        assert [headers.get("Authorization") for _, headers in seen] == ["Bearer first", None, "Bearer first"]
        assert [headers.get("Cookie") for _, headers in seen] == [None, "session=other", None]


@pytest.mark.parametrize(("status", "code", "kind"), [
    (422, "invalid", Invalid), (400, "malformed", Invalid), (401, "unauthenticated", Unauthenticated),
    (403, "forbidden", Forbidden), (404, "not_found", NotFound), (409, "conflict", Conflict), (429, "busy", Busy),
    (503, "unavailable", Unavailable),
])
def test_each_status_becomes_its_exception(status: int, code: str, kind: type[WorkbenchError]) -> None:
    body = b'{"error": {"code": "%s", "message": "m", "problems": [{"field": "cash", "message": "is odd", ' \
           b'"remedy": "mend it"}]}}' % code.encode()
    error = error_of(status, body)
    assert type(error) is kind
    assert [(one.field, one.message, one.remedy) for one in error.problems] == [("cash", "is odd", "mend it")]


def test_an_answer_without_a_body_still_becomes_an_error() -> None:
    assert type(error_of(404, b"<html>")) is NotFound
    failed = error_of(500, b"", request_id="abc")
    assert type(failed) is WorkbenchError and "abc" in str(failed)


def test_all_problems_are_kept() -> None:
    body = (b'{"error": {"code": "invalid", "message": "m", "problems": '
            b'[{"field": "a", "message": "x"}, {"field": "b", "message": "y", "remedy": null}]}}')
    assert [one.field for one in error_of(422, body).problems] == ["a", "b"]
