"""Bodies as Blankly's clients make them: whatever the form, the same fields."""

import io
import json
import time
import urllib.parse
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from engine import times
from engine.errors import Invalid
from server.dialects.blankly_body import Fields, parse
from server.dialects.blankly_dates import instant_of
from server.dialects.blankly_words import ENTRIES
from server.dialects.failures import Malformed

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
NAMES = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters='"\\\x7f'), min_size=1, max_size=20)
FORM = "application/x-www-form-urlencoded"


def sent(**how: Any) -> tuple[str, bytes]:
    """The content type and the body that `requests`, which the kits use, would send."""
    request = requests.Request("POST", "http://localhost/", **how).prepare()
    body: Any = request.body or b""
    return str(request.headers.get("Content-Type", "")), body if isinstance(body, bytes) else body.encode()


@given(st.dictionaries(NAMES, TEXT, min_size=1, max_size=8))
def test_a_form_is_read_back(fields: dict[str, str]) -> None:
    assert parse(*sent(data=fields)) == fields


@given(st.dictionaries(NAMES, st.lists(TEXT, min_size=2, max_size=4), min_size=1, max_size=4))
def test_repeated_fields_become_lists(fields: dict[str, list[str]]) -> None:
    assert parse(*sent(data=fields)) == fields


@given(st.dictionaries(NAMES, st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | TEXT,
                                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
                                           max_leaves=8), min_size=1, max_size=5))
def test_json_is_read_back(fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    for kind in ("application/json", "application/json; charset=utf-8", "", "text/plain"):
        assert parse(kind, body) == fields


POINTS = st.lists(st.fixed_dictionaries({"time": st.floats(1e9, 2e9), "value": st.floats(0, 1e6)}), min_size=1,
                  max_size=5)


@given(st.dictionaries(st.text("abcdefghij_", min_size=1, max_size=8), TEXT, max_size=4), POINTS)
def test_multipart_with_json_files_is_read_back(fields: dict[str, str], points: list[dict[str, float]]) -> None:
    fields.pop("account_values", None)
    file = io.BytesIO(json.dumps({"account_values": points}, indent=2).encode())
    kind, body = sent(data=fields, files={"account_values": ("tmp1", file)})
    # A form part's line ends are those of the text: only the one before the boundary belongs to the boundary.
    assert parse(kind, body) == {**fields, "account_values": points}


@given(st.binary(max_size=200), st.sampled_from(
    ["application/json", FORM, "", "multipart/form-data; boundary=x", "multipart/form-data", "é; x=y"]))
def test_anything_is_read_or_refused(body: bytes, kind: str) -> None:
    try:
        assert isinstance(parse(kind, body), dict)
    except Malformed as error:
        assert error.message and error.remedy


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_broken_multipart_is_read_or_refused(head: bytes, content: bytes) -> None:
    body = b"--x\r\n" + head + b'\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + content + b"\r\n--x--\r\n"
    try:
        assert isinstance(parse("multipart/form-data; boundary=x", body), dict)
    except Malformed as error:
        assert error.message and error.remedy


@given(st.dictionaries(st.sampled_from([
    "symbol", "id", "side", "size", "funds", "price", "active", "type", "line", "args", "response", "values", "metrics",
    "enabled", "result", "annotation", "startAt", "start_at", "running", "message", "exchange", "status", "time",
    "executed_time", "extra", "model", "at"]), st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers(-2**63, 2**64 - 1) | TEXT,  # larger: floats
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5)),
    st.sampled_from(sorted(ENTRIES)))
def test_any_fields_make_an_entry_or_name_what_is_wrong(fields: dict[str, Any], path: str) -> None:
    try:
        ENTRIES[path](Fields(fields), {"model": "m", "at": None, "run": ""})
    except Invalid as error:
        assert error.problems[0].field and error.problems[0].message


def test_two_forms_that_name_a_list() -> None:
    assert Fields(parse(*sent(data={"symbols": ["BTC-USD"]}))).several("symbols") == ["BTC-USD"]
    assert Fields(parse(*sent(data={"symbols": ["A", "B"]}))).several("symbols") == ["A", "B"]
    assert Fields({"symbols": '["A", "B"]'}).several("symbols") == ["A", "B"]
    assert Fields({}).several("symbols") == []
    assert parse(*sent(data={"args": {"symbol": 1, "testing": 2}})) == {"args": ["symbol", "testing"]}


