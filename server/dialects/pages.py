"""The public corner: health, metrics, documentation, logging in and out."""

import html
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode

from pydantic import BaseModel

from engine.errors import Busy, Unauthenticated
from engine.model import Principal
from server.auth import local_path
from server.dialects.base import BaseHandler
from server.dialects.context import Context
from server.dialects.failures import Failure
from server.dialects.openapi import document
from server.dialects.page_text import DOCS_PAGE, LOGIN_PAGE
from server.dialects.routes import Answer, Query, Route
from server.metrics import CONTENT_TYPE
from server.services import Services
from server.version import VERSION

__all__ = ["routes"]


class Workers(BaseModel):
    """The pool's processes; `reason` says why they are not ready, or nothing."""

    ready: bool
    count: int
    reason: str


class Health(BaseModel):
    """`status` is "degraded" (503) only when the database is away."""

    status: str
    version: str
    database: bool
    workers: Workers


class HealthHandler(BaseHandler):
    async def get(self) -> None:
        database = await self.services.database_answers()
        pool = self.services.pool
        self.write_json({"status": "healthy" if database else "degraded", "version": VERSION, "database": database,
                         "workers": {"ready": bool(pool.ready), "count": int(pool.count), "reason": pool.reason}},
                        status=200 if database else 503)


class MetricsHandler(BaseHandler):
    async def get(self) -> None:
        self.write_bytes(self.context.metrics.text(), CONTENT_TYPE)


class OpenApiHandler(BaseHandler):
    async def get(self) -> None:
        unique = {id(route): route for methods in self.context.routes.values() for route in methods.values()}
        await self.send_json(document(unique.values()))


class PageHandler(BaseHandler):
    """An HTML page with one style sheet and at most one script, both named by a nonce."""

    def initialize(self, context: Context, operations: Mapping[str, Route]) -> None:
        super().initialize(context, operations)
        self.nonce = secrets.token_urlsafe(16)

    def write_page(self, page: str, status: int = 200, **values: str) -> None:
        self.set_header("Content-Security-Policy",
                        f"default-src 'none'; style-src 'nonce-{self.nonce}'; script-src 'nonce-{self.nonce}'; "
                        "connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
                        "frame-ancestors 'none'")
        for name, value in {"nonce": self.nonce, **values}.items():
            page = page.replace("{{" + name + "}}", html.escape(value))
        self.write_bytes(page, "text/html; charset=utf-8", status)


class DocsHandler(PageHandler):
    async def get(self) -> None:
        self.write_page(DOCS_PAGE, version=VERSION)


