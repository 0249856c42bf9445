"""Uploaded strategies: written with `workbench.strategy`, run in a box, and otherwise strategies like any other.

An uploaded archive whose main script makes strategies (`@workbench.strategy(...)`, see `engine.strategies.python`) is
described once, in a box, when it is uploaded; the description is a file `NAME.json` beside the archive store, where
servers and workers find it. The name is `upload.` and the version's id, and with several strategies in one script a dot
and the function's name. Backtests and sweeps have the step walked over the candles inside the box: what comes out is
advice, and from there on the engine goes on as with its own strategies. Uploaded steps are not compiled, and not
trusted: no network, limits, a folder of their own.
"""

import base64
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from engine import archive
from engine.candles import Candles
from engine.errors import Cancelled, Invalid, WorkbenchError
from engine.model_process import ModelProcess
from engine.reporter import Reporter
from engine.sandbox import HOME, MODEL, Box, interpreter_folders, isolation, plan_of
from engine.strategies.base import Indicator, Parameter, Strategy
from engine.venvs import own_python

if TYPE_CHECKING:
    from engine.advice import Advice

__all__ = ["PREFIX", "UploadedStrategy", "describe", "descriptions", "find", "forget", "makes_strategies",
           "register",
           "uploads_of"]

PREFIX: Final = "upload."
CHILD: Final = Path(__file__).with_name("model_child") / "strategy_main.py"
DESCRIBING: Final = 20.0
"""Seconds that a script may take to make its strategies: somebody waits for the answer to an upload."""

_NAME: Final = re.compile(r"upload\.[0-9a-f]{8,64}(\.[A-Za-z_][A-Za-z0-9_]{0,60})?")
_SIGN: Final = re.compile(r"\b(wb|workbench)\s*\.\s*strategy\b|\bfrom\s+workbench\s+import\b.*\bstrategy\b"
                          r"|\bfrom_function\b")


@dataclass(frozen=True, kw_only=True, eq=False)
class UploadedStrategy(Strategy):
    """A strategy whose step lives in an archive. `uploaded` is that archive, `file` what it was called, `function` the
    step's name in it."""

    uploaded: Path
    file: str
    function: str
    sha256: str

    def load(self) -> Any:
        raise Invalid("an uploaded strategy does not run one candle at a time here", field="strategy",
                      remedy="deploy the model to run it live")

    def source_hash(self) -> str:
        return self.sha256

    def walk(self, params: Mapping[str, Any], candles: Sequence[Candles], merged: np.ndarray,
             reporter: Reporter) -> "Advice":
        """The advice and indicators of the step on these candles, as `engine.advice.walk` gives them."""
        from engine.advice import Advice

        def write(folder: Path) -> None:
            np.save(folder / "merged.npy", merged)
            for number, each in enumerate(candles):
                columns = [each.open, each.high, each.low, each.close, each.volume]
                np.save(folder / f"{number}.npy", np.stack(columns, axis=1))
                np.save(folder / f"{number}.time.npy", each.time)

        job = {"do": "walk", "function": self.function, "params": dict(params), "markets": len(candles)}
        said = _run(self.uploaded, self.file, job, write, reporter)
        parts: dict[str, list[bytes]] = {"exposure": [], "indicators": []}
        for entry in said:
            if entry.get("kind") in parts:
                parts[entry["kind"]].append(base64.b64decode(entry["data"]))
        exposure, indicators = (np.frombuffer(b"".join(found)).copy() for found in parts.values())
        portfolio = self.scope == "portfolio"
        rows = len(merged) if portfolio else sum(map(len, candles))
        wide = rows * (len(candles) if portfolio else 1)
        if len(exposure) != wide or len(indicators) != rows * len(self.indicators):
            raise WorkbenchError("the uploaded strategy gave no whole answer")
        return Advice(exposure=exposure.reshape(rows, -1) if portfolio else exposure,
                      indicators=indicators.reshape(len(self.indicators), rows))


def uploads_of(candles: Path) -> Path:
    """The folder of registered strategies beside a candle store."""
    return candles.absolute().parent / "uploads"


def makes_strategies(source: str) -> bool:
    """Whether a script looks as if it made strategies."""
    return bool(_SIGN.search(source))


def describe(uploaded: Path, file: str) -> list[dict[str, Any]]:
    """The strategies that an archive's main script makes, as `Strategy.describe` says them, with "function". Runs the
    script in a box; raises `Invalid` (field "model") with its own words when it fails."""
    said = _run(uploaded, file, {"do": "describe"}, lambda folder: None, Reporter())
    return [entry["strategy"] for entry in said if entry.get("kind") == "strategy"]


