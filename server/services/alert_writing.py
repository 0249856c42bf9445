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
from server.store.engines import driver
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
        _move_all(connection, events, [Moved(
            row=row, state=STATE_NAMES[int(life[STATE])], life=life.tolist(), reason=REASONS[int(life[REASON])])])
    put_detection(connection, key, {"state": "off", "gathered": None, "memory": None, "life": None, "alert_id": None})


_HERE: Final = (detections.c.market == bindparam("of_market"), detections.c.detector == bindparam("of_detector"))
_SAVE: Final = update(detections).where(*_HERE)
# The same for SQLite's driver: thousands of rows a minute, and SQLAlchemy would take longer than SQLite.
_SAVE_SQLITE: Final = ("UPDATE detections SET at = :at, late = :late, gathered = :gathered, life = :life, "
                       "alert_id = :alert_id{more} WHERE market = :of_market AND detector = :of_detector")
_MEMORY: Final = ", memory = :memory, source_hash = :source_hash"
_POSITIONS: Final = select(detections.c.market, detections.c.detector, detections.c.at, detections.c.state).where(
    detections.c.state != "off")
_CHANGING: Final = ("state", "started_at", "ended_at", "entry", "exit", "gain", "r", "reason")
_UPDATE: Final = update(alerts).where(alerts.c.id == bindparam("of_id"))


def write_moves(connection: Connection, events: EventLog, rows: Mapping[Key, DetectionRow],
                kept: Sequence[Mapping[str, Any]], moves: Sequence[Moved]) -> dict[Key, int | None]:
    """Positions, alerts and events of one evaluation, inside a write; the open alert of every row that moved.

    `rows` is what the evaluation began from, `kept` what it left (see `engine.alert_worker`). Raises `Conflict`, and
    writes nothing, when a row has moved on meanwhile: then somebody else has taken in candles.
    """
    found = {(row[0], row[1]): (row[2], row[3]) for row in connection.execute(_POSITIONS)}
    for key, row in rows.items():
        if found.get(key) != (row.at, row.state):
            raise Conflict(f"the detection of {row.detector} on {row.market} has moved on meanwhile")
    open_alerts = _move_all(connection, events, moves)
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
    for several, more in ((plain, ""), (whole, _MEMORY)):
        if several and connection.dialect.name == "sqlite":
            driver(connection).executemany(_SAVE_SQLITE.format(more=more), several)
        elif several:
            connection.execute(_SAVE, several)
    return open_alerts


def _move_all(connection: Connection, events: EventLog, moves: Sequence[Moved]) -> dict[Key, int | None]:
    """Write down what alerts did, in order: those that begin, then the last state of each that went on."""
    if not moves:
        return {}
    begun = [_begun(move) for move in moves if move.state == "working"]
    ids = iter(connection.execute(insert(alerts).returning(alerts.c.id, sort_by_parameter_order=True),
                                  [values_of(alert) for alert in begun]).scalars().all() if begun else ())
    new = iter(begun)
    before = {move.row.alert_id for move in moves} - {None}
    known = {row.id: alert_of(row) for row in connection.execute(select(alerts).where(alerts.c.id.in_(before)))}
    open_alerts: dict[Key, int | None] = {}
    changed: set[int] = set()
    told: list[tuple[str, dict[str, Any]]] = []
    for move in moves:
        key = move.row.key
        if move.state == "working":
            id = next(ids)
            known[id] = replace(next(new), id=id)
        else:
            there = open_alerts.get(key, move.row.alert_id)
            if there is None or there not in known:
                raise Conflict(f"an alert of {move.row.detector} on {move.row.market} is not known")
            id = there
            known[id] = _moved(known[id], move)
            changed.add(id)
        open_alerts[key] = None if known[id].ended else id
        told.append((known[id].state, known[id].as_json()))
    if changed:
        written = [(id, values_of(known[id])) for id in sorted(changed)]
        connection.execute(_UPDATE, [{"of_id": id} | {name: values[name] for name in _CHANGING}
                                     for id, values in written])
    events.append_many(connection, STREAM, told)
    return open_alerts


def _begun(move: Moved) -> Alert:
    life, row = move.life, move.row
    trailing = life[TRAILING]
    return Alert(
        id=0, instrument=row.instrument, ticker=row.ticker, market=row.market,
        duration_strategy=row.detector.rpartition("_")[2], detector=row.detector,
        direction="BUY" if life[SIDE] > 0 else "SELL", start=life[START], target=life[TARGET], stop=life[STOP],
        trailing=trailing if trailing == trailing else None, detected_at=times.instant(int(life[DETECTED_AT])),
        reason=move.reason)


def _moved(alert: Alert, move: Moved) -> Alert:
    life = move.life
    if move.state == "onGoing":
        return replace(alert, state="onGoing", started_at=times.instant(int(life[STARTED_AT])), entry=life[ENTRY])
    reason = f"{alert.reason}; {move.reason}" if alert.reason else move.reason
    ended = times.instant(int(life[ENDED_AT]))
    if move.state == "aborted":
        return replace(alert, state="aborted", ended_at=ended, reason=reason)
    gain = gain_of(alert.direction, life[ENTRY], life[EXIT])
    return replace(alert, state="closed", ended_at=ended, reason=reason, exit=life[EXIT], gain=gain,
                   r=r_of(gain, alert.start, alert.stop))
