"""From entries to steps: everything about an entry that can be checked and encoded before the write."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET, Struct

from engine import times
from engine.activity import (
    AnnotationChange,
    AutoPnl,
    Call,
    CustomMetrics,
    Entry,
    Lifecycle,
    LogLine,
    OrderChange,
    OrderPlaced,
    PnlSeries,
    ScreenerResult,
    UsedExchange,
    UsedSymbol,
)
from engine.errors import Invalid, Problem, WorkbenchError
from server.services.activity_orders import changes_of, order_json, order_row, rejection
from server.services.activity_values import Clock, json_text, one_line, text_up_to
from server.store.encoding import decode, encode

__all__ = ["MAX_LINE", "MODEL_ID", "Step", "checked_model", "prepare"]

MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=~-]{0,127}")
RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=~-]{0,63}")
MAX_LINE: Final = 1_000_000  # characters of one log line
MAX_POINTS: Final = 1_000_000
MAX_ERROR: Final = 1000  # characters of `last_error`
_ERROR_TYPES: Final = frozenset({"error", "critical", "fatal", "exception"})
_TRACEBACK: Final = "Traceback (most recent call last)"
_RAISED: Final = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)(?::|$)")
_FAILED: Final = ("error", "Error", "exception", "Exception", "failed", "failure")


class Step(Struct):
    """What one entry does. `kind`: "log", "event", "order", "change", "state" or "pnl".

    data, text: what goes into the event, and its JSON (empty when the write makes it). change: the row of an order,
    the changes to one, of a model's row, or the points of a profit series. error: text for `last_error`; `counts`
    says whether it is one more error or the end of the last.
    """

    index: int
    kind: str
    model: str
    run: str
    type: str
    data: Mapping[str, Any] = {}
    text: str = ""
    change: Any = None
    timed: bool = False
    error: str | None = None
    counts: int = 0


def prepare(entries: Sequence[Entry], model: str, clock: Clock, *,
            atomic: bool) -> tuple[list[Step], dict[int, WorkbenchError]]:
    """Steps of the good entries, errors of the others by index. `model`: for entries that name none.

    atomic: raise the first error; with several entries its fields are named `[index].field`.
    """
    steps: list[Step] = []
    bad: dict[int, WorkbenchError] = {}
    several = len(entries) > 1
    fine: set[tuple[str, str]] = set()
    for index, entry in enumerate(entries):
        try:
            if not entry.model:
                entry = _of_model(entry, model)
            if (entry.model, entry.run) not in fine:
                _check_ids(entry)
                fine.add((entry.model, entry.run))
            steps.append(_MAKERS[type(entry)](index, entry, clock))
        except WorkbenchError as error:
            if atomic:
                raise (placed(error, index) if several else error) from None
            bad[index] = error
    return steps, bad


def placed(error: WorkbenchError, index: int) -> WorkbenchError:
    """The error with its fields named `[index].field`."""
    problems = [Problem(f"[{index}].{each.field}".rstrip("."), each.message, each.remedy) for each in error.problems]
    if isinstance(error, Invalid):
        return type(error)(error.message, field=f"[{index}].{error.field}".rstrip("."), remedy=error.remedy,
                           problems=problems)
    return type(error)(error.message, field=f"[{index}].{error.field}".rstrip("."), remedy=error.remedy)


def checked_model(id: Any, field: str = "model") -> str:
    """A model's id. Raises `Invalid` naming `field`."""
    if not isinstance(id, str) or not MODEL_ID.fullmatch(id):
        raise Invalid(f"{str(id)[:60]!r} cannot be a model's id" if id else "which model?", field=field,
                      remedy="use 1 to 128 letters, digits and . _ : @ + = ~ - beginning with a letter or digit")
    return id


def _of_model(entry: Entry, model: str) -> Entry:
    from msgspec.structs import replace

    return replace(entry, model=checked_model(model))


def _check_ids(entry: Entry) -> None:
    checked_model(entry.model)
    if entry.run and not RUN_ID.fullmatch(entry.run):
        raise Invalid(f"{entry.run[:60]!r} cannot be a run's id", field="run",
                      remedy="use 1 to 64 letters, digits and . _ : @ + = ~ - beginning with a letter or digit")


