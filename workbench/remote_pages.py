"""The pages in a process of their own, in front of a server elsewhere: `workbench pages --server URL`.

Who opens a page logs in here with a token of that server. The browser gets a random session cookie; the token stays in
this process's memory, so that logging in again is needed after a restart.
"""

import asyncio
import html
import secrets
import signal
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.routing import Router
from tornado.web import Application, RequestHandler

from engine.errors import Invalid, Unauthenticated, Unavailable, WorkbenchError
from workbench.client import AsyncClient
from workbench.page_server import Pages

COOKIE: Final = "workbench_pages"
MOST: Final = 1000


class Doors:
    """Who is logged in: a random session name -> the headers that speak for that person."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, str]] = {}

    def enter(self, token: str) -> str:
        """A new session's name."""
        while len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        name = secrets.token_urlsafe(32)
        self._open[name] = {"Authorization": f"Bearer {token}"}
        return name

    def leave(self, request: HTTPServerRequest) -> None:
        """Forget the request's session."""
        self._open.pop(self._name(request), None)

    def headers(self, request: HTTPServerRequest) -> Mapping[str, str] | None:
        """What speaks for the sender; None when nobody is logged in."""
        return self._open.get(self._name(request))

    @staticmethod
    def _name(request: HTTPServerRequest) -> str:
        try:
            jar = SimpleCookie(request.headers.get("Cookie", ""))
        except CookieError:
            return ""
        return jar[COOKIE].value if COOKIE in jar else ""


class LogIn(RequestHandler):
    """The form, and what it sends."""

    def initialize(self, doors: Doors, server: str) -> None:
        self.doors, self.server = doors, server

    def _form(self, message: str = "", status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
        target = html.escape(_local(self.get_argument("next", "/")))
        alert = f'<p role="alert">{html.escape(message)}</p>' if message else ""
        self.finish('<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Log in · workbench</title>'
                    '<meta name="viewport" content="width=device-width"><body style="font-family:system-ui;'
                    'color-scheme:light dark;max-width:24rem;margin:15vh auto;padding:0 1rem"><h1>workbench</h1>'
                    f'<p>Pages of {html.escape(self.server)}</p>{alert}<form method="post" action="/login">'
                    f'<input type="hidden" name="next" value="{target}"><label for="token">Token</label><br>'
                    '<input id="token" name="token" type="password" required autofocus autocomplete="current-password" '
                    'style="width:100%;padding:.5rem;margin:.4rem 0"><button style="padding:.5rem 1rem">Log in</button>'
                    "</form></body></html>")

    def get(self) -> None:
        self._form()

    async def post(self) -> None:
        token = self.get_body_argument("token", "").strip()
        try:
            async with AsyncClient(self.server, token) as client:
                await client.me()
        except Unauthenticated:
            self._form("This token is not valid.", 401)
            return
        except (WorkbenchError, ValueError) as error:
            self._form(str(error), 503)
            return
        secure = "; Secure" if self.request.protocol == "https" else ""
        self.set_header("Set-Cookie", f"{COOKIE}={self.doors.enter(token)}; Path=/; HttpOnly; SameSite=Lax{secure}")
        self.redirect(_local(self.get_argument("next", "/")), status=303)


class LogOut(RequestHandler):
    """Ends the session of this browser."""

    def initialize(self, doors: Doors) -> None:
        self.doors = doors

    def post(self) -> None:
        self.doors.leave(self.request)
        self.redirect("/login", status=303)


class Health(RequestHandler):
    """What an open page asks after a lost connection."""

    def get(self) -> None:
        self.finish({"status": "healthy", "pages": True})


class Elsewhere(RequestHandler):
    """Documentation is the server's."""

    def initialize(self, server: str) -> None:
        self.server = server

    def get(self) -> None:
        self.redirect(self.server + self.request.path)


def _local(target: str) -> str:
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and "\\" not in target
    return target if plain and target.isprintable() else "/"


class _Front(Router):
    def __init__(self, pages: Pages, application: Application) -> None:
        self.pages, self.application = pages, application

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        return self.pages.find_handler(request, **kwargs) or self.application.find_handler(request, **kwargs)


async def serve_pages(server: str, host: str, port: int, names: list[str]) -> int:
    """Serve until a signal. Raises `Invalid` for a wrong address, `Unavailable` when the port is taken."""
    server = server.rstrip("/")
    if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).netloc:
        raise Invalid(f"{server!r} is not an address", field="--server", remedy="write http://host:port")
    doors = Doors()

    async def identify(request: HTTPServerRequest) -> Mapping[str, str] | None:
        return doors.headers(request)

    try:
        sockets = bind_sockets(port, host)
    except OSError as error:
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}", remedy="choose another --port") from None
    port = sockets[0].getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    pages = Pages(api_url=server, identify=identify, credentials=doors.headers, key=secrets.token_bytes(32),
                  hosts=[f"{shown}:{port}", f"localhost:{port}", f"127.0.0.1:{port}", *names])
    application = Application([
        ("/login", LogIn, {"doors": doors, "server": server}), ("/logout", LogOut, {"doors": doors}),
        ("/healthz", Health), ("/docs", Elsewhere, {"server": server})])
    http = HTTPServer(_Front(pages, application))
    http.add_sockets(sockets)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    print(f"listening on http://{shown}:{port}", flush=True)
    try:
        await pages.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
    finally:
        http.stop()
        await pages.stop()
        await http.close_all_connections()
    return 0
