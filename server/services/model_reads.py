"""Models, their orders, logs, calls and events, read page by page. A page costs the same however much there is.

Orders are rows; logs, calls and screener results are events. A list of rows goes on from a cursor (the sort value and
the id of the last row), a list of events from a number. What filters orders or events is looked for in windows of them
for at most `PATIENCE` seconds: a page may then be short, even empty, and says where the search goes on.
"""

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Text,
    and_,
    cast,
    func,
    not_,
    or_,
    select,
    type_coerce,
)

from engine import times
from engine.activity import Model, Order
from engine.errors import Invalid, NotFound
from engine.model import Event
from server.services.activity_orders import order_of
from server.services.activity_rows import model_of
from server.store.database import Database
from server.store.encoding import decode
from server.store.tables import events
from server.store.tables.activity import models, orders
from server.store.words import holds

__all__ = ["EventPage", "EventQuery", "ModelQuery", "ModelReads", "OrderQuery", "Page"]

MAX_PAGE: Final = 1000
WINDOW: Final = 5_000
PATIENCE: Final = 0.1  # seconds of looking for what filters let through, in one request
BATCH: Final = 5_000  # rows of an export read at once
SORTS: Final = ("name", "created_at", "heard_at", "project", "orders", "errors", "last_error_at", "started_at",
                "running")
NOT_TRADED: Final = ("new", "open", "pending", "accepted", "received", "active", "placed", "submitted", "untriggered",
                     "canceled", "cancelled", "rejected", "expired", "failed")
