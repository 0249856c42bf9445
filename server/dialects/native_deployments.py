"""Uploaded models over the native API: versions, deployments, backtests.

    GET  /workbench/api/plans
    GET  /workbench/api/models/{id}/versions            POST the same ?file=&description=&python=   body: the archive
    GET  /workbench/api/models/{id}/versions/{version}, …/archive, …/file?path=, …/difference?to=
    GET  /workbench/api/deployments, /workbench/api/versions
    GET  /workbench/api/models/{id}/deployment          PUT {"version", "plan", "schedule"}, DELETE stops it
    POST /workbench/api/models/{id}/backtests           {"version", "args", "plan", "description"}
"""

from dataclasses import asdict
from pathlib import Path as FilePath
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from engine.archive import Archive
from engine.deployment import Deployment, Version
from engine.errors import Forbidden, Invalid, NotFound
from engine.sandbox import BACKTEST_PLANS, LIVE_PLANS, isolation
from server.dialects.base import BaseHandler
from server.dialects.native_runs import run_json
from server.dialects.routes import Answer, Path, Query, Route
from server.services import Services
from server.services.versions import UPLOAD

__all__ = ["deployment_json", "routes", "version_json"]

BASE: Final = "/workbench/api"
MODEL: Final = BASE + "/models/{id}"
VERSION: Final = MODEL + "/versions/{version}"
ZIP: Final = "application/zip"


class DeployRequest(BaseModel):
    """What to run: a version (None: the newest), a plan ("": the smallest), five fields of cron ("": all the time)."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[str | None, Field(max_length=64)] = None
    plan: Annotated[str, Field(max_length=32)] = ""
    schedule: Annotated[str, Field(max_length=100)] = ""


class BacktestRequest(BaseModel):
    """A backtest of an uploaded model: `args` are those of its `.backtest()`."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[str | None, Field(max_length=64)] = None
    args: dict[str, Any] = {}
    plan: Annotated[str, Field(max_length=32)] = ""
    description: Annotated[str, Field(max_length=20_000)] = ""


class _OfModel(BaseHandler):
    """Handlers of one model: a key bound to a model or a project sees no other."""

    async def _admitted(self, model: str) -> None:
        found = await self.services.activity.model(model)
        principal = self.principal
        if principal.model not in ("", model):
            raise Forbidden("this token is for another model", remedy="use a token of this model")
        if principal.project not in ("", found.project):
            raise NotFound(f"there is no model {model[:80]!r}")

    async def _version(self, model: str, id: str | None) -> Version:
        await self._admitted(model)
        versions = self.services.deployments.versions
        return await versions.latest(model) if id is None else await versions.get(id, model=model)


class Plans(BaseHandler):
    async def get(self) -> None:
        kept_apart = await self.off_loop(isolation)
        self.write_json({"live": [asdict(plan) for plan in LIVE_PLANS.values()],
                         "backtest": [asdict(plan) for plan in BACKTEST_PLANS.values()],
                         "isolation": asdict(kept_apart)})


class Versions(_OfModel):
    async def get(self, id: str) -> None:
        await self._admitted(id)
        await self.send_json({"items": [version_json(each)
                                        for each in await self.services.deployments.versions.list(id)]})

    async def post(self, id: str) -> None:
        await self._admitted(id)
        if self.body_file is None:
            raise Invalid("the body is empty", field="body", remedy="send a zip or a Python file")
        upload = await self.off_loop(_spooled, self.body_file, self.context.config.data_dir)
        try:
            made, about = await self.services.deployments.versions.add(
                id, upload, file=self.query["file"] or "", description=self.query["description"] or "",
                python=self.query["python"] or "", by=self.principal.name)
        finally:
            await self.off_loop(lambda: upload.unlink(missing_ok=True))
        names, error = await self.services.deployments.versions.strategies(made)
        self.write_json(version_json(made, about) | {"strategies": names, "strategy_error": error}, status=201)


class NewestVersions(BaseHandler):
    async def get(self) -> None:
        await self.send_json({"items": [version_json(each)
                                        for each in await self.services.deployments.versions.newest()]})


class OneVersion(_OfModel):
    async def get(self, id: str, version: str) -> None:
        found = await self._version(id, version)
        names, error = await self.services.deployments.versions.strategies(found)
        await self.send_json(version_json(found, await self.services.deployments.versions.about(found))
                             | {"strategies": names, "strategy_error": error})


