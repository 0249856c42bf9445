"""How a request is let in, whatever it is: identity, protective headers, admission, the access line, error answers.

Order: method, host, sender, rate limit, scope, origin, query. A refusal says why, in the dialect's own error form.
"""

import logging
import random
import re
from asyncio import Future
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import Application, RequestHandler

from engine.errors import Busy, Forbidden, NotFound, Unauthenticated, Unavailable, WorkbenchError
from engine.model import Principal
from server.auth import Admission, Carrier
from server.dialects.context import Context
from server.dialects.encoding import dumps
from server.dialects.failures import Failure, MethodNotAllowed, failure_of
from server.dialects.routes import Route
from server.limits import Allowance
from server.services import Services

__all__ = ["Guarded"]

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

    def __init__(self, application: Application, request: HTTPServerRequest, **arguments: Any) -> None:
        self.context: Context = arguments["context"]  # before the first `clear`
        super().__init__(application, request, **arguments)

    def initialize(self, context: Context, operations: Mapping[str, Route]) -> None:
        self.operations = operations
        self.admission: Admission | None = None
        self.query: dict[str, Any] = {}

    @property
    def request_id(self) -> str:
        """Names this request in headers, error bodies and the log: the client's own X-Request-ID when it is a sane
        one, else a number of our own."""
        found = self.request.__dict__.get("workbench_id")
        if found is None:
            given = self.request.headers.get("X-Request-ID", "")
            found = given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
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

    def clear(self) -> None:
        """Forget the answer so far. What every answer carries is added when it leaves (`flush`)."""
        headers = self._headers = HTTPHeaders()
        headers["Content-Type"] = "text/html; charset=UTF-8"
        headers["X-Request-ID"] = self.request_id
        self.set_default_headers()
        for name, value in self.request.__dict__.get("workbench_headers", {}).items():
            headers[name] = value
        self._write_buffer: list[bytes] = []
        self._status_code = 200
        self._reason = "OK"

    def flush(self, include_footers: bool = False) -> "Future[None]":
        """Send what was written so far; a whole answer of the common kind with a head made in `Heads`."""
        if self._headers_written:
            return super().flush(include_footers)
        request, heads, status = self.request, self.context.heads, self._status_code
        if (not include_footers or request.method == "HEAD" or request.version != "HTTP/1.1" or status < 200
                or status in (204, 304) or request.headers.get("Connection", "").lower() == "close"
                or "_new_cookie" in self.__dict__):
            heads.complete(self._headers, self.csp)
            return super().flush(include_footers)
        self._headers_written = True
        body, self._write_buffer = self._write_buffer, []
        head = heads.text(status, self._reason, self._headers, self.csp)
        assert request.connection is not None
        return request.connection.write(b"".join((head, *body)))

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
        except (Unauthenticated, Unavailable) as error:  # /healthz must answer when the database cannot say who asks
            refusal = error if route.auth is not None else None
        if not route.unmetered:
            client = self.admission.principal.token_id if self.admission else ""
            allowance = context.limiter.take(client or f"ip {self.request.remote_ip}")
            self._meter(allowance)
        if refusal:
            raise refusal
        if route.auth and not self.principal.may(route.auth):
            raise Forbidden(f"this token lacks the scope {route.auth!r}", remedy="use a token with that scope")
        if "%00" in self.request.path:  # PostgreSQL holds no such text, so nothing has such a name
            raise NotFound("there is nothing at this address", remedy="leave out the null character")
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
