"""The nouns of the workbench as frozen values. Storage rows never leave the services; these do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from engine.errors import Invalid

RunKind = Literal["backtest", "optimization", "live", "watch", "import"]
RunState = Literal["queued", "running", "completed", "failed", "cancelled"]
RUN_STATES: Final[tuple[RunState, ...]] = ("queued", "running", "completed", "failed", "cancelled")
FINISHED: Final[frozenset[str]] = frozenset({"completed", "failed", "cancelled"})

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._^=-]{0,39}")


@dataclass(frozen=True, slots=True, order=True)
class Market:
    """What is traded and where: exchange, asset, currency. Its key is `exchange:ASSET/CURRENCY`.

    The parts are 1-40 letters, digits and `. _ ^ = -`, beginning with a letter or digit, so that they can name
    folders; anything else raises `Invalid`. Case matters.
    """

    exchange: str
    asset: str
    currency: str

    def __post_init__(self) -> None:
        for name in ("exchange", "asset", "currency"):
            part = getattr(self, name)
            if not isinstance(part, str) or not _PART.fullmatch(part):
                raise Invalid(f"{part!r} cannot name a market's {name}", field=name,
                              remedy="use 1-40 letters, digits and . _ ^ = - beginning with a letter or digit")

    @property
    def key(self) -> str:
        return f"{self.exchange}:{self.asset}/{self.currency}"

    def __str__(self) -> str:
        return self.key

    @classmethod
    def parse(cls, text: str, *, field: str = "market") -> "Market":
        """The market of a key such as `demo:AAPL/USD`; raises `Invalid` naming `field`."""
        exchange, colon, pair = text.partition(":") if isinstance(text, str) else ("", "", "")
        asset, slash, currency = pair.rpartition("/")
        if not (colon and slash):
            raise Invalid(f"{text!r} is not a market", field=field,
                          remedy="write exchange:ASSET/CURRENCY, for example demo:AAPL/USD")
        return cls(exchange, asset, currency)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One numbered fact of a stream. `seq` counts 1, 2, 3 … within `stream`; `id` orders all streams together."""

    id: int
    stream: str
    seq: int
    type: str
    at: datetime
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One execution. `spec` is what was asked (JSON), `metrics` the headline figures of a completed run.

    `progress` is a fraction 0..1. A finished run never changes, except for its name, tags and notes.
    """

    id: str
    kind: RunKind
    state: RunState
    progress: float
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    name: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    dialect: str = "native"
    strategy: str = ""
    markets: tuple[str, ...] = ()
    resolution: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None
    attempts: int = 0
    parent: str | None = None
    owner: str = ""

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who asks: the token's name and id, and what it may do. A bot's key is bound to a `project` and perhaps to one
    `model` of it; "" is unbound."""

    name: str
    scopes: frozenset[str]
    token_id: str = ""
    project: str = ""
    model: str = ""

    def may(self, scope: str) -> bool:
        return "admin" in self.scopes or scope in self.scopes


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """The definition of one figure: key, display name, unit and the formula with its source.

    Units: "fraction" (shown as percent), "ratio", "currency", "count", "days", "bars", "text".
    """

    key: str
    name: str
    unit: str
    formula: str
    better: Literal["higher", "lower", ""] = ""
