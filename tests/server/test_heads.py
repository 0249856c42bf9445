"""The heads of answers: both ways of making one say the same."""

import pytest
from tornado.httputil import HTTPHeaders, parse_response_start_line

from server.dialects.heads import PROTECTION, Heads

POLICY = "default-src 'none'"


def parsed(head: bytes) -> tuple[str, HTTPHeaders]:
    first, _, rest = head.decode("latin-1").partition("\r\n")
    assert rest.endswith("\r\n") and "\n" not in head.decode("latin-1").replace("\r\n", "")
    return first, HTTPHeaders.parse(rest[:-2])


def test_the_text_of_a_head_holds_what_completing_the_headers_gives() -> None:
    heads = Heads()
    own = HTTPHeaders({"Content-Type": "application/json", "Content-Length": "2"})
    own.add("Set-Cookie", "a=1")
    own.add("Set-Cookie", "b=2")
    first, found = parsed(heads.text(201, "Created", own, POLICY))
    status = parse_response_start_line(first)
    assert (status.version, status.code, status.reason) == ("HTTP/1.1", 201, "Created")
    heads.complete(own, POLICY)
    assert sorted(found.get_all()) == sorted(own.get_all())
    assert found.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert {name: found[name] for name in PROTECTION} == PROTECTION
    assert found["Content-Security-Policy"] == POLICY


def test_what_a_handler_says_of_itself_stands_and_nothing_is_said_twice() -> None:
    heads = Heads()
    own = HTTPHeaders({"Cache-Control": "max-age=60", "Content-Security-Policy": "default-src 'self'"})
    _, found = parsed(heads.text(200, "OK", own, POLICY))
    assert found.get_list("Cache-Control") == ["max-age=60"]
    assert found.get_list("Content-Security-Policy") == ["default-src 'self'"]
    assert found["X-Content-Type-Options"] == "nosniff"
    heads.complete(own, POLICY)
    assert own.get_list("Cache-Control") == ["max-age=60"]
    _, other = parsed(heads.text(200, "OK", HTTPHeaders(), POLICY))
    assert other["Cache-Control"] == "no-store", "one answer's words are not the next one's"


@pytest.mark.parametrize("value", ["a\nX-Evil: 1", "a\rX-Evil: 1", "a\r\n\r\n<html>"], ids=["lf", "cr", "crlf"])
def test_a_header_cannot_break_out_of_the_head(value: str) -> None:
    headers = HTTPHeaders()
    headers._as_list["Location"] = [value]  # past Tornado's own check
    with pytest.raises(ValueError, match="line break"):
        Heads().text(302, "Found", headers, POLICY)


def test_the_date_follows_the_clock_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Heads()
    said = []
    for now in (1_700_000_000.2, 1_700_000_000.9, 1_700_000_001.0, 1_600_000_000.0):
        monkeypatch.setattr("server.dialects.heads.time.time", lambda now=now: now)
        said.append(heads.date)
    assert said == ["Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT",
                    "Sun, 13 Sep 2020 12:26:40 GMT"]