@pytest.mark.parametrize(("kind", "body"), [
    ("application/json", b"{"), ("application/json", b"[1]"), ("application/json", b'"x"'),
    ("application/json", b'{"a": NaN'), (FORM, b"a=%ff%fe"), (FORM, b"&".join([b"a=1"] * 10_001)),
    ("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"--x\r\nno end"),
    ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--"),
    ("multipart/form-data; boundary=x",
     b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n{\r\n--x--'),
], ids=["json", "list", "text", "nan and no end", "not utf-8", "too many",
         "no boundary", "no end", "no name", "file not json"])
def test_what_cannot_be_read_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(Malformed):
        parse(kind, body)


@pytest.mark.parametrize("text", [
    b'{"a": NaN, "b": [1, -Infinity, Infinity], "c": "NaN \\" Infinity", "NaN": 2}',
    b'\xef\xbb\xbf{"a": null, "b": [1, null, null], "c": "NaN \\" Infinity", "NaN": 2}'])
def test_numbers_that_are_none_and_a_byte_order_mark(text: bytes) -> None:
    """As Python's json and NumPy write them, and as .NET does."""
    expected = {"a": None, "b": [1, None, None], "c": 'NaN " Infinity', "NaN": 2}
    assert parse("application/json", text) == expected
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n[NaN, 1]\r\n--x--'
    assert parse("multipart/form-data; boundary=x", part) == {"a": [None, 1]}


@pytest.mark.parametrize("body", [b'{"a":NaN,"' + b'\\"' * 500_000, b'{"a":NaN,"' + b'\\"' * 500_000 + b"\\"])
def test_strings_without_end_take_no_long_time(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(Malformed):
        parse("application/json", body)
    assert time.process_time() - began < 5


def test_json_that_says_it_is_a_form() -> None:
    assert parse(FORM, b' {"line": "as curl -d sends it"}') == {"line": "as curl -d sends it"}


@pytest.mark.parametrize(("text", "expected"), [
    ("1644682832.742", "2022-02-12T16:20:32.742000Z"), ("1644682832742", "2022-02-12T16:20:32.742000Z"),
    ("1644682832742000", "2022-02-12T16:20:32.742000Z"), ("1644682832742000000", "2022-02-12T16:20:32.742000Z"),
    ("1.644682832742e9", "2022-02-12T16:20:32.742000Z"), ("0", "1970-01-01T00:00:00.000000Z"),
    ("2022-02-12T16:20:32.742Z", "2022-02-12T16:20:32.742000Z"), ("2022-02-12", "2022-02-12T00:00:00.000000Z"),
    ("Sat, 12 Feb 2022 16:20:32 GMT", "2022-02-12T16:20:32.000000Z"),
    ("Sat Feb 12 2022 17:20:32 GMT+0100 (Central European Standard Time)", "2022-02-12T16:20:32.000000Z"),
    ("Feb 12, 2022 16:20:32", "2022-02-12T16:20:32.000000Z"), ("2/12/2022", "2022-02-12T00:00:00.000000Z"),
    ("12 February 2022", "2022-02-12T00:00:00.000000Z"), ("undefined", None),
    ("2022-02", "2022-02-01T00:00:00.000000Z"),
    ("2/12/2022, 4:20:32 PM", "2022-02-12T16:20:32.000000Z"), ("Feb 12, 2022 12:20 AM", "2022-02-12T00:20:00.000000Z"),
    ("Feb 12, 2022, 4:20:32.5 p.m.", "2022-02-12T16:20:32.500000Z"),
    ("Sat Feb 12 16:20:32 2022", "2022-02-12T16:20:32.000000Z"),
    ("Sat Feb 12 16:20:32 UTC 2022", "2022-02-12T16:20:32.000000Z"),
    ("Saturday, 12-Feb-22 16:20:32 GMT", "2022-02-12T16:20:32.000000Z"),
    ("12 Feb 2022 11:20:32 EST", "2022-02-12T16:20:32.000000Z"),
    ("Sat, 12 Feb 2022 17:50:32 +0130", "2022-02-12T16:20:32.000000Z"),
    ("2022-02-12 15:20:32.742 -0100", "2022-02-12T16:20:32.742000Z"),
    ("2022/02/12 16:20", "2022-02-12T16:20:00.000000Z"), ("2022-02-12T16:20:32 GMT", "2022-02-12T16:20:32.000000Z"),
])
def test_times_in_every_accepted_form(text: str, expected: str | None) -> None:
    found = instant_of(text)
    assert (None if found is None else times.iso(times.parse(found))) == expected


@pytest.mark.parametrize("text", [
    "soon", "16:20", "Feb 30, 2022", "25:00 Feb 12 2022", "13:00 PM Feb 12 2022", "12 Feb 2022 16:20:32 XYZ",
    "12.02.2022", "9999-01-01", "Dec 31, 9999 23:59:59 PST", "NaN", "1e300", "12-02-20222"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not a time"):
        instant_of(text)


@given(TEXT)
def test_any_time_is_read_or_refused(text: str) -> None:
    try:
        found = instant_of(text)
    except Invalid as error:
        assert error.field == "time"
    else:
        assert found is None or times.parse(found)


@pytest.mark.parametrize(("text", "expected"), [
    ("True", True), ("true", True), ("1", True), (1, True), (1.0, None), ("False", False), ("0", False), (0, False),
    (False, False), ("null", None), ("", None), (None, None)])
def test_switches_in_every_accepted_form(text: Any, expected: bool | None) -> None:
    if text == 1.0 and isinstance(text, float):
        with pytest.raises(Invalid):
            Fields({"x": text}).switch("x")
    else:
        assert Fields({"x": text}).switch("x") is expected


def test_the_samples_above_are_what_requests_sends() -> None:
    assert sent(data={"running": True, "size": 8.3, "none": None}) == (FORM, b"running=True&size=8.3")
    assert urllib.parse.parse_qs(sent(data={"symbols": ["A", "B"]})[1].decode()) == {"symbols": ["A", "B"]}
