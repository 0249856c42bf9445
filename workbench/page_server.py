"""The pages as a Tornado application: Panel, made safe and quiet.

A page session acts as the person who opened it: the credentials of that request stay in this process, and what a page
does goes over the wire like anybody's call. Nothing of the request but its query gets into the page.
"""

import asyncio
import contextlib
import contextvars
import hashlib
import hmac
import logging
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError

from workbench.client import AsyncClient
from workbench.pages import PAGES, Page

log = logging.getLogger("workbench.pages")
MOST_SESSIONS: Final = 200
UNUSED_MS: Final = 15_000
_SLUGS: Final = "|".join(page.slug for page in PAGES if page.slug)
_OURS: Final = re.compile(rf"/|/favicon\.ico|/(?:{_SLUGS})|(?:/(?:{_SLUGS}))?/(?:ws|metadata|autoload\.js)|"
                          r"/(?:static|components)/.*")
FORWARDED: Final = ("Cookie", "Authorization", "X-API-Key")


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Who opens a page: the headers that prove it, and the look they chose."""

    credentials: Mapping[str, str]
    theme: str
    can_leave: bool


_visitor: contextvars.ContextVar[Visitor] = contextvars.ContextVar("workbench_visitor")

Identify = Callable[[HTTPServerRequest], Awaitable[Any]]
"""Who sent a request, or None; raises what `tornado.web` can render."""

Credentials = Callable[[HTTPServerRequest], Mapping[str, str] | None]
"""The headers with which a page may speak to the API for the sender of a request."""


class Waiting(RequestHandler):
    """What a browser sees in the second before the pages are there."""

    def get(self) -> None:
        self.set_header("Retry-After", "1")
        self.set_header("Refresh", "1")
        self.set_header("Cache-Control", "no-store")
        self.finish('<!DOCTYPE html><html lang="en"><title>workbench</title><body style="font-family:system-ui;'
                    'color-scheme:light dark"><p role="status">The workbench is starting …</p></body></html>')


class Icon(RequestHandler):
    """What browsers ask for beside a page that names no icon, such as the login form."""

    def get(self) -> None:
        self.set_header("Content-Type", "image/svg+xml")
        self.set_header("Cache-Control", "public, max-age=86400")
        self.finish('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" '
                    'fill="#0a63b0"/><path d="M6 22l6-7 5 4 9-11" fill="none" stroke="#fff" stroke-width="3" '
                    'stroke-linecap="round" stroke-linejoin="round"/></svg>')


class Pages(Router):
    """All pages as a Tornado router, which leaves alone what is no page's.

    `api_url` is where pages reach the API; `identify` says who sent a request (None: send them to /login);
    `hosts` are the `host[:port]` names from which sockets are accepted; `key` signs page sessions and outlives
    restarts, so that an open page finds back.
    """

    def __init__(self, *, api_url: str, identify: Identify, hosts: Sequence[str], key: bytes,
                 can_leave: bool = True, credentials: Credentials | None = None) -> None:
        self._client = AsyncClient(api_url)
        self._identify = identify
        self._hosts = list(hosts)
        self._key = hmac.new(key, b"page sessions", hashlib.sha256).hexdigest().encode()
        self._can_leave = can_leave
        self._credentials = credentials or self._forwarded
        self._panel: Any = None
        self._plain = Application([("/favicon.ico", Icon), (".*", Waiting)])

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """The pages' handler for their paths and their resources, None for anything else."""
        if not _OURS.fullmatch(request.path):
            return None
        application = self.application if request.path != "/favicon.ico" else None
        return (application or self._plain).find_handler(request, **kwargs)

    @property
    def application(self) -> Any:
        """The Tornado application; None before `start`."""
        return self._panel._tornado if self._panel is not None else None

    @property
    def sessions(self) -> int:
        """How many pages are open."""
        return 0 if self._panel is None else sum(
            len(tuple(context.sessions)) for context in self._panel._tornado._applications.values())

    async def start(self) -> None:
        """Import Panel beside the running loop, then make the application."""
        await _beside(_prepare)
        self._panel = self._server()
        logging.getLogger("asyncio").addFilter(unless_left)

    async def warm_charts(self) -> None:
        """Draw a chart beside the running loop, so that the first report is shown as soon as the second."""
        try:
            await _beside(_draw)
        except Exception:
            log.exception("no chart could be drawn; the pages go on")

    def _server(self) -> Any:
        import signal

        from panel.io.server import get_server

        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT,)}
        views: dict[str, Any] = {page.path: self._view(page) for page in PAGES}
        panel = get_server(
            views, port=0, address="127.0.0.1", websocket_origin=self._hosts, title={
                page.path: f"{page.title} · workbench" for page in PAGES},
            auth_provider=self._doorkeeper(), sign_sessions=True, secret_key=self._key,
            cookie_secret=self._key.decode(), include_headers=[], include_cookies=[],
            unused_session_lifetime_milliseconds=UNUSED_MS, check_unused_sessions_milliseconds=5_000,
            keep_alive_milliseconds=20_000, session_token_expiration=86_400, stats_log_frequency_milliseconds=3_600_000,
            use_index=False, redirect_root=False, location=False)
        panel._http.stop()  # requests come through the API's own port
        panel.start()
        with contextlib.suppress(ValueError):  # not in the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return panel

    async def stop(self) -> None:
        """Close all pages."""
        logging.getLogger("asyncio").removeFilter(unless_left)
        if self._panel is not None:
            with contextlib.suppress(Exception):
                self._panel.stop(wait=False)
            from panel.io.state import state

            for name, (server, *_rest) in tuple(state._servers.items()):
                if server is self._panel:
                    del state._servers[name]
            state._server_config.pop(self._panel._tornado, None)
            self._panel = None
        await self._client.close()

    def _doorkeeper(self) -> Any:
        from bokeh.server.auth_provider import AuthProvider

        pages = self

        class Doorkeeper(AuthProvider):
            """Lets in whom the API would let in. Nothing that the browser says about a user is believed."""

            @property
            def get_user(self) -> None:
                return None

            @property
            def get_user_async(self) -> Callable[[Any], Awaitable[Any]]:
                return pages._admit

            @property
            def login_url(self) -> str:
                return "/login"

            @property
            def get_login_url(self) -> None:
                return None

            @property
            def login_handler(self) -> None:
                return None

            @property
            def logout_url(self) -> None:
                return None

            @property
            def logout_handler(self) -> None:
                return None

        return Doorkeeper()

    async def _admit(self, handler: Any) -> Any:
        """The handler's user, remembered for the page that this request opens."""
        request = handler.request
        user = await self._identify(request)
        if user is None:
            return None
        if request.headers.get("Upgrade", "").lower() != "websocket" and self.sessions >= MOST_SESSIONS:
            raise HTTPError(503, reason="Too many open pages; close some and try again")
        _visitor.set(Visitor(credentials=self._credentials(request) or {}, theme=_theme(request),
                             can_leave=self._can_leave))
        return user

    def _forwarded(self, request: HTTPServerRequest) -> Mapping[str, str]:
        """What the request showed itself with; the API is this server, so it may be shown again."""
        address = urlsplit(self._client.url)
        shown = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        return {**shown, "Origin": f"{address.scheme}://{address.netloc}"}

    def _view(self, page: Page) -> Callable[[], Any]:
        def view() -> Any:
            from workbench.views.shell import render

            visitor = _visitor.get()
            return render(page, self._client.speaking_as(visitor.credentials), visitor.theme,
                          can_leave=visitor.can_leave)

        return view


