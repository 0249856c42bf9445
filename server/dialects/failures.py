"""From an exception to the status and words of an answer. Each dialect renders a Failure in its own error body."""

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from tornado.web import HTTPError

from engine import errors
from engine.errors import Problem

__all__ = ["STATUSES", "Failure", "Malformed", "MethodNotAllowed", "UnsupportedMedia", "UpgradeRequired", "failure_of"]


class Malformed(errors.Invalid):
    """The body or the request line cannot be read at all."""

    code = "malformed"


class UnsupportedMedia(errors.Invalid):
    """The body's content type is none that this route reads."""

    code = "unsupported_media_type"


class MethodNotAllowed(errors.WorkbenchError):
    """The path is there, but not for this method."""

    code = "method_not_allowed"


class UpgradeRequired(errors.WorkbenchError):
    """The path is a WebSocket, and this request is not one."""

    code = "upgrade_required"


STATUSES: Final[tuple[tuple[type[errors.WorkbenchError], int], ...]] = (
    (Malformed, 400), (UnsupportedMedia, 415), (errors.Invalid, 422), (errors.Unauthenticated, 401),
    (errors.Forbidden, 403), (errors.NotFound, 404), (errors.Conflict, 409), (errors.TooLarge, 413),
    (errors.PaymentRequired, 402),
    (errors.Busy, 429), (errors.Unavailable, 503), (errors.Cancelled, 409),
    (MethodNotAllowed, 405), (UpgradeRequired, 426),
)
_UNEXPECTED: Final = "something went wrong inside the workbench"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_CODES: Final = {400: "malformed", 401: "unauthenticated", 413: "too_large", 422: "invalid", 429: "busy",
                 500: "internal", 503: "unavailable"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What went wrong with a request. `problems` name fields; `headers` belong to the answer; `error` is what was
    raised (None for what only has a status)."""

    status: int
    code: str
    message: str
    problems: tuple[Problem, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    error: BaseException | None = None


def failure_of(error: BaseException | None, status: int = 500) -> Failure:
    """The failure that an exception means. Anything unexpected becomes a 500 that says nothing of the inside."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        error = errors.Unavailable(f"the server's disk takes nothing more: {os.strerror(error.errno)}",
                                   remedy="free space there, or make it writable, then repeat the request")
    if isinstance(error, errors.WorkbenchError):
        for kind, found in STATUSES:
            if isinstance(error, kind):
                headers = {}
                if found == 401:
                    headers["WWW-Authenticate"] = 'Bearer realm="workbench"'
                elif found in (429, 503):
                    headers["Retry-After"] = "1"
                return Failure(status=found, code=error.code, message=error.message, problems=error.problems,
                               headers=headers, error=error)
    if isinstance(error, HTTPError) and error.status_code < 500:
        status = error.status_code
    elif error is not None:
        status = 500
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    code = _CODES.get(status) or re.sub(r"[^a-z]+", "_", phrase.lower())
    return Failure(status=status, code=code, message=_UNEXPECTED if status == 500 else phrase, error=error)
