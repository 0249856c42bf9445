"""What can go wrong between us and an exchange: what is worth another try, what it means, and its words without
secrets."""

import re
from collections.abc import Iterable
from typing import Any, Final

from engine.errors import Busy, Conflict, Forbidden, Invalid, NotFound, Unavailable, WorkbenchError

__all__ = ["clean", "meaning", "retry_after", "transient"]

_ADDRESS: Final = re.compile(r"(https?://[^\s?]+)\?\S*")
_LONG: Final = re.compile(r"[A-Za-z0-9+/=_-]{40,}")  # keys and signatures; no word is as long
_BROKEN: Final = (TypeError, KeyError, AttributeError, ValueError, IndexError)
"""What ccxt raises when an answer is not what it should be."""


def transient(error: BaseException) -> bool:
    """Whether the same question may be answered a little later."""
    from ccxt.base import errors

    if isinstance(error, errors.InvalidNonce):
        return True
    return isinstance(error, (errors.OperationFailed, *_BROKEN)) and not isinstance(error, WorkbenchError)


def retry_after(error: BaseException, headers: Any) -> float:
    """Seconds that the exchange asks to wait before it is asked again; 0 when it does not say."""
    from ccxt.base import errors

    if not isinstance(error, errors.NetworkError) or not isinstance(headers, dict):
        return 0.0
    for name, value in headers.items():
        if name.lower() == "retry-after" and re.fullmatch(r"\d{1,6}(\.\d+)?", str(value).strip()):
            return float(value)
    return 0.0


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """An exchange's words for people: without queries, keys and signatures, and not long."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return " ".join(_LONG.sub("***", _ADDRESS.sub(r"\1", text)).split())[:300]


def meaning(error: BaseException, name: str, secrets: Iterable[str] = ()) -> WorkbenchError:
    """The error in the workbench's own words."""
    from ccxt.base import errors

    if isinstance(error, WorkbenchError):
        return error
    words = clean(str(error), secrets)
    if isinstance(error, errors.RateLimitExceeded | errors.DDoSProtection):
        return Busy(f"{name} limits how often it may be asked: {words}", remedy="try again later")
    if isinstance(error, errors.RequestTimeout):
        return Unavailable(f"{name} did not answer in time: {words}", remedy="try again later")
    if isinstance(error, errors.OperationFailed):
        return Unavailable(f"{name} cannot be reached: {words}", remedy="is the network there? try again later")
    if isinstance(error, errors.AuthenticationError):
        return Forbidden(f"{name} refuses the key: {words}", remedy="store the right key, with the right to trade")
    if isinstance(error, errors.BadSymbol | errors.OrderNotFound):
        return NotFound(f"{name} does not know it: {words}")
    if isinstance(error, errors.InsufficientFunds | errors.InvalidOrder | errors.OperationRejected):
        return Conflict(f"{name} rejects the order: {words}")
    if isinstance(error, errors.BaseError):
        return Invalid(f"{name} refuses: {words}")
    return Unavailable(f"{name} answered with something that makes no sense: {clean(repr(error), secrets)}",
                       remedy="try again later")