class VersionArchive(_OfModel):
    async def get(self, id: str, version: str) -> None:
        """The archive as it was uploaded, secrets and all: for who may deploy."""
        found = await self._version(id, version)
        path = self.services.deployments.versions.path_of(found.sha256)
        name = "model.py" if found.file.endswith(".py") else "model.zip"
        self.set_header("Content-Type", "text/x-python" if name.endswith(".py") else ZIP)
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.set_header("Content-Length", str(found.size))
        with await self.off_loop(path.open, "rb") as file:
            while chunk := await self.off_loop(file.read, 2**18):
                self.write(chunk)
                await self.flush()
        await self.finish()


class VersionFile(_OfModel):
    async def get(self, id: str, version: str) -> None:
        found = await self._version(id, version)
        text = await self.services.deployments.versions.text(found, self.query["path"])
        await self.send_json({"path": self.query["path"], "text": text})


class VersionDifference(_OfModel):
    async def get(self, id: str, version: str) -> None:
        old, new = await self._version(id, version), await self._version(id, self.query["to"])
        found = await self.services.deployments.versions.difference(old, new)
        await self.send_json(asdict(found) | {"from": old.id, "to": new.id})


class DeploymentList(BaseHandler):
    async def get(self) -> None:
        found = await self.services.deployments.list()
        await self.send_json({"items": [deployment_json(each, self.services.deployments.usage(each.model))
                                        for each in found]})


class OneDeployment(_OfModel):
    async def get(self, id: str) -> None:
        await self._admitted(id)
        self._write(await self.services.deployments.get(id))

    async def put(self, id: str) -> None:
        wanted = await self.read_model(DeployRequest)
        version = await self._version(id, wanted.version)
        self._write(await self.services.deployments.run(version, plan=wanted.plan, schedule=wanted.schedule,
                                                        by=self.principal.name))

    async def delete(self, id: str) -> None:
        await self._admitted(id)
        self._write(await self.services.deployments.stop(id, by=self.principal.name))

    def _write(self, found: Deployment) -> None:
        self.write_json(deployment_json(found, self.services.deployments.usage(found.model)))


class ModelBacktests(_OfModel):
    async def post(self, id: str) -> None:
        wanted = await self.read_model(BacktestRequest)
        version = await self._version(id, wanted.version)
        run = await self.services.deployments.backtest(version, wanted.args, plan=wanted.plan,
                                                       description=wanted.description, by=self.principal.name)
        self.write_json(run_json(run), status=201)


def _spooled(body: Any, data_dir: FilePath) -> FilePath:
    """A body, which may lie in memory, as a file of its own beside the archives."""
    folder = data_dir.absolute() / "archives"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    body.seek(0)
    with NamedTemporaryFile(dir=folder, prefix=UPLOAD, delete=False) as file:
        try:
            while chunk := body.read(2**20):
                file.write(chunk)
        except BaseException:
            FilePath(file.name).unlink(missing_ok=True)
            raise
    return FilePath(file.name)


def version_json(version: Version, about: Archive | None = None) -> dict[str, Any]:
    """A version; with `about`, what is in its archive, names and sizes."""
    found = asdict(version)
    if about is not None:
        found["contents"] = [{"path": file.path, "size": file.size, "secret": file.secret} for file in about.files]
        found["manifest"] = dict(about.manifest)
        found["requirements"] = about.requirements
    return found


def deployment_json(found: Deployment, usage: Any) -> dict[str, Any]:
    return asdict(found) | {"usage": dict(usage)}


