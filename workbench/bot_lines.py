"""An entry of a bot as a line of JSON, whatever its program put into it: what is said must never stop who says it."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

__all__ = ["line_of"]

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
_DEEPEST: Final = 50  # levels of nested values


def line_of(fields: Mapping[str, Any]) -> bytes:
    """The entry's JSON, without a line end. What JSON cannot hold becomes the nearest number or text that it can."""
    try:
        return orjson.dumps(fields, default=_plain, option=_OPTIONS)
    except TypeError:  # half a character, a number beyond 64 bits, a strange key, something within itself
        return orjson.dumps(_tame(fields, 0), default=_plain, option=_OPTIONS | orjson.OPT_PASSTHROUGH_DATACLASS)


def _plain(value: Any) -> Any:
    """What is no JSON of itself: numbers of other libraries as numbers, arrays as lists, all else as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _tame(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 10**300 else str(value)
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {_tame(str(key), depth): _tame(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_tame(each, depth + 1) for each in value]
    return _tame(value.tolist(), depth + 1) if hasattr(value, "tolist") else value
