"""Runs as rows: values out of the table, filters, sorting and cursors. SQL of the runs' list lives here."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Select, Text, and_, cast, false, func, or_, select

from engine import times
from engine.errors import Invalid
from engine.model import RUN_STATES, Run
from server.store.tables import runs

COLUMNS: Final = tuple(column for column in runs.columns if column.name != "idempotency_key")
SORTS: Final = ("created_at", "started_at", "finished_at", "name", "state", "kind", "strategy", "dialect", "progress")
_METRIC: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_PAGE: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of a list: `total` counts all that the filters let through, `next_cursor` is None on the last page."""

    items: tuple[Run, ...]
    next_cursor: str | None
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What a list of runs is narrowed to. None and "" let everything through.

    `metrics` maps a metric's key to (least, most), either None; a run without that metric is left out.
    """

    states: Sequence[str] | None = None
    kind: str | None = None
    strategy: str | None = None
    market: str | None = None
    tag: str | None = None
    dialect: str | None = None
    parent: str | None = None
    owner: str | None = None
    text: str = ""
    metrics: Mapping[str, tuple[float | None, float | None]] | None = None

    @property
    def scans(self) -> bool:
        """Whether every run has to be looked at, because no index knows what is asked for."""
        return bool(self.market or self.tag or self.text or self.metrics)

    def where(self) -> list[ColumnElement[bool]]:
        """The conditions; raises `Invalid` naming the filter that makes no sense."""
        found: list[ColumnElement[bool]] = []
        if self.states:
            if unknown := sorted(set(self.states) - set(RUN_STATES)):
                raise Invalid(f"{unknown[0]!r} is not a state", field="state",
                              remedy="states are " + ", ".join(RUN_STATES))
            found.append(runs.c.state.in_(tuple(self.states)))
        for name in ("kind", "strategy", "dialect", "parent", "owner"):
            value = getattr(self, name)
            if value is not None and value != "":
                found.append(runs.c[name] == value)
        for name, value in (("markets", self.market), ("tags", self.tag)):
            if value:
                found.append(cast(runs.c[name], Text).contains(orjson.dumps(value).decode(), autoescape=True))
        if self.text:
            wanted = self.text.lower()
            found.append(or_(*(func.lower(cast(runs.c[name], Text)).contains(wanted, autoescape=True)
                               for name in ("id", "name", "notes", "strategy", "markets", "tags"))))
        for key, (least, most) in (self.metrics or {}).items():
            column = _metric(key)
            if least is not None:
                found.append(column >= least)
            if most is not None:
                found.append(column <= most)
        return found


def _metric(key: str) -> ColumnElement[Any]:
    if not _METRIC.fullmatch(key):
        raise Invalid(f"{key!r} is neither a column nor a metric", field="sort",
                      remedy="sort by " + ", ".join(SORTS) + " or a metric's key")
    return runs.c.metrics[key].as_float()


def page_query(filters: Filters, sort: str, descending: bool, limit: int,
               cursor: str | None) -> tuple[Select[Any], Select[Any] | None]:
    """(query of one page with one row more than `limit`, query of the total). Rows end in their sort value and, when
    there is no query of the total because one scan finds both, the total.

    The order is total: by the sort value (rows without one come last), then by id. A cursor holds the last row's
    position, not an offset, so a page neither repeats nor skips a run when others arrive meanwhile.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"{limit} is not a page size", field="limit", remedy=f"use 1 to {MAX_PAGE}")
    where = filters.where()
    value = runs.c[sort] if sort in SORTS else _metric(sort)
    query = select(*COLUMNS, value.label("sort_value")).where(*where)
    after, after_id = _read_cursor(cursor, sort, descending) if cursor else (None, None)
    if after_id is not None:
        later = runs.c.id < after_id if descending else runs.c.id > after_id
        if after is None:
            query = query.where(value.is_(None), later)
        else:
            beyond = value < after if descending else value > after
            missing = value.is_(None) if sort not in ("created_at", "name", "state", "kind") else false()
            query = query.where(or_(beyond, and_(value == after, later), missing))
    first = value.desc() if descending else value.asc()
    order = [first if sort == "created_at" else first.nulls_last(), runs.c.id.desc() if descending else runs.c.id.asc()]
    query = query.order_by(*order).limit(limit + 1)
    if filters.scans and after_id is None:  # sorted and counted by what is small, then filled in
        place = func.row_number().over(order_by=order).label("place")
        found = select(runs.c.id, value.label("sort_value"), func.count().over().label("total"), place).where(
            *where).order_by(place).limit(limit + 1).subquery()
        return select(*COLUMNS, found.c.sort_value, found.c.total).join(
            found, found.c.id == runs.c.id).order_by(found.c.place), None
    return query, select(func.count()).select_from(runs).where(*where)


def write_cursor(row: Any, sort: str, descending: bool) -> str:
    """The position of a row as opaque text."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, descending, row.sort_value, row.id])).decode().rstrip("=")


def _read_cursor(text: str, sort: str, descending: bool) -> tuple[Any, str]:
    try:
        padded = text + "=" * (-len(text) % 4)
        made_for, direction, value, id = orjson.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        if not isinstance(id, str) or not isinstance(value, str | int | float | None):
            raise ValueError
    except (ValueError, TypeError):
        raise Invalid("this is not a cursor of this list", field="cursor",
                      remedy="use the cursor of the page before, or none") from None
    if (made_for, direction) != (sort, descending):
        raise Invalid("the cursor belongs to another order", field="cursor",
                      remedy="keep sort and order while paging")
    return value, id


def run_of(row: Any) -> Run:
    """The run in a row of `COLUMNS`."""
    return Run(
        id=row.id, kind=row.kind, state=row.state, progress=row.progress, created_at=times.instant(row.created_at),
        started_at=None if row.started_at is None else times.instant(row.started_at),
        finished_at=None if row.finished_at is None else times.instant(row.finished_at),
        name=row.name, tags=tuple(row.tags), notes=row.notes, dialect=row.dialect, strategy=row.strategy,
        markets=tuple(row.markets), resolution=row.resolution, spec=row.spec, request=row.request,
        metrics=row.metrics, error=row.error, attempts=row.attempts, parent=row.parent, owner=row.owner,
    )
