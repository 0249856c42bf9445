"""`GET /api/v1/alerts`: the connection of one listener. What it is sent, the desk decides."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from tornado.iostream import IOStream

from engine.errors import Invalid, PaymentRequired, Unavailable, WorkbenchError
from server.dialects.context import Context
from server.dialects.failures import failure_of
from server.dialects.routes import Route
from server.dialects.tradingpartners_blocks import chunk, error_block
from server.dialects.tradingpartners_desk import NO_CREDIT, NOT_FULL, Desk
from server.dialects.tradingpartners_errors import error_json
from server.dialects.tradingpartners_handler import Partner
from server.services.subscribers import Subscriber

__all__ = ["AlertStream"]

BUFFER: Final = 2**20  # bytes written ahead of a slow reader


class AlertStream(Partner):
    """A stream of blocks. A reader that does not keep up is written at most `BUFFER` bytes ahead, then waits at its
    position. The token is looked at once, so that an open stream outlives it."""

    def initialize(self, context: Context, operations: Mapping[str, Route]) -> None:
        super().initialize(context, operations)
        self.account: Subscriber
        self.position = 0
        self._unsent = 0
        self._drained: asyncio.Event | None = None
        self._ended = False
        self._chunked = True

    @property
    def desk(self) -> Desk:
        assert self.route is not None
        return self.route.options["desk"]

    async def get(self) -> None:
        self.account = await self.read_account()
        if self.account.access != "FULL":
            raise PaymentRequired(NOT_FULL)
        if not self.account.may_stream:
            raise PaymentRequired(NO_CREDIT)
        after = self._last_event()
        if self.context.stopping:
            raise Unavailable("the server is stopping", remedy="try again in a moment")
        self._transforms = []  # nothing may gather or compress what is sent
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache, no-transform")
        self.set_header("X-Accel-Buffering", "no")
        if self.request.method == "HEAD":
            await self.finish()
            return
        self._auto_finish = False  # the answer goes on when this function has ended
        self._chunked = self.request.version == "HTTP/1.1"
        connection: Any = self.request.connection
        connection._disconnect_on_finish = True  # the end of the stream is the end of the connection
        self.context.in_flight.discard(self)
        self.context.streams.add(self)
        self._stream = connection.stream
        self.flush()
        await self.desk.join(self, after)
        if self._ended:  # it left while the desk was opening
            self.desk.leave(self)

    def _last_event(self) -> int | None:
        text = self.request.headers.get("Last-Event-ID", "").strip()
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise Invalid("this is no event's id", field="Last-Event-ID", remedy="send the id that came last, or none")
        return int(text)

    # -- what the desk does with it

    def send(self, block: bytes) -> bool:
        if self._ended:
            return True
        data = chunk(block) if self._chunked else block
        self.context.metrics.frames.inc()
        try:
            if type(self._stream) is IOStream and not self._stream.writing() and not self._stream.closed():
                # Nearly always the system takes a block at once: a fraction of the time that a stream's write takes.
                try:
                    sent = self._stream.socket.send(data)
                except (BlockingIOError, InterruptedError):
                    sent = 0
                if sent == len(data):
                    return True
                data = data[sent:]
            written = self._stream.write(data)
        except OSError:  # a closed stream's error is one, too
            return True  # the reader is gone: the stream notices by itself
        if written.done():
            written.exception()
            return True
        size = len(data)
        self._unsent += size

        def arrived(future: Any) -> None:
            self._unsent -= size
            if self._drained is not None:
                self._drained.set()
            if not future.cancelled():
                future.exception()

        written.add_done_callback(arrived)
        return self._unsent <= BUFFER

    async def drained(self) -> bool:
        while self._unsent > BUFFER // 2 and not self._ended:
            self._drained = asyncio.Event()
            await self._drained.wait()
        return not self._ended

    def end(self, error: WorkbenchError | None) -> None:
        """End the stream, telling why."""
        if self._ended:
            return
        if error is not None:
            self.send(error_block(error_json(failure_of(error), None, self.request_id)))
        self._leave()
        if not self._finished:
            self.finish()

    def shut(self, code: int, reason: str) -> None:
        self.end(None)

    def _leave(self) -> None:
        super()._leave()
        if "account" in self.__dict__ and not self._ended:
            self._ended = True
            self.context.streams.discard(self)
            self.desk.leave(self)
            if self._drained is not None:
                self._drained.set()