"""What bots call an order of which nothing was traded, in lower case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of rows: `next` is the cursor of the page after it, None at the end; `total` counts all that fit."""

    items: tuple[Any, ...]
    next: str | None
    total: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventPage:
    """A page of events: `next` is the number to go on from (None: there is no more), `last` the stream's newest."""

    items: tuple[Event, ...]
    next: int | None
    last: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelQuery:
    """Which models, in which order. Empty filters let everything through; `text` is looked for in id, name,
    description, symbols, exchanges and the last error."""

    project: str = ""
    dialect: str = ""
    kind: str = ""
    running: bool | None = None
    symbol: str = ""
    exchange: str = ""
    text: str = ""
    sort: str = "created_at"
    descending: bool = True
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderQuery:
    """Which orders of a model, by the bot's clock. `run` "" is what happened live; `traded` keeps those of which
    something was; `start` and `end` are microseconds, both inclusive. All but `run`, `start` and `end` filters: they
    make a page look at rows that it leaves out."""

    run: str = ""
    symbol: str = ""
    exchange: str = ""
    side: str = ""
    kind: str = ""
    status: Sequence[str] = ()
    traded: bool = False
    text: str = ""
    start: int | None = None
    end: int | None = None
    descending: bool = True
    limit: int = 100
    cursor: str | None = None

    @property
    def filters(self) -> bool:
        return bool(self.symbol or self.exchange or self.side or self.kind or self.status or self.traded or self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventQuery:
    """Which events of a stream: of these `types`, whose data has these values (`where`: key -> any of them) and, in
    `text_in` (a key; "" is all of it), the text. After `after`, before `before`; newest first when `descending`."""

    types: Sequence[str] = ()
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    text: str = ""
    text_in: str = ""
    after: int = 0
    before: int | None = None
    descending: bool = False
    limit: int = 200

    @property
    def filters(self) -> bool:
        return bool(self.types or self.text or any(self.where.values()))


class ModelReads:
    """What is asked of models. Writes are `Activity`'s."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- models

    async def models(self, query: ModelQuery) -> Page:
        """A page of models. Raises `Invalid` naming what makes no sense."""
        _check_limit(query.limit)
        if query.sort not in SORTS:
            raise Invalid(f"{query.sort[:80]!r} is nothing to sort by", field="sort", remedy="use " + ", ".join(SORTS))
        where = _model_conditions(query)
        value: ColumnElement[Any] = (func.lower(models.c.name) if query.sort == "name" else
                                     models.c.project_id if query.sort == "project" else models.c[query.sort])
        if query.sort == "running":
            value = cast(func.coalesce(value, False), models.c.orders.type)
        page = select(models, value.label("place")).where(*where)
        if query.cursor:
            page = page.where(_beyond(value, models.c.id, _read_cursor(query.cursor, query.sort, query.descending),
                                      query.descending))
        first, second = (value.desc(), models.c.id.desc()) if query.descending else (value.asc(), models.c.id.asc())
        page = page.order_by(first.nulls_last(), second).limit(query.limit + 1)
        count = select(func.count()).select_from(models).where(*where)

        def work(connection: Connection) -> Page:
            rows = connection.execute(page).all()
            more = len(rows) > query.limit
            rows = rows[:query.limit]
            following = _cursor(query.sort, query.descending, rows[-1].place, rows[-1].id) if more else None
            return Page(items=tuple(map(model_of, rows)), next=following,
                        total=connection.execute(count).scalar_one())

        return await self._db.read(work)

    async def model(self, id: str, *, project: str = "") -> Model:
        """One model (of `project`, when given); raises `NotFound`."""
        query = select(models).where(models.c.id == id)
        row = await self._db.read(lambda connection: connection.execute(query).first())
        if row is None or (project and row.project_id != project):
            raise NotFound(f"there is no model {id[:128]!r}", field="id", remedy="GET /workbench/api/models lists them")
        return model_of(row)

    # -- orders

    async def orders(self, model: str, query: OrderQuery, *, patience: float = PATIENCE) -> Page:
        """A page of a model's orders, by the bot's clock. Raises `Invalid` for a cursor of another list."""
        _check_limit(query.limit)
        after = _read_cursor(query.cursor, "at", query.descending) if query.cursor else None
        return await self._db.read(lambda connection: _order_page(connection, model, query, after, patience))

    async def one_order(self, model: str, id: str, run: str = "") -> Order:
        """One order; raises `NotFound`."""
        query = select(orders).where(orders.c.model_id == model, orders.c.run_id == run, orders.c.id == id)
        row = await self._db.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise NotFound(f"the model has no order {id[:200]!r}", field="order")
        return order_of(row)

    async def order_batch(self, model: str, query: OrderQuery, after: tuple[Any, str] | None) -> list[Order]:
        """The next `BATCH` orders of an export, after (at, id) of the last one."""
        statement = _order_statement(model, query, after).limit(BATCH)
        return await self._db.read(lambda connection: [order_of(row) for row in connection.execute(statement)])

    # -- events

    async def events(self, stream: str, query: EventQuery, *, most: int = MAX_PAGE,
                     patience: float = PATIENCE) -> EventPage:
        """A page of a stream's events, and where it goes on."""
        _check_limit(query.limit, most)
        return await self._db.read(lambda connection: _event_page(connection, stream, query, patience))


def _check_limit(limit: int, most: int = MAX_PAGE) -> None:
    if not 1 <= limit <= most:
        raise Invalid(f"{limit} is not a page size", field="limit", remedy=f"use 1 to {most}")


def _model_conditions(query: ModelQuery) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for column, wanted in ((models.c.project_id, query.project), (models.c.dialect, query.dialect),
                           (models.c.kind, query.kind)):
        if wanted:
            found.append(column == wanted)
    if query.running is not None:
        found.append(func.coalesce(models.c.running, False) == query.running)
    for column, wanted in ((models.c.symbols, query.symbol), (models.c.exchanges, query.exchange)):
        if wanted:
            found.append(cast(column, Text).contains(orjson.dumps(wanted).decode(), autoescape=True))
    if query.text:
        found.append(or_(*(holds(cast(models.c[name], Text), query.text)
                           for name in ("id", "name", "description", "symbols", "exchanges", "last_error"))))
    return found


def _beyond(value: ColumnElement[Any], id: ColumnElement[Any], after: tuple[Any, str],
            descending: bool) -> ColumnElement[bool]:
    """What comes after a place in the order by (value, id), rows without a value last."""
    last, last_id = after
    later = id < last_id if descending else id > last_id
    if last is None:
        return and_(value.is_(None), later)
    further = value < last if descending else value > last
    return or_(further, and_(value == last, later), value.is_(None))


def _cursor(sort: str, descending: bool, value: Any, id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([sort, descending, value, id])).decode().rstrip("=")


def _read_cursor(text: str, sort: str, descending: bool) -> tuple[Any, str]:
    try:
        made_for, direction, value, id = orjson.loads(base64.urlsafe_b64decode(
            (text + "=" * (-len(text) % 4)).encode("ascii")))
        if not isinstance(id, str) or not isinstance(value, str | int | float | None):
            raise ValueError
        if isinstance(value, str) is not (sort in ("name", "project")) and value is not None:
            raise ValueError
    except (ValueError, TypeError):
        raise Invalid("this is not a cursor of this list", field="cursor",
                      remedy="use `next` of the page before, or none") from None
    if (made_for, direction) != (sort, descending):
        raise Invalid("the cursor belongs to another order", field="cursor", remedy="keep sort and order while paging")
    return value, id


Place = tuple[Any, str]
"""Where an order stands in its list: (at, id)."""


def _order_page(connection: Connection, model: str, query: OrderQuery, after: Place | None, patience: float) -> Page:
    found: list[Any] = []
    ends = time.monotonic() + patience
    while True:
        until = _window_end(connection, model, query, after) if query.filters else None
        found += connection.execute(
            _order_statement(model, query, after, until).limit(query.limit + 1 - len(found))).all()
        reached: Place | None = until
        if full := len(found) > query.limit:
            found = found[:query.limit]
            reached = found[-1].at, found[-1].id
        if full or until is None or time.monotonic() > ends:
            return Page(items=tuple(map(order_of, found)),
                        next=None if reached is None else _cursor("at", query.descending, *reached))
        after = until


def _window_end(connection: Connection, model: str, query: OrderQuery, after: Place | None) -> Place | None:
    """The place `WINDOW` orders further, whatever the filters; None when there are not so many."""
    where, by = _order_range(model, query, after)
    row = connection.execute(
        select(orders.c.at, orders.c.id).where(*where).order_by(*by).offset(WINDOW - 1).limit(1)).first()
    return None if row is None else (row.at, row.id)


def _order_range(model: str, query: OrderQuery, after: Place | None, until: Place | None = None
                 ) -> tuple[list[ColumnElement[bool]], tuple[Any, Any]]:
    """What the index of orders understands: those of a model and a run after a place, up to and with another, and their
    order."""
    table = orders.c
    where: list[ColumnElement[bool]] = [table.model_id == model, table.run_id == query.run]
    if query.start is not None:
        where.append(table.at >= query.start)
    if query.end is not None:
        where.append(table.at <= query.end)
    # of each pair the first bound alone is what the index understands
    if after is not None:
        if query.descending:
            where += [table.at <= after[0], or_(table.at < after[0], table.id < after[1])]
        else:
            where += [table.at >= after[0], or_(table.at > after[0], table.id > after[1])]
    if until is not None:
        if query.descending:
            where += [table.at >= until[0], or_(table.at > until[0], table.id >= until[1])]
        else:
            where += [table.at <= until[0], or_(table.at < until[0], table.id <= until[1])]
    return where, ((table.at.desc(), table.id.desc()) if query.descending else (table.at.asc(), table.id.asc()))


def _order_statement(model: str, query: OrderQuery, after: Place | None, until: Place | None = None) -> Any:
    table = orders.c
    where, by = _order_range(model, query, after, until)
    for name in ("symbol", "exchange", "side", "kind"):
        if value := getattr(query, name):
            where.append(table[name] == value)
    if query.status:
        where.append(func.lower(func.coalesce(table.status, "")).in_([each.lower() for each in query.status]))
    if query.traded:
        untraded = func.lower(func.coalesce(table.status, "")).in_(NOT_TRADED)
        where.append(or_(func.coalesce(table.filled, 0) > 0,
                         and_(table.filled.is_(None), table.canceled_at.is_(None), not_(untraded))))
    if query.text:
        where.append(or_(*(holds(func.coalesce(table[name], ""), query.text)
                           for name in ("id", "symbol", "status", "annotation"))))
    return select(orders).where(*where).order_by(*by)


def _event_page(connection: Connection, stream: str, query: EventQuery, patience: float) -> EventPage:
    last = connection.execute(
        select(func.coalesce(func.max(events.c.seq), 0)).where(events.c.stream == stream)).scalar_one()
    low = query.after  # exclusive
    high = last if query.before is None else min(last, query.before - 1)  # inclusive
    conditions = _event_conditions(connection, query)
    columns = (events.c.id, events.c.stream, events.c.seq, events.c.type, events.c.at, events.c.data)
    found: list[Any] = []
    ends = time.monotonic() + patience
    by = events.c.seq.desc() if query.descending else events.c.seq.asc()
    for first, final in _windows(low, high, query.descending, WINDOW if query.filters else 0):
        statement = select(*columns).where(events.c.stream == stream, events.c.seq >= first, events.c.seq <= final,
                                           *conditions).order_by(by).limit(query.limit - len(found))
        found += connection.execute(statement).all()
        full = len(found) >= query.limit
        if full or time.monotonic() > ends:
            reached = found[-1].seq if full else first if query.descending else final
            more = reached > low + 1 if query.descending else reached < high
            return EventPage(items=tuple(map(_event, found)), next=reached if more else None, last=last)
    return EventPage(items=tuple(map(_event, found)), next=None, last=last)


def _windows(low: int, high: int, descending: bool, size: int) -> Iterator[tuple[int, int]]:
    """The numbers low < n <= high in pieces (first, last) of `size` (0: in one), later ones first when `descending`."""
    if low >= high:
        return
    if not size:
        yield low + 1, high
        return
    while low < high:
        step = min(size, high - low)
        if descending:
            yield high - step + 1, high
            high -= step
        else:
            yield low + 1, low + step
            low += step


def _event_conditions(connection: Connection, query: EventQuery) -> list[ColumnElement[bool]]:
    data: Any = cast(events.c.data, JSON) if connection.dialect.name == "postgresql" else type_coerce(
        events.c.data, JSON)
    found: list[ColumnElement[bool]] = []
    if query.types:
        found.append(events.c.type.in_(tuple(query.types)))
    for key, values in query.where.items():
        if values:
            found.append(data[key].as_string().in_(tuple(values)))
    if query.text:
        place = data[query.text_in].as_string() if query.text_in else events.c.data
        found.append(holds(place, query.text))
    return found


def _event(row: Any) -> Event:
    return Event(id=row[0], stream=row[1], seq=row[2], type=row[3], at=times.instant(row[4]), data=decode(row[5]))
