"""Streams over WebSocket: a subscriber is a position in the event log, and every event is encoded once.

A handler says which events (`events`) and what they look like (`render`). A reader that does not keep up is written at
most `BUFFER` bytes ahead; then it waits at its position, which costs nothing, and goes on from there. Close codes:
1000 after the last event, 1001 when the server stops, 1008 when the stream is refused, 1011 after an error of ours.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Final, Literal

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler

from engine.errors import Busy, Forbidden, Unavailable, WorkbenchError
from engine.model import Event
from server.dialects.context import Context
from server.dialects.encoding import dumps
from server.dialects.failures import UpgradeRequired
from server.dialects.guarded import Guarded
from server.dialects.routes import Route

__all__ = ["StreamHandler", "frame_of"]

BUFFER: Final = 2**20  # bytes written ahead of a slow reader
TURN: Final = 500  # events sent before others get their turn
CACHED: Final = 4096  # encoded events kept
PING: Final = 30.0

log = logging.getLogger("workbench.streams")


class StreamHandler(Guarded, WebSocketHandler):
    """A WebSocket that sends events. Subclasses write `events` and, for another form than the native one, `render`.

    refusals: where a bad token or a bad query is told: "close" accepts the socket and closes it with 1008 (browsers
    can read that), "handshake" answers the handshake with the HTTP status.
    """

    refusals: ClassVar[Literal["close", "handshake"]] = "close"

    def initialize(self, context: Context, operations: Mapping[str, Route]) -> None:
        super().initialize(context, operations)
        self._refusal: WorkbenchError | None = None
        self._pump: asyncio.Task[None] | None = None
        self._unsent = 0
        self._drained = asyncio.Event()
        self._closing = False

    def events(self, *args: Any, **kwargs: Any) -> AsyncIterator[Event]:
        """The events to send, from the position that the query names; called with the path's parts. What it raises
        first (`NotFound`) closes the stream with 1008; its end closes it with 1000."""
        raise NotImplementedError

    def render(self, event: Event) -> str | bytes | None:  # type: ignore[override]  # no templates here
        """An event as the dialect's frame: text, or bytes of text; None leaves it out. It must depend on nothing but
        the event, since what it makes is sent to every subscriber of this class."""
        return dumps({"id": event.id, "stream": event.stream, "seq": event.seq, "type": event.type, "at": event.at,
                      "data": event.data})

    # -- letting in

    async def prepare(self) -> None:
        if self.request.headers.get("Upgrade", "").lower() != "websocket" and self.request.method in self.operations:
            self.lasting_header("Upgrade", "websocket")
            raise UpgradeRequired("this is a WebSocket", remedy="connect with a WebSocket client")
        origin = self.request.headers.get("Origin")
        if origin is not None and not self.context.origins.allows(origin, self.request):
            raise Forbidden("pages of this origin may not open streams here", field="Origin",
                            remedy="allow the origin with --origins")
        try:
            await self.admit()
        except (Busy, Unavailable):
            raise
        except WorkbenchError as error:
            if self.refusals == "handshake" or self.route is None:
                raise
            self._refusal = error
        if self.context.stopping:
            raise Unavailable("the server is stopping", remedy="try again in a moment")

    def check_origin(self, origin: str) -> bool:
        return self.context.origins.allows(origin, self.request)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return None

    @property
    def ping_interval(self) -> float:
        return PING

    @property
    def ping_timeout(self) -> float:
        return PING

    @property
    def max_message_size(self) -> int:
        return 2**16

    # -- sending

    def open(self, *args: str, **kwargs: str) -> None:
        self.context.streams.add(self)
        self.set_nodelay(True)
        if self._refusal is not None:
            self.shut(1008, self._refusal.message)
        elif self.context.stopping:
            self.shut(1001, "the server is stopping")
        else:
            self._pump = asyncio.ensure_future(self._run(*args, **kwargs))

    async def _run(self, *args: str, **kwargs: str) -> None:
        sent = 0
        try:
            async with aclosing(self.events(*args, **kwargs)) as events:  # type: ignore[type-var]
                async for event in events:
                    frame = self._frame(event)
                    if frame is None:
                        continue
                    await self._send(frame)
                    sent += 1
                    if sent % TURN == 0:
                        await asyncio.sleep(0)
            self.shut(1000, "")
        except StreamClosedError:
            pass
        except Unavailable as error:
            self.shut(1013, error.message)
        except WorkbenchError as error:
            self.shut(1008, error.message)
        except Exception as error:
            log.error("a stream broke", exc_info=error, extra={"facts": {
                "path": self.request.path, "request_id": self.request_id}})
            self.shut(1011, "something went wrong inside the workbench")
        finally:
            self.context.metrics.frames.inc(sent)

    def _frame(self, event: Event) -> bytes | None:
        """The event as bytes for the socket, made once for all subscribers."""
        frames, key = self.context.frames, (type(self), event.id)
        frame = frames.get(key)
        if frame is None:
            text = self.render(event)
            if text is None:
                return None
            frame = frames[key] = frame_of(text.encode() if isinstance(text, str) else text)
            if len(frames) > CACHED:
                del frames[next(iter(frames))]
        return frame

    async def _send(self, frame: bytes) -> None:
        """Write straight to the socket; wait when the reader is `BUFFER` bytes behind."""
        stream = getattr(self.ws_connection, "stream", None)
        if stream is None or self._closing:
            raise StreamClosedError
        written = stream.write(frame)
        if written.done():
            written.result()
            return
        size = len(frame)
        self._unsent += size

        def arrived(future: Any) -> None:
            self._unsent -= size
            self._drained.set()
            if not future.cancelled():
                future.exception()

        written.add_done_callback(arrived)
        while self._unsent > BUFFER:
            self._drained.clear()
            await self._drained.wait()

    # -- ending

    def on_message(self, message: str | bytes) -> None:
        """Clients have nothing to say here."""

    def shut(self, code: int, reason: str) -> None:
        """End the stream with a close code."""
        if self._closing:
            return
        self._closing = True
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
        if self.ws_connection is not None:
            self.close(code, reason.encode()[:120].decode(errors="ignore"))

    def on_close(self) -> None:
        self._closing = True
        self._drained.set()
        self.context.streams.discard(self)
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()


def frame_of(payload: bytes) -> bytes:
    """One unmasked, unfragmented text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x81, size))
    elif size < 2**16:
        head = b"\x81\x7e" + size.to_bytes(2, "big")
    else:
        head = b"\x81\x7f" + size.to_bytes(8, "big")
    return head + payload
