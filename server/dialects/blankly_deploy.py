"""Blankly's Deployment API: models are uploaded, run and backtested as its programs do it.

    POST /model/create-model, /model/list, /model/details, /model/status      GET /model/status, /model/starter-models
    POST /model/deploy, /model/upload, /model/backtest         multipart, the archive in the part `model`
    POST /model/backtestUploadedModel, /model/backtest-uploaded-model, /model/run, /model/kill, /model/delete

Programs of all generations are understood: the oldest name a new model by an id of their own with createNew and say no
type; newer ones call create-model first. Arguments of a backtest are JSON text or an object, in backtestArgs or
backtestingArgs. Projects are in `blankly_deploy_projects`, logging in is in `blankly_deploy_signin`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import orjson

from engine import times
from engine.activity import Model
from engine.deployment import Version
from engine.errors import Conflict, Invalid, NotFound, WorkbenchError
from engine.sandbox import BACKTEST_PLANS, LIVE_PLANS, plan_of
from server.dialects import blankly_deploy_projects, blankly_deploy_signin
from server.dialects.blankly_body import Fields
from server.dialects.blankly_deploy_base import FORMS, TAG, TYPES, DeployHandler
from server.dialects.blankly_deploy_upload import PART, Upload, take_apart
from server.dialects.blankly_words import with_errors
from server.dialects.routes import Answer, Route
from server.services import Services
from server.services.model_reads import ModelQuery
from server.services.schedules import next_time

__all__ = ["routes"]

SLOWEST: Final = "slow"


class CreateModel(DeployHandler):
    async def post(self) -> None:
        fields = await self.fields()
        project, name = await self.project_of(fields.text("projectId")), fields.needed_text("name")
        made = await self.services.activity.create_model(project, name, description=fields.text("description") or "",
                                                         kind=_type(fields) or TYPES[0], dialect="blankly")
        self.succeed(modelId=made.id, projectId=project)


class ListModels(DeployHandler):
    async def post(self) -> None:
        project = await self.project_of((await self.fields()).text("projectId"))
        found: list[dict[str, Any]] = []
        query: ModelQuery | None = ModelQuery(project=project, descending=False, limit=500)
        while query is not None:
            page = await self.services.models.models(query)
            found += [{"id": model.id, "modelId": model.id, "projectId": project, "name": model.name,
                       "description": model.description, "type": model.kind} for model in page.items
                      if self.principal.model in ("", model.id)]
            query = replace(query, cursor=page.next) if page.next else None
        await self.send_json(found)


class _OfModel(DeployHandler):
    """Routes about one model that is there."""

    async def named(self, fields: Fields) -> Model:
        return await self.model_of(fields.needed_text("modelId"), fields.text("projectId"))

    async def version(self, model: Model, fields: Fields) -> Version:
        """The version that is named, else the newest."""
        versions, id = self.services.deployments.versions, fields.text("versionId")
        return await versions.get(id, model=model.id) if id else await versions.latest(model.id)

    async def deployment(self, model: Model) -> dict[str, Any]:
        """How the model's deployment stands, in these clients' words."""
        try:
            found = await self.services.deployments.get(model.id)
        except NotFound:
            return {"status": "not deployed"}
        return {"status": found.state, "versionId": found.version, "plan": found.plan, "runId": found.run,
                "schedule": found.schedule or None, "message": found.error, "restarts": found.restarts,
                "usage": dict(self.services.deployments.usage(model.id))}


class Details(_OfModel):
    async def post(self) -> None:
        model = await self.named(await self.fields())
        kept = await self.services.deployments.versions.list(model.id)
        await self.send_json({
            "id": model.id, "modelId": model.id, "projectId": model.project, "exists": True, "name": model.name,
            "description": model.description, "type": model.kind, "createdAt": times.iso(model.created_at),
            "lifecycle": {"message": model.message, "running": model.running,
                          "start_at": model.started_at and model.started_at.timestamp(),
                          "end_at": model.ended_at and model.ended_at.timestamp()},
            "symbols": model.symbols, "exchanges": model.exchanges, "deployment": await self.deployment(model),
            "versions": [{"versionId": each.id, "number": each.number, "versionDescription": each.description,
                          "pythonVersion": each.python, "size": each.size, "files": each.files,
                          "createdAt": times.iso(each.created_at)} for each in kept]})


class Status(_OfModel):
    async def get(self) -> None:
        self.write_json({"status": "server is running"})

    async def post(self) -> None:
        model = await self.named(await self.fields())
        self.write_json({"modelId": model.id, "projectId": model.project, **await self.deployment(model)})


class StarterModels(DeployHandler):
    def get(self) -> None:
        """None: those that there were are fetched from elsewhere by git, and this server names no other hosts."""
        self.write_json([])


class _Uploading(_OfModel):
    """Routes that bring an archive."""

    @asynccontextmanager
    async def received(self) -> AsyncIterator[Upload]:
        """The upload, taken apart; its file is gone afterwards, unless it became a version."""
        folder = self.context.config.data_dir.absolute() / "archives"
        upload = await self.off_loop(partial(take_apart, self.request.headers.get("Content-Type", ""), self.body_file,
                                             folder))
        try:
            yield upload
        finally:
            if upload.file is not None:
                await self.off_loop(partial(upload.file.unlink, missing_ok=True))

    async def target(self, fields: Fields) -> tuple[Model | None, str]:
        """The model that the upload is for, None for a new one, and its type."""
        given, new, wanted = fields.text("modelId"), bool(fields.switch("createNew")), _type(fields)
        model = None
        if given:
            try:
                model = await self.model_of(given, fields.text("projectId"))
            except NotFound:
                if not new:
                    raise
        elif not new and not fields.text("name"):
            fields.need("modelId")
        if model is not None and wanted and wanted != model.kind:
            raise Invalid(f"This model is a {model.kind}, not a {wanted}.", field="type",
                          remedy="make another model for it")
        return model, model.kind if model else wanted or TYPES[0]

    async def add(self, upload: Upload, model: Model | None, kind: str, description: str) -> tuple[Model, Version]:
        """The upload as a version of its model, which is made when it is new. Nothing is left of one that fails."""
        fields, activity = upload.fields, self.services.activity
        if upload.file is None:
            raise Invalid(f"Missing required argument: {PART}", field=PART, remedy="send the archive as a file")
        name, words = fields.text("name"), fields.text("generalDescription", "description")
        new = model is None
        if model is None:
            id = fields.text("modelId") or None
            try:
                model = await activity.create_model(
                    await self.project_of(fields.text("projectId")), name or "model", description=words or "",
                    kind=kind, dialect="blankly", id=id)
            except Conflict as taken:  # perhaps it was made just now, by another upload of the same program
                try:
                    model, new = await self.model_of(id or "", fields.text("projectId")), False
                except NotFound:
                    raise taken from None
        try:
            version, _ = await self.services.deployments.versions.add(
                model.id, upload.file, file=upload.name, description=description,
                python=fields.text("pythonVersion") or "", by=self.principal.name)
        except WorkbenchError:
            if new:
                await activity.delete_model(model.id)
            raise
        if not new and (name or words):
            model = await activity.change_model(model.id, name=name or None, description=words or None)
        return model, version

    def uploaded(self, model: Model, version: Version, **more: Any) -> None:
        self.succeed(modelId=model.id, versionId=version.id, projectId=model.project, description=version.description,
                     createdAt=times.iso(version.created_at), **more)


class Deploy(_Uploading):
    """A new version, which runs from now on."""

    async def post(self) -> None:
        async with self.received() as upload:
            fields = upload.fields
            model, kind = await self.target(fields)
            plan = plan_of(fields.text("plan") or "", live=True).name
            schedule = _schedule(fields, kind)
            model, version = await self.add(upload, model, kind, fields.text("versionDescription") or "")
        await self.services.deployments.run(version, plan=plan, schedule=schedule, by=self.principal.name)
        self.uploaded(model, version)


class UploadVersion(_Uploading):
    """A new version that does not run yet."""

    async def post(self) -> None:
        async with self.received() as upload:
            model, kind = await self.target(upload.fields)
            model, version = await self.add(upload, model, kind, upload.fields.text("versionDescription") or "")
        self.uploaded(model, version)


class Backtest(_Uploading):
    """A new version, backtested."""

    async def post(self) -> None:
        async with self.received() as upload:
            fields = upload.fields
            model, kind = await self.target(fields)
            args, plan = _arguments(fields), _backtest_plan(fields, kind)
            words = fields.text("backtestDescription") or ""
            model, version = await self.add(upload, model, kind, fields.text("versionDescription") or words)
        run = await self.services.deployments.backtest(version, args, plan=plan, description=words,
                                                       by=self.principal.name)
        self.uploaded(model, version, backtestId=run.id)


class BacktestUploaded(_OfModel):
    async def post(self) -> None:
        fields = await self.fields()
        model = await self.named(fields)
        args, plan = _arguments(fields), _backtest_plan(fields, model.kind)
        version = await self.version(model, fields)
        run = await self.services.deployments.backtest(
            version, args, plan=plan, description=fields.text("backtestDescription") or "", by=self.principal.name)
        self.succeed(modelId=model.id, versionId=version.id, projectId=model.project, backtestId=run.id)


class Run(_OfModel):
    async def post(self) -> None:
        fields = await self.fields()
        model = await self.named(fields)
        schedule, version = _schedule(fields, model.kind), await self.version(model, fields)
        await self.services.deployments.run(version, plan=fields.text("plan") or "", schedule=schedule,
                                            by=self.principal.name)
        self.succeed(modelId=model.id, versionId=version.id, projectId=model.project)


class Kill(_OfModel):
    async def post(self) -> None:
        model = await self.named(await self.fields())
        await self.services.deployments.stop(model.id, by=self.principal.name)
        self.succeed(modelId=model.id, projectId=model.project)


class DeleteModel(_OfModel):
    async def post(self) -> None:
        model = await self.named(await self.fields())
        await self.services.deployments.remove(model.id)
        self.succeed(modelId=model.id, projectId=model.project)


def _type(fields: Fields) -> str:
    """The type that is asked for, "" when none is."""
    found = (fields.text("type") or "").strip().lower()
    if found and found not in TYPES:
        raise Invalid(f"There is no type {found[:40]!r}.", field="type", remedy="types are " + ", ".join(TYPES))
    return found


def _schedule(fields: Fields, kind: str) -> str:
    """When a screener runs; other models run all the time."""
    if kind != "screener":
        return ""
    schedule = fields.needed_text("schedule").strip()
    next_time(schedule, times.now())
    return schedule


def _arguments(fields: Fields) -> dict[str, Any]:
    fields.need("backtestArgs", "backtestingArgs")
    found = fields.raw("backtestArgs", "backtestingArgs")
    if isinstance(found, str):
        with suppress(ValueError):  # strictly: an argument that is no number must not become null
            found = orjson.loads(found)
    if not isinstance(found, dict):
        raise Invalid("backtestArgs is no JSON object.", field="backtestArgs",
                      remedy='write the arguments of .backtest(), such as {"to": "1y"}')
    return found


def _backtest_plan(fields: Fields, kind: str) -> str:
    """Backtests ran on the slowest plan whatever was asked for, so programs name those of live models too."""
    if kind != TYPES[0]:
        raise Invalid(f"A {kind} cannot be backtested.", field="type", remedy="only a strategy can")
    plan = fields.text("plan") or SLOWEST
    return SLOWEST if plan in LIVE_PLANS and plan not in BACKTEST_PLANS else plan_of(plan, live=False).name


_DONE: Final = {"type": "object", "required": ["status", "modelId", "projectId"], "properties": {
    "status": {"type": "string"}, "modelId": {"type": "string"}, "versionId": {"type": "string"},
    "projectId": {"type": "string"}, "timestamp": {"type": "number"}}}
_ITEMS: Final = {"type": "array", "items": {"type": "object"}}
_OBJECT: Final = {"type": "object"}


def routes(services: Services) -> list[Route]:
    """Everything the clients of the Deployment API call."""
    body = {"type": "object", "additionalProperties": True}

    def post(path: str, handler: type[DeployHandler], summary: str, answer: Any = _DONE) -> Route:
        return Route(methods="POST", path=path, handler=handler, auth="deploy", tag=TAG, summary=summary, request=body,
                     request_content=FORMS, answers={200: Answer(doc="done", model=answer)}, errors=(400, 413, 503))

    def upload(path: str, handler: type[DeployHandler], summary: str) -> Route:
        return Route(methods="POST", path=path, handler=handler, auth="deploy", tag=TAG, summary=summary,
                     request=_UPLOAD, request_content=("multipart/form-data",), max_body="upload", spool=True,
                     answers={200: Answer(doc="done", model=_DONE)}, errors=(400, 413, 503))

    def get(path: str, handler: type[DeployHandler], summary: str, answer: Any) -> Route:
        return Route(methods="GET", path=path, handler=handler, auth="deploy", tag=TAG, summary=summary,
                     answers={200: Answer(doc="as asked", model=answer)})

    return with_errors([
        *blankly_deploy_signin.routes(), *blankly_deploy_projects.routes(),
        post("/model/create-model", CreateModel, "Make a model: projectId, type, name, description"),
        post("/model/list", ListModels, "The models of a project: projectId", _ITEMS),
        post("/model/details", Details, "All of a model: projectId, modelId", _OBJECT),
        get("/model/status", Status, "Is the server there", _OBJECT),
        post("/model/status", Status, "How a model's deployment stands: projectId, modelId", _OBJECT),
        get("/model/starter-models", StarterModels, "Models to start from", _ITEMS),
        upload("/model/deploy", Deploy, "Upload a version and run it"),
        upload("/model/upload", UploadVersion, "Upload a version"),
        upload("/model/backtest", Backtest, "Upload a version and backtest it"),
        post("/model/backtestUploadedModel", BacktestUploaded, "Backtest an uploaded version"),
        post("/model/backtest-uploaded-model", BacktestUploaded, "Backtest an uploaded version"),
        post("/model/run", Run, "Run a version: projectId, modelId, versionId, plan"),
        post("/model/kill", Kill, "Stop a model: projectId, modelId"),
        post("/model/delete", DeleteModel, "Delete a model with its versions: projectId, modelId"),
    ])


_UPLOAD: Final = {"type": "object", "required": ["model"], "properties": {
    "model": {"type": "string", "format": "binary"},
    **{name: {"type": "string"} for name in (
        "projectId", "modelId", "type", "plan", "schedule", "pythonVersion", "versionDescription", "name",
        "generalDescription", "createNew", "backtestArgs", "backtestDescription")}}}
