"""One run of an uploaded model, whole: unpack, environment, box, process, end.

The same function runs models in a thread of the server's host and as a task on other machines: what it needs is in the
job, what happens is said through `emit`, and it holds its thread until the model is gone.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from engine import archive, model_scratch
from engine.errors import WorkbenchError
from engine.model_process import ModelProcess, Usage
from engine.sandbox import HOME, MODEL, Box, Plan, interpreter_folders, isolation
from engine.venvs import Venvs

__all__ = ["CHILD", "Emit", "ModelJob", "run"]

CHILD: Final = Path(__file__).with_name("model_child")
"""Our half inside the model's process: the entry point, and the reporter that blankly looks for."""

Emit = Callable[[str, Mapping[str, Any]], None]
"""Hears, in order: "phase" {"message"}, "log" {"line", "type"}, "entry" (an entry's JSON), "progress" {"progress"},
"usage" {"memory", "most", "cpu", "processes", "answers"} and at the end one of "done", "failed", "stopped", each with
{"error", "code", "lines", "dropped", "tracebacks", "memory", "cpu"}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelJob:
    """What to run. `archive` is the uploaded file and `name` what its sender called it; `python` is a version such as
    "3.11" or "" for any; `environment` is added to what the model sees; `args` are those of a backtest; `folders` says
    where environments and scratch files go; `slot` (0 to 9,999) tells models apart that run at once on a machine."""

    kind: Literal["live", "backtest", "screener"]
    archive: Path
    plan: Plan
    venvs: Path
    scratch: Path
    name: str = ""
    python: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    slot: int = 0


def run(job: ModelJob, emit: Emit, stopped: Callable[[], bool] = lambda: False) -> str:
    """See the model through; "done", "failed" or "stopped", which `emit` heard with its reasons. Never raises for what
    is wrong with the model."""
    model_scratch.sweep(job.scratch)
    try:
        with model_scratch.folder(job.scratch) as folder:
            return _run(job, folder, emit, stopped)
    except WorkbenchError as error:
        kind = "stopped" if stopped() else "failed"
        emit(kind, _end(str(error)))
        return kind
    except OSError as error:
        emit("failed", _end(f"the model could not be started: {error}"))
        return "failed"


def _end(error: str, **more: Any) -> dict[str, Any]:
    return {"error": error, "code": None, "lines": 0, "dropped": 0, "tracebacks": 0, "memory": 0, "cpu": 0.0} | more


def _run(job: ModelJob, folder: Path, emit: Emit, stopped: Callable[[], bool]) -> str:
    files, temporary = folder / "model", folder / "tmp"
    about = archive.inspect(job.archive, name=job.name)
    archive.unpack(job.archive, files, name=job.name)
    folder.chmod(0o755)  # the model's user id reads it from inside the box
    _readable(files)
    temporary.mkdir()
    requirements = (files / about.requirements).read_text(errors="replace") if about.requirements else ""
    if requirements.strip():
        emit("phase", {"message": "Installing Dependencies"})
    venvs = Venvs(job.venvs)
    environment = venvs.get(job.python or _version(about.manifest), requirements,
                            lambda line: emit("log", {"line": line, "type": "install"}), stopped)
    if stopped():
        emit("stopped", _end(""))
        return "stopped"
    boxed = isolation().kind == "bubblewrap"
    if not boxed:
        emit("log", {"line": isolation().reason, "type": "warning"})
    work = HOME if boxed else str(files)
    told = {"kind": job.kind, "model": MODEL if boxed else str(files), "work": work, "script": about.main_script,
            "folder": _folder(about.manifest), "args": dict(job.args), "blankly": "blankly" in requirements.lower()}
    box = Box(plan=job.plan, network=job.kind != "backtest", model=files,
              readable=(CHILD, *interpreter_folders(environment.python)), environment={
                  "PATH": f"{environment.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin", "HOME": work, "LANG": "C.UTF-8",
                  "PYTHONPATH": str(CHILD), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
                  "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
                  **({} if boxed else {"TMPDIR": str(temporary)}),
                  **({"BACKTESTING": "1"} if job.kind == "backtest" else {}),
                  **job.environment, "WORKBENCH_JOB": json.dumps(told)})
    emit("phase", {"message": "Monitoring Active"})
    process = ModelProcess(
        box=box, inner=[str(environment.python), str(CHILD / "model_main.py")], slot=job.slot, folder=files,
        disk=folder, mark=str(folder),
        on_line=lambda pipe, text: emit("log", {"line": text, "type": pipe}),
        on_entry=lambda entry: emit("entry", entry), on_progress=lambda done: emit("progress", {"progress": done}),
        on_usage=lambda usage: emit("usage", _usage(usage)))
    with venvs.held(environment):
        ending = process.run(stopped)
    kind = "stopped" if ending.stopped else "failed" if ending.reason else "done"
    emit(kind, _end(ending.reason, code=ending.code, lines=ending.lines, dropped=ending.dropped,
                    tracebacks=ending.tracebacks, memory=ending.usage.most, cpu=ending.usage.cpu))
    return kind


def _usage(usage: Usage) -> dict[str, Any]:
    return {"memory": usage.memory, "most": usage.most, "cpu": usage.cpu, "processes": usage.processes,
            "answers": usage.answers}


def _version(manifest: Mapping[str, Any]) -> str:
    """The Python version that the manifest asks for; "" for one it does not name."""
    return str(manifest.get("python_version") or "").strip()


def _folder(manifest: Mapping[str, Any]) -> str:
    folder = str(manifest.get("working_directory") or ".").strip("/") or "."
    return "." if ".." in Path(folder).parts else folder


def _readable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)