def register(folder: Path, version: str, uploaded: Path, file: str, sha256: str) -> list[str]:
    """Describe an archive and keep the descriptions in `folder`; the names of its strategies."""
    found = describe(uploaded, file)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = []
    for each in found:
        name = f"{PREFIX}{version}" + (f".{each['name']}" if len(found) > 1 else "")
        about = {"name": name, "file": file, "sha256": sha256,
                 "strategy": each | {"name": name, "title": each["title"], "function": each["name"]}}
        part = folder / f".{name}.part"
        part.write_bytes(orjson.dumps(about))
        part.rename(folder / f"{name}.json")
        names.append(name)
    return names


def descriptions(folder: Path) -> list[dict[str, Any]]:
    """What was registered, newest first, as JSON."""
    files = sorted(folder.glob(f"{PREFIX}*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [orjson.loads(path.read_bytes())["strategy"] for path in files]


def forget(folder: Path, version: str) -> None:
    """Remove what is known of a version's strategies, or why it has none."""
    for path in folder.glob(f"{PREFIX}{version}.*"):
        path.unlink(missing_ok=True)


def find(name: str, folder: Path) -> UploadedStrategy:
    """The uploaded strategy of that name. Raises `Invalid` (field "strategy") for an unknown one."""
    path = folder / f"{name}.json"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise Invalid(f"there is no uploaded strategy {name[:80]!r}", field="strategy",
                      remedy="upload it, or look up its name in the list of strategies")
    about = orjson.loads(path.read_bytes())
    told: dict[str, Any] = about["strategy"]
    return UploadedStrategy(
        name=name, title=told["title"], doc=told["doc"], step=_nothing, scope=told["scope"], speeds=("python",),
        parameters=tuple(_parameter(each) for each in told["parameters"]),
        indicators=tuple(Indicator(**each) for each in told["indicators"]), tags=("uploaded",),
        warm_up=lambda params: int(told.get("warm_up") or 0), file=about["file"], function=told["function"],
        uploaded=archive.stored(folder.parent, about["sha256"]), sha256=about["sha256"])


def _parameter(told: Mapping[str, Any]) -> Parameter:
    return Parameter(name=told["name"], type=told["type"], default=told["default"], low=told["low"], high=told["high"],
                     step=told["step"], choices=tuple(told["choices"]), doc=told["doc"])


def _nothing(params: Any, state: Any, bars: Any, advice: Any, out: Any) -> None:
    raise NotImplementedError("an uploaded step runs in its box")


def _run(uploaded: Path, file: str, job: Mapping[str, Any], write: Callable[[Path], None],
         reporter: Reporter) -> list[Mapping[str, Any]]:
    """Have the script do a job in a box; what it said."""
    folder = Path(tempfile.mkdtemp(prefix="strategy-"))
    try:
        folder.chmod(0o755)
        about = archive.inspect(uploaded, name=file)
        archive.unpack(uploaded, folder / "model", name=file)
        data = folder / "data"
        data.mkdir()
        write(data)
        for path in (folder / "model", *(folder / "model").rglob("*"), data, *data.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return _talk(folder / "model", about.main_script, {**job, "data": str(data)}, data, reporter)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _talk(files: Path, script: str, job: Mapping[str, Any], data: Path, reporter: Reporter) -> list[Mapping[str, Any]]:
    boxed = isolation().kind == "bubblewrap"
    root = Path(__file__).resolve().parents[1]
    said: list[Mapping[str, Any]] = []
    errors: list[str] = []
    python = own_python()
    told = {**job, "script": str(Path(MODEL if boxed else files) / script)}
    plan = plan_of("slow", live=False)
    if job["do"] == "describe":
        plan = replace(plan, seconds=DESCRIBING)
    box = Box(plan=plan, network=False, model=files,
              readable=(data, root / "engine", root / "workbench", *interpreter_folders(python)),
              environment={"HOME": HOME if boxed else str(files), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(root),
                           "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1",
                           "NUMBA_CACHE_DIR": "/tmp/numba", "WORKBENCH_JOB": orjson.dumps(told).decode()})

    def on_line(pipe: str, line: str) -> None:
        reporter.log(line)
        errors.append(line)
        del errors[:-20]

    def stopped() -> bool:
        try:
            reporter.progress(0.3, "Running strategy")
        except Cancelled:
            return True
        return False

    ending = ModelProcess(box=box, inner=[str(python), str(CHILD)], slot=os.getpid() % 10_000, folder=files,
                          on_line=on_line, on_entry=said.append, grace=1.0).run(stopped)
    if ending.stopped:
        raise Cancelled("the run was cancelled")
    if ending.reason:
        words = errors[-1] if errors else ending.reason
        raise Invalid(f"the uploaded strategy failed: {words[:500]} ({_place(errors, files) or ending.reason})",
                      field="model",
                      remedy="mend the script and upload it again")
    return said


def _place(lines: Sequence[str], files: Path) -> str:
    """Where in the model's own files the last traceback ends; "" where there is none."""
    own = re.compile(rf' *File "(?:{re.escape(MODEL)}|{re.escape(str(files))})/(.+)", line (\d+)')
    found = [each for line in lines if (each := own.match(line))]
    return f"{found[-1][1]}, line {found[-1][2]}" if found else ""
