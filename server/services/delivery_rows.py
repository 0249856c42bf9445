"""Channels and deliveries as values, from the rows of their tables. Instants are microseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.store.encoding import decode

__all__ = ["Attempt", "Channel", "Delivery", "channel_of", "delivery_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """Where notices go: `shown` is the address without its secrets; `rate` notices a minute, 0 for no limit."""

    id: str
    name: str
    kind: str
    shown: str
    topics: tuple[str, ...]
    filters: Mapping[str, Sequence[str]]
    rate: int
    enabled: bool
    owner: str
    created_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try: when it began, how long it took, the HTTP status and what went wrong."""

    number: int
    at: int
    ms: int
    status: int | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A notice on its way through one channel: pending, delivered or dead. `next_at` is when it is tried next."""

    id: int
    channel: str
    topic: str
    notice: Mapping[str, Any]
    state: str
    attempts: int
    next_at: int
    created_at: int
    finished_at: int | None
    status: int | None
    error: str | None
    tried: tuple[Attempt, ...] = ()


def channel_of(row: Any) -> Channel:
    return Channel(id=row.id, name=row.name, kind=row.kind, shown=row.shown, topics=tuple(row.topics),
                   filters=row.filters, rate=row.rate, enabled=row.enabled, owner=row.owner, created_at=row.created_at)


def delivery_of(row: Any, tried: Sequence[Any] = ()) -> Delivery:
    return Delivery(
        id=row.id, channel=row.channel_id, topic=row.topic, notice=decode(row.body), state=row.state,
        attempts=row.attempts, next_at=row.next_at, created_at=row.created_at, finished_at=row.finished_at,
        status=row.status, error=row.error, tried=tuple(
            Attempt(number=one.number, at=one.at, ms=one.ms, status=one.status, error=one.error) for one in tried))
