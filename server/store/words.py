"""Looking for words in texts, whatever their case, on every database.

SQLite's own `lower` knows the letters of ASCII only, so that "Ü" was not even found by itself: what was looked for had
been made small, and the column not. Python's knows all, and is slower: it is asked only where ASCII is not enough.
"""

from typing import Any, Final

from sqlalchemy import ColumnElement, Text, func, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["FUNCTION", "holds", "small"]

FUNCTION: Final = "small"


class Small(FunctionElement[str]):
    """A text in small letters."""

    name = FUNCTION
    type = Text()
    inherit_cache = True


@compiles(Small)  # type: ignore[no-untyped-call, untyped-decorator]
def _lower(element: Small, compiler: Any, **more: Any) -> str:
    return f"lower({compiler.process(element.clauses, **more)})"


@compiles(Small, "sqlite")  # type: ignore[no-untyped-call, untyped-decorator]
def _ours(element: Small, compiler: Any, **more: Any) -> str:
    return f"{FUNCTION}({compiler.process(element.clauses, **more)})"


def small(text: Any) -> Any:
    """What SQLite's connections call by `FUNCTION`."""
    return text.lower() if isinstance(text, str) else text


def holds(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Whether a text stands in a column. (PostgreSQL knows the letters of its database's locale; as it was written, a
    text is always found.)"""
    if text.isascii():
        return func.lower(column).contains(text.lower(), autoescape=True)
    return or_(Small(column).contains(text.lower(), autoescape=True), column.contains(text, autoescape=True))
