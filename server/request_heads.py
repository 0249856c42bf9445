"""Heads of requests, read. Nearly all are plain: names, colons, printable ASCII, no name twice. These are checked as a
whole and taken apart; every other is left to Tornado, which checks each line and says what is wrong with it."""

import re
from typing import Final

from tornado.httputil import HTTPHeaders

__all__ = ["read_head"]

_PLAIN: Final = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[ -~]*\r\n)+\r\n")
_MOST_NAMES: Final = 1000
_NAMES: dict[str, str] = {}  # as they were written -> as HTTPHeaders has them


def read_head(data: bytes) -> tuple[str, HTTPHeaders]:
    """The first line of a head and its fields. Raises `tornado.httputil.HTTPInputError` for what is no head."""
    text = data.decode("latin-1")
    first, _, rest = text.partition("\r\n")
    if "\n" not in first and _PLAIN.fullmatch(rest):
        fields: dict[str, str] = {}
        lines = rest[:-4].split("\r\n")
        for line in lines:
            name, _, value = line.partition(":")
            fields[_NAMES.get(name) or _named(name)] = value.strip(" ")
        if len(fields) == len(lines):
            headers = HTTPHeaders()
            headers._combined_cache = fields
            headers._as_list = {name: [value] for name, value in fields.items()}
            return first, headers
    text = text.lstrip("\r\n")
    end = text.find("\n")
    return text[:end].rstrip("\r"), HTTPHeaders.parse(text[end:])


def _named(name: str) -> str:
    found = "-".join([part.capitalize() for part in name.split("-")])
    if len(_NAMES) < _MOST_NAMES:
        _NAMES[name] = found
    return found
