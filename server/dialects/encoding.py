"""JSON on its way out: one encoder for all dialects, and compression."""

import gzip
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from engine import times

__all__ = ["accepts_gzip", "compress", "dumps"]

_OPTIONS: Final = (orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def dumps(value: Any) -> bytes:
    """JSON text. Instants become RFC 3339 with microseconds and `Z`, dataclasses and models objects, sets sorted lists,
    NaN and infinities null."""
    return orjson.dumps(value, default=_default, option=_OPTIONS)


def _default(value: Any) -> Any:
    if isinstance(value, datetime):
        return times.iso(value if value.tzinfo else value.replace(tzinfo=times.EPOCH.tzinfo))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header lets us answer in gzip."""
    for part in header.lower().split(","):
        name, _, weight = part.strip().partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def compress(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)
