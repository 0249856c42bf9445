"""`/openapi.json`: OpenAPI 3.1 made from the routes of all dialects and their pydantic models."""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.dialects.routes import Answer, Query, Route
from server.version import VERSION

__all__ = ["document"]

REF: Final = "#/components/schemas/{model}"
ERROR: Final[dict[str, Any]] = {
    "type": "object", "required": ["error", "request_id"],
    "properties": {
        "request_id": {"type": "string", "description": "also in the header X-Request-ID"},
        "error": {
            "type": "object", "required": ["code", "message", "problems"],
            "properties": {
                "code": {"type": "string"}, "message": {"type": "string"},
                "problems": {"type": "array", "items": {
                    "type": "object", "required": ["field", "message", "remedy"],
                    "properties": {"field": {"type": "string"}, "message": {"type": "string"},
                                   "remedy": {"type": "string"}}}},
            },
        },
    },
}
DOCS: Final[dict[int, str]] = {
    400: "The request cannot be read", 401: "No valid token",
    402: "What was paid for does not cover it", 403: "Not allowed with this token, host or origin",
    404: "There is no such thing", 409: "Not in its present state", 413: "The body is too large",
    415: "No such content type is read here", 422: "A value is wrong; each problem names its field",
    426: "This is a WebSocket", 429: "Too many requests", 500: "Something went wrong inside the workbench",
    503: "The workbench cannot do it now",
}
SECURITY: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a token of the workbench"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same token"},
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document. Two models of one name get distinct names."""
    routes = [route for route in routes if not route.hidden]
    models = [(model, mode) for route in routes for model, mode in _models(route)]
    names, schemas = models_json_schema(list(dict.fromkeys(models)), ref_template=REF)
    components = dict(schemas.get("$defs", {}))
    components["Error"] = ERROR
    paths: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    for route in routes:
        for verb in route.verbs:
            path = route.path.replace(":path}", "}")
            paths.setdefault(path, {})[verb.lower()] = _operation(route, verb, names, used)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Workbench", "version": VERSION, "license": {"name": "MIT", "identifier": "MIT"},
                 "description": "Backtests, market data, sweeps and streams. WebSockets are listed as GET operations "
                                "that answer 101; each text frame is one JSON event."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SECURITY},
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
    }


def _models(route: Route) -> Iterable[tuple[type[BaseModel], Any]]:
    if isinstance(route.request, type) and issubclass(route.request, BaseModel):
        yield route.request, "validation"
    for answer in route.answers.values():
        if isinstance(answer.model, type) and issubclass(answer.model, BaseModel):
            yield answer.model, "serialization"


def _operation(route: Route, verb: str, names: Mapping[Any, Any], used: set[str]) -> dict[str, Any]:
    name = route.name or "_".join([verb.lower(), *re.findall(r"[A-Za-z0-9]+", route.path)])
    if name in used:
        name = f"{name}_{verb.lower()}_{len(used)}"
    used.add(name)
    operation: dict[str, Any] = {
        "operationId": name, "summary": route.summary, "tags": [route.tag],
        "security": [] if route.auth is None else [{"bearer": []}, {"key": []}],
        "parameters": [*_path_parameters(route), *[_query(query) for query in route.query]],
        "responses": _responses(route, names),
    }
    scope = "any valid token" if route.auth == "" else f"a token with the scope `{route.auth}`"
    operation["description"] = (route.description or route.summary) + (f"\n\nNeeds {scope}." if route.auth is not None
                                                                       else "\n\nPublic.")
    if route.request is not None:
        schema = _schema(route.request, "validation", names)
        operation["requestBody"] = {"required": route.request_required, "content": {
            kind: ({"schema": schema} if "json" in kind else {"schema": {"type": "string"}})
            for kind in route.request_content}}
    if route.websocket:
        operation["x-websocket"] = True
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    documented = {path.name: path for path in route.parameters}
    found = []
    for piece in route.path.split("{")[1:]:
        name = piece.partition("}")[0].removesuffix(":path")
        known = documented.get(name)
        parameter: dict[str, Any] = {"name": name, "in": "path", "required": True,
                                     "schema": {"type": "string", "minLength": 1}}
        if known and known.doc:
            parameter["description"] = known.doc
        if known and known.examples:
            parameter["schema"]["examples"] = list(known.examples)
        found.append(parameter)
    return found


def _query(query: Query) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": query.name, "in": "query", "required": query.required,
                                 "schema": query.schema()}
    if query.doc:
        parameter["description"] = query.doc
    return parameter


def _responses(route: Route, names: Mapping[Any, Any]) -> dict[str, Any]:
    answers: dict[int, Answer] = dict(route.answers)
    if not answers:
        answers[200] = Answer(doc="done")
    if route.websocket:
        answers = {101: Answer(doc="the stream begins")} | {key: value for key, value in answers.items() if key != 200}
    statuses = {403, 500, *route.errors}
    if route.auth is not None:
        statuses |= {401}
    if not route.unmetered:
        statuses |= {429}
    if route.query:
        statuses |= {422}
    if "{" in route.path:
        statuses |= {400, 404}  # 400: a path that is not text
    if route.websocket:
        statuses |= {426}
    if route.request is not None:
        statuses |= {400, 413}
    statuses |= {503}
    responses = {}
    for status, answer in answers.items():
        response: dict[str, Any] = {"description": answer.doc}
        content = {}
        if answer.model is not None:
            content["application/json"] = {"schema": _schema(answer.model, "serialization", names)}
        content |= {kind: {} for kind in answer.content}
        if content:
            response["content"] = content
        if answer.headers:
            response["headers"] = {name: {"description": doc, "schema": {"type": "string"}}
                                   for name, doc in answer.headers.items()}
        responses[str(status)] = response
    error = route.options.get("error_schema", {"$ref": "#/components/schemas/Error"})
    for status in sorted(statuses - answers.keys()):
        doc = DOCS.get(status) or HTTPStatus(status).phrase
        responses[str(status)] = {"description": doc, "content": {"application/json": {"schema": error}}}
    return responses


def _schema(model: Any, mode: str, names: Mapping[Any, Any]) -> Any:
    if isinstance(model, type):
        if issubclass(model, BaseModel):
            return names[(model, mode)]
        return {"type": {"list": "array", "str": "string"}.get(model.__name__, "object")}
    return dict(model)
