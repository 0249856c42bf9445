"""Follow events over the wire: every one once and in order, across lost connections and server restarts."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from engine import times
from engine.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from engine.model import Event

_REFUSED: Final = {401: Unauthenticated, 403: Forbidden, 404: NotFound}

Watcher = Callable[[bool], None]
"""Told True when the connection stands and False when it was lost."""


def event_of(data: Mapping[str, Any]) -> Event:
    """The event of a decoded frame."""
    return Event(id=data["id"], stream=data["stream"], seq=data["seq"], type=data["type"],
                 at=times.parse(data["at"]), data=data["data"])


class Feed:
    """A position in a stream of events.

    With `by="seq"` (one stream) the position is the last event's number in its stream, and a frame that leaves a hole
    makes the feed ask again from its position; with `by="id"` (the firehose, where numbers are not dense) it is the
    global id. Either way a frame at or before the position is dropped, so that a follower sees every event once.
    `after=None` begins with what happens from now on.

    The feed ends when the server closes with 1000 (nothing can follow). It raises `Unauthenticated`, `Forbidden` or
    `NotFound` when the server refuses it, and `Unavailable` when no connection stands for `patience` seconds
    (None: never gives up).
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, after: int | None = 0, by: str = "seq",
                 position: str = "after", params: Mapping[str, str] | None = None, patience: float | None = None,
                 watcher: Watcher | None = None) -> None:
        self.url = "ws" + url.removeprefix("http")
        self.headers = dict(headers or {})
        self.after = after
        self.by = by
        self.position = position
        self.params = dict(params or {})
        self.patience = patience
        self.watcher = watcher

    def _told(self, connected: bool) -> None:
        if self.watcher is not None:
            self.watcher(connected)

    def _address(self) -> str:
        position = {} if self.after is None else {self.position: str(self.after)}
        return f"{self.url}?{urlencode({**self.params, **position})}"

    async def __aiter__(self) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        lost_at: float | None = None
        failures = 0
        local = (urlsplit(self.url).hostname or "") in ("localhost", "127.0.0.1", "::1")
        while True:
            try:
                async with connect(self._address(), additional_headers=self.headers, max_size=16 * 2**20,
                                   open_timeout=10, close_timeout=1, proxy=None if local else True) as socket:
                    self._told(True)
                    async for frame in socket:
                        event = event_of(orjson.loads(frame))
                        number = event.seq if self.by == "seq" else event.id
                        lost_at, failures = None, 0
                        if self.after is not None and number <= self.after:
                            continue
                        if self.by == "seq" and self.after is not None and number != self.after + 1:
                            break  # a hole: ask again from our position
                        self.after = number
                        yield event
                    else:
                        if socket.close_code == 1000:
                            return
                    self._refusal(socket.close_code, socket.close_reason or "")
            except InvalidStatus as error:
                status = error.response.status_code
                if status in _REFUSED:
                    raise _REFUSED[status](f"the server refused the stream ({status})",
                                           remedy="check the token" if status != 404 else "") from None
            except ConnectionClosed as error:
                close = error.rcvd
                self._refusal(close.code if close else None, close.reason if close else "")
            except (OSError, InvalidHandshake, TimeoutError):
                pass
            self._told(False)
            lost_at = lost_at if lost_at is not None else loop.time()
            if self.patience is not None and loop.time() - lost_at >= self.patience:
                raise Unavailable(f"no connection to {self.url} for {self.patience:g} s",
                                  remedy="check that the server runs") from None
            failures += 1
            await asyncio.sleep(min(0.05 * 2 ** min(failures, 7), 5.0) * random.uniform(0.7, 1.3))

    @staticmethod
    def _refusal(code: int | None, reason: str) -> None:
        if code == 1008:
            missing = any(word in reason.lower() for word in ("run", "found", "there is no"))
            kind = NotFound if missing else Forbidden if "scope" in reason else Unauthenticated
            raise kind(reason or "the server refused the stream")
