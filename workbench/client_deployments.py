"""Uploaded models over the wire: versions, deployments, backtests. One part for programs with an event loop, one for
notebooks."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine import times
from engine.activity import Model
from engine.deployment import Deployment, Version
from engine.errors import WorkbenchError
from engine.model import Run as RunRecord
from workbench.client_models import path_of
from workbench.packing import packed
from workbench.transport import Transport

if TYPE_CHECKING:
    import pandas as pd

    from workbench.client import AsyncClient
    from workbench.loop import LoopThread
    from workbench.models import LiveModel
    from workbench.runs import Run

__all__ = ["Deployed", "DeploymentCalls", "DeploymentTables", "ModelDeployment", "Standing", "VersionDetails"]

API: Final = "/workbench/api"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a deployment stands, and what its process uses now: memory and most (bytes), cpu (seconds), processes; empty
    when it is down."""

    deployment: Deployment
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionDetails:
    """A version and what is in its archive: `contents` are dictionaries with path, size (bytes) and secret."""

    version: Version
    contents: tuple[Mapping[str, Any], ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    requirements: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """What `deploy` made: the model, its new version, and the deployment (None when it was not to run)."""

    model: Model
    version: Version
    deployment: Deployment | None = None


def _known(kind: Any, data: Mapping[str, Any], *instants: str) -> Any:
    values = {name: value for name, value in data.items() if name in kind.__dataclass_fields__}
    for name in instants:
        if values.get(name) is not None and not isinstance(values[name], datetime):
            values[name] = times.parse(values[name], field=name)
    return kind(**values)


def version_of(data: Mapping[str, Any]) -> Version:
    """The version of its JSON."""
    return _known(Version, data, "created_at")


def deployment_of(data: Mapping[str, Any]) -> Deployment:
    """The deployment of its JSON."""
    return _known(Deployment, data, "next_at", "changed_at")


def _standing(data: Mapping[str, Any]) -> Standing:
    return Standing(deployment=deployment_of(data), usage=data.get("usage") or {})


def _details(data: Mapping[str, Any]) -> VersionDetails:
    return VersionDetails(version=version_of(data), contents=tuple(data.get("contents") or ()),
                          manifest=data.get("manifest") or {}, requirements=str(data.get("requirements") or ""))


def _version_path(model: str, version: str, *more: str) -> str:
    return path_of(model, "versions", version, *more)


class DeploymentCalls:
    """The part of `AsyncClient` that is about uploaded models."""

    _http: Transport

    # -- versions ------------------------------------------------------------------------------------------------

    async def versions(self, model: str) -> list[Version]:
        """All versions of a model, newest first."""
        return [version_of(entry) for entry in (await self._http.json("GET", path_of(model, "versions")))["items"]]

    async def newest_versions(self) -> dict[str, Version]:
        """The newest version of every model that has one, by the model's id."""
        found = (await self._http.json("GET", f"{API}/versions"))["items"]
        return {entry["model"]: version_of(entry) for entry in found}

    async def version(self, model: str, version: str) -> VersionDetails:
        """One version and the names of its files."""
        return _details(await self._http.json("GET", _version_path(model, version)))

    async def upload_version(self, model: str, body: bytes, *, file: str = "", description: str = "",
                             python: str = "") -> VersionDetails:
        """Upload a version: the bytes of a zip or of one Python file. `python` is a version such as "3.11".

        Raises `Invalid` and `TooLarge` for what is not taken; then nothing is kept."""
        return _details(await self._http.json(
            "POST", path_of(model, "versions"), content=body, headers={"Content-Type": "application/octet-stream"},
            params={"file": file[:200], "description": description, "python": python}))

    async def download_version(self, model: str, version: str) -> bytes:
        """The archive as it was uploaded, with the secrets in it."""
        return (await self._http.request("GET", _version_path(model, version, "archive"))).content

    async def version_file(self, model: str, version: str, path: str) -> str | None:
        """The text of one file of a version, None when it is none or too long; secrets are not shown."""
        return (await self._http.json("GET", _version_path(model, version, "file"), params={"path": path}))["text"]

    async def version_difference(self, model: str, old: str, new: str) -> dict[str, list[str]]:
        """Which files changed between two versions: added, removed, changed."""
        return await self._http.json("GET", _version_path(model, old, "difference"), params={"to": new})

    # -- running -------------------------------------------------------------------------------------------------

    async def plans(self) -> dict[str, Any]:
        """What models may use: `live` and `backtest` plans (cpu in thousandths of a core, memory and disk in MiB), and
        under `isolation` how they are kept apart."""
        return await self._http.json("GET", f"{API}/plans")

    async def deployments(self) -> list[Standing]:
        """Every deployment, the one changed last first."""
        return [_standing(entry) for entry in (await self._http.json("GET", f"{API}/deployments"))["items"]]

    async def deployment(self, model: str) -> Standing:
        """How a model's deployment stands; raises `NotFound` for a model that was never run."""
        return _standing(await self._http.json("GET", path_of(model, "deployment")))

    async def run_model(self, model: str, *, version: str | None = None, plan: str = "",
                        schedule: str = "") -> Deployment:
        """Have a version (None: the newest) run from now on, in place of the one that does. `schedule` is five fields
        of cron in UTC; "" runs all the time."""
        body = {"version": version, "plan": plan, "schedule": schedule}
        return deployment_of(await self._http.json("PUT", path_of(model, "deployment"), json=body))

    async def stop_model(self, model: str) -> Deployment:
        """Have a model run no more."""
        return deployment_of(await self._http.json("DELETE", path_of(model, "deployment")))

    async def submit_model_backtest(self, model: str, args: Mapping[str, Any] | None = None, *,
                                    version: str | None = None, plan: str = "",
                                    description: str = "") -> RunRecord:
        """Queue a backtest of a version (None: the newest); `args` are those of its `.backtest()`."""
        from workbench.client import run_of

        body = {"args": dict(args or {}), "version": version, "plan": plan, "description": description}
        return run_of(await self._http.json("POST", path_of(model, "backtests"), json=body))

    async def deploy(self, thing: Any, *, name: str = "", model: str | None = None, project: str | None = None,
                     description: str = "", python: str = "", plan: str = "", schedule: str = "",
                     requirements: Sequence[str] = (), run: bool = True) -> Deployed:
        """Upload a model and have it run.

        `thing` is the path of a folder, a zip or a Python file, or a class or function of a notebook (then
        `requirements` names what to install for it). It becomes a version of `model` (an id), or of the one model
        called `name` in the project, which is made when there is none; `name` is that of the file or object unless
        given. Raises `Invalid` and `TooLarge` for what cannot be taken, before anything is sent.
        """
        with ExitStack() as stack:
            made = await asyncio.to_thread(stack.enter_context, packed(thing, requirements=requirements, live=run))
            body = await asyncio.to_thread(made.read)
            return await self.deploy_file(body, file=made.file, name=name or made.name, model=model, project=project,
                                          description=description, python=python, plan=plan, schedule=schedule, run=run)

    async def deploy_file(self, body: bytes, *, file: str, name: str, model: str | None = None,
                          project: str | None = None, description: str = "", python: str = "", plan: str = "",
                          schedule: str = "", run: bool = True) -> Deployed:
        """`deploy` for the bytes of a zip or of one Python file. A model that was made for what is then refused is
        gone again."""
        owner, fresh = await self._owner(model, name, project)
        try:
            found = await self.upload_version(owner.id, body, file=file, description=description, python=python)
            deployment = await self.run_model(owner.id, version=found.version.id, plan=plan,
                                              schedule=schedule) if run else None
        except WorkbenchError:
            if fresh:
                await self.delete_model(owner.id)  # type: ignore[attr-defined]  # of `ModelCalls`
            raise
        return Deployed(model=owner, version=found.version, deployment=deployment)

    async def _owner(self, model: str | None, name: str, project: str | None) -> tuple[Model, bool]:
        """The model that a version is for, and whether it was made for it."""
        ask: Any = self  # with `ModelCalls` beside it
        if model is not None:
            return await ask.model(model), False
        where = project or "default"
        cursor: str | None = None
        same: list[Model] = []
        while True:
            page = await ask.models(project=where, text=name, limit=1000, cursor=cursor)
            same += [each for each in page.items if each.name == name]
            cursor = page.next
            if cursor is None:
                break
        if len(same) == 1:
            return same[0], False
        return await ask.create_model(name, project=where), True


class DeploymentTables:
    """The part of `Client` that is about uploaded models."""

    if TYPE_CHECKING:
        asynchronous: AsyncClient
        _loop: LoopThread

    def deploy(self, thing: Any, **words: Any) -> "LiveModel":
        """Upload a model and have it run: a folder, a zip, a Python file, or a class or function of this notebook.

        Words are `name`, `model` (an id, for a new version of it), `project`, `description`, `python`, `plan`,
        `schedule`, `requirements` (what to install for a class or function) and `run` (False: upload only); see
        `AsyncClient.deploy`. Gives the model: `.logs()`, `.live()`, `.backtest(…)`, `.stop()`.
        """
        from workbench.models import LiveModel

        return LiveModel(self, self._loop.call(self.asynchronous.deploy(thing, **words)).model)  # type: ignore[arg-type]

    def run_model(self, id: str, **words: Any) -> Deployment:
        """Have a version run from now on: `version`, `plan`, `schedule`."""
        return self._loop.call(self.asynchronous.run_model(id, **words))

    def stop_model(self, id: str, *, wait: bool = True, patience: float = 30.0) -> Deployment:
        """Have a model run no more; with `wait`, until its process has ended (at most `patience` seconds)."""
        async def stop() -> Deployment:
            found = await self.asynchronous.stop_model(id)
            deadline = asyncio.get_running_loop().time() + patience
            while wait and found.state == "stopping" and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.05)
                found = (await self.asynchronous.deployment(id)).deployment
            return found

        return self._loop.call(stop())

    def backtest_model(self, id: str, args: Mapping[str, Any] | None = None, *, wait: bool = True,
                       progress: bool | None = None, **words: Any) -> "Run":
        """Backtest an uploaded model: `args` are those of its `.backtest()`; words are `version`, `plan`,
        `description`. Shows progress and gives the finished run; an interrupt cancels it. Raises `RunFailed`."""
        from workbench.runs import Run

        run = Run(self, self._loop.call(  # type: ignore[arg-type]
            self.asynchronous.submit_model_backtest(id, args, **words)))
        return run.wait(progress=progress) if wait else run

    def versions(self, id: str) -> "pd.DataFrame":
        """The versions of a model, newest first."""
        import pandas as pd

        columns = ["id", "number", "description", "python", "file", "size", "files", "script", "by", "created_at"]
        found = self._loop.call(self.asynchronous.versions(id))
        return pd.DataFrame([{name: getattr(each, name) for name in columns} for each in found],
                            columns=columns).set_index("number")

    def download_version(self, id: str, version: str, path: str | Path) -> Path:
        """Write a version's archive, with the secrets in it, to a file that only you can read."""
        target = Path(path)
        body = self._loop.call(self.asynchronous.download_version(id, version))
        target.touch(mode=0o600)
        target.write_bytes(body)
        return target

    def deployment(self, id: str) -> Standing:
        """How a model's deployment stands, and what it uses."""
        return self._loop.call(self.asynchronous.deployment(id))

    def deployments(self) -> "pd.DataFrame":
        """Every deployment as a table; memory in MiB, cpu in seconds."""
        import pandas as pd

        rows = []
        for each in self._loop.call(self.asynchronous.deployments()):
            found = each.deployment
            rows.append({"model": found.model, "state": found.state, "plan": found.plan, "schedule": found.schedule,
                         "restarts": found.restarts, "memory": each.usage.get("memory", 0) / 2**20 or None,
                         "cpu": each.usage.get("cpu"), "error": found.error, "version": found.version,
                         "run": found.run, "changed_at": found.changed_at})
        columns = ["model", "state", "plan", "schedule", "restarts", "memory", "cpu", "error", "version", "run",
                   "changed_at"]
        return pd.DataFrame(rows, columns=columns).set_index("model")

    def plans(self) -> "pd.DataFrame":
        """What models may use: cpu in thousandths of a core, memory and disk in MiB, seconds (None: no limit)."""
        import pandas as pd

        told = self._loop.call(self.asynchronous.plans())
        return pd.DataFrame([{"for": kind, **plan} for kind in ("live", "backtest") for plan in told[kind]]
                            ).set_index(["for", "name"])


class ModelDeployment:
    """The part of a notebook's model that is about its upload."""

    if TYPE_CHECKING:
        _client: Any

        @property
        def id(self) -> str: ...

    def deployment(self) -> Standing:
        """How it stands, and what it uses."""
        return self._client.deployment(self.id)

    def versions(self) -> "pd.DataFrame":
        """Its versions, newest first."""
        return self._client.versions(self.id)

    def run(self, **words: Any) -> Deployment:
        """Have a version run from now on: `version`, `plan`, `schedule`."""
        return self._client.run_model(self.id, **words)

    def stop(self, *, wait: bool = True) -> Deployment:
        """Have it run no more."""
        return self._client.stop_model(self.id, wait=wait)

    def backtest(self, args: Mapping[str, Any] | None = None, **words: Any) -> "Run":
        """Backtest it; `args` are those of its `.backtest()`."""
        return self._client.backtest_model(self.id, args, **words)
