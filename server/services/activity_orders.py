"""Orders between an entry and a row: checked, merged, shown.

A row is a dict of the table's columns, in their order (`extra` as an object, until `stored`); the JSON of an order has
the fields of `engine.activity.Order`.
"""

from collections.abc import Mapping
from typing import Any, Final

from engine import times
from engine.activity import Order, OrderPlaced
from engine.errors import Invalid
from server.services.activity_values import (
    LARGEST,
    Clock,
    number_at_least,
    one_line,
    optional_instant,
    positive,
    text_up_to,
)
from server.store.encoding import decode, encode
from server.store.tables.activity import orders

__all__ = ["COLUMNS", "KINDS", "changes_of", "merged", "order_json", "order_of", "order_row",
           "rejection", "replaced", "row_of", "stored"]

COLUMNS: Final = tuple(column.name for column in orders.columns)
KINDS: Final = ("market", "limit", "stop")
_SIDES: Final = {"buy": "buy", "sell": "sell"}
_REJECTED: Final = frozenset({"rejected", "reject", "failed", "error", "denied", "refused"})


def order_row(entry: OrderPlaced, clock: Clock) -> dict[str, Any]:
    """The row of an order as its entry gives it. Raises `Invalid` naming the field."""
    size, funds, kind, price, activate = entry.size, entry.funds, entry.type, entry.price, entry.activate
    if (size is None) == (funds is None):
        raise Invalid("an order has either a size or funds" if size is None else "size and funds exclude each other",
                      field="size" if size is None else "funds",
                      remedy="give size, in units of the asset, or funds, in the quote currency")
    if kind not in KINDS:
        raise Invalid(f"{str(kind)[:40]!r} is not a kind of order", field="type", remedy="use market, limit or stop")
    if price is None and kind == "limit":
        raise Invalid("a limit order has a price", field="price", remedy="give the limit")
    if activate is None and kind == "stop":
        raise Invalid("a stop order has a price that activates it", field="activate", remedy="give it")
    return {
        "model_id": entry.model, "run_id": entry.run, "id": one_line(entry.id, "id", 200),
        "symbol": one_line(entry.symbol, "symbol", 64),
        "exchange": one_line(entry.exchange, "exchange", 64) if entry.exchange else "",
        "kind": kind, "side": _side(entry.side),
        "size": None if size is None else positive(size, "size"),
        "funds": None if funds is None else positive(funds, "funds"),
        "price": None if price is None else number_at_least(price, "price", 0.0),
        "activate": None if activate is None else number_at_least(activate, "activate", 0.0),
        "filled": None if entry.filled is None else number_at_least(entry.filled, "filled", 0.0),
        "status": None if entry.status is None else text_up_to(entry.status, "status", 64),
        "executed_at": optional_instant(entry.executed_at, "executed_at"),
        "canceled_at": optional_instant(entry.canceled_at, "canceled_at"),
        "fee": None if entry.fee is None else _finite(entry.fee, "fee"),
        "fee_currency": one_line(entry.fee_currency, "fee_currency", 32) if entry.fee_currency else "",
        "annotation": None if entry.annotation is None else text_up_to(entry.annotation, "annotation", 20_000),
        "version_id": text_up_to(entry.version, "version", 128) if entry.version else "",
        "at": clock.micros(entry.at, "at"), "received_at": clock.now_micros, "extra": entry.extra,
    }


_CHECKS: Final[Mapping[str, Any]] = {
    "symbol": lambda value: one_line(value, "symbol", 64),
    "exchange": lambda value: one_line(value, "exchange", 64) if value else "",
    "side": lambda value: _side(value),
    "size": lambda value: positive(value, "size"),
    "funds": lambda value: positive(value, "funds"),
    "price": lambda value: number_at_least(value, "price", 0.0),
    "activate": lambda value: number_at_least(value, "activate", 0.0),
    "filled": lambda value: number_at_least(value, "filled", 0.0),
    "status": lambda value: text_up_to(value, "status", 64),
    "executed_at": lambda value: optional_instant(value, "executed_at"),
    "canceled_at": lambda value: optional_instant(value, "canceled_at"),
    "fee": lambda value: _finite(value, "fee"),
    "fee_currency": lambda value: one_line(value, "fee_currency", 32) if value else "",
    "annotation": lambda value: text_up_to(value, "annotation", 20_000),
    "version": lambda value: text_up_to(value, "version", 128) if value else "",
    "at": lambda value: times.micros(times.parse(value, field="at")),
}
_NEEDED: Final = frozenset({"symbol", "side", "at"})
_EMPTY: Final = frozenset({"exchange", "fee_currency", "version"})


