"""What can go wrong, in words a person can act on.

    WorkbenchError
      Invalid          the request cannot be understood or is not allowed to mean this
      Unauthenticated  who are you?
      Forbidden        you may not
      PaymentRequired  what you have paid for does not cover it
      NotFound         there is no such thing
      Conflict         not in its present state
      TooLarge         over a limit of size
      Busy             over a limit of rate or of concurrent work
      Unavailable      the workbench itself cannot do it now (disk full, database away)
      Cancelled        the work was stopped on request

The engine and the services raise these; each dialect renders them in its own error body and status.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "Busy", "Cancelled", "Conflict", "Forbidden", "Invalid", "NotFound", "PaymentRequired", "Problem", "TooLarge",
    "Unauthenticated", "Unavailable", "WorkbenchError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: the field it is about (dotted path, '' for the whole), what is wrong, what to do."""

    field: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class WorkbenchError(Exception):
    """Base of all errors that are meant to be read by a person."""

    code = "error"

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong; one entry unless the error was made from several."""
        return (Problem(self.field, self.message, self.remedy),)

    def __str__(self) -> str:
        return " | ".join(str(problem) for problem in self.problems)


class Invalid(WorkbenchError):
    """The request is malformed or breaks a rule; carries every problem found, not only the first."""

    code = "invalid"

    def __init__(self, message: str, *, field: str = "", remedy: str = "", problems: Iterable[Problem] = ()) -> None:
        super().__init__(message, field=field, remedy=remedy)
        self._problems = tuple(problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self._problems or super().problems

    def __reduce__(self):  # keeps all problems when a pool process sends the error home
        return _rebuild_invalid, (self.message, self.field, self.remedy, self._problems)


def _rebuild_invalid(message: str, field: str, remedy: str, problems: tuple[Problem, ...]) -> Invalid:
    return Invalid(message, field=field, remedy=remedy, problems=problems)


class Unauthenticated(WorkbenchError):
    code = "unauthenticated"


class Forbidden(WorkbenchError):
    code = "forbidden"


class PaymentRequired(WorkbenchError):
    code = "payment_required"


class NotFound(WorkbenchError):
    code = "not_found"


class Conflict(WorkbenchError):
    code = "conflict"


class TooLarge(WorkbenchError):
    code = "too_large"


class Busy(WorkbenchError):
    code = "busy"


class Unavailable(WorkbenchError):
    code = "unavailable"


class Cancelled(WorkbenchError):
    code = "cancelled"