class LoginHandler(PageHandler):
    """GET shows the form or, with `?token=`, logs in. A page that was asked for with `?token=` sends its visitor here
    too, and the way back is without the token."""

    async def get(self) -> None:
        token, target = _split(local_path(self.get_query_argument("next", "/")))
        token = self.get_query_argument("token", token)
        if token is None:
            self._form(target)
        else:
            await self._enter(token, target)

    async def post(self) -> None:
        fields = parse_qs(self.body[:65536].decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
        await self._enter(fields.get("token", [""])[-1], local_path(fields.get("next", ["/"])[-1]))

    async def _enter(self, token: str, target: str) -> None:
        principal = await self.check(token)
        if principal is None:
            self._form(target, "This token is not valid.", 401)
            return
        self.begin_session(principal)
        self.see_other(target)

    async def check(self, token: str) -> Principal | None:
        """Whom the token stands for. Raises `Busy` after too many wrong tries from one address."""
        allowance = self.context.logins.take(self.request.remote_ip or "")
        if allowance is not None and allowance.exceeded:
            self.lasting_header("Retry-After", str(allowance.retry_after))
            raise Busy("too many attempts to log in", remedy=f"wait {allowance.retry_after} s")
        principal = await self.context.authenticator.log_in(token)
        if principal is not None:
            self.context.logins.give_back(self.request.remote_ip or "")
        return principal

    def begin_session(self, principal: Principal) -> None:
        secure = self.request.protocol == "https"
        self.add_header("Set-Cookie", self.context.authenticator.sessions.header(principal.token_id, secure=secure))

    def see_other(self, target: str) -> None:
        self.set_status(303)
        self.set_header("Location", target)
        self.finish()

    def _form(self, target: str, message: str = "", status: int = 200) -> None:
        self.write_page(LOGIN_PAGE, status, next=target, message=message)

    def fail(self, failure: Failure) -> None:
        if failure.status in (403, 429) and "text/html" in self.request.headers.get("Accept", ""):
            self.clear()
            self._form("/", failure.message + ".", failure.status)
        else:
            super().fail(failure)


class LogoutHandler(LoginHandler):
    """Ends the session of this browser."""

    async def get(self) -> None:
        self._leave_session()

    async def post(self) -> None:
        self._leave_session()

    def _leave_session(self) -> None:
        sessions = self.context.authenticator.sessions
        self.add_header("Set-Cookie", sessions.header("", secure=self.request.protocol == "https"))
        self.see_other("/login")


class RootHandler(LoginHandler):
    """`/` without pages: `?token=` logs in, then the documentation."""

    async def get(self) -> None:
        token = self.get_query_argument("token", None)
        if token is not None:
            principal = await self.check(token)
            if principal is None:
                raise Unauthenticated("this token is not valid")
            self.begin_session(principal)
        self.see_other("/docs")


def _split(target: str) -> tuple[str | None, str]:
    """The `token` in a local address's query, if there is one, and the address without it."""
    path, _, query = target.partition("?")
    parts = parse_qsl(query, keep_blank_values=True)
    tokens = [value for name, value in parts if name == "token"]
    if not tokens:
        return None, target
    kept = urlencode([(name, value) for name, value in parts if name != "token"])
    return tokens[-1], path + (f"?{kept}" if kept else "")


ALIASES: Final = {"/docs": ("/redoc", "/v1/docs", "/v1/redoc"), "/openapi.json": ("/v1/openapi.json",)}
_HTML: Final[tuple[str, ...]] = ("text/html",)
_NEXT: Final = Query(name="next", doc="local path to go to", high=2000)
_TOKEN: Final = Query(name="token", doc="the token, in a link", high=1000)


def routes(services: Services) -> list[Route]:
    form: dict[str, Any] = {"type": "object", "properties": {"token": {"type": "string"}, "next": {"type": "string"}}}
    login = {303: Answer(doc="logged in", headers={"Location": "the page asked for"}),
             401: Answer(doc="the form again", content=_HTML)}
    found = [
        Route(methods="GET", path="/healthz", handler=HealthHandler, auth=None, name="health", tag="server",
              summary="Is it well", unmetered=True, answers={
                  200: Answer(doc="it answers", model=Health), 503: Answer(doc="the database is away", model=Health)}),
        Route(methods="GET", path="/metrics", handler=MetricsHandler, auth=None, name="metrics", tag="server",
              summary="Figures for Prometheus", unmetered=True,
              answers={200: Answer(doc="Prometheus text", content=("text/plain",))}),
        Route(methods="GET", path="/openapi.json", handler=OpenApiHandler, auth=None, name="openapi", tag="server",
              summary="This document", answers={200: Answer(doc="OpenAPI 3.1", model=dict)}),
        Route(methods="GET", path="/docs", handler=DocsHandler, auth=None, name="docs", tag="server",
              summary="The documentation to read", answers={200: Answer(doc="a page", content=_HTML)}),
        Route(methods="GET", path="/login", handler=LoginHandler, auth=None, name="login_page", tag="server",
              summary="Log in with a form or a link", query=(_TOKEN, _NEXT),
              answers={200: Answer(doc="the form", content=_HTML), **login}),
        Route(methods="POST", path="/login", handler=LoginHandler, auth=None, name="login", tag="server",
              summary="Log in", request=form, request_content=("application/x-www-form-urlencoded",), max_body=65536,
              answers=login),
        Route(methods=("GET", "POST"), path="/logout", handler=LogoutHandler, auth=None, name="logout", tag="server",
              summary="End this browser's session", answers={303: Answer(doc="to the login page")}),
    ]
    # Where clients of GlowBack's API look for what FastAPI offers there.
    found += [replace(route, path=path, hidden=True) for route in found for path in ALIASES.get(route.path, ())]
    if services.config.api_only:
        found.append(Route(methods="GET", path="/", handler=RootHandler, auth=None, name="root", tag="server",
                           summary="To the documentation", query=(_TOKEN,), answers={303: Answer(doc="to /docs")},
                           errors=(401,), hidden=True))
    return found
