"""Runs as rows: values out of the table, filters, sorting and cursors. SQL of the runs' list lives here."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Float, FromClause, Select, and_, cast, exists, false, func, null, or_, select

from engine import times
from engine.errors import Invalid
from engine.model import RUN_STATES, Run
from server.store.tables import run_figures, run_labels, runs

COLUMNS: Final = tuple(column for column in runs.columns if column.name != "idempotency_key")
SORTS: Final = ("created_at", "started_at", "finished_at", "name", "state", "kind", "strategy", "dialect", "progress")
_METRIC: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_PAGE: Final = 500
MANY: Final = 500


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

    def _own(self) -> list[ColumnElement[bool]]:
        """The conditions on the runs' own columns."""
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
        return found

    def _narrow(self) -> list[tuple[FromClause, list[ColumnElement[bool]]]]:
        """The conditions on the narrow tables: one entry for the labels, one for each figure."""
        found: list[tuple[FromClause, list[ColumnElement[bool]]]] = []
        labels: list[ColumnElement[bool]] = []
        for column, value in ((run_labels.c.markets, self.market), (run_labels.c.tags, self.tag)):
            if value:
                labels.append(column.contains(orjson.dumps(value).decode(), autoescape=True))
        if self.text:
            labels.append(run_labels.c.text.contains(self.text.lower(), autoescape=True))
        if labels:
            found.append((run_labels, labels))
        for key, (least, most) in (self.metrics or {}).items():
            figures = run_figures.alias()  # the sort may be by the same table
            limits = [figures.c.key == _metric(key)]
            if least is not None:
                limits.append(figures.c.value >= least)
            if most is not None:
                limits.append(figures.c.value <= most)
            found.append((figures, limits))
        return found

    def where(self, *, many: bool = False) -> list[ColumnElement[bool]]:
        """The conditions; raises `Invalid` naming the filter that makes no sense.

        With `many` the narrow tables are asked about one run after the other, which is quick where a page is soon
        full; else the runs they name are collected first, which is quick where they are few.
        """
        found = self._own()
        for table, limits in self._narrow():
            found.append(exists().where(table.c.run_id == runs.c.id, *limits) if many else
                         runs.c.id.in_(select(table.c.run_id).where(*limits)))
        return found

    def total(self) -> Select[Any]:
        """The query of how many runs there are. Where one narrow table knows, no other is looked at."""
        narrow = self._narrow()
        if len(narrow) == 1 and not self._own():
            table, limits = narrow[0]
            return select(func.count()).select_from(table).where(*limits)
        return select(func.count()).select_from(runs).where(*self.where())


def _metric(key: str) -> str:
    if not _METRIC.fullmatch(key):
        raise Invalid(f"{key!r} is neither a column nor a metric", field="sort",
                      remedy="sort by " + ", ".join(SORTS) + " or a metric's key")
    return key


def page_queries(filters: Filters, sort: str, descending: bool, limit: int, cursor: str | None, *,
                 many: bool) -> list[Select[Any]]:
    """Queries whose rows, one after the other, make a page: read until there is one row more than `limit`. Rows end in
    their sort value. `many`: whether the filters let many runs through (`MANY`), which changes nothing but the time.

    The order is total: by the sort value (rows without one come last), then by id. A cursor holds the last row's
    position, not an offset, so a page neither repeats nor skips a run when others arrive meanwhile.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"{limit} is not a page size", field="limit", remedy=f"use 1 to {MAX_PAGE}")
    where = filters.where(many=many)
    metric = None if sort in SORTS else _metric(sort)
    value: ColumnElement[Any] = runs.c[sort] if metric is None else run_figures.c.value
    # A sort by a metric runs along the index of the figures, ids included; the other sorts have the runs' own.
    id = runs.c.id if metric is None else run_figures.c.run_id
    query = select(*COLUMNS, value.label("sort_value")).where(*where)
    after, after_id = _read_cursor(cursor, sort, descending) if cursor else (None, None)
    ids = runs.c.id.desc() if descending else runs.c.id.asc()
    rest = []
    if after_id is not None:
        later = id < after_id if descending else id > after_id
        if after is not None:
            beyond = value < after if descending else value > after
            missing = value.is_(None) if sort in ("started_at", "finished_at") else false()
            query = query.where(or_(beyond, and_(value == after, later), missing))
        elif metric is None:
            query = query.where(value.is_(None), later)
        else:
            rest.append(runs.c.id < after_id if descending else runs.c.id > after_id)
    first = value.desc() if descending else value.asc()
    if metric is None:
        place = first if sort == "created_at" else first.nulls_last()
        queries = [query.order_by(place, ids)]
    else:
        known = query.join(run_figures, run_figures.c.run_id == runs.c.id).where(run_figures.c.key == metric).order_by(
            first, id.desc() if descending else id.asc())
        unknown = select(*COLUMNS, cast(null(), Float).label("sort_value")).where(*where, *rest, ~exists().where(
            run_figures.c.run_id == runs.c.id, run_figures.c.key == metric)).order_by(ids)
        queries = [unknown] if rest else [known, unknown]
    return [each.limit(limit + 1) for each in queries]


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