def routes(services: Services) -> list[Route]:
    """The operations on uploaded models."""
    model = (Path(name="id", doc="the model's id"),)
    one = (*model, Path(name="version", doc="the version's id"))
    version = Answer(doc="the version", model=_VERSION)
    deployment = Answer(doc="how the deployment stands", model=_DEPLOYMENT)
    tag = "deployments"
    return [
        Route(methods="GET", path=f"{BASE}/plans", handler=Plans, auth="read", tag=tag,
              summary="What models may use, and how they are kept apart",
              answers={200: Answer(doc="plans by name; cpu in thousandths of a core, memory and disk in MiB",
                                   model=_PLANS)}),
        Route(methods="GET", path=MODEL + "/versions", handler=Versions, auth="read", tag=tag, parameters=model,
              summary="A model's versions, newest first", answers={200: Answer(doc="versions", model=_ITEMS)},
              errors=(404,)),
        Route(methods="POST", path=MODEL + "/versions", handler=Versions, auth="deploy", tag=tag, parameters=model,
              summary="Upload a version", max_body="upload", spool=True, request={"type": "string"},
              request_content=(ZIP, "text/x-python", "application/octet-stream"),
              description="The body is a zip with a folder `model` (or the files at its top), or one Python file.",
              query=(Query(name="file", high=200, doc="what the file is called"),
                     Query(name="description", high=2000), Query(name="python", high=16, doc="a version such as 3.11")),
              answers={201: version}, errors=(404, 413, 422, 503)),
        Route(methods="GET", path=f"{BASE}/versions", handler=NewestVersions, auth="read", tag=tag,
              summary="The newest version of every uploaded model",
              answers={200: Answer(doc="versions", model=_ITEMS)}),
        Route(methods="GET", path=VERSION, handler=OneVersion, auth="read", tag=tag, parameters=one,
              summary="A version and the names of its files", answers={200: version}, errors=(404,)),
        Route(methods="GET", path=VERSION + "/archive", handler=VersionArchive, auth="deploy", tag=tag,
              parameters=one, summary="The archive as it was uploaded",
              answers={200: Answer(doc="the archive, with the secrets in it", content=(ZIP, "text/x-python"))},
              errors=(404,)),
        Route(methods="GET", path=VERSION + "/file", handler=VersionFile, auth="read", tag=tag, parameters=one,
              summary="One file's text; secrets are not shown",
              query=(Query(name="path", high=400, low=1, required=True, doc="its path in the model's folder"),),
              answers={200: Answer(doc="the text, null when it is none or too long", model=_FILE)},
              errors=(404, 422)),
        Route(methods="GET", path=VERSION + "/difference", handler=VersionDifference, auth="read", tag=tag,
              parameters=one, summary="Which files changed between two versions",
              query=(Query(name="to", high=64, low=1, required=True, doc="the other version's id"),),
              answers={200: Answer(doc="paths", model=_DIFFERENCE)}, errors=(404, 422)),
        Route(methods="GET", path=f"{BASE}/deployments", handler=DeploymentList, auth="read", tag=tag,
              summary="Every deployment", answers={200: Answer(doc="deployments", model=_ITEMS)}),
        Route(methods="GET", path=MODEL + "/deployment", handler=OneDeployment, auth="read", tag=tag,
              parameters=model, summary="How a model's deployment stands", answers={200: deployment}, errors=(404,)),
        Route(methods="PUT", path=MODEL + "/deployment", handler=OneDeployment, auth="deploy", tag=tag,
              parameters=model, summary="Run a version from now on", request=DeployRequest,
              answers={200: deployment}, errors=(400, 404, 413, 422)),
        Route(methods="DELETE", path=MODEL + "/deployment", handler=OneDeployment, auth="deploy", tag=tag,
              parameters=model, summary="Stop a model", answers={200: deployment}, errors=(404,)),
        Route(methods="POST", path=MODEL + "/backtests", handler=ModelBacktests, auth="backtest", tag=tag,
              parameters=model, summary="Backtest an uploaded model", request=BacktestRequest,
              answers={201: Answer(doc="the queued run", model={"type": "object", "required": ["id", "state"]})},
              errors=(400, 404, 413, 422)),
    ]


_ITEMS: Final = {"type": "object", "required": ["items"], "properties": {
    "items": {"type": "array", "items": {"type": "object"}}}}
_VERSION: Final = {"type": "object", "required": ["id", "model", "number", "sha256", "size", "files", "script"]}
_DEPLOYMENT: Final = {"type": "object", "required": ["model", "version", "plan", "wanted", "state", "usage"]}
_PLANS: Final = {"type": "object", "required": ["live", "backtest", "isolation"]}
_FILE: Final = {"type": "object", "required": ["path", "text"], "properties": {
    "path": {"type": "string"}, "text": {"type": ["string", "null"]}}}
_DIFFERENCE: Final = {"type": "object", "required": ["added", "removed", "changed"]}
