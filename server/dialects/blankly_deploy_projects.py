"""Projects, teams, plans and the tokens of projects, as Blankly's programs ask for them.

    GET  /project/list, /project/teams
    POST /project/create {name, description}, /project/delete {projectId}, /project/plans {type: live | backtesting}
    POST /project/generate-project-token {projectId, name}, /project/list-tokens {projectId},
         /project/delete-project-token {projectId, tokenId}

A token of a project is a key that bots report with: apiKey is the project's id, apiPass the secret, shown once.
"""

from typing import Any, Final

from engine import times
from engine.activity import Project
from engine.errors import Forbidden, Invalid, NotFound
from engine.sandbox import BACKTEST_PLANS, LIVE_PLANS
from server.dialects.blankly_deploy_base import FORMS, TAG, DeployHandler
from server.dialects.routes import Answer, Route
from server.services.model_reads import ModelQuery

__all__ = ["routes"]


class ProjectList(DeployHandler):
    async def get(self) -> None:
        await self.own_project()
        only = self.principal.project
        self.write_json([_project(project) | {"role": "editor" if only else "owner"}
                         for project in await self.services.activity.projects() if only in ("", project.id)])


class Teams(DeployHandler):
    async def get(self) -> None:
        """The projects beside the user's own. One program makes new models only where there is a team at all: without
        any other, the own project is one."""
        own = await self.own_project()
        found = [] if self.principal.project else await self.services.activity.projects()
        teams = [project for project in found if project.id != own] or [await self.services.activity.project(own)]
        self.write_json([{"id": project.id, "name": project.name} for project in teams])


class CreateProject(DeployHandler):
    async def post(self) -> None:
        self.unbound()
        fields = await self.fields()
        made = await self.services.activity.create_project(
            fields.needed_text("name"), description=fields.text("description") or "", owner=self.principal.name)
        self.write_json({**_project(made), "status": "success"})


class DeleteProject(DeployHandler):
    async def post(self) -> None:
        self.unbound()
        project = await self.project_of((await self.fields()).needed_text("projectId"))
        while page := (await self.services.models.models(ModelQuery(project=project, limit=100))).items:
            for model in page:
                await self.services.deployments.remove(model.id)
        await self.services.activity.delete_project(project)
        self.succeed(projectId=project)


class Plans(DeployHandler):
    async def post(self) -> None:
        type_ = (await self.fields()).needed_text("type").lower()
        plans = {"live": LIVE_PLANS, "backtesting": BACKTEST_PLANS, "backtest": BACKTEST_PLANS}.get(type_)
        if plans is None:
            raise Invalid(f"There are no plans of type {type_[:40]!r}.", field="type", remedy="live or backtesting")
        self.write_json({plan.name: {"cpu": plan.cpu, "ram": plan.memory} for plan in plans.values()})


class GenerateToken(DeployHandler):
    async def post(self) -> None:
        if self.principal.model:
            raise Forbidden("this token is for one model", remedy="use a token of the project")
        fields = await self.fields()
        project = await self.project_of(fields.text("projectId"))
        _, key, secret = await self.services.activity.create_key(project, name=fields.text("name") or "")
        self.set_header("Cache-Control", "no-store")
        self.write_json({"apiKey": key, "apiPass": secret})


class ListTokens(DeployHandler):
    async def post(self) -> None:
        project = await self.project_of((await self.fields()).text("projectId"))
        now = times.now()
        self.write_json([{"id": token.id, "name": token.name, "projectId": project, "modelId": token.model,
                          "read": "read" in token.scopes, "write": "ingest" in token.scopes,
                          "timestamp": token.created_at.timestamp()}
                         for token in await self.services.activity.keys(project)
                         if token.valid(now) and token.scopes == ("ingest",)])


class DeleteToken(DeployHandler):
    async def post(self) -> None:
        fields = await self.fields()
        project, id = await self.project_of(fields.text("projectId")), fields.needed_text("tokenId")
        if not any(token.id == id and token.scopes == ("ingest",)
                   for token in await self.services.activity.keys(project)):
            raise NotFound("This tokenId was not found under this project.", field="tokenId",
                           remedy="POST /project/list-tokens tells which there are")
        await self.services.users.revoke(id)
        self.succeed(projectId=project, tokenId=id)


def _project(project: Project) -> dict[str, Any]:
    return {"id": project.id, "projectId": project.id, "name": project.name, "description": project.description,
            "createdAt": times.iso(project.created_at), "status": "created"}


_ITEMS: Final = {"type": "array", "items": {"type": "object"}}
_OBJECT: Final = {"type": "object"}


def routes() -> list[Route]:
    def get(path: str, handler: type[DeployHandler], summary: str) -> Route:
        return Route(methods="GET", path=path, handler=handler, auth="deploy", tag=TAG, summary=summary,
                     answers={200: Answer(doc="a list", model=_ITEMS)}, errors=(503,))

    def post(path: str, handler: type[DeployHandler], summary: str, answer: Any = _OBJECT) -> Route:
        return Route(methods="POST", path=path, handler=handler, auth="deploy", tag=TAG, summary=summary,
                     request={"type": "object", "additionalProperties": True}, request_content=FORMS,
                     answers={200: Answer(doc="done", model=answer)}, errors=(400, 413, 503))

    return [
        get("/project/list", ProjectList, "The projects that this user has"),
        get("/project/teams", Teams, "The projects beside the user's own"),
        post("/project/create", CreateProject, "Make a project: name, description"),
        post("/project/delete", DeleteProject, "Delete a project with its models: projectId"),
        post("/project/plans", Plans, "What models may use, by name: type live or backtesting"),
        post("/project/generate-project-token", GenerateToken, "Make a key for the bots of a project: projectId, name"),
        post("/project/list-tokens", ListTokens, "The keys of a project: projectId", _ITEMS),
        post("/project/delete-project-token", DeleteToken, "Revoke a key: projectId, tokenId"),
    ]
