"""The handler that all dialects build on: it lets a request in or not, reads its body and writes its answer.

Order: request id, method, host, sender, rate limit, scope, origin, query, body. A refusal says why, as JSON in the
dialect's own error form (`render_failure`). A body is read as it arrives and refused as soon as it is too long; an
answer that comes before the body's end is followed by a moment of listening, or the client, still sending, might not
see it.
"""

import asyncio
import logging
import re
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any, ClassVar, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from tornado.web import RequestHandler, stream_request_body

from engine.errors import Busy, Forbidden, TooLarge, Unauthenticated, Unavailable, WorkbenchError
from engine.model import Principal
from engine.spec import invalid
from server.auth import Admission, Carrier
from server.dialects.context import Context
from server.dialects.encoding import accepts_gzip, compress, dumps
from server.dialects.failures import Failure, Malformed, MethodNotAllowed, failure_of
from server.dialects.routes import Route
from server.limits import Allowance
from server.services import Services

__all__ = ["BaseHandler", "Guarded"]

M = TypeVar("M", bound=BaseModel)

LINGER: Final = 1.0  # seconds to go on listening to a body that was refused
PATIENT: Final = 2**20  # a refused request's body up to this size is read to its end, and the connection kept
OFF_LOOP: Final = 2**20  # JSON above this is parsed in a thread
BODY_TIMEOUT: Final = 120.0  # seconds for a whole body to arrive
UPLOAD_TIMEOUT: Final = 3600.0
SMALL: Final = 1024  # answers below this are not worth compressing
INLINE: Final = 2**16  # answers above this are compressed in a thread, or not at all
METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
API_CSP: Final = "default-src 'none'; frame-ancestors 'none'"

access_log = logging.getLogger("workbench.access")
log = logging.getLogger("workbench.server")


