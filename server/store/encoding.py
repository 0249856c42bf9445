"""JSON as the tables hold it: text made before a write, read back as plain dicts and lists."""

from typing import Any

import orjson

from engine.errors import Invalid

__all__ = ["Encoded", "decode", "encode"]

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


class Encoded(str):
    """Text that is JSON already; JSON columns and `EventLog.append` take it as it is."""

    __slots__ = ()


def encode(value: Any, *, field: str = "") -> Encoded:
    """The JSON text of `value`; NaN and infinities become null. Raises `Invalid` naming `field`.

    Call it before a write, so that the writer thread, of which there is one, does not spend its time on it.
    """
    if isinstance(value, Encoded):
        return value
    try:
        return Encoded(orjson.dumps(value, option=_OPTIONS).decode())
    except (TypeError, RecursionError) as error:  # orjson's encoding errors are TypeErrors
        raise Invalid(f"cannot be written as JSON: {error}", field=field,
                      remedy="use text, numbers that fit 64 bits, true, false, null, lists and objects") from None


def decode(text: str | bytes) -> Any:
    """The value of JSON text."""
    return orjson.loads(str(text) if isinstance(text, Encoded) else text)  # orjson takes no subclass of str
