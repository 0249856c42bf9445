"""Bodies of entries: NDJSON, a JSON array or one object become `engine.activity` entries, or say line by line what is
wrong with them."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import msgspec
from msgspec.structs import force_setattr

from engine.activity import AnyEntry, Entry
from engine.errors import Invalid, Problem, TooLarge, WorkbenchError
from server.dialects.failures import Malformed

__all__ = ["KINDS", "LineError", "Parsed", "inflate", "parse", "problems", "schema", "told"]

KINDS: Final[tuple[type[Entry], ...]] = get_args(AnyEntry)
_NAMES: Final = tuple(str(kind.__struct_config__.tag) for kind in KINDS)
_ONE: Final = msgspec.json.Decoder(AnyEntry)
_MANY: Final = msgspec.json.Decoder(list[AnyEntry])
_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]+)`")
_INDEX: Final = re.compile(r"^\[(\d+)\]\.?")
MOST_ERRORS: Final = 1000  # in one answer


@dataclass(frozen=True, kw_only=True, slots=True)
class LineError:
    """What is wrong with one line (1, 2, 3 …; of an array: its elements)."""

    line: int
    field: str
    error: str
    remedy: str


@dataclass(kw_only=True, slots=True)
class Parsed:
    """The entries that could be read, the line each stands on, and what is wrong with the others."""

    entries: list[Entry]
    lines: Sequence[int]
    errors: list[LineError] = field(default_factory=list)


def inflate(body: bytes, most: int) -> bytes:
    """The content of a gzip body. Raises `Malformed`, or `TooLarge` beyond `most` bytes."""
    stream = zlib.decompressobj(31)
    try:
        content = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise Malformed(f"the body is not gzip: {error}", remedy="leave out Content-Encoding, or compress") from None
    if len(content) > most:
        raise TooLarge("the unpacked body is too large", remedy=f"send at most {most} bytes")
    if not stream.eof or stream.unused_data:
        raise Malformed("the gzip body does not end where it should", remedy="send one whole gzip member")
    return content


def parse(body: bytes, model: str = "") -> Parsed:
    """The entries of a body; those that name no model are for `model`. Raises `Malformed` for what has no entries."""
    start = body.lstrip()[:1]
    if not start:
        raise Malformed("the body is empty", remedy="send one JSON object a line, each with its kind")
    try:
        entries: list[Entry] = list(_MANY.decode(body) if start == b"[" else _ONE.decode_lines(body))
        parsed = Parsed(entries=entries, lines=range(1, len(entries) + 1))
        if start != b"[" and len(entries) != body.count(b"\n") + (not body.endswith(b"\n")):  # some are blank
            parsed.lines = [number for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError):
        parsed = _one_by_one(body, start)
    if model:
        for entry in parsed.entries:
            if not entry.model:
                force_setattr(entry, "model", model)
    return parsed


def _one_by_one(body: bytes, start: bytes) -> Parsed:
    if start == b"[":
        try:
            pieces: list[Any] = list(_RAW.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Malformed(f"the body is not JSON: {error}", remedy="send valid JSON") from None
    else:
        pieces = body.split(b"\n")
    found = Parsed(entries=[], lines=[])
    numbers: list[int] = []
    for number, piece in enumerate(pieces, 1):
        if start != b"[" and not piece.strip():
            continue
        try:
            found.entries.append(_ONE.decode(piece))
            numbers.append(number)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            found.errors.append(_read(error, number))
    found.lines = numbers
    return found


def _read(error: Exception, line: int) -> LineError:
    """A decoding error in the words of the API."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return LineError(line=line, field="", error=f"this is not JSON: {text}", remedy="send one JSON object a line")
    where = _AT.search(text)
    field = where[1] if where else ""
    said = text[:where.start()] if where else text
    if missing := _MISSING.search(said):
        field = ".".join(filter(None, (field, missing[1])))
        known = "kinds are " + ", ".join(_NAMES) if missing[1] == "kind" else "give it"
        return LineError(line=line, field=field, error="this field is needed", remedy=known)
    if unknown := _UNKNOWN.search(said):
        field = ".".join(filter(None, (field, unknown[1])))
        return LineError(line=line, field=field, error="there is no such field", remedy="leave it out")
    if field == "kind":
        return LineError(line=line, field=field, error="there is no such kind", remedy="kinds are " + ", ".join(_NAMES))
    return LineError(line=line, field=field, error=said[:1].lower() + said[1:], remedy="")


def told(error: WorkbenchError, parsed: Parsed) -> list[LineError]:
    """What a service said of a batch, by line; empty when it speaks of no entry."""
    found = []
    for problem in error.problems:
        match = _INDEX.match(problem.field)
        if match:
            line, field = parsed.lines[int(match[1])], problem.field[match.end():]
        elif len(parsed.entries) == 1 and isinstance(error, Invalid):
            line, field = parsed.lines[0], problem.field
        else:
            return []
        found.append(LineError(line=line, field=field, error=problem.message, remedy=problem.remedy))
    return found


def problems(errors: Sequence[LineError]) -> list[Problem]:
    """The same as an error's problems: the field is `[line].field`."""
    return [Problem(f"[{each.line}].{each.field}".rstrip("."), each.error, each.remedy)
            for each in errors[:MOST_ERRORS]]


def schema() -> dict[str, Any]:
    """JSON Schema of an entry, for the documentation."""
    kinds = []
    for kind in KINDS:
        (found,), parts = msgspec.json.schema_components([kind])
        name = str(found["$ref"]).rpartition("/")[2]
        kinds.append({"title": name} | parts[name])
    return {"oneOf": kinds, "discriminator": {"propertyName": "kind"}}