def unless_left(record: logging.LogRecord) -> bool:
    """Lets through what asyncio reports, but for words to a browser that left while they were on their way: Panel does
    not wait for them once the page is gone, and asyncio takes that for a mistake."""
    return not (record.exc_info and isinstance(record.exc_info[1], WebSocketClosedError))


async def _beside(work: Callable[[], None]) -> None:
    """Do the work in a thread that a stopping process does not wait for, as it would for those of `to_thread`."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="prepare-pages", daemon=True).start()
    await done.wait()
    if failed:
        raise failed[0]


def _prepare() -> None:
    """Import what every page needs, so that the loop does not wait for it, and settle Panel's global choices."""
    import os

    os.environ.setdefault("BOKEH_RESOURCES", "server")
    import panel as pn

    from workbench.views import shell

    pn.config.console_output = "disable"  # type: ignore[misc]  # a property that can be set
    shell.prepare()


def _theme(request: HTTPServerRequest) -> str:
    try:
        jar = SimpleCookie(request.headers.get("Cookie", ""))
    except CookieError:
        return "light"
    chosen = jar["wb_theme"].value if "wb_theme" in jar else ""
    return "dark" if chosen == "dark" else "light"


def _draw() -> None:
    from engine.plots.render import warm_up
    from workbench import theme
    from workbench.views.drawing import drawn

    drawn(warm_up, theme.style("light"))
