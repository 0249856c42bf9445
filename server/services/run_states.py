"""How a run's state changes: its row and its events, always in one transaction."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select, update

from engine import times
from engine.model import FINISHED
from server.pool import Report
from server.store.bulk import update_row
from server.store.encoding import Encoded, encode
from server.store.events import EventLog
from server.store.tables import runs

__all__ = ["UPLOADED", "apply_reports", "change_state", "stream_of", "take_back"]

UPLOADED: Final = "models"
"""The dialect of runs of uploaded models: they run in boxes of their own, not in the pool."""

_Item = tuple[str, str, Mapping[str, Any], str]
"""An event: stream, type, data and the data's JSON text."""

MAX_ATTEMPTS: Final = 1
MAX_DEATHS: Final = 3


def stream_of(run_id: str) -> str:
    """The name of a run's event stream."""
    return f"run/{run_id}"


def change_state(connection: Connection, events: EventLog, run_id: str, state: str, previous: str | None,
                 **values: Any) -> None:
    """The one place where a run's state changes: row and event in the same transaction.

    `message` goes into the event, `error` into both, the rest into the row.
    """
    data = {"state": state, "previous_state": previous}
    message = values.pop("message", None)
    if message is not None:
        data["message"] = message
    if state != "queued":
        data["error"] = values.get("error")
    if state in FINISHED:
        values["finished_at"] = times.micros(times.now())
    connection.execute(update(runs).where(runs.c.id == run_id).values(state=state, **values))
    events.append(connection, stream_of(run_id), "state", data)


def apply_reports(connection: Connection, events: EventLog, said: Sequence[tuple[Any, Sequence[Report]]],
                  encoded: Mapping[int, Encoded], strikes: dict[str, int]) -> list[str]:
    """Write what the pool said about runs, each a row (id, state, attempts) and its reports in order; the type of the
    final report for each, or "".

    `encoded` holds the data of progress, logs and metrics by `id(report)`. `strikes` counts, for this life of the
    server, how often a worker died with a run, begun or not.
    """
    items: list[_Item] = []
    finals: list[str] = []
    for row, reports in said:
        finals.append(_apply(connection, row, reports, encoded, strikes, items))
    events.append_all(connection, items, times.now())
    return finals


def _apply(connection: Connection, row: Any, reports: Sequence[Report], encoded: Mapping[int, Encoded],
           strikes: dict[str, int], items: list[_Item]) -> str:
    values: dict[str, Any] = {}
    state = row.state
    stream = stream_of(row.id)
    final: Report | None = None
    for report in reports:
        if report.type == "started":
            values |= {"state": "running", "started_at": times.micros(times.now())}
            items.append(_item(stream, "state", {"state": "running", "previous_state": state, "error": None}))
            state = "running"
        elif report.final:
            final = report
            break
        else:
            items.append((stream, report.type, report.data, encoded[id(report)]))
            if report.type == "progress":
                values["progress"] = report.data["progress"]
    if final is not None:
        items += [_item(stream, type, data) for type, data in _end(row, state, final, values, strikes)]
    if values:
        update_row(connection, runs, row.id, values)
    return final.type if final else ""


def _item(stream: str, type: str, data: Mapping[str, Any]) -> _Item:
    return stream, type, data, encode(data)


def _end(row: Any, state: str, final: Report, values: dict[str, Any],
         strikes: dict[str, int]) -> list[tuple[str, Mapping[str, Any]]]:
    """The events of a run's end; `values` for its row are added."""
    items: list[tuple[str, Mapping[str, Any]]] = []

    def become(new: str, error: str | None = None, **more: Any) -> None:
        items.append(("state", {"state": new, "previous_state": state, "error": error}))
        values.update(state=new, error=error, finished_at=times.micros(times.now()), **more)

    def queue_again(message: str, attempts: int) -> None:
        values.update(state="queued", progress=0.0, started_at=None, attempts=attempts)
        if state == "queued":
            items.append(("log", {"message": message}))
        else:
            items.append(("state", {"state": "queued", "previous_state": state, "message": message}))

    if final.type == "done":
        become("completed", metrics=str(encode(final.data.get("metrics", {}))), progress=1.0)
    elif final.type == "failed":
        become("failed", str(final.data["error"]))
    elif final.type == "cancelled":
        become("cancelled")
    elif final.type == "lost":
        begun = final.data.get("begun", True)
        deaths = strikes[row.id] = strikes.get(row.id, 0) + 1
        # A process that died before the run began says nothing of the run, unless it happens again and again.
        if not begun and deaths < MAX_DEATHS:
            queue_again("The worker process died before the run began; queued again", row.attempts)
        elif row.attempts < MAX_ATTEMPTS:
            queue_again("The worker process died; queued again", row.attempts + 1)
        else:
            become("failed", "The worker process died twice while this run was computed "
                             "(out of memory, or a crash in native code)")
    elif state != "queued":
        queue_again("The pool went away; queued again", row.attempts)
    if values.get("state") in FINISHED:
        strikes.pop(row.id, None)
    return items


def take_back(connection: Connection, events: EventLog, *, uploaded: bool = False) -> int:
    """Queue the backtests again that a former life of the server left running, once; the second time they fail.
    Returns how many there were: of the pool, or those of uploaded models, which are not the pool's."""
    whose = runs.c.dialect == UPLOADED if uploaded else runs.c.dialect != UPLOADED
    left = connection.execute(select(runs.c.id, runs.c.attempts).where(
        runs.c.state == "running", runs.c.kind == "backtest", whose)).all()
    for row in left:
        if row.attempts < MAX_ATTEMPTS:
            change_state(connection, events, row.id, "queued", "running", message="server restarted",
                         progress=0.0, started_at=None, attempts=row.attempts + 1)
        else:
            change_state(connection, events, row.id, "failed", "running", error="server restarted")
    return len(left)
