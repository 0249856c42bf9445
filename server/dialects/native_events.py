"""Reporting over the native API: many entries in a request, or a WebSocket that answers after each commit.

    POST /workbench/api/events?model=&atomic=      NDJSON, a JSON array or one object; gzip; Idempotency-Key
    WS   /workbench/api/ingest?model=&session=

A line is an entry: {"kind": "log", "model": "grid", "line": "hello"}. The answer says how many are kept and, line by
line, what is wrong with the others. On the socket a message is {"seq": 7, "entries": [...], "atomic": true}; what
comes back is {"ack": 7, "accepted": 3, "errors": []} after the commit, or {"nack": 7, "error": {...}, "again": true}
when the same message may work later. With a `session` a message that is sent again is answered as before and kept once.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from engine.errors import Busy, Invalid, Unauthenticated, Unavailable, WorkbenchError
from engine.model import Event
from server.dialects.base import BaseHandler
from server.dialects.encoding import dumps
from server.dialects.failures import Failure, Malformed, UnsupportedMedia, failure_of
from server.dialects.native_entries import (
    MOST_ERRORS,
    LineError,
    Parsed,
    inflate,
    parse,
    problems,
    schema,
    told,
)
from server.dialects.routes import Answer, Query, Route
from server.dialects.streams import StreamHandler
from server.services import Services

__all__ = ["routes"]

BASE: Final = "/workbench/api"
INLINE: Final = 2**16  # a body up to this size is parsed on the loop
UNPACKED: Final = 8  # times the largest body that a gzip body may unpack to
AHEAD: Final = 64  # messages of one socket that may wait for their commit
AHEAD_BYTES: Final = 4 * 2**20
SMALL: Final = 64  # entries; larger messages are recorded alone, so that all stay in order


class Events(BaseHandler):
    """Entries in the body of a request."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._line_errors: Sequence[LineError] = ()

    async def post(self) -> None:
        query = self.query
        body = await self._content()
        model = query["model"] or self.request.headers.get("X-Model", "")
        parsed = parse(body, model) if len(body) <= INLINE else await self.off_loop(parse, body, model)
        atomic = query["atomic"]
        if parsed.errors and (atomic or not parsed.entries):
            self._refuse_lines(parsed.errors)
        errors, seq = await self._record(parsed, atomic)
        accepted = len(parsed.entries) + len(parsed.errors) - len({each.line for each in errors})
        if not accepted and errors:
            self._refuse_lines(errors)
        answer: dict[str, Any] = {"accepted": accepted, "errors": errors[:MOST_ERRORS]}
        if len(parsed.entries) == 1:
            answer["seq"] = seq
        self.write_json(answer)

    async def _content(self) -> bytes:
        coding = self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if coding in ("", "identity"):
            return self.body
        if coding not in ("gzip", "x-gzip"):
            raise UnsupportedMedia(f"{coding[:40]!r} is not a coding that is read here", field="Content-Encoding",
                                   remedy="use gzip, or none")
        return await self.off_loop(inflate, self.body, UNPACKED * self.context.config.max_body)

    async def _record(self, parsed: Parsed, atomic: bool) -> tuple[list[LineError], int | None]:
        """What is wrong, by line, and the number of the last event."""
        try:
            outcomes = await self.services.activity.record(
                parsed.entries, principal=self.principal, atomic=atomic,
                key=self.request.headers.get("Idempotency-Key"), project=self.query["project"] or "")
        except Invalid as error:
            if lines := told(error, parsed):
                self._refuse_lines(lines)
            raise
        errors = list(parsed.errors)
        for index, refusal in outcomes.errors.items():
            errors += [LineError(line=parsed.lines[index], field=each.field, error=each.message, remedy=each.remedy)
                       for each in refusal.problems]
        errors.sort(key=lambda each: each.line)
        return errors, outcomes[-1].seq if parsed.entries else None

    def _refuse_lines(self, errors: Sequence[LineError]) -> None:
        self._line_errors = errors[:MOST_ERRORS]
        count = len({each.line for each in errors})
        raise Invalid(f"{count} line{'s' if count != 1 else ''} cannot be kept, so nothing was",
                      problems=problems(errors))

    def render_failure(self, failure: Failure) -> Any:
        body = super().render_failure(failure)
        return body | {"accepted": 0, "errors": self._line_errors} if self._line_errors else body


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """What a client says on the socket. `entries` are read apart, so that each can say what is wrong with it."""

    seq: int
    entries: msgspec.Raw
    atomic: bool = True


_MESSAGE: Final = msgspec.json.Decoder(Message)


