"""The front of the server: connections, their patience, and which handler gets a request.

Tornado's own way suits any application; this one knows its routes. It looks them up instead of trying one pattern
after another, hands a small request to its handler whole instead of running the handler while the body arrives, keeps
the deadlines of all connections in one place instead of arming timers for every request, and reads plain heads itself.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Final, cast

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.routing import PathMatches, Router
from tornado.web import Application, RequestHandler

from engine.errors import WorkbenchError
from server.dialects.context import Context
from server.dialects.routes import UPGRADE, pattern
from server.request_heads import read_head

__all__ = ["Front", "Table"]

WHOLE: Final = 2**16  # a body of a known length up to this is read before its handler begins
PAGE_BODY: Final = 120.0  # seconds for the body of a request that is not ours to arrive

Target = tuple[type[RequestHandler], dict[str, Any], dict[str, bytes]]
"""The handler class, its arguments, and the parts of the path by name (percent-decoded)."""


class Table:
    """Path -> handler. Paths without places come first; the others are grouped by the text before their first place."""

    def __init__(self, context: Context) -> None:
        self._exact: dict[str, Target] = {}
        self._upgrades: dict[str, Target] = {}
        self._placed: dict[str, list[tuple[PathMatches, type[RequestHandler], dict[str, Any]]]] = {}
        for path, methods in context.routes.items():
            handler = next(iter(methods.values())).handler
            arguments = {"context": context, "operations": methods}
            if path.endswith(UPGRADE):
                self._upgrades[path.removesuffix(UPGRADE)] = (handler, arguments, {})
            elif "{" in path:
                matcher = PathMatches(pattern(path))
                self._placed.setdefault(path[: path.index("{")], []).append((matcher, handler, arguments))
            else:
                self._exact[path] = (handler, arguments, {})

    def find(self, request: HTTPServerRequest) -> Target | None:
        """What answers this request's path."""
        path = request.path
        if path in self._upgrades and request.headers.get("Upgrade", "").lower() == "websocket":
            return self._upgrades[path]
        if (exact := self._exact.get(path)) is not None:
            return exact
        for start, candidates in self._placed.items():
            if path.startswith(start):
                for matcher, handler, arguments in candidates:
                    if (found := matcher.match(request)) is not None:
                        return handler, arguments, found.get("path_kwargs", {})
        return None


class Front(HTTPServer):
    """Accepts connections and gives requests to our routes, to the pages if there are any, or to `not_found`."""

    def initialize(self, context: Context, not_found: type[RequestHandler], **options: Any) -> None:  # type: ignore[override]
        super().initialize(_Entrance(self), **options)
        self.context = context
        self.application = Application()
        self.table = Table(context)
        self.pages: HTTPServerConnectionDelegate | None = None
        self.nothing: Target = (not_found, {"context": context, "operations": {}}, {})
        self.idle = context.config.idle_timeout
        self.deadlines: dict[object, float] = {}  # of connections that we wait for, on the loop's clock
        self.clock = asyncio.get_running_loop().time
        self.received: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # a body that is there
        self.received.set_result(None)
        self.conn_params.header_timeout = None  # the deadlines do it, for all connections at once
        self._sweeper: asyncio.TimerHandle | None = None

    def handle_stream(self, stream: Any, address: Any) -> None:
        stream.set_nodelay(True)  # for good: answers are written whole, and switching costs two calls each
        stream.set_nodelay = _leave_it
        super().handle_stream(stream, address)
        if self._sweeper is None:
            self._sweep()

    def on_close(self, server_conn: object) -> None:
        self.deadlines.pop(server_conn, None)
        super().on_close(server_conn)

    def _sweep(self) -> None:
        """Close the connections whose deadline is over; go on as long as there are connections."""
        now = self.clock()
        for connection in [each for each, deadline in self.deadlines.items() if deadline < now]:
            del self.deadlines[connection]
            connection.stream.close()  # type: ignore[attr-defined]
        self._sweeper = None
        if self._connections:
            self._sweeper = asyncio.get_running_loop().call_later(min(1.0, self.idle / 4), self._sweep)

    def named(self, request: HTTPServerRequest) -> bool:
        """Whether the request asks for a name of this server."""
        try:
            self.context.origins.check_host(request)
        except WorkbenchError:
            return False
        return True


class _Entrance(HTTPServerConnectionDelegate):
    def __init__(self, front: Front) -> None:
        self.front = front

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        front = self.front
        front.deadlines[server_conn] = front.clock() + front.idle
        request_conn._parse_headers = read_head  # type: ignore[attr-defined]
        return _Arrival(front, server_conn, request_conn)


class _Arrival(HTTPMessageDelegate):
    """One request on its way in."""

    __slots__ = ("connection", "delegate", "front", "pieces", "request", "server_conn", "target")

    def __init__(self, front: Front, server_conn: object, connection: HTTPConnection) -> None:
        self.front = front
        self.server_conn = server_conn
        self.connection = connection
        self.delegate: HTTPMessageDelegate | None = None
        self.request: HTTPServerRequest | None = None
        self.pieces: list[bytes] = []

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine,
                         headers: HTTPHeaders) -> Awaitable[None] | None:
        front = self.front
        request = HTTPServerRequest(connection=self.connection, server_connection=self.server_conn,
                                    start_line=cast(RequestStartLine, start_line), headers=headers)
        target = front.table.find(request)
        if target is None and isinstance(front.pages, Router) and front.named(request):
            self.delegate = front.pages.find_handler(request)
        if self.delegate is None:
            self.target = target = target or front.nothing
            if getattr(target[0], "_stream_request_body", False) and _small(headers):
                self.request = request
                front.context.in_flight.add(self)
            else:
                self.delegate = front.application.get_handler_delegate(request, target[0], target[1],
                                                                       path_kwargs=target[2])
        front.deadlines[self.server_conn] = front.clock() + PAGE_BODY
        if self.delegate is None:
            return None
        if target is not None:  # its handler sets a time for the body, which may be long
            front.deadlines.pop(self.server_conn, None)
        return self.delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self.delegate is not None:
            return self.delegate.data_received(chunk)
        self.pieces.append(chunk)
        return None

    def finish(self) -> None:
        front, request = self.front, self.request
        front.deadlines.pop(self.server_conn, None)
        if self.delegate is not None:
            self.delegate.finish()
            return
        assert request is not None
        request.body = b"".join(self.pieces)
        request._body_future = front.received
        kind, arguments, parts = self.target
        handler = kind(front.application, request, **arguments)
        running = asyncio.ensure_future(handler._execute([], **parts))
        running.add_done_callback(_result)
        front.context.in_flight.add(handler)  # it takes itself out
        front.context.in_flight.discard(self)

    def on_connection_close(self) -> None:
        self.front.deadlines.pop(self.server_conn, None)
        self.front.context.in_flight.discard(self)
        if self.delegate is not None:
            self.delegate.on_connection_close()


def _small(headers: Mapping[str, str]) -> bool:
    """Whether the whole request may be waited for: its body is short, and the client does not ask leave to send it."""
    if "Transfer-Encoding" in headers or "Expect" in headers:
        return False
    length = headers.get("Content-Length", "0")
    return len(length) < 6 and length.isascii() and length.isdigit() and int(length) <= WHOLE


def _leave_it(value: bool) -> None:
    """In the place of a stream's own `set_nodelay`."""


def _result(running: "asyncio.Future[None]") -> None:
    """Have an error that escaped the handler logged."""
    if not running.cancelled():
        running.result()
