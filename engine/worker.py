"""What runs in a pool process: batches of jobs, their reports, and warm-up.

A job is a plain dictionary that travels as JSON-like data. `execute` does one; `run_batch` does several after one
another and reports about each on its own. Nothing here knows which pool carries the reports: `emit` is handed in.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from engine.errors import Cancelled, Invalid, WorkbenchError
from engine.reporter import Reporter

Emit = Callable[[str, str, dict[str, Any]], None]
"""emit(job key, report type, data): types are started, progress, log, metric, and one final type for every job."""

FINAL: Final[frozenset[str]] = frozenset({"done", "failed", "cancelled", "returned", "lost"})
"""`returned` means not begun and free to be given again; `lost` means that its process died while it ran."""

STEPS: Final[tuple[tuple[float, str], ...]] = (
    (0.1, "Initializing real engine"), (0.3, "Loading market data"), (0.95, "Collecting engine results"),
)
"""Progress that every backtest reports, each exactly once and in this order."""

_STEP_OF: Final = {message: fraction for fraction, message in STEPS}
CHATTER_INTERVAL: Final = 0.1
BATCH_PATIENCE: Final = 0.5


class PoolReporter(Reporter):
    """A reporter whose reports leave the process through `emit`.

    Progress between the fixed steps, logs and metrics are chatter: at most about ten progress reports a second leave,
    and at most `chatter_limit` logs and metrics a run, so that a talkative strategy cannot flood the event log.
    `progress` raises `Cancelled` when `cancelled()` says so.
    """

    def __init__(self, key: str, emit: Emit, cancelled: Callable[[], bool], *, chatter_limit: int = 10_000) -> None:
        self._key = key
        self._emit = emit
        self._cancelled = cancelled
        self._chatter_left = chatter_limit
        self._fraction = 0.0
        self._last = time.monotonic()
        self._steps: set[str] = set()

    def progress(self, fraction: float, message: str = "") -> None:
        if self._cancelled():
            raise Cancelled("the run was cancelled")
        if message in _STEP_OF:
            if message in self._steps:
                return
            self._steps.add(message)
            self._fraction = max(self._fraction, _STEP_OF[message])
        else:
            now = time.monotonic()
            fraction = min(float(fraction), 0.99)
            if not fraction > self._fraction or now - self._last < CHATTER_INTERVAL:
                return
            self._fraction = fraction
            self._last = now
        self._emit(self._key, "progress", {"progress": self._fraction, "message": _text(message)})

    def log(self, message: str) -> None:
        if self._spend():
            self._emit(self._key, "log", {"message": _text(message)})

    def metric(self, name: str, value: float) -> None:
        if self._spend():
            number = float(value)
            self._emit(self._key, "metric", {"name": _text(name), "value": number if _finite(number) else None})

    def _spend(self) -> bool:
        if self._cancelled():
            raise Cancelled("the run was cancelled")
        self._chatter_left -= 1
        if self._chatter_left == 0:
            self._emit(self._key, "log", {"message": "This run reports too much; its further logs are left out."})
        return self._chatter_left > 0


def _finite(number: float) -> bool:
    return number - number == 0


def _text(value: object) -> str:
    """Text that every store takes: no lone surrogates, no NUL, not endless."""
    return str(value)[:10_000].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def execute(job: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Do one job and return its small results.

    kind "backtest": {"spec", "candles": root of the candle store, "results": folder to write} ->
    {"metrics", "warnings": count, "rows": {table: rows}}. kind "trials": see `engine.trials.evaluate`.
    Raises the engine's errors.
    """
    if job["kind"] == "backtest":
        return _backtest(job, reporter)
    if job["kind"] == "trials":
        from engine.trials import evaluate

        return evaluate(job, reporter)
    raise Invalid(f"{job['kind']!r} is not a kind of job", field="kind", remedy="kinds are backtest and trials")


