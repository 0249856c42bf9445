"""What the models of native requests share: they take nothing for what it is not.

A number in quotes, or a truth where a number belongs, is more likely a client's mistake than its wish, and here it
would move money: both are refused by field.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict

from engine.spec import Misfit

__all__ = ["STRICT", "Line", "Whole", "any_of", "null_place"]

STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""No unknown fields, no conversion of types, no NaN."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON knows one kind of number


def _line(text: str) -> str:
    if text and (not text.strip() or any(unicodedata.category(sign) == "Cc" for sign in text)):
        raise Misfit("this is blank, or has control characters", remedy="write one line of text")
    return text


def any_of(choices: Sequence[str]) -> AfterValidator:
    """Texts of a list must be among these."""
    def check(given: list[str]) -> list[str]:
        for place, word in enumerate(given):
            if word not in choices:
                raise Misfit(f"{word[:80]!r} is not a choice", field=str(place), remedy="use " + ", ".join(choices))
        return given

    return AfterValidator(check)


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number, also when it is written 5.0."""
Line = Annotated[str, AfterValidator(_line)]
"""One line of text that can be seen."""


def null_place(data: Any) -> str | None:
    """The dotted place of the first null character in JSON data, which not every database can hold; None without."""
    return next((place for place, value in _parts(data) if isinstance(value, str) and "\x00" in value), None)


def _parts(data: Any) -> Iterator[tuple[str, Any]]:
    waiting = [("", data)]  # no recursion: the data may be nested as deeply as the parser lets it
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            yield from ((place, name) for name in value)
            waiting += [(f"{place}.{name}".lstrip("."), each) for name, each in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{place}.{at}".lstrip("."), each) for at, each in reversed(list(enumerate(value)))]
        else:
            yield place, value
