"""What tables show of a model: its orders, lines of output, calls and events, as rows of `LiveRows`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from engine import times
from engine.activity import Model, Order
from engine.model import Event
from workbench.client_models import CallEntry, LogEntry
from workbench.views.live_rows import Row
from workbench.views.model_symbols import currency_of

BAD: Final = frozenset({"stderr", "error", "critical", "fatal", "exception"})
SILENT: Final = 90.0
"""Seconds without a word after which a running model is called silent."""

ORDERS: Final = [
    {"key": "at", "title": "Time (UTC)", "kind": "time"}, {"key": "symbol", "title": "Symbol", "kind": "text"},
    {"key": "side", "title": "Side", "kind": "side"}, {"key": "kind", "title": "Type", "kind": "text"},
    {"key": "amount", "title": "Amount", "kind": "number"}, {"key": "unit", "title": "of", "kind": "text"},
    {"key": "price", "title": "Price", "kind": "number"}, {"key": "fee", "title": "Fee", "kind": "number"},
    {"key": "status", "title": "Status", "kind": "text"}, {"key": "note", "title": "Why", "kind": "text"},
]
LINES: Final = [{"key": "at", "title": "Time", "kind": "time"}, {"key": "type", "title": "Type", "kind": "text"},
                {"key": "line", "title": "Line", "kind": "line"}]
CALLS: Final = [
    {"key": "at", "title": "Time (UTC)", "kind": "time"}, {"key": "type", "title": "Call", "kind": "code"},
    {"key": "args", "title": "Arguments", "kind": "text"}, {"key": "response", "title": "Response", "kind": "text"},
    {"key": "note", "title": "Why", "kind": "text"},
]
EVENTS: Final = [{"key": "at", "title": "Time (UTC)", "kind": "time"}, {"key": "type", "title": "What", "kind": "code"},
                 {"key": "told", "title": "Told", "kind": "text"}]
RESULTS: Final = [{"key": "at", "title": "Time (UTC)", "kind": "time"},
                  {"key": "told", "title": "Result", "kind": "text"}]


def millis(at: datetime | None) -> float | None:
    """An instant as the browser counts: milliseconds since 1970."""
    return None if at is None else times.micros(at) / 1000


def brief(value: Any, most: int = 140) -> str:
    """A value of any shape in one short line."""
    import orjson

    if value is None or value == {}:
        return ""
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most - 1] + "…"


def state_of(model: Model) -> tuple[str, str]:
    """A model's state in a word, and its tone: good, bad, idle or "" (nothing is known)."""
    silent = model.heard_at is not None and (times.now() - model.heard_at).total_seconds() > SILENT
    if model.running is False:
        return ("stopped", "idle")
    if model.heard_at is None:
        return ("never heard", "")
    if silent:
        return ("silent", "bad" if model.running else "")
    return ("running", "good") if model.running else ("reporting", "good")


def order_row(order: Order) -> Row:
    """An order; everything else that is known of it is in the detail."""
    base = order.symbol.replace("/", "-").replace("_", "-").partition("-")[0]
    told: dict[str, Any] = {
        "Order": order.id, "Received": times.iso(order.received_at), "At the bot's clock": times.iso(order.at),
        "Exchange": order.exchange, "Filled": order.filled, "Activates at": order.activate,
        "Executed": order.executed_at and times.iso(order.executed_at),
        "Cancelled": order.canceled_at and times.iso(order.canceled_at), "Fee in": order.fee_currency,
        "Version": order.version, "Why": order.annotation, **order.extra}
    sized = order.size is not None
    return {"id": order.id, "at": millis(order.at), "symbol": order.symbol, "side": order.side, "kind": order.kind,
            "amount": order.size if sized else order.funds, "unit": base if sized else currency_of(order.symbol),
            "price": order.price, "fee": order.fee, "status": order.status or "", "note": brief(order.annotation, 80),
            "detail": {name: str(value) if isinstance(value, float | int) else value
                       for name, value in told.items() if value not in (None, "")}}


def line_row(entry: LogEntry) -> Row:
    """A line of output."""
    return {"id": str(entry.seq), "at": millis(entry.at), "type": entry.type, "line": entry.line[:20_000],
            "tone": "bad" if entry.type.lower() in BAD else ""}


def call_row(entry: CallEntry) -> Row:
    """A call with its whole arguments and response in the detail."""
    return {"id": str(entry.seq), "at": millis(entry.at), "type": entry.type, "args": brief(entry.args),
            "response": brief(entry.response), "note": brief(entry.annotation),
            "find": f"{entry.type} {brief(entry.args, 2000)} {brief(entry.response, 2000)} {entry.annotation or ''}",
            "detail": {"Arguments": entry.args, "Response": entry.response, "Why": entry.annotation or "none",
                       "Received": times.iso(entry.received_at)}}


def event_row(event: Event) -> Row:
    """What happened to a model, other than orders, calls and output."""
    told = {name: value for name, value in event.data.items() if name not in ("at", "model")}
    return {"id": str(event.seq), "at": millis(event.at), "type": event.type, "told": brief(told, 200),
            "detail": told or {"": "nothing more"}}


def result_row(entry: Mapping[str, Any]) -> Row:
    """A screener's result."""
    at = entry.get("received_at") or entry.get("at")
    return {"id": str(entry["seq"]), "at": None if at is None else times.micros(times.parse(at)) / 1000,
            "told": brief(entry.get("result"), 300), "detail": {"Result": entry.get("result")}}