class Ingest(StreamHandler):
    """Entries over a WebSocket: acknowledged after the commit, in order. A client that sends faster than can be
    committed is read no further until it is so."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._waiting: deque[str | bytes] = deque()
        self._size = 0
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def max_message_size(self) -> int:
        return self.context.config.max_body

    async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
        self._waiting.append(message)
        self._size += len(message)
        self._came.set()
        if len(self._waiting) >= AHEAD or self._size > AHEAD_BYTES:
            self._room.clear()
            await self._room.wait()  # nothing more is read from the socket meanwhile

    async def events(self, *args: Any, **kwargs: Any) -> AsyncIterator[Event]:
        """Nothing is sent but answers."""
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            await self._check()
            taken = list(self._waiting)
            self._waiting.clear()
            self._size = 0
            self._room.set()
            for frame in await self._answers(taken):
                await self.write_message(frame)
        yield  # type: ignore[unreachable]  # what makes this a generator

    def on_close(self) -> None:
        super().on_close()
        self._room.set()

    async def _check(self) -> None:
        """A token that was revoked meanwhile ends the socket."""
        token_id = self.principal.token_id
        if token_id and await self.services.users.principal_of(token_id) is None:
            raise Unauthenticated("this token is not valid any more", remedy="use another token")

    async def _answers(self, messages: Sequence[str | bytes]) -> list[bytes]:
        """The answers to messages, in order. Small ones are recorded side by side: they share a transaction, and the
        order in which they are handed over is the order in which they are kept."""
        found: list[bytes] = []
        small: list[asyncio.Task[bytes]] = []
        for message in messages:
            if len(message) <= SMALL * 16:  # surely fewer entries than are prepared in a thread
                small.append(asyncio.ensure_future(self._answer(message)))
                continue
            found += await asyncio.gather(*small)
            small = []
            found.append(await self._answer(message))
        return found + await asyncio.gather(*small)

    async def _answer(self, message: str | bytes) -> bytes:
        seq: int | None = None
        try:
            try:
                said = _MESSAGE.decode(message)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Malformed(f"this message cannot be read: {error}",
                                remedy='send {"seq": 1, "entries": [{"kind": …}]}') from None
            seq = said.seq
            body, model = bytes(said.entries), self.query["model"] or ""
            if not body.lstrip().startswith(b"["):
                raise Malformed("entries are a list", field="entries", remedy="send a list")
            parsed = parse(body, model) if len(body) <= INLINE else await asyncio.to_thread(parse, body, model)
            return dumps(await self._record(said, parsed))
        except WorkbenchError as error:
            failure = failure_of(error)
            return dumps({"nack": seq, "again": isinstance(error, Unavailable | Busy), "error": {
                "code": failure.code, "message": failure.message, "problems": failure.problems}})

    async def _record(self, said: Message, parsed: Parsed) -> dict[str, Any]:
        if parsed.errors and (said.atomic or not parsed.entries):
            return self._not_kept(said.seq, parsed.errors)
        session = self.query["session"]
        try:
            outcomes = await self.services.activity.record(
                parsed.entries, principal=self.principal, atomic=said.atomic,
                key=f"{session} {said.seq}" if session else None)
        except Invalid as error:
            if lines := told(error, parsed):
                return self._not_kept(said.seq, lines)
            raise
        errors = list(parsed.errors)
        for index, refusal in outcomes.errors.items():
            errors += [LineError(line=parsed.lines[index], field=each.field, error=each.message, remedy=each.remedy)
                       for each in refusal.problems]
        kept = len(parsed.entries) + len(parsed.errors) - len({each.line for each in errors})
        return {"ack": said.seq, "accepted": kept, "errors": sorted(errors, key=lambda each: each.line)[:MOST_ERRORS]}

    @staticmethod
    def _not_kept(seq: int, errors: Sequence[LineError]) -> dict[str, Any]:
        found = problems(errors)
        return {"nack": seq, "again": False, "error": {
            "code": "invalid", "message": "nothing of this message was kept", "problems": found}}


def routes(services: Services) -> list[Route]:
    """The operations that report."""
    model = Query(name="model", high=128, doc="for entries that name none")
    return [
        Route(methods="POST", path=f"{BASE}/events", handler=Events, auth="ingest", tag="models",
              summary="Report what bots do, many entries at once",
              description="The body is NDJSON (one entry a line), a JSON array of entries or one entry, also gzip. The "
                          "answer comes after the commit. With the header Idempotency-Key a repeated request is "
                          "answered as before and kept once; the same order id again replaces the order.",
              query=(model, Query(name="atomic", kind="switch", default=True,
                                  doc="all or nothing; false keeps the good lines and tells of the others"),
                     Query(name="project", high=64, doc="where unknown models are made; default: default")),
              request=_ENTRIES, request_content=("application/x-ndjson", "application/json"),
              answers={200: Answer(doc="how many entries are kept, and what is wrong with the others", model=_KEPT)},
              errors=(400, 404, 409, 413, 415, 422, 503)),
        Route(methods="GET", path=f"{BASE}/ingest", handler=Ingest, auth="ingest", tag="models", websocket=True,
              summary="Report what bots do (WebSocket)",
              description='Send {"seq": 1, "entries": [...], "atomic": true}; {"ack": 1, "accepted": 2, "errors": []} '
                          'comes after the commit, {"nack": 1, "error": {...}, "again": false} when nothing was kept.',
              query=(model, Query(name="session", high=200, doc="names this client's numbers: a message with the same "
                                  "number again is answered as before and kept once"))),
    ]


_ENTRIES: Final = {"type": "array", "items": schema()}
_KEPT: Final = {"type": "object", "required": ["accepted", "errors"], "properties": {
    "accepted": {"type": "integer"}, "seq": {"type": ["integer", "null"]},
    "errors": {"type": "array", "items": {"type": "object", "required": ["line", "field", "error", "remedy"]}}}}