def changes_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and, under `extra`, what has none. Raises `Invalid` naming the field."""
    found: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in changes.items():
        if not isinstance(name, str) or not name or len(name) > 100:
            raise Invalid("a change is named by 1 to 100 characters", field="changes", remedy="use a shorter name")
        if name in ("type", "kind"):
            if value not in KINDS:
                raise Invalid(f"{str(value)[:40]!r} is not a kind of order", field="type",
                              remedy="use market, limit or stop")
            found["kind"] = value
        elif name == "extra" and isinstance(value, Mapping):
            extra |= value
        elif check := _CHECKS.get(name):
            if value is None and name in _NEEDED:
                raise Invalid("this cannot be taken away", field=name, remedy="leave it out, or give another")
            value = ("" if name in _EMPTY else None) if value is None else check(value)
            found["version_id" if name == "version" else name] = value
        elif name not in ("id", "model", "run"):
            extra[name] = value
    if found.get("size") is not None and found.get("funds") is not None:
        raise Invalid("size and funds exclude each other", field="funds", remedy="give one of them")
    if extra:
        encode(extra, field="changes")
        found["extra"] = extra
    return found


def merged(row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A row with changes: what they do not name stays, `extra` is merged by name."""
    new = {**row, **changes}
    if "extra" in changes:
        new["extra"] = {**row["extra"], **changes["extra"]}
    if changes.get("size") is not None:
        new["funds"] = None
    elif changes.get("funds") is not None:
        new["size"] = None
    return new


def replaced(row: Mapping[str, Any], again: Mapping[str, Any], timed: bool) -> dict[str, Any]:
    """A row when its order is placed once more: what the new one leaves open stays as it was known.

    timed: whether the new one says when; else the first time stands.
    """
    changes = {name: value for name, value in again.items() if value is not None and value not in ("", {})}
    changes["received_at"] = row["received_at"]
    if not timed:
        del changes["at"]
    return merged(row, changes)


def rejection(row: Mapping[str, Any]) -> str | None:
    """What to say of an order that was turned down; None for others."""
    status = row["status"]
    if status is None or status.lower() not in _REJECTED:
        return None
    return f"order {row['id']} {status}: {row['side']} {row['symbol']}"


def order_json(row: Mapping[str, Any], at: str = "", received: str = "") -> dict[str, Any]:
    """An order as events and answers show it; `at` and `received` are its instants where they are text already."""
    executed, canceled = row["executed_at"], row["canceled_at"]
    return {
        "model": row["model_id"], "id": row["id"], "symbol": row["symbol"], "side": row["side"], "kind": row["kind"],
        "at": at or times.iso(row["at"]), "received_at": received or times.iso(row["received_at"]),
        "run": row["run_id"],
        "exchange": row["exchange"], "size": row["size"], "funds": row["funds"], "price": row["price"],
        "activate": row["activate"], "filled": row["filled"], "status": row["status"],
        "executed_at": None if executed is None else times.iso(executed),
        "canceled_at": None if canceled is None else times.iso(canceled),
        "fee": row["fee"], "fee_currency": row["fee_currency"], "annotation": row["annotation"],
        "version": row["version_id"], "extra": row["extra"],
    }


def stored(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of a row as the driver takes them."""
    *values, extra = row.values()
    return (*values, str(encode(extra, field="extra")) if extra else None)


def row_of(row: Any) -> dict[str, Any]:
    """The row of what the driver found (all columns)."""
    found = dict(zip(COLUMNS, row, strict=True))
    extra = found["extra"]
    found["extra"] = decode(extra) if isinstance(extra, str) else extra or {}  # PostgreSQL's driver reads JSON itself
    return found


def order_of(row: Any) -> Order:
    """The order of a database row (all columns)."""
    def instant(value: int | None) -> Any:
        return None if value is None else times.instant(value)

    return Order(
        model=row.model_id, id=row.id, symbol=row.symbol, side=row.side, kind=row.kind, at=times.instant(row.at),
        received_at=times.instant(row.received_at), run=row.run_id, exchange=row.exchange, size=row.size,
        funds=row.funds, price=row.price, activate=row.activate, filled=row.filled, status=row.status,
        executed_at=instant(row.executed_at), canceled_at=instant(row.canceled_at), fee=row.fee,
        fee_currency=row.fee_currency, annotation=row.annotation, version=row.version_id, extra=row.extra or {})


def _side(side: Any) -> str:
    found = _SIDES.get(side) or (_SIDES.get(side.strip().lower()) if isinstance(side, str) else None)
    if found is None:
        raise Invalid(f"{str(side)[:40]!r} is not a side", field="side", remedy="use buy or sell")
    return found


def _finite(value: Any, field: str) -> float:
    if type(value) not in (int, float) or not -LARGEST < value < LARGEST:
        raise Invalid("this is not a number", field=field, remedy="use a finite number")
    return float(value)
