"""Bodies of Blankly's clients: JSON, forms and multipart, read into one shape.

What the kits put on the wire: numbers and booleans as text (`8.3`, `True`), a list of one as a plain text, a list of
several as a repeated field, an object as the names of its fields only, an empty one not at all; in a multipart body,
parts that are JSON files with one top key, the part's own name.
"""

import re
from collections.abc import Mapping
from email.message import Message
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from engine.errors import Invalid
from server.dialects.failures import Malformed

__all__ = ["Fields", "parse"]

MOST_FIELDS: Final = 10_000
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_NOTHING: Final = frozenset({"", "none", "null", "undefined", "nan"})
_DISPOSITION: Final = re.compile(rb'name="((?:[^"\\]|\\.)*)"|name=([^;\s"]+)')
_NO_NUMBER: Final = re.compile(rb'"(?s:[^"\\]|\\.?)*+(?:"|\Z)|-?\b(?:NaN|Infinity)\b')  # strings are passed over
_FILENAME: Final = re.compile(rb"filename\*?=", re.IGNORECASE)


def parse(content_type: str, body: bytes, most: int = MOST_FIELDS) -> dict[str, Any]:
    """The fields of a body, whatever its form; an empty one has none. Raises `Malformed`, also for more than `most`.

    The first letter tells JSON from a form where the content type does not, or says form, as curl's -d does.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _multipart(content_type, body)
    if kind.endswith("json") or body.lstrip()[:1] in (b"{", b"["):
        return _json(body)
    return _form(body, most)


def _loads(text: bytes) -> Any:
    """JSON; NaN and infinities, as Python and NumPy write them, are null. Raises `orjson.JSONDecodeError`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"NaN" not in text and b"Infinity" not in text:
            raise
        return orjson.loads(_NO_NUMBER.sub(lambda found: found[0] if found[0].startswith(b'"') else b"null", text))


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = _loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}", remedy="send a JSON object") from None
    if not isinstance(found, dict):
        raise Malformed("the body is not an object", remedy="send a JSON object with the fields of this route")
    return found


def _form(body: bytes, most: int) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=most, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise Malformed(f"the body is not a form: {error}", remedy="send UTF-8, and not too many fields") from None
    return _gathered(pairs)


def _gathered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Repeated fields become lists."""
    found: dict[str, Any] = {}
    repeated: set[str] = set()
    for name, value in pairs:
        if name not in found:
            found[name] = value
        elif name in repeated:
            found[name].append(value)
        else:
            repeated.add(name)
            found[name] = [found[name], value]
    return found


def _multipart(content_type: str, body: bytes) -> dict[str, Any]:
    message = Message()
    message["Content-Type"] = content_type.encode("ascii", "replace").decode()
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise Malformed("the body has no boundary", field="Content-Type", remedy="name the boundary in the header")
    mark = b"--" + boundary.encode("ascii", "replace")
    end = body.rfind(mark + b"--")
    if end < 0:
        raise Malformed("the body ends before its last part does", remedy="send it whole")
    pairs: list[tuple[str, Any]] = []
    for part in (b"\r\n" + body[:end]).split(b"\r\n" + mark)[1:]:
        if len(pairs) >= MOST_FIELDS:
            raise Malformed("the body has too many parts", remedy=f"send at most {MOST_FIELDS}")
        head, blank, content = part.partition(b"\r\n\r\n")
        disposition = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")),
                           b"")
        # `filename` would match as `name` if it came first.
        named = _DISPOSITION.search(re.sub(rb'filename\*?=("[^"]*"|[^;]*)', b"", disposition, flags=re.IGNORECASE))
        if not blank or named is None:
            raise Malformed("a part of the body has no name", remedy="send form-data with Content-Disposition")
        try:
            name = (named[1] if named[1] is not None else named[2]).decode("utf-8")
            content = content.removesuffix(b"\r\n")
            value = _file(name, content) if _FILENAME.search(disposition) else content.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("a part of the body is not UTF-8", remedy="send UTF-8") from None
        pairs.append((name, value))
    return _gathered(pairs)


def _file(name: str, content: bytes) -> Any:
    """A file part: JSON, often an object with one key, the part's name."""
    try:
        value = _loads(content)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"this file is not JSON: {error}", field=name, remedy="send a JSON file") from None
    return value[name] if isinstance(value, dict) and set(value) == {name} else value


class Fields:
    """The fields of one body, by name or alias; the first name stands in errors. Null counts as missing, except for
    `has`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def has(self, *names: str) -> bool:
        return any(name in self.values for name in names)

    def raw(self, *names: str) -> Any:
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def need(self, *names: str) -> Any:
        """The value. Raises `Invalid` naming the field when it is missing."""
        value = self.raw(*names)
        if value is None or (value == "" and names[0] != "line"):
            raise Invalid(f"Missing required argument: {names[0]}", field=names[0], remedy="send it")
        return value

    def text(self, *names: str, default: str | None = None) -> str | None:
        value = self.raw(*names)
        return default if value is None else text_of(value, names[0])

    def needed_text(self, *names: str) -> str:
        return text_of(self.need(*names), names[0])

    def number(self, *names: str) -> float | None:
        return number_of(self.raw(*names), names[0])

    def switch(self, *names: str) -> bool | None:
        """True or false, also as text or number; None when missing or null."""
        value = self.raw(*names)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in _NOTHING:
            return None
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise Invalid(f"{str(value)[:40]!r} is neither true nor false", field=names[0], remedy="send true or false")

    def instant(self, *names: str) -> Any:
        """A time as it came; None for a text that says there is none."""
        value = self.raw(*names)
        return None if isinstance(value, str) and value.strip().lower() in _NOTHING else value

    def free(self, *names: str) -> Any:
        """Anything: objects and lists, also as JSON text; other texts stay what they are."""
        value = self.raw(*names)
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                return _loads(value.encode())
            except orjson.JSONDecodeError:
                return value
        return value

    def several(self, *names: str) -> list[str]:
        """A list of texts; one text is a list of one."""
        value = self.free(*names)
        items = value if isinstance(value, list) else [] if value is None or value == "" else [value]
        return [text_of(item, names[0]) for item in items]


def text_of(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def number_of(value: Any, field: str) -> float | None:
    """A number, also as text; None for nothing. Raises `Invalid` naming the field."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or "_" in str(value):
            raise ValueError
        number = float(value)
        if number - number != 0:
            raise ValueError
    except (ValueError, OverflowError):
        raise Invalid(f"{str(value)[:40]!r} is not a number", field=field, remedy="send a number") from None
    return number
