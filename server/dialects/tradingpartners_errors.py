"""The numbered errors of the alert service: `{"code", "message", "description", "request_id"}`.

    400  20 invalid body  21 a body field is missing  22 a body field is invalid  23, 24 the same of a parameter
    401  10 no authorization header  11 an invalid one  12 the session has expired  13 wrong e-mail address or password

Others have their HTTP status as number. A value that is wrong is a 400 here, not a 422.
"""

from typing import Any, Final

from engine.errors import Invalid
from server.dialects.failures import Failure, Malformed

__all__ = ["ERROR", "BodyProblem", "error_json"]

MESSAGES: Final = {
    10: "missing authorization header", 11: "invalid authorization header", 12: "session expired",
    13: "invalid email or password", 20: "invalid body", 21: "missing body field", 22: "invalid body field",
    23: "missing path parameter", 24: "invalid path parameter", 402: "payment required",
}
ERROR: Final[dict[str, Any]] = {
    "type": "object", "required": ["code", "message"],
    "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "description": {"type": "string"},
                   "request_id": {"type": "string"}},
}


class BodyProblem(Invalid):
    """A body field that is missing (21) or wrong (22)."""

    def __init__(self, number: int, field: str, message: str, remedy: str = "") -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.number = number


def number_of(failure: Failure, authorization: str | None) -> int:
    """The number of an error; `authorization`: the request's header, None when there is none."""
    if failure.status == 401:
        if failure.problems and failure.problems[0].field == "email":
            return 13
        scheme, _, text = (authorization or "").strip().partition(" ")
        if authorization is None:
            return 10
        return 12 if scheme.lower() == "bearer" and text.strip() else 11
    if isinstance(failure.error, BodyProblem):
        return failure.error.number
    if isinstance(failure.error, Malformed):
        return 20
    return 24 if failure.status in (400, 422) else failure.status


def error_json(failure: Failure, authorization: str | None, request_id: str) -> dict[str, Any]:
    """The body of an error answer."""
    number = number_of(failure, authorization)
    said = "; ".join(str(problem) for problem in failure.problems) or failure.message
    return {"code": number, "message": MESSAGES.get(number) or failure.message, "description": said,
            "request_id": request_id}
