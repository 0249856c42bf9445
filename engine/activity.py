"""What bots do: the nouns of a bot's life, and the entries in which it reports it.

An entry is one thing that a bot says happened. Every dialect, the NDJSON and WebSocket ingest, the Gekko instances and
the runner of uploaded models translate into entries; `server.services.activity` keeps them. Instants of entries are
what `engine.times.parse` reads (epoch numbers, ISO texts) or None for the server's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "AnnotationChange", "AnyEntry", "AutoPnl", "Call", "CustomMetrics", "Entry", "Lifecycle", "LogLine", "Model",
    "Order", "OrderChange", "OrderPlaced", "PnlSeries", "Project", "ScreenerResult", "UsedExchange", "UsedSymbol",
]

Instant = int | float | str | None
Side = Literal["buy", "sell"]
OrderKind = Literal["market", "limit", "stop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What models belong to. A user's own project has the user's id."""

    id: str
    name: str
    description: str = ""
    owner: str = ""
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One bot: an uploaded model, a program elsewhere that reports here, a Gekko instance.

    `dialect` says whose words it speaks ("blankly", "gekko", "native"), `kind` what it is ("strategy", "screener",
    "watcher", "papertrader", "tradebot"). `message`, `running`, `started_at`, `ended_at` are what it said of its
    lifecycle; `heard_at` is the server's clock at the last entry. `metrics` are figures that the model reports of
    itself: key -> {"value", "display_name", "type"}.
    """

    id: str
    project: str
    name: str
    description: str = ""
    dialect: str = "native"
    kind: str = "strategy"
    created_at: datetime
    message: str | None = None
    running: bool | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    heard_at: datetime | None = None
    symbols: tuple[str, ...] = ()
    exchanges: tuple[str, ...] = ()
    auto_pnl: bool = True
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    orders: int = 0
    errors: int = 0
    last_error: str | None = None
    last_error_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """An order as its bot last reported it. `size` is in units of the asset, `funds` in the quote currency: one of them
    is given. `price` is the limit or the fill price; None for a market order whose price nobody said. `at` is the
    bot's clock, `received_at` the server's. `run` is the detached backtest it belongs to, "" when live.
    """

    model: str
    id: str
    symbol: str
    side: Side
    kind: OrderKind
    at: datetime
    received_at: datetime
    run: str = ""
    exchange: str = ""
    size: float | None = None
    funds: float | None = None
    price: float | None = None
    activate: float | None = None
    filled: float | None = None
    status: str | None = None
    executed_at: datetime | None = None
    canceled_at: datetime | None = None
    fee: float | None = None
    fee_currency: str = ""
    annotation: str | None = None
    version: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind"):
    """One thing that a bot reports. On the wire of `/workbench/api/events`: a JSON object with `kind` (below), `model`
    (the model's id; may be given once for all) and the fields."""

    model: str = ""
    at: Instant = None
    run: str = ""


class OrderPlaced(Entry, tag="order", frozen=True, kw_only=True):
    """An order; the same id again replaces what it names. One of `size` and `funds`. Raises `Invalid` when kept, not
    here: the field is named there."""

    id: str
    symbol: str
    side: str
    type: str = "market"
    exchange: str = ""
    size: float | None = None
    funds: float | None = None
    price: float | None = None
    activate: float | None = None
    filled: float | None = None
    status: str | None = None
    executed_at: Instant = None
    canceled_at: Instant = None
    fee: float | None = None
    fee_currency: str = ""
    annotation: str | None = None
    version: str = ""
    extra: dict[str, Any] = {}


class OrderChange(Entry, tag="order-change", frozen=True, kw_only=True):
    """What changed of an order: any of its fields by name, and others, which are kept in `extra`."""

    id: str
    changes: dict[str, Any]


class AnnotationChange(Entry, tag="annotation", frozen=True, kw_only=True):
    """Why an order was given."""

    id: str
    annotation: str


class LogLine(Entry, tag="log", frozen=True, kw_only=True):
    """One line of output. `type` as the bot says: stdout, stderr, info, warning, error …"""

    line: str
    type: str = "stdout"


class Call(Entry, tag="call", frozen=True, kw_only=True):
    """A function call or anything else worth a line in the event log."""

    type: str
    args: Any = None
    response: Any = None
    annotation: str | None = None


class Lifecycle(Entry, tag="lifecycle", frozen=True, kw_only=True):
    """Absent fields keep their value, None resets them."""

    message: str | UnsetType | None = UNSET
    started_at: Instant | UnsetType = UNSET
    ended_at: Instant | UnsetType = UNSET
    running: bool | UnsetType | None = UNSET


class UsedSymbol(Entry, tag="symbol", frozen=True, kw_only=True):
    symbol: str


class UsedExchange(Entry, tag="exchange", frozen=True, kw_only=True):
    exchange: str


class CustomMetrics(Entry, tag="metrics", frozen=True, kw_only=True):
    """Figures that the model reports of itself; merged by key."""

    metrics: dict[str, Any]


class PnlSeries(Entry, tag="pnl", frozen=True, kw_only=True):
    """Replaces the model's reported profit series: [{"time", "value"}]."""

    values: list[dict[str, Any]]


class AutoPnl(Entry, tag="auto-pnl", frozen=True, kw_only=True):
    """Whether the workbench computes the profit itself (else it shows the reported series)."""

    enabled: bool


class ScreenerResult(Entry, tag="screener", frozen=True, kw_only=True):
    result: Any


AnyEntry = (OrderPlaced | OrderChange | AnnotationChange | LogLine | Call | Lifecycle | UsedSymbol | UsedExchange
            | CustomMetrics | PnlSeries | AutoPnl | ScreenerResult)
"""What a JSON object with a `kind` is read as."""
