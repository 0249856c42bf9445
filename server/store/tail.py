"""The newest committed events, in memory: what followers that keep up read, whatever their number."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from engine.model import Event

__all__ = ["Tail"]

_EVENTS: Final = 8192
_BYTES: Final = 16 * 1024 * 1024


class Tail:
    """All events with floor < id <= last, at most `events` of them and about `size` bytes of JSON text."""

    def __init__(self, events: int = _EVENTS, size: int = _BYTES) -> None:
        self._most = events
        self._room = size
        self._used = 0
        self._ring: deque[tuple[Event, int]] = deque()
        self._streams: dict[str, deque[Event]] = {}
        self.floor = 0
        self.last: int | None = None

    def __len__(self) -> int:
        return len(self._ring)

    def reset(self, last: int) -> None:
        """Forget everything; the next event is the first after `last`."""
        self._ring.clear()
        self._streams.clear()
        self._used = 0
        self.floor = self.last = last

    def add(self, events: Iterable[tuple[Event, int]]) -> None:
        """Take events (with the length of their text), by rising id, following directly on what is here."""
        for event, size in events:
            if self.last is not None and event.id <= self.last:
                continue
            if self.last is None:
                self.floor = event.id - 1
            self._ring.append((event, size))
            self._streams.setdefault(event.stream, deque()).append(event)
            self._used += size
            self.last = event.id
        while self._ring and (len(self._ring) > self._most or self._used > self._room):
            event, size = self._ring.popleft()
            self._used -= size
            self.floor = event.id
            stream = self._streams[event.stream]
            stream.popleft()
            if not stream:
                del self._streams[event.stream]

    def of(self, stream: str, after: int) -> list[Event] | None:
        """The events of a stream with seq > after; None when that cannot be told from here."""
        events = self._streams.get(stream)
        if not events or events[0].seq > after + 1:
            return None
        if events[-1].seq == after + 1:  # the common case: one new event
            return [events[-1]]
        found: list[Event] = []
        for event in reversed(events):
            if event.seq <= after:
                break
            found.append(event)
        found.reverse()
        return found

    def since(self, after: int) -> list[Event] | None:
        """All events with id > after; None when that cannot be told from here."""
        if self.last is None or after < self.floor:
            return None
        found: list[Event] = []
        for event, _ in reversed(self._ring):
            if event.id <= after:
                break
            found.append(event)
        found.reverse()
        return found

    def forget(self, stream: str) -> None:
        """Drop the events of a stream that was deleted."""
        if self._streams.pop(stream, None):
            self._ring = deque((event, size) for event, size in self._ring if event.stream != stream)
            self._used = sum(size for _, size in self._ring)