def _log(index: int, entry: LogLine, clock: Clock) -> Step:
    line, kind = entry.line, entry.type
    if type(line) is not str or len(line) > MAX_LINE:
        text_up_to(line, "line", MAX_LINE)
    if type(kind) is not str or len(kind) > 64:
        text_up_to(kind, "type", 64)
    data = {"line": line, "type": kind, "at": clock.iso(entry.at, "at")}
    if entry.run:
        data["run"] = entry.run
    error, counts = (None, 0) if kind == "stdout" or kind == "info" else _error_of_line(line, kind)
    return Step(index, "log", entry.model, entry.run, "log", data, json_text(data, "line"), None, False, error, counts)


def _error_of_line(line: str, type: str) -> tuple[str | None, int]:
    """What a line says of an error, and whether it is a new one: a traceback's end names what its start counted."""
    type = type.lower()
    if type != "stderr" and type not in _ERROR_TYPES:
        return None, 0
    if _TRACEBACK in line:
        return line.rstrip().rpartition("\n")[2].strip()[:MAX_ERROR], 1
    if type == "stderr":
        return (line.strip()[:MAX_ERROR], 0) if _RAISED.match(line) else (None, 0)
    return (None, 0) if line[:1].isspace() or not line else (line.strip()[:MAX_ERROR], 1)


def _call(index: int, entry: Call, clock: Clock) -> Step:
    type = one_line(entry.type, "type", 200)
    data: dict[str, Any] = {"type": type, "args": entry.args, "response": entry.response,
                            "at": clock.iso(entry.at, "at")}
    if entry.annotation is not None:
        data["annotation"] = text_up_to(entry.annotation, "annotation", 20_000)
    if entry.run:
        data["run"] = entry.run
    text = json_text(data, "args")
    error = _error_of_call(type, entry.response)
    return Step(index, "event", entry.model, entry.run, "call", decode(text), text, None, False, error,
                int(error is not None))


def _error_of_call(type: str, response: Any) -> str | None:
    if isinstance(response, Mapping):
        found = response.get("error") or response.get("exception")
        if found and not isinstance(found, bool):
            return f"{type}: {found}"[:MAX_ERROR]
    elif isinstance(response, str) and _TRACEBACK in response:
        return response.rstrip().rpartition("\n")[2].strip()[:MAX_ERROR]
    if type.endswith(_FAILED):
        return f"{type}: {str(response)[:200]}" if response else type
    return None


def _order(index: int, entry: OrderPlaced, clock: Clock) -> Step:
    row = order_row(entry, clock)
    data = order_json(row, clock.iso(entry.at, "at"), clock.now_iso)
    error = None if row["status"] is None else rejection(row)
    return Step(index, "order", entry.model, entry.run, "order", data, json_text(data, "extra"), row,
                entry.at is not None, error, int(error is not None))


def _order_change(index: int, entry: OrderChange, clock: Clock) -> Step:
    clock.micros(entry.at, "at")
    changes = changes_of(entry.changes)
    error = f"order {entry.id} {changes['status']}" if _turned_down(changes) else None
    return Step(index, "change", entry.model, entry.run, "order", {"id": one_line(entry.id, "id", 200)}, "", changes,
                False, error, int(error is not None))


def _turned_down(changes: Mapping[str, Any]) -> bool:
    return bool(changes.get("status")) and rejection(
        {"status": changes["status"], "id": "", "side": "", "symbol": ""}) is not None


def _annotation(index: int, entry: AnnotationChange, clock: Clock) -> Step:
    text = text_up_to(entry.annotation, "annotation", 20_000)
    data: dict[str, Any] = {"id": one_line(entry.id, "id", 200), "annotation": text, "at": clock.iso(entry.at, "at")}
    if entry.run:
        data["run"] = entry.run
    return Step(index, "change", entry.model, entry.run, "annotation", data, "", {"annotation": text})