class Guarded(RequestHandler):
    """What plain handlers and streams have in common: identity, headers, admission, the access line."""

    dialect: ClassVar[str] = "native"
    carriers: ClassVar[tuple[Carrier, ...]] = ()
    csp: ClassVar[str] = API_CSP

    def initialize(self, context: Context, operations: Mapping[str, Route]) -> None:
        self.context = context
        self.operations = operations
        self.admission: Admission | None = None
        self.query: dict[str, Any] = {}

    @property
    def request_id(self) -> str:
        """Names this request in headers, error bodies and the log: the client's own X-Request-ID when it is a sane
        one, else a new UUID."""
        found = self.request.__dict__.get("workbench_id")
        if found is None:
            given = self.request.headers.get("X-Request-ID", "")
            found = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
            self.request.__dict__["workbench_id"] = found
        return found

    @property
    def services(self) -> Services:
        return self.context.services

    @property
    def principal(self) -> Principal:
        """Who asks. Raises `Unauthenticated` on a public route when nobody said."""
        if self.admission is None:
            raise Unauthenticated("a token is needed")
        return self.admission.principal

    @property
    def route(self) -> Route | None:
        """The operation that was asked for; HEAD is the GET without its body."""
        method = self.request.method or ""
        return self.operations.get(method) or (self.operations.get("GET") if method == "HEAD" else None)

    @property
    def allowed(self) -> str:
        """The methods that are possible here, as the Allow header has them."""
        return ", ".join(sorted({*self.operations, "OPTIONS", *(["HEAD"] if "GET" in self.operations else [])}))

    def set_default_headers(self) -> None:
        headers = {
            "Server": "workbench", "X-Request-ID": self.request_id, "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
            "Permissions-Policy": "geolocation=(), microphone=(), camera=()", "Content-Security-Policy": self.csp,
            "Cross-Origin-Resource-Policy": "same-origin",
        } | self.request.__dict__.get("workbench_headers", {})
        for name, value in headers.items():
            self.set_header(name, value)

    def lasting_header(self, name: str, value: str) -> None:
        """Set a header that an error answer keeps too."""
        self.request.__dict__.setdefault("workbench_headers", {})[name] = value
        self.set_header(name, value)

    async def admit(self) -> None:
        """Let the request in, or raise what is wrong with it."""
        context, route = self.context, self.route
        self._answer_origin()
        context.origins.check_host(self.request)
        if route is None:
            self._check_method()
            return
        refusal: WorkbenchError | None = None
        try:
            self.admission = await context.authenticator.identify(self.request, self.carriers)
        except (Unauthenticated, Unavailable) as error:  # unavailable: the database cannot say; health must still answer
            refusal = error if route.auth is not None else None
        if not route.unmetered:
            client = self.admission.principal.token_id if self.admission else ""
            allowance = context.limiter.take(client or f"ip {self.request.remote_ip}")
            self._meter(allowance)
        if refusal:
            raise refusal
        if route.auth and not self.principal.may(route.auth):
            raise Forbidden(f"this token lacks the scope {route.auth!r}", remedy="use a token with that scope")
        if self.admission and not route.websocket:
            context.origins.check_write(self.request, self.admission)
        self.query = route.read_query(self.request.query_arguments)

    def _meter(self, allowance: Allowance | None) -> None:
        if allowance is None:
            return
        for name, value in allowance.headers().items():
            self.lasting_header(name, value)
        if allowance.exceeded:
            raise Busy("too many requests", remedy=f"wait {allowance.retry_after} s; the limit is {allowance.limit} "
                       "requests a minute")

    def _check_method(self) -> None:
        self.lasting_header("Allow", self.allowed)
        if self.request.method != "OPTIONS":
            raise MethodNotAllowed(f"{(self.request.method or '')[:20]} is not possible here",
                                   remedy="use " + self.allowed)

    def _answer_origin(self) -> None:
        """Let pages of the origins that the settings name read answers; others are left to the browser's rule."""
        if not self.context.config.origins:
            return
        self.lasting_header("Vary", "Origin, Accept-Encoding")
        origin = self.request.headers.get("Origin", "")
        if self.context.origins.knows(origin):
            self.lasting_header("Access-Control-Allow-Origin", origin)
            self.lasting_header("Access-Control-Allow-Credentials", "true")
            self.lasting_header("Access-Control-Expose-Headers", "X-Request-ID, X-RateLimit-Limit, "
                                "X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After")
            self.lasting_header("Cross-Origin-Resource-Policy", "cross-origin")
            if self.request.method == "OPTIONS":
                self.lasting_header("Access-Control-Allow-Methods", ", ".join(sorted(self.operations)))
                self.lasting_header("Access-Control-Allow-Headers", "Authorization, X-API-Key, X-Request-ID, "
                                    "Content-Type, Idempotency-Key")
                self.lasting_header("Access-Control-Max-Age", "600")

    def _log(self) -> None:
        """One line and one count for each answer; the query is left out, since tokens may stand in it."""
        seconds = self.request.request_time()
        route, status = self.route, self.get_status()
        self.context.metrics.answered(self.request.method if self.request.method in METHODS else "other",
                                      route.path if route else "none", status, seconds)
        if access_log.isEnabledFor(logging.INFO):
            access_log.info("request", extra={"facts": {
                "method": self.request.method, "path": self.request.path[:500], "status": status,
                "ms": round(seconds * 1000, 2), "ip": self.request.remote_ip, "request_id": self.request_id,
                "by": self.admission.principal.name if self.admission else None}})

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if isinstance(value, WorkbenchError) or failure_of(value).status < 500:
            return
        log.error("unexpected error", exc_info=value, extra={"facts": {
            "request_id": self.request_id, "method": self.request.method, "path": self.request.path}})

    def render_failure(self, failure: Failure) -> Any:
        """The JSON of an error answer; dialects have their own."""
        problems = [{"field": problem.field, "message": problem.message, "remedy": problem.remedy}
                    for problem in failure.problems]
        return {"error": {"code": failure.code, "message": failure.message, "problems": problems},
                "request_id": self.request_id}

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if self._headers_written:
            log.error("an error after the answer began", exc_info=error,
                      extra={"facts": {"request_id": self.request_id}})
            if not self._finished and self.request.connection:
                self.finish()
            return
        self.fail(failure_of(error, status_code))

    def fail(self, failure: Failure) -> None:
        """Answer with an error."""
        body = self._failure_body(failure)
        self.finish(body)

    def _failure_body(self, failure: Failure) -> bytes:
        self.clear()
        self.set_status(failure.status)
        if failure.status == 405:
            self.set_header("Allow", self.allowed)
        for name, value in failure.headers.items():
            if name not in self._headers:
                self.set_header(name, value)
        self.set_header("Content-Type", "application/json")
        return dumps(self.render_failure(failure))

    def compute_etag(self) -> str | None:
        return None  # hashing every answer costs more than it saves

    def check_xsrf_cookie(self) -> None:
        """Nothing to do: `Origins.check_write` guards what comes with a cookie."""


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
            if not self._has_body():
                raise
            self._refuse(error)
            return
        if self.request.method == "OPTIONS" and "OPTIONS" not in self.operations:
            self.set_status(204)
            self.finish()

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
        length = self._length()
        if length is not None and length <= PATIENT:
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
            self.body_file.write(chunk)
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
            remedy = "NaN and Infinity are not JSON, use null" if re.search(rb"NaN|Infinity", self._body) else ""
            raise Malformed(f"the body is not JSON: {error}", remedy=remedy) from None

    async def read_model(self, model: type[M]) -> M:
        """The body as a pydantic model. Raises `Malformed`, or `Invalid` with one problem for every broken field."""
        data = await self.read_json()
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
        await self.finish(body)

    def write_bytes(self, body: bytes | str, content_type: str, status: int = 200) -> None:
        """Answer with a ready body."""
        self._announce(content_type, status)
        self.finish(body)

    def _announce(self, content_type: str, status: int) -> None:
        self.set_status(status)
        self.set_header("Content-Type", content_type)
        self.add_vary("Accept-Encoding")

    def add_vary(self, name: str) -> None:
        present = self._headers.get("Vary", "")
        if name.lower() not in present.lower():
            self.set_header("Vary", f"{present}, {name}" if present else name)

    def _may_compress(self) -> bool:
        return accepts_gzip(self.request.headers.get("Accept-Encoding", ""))

    # -- ending

    def head(self, *args: str, **kwargs: str) -> Awaitable[None] | None:
        return self.get(*args, **kwargs)  # Tornado leaves the body out

    def options(self, *args: str, **kwargs: str) -> None:
        """Answered in `prepare`."""

    def on_finish(self) -> None:
        self._leave()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._leave()

    def _leave(self) -> None:
        self.context.in_flight.discard(self)
        if self.body_file is not None:
            self.body_file.close()
