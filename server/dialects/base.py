"""The handler of plain requests that all dialects build on: it reads the body and writes the answer.

A body is read as it arrives and refused as soon as it is too long. An answer that comes before the body's end is
followed by a moment of listening, or the client, still sending, might not see it.
"""

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from tornado.web import stream_request_body

from engine.errors import Invalid, TooLarge
from engine.spec import invalid
from server.dialects.bodies import null_place
from server.dialects.context import Context
from server.dialects.encoding import accepts_gzip, compress, dumps
from server.dialects.failures import Malformed, failure_of
from server.dialects.guarded import Guarded
from server.dialects.routes import Route

__all__ = ["BaseHandler"]

M = TypeVar("M", bound=BaseModel)

LINGER: Final = 5.0  # seconds to go on listening to a body that was refused
PATIENT: Final = 2**20  # a refused request's body up to this size is read to its end, and the connection kept
OFF_LOOP: Final = 2**20  # JSON above this is parsed in a thread
BODY_TIMEOUT: Final = 120.0  # seconds for a whole body to arrive
UPLOAD_TIMEOUT: Final = 3600.0
SMALL: Final = 1024  # answers below this are not worth compressing
INLINE: Final = 2**16  # answers above this are compressed in a thread, or not at all


@stream_request_body
class BaseHandler(Guarded):
    """A handler of plain requests. Handlers write `async def post(self, id)` and use `read_json`, `read_model`,
    `query`, `principal`, `services`, `write_json`, `send_json`; they raise `engine.errors`."""

    def initialize(self, context: Context, operations: Mapping[str, Route]) -> None:
        super().initialize(context, operations)
        self.body_file: IO[bytes] | None = None
        self._body = bytearray()
        self._received = 0
        self._limit = context.config.max_body
        self._refused = False

    # -- letting in

    async def prepare(self) -> None:
        self.context.in_flight.add(self)
        connection: Any = self.request.connection
        connection.set_max_body_size(2**62)  # ours is the limit: Tornado's would end in a bare 400
        if self.context.stopping:
            self.lasting_header("Connection", "close")
        try:
            await self.admit()
            self._expect_body()
        except Exception as error:
            self._refuse(error)
        if self.request.body:  # a small request comes whole
            self.data_received(self.request.body)

    def _has_body(self) -> bool:
        headers = self.request.headers
        return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

    def _length(self) -> int | None:
        text = self.request.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def _expect_body(self) -> None:
        config, route = self.context.config, self.route
        wanted = route.max_body if route else None
        self._limit = config.max_upload if wanted == "upload" else config.max_body if wanted is None else wanted
        length = self._length()
        if length is not None and length > self._limit:
            raise self._too_large()
        if self._has_body():
            connection: Any = self.request.connection
            connection.set_body_timeout(UPLOAD_TIMEOUT if wanted == "upload" else BODY_TIMEOUT)
            if route and route.spool:
                self.body_file = tempfile.SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115  closed in _leave

    def _too_large(self) -> TooLarge:
        return TooLarge("the body is too large", remedy=f"send at most {self._limit} bytes")

    def _refuse(self, error: BaseException) -> None:
        """Answer with an error while the body may still be coming."""
        self._refused = True
        method = (self.request.method or "").lower()
        length = self._length() if self._has_body() else 0
        if length is not None and length <= PATIENT:
            # Not now: Tornado closes the connection, unannounced, of an answer that comes before the request's end.
            async def answer(*args: str, **kwargs: str) -> None:
                raise error
        else:
            failure = failure_of(error)
            if failure.status >= 500:
                self.log_exception(type(error), error, error.__traceback__)
            body = self._failure_body(failure)
            self.set_header("Connection", "close")
            self.set_header("Content-Length", len(body))
            self.write(body)
            self.flush()
            asyncio.get_running_loop().call_later(LINGER, self._stop_listening)

            async def answer(*args: str, **kwargs: str) -> None:
                self._stop_listening()
        setattr(self, method, answer)

    def _stop_listening(self) -> None:
        if not self._finished:
            self.finish()

    def data_received(self, chunk: bytes) -> None:
        if self._refused:
            return
        self._received += len(chunk)
        if self._received > self._limit:
            self._body.clear()
            self._refuse(self._too_large())
        elif self.body_file is not None:
            try:
                self.body_file.write(chunk)
            except OSError as error:  # the disk is full, say
                self._refuse(error)
        else:
            self._body += chunk

    # -- reading

    @property
    def body(self) -> bytes:
        """The whole body (of a route that does not spool)."""
        return bytes(self._body)

    @property
    def content_type(self) -> str:
        """The body's media type, lower case, without parameters."""
        return self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def read_json(self) -> Any:
        """The body's JSON. Raises `Malformed` saying where it breaks; NaN and infinities are not JSON."""
        if not self._body:
            raise Malformed("the body is empty", remedy="send JSON")
        try:
            if len(self._body) > OFF_LOOP:
                return await self.off_loop(orjson.loads, self._body)
            return orjson.loads(self._body)
        except orjson.JSONDecodeError as error:
            remedy = "NaN and Infinity are not JSON, use null" if re.search(
                rb"NaN|Infinity", self._body) else "send valid JSON"
            if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
                remedy = "send it uncompressed, without Content-Encoding"
            raise Malformed(f"the body is not JSON: {error}", remedy=remedy) from None

    async def read_model(self, model: type[M]) -> M:
        """The body as a pydantic model. Raises `Malformed`, or `Invalid` with one problem for every broken field."""
        data = await self.read_json()
        if rb"\u0000" in self._body and (place := null_place(data)) is not None:
            raise Invalid("there is a null character in this text", field=place, remedy="leave it out")
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise invalid(error) from None

    async def off_loop(self, work: Callable[..., Any], *args: Any) -> Any:
        """`work(*args)` in a thread: for what takes more than a millisecond or two."""
        return await asyncio.get_running_loop().run_in_executor(None, work, *args)

    # -- writing

    def write_json(self, value: Any, status: int = 200) -> None:
        """Answer with a small value, encoded here and now."""
        body = dumps(value)
        self._announce("application/json", status)
        if SMALL < len(body) <= INLINE and self._may_compress():
            body = compress(body)
            self.set_header("Content-Encoding", "gzip")
        self._headers["Content-Length"] = str(len(body))
        self.finish(body)

    async def send_json(self, value: Any, status: int = 200) -> None:
        """Answer with a value that may be large: encoded and compressed in a thread."""
        squeeze = self._may_compress()

        def encode() -> tuple[bytes, bool]:
            body = dumps(value)
            return (compress(body), True) if squeeze and len(body) > SMALL else (body, False)

        body, squeezed = await self.off_loop(encode)
        self._announce("application/json", status)
        if squeezed:
            self.set_header("Content-Encoding", "gzip")
        self.finish(body)  # not awaited: a client that has left meanwhile is no error

    def write_bytes(self, body: bytes | str, content_type: str, status: int = 200) -> None:
        """Answer with a ready body."""
        self._announce(content_type, status)
        self.finish(body)

    def _announce(self, content_type: str, status: int) -> None:
        self.set_status(status)
        self._headers["Content-Type"] = content_type
        self.add_vary("Accept-Encoding")

    def add_vary(self, name: str) -> None:
        if "Vary" not in self._headers:
            self._headers["Vary"] = name
        elif name.lower() not in (present := self._headers["Vary"]).lower():
            self._headers["Vary"] = f"{present}, {name}"

    def _may_compress(self) -> bool:
        return accepts_gzip(self.request.headers.get("Accept-Encoding", ""))

    # -- ending

    def head(self, *args: str, **kwargs: str) -> Awaitable[None] | None:
        return self.get(*args, **kwargs)  # Tornado leaves the body out

    def options(self, *args: str, **kwargs: str) -> None:
        """What is possible here stands in the Allow header; CORS, if any, in others."""
        self.set_status(204)
        self.finish()

    def on_finish(self) -> None:
        self._leave()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._leave()

    def _leave(self) -> None:
        self.context.in_flight.discard(self)
        if self.body_file is not None:
            self.body_file.close()
