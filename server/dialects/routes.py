"""What a dialect offers: a Route for every method and path. Dispatch, authentication, limits and `/openapi.json` all
come from it, so that what is documented is what is served."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tornado.web import RequestHandler

from engine import times
from engine.errors import Invalid, Problem

__all__ = ["UPGRADE", "Answer", "Path", "Query", "Route", "group", "pattern"]

Kind = Literal["text", "integer", "number", "switch", "time", "choice"]
UPGRADE: Final = "#upgrade"
"""What no path of a request can have at its end."""

_PLACE: Final = re.compile(r"\{([a-z_]+)(:path)?\}")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query parameter. `many`: may be repeated or separated by commas, and is read as a tuple.

    "time" is read as integer microseconds since 1970. `low` and `high` are inclusive; for text they bound its length.
    """

    name: str
    kind: Kind = "text"
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    doc: str = ""
    many: bool = False
    required: bool = False

    def read(self, values: list[str]) -> Any:
        """The parameter's value from its texts in the query; raises `Invalid` naming it."""
        if self.many:
            return tuple(self._one(part) for value in values for part in value.split(",") if part)
        if not values or (values[-1] == "" and self.kind != "text"):
            if self.required:
                raise Invalid("this query parameter is needed", field=self.name, remedy=self.doc)
            return self.default
        return self._one(values[-1])

    def _one(self, text: str) -> Any:
        if self.kind == "time":
            return times.micros(times.parse(text, field=self.name))
        if self.kind == "choice":
            if text not in self.choices:
                raise Invalid(f"{text[:100]!r} is not a choice", field=self.name,
                              remedy="choose one of " + ", ".join(self.choices))
            return text
        if self.kind == "switch":
            if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
                raise Invalid(f"{text[:100]!r} is neither true nor false", field=self.name, remedy="use true or false")
            return text.lower() in ("true", "1", "yes", "on")
        if self.kind == "text":
            self._check(len(text), f"{len(text)} characters are", text)
            return text
        try:
            number: float = int(text) if self.kind == "integer" and re.fullmatch(r"[+-]?[0-9]{1,18}", text) else (
                float(text) if self.kind == "number" and len(text) < 50 else float("nan"))
        except ValueError:
            number = float("nan")
        if number - number != 0:  # NaN and infinities
            what = "a whole number" if self.kind == "integer" else "a number"
            raise Invalid(f"{text[:100]!r} is not {what}", field=self.name, remedy=self._range())
        self._check(number, f"{text} is", text)
        return number

    def _check(self, size: float, what: str, text: str) -> None:
        if (self.low is not None and size < self.low) or (self.high is not None and size > self.high):
            raise Invalid(f"{what[:100]} out of range", field=self.name, remedy=self._range())

    def _range(self) -> str:
        unit = " characters" if self.kind == "text" else ""
        if self.low is not None and self.high is not None:
            return f"use {self.low:.15g} to {self.high:.15g}{unit}"
        return f"use at least {self.low:.15g}{unit}" if self.low is not None else (
            f"use at most {self.high:.15g}{unit}" if self.high is not None else "")

    def schema(self) -> dict[str, Any]:
        """JSON Schema of one value."""
        if self.kind in ("integer", "number"):
            schema: dict[str, Any] = {"type": self.kind}
            schema |= {key: int(value) if float(value).is_integer() else value for key, value in
                       (("minimum", self.low), ("maximum", self.high)) if value is not None}
        elif self.kind == "switch":
            schema = {"type": "boolean"}
        elif self.kind == "choice":
            schema = {"type": "string", "enum": list(self.choices)}
        else:
            schema = {"type": "string"} | ({"examples": ["2024-01-31T00:00:00Z"]} if self.kind == "time" else {})
            schema |= {key: int(value) for key, value in (("minLength", self.low), ("maxLength", self.high))
                       if value is not None}
        if self.default not in (None, ()) and not self.many:
            schema["default"] = self.default
        return {"type": "array", "items": schema} if self.many else schema


@dataclass(frozen=True, kw_only=True)
class Path:
    """One path parameter's documentation; paths without it are documented as text."""

    name: str
    doc: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One possible answer: a pydantic model or a JSON Schema for its JSON body, or other content types."""

    doc: str
    model: type | Mapping[str, Any] | None = None
    content: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation (or several methods that behave alike).

    path: a template such as `/workbench/api/runs/{id}`; `{name}` is one segment, `{name:path}` the whole rest. The
    handler's method gets the parts by name. auth: the scope that is needed, "" for any valid token, None for public.
    answers: status -> Answer, the expected ones; errors: further statuses whose body is the dialect's error. What any
    route may answer (401, 403, 429, 500, …) is added to the documentation by itself.
    max_body: bytes; None: the setting `max_body`; "upload": the setting `max_upload`. spool: the body goes to a
    temporary file as it arrives (`handler.body_file`) instead of memory. websocket: the handler is a StreamHandler.
    unmetered: not counted by the rate limit. upgrade: only requests for a WebSocket come here; others go where they
    would go without this route, so that a page and a socket may share an address.
    """

    methods: tuple[str, ...] | str
    path: str
    handler: type[RequestHandler]
    auth: str | None
    summary: str
    name: str = ""
    tag: str = "native"
    description: str = ""
    parameters: tuple[Path, ...] = ()
    query: tuple[Query, ...] = ()
    request: type | Mapping[str, Any] | None = None
    request_content: tuple[str, ...] = ("application/json",)
    request_required: bool = True
    answers: Mapping[int, Answer] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    max_body: int | Literal["upload"] | None = None
    spool: bool = False
    websocket: bool = False
    upgrade: bool = False
    unmetered: bool = False
    hidden: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verbs(self) -> tuple[str, ...]:
        return (self.methods,) if isinstance(self.methods, str) else self.methods

    def read_query(self, arguments: Mapping[str, list[bytes]]) -> dict[str, Any]:
        """All query parameters by name; raises `Invalid` with every problem. Parameters not listed are ignored."""
        values, problems = {}, []
        for query in self.query:
            try:
                texts = [value.decode() for value in arguments.get(query.name, [])]
                if any("\x00" in text for text in texts):
                    raise UnicodeError
                values[query.name] = query.read(texts)
            except UnicodeError:
                problems.append(Problem(query.name, "this is not text", "use UTF-8 without null characters"))
            except Invalid as error:
                problems.extend(error.problems)
        if problems:
            raise Invalid("the query is not valid", problems=problems)
        return values


def pattern(path: str) -> str:
    """The regular expression of a path template (Tornado anchors it)."""
    parts, end = [], 0
    for match in _PLACE.finditer(path):
        parts += [re.escape(path[end:match.start()]), f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"]
        end = match.end()
    return "".join([*parts, re.escape(path[end:])])


def group(routes: Iterable[Route]) -> dict[str, dict[str, Route]]:
    """Path -> method -> route; those that only take upgrades stand under the path with `#upgrade` at its end.

    Raises `ValueError` when two routes claim the same method and path, or when one path
    has several handler classes."""
    paths: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = paths.setdefault(route.path + (UPGRADE if route.upgrade else ""), {})
        for verb in route.verbs:
            if verb in methods:
                raise ValueError(f"{verb} {route.path} is given twice")
            if methods and next(iter(methods.values())).handler is not route.handler:
                raise ValueError(f"{route.path} has more than one handler")
            methods[verb] = route
    return paths