def _lifecycle(index: int, entry: Lifecycle, clock: Clock) -> Step:
    change: dict[str, Any] = {}
    if entry.message is not UNSET:
        change["message"] = None if entry.message is None else text_up_to(entry.message, "message", 2000)
    if entry.running is not UNSET:
        if entry.running is not None and type(entry.running) is not bool:
            raise Invalid("this is neither true nor false", field="running", remedy="use true, false or null")
        change["running"] = entry.running
    for name, value in (("started_at", entry.started_at), ("ended_at", entry.ended_at)):
        if value is not UNSET:
            change[name] = None if value is None else times.micros(times.parse(value, field=name))
    return Step(index, "state", entry.model, entry.run, "lifecycle", {"at": clock.iso(entry.at, "at")}, "", change)


def _symbol(index: int, entry: UsedSymbol, clock: Clock) -> Step:
    return Step(index, "state", entry.model, entry.run, "symbol", {"at": clock.iso(entry.at, "at")}, "",
                {"symbols": one_line(entry.symbol, "symbol", 64)})


def _exchange(index: int, entry: UsedExchange, clock: Clock) -> Step:
    return Step(index, "state", entry.model, entry.run, "exchange", {"at": clock.iso(entry.at, "at")}, "",
                {"exchanges": one_line(entry.exchange, "exchange", 64)})


def _metrics(index: int, entry: CustomMetrics, clock: Clock) -> Step:
    found: dict[str, Any] = {}
    if not isinstance(entry.metrics, Mapping) or len(entry.metrics) > 1000:
        raise Invalid("metrics are an object with at most 1000 names", field="metrics", remedy="send fewer")
    for key, value in entry.metrics.items():
        one_line(key, "metrics", 200)
        given = dict(value) if isinstance(value, Mapping) else {"value": value}
        found[key] = {"value": None, "display_name": key, "type": "number"} | given
    return Step(index, "state", entry.model, entry.run, "metrics", {"at": clock.iso(entry.at, "at")}, "",
                {"metrics": decode(encode(found, field="metrics"))})


def _auto_pnl(index: int, entry: AutoPnl, clock: Clock) -> Step:
    if type(entry.enabled) is not bool:
        raise Invalid("this is neither true nor false", field="enabled", remedy="use true or false")
    return Step(index, "state", entry.model, entry.run, "auto-pnl", {"at": clock.iso(entry.at, "at")}, "",
                {"auto_pnl": entry.enabled})


def _pnl(index: int, entry: PnlSeries, clock: Clock) -> Step:
    if not isinstance(entry.values, list) or len(entry.values) > MAX_POINTS:
        raise Invalid(f"values are a list of at most {MAX_POINTS} points", field="values", remedy="send fewer")
    points: dict[int, float] = {}
    for number, point in enumerate(entry.values):
        value = point.get("value") if isinstance(point, Mapping) else None
        if type(value) not in (int, float) or value is None or not -1e300 < value < 1e300:
            raise Invalid("a point is an object with a time and a number as its value", field=f"values[{number}]",
                          remedy='send {"time": 1644682832, "value": 10}')
        points[times.micros(times.parse(point.get("time"), field=f"values[{number}].time"))] = float(value)
    ordered = sorted(points.items())
    data = {"points": len(ordered), "from": times.iso(ordered[0][0]) if ordered else None,
            "to": times.iso(ordered[-1][0]) if ordered else None, "value": ordered[-1][1] if ordered else None,
            "at": clock.iso(entry.at, "at")}
    if entry.run:  # a backtest's series is not the model's
        return Step(index, "state", entry.model, entry.run, "pnl", data, "", {"values": ordered})
    return Step(index, "pnl", entry.model, "", "pnl", data, str(encode(data)), ordered)


def _screener(index: int, entry: ScreenerResult, clock: Clock) -> Step:
    data = {"result": entry.result, "at": clock.iso(entry.at, "at")} | ({"run": entry.run} if entry.run else {})
    text = str(encode(data, field="result"))
    return Step(index, "event", entry.model, entry.run, "screener", decode(text), text)


_MAKERS: Final[Mapping[type, Any]] = {
    LogLine: _log, Call: _call, OrderPlaced: _order, OrderChange: _order_change, AnnotationChange: _annotation,
    Lifecycle: _lifecycle, UsedSymbol: _symbol, UsedExchange: _exchange, CustomMetrics: _metrics, AutoPnl: _auto_pnl,
    PnlSeries: _pnl, ScreenerResult: _screener,
}
