"""Models, projects and orders as rows: values out of the tables, filters, cursors."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import orjson
from sqlalchemy import Boolean, ColumnElement, Connection, Select, Text, and_, cast, func, or_, select

from engine import times
from engine.activity import Model, Order, Project
from engine.errors import Invalid
from server.services.activity_orders import order_of
from server.store.tables.activity import models, orders

__all__ = ["ModelQuery", "OrderQuery", "Page", "model_of", "models_page", "orders_page", "project_of"]

MAX_PAGE: Final = 1000
MODEL_SORTS: Final = ("created_at", "heard_at", "name", "orders", "errors")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """A page of a list: `total` counts all that the filters let through (None where nobody counted), `next_cursor`
    is None on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None
    total: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelQuery:
    """What a list of models is narrowed to and how it is sorted. None and "" let everything through. `text` is looked
    for in id, name, description, message, symbols and last error."""

    project: str = ""
    dialect: str = ""
    kind: str = ""
    running: bool | None = None
    symbol: str = ""
    text: str = ""
    sort: str = "heard_at"
    descending: bool = True
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderQuery:
    """What a list of orders is narrowed to: by their bot's clock (microseconds, `start` inclusive, `end` exclusive).
    `run` None: the live ones; "*": those of detached backtests too."""

    run: str | None = None
    symbol: str = ""
    side: str = ""
    kind: str = ""
    status: str = ""
    text: str = ""
    start: int | None = None
    end: int | None = None
    descending: bool = True
    limit: int = 100
    cursor: str | None = None


def models_page(connection: Connection, query: ModelQuery) -> Page[Model]:
    """A page of models. Those that were never heard come last."""
    if query.sort not in MODEL_SORTS:
        raise Invalid(f"{query.sort[:40]!r} is not sorted by", field="sort", remedy="use " + ", ".join(MODEL_SORTS))
    where: list[ColumnElement[bool]] = []
    for column, wanted in ((models.c.project_id, query.project), (models.c.dialect, query.dialect),
                           (models.c.kind, query.kind)):
        if wanted:
            where.append(column == wanted)
    if query.running is not None:
        where.append(func.coalesce(models.c.running, False, type_=Boolean) == query.running)
    if query.symbol:
        where.append(cast(models.c.symbols, Text).contains(orjson.dumps(query.symbol).decode(), autoescape=True))
    if query.text:
        lowered = query.text.lower()
        where.append(or_(*(func.lower(func.coalesce(cast(models.c[name], Text), "")).contains(lowered, autoescape=True)
                           for name in ("id", "name", "description", "message", "symbols", "last_error"))))
    value = func.coalesce(models.c.heard_at, 0) if query.sort == "heard_at" else models.c[query.sort]
    return _page(connection, select(models, value.label("sort_value")).where(*where), value, models.c.id,
                 f"models {query.sort}", query.descending, query.limit, query.cursor, model_of,
                 select(func.count()).select_from(models).where(*where))


def orders_page(connection: Connection, model: str, query: OrderQuery, *, count: bool = True) -> Page[Order]:
    """A page of a model's orders, by their bot's clock."""
    where: list[ColumnElement[bool]] = [orders.c.model_id == model]
    if query.run != "*":
        where.append(orders.c.run_id == (query.run or ""))
    for name in ("symbol", "side", "kind", "status"):
        if wanted := getattr(query, name):
            where.append(orders.c[name] == wanted)
    if query.start is not None:
        where.append(orders.c.at >= query.start)
    if query.end is not None:
        where.append(orders.c.at < query.end)
    if query.text:
        lowered = query.text.lower()
        where.append(or_(*(func.lower(func.coalesce(orders.c[name], "")).contains(lowered, autoescape=True)
                           for name in ("id", "symbol", "status", "annotation"))))
    total = select(func.count()).select_from(orders).where(*where) if count else None
    return _page(connection, select(orders, orders.c.at.label("sort_value")).where(*where), orders.c.at, orders.c.id,
                 "orders", query.descending, query.limit, query.cursor, order_of, total)


def _page(connection: Connection, query: Select[Any], value: ColumnElement[Any], id: ColumnElement[Any], made_for: str,
          descending: bool, limit: int, cursor: str | None, make: Callable[[Any], T],
          total: Select[Any] | None) -> Page[T]:
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"{limit} is not a page size", field="limit", remedy=f"use 1 to {MAX_PAGE}")
    if cursor:
        last, last_id = _read_cursor(cursor, [made_for, descending])
        beyond = value < last if descending else value > last
        later = id < last_id if descending else id > last_id
        query = query.where(or_(beyond, and_(value == last, later)))
    order = (value.desc(), id.desc()) if descending else (value.asc(), id.asc())
    rows: Sequence[Any] = connection.execute(query.order_by(*order).limit(limit + 1)).all()
    after = None
    if len(rows) > limit:
        rows = rows[:limit]
        after = _write_cursor([made_for, descending], rows[-1].sort_value, rows[-1].id)
    return Page(items=tuple(make(row) for row in rows), next_cursor=after,
                total=None if total is None else connection.execute(total).scalar_one())


def _write_cursor(order: list[Any], value: Any, id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([*order, value, id])).decode().rstrip("=")


def _read_cursor(text: str, order: list[Any]) -> tuple[Any, str]:
    try:
        made_for, descending, value, id = orjson.loads(base64.urlsafe_b64decode(
            (text + "=" * (-len(text) % 4)).encode("ascii")))
        if not isinstance(id, str) or not isinstance(value, str | int | float):
            raise ValueError
    except (ValueError, TypeError):
        raise Invalid("this is not a cursor of this list", field="cursor",
                      remedy="use the cursor of the page before, or none") from None
    if [made_for, descending] != order:
        raise Invalid("the cursor belongs to another order", field="cursor", remedy="keep sort and order while paging")
    return value, id


def model_of(row: Any) -> Model:
    """The model of a database row (all columns)."""
    def instant(value: int | None) -> Any:
        return None if value is None else times.instant(value)

    return Model(
        id=row.id, project=row.project_id, name=row.name, description=row.description, dialect=row.dialect,
        kind=row.kind, created_at=times.instant(row.created_at), message=row.message, running=row.running,
        started_at=instant(row.started_at), ended_at=instant(row.ended_at), heard_at=instant(row.heard_at),
        symbols=tuple(row.symbols), exchanges=tuple(row.exchanges), auto_pnl=row.auto_pnl, metrics=row.metrics,
        orders=row.orders, errors=row.errors, last_error=row.last_error, last_error_at=instant(row.last_error_at))


def project_of(row: Any) -> Project:
    """The project of a database row (all columns)."""
    return Project(id=row.id, name=row.name, description=row.description, owner=row.owner,
                   created_at=times.instant(row.created_at))