def _backtest(job: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    reporter.progress(*STEPS[0])
    from engine.candle_store import CandleStore
    from engine.simulate import run
    from engine.spec import BacktestSpec

    reporter.progress(*STEPS[1])
    spec, store, folder = BacktestSpec.read(job["spec"]), CandleStore(Path(job["candles"])), Path(job["results"])
    answer: Path | None = None
    if spec.fill_model == "gekko" and spec.fill_options.get("config"):
        from engine.gekko_answer import FILE, early_file, write_answer

        answer = early_file(folder.parent.parent, job["run_id"])
        store = write_answer(spec, store, answer, reporter)
    result = run(spec, store, reporter)
    reporter.progress(*STEPS[2])
    shutil.rmtree(folder, ignore_errors=True)
    result.save(folder)
    if answer:
        answer.replace(folder / FILE)
    summary_rows = {name: len(next(iter(table.values()), ())) for name, table in result.tables.items()}
    return {"metrics": {key: _plain(value) for key, value in result.metrics.items()},
            "warnings": len(result.warnings), "rows": summary_rows}


def _plain(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if _finite(number) else None


def run_batch(jobs: Sequence[Mapping[str, Any]], emit: Emit, cancelled: Callable[[str], bool],
              do: Callable[[Mapping[str, Any], Reporter], dict[str, Any]] = execute) -> dict[str, list[Any]]:
    """Do the jobs one after another; each has a unique "key". Returns {key: [final type, data]} of all of them.

    Every job ends in exactly one final report. Once the batch has taken longer than `BATCH_PATIENCE` seconds the
    jobs not begun are given back (`returned`), so that a slow job never holds up those that happened to share its task.
    """
    finals: dict[str, list[Any]] = {}
    begun = time.monotonic()

    def finish(key: str, kind: str, data: dict[str, Any]) -> None:
        finals[key] = [kind, data]
        emit(key, kind, data)

    for position, job in enumerate(jobs):
        key = job["key"]
        if cancelled(key):
            finish(key, "cancelled", {})
        elif position and time.monotonic() - begun > BATCH_PATIENCE:
            finish(key, "returned", {})
        else:
            emit(key, "started", {})
            at = time.monotonic()
            kind, data = _outcome(job, PoolReporter(key, emit, partial(cancelled, key)), do)
            if kind != "done" and "results" in job:
                shutil.rmtree(job["results"], ignore_errors=True)
            finish(key, kind, {**data, "seconds": time.monotonic() - at})
    return finals


def _outcome(job: Mapping[str, Any], reporter: Reporter,
             do: Callable[[Mapping[str, Any], Reporter], dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    try:
        return "done", do(job, reporter)
    except Cancelled:
        return "cancelled", {}
    except WorkbenchError as error:
        return "failed", {"error": _text(error), "code": error.code}
    except MemoryError:
        return "failed", {"error": "not enough memory for this run (shorten the range or use fewer markets)",
                          "code": "memory"}
    except Exception as error:  # the run is at fault, not the pool: its words are the reason people need
        return "failed", {"error": _text(f"{type(error).__name__}: {error}"), "code": "error"}


def keep_compiled(folder: str) -> None:
    """Keep machine code in `folder` unless NUMBA_CACHE_DIR names another. Works only before numba is imported."""
    import os

    os.environ.setdefault("NUMBA_CACHE_DIR", folder)


def warm_up() -> None:
    """Import what every backtest needs and run a tiny one, so that a first run is as quick as the rest."""
    import tempfile

    from engine import vectorbt_parts

    vectorbt_parts.load()

    import numpy as np

    from engine.candle_store import CandleStore
    from engine.candles import Candles
    from engine.model import Market
    from engine.simulate import run
    from engine.spec import BacktestSpec

    bars = 60
    close = 100 + 5 * np.sin(np.arange(bars) / 4)
    market = Market("warm", "UP", "USD")
    candles = Candles(market=market, resolution=86_400, time=np.arange(bars, dtype=np.int64) * 86_400_000_000,
                      open=close, high=close + 1, low=close - 1, close=close, volume=np.full(bars, 1000.0))
    with tempfile.TemporaryDirectory() as folder:
        store = CandleStore(Path(folder) / "candles")
        store.write(candles)
        spec = BacktestSpec(strategy="sma_cross", markets=(market.key,), params={})
        run(spec, store, Reporter()).save(Path(folder) / "result")


class MemoryGuard:
    """A thread that ends this process when it outgrows `limit` bytes (resident) while a job runs.

    The reason is first left in `note`, a file that the server reads, because a process that dies cannot be asked.
    """

    def __init__(self, limit: int, note: Path, *, interval: float = 0.05) -> None:
        self._limit = limit
        self._note = note
        self._interval = interval
        self._done = threading.Event()

    def __enter__(self) -> "MemoryGuard":
        threading.Thread(target=self._watch, name="memory-guard", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        import os
        import signal

        page = os.sysconf("SC_PAGE_SIZE")
        with open("/proc/self/statm", "rb") as statm:
            while not self._done.wait(self._interval):
                statm.seek(0)
                used = int(statm.read().split()[1]) * page
                if used > self._limit:
                    self._note.parent.mkdir(parents=True, exist_ok=True)
                    self._note.write_text(f"memory limit of {self._limit / 2**20:.0f} MiB exceeded "
                                          f"({used / 2**20:.0f} MiB in use)")
                    os.kill(os.getpid(), signal.SIGKILL)
