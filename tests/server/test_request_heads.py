"""Heads of requests: what is taken apart here is what Tornado would have read, and the rest is left to it."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPInputError

from server.request_heads import read_head
from tests.harness import running_server

PIECES = st.sampled_from([
    "Host", "host", "X-Trace-ID", "content-length", "Set-Cookie", ":", ": ", " :", "\t", " ", "a", "value 1", "é",
    "\x00", "\x7f", "\r\n", "\n", "\r", ",", "", "Content-Type: text/plain\r\n", "Accept:\r\n", "x:  padded \t \r\n"])


def of_tornado(data: bytes) -> tuple[str, HTTPHeaders]:
    return HTTP1Connection._parse_headers(None, data)  # type: ignore[arg-type]


def outcome(read: object, data: bytes) -> object:
    try:
        first, headers = read(data)  # type: ignore[operator]
    except HTTPInputError as error:
        return str(error)
    return first, list(headers.get_all()), dict(headers)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["GET / HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\r\n",
                                                                    "GET / HTTP/1.1\n", "nonsense\r\n", ""]))
@example("Host: a\r\nhost: b\r\n", "GET / HTTP/1.1\r\n")
@example("Host : a\r\n", "GET / HTTP/1.1\r\n")
@example("Host: a\r\n folded\r\n", "GET / HTTP/1.1\r\n")
@example("", "GET / HTTP/1.1\r\n")
def test_a_head_is_read_as_tornado_reads_it(fields: str, first: str) -> None:
    data = (first + fields + "\r\n").encode("latin-1")
    assert outcome(read_head, data) == outcome(of_tornado, data)


def test_fields_can_be_changed_and_added_as_ever() -> None:
    _, headers = read_head(b"GET / HTTP/1.1\r\nhost: a\r\nX-One: 1\r\n\r\n")
    headers.add("x-one", "2")
    headers["Host"] = "b"
    assert (headers["X-ONE"], headers.get_list("x-one"), headers["host"]) == ("1,2", ["1", "2"], "b")
    del headers["x-one"]
    assert "X-One" not in headers and headers.copy() == headers


@pytest.mark.anyio
@pytest.mark.parametrize("line", [b"Host : x", b" folded", b"no colon", b"X: \x00", b"Content-Length: 1, 2",
                                  b"X\xe9: 1"])
async def test_heads_that_are_none_are_refused(tmp_path: Path, line: bytes) -> None:
    async with running_server(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + line + b"\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 400")
        assert not (await asyncio.wait_for(reader.read(), 60)).strip()
        writer.close()
