"""Alerts between the table and the noun, and the lists that people ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, select

from engine import times
from engine.alerts import INSTRUMENTS, STATES, Alert
from engine.errors import Invalid, NotFound
from server.store.tables.alerts import alerts
from server.store.words import holds

__all__ = [
    "STREAM", "AlertFilters", "AlertPage", "alert_of", "conditions", "fetch", "page_query", "statistics_query",
    "values_of",
]

STREAM: Final = "alerts"
SORTS: Final = ("detected_at", "started_at", "ended_at", "ticker", "instrument", "gain", "r", "state", "id")
MOST: Final = 1000
_INSTANTS: Final = ("detected_at", "started_at", "ended_at")
_FIELDS: Final = tuple(Alert.__slots__)
_COLUMNS: Final = tuple(alerts.c[name] for name in _FIELDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertFilters:
    """What a list lets through; None and empty let everything. Texts are exact, except `ticker`: any part of it,
    whatever the case. `since` and `until` bound the detection, `ended_since` and `ended_until` the end (inclusive).
    `won` True: closed with a gain above 0; False: closed without."""

    states: Sequence[str] | None = None
    instruments: Sequence[str] | None = None
    durations: Sequence[str] | None = None
    detector: str | None = None
    market: str | None = None
    ticker: str | None = None
    direction: str | None = None
    source: str | None = None
    won: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    ended_since: datetime | None = None
    ended_until: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertPage:
    """Some alerts, and how many the filters let through in all."""

    items: tuple[Alert, ...]
    total: int


def alert_of(row: Any) -> Alert:
    """The noun of a row of `select(*COLUMNS)` or of the whole table."""
    values = {name: getattr(row, name) for name in _FIELDS}
    for name in _INSTANTS:
        if values[name] is not None:
            values[name] = times.instant(values[name])
    return Alert(**values)


def values_of(alert: Alert) -> dict[str, Any]:
    """The row of an alert, without its id."""
    found: dict[str, Any] = {}
    for name in _FIELDS[1:]:
        value = getattr(alert, name)
        found[name] = times.micros(value) if isinstance(value, datetime) else value
    return found


def fetch(connection: Connection, id: int) -> Any:
    """The whole row of an alert; raises `NotFound`."""
    row = connection.execute(select(alerts).where(alerts.c.id == id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no alert {id}")
    return row


def conditions(filters: AlertFilters) -> list[ColumnElement[bool]]:
    """The filters in SQL; raises `Invalid` for words that no alert can have."""
    for name, given, known in (("state", filters.states, STATES), ("instrument", filters.instruments, INSTRUMENTS)):
        for word in given or ():
            if word not in known:
                raise Invalid(f"{word[:80]!r} is not one", field=name, remedy="use " + ", ".join(known))
    if filters.since is not None and filters.until is not None and filters.since > filters.until:
        raise Invalid("the range ends before it begins", field="until", remedy="give one that is not before since")
    found: list[ColumnElement[bool]] = []
    many: Mapping[str, Sequence[str] | None] = {"state": filters.states, "instrument": filters.instruments,
                                                "duration_strategy": filters.durations}
    found += [alerts.c[name].in_(given) for name, given in many.items() if given is not None]
    one = {"detector": filters.detector, "market": filters.market, "direction": filters.direction,
           "source": filters.source}
    found += [alerts.c[name] == given for name, given in one.items() if given is not None]
    if filters.ticker:
        found.append(holds(alerts.c.ticker, filters.ticker))
    if filters.won is not None:
        found.append(and_(alerts.c.state == "closed", alerts.c.gain > 0 if filters.won else alerts.c.gain <= 0))
    bounds = (("detected_at", filters.since, filters.until), ("ended_at", filters.ended_since, filters.ended_until))
    for name, least, most in bounds:
        if least is not None:
            found.append(alerts.c[name] >= times.micros(least))
        if most is not None:
            found.append(alerts.c[name] <= times.micros(most))
    return found


def page_query(filters: AlertFilters, sort: str, descending: bool, limit: int, offset: int) -> tuple[
        Select[Any], Select[Any]]:
    """The page, and the count; raises `Invalid` naming what makes no sense. What has no value comes last."""
    if sort not in SORTS:
        raise Invalid(f"{sort[:80]!r} is not a column to sort by", field="sort", remedy="use " + ", ".join(SORTS))
    if not 1 <= limit <= MOST:
        raise Invalid(f"{limit} is out of range", field="limit", remedy=f"use 1 to {MOST}")
    if not 0 <= offset < 2**62:
        raise Invalid(f"{offset} is out of range", field="offset", remedy="use 0 or more")
    where = conditions(filters)
    column = alerts.c[sort]
    order = (column.is_(None), column.desc() if descending else column,
             alerts.c.id.desc() if descending else alerts.c.id)
    return (select(*_COLUMNS).where(*where).order_by(*order).limit(limit).offset(offset),
            select(func.count()).select_from(alerts).where(*where))


def statistics_query(filters: AlertFilters) -> Select[Any]:
    """Counts and sums by detector, instrument, duration and direction."""

    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.sum(case((condition, 1), else_=0))

    closed = alerts.c.state == "closed"
    by = (alerts.c.detector, alerts.c.instrument, alerts.c.duration_strategy, alerts.c.direction)
    return select(*by, func.count().label("alerts"), count(alerts.c.state.in_(("working", "onGoing"))).label("open"),
                  count(alerts.c.state == "aborted").label("aborted"), count(closed).label("closed"),
                  count(and_(closed, alerts.c.gain > 0)).label("won"), func.avg(alerts.c.r).label("average_r"),
                  func.avg(alerts.c.ended_at - alerts.c.detected_at).label("duration"),
                  ).where(*conditions(filters)).group_by(*by).order_by(*by)
