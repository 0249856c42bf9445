"""Gekko instances as rows and in memory: what they were asked, what they last said.

Kinds: a "watcher" hears a market's candles; a "papertrader" runs a strategy on them and trades on paper; a "tradebot"
does it with real orders. States: "live", then "stopped" (somebody said so) or "failed" (`error` says why).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from engine import times
from engine.model import Market
from server.store.encoding import encode

__all__ = ["KINDS", "LISTED", "STATES", "Instance", "Told", "instance_of", "row_of", "stream_of"]

KINDS: Final = ("watcher", "papertrader", "tradebot")
STATES: Final = ("live", "stopped", "failed")
LISTED: Final = ("advice", "tradeCompleted", "roundtrip")
"""Types of events of which all payloads are kept at hand."""

_NOT_FIRST: Final = ("marketUpdate",)
_NOT_LATEST: Final = ("marketStart", "stratWarmupCompleted")

Told = tuple[str, Any]
"""Type and payload of an event, as it goes over the wire."""


def stream_of(id: str) -> str:
    """The stream of an instance's events: "created" {config …}, each of its events by its own type with {payload},
    then "stopped" or "failed" {error}, and "archived". Its "deleted" {id} is told on the stream `instances`."""
    return f"instance/{id}"


@dataclass(kw_only=True, eq=False)
class Instance:
    """One instance. `config` is Gekko's configuration with all defaults; `initial` and `latest` hold the first and the
    newest payload of each type of event, `lists` all payloads of those in `LISTED`. `begin` and `position` are seconds
    on the market's clock: candles before `begin` only warm up, the candle at `position` is the newest one heard."""

    id: str
    kind: str
    state: str
    market: Market
    config: Mapping[str, Any]
    owner: str
    started_at: datetime
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    initial: dict[str, Any] = field(default_factory=dict)
    latest: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    begin: int | None = None
    position: int | None = None
    memory: bytes | None = None
    noted: int = 0
    complete: bool = True
    """Whether `lists` are at hand; after a restart they are read from the event log first."""

    @property
    def live(self) -> bool:
        return self.state == "live"

    @property
    def trades(self) -> bool:
        """Whether it runs a strategy."""
        return self.kind != "watcher"

    def hear(self, said: Iterable[Told], at: datetime) -> None:
        """Take events into the summary."""
        for kind, payload in said:
            self.updated_at = at
            if kind in LISTED:
                self.lists.setdefault(kind, []).append(payload)
            if kind not in _NOT_FIRST and kind not in self.initial:
                self.initial[kind] = payload
            if kind not in _NOT_LATEST:
                self.latest[kind] = payload


def row_of(instance: Instance) -> dict[str, Any]:
    """All columns of a new instance."""
    return {"id": instance.id, "kind": instance.kind, "market": instance.market.key, "owner": instance.owner,
            "config": encode(instance.config, field="config"), "started_at": times.micros(instance.started_at),
            "noted": instance.noted, **changed(instance)}


def changed(instance: Instance) -> dict[str, Any]:
    """The columns that change."""
    def second(value: int | None) -> int | None:
        return None if value is None else value * times.SECOND

    def micros(value: datetime | None) -> int | None:
        return None if value is None else times.micros(value)

    return {"state": instance.state, "error": instance.error, "initial": encode(instance.initial),
            "latest": encode(instance.latest), "memory": instance.memory, "begin_at": second(instance.begin),
            "position_at": second(instance.position), "updated_at": micros(instance.updated_at),
            "ended_at": micros(instance.ended_at)}


def instance_of(row: Any) -> Instance:
    """The instance of a row; its lists are still to be read."""
    def second(value: int | None) -> int | None:
        return None if value is None else value // times.SECOND

    def instant(value: int | None) -> datetime | None:
        return None if value is None else times.instant(value)

    return Instance(
        id=row.id, kind=row.kind, state=row.state, market=Market.parse(row.market), config=row.config, owner=row.owner,
        started_at=times.instant(row.started_at), updated_at=instant(row.updated_at), ended_at=instant(row.ended_at),
        error=row.error, initial=dict(row.initial), latest=dict(row.latest), begin=second(row.begin_at),
        position=second(row.position_at), memory=row.memory, noted=row.noted, complete=False)
