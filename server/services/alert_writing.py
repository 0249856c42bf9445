"""What detection writes: positions, alerts and events, always together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from engine import alert_life, times
from engine.alert_life import (
    DETECTED_AT,
    ENDED_AT,
    ENTRY,
    EXIT,
    LIFE,
    REASON,
    REASONS,
    SIDE,
    START,
    STARTED_AT,
    STATE,
    STATE_NAMES,
    STOP,
    TARGET,
    TRAILING,
)
from engine.alerts import Alert, gain_of, r_of
from engine.errors import Conflict
from server.services.alert_rows import STREAM, alert_of, values_of
from server.store.events import EventLog
from server.store.tables.alerts import alerts, detections

__all__ = [
    "DetectionRow", "Moved", "end_alert", "put_detection", "read_detection", "read_detections",
    "remove_detection", "write_moves",
]

Key = tuple[str, str]
LAST_CLOSE: Final = 8  # where a gathered bar keeps it (engine.alert_walk.LAST; that module needs the compiler)


@dataclass(kw_only=True, slots=True, eq=False)
class DetectionRow:
    """A row of `detections` as it was last read or written."""

    market: str
    detector: str
    state: str
    params: Mapping[str, Any]
    resolution: int
    bar: int
    instrument: str
    ticker: str
    owner: str
    created_at: int
    source_hash: str
    at: int | None
    late: int
    gathered: bytes | None
    memory: bytes | None
    life: bytes | None
    alert_id: int | None

    @property
    def key(self) -> Key:
        return self.market, self.detector


_NAMES: Final = tuple(field.name for field in fields(DetectionRow))
_COLUMNS: Final = tuple(detections.c[name] for name in _NAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """One step in the life of a slot's alert: the state it is in now, its life, and why."""

    row: DetectionRow
    state: str
    life: Sequence[float]
    reason: str


def _row_of(row: Any) -> DetectionRow:
    return DetectionRow(**dict(zip(_NAMES, row, strict=True)))


def read_detections(connection: Connection, *, off: bool = True) -> list[DetectionRow]:
    """All rows, by market and detector; without those that are off unless `off`."""
    query = select(*_COLUMNS).order_by(detections.c.market, detections.c.detector)
    return [_row_of(row) for row in connection.execute(query if off else query.where(detections.c.state != "off"))]


def read_detection(connection: Connection, key: Key) -> DetectionRow | None:
    """One row, or None."""
    row = connection.execute(select(*_COLUMNS).where(
        detections.c.market == key[0], detections.c.detector == key[1])).one_or_none()
    return None if row is None else _row_of(row)


def put_detection(connection: Connection, key: Key, values: Mapping[str, Any]) -> None:
    """Make or change a row."""
    where = (detections.c.market == key[0], detections.c.detector == key[1])
    if not connection.execute(update(detections).where(*where).values(**values)).rowcount:
        connection.execute(insert(detections).values(market=key[0], detector=key[1], **values))


def remove_detection(connection: Connection, key: Key) -> int:
    """Remove a row; how many there were."""
    return connection.execute(delete(detections).where(
        detections.c.market == key[0], detections.c.detector == key[1])).rowcount


def end_alert(connection: Connection, events: EventLog, key: Key) -> None:
    """Switch one row off: its open alert ends at the last close it saw, its memory is dropped."""
    row = read_detection(connection, key)
    if row is None or row.state == "off":
        return
    if row.life is not None and row.alert_id is not None and row.gathered is not None:
        life = np.frombuffer(row.life, np.float64).copy()
        at = float((row.at or 0) + row.resolution * times.SECOND)
        alert_life.switch_off(life, float(np.frombuffer(row.gathered, np.float64)[LAST_CLOSE]), at)
        _move(connection, events, row.alert_id, Moved(
            row=row, state=STATE_NAMES[int(life[STATE])], life=life.tolist(), reason=REASONS[int(life[REASON])]))
    put_detection(connection, key, {"state": "off", "gathered": None, "memory": None, "life": None, "alert_id": None})


