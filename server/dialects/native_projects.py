"""Projects and the keys that bots report with, over the native API.

    GET, POST /workbench/api/projects                 GET, POST /workbench/api/models/{id}/keys
    GET, POST /workbench/api/projects/{id}/keys       DELETE /workbench/api/keys/{id}

A key is a token that may report, for one project or one model, and nothing else. Its secret is shown once.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import Forbidden, NotFound
from server.dialects.base import BaseHandler
from server.dialects.routes import Answer, Path, Route
from server.services import Services
from server.services.users import Token

__all__ = ["routes"]

BASE: Final = "/workbench/api"


class ProjectRequest(BaseModel):
    """A project to make; without an `id` it gets one."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    description: Annotated[str, Field(max_length=20_000)] = ""
    id: Annotated[str | None, Field(min_length=1, max_length=64)] = None


class KeyRequest(BaseModel):
    """What to call the key."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=200)] = ""


class Projects(BaseHandler):
    async def get(self) -> None:
        only = self.principal.project
        await self.send_json({"items": [project for project in await self.services.activity.projects()
                                        if only in ("", project.id)]})

    async def post(self) -> None:
        if self.principal.project:
            raise Forbidden("this token is bound to a project", remedy="use a token that is not")
        wanted = await self.read_model(ProjectRequest)
        project = await self.services.activity.create_project(
            wanted.name, description=wanted.description, owner=self.principal.name, id=wanted.id)
        self.write_json(project, status=201)


class _Keys(BaseHandler):
    async def _list(self, project: str, model: str) -> None:
        self.write_json({"items": [key_json(key) for key in await self.services.activity.keys(project)
                                   if not model or key.model == model]})

    async def _make(self, project: str, model: str | None, fallback: str) -> None:
        wanted = await self.read_model(KeyRequest) if self.body else KeyRequest()
        key, api_key, api_pass = await self.services.activity.create_key(project, model,
                                                                         name=wanted.name or fallback)
        self.set_header("Cache-Control", "no-store")
        self.write_json(key_json(key) | {"api_key": api_key, "api_pass": api_pass, "token": api_pass}, status=201)


class ProjectKeys(_Keys):
    async def get(self, id: str) -> None:
        await self.services.activity.project(id)
        await self._list(id, "")

    async def post(self, id: str) -> None:
        project = await self.services.activity.project(id)
        await self._make(id, None, f"key of {project.name}"[:200])


class ModelKeys(_Keys):
    async def get(self, id: str) -> None:
        model = await self.services.models.model(id)
        await self._list(model.project, id)

    async def post(self, id: str) -> None:
        model = await self.services.models.model(id)
        await self._make(model.project, id, f"key of {model.name}"[:200])


class OneKey(BaseHandler):
    async def delete(self, id: str) -> None:
        if not any(token.id == id and token.project for token in await self.services.users.list()):
            raise NotFound(f"there is no key {id[:64]!r}", field="id")
        self.write_json(key_json(await self.services.users.revoke(id)))


def key_json(key: Token) -> dict[str, Any]:
    """A key without its secret."""
    return {"id": key.id, "name": key.name, "prefix": key.prefix, "project": key.project, "model": key.model,
            "scopes": key.scopes, "created_at": key.created_at, "expires_at": key.expires_at,
            "revoked_at": key.revoked_at, "last_used_at": key.last_used_at}


def routes(services: Services) -> list[Route]:
    """The operations on projects and keys."""
    project = (Path(name="id", doc="the project's id"),)
    model = (Path(name="id", doc="the model's id"),)
    made = Answer(doc="the key; `api_key` and `api_pass` are what Blankly's clients ask for, `token` is the secret "
                      "and is never shown again", model=_KEY)
    keys = Answer(doc="the keys, revoked ones included", model=_KEYS)
    return [
        Route(methods="GET", path=f"{BASE}/projects", handler=Projects, auth="read", tag="models",
              summary="List projects", answers={200: Answer(doc="the projects", model=_PROJECTS)}),
        Route(methods="POST", path=f"{BASE}/projects", handler=Projects, auth="deploy", tag="models",
              summary="Make a project", request=ProjectRequest,
              answers={201: Answer(doc="the project", model=_PROJECT)}, errors=(400, 409, 413, 422)),
        Route(methods="GET", path=BASE + "/projects/{id}/keys", handler=ProjectKeys, auth="admin", tag="models",
              parameters=project, summary="The keys of a project and its models", answers={200: keys}, errors=(404,)),
        Route(methods="POST", path=BASE + "/projects/{id}/keys", handler=ProjectKeys, auth="admin", tag="models",
              parameters=project, summary="Make a key with which any model of a project reports", request=KeyRequest,
              request_required=False, answers={201: made}, errors=(400, 404, 413, 422)),
        Route(methods="GET", path=BASE + "/models/{id}/keys", handler=ModelKeys, auth="admin", tag="models",
              parameters=model, summary="A model's keys", answers={200: keys}, errors=(404,)),
        Route(methods="POST", path=BASE + "/models/{id}/keys", handler=ModelKeys, auth="admin", tag="models",
              parameters=model, summary="Make a key with which one model reports", request=KeyRequest,
              request_required=False, answers={201: made}, errors=(400, 404, 413, 422)),
        Route(methods="DELETE", path=BASE + "/keys/{id}", handler=OneKey, auth="admin", tag="models",
              parameters=(Path(name="id", doc="the key's id"),), summary="Make a key worthless",
              answers={200: Answer(doc="the key", model=_KEY)}, errors=(404,)),
    ]


_PROJECT: Final = {"type": "object", "required": ["id", "name"]}
_PROJECTS: Final = {"type": "object", "required": ["items"], "properties": {"items": {
    "type": "array", "items": _PROJECT}}}
_KEY: Final = {"type": "object", "required": ["id", "name", "prefix", "project"]}
_KEYS: Final = {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": _KEY}}}