_SAVE: Final = update(detections).where(
    detections.c.market == bindparam("of_market"), detections.c.detector == bindparam("of_detector"))


def write_moves(connection: Connection, events: EventLog, rows: Mapping[Key, DetectionRow],
                kept: Sequence[Mapping[str, Any]], moves: Sequence[Moved]) -> dict[Key, int | None]:
    """Positions, alerts and events of one evaluation, inside a write; the open alert of every row that moved.

    `rows` is what the evaluation began from, `kept` what it left (see `engine.alert_worker`). Raises `Conflict`, and
    writes nothing, when a row has moved on meanwhile: then somebody else has taken in candles.
    """
    found = {(row.market, row.detector): (row.at, row.state) for row in connection.execute(
        select(detections.c.market, detections.c.detector, detections.c.at, detections.c.state)
        .where(detections.c.state != "off"))}
    for key, row in rows.items():
        if found.get(key) != (row.at, row.state):
            raise Conflict(f"the detection of {row.detector} on {row.market} has moved on meanwhile")
    open_alerts: dict[Key, int | None] = {}
    for move in moves:
        key = move.row.key
        if move.state == "working":
            open_alerts[key] = _begin(connection, events, move)
            continue
        id = open_alerts.get(key, move.row.alert_id)
        if id is None:
            raise Conflict(f"an alert of {move.row.detector} on {move.row.market} is not known")
        _move(connection, events, id, move)
        open_alerts[key] = id if move.state == "onGoing" else None
    plain, whole = [], []
    for each in kept:
        key = (each["market"], each["detector"])
        values = {"of_market": key[0], "of_detector": key[1], "at": each["at"], "late": each["late"],
                  "gathered": each["gathered"], "life": each["life"],
                  "alert_id": open_alerts.get(key, rows[key].alert_id)}
        if each["memory"] is None:
            plain.append(values)
        else:
            whole.append(values | {"memory": each["memory"], "source_hash": rows[key].source_hash})
    for several in (plain, whole):
        if several:
            connection.execute(_SAVE, several)
    return open_alerts


def _begin(connection: Connection, events: EventLog, move: Moved) -> int:
    life, row = move.life, move.row
    trailing = life[TRAILING]
    alert = Alert(
        id=0, instrument=row.instrument, ticker=row.ticker, market=row.market,
        duration_strategy=row.detector.rpartition("_")[2], detector=row.detector,
        direction="BUY" if life[SIDE] > 0 else "SELL", start=life[START], target=life[TARGET], stop=life[STOP],
        trailing=trailing if trailing == trailing else None, detected_at=times.instant(int(life[DETECTED_AT])),
        reason=move.reason)
    id = connection.execute(insert(alerts).values(values_of(alert)).returning(alerts.c.id)).scalar_one()
    events.append(connection, STREAM, "working", replace(alert, id=id).as_json())
    return int(id)


def _move(connection: Connection, events: EventLog, id: int, move: Moved) -> None:
    life = move.life
    assert len(life) == LIFE
    alert = alert_of(connection.execute(select(alerts).where(alerts.c.id == id)).one())
    if move.state == "onGoing":
        moved = replace(alert, state="onGoing", started_at=times.instant(int(life[STARTED_AT])), entry=life[ENTRY])
    else:
        reason = f"{alert.reason}; {move.reason}" if alert.reason else move.reason
        moved = replace(alert, state=move.state, ended_at=times.instant(int(life[ENDED_AT])), reason=reason)  # type: ignore[arg-type]
        if move.state == "closed":
            gain = gain_of(alert.direction, life[ENTRY], life[EXIT])
            moved = replace(moved, exit=life[EXIT], gain=gain, r=r_of(gain, alert.start, alert.stop))
    connection.execute(update(alerts).where(alerts.c.id == id).values(values_of(moved)))
    events.append(connection, STREAM, moved.state, moved.as_json())
