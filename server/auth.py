"""Who asks, and whether this request may be trusted: tokens, sessions, origins and hosts.

A token comes as `Authorization: Bearer`, `X-API-Key`, or in what a dialect adds (its carriers); a browser holds a
signed session cookie instead. The first credential that a request presents decides. A cookie travels by itself, so
what changes something and comes with one must also come from an allowed origin. A server on loopback answers only to
names of loopback, or a foreign page could reach it by pointing its own name there (DNS rebinding).
"""

import hashlib
import hmac
import ipaddress
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest
from tornado.web import create_signed_value, decode_signed_value

from engine.errors import Forbidden, Unauthenticated
from engine.model import Principal
from server.config import Config
from server.services.users import Users, write_secret

__all__ = ["Admission", "Authenticator", "Carrier", "Origins", "Sessions", "local_path", "secret_key"]

Carrier = Callable[[HTTPServerRequest], str | None]
"""Finds a token in a request where a dialect's clients put it; None when there is none."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
EVERYBODY: Final = Principal(name="everybody", scopes=frozenset({"admin"}))
PASSED_ON: Final = frozenset({"read", "ingest", "backtest", "deploy"})
"""What a pass may do at most: not make tokens."""

_PASS: Final = re.compile(r"pass_([0-9a-f]{1,64})_([0-9]{1,12})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Admission:
    """A principal and how it showed itself; "session" and "open" are authority that a browser brings unasked."""

    principal: Principal
    via: Literal["token", "session", "open"]

    @property
    def ambient(self) -> bool:
        return self.via != "token"


def secret_key(data_dir: Path) -> str:
    """The key that signs sessions: made once, kept in `data_dir/secret` (mode 0600)."""
    path = data_dir / "secret"
    if not path.is_file() or not path.read_text().strip():
        write_secret(path, secrets.token_hex(32) + "\n")
    return path.read_text().strip()


class Sessions:
    """Signed cookies. A session is the id of the token it began with, and ends when that token does."""

    def __init__(self, key: str, days: float) -> None:
        self._key = key
        self.days = days
        self.cookie = "workbench_" + create_signed_value(key, "name", "", clock=lambda: 0)[-8:].decode()
        """The cookie's name: one for each key, since browsers do not tell ports apart."""

    def seal(self, token_id: str) -> str:
        return create_signed_value(self._key, self.cookie, token_id).decode()

    def token_id(self, request: HTTPServerRequest) -> str | None:
        """The token that a request's cookie stands for, if its signature and age are right."""
        try:
            jar = SimpleCookie(request.headers.get("Cookie", ""))
        except CookieError:
            return None
        if self.cookie not in jar:
            return None
        value = decode_signed_value(self._key, self.cookie, jar[self.cookie].value, max_age_days=self.days)
        return value.decode("utf-8", "replace") if value else None

    def pass_for(self, token_id: str, seconds: int) -> str:
        """A text that stands for a token for so long, and for what `PASSED_ON` names; nothing is stored of it."""
        until = math.ceil(time.time()) + seconds
        return f"pass_{token_id}_{until}_{self._signature(token_id, until)}"

    def passed(self, text: str) -> str | None:
        """The token that a pass stands for; "" for one that is over or false, None for what is no pass."""
        found = _PASS.fullmatch(text)
        if not found:
            return None
        good = hmac.compare_digest(found[3], self._signature(found[1], int(found[2])))
        return found[1] if good and int(found[2]) > time.time() else ""

    def _signature(self, token_id: str, until: int) -> str:
        return hmac.new(self._key.encode(), f"pass {token_id} {until}".encode(), hashlib.sha256).hexdigest()

    def header(self, token_id: str, *, secure: bool) -> str:
        """The `Set-Cookie` value that begins a session; an empty id ends it."""
        age = math.ceil(self.days * 86400) if token_id else 0
        value = self.seal(token_id) if token_id else ""
        return (f"{self.cookie}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax"
                + ("; Secure" if secure else ""))


class Authenticator:
    """Recognises who sent a request."""

    def __init__(self, users: Users, sessions: Sessions, *, open_to_all: bool) -> None:
        self.users = users
        self.sessions = sessions
        self.open_to_all = open_to_all

    async def identify(self, request: HTTPServerRequest, carriers: Iterable[Carrier] = ()) -> Admission:
        """The request's sender. Raises `Unauthenticated`."""
        if self.open_to_all:
            return Admission(EVERYBODY, "open")
        for carrier in (bearer, api_key, *carriers):
            text = carrier(request)
            if text:
                principal = await self._known(text)
                if principal is None:
                    raise Unauthenticated("this token is not valid", remedy="use a token that was neither revoked nor "
                                          "has expired")
                return Admission(principal, "token")
        token_id = self.sessions.token_id(request)
        principal = await self.users.principal_of(token_id) if token_id else None
        if principal is None:
            raise Unauthenticated("a token is needed", remedy="send the header Authorization: Bearer TOKEN, or log in")
        return Admission(principal, "session")

    async def _known(self, text: str) -> Principal | None:
        """Whom a token or a pass stands for. A pass ends with its token."""
        token_id = self.sessions.passed(text)
        if token_id is None:
            return await self.users.principal(text)
        principal = await self.users.principal_of(token_id) if token_id else None
        if principal is None:
            return None
        return replace(principal, scopes=PASSED_ON if principal.may("admin") else principal.scopes & PASSED_ON)

    async def log_in(self, text: str) -> Principal | None:
        """Whom a typed token stands for."""
        return await self.users.principal(text.strip()) if text.strip() else None


def bearer(request: HTTPServerRequest) -> str | None:
    scheme, _, text = request.headers.get("Authorization", "").strip().partition(" ")
    return text.strip() or None if scheme.lower() == "bearer" else None


def api_key(request: HTTPServerRequest) -> str | None:
    return request.headers.get("X-API-Key", "").strip() or None


class Origins:
    """Which pages' requests are believed, and to which names the server answers."""

    def __init__(self, config: Config) -> None:
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in config.origins)
        self._loopback = config.loopback
        self._good: set[str] = set()  # Host headers found to be right
        self._names = {config.host.lower()} | {urlsplit(origin).hostname or "" for origin in self._allowed}

    def check_host(self, request: HTTPServerRequest) -> None:
        """Raises `Forbidden` for a Host that is no name of this server."""
        host = request.headers.get("Host", "")
        if not self._loopback or host in self._good:
            return
        name = _host(host)
        if name in self._names or name == "localhost" or name.endswith(".localhost") or _is_loopback(name):
            if len(self._good) < 100:
                self._good.add(host)
            return
        raise Forbidden(f"this server does not answer to the name {name[:100]!r}", field="Host",
                        remedy="use localhost, or name the page's address with --origins")

    def knows(self, origin: str) -> bool:
        """Whether the settings name this origin, so that its pages may read answers."""
        return origin.lower() in self._allowed

    def allows(self, origin: str, request: HTTPServerRequest) -> bool:
        """Whether a page of `origin` may act on this server: its own pages and those the settings name."""
        parts = urlsplit(origin.lower()) if origin.isprintable() else None
        if parts is None or parts.scheme not in ("http", "https"):
            return False
        # A proxy that ends TLS passes the page's own name on: only the scheme differs from what we see.
        own = request.headers.get("Host", "")
        return self.knows(origin) or _with_port(parts.netloc, parts.scheme) == _with_port(own.lower(), parts.scheme)

    def check_write(self, request: HTTPServerRequest, admission: Admission) -> None:
        """Raises `Forbidden` for a change that a foreign page could have made the browser ask for."""
        if request.method in SAFE or not admission.ambient:
            return
        origin = request.headers.get("Origin")
        if origin is not None:
            allowed = self.allows(origin, request)
        elif (site := request.headers.get("Sec-Fetch-Site")) is not None:
            allowed = site in ("same-origin", "none")
        else:
            allowed = admission.via == "open"  # no browser sent this; with a cookie it had better prove its origin
        if not allowed:
            raise Forbidden("this origin may not make changes here", field="Origin",
                            remedy="send a token instead of the session cookie, or allow the origin with --origins")


def _host(netloc: str) -> str:
    try:
        return (urlsplit("//" + netloc).hostname or "").rstrip(".")
    except ValueError:
        return netloc


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _with_port(netloc: str, scheme: str) -> str:
    netloc = netloc.rpartition("@")[2]
    return netloc if netloc.rpartition(":")[2].isdigit() else f"{netloc}:{443 if scheme == 'https' else 80}"


def local_path(target: str) -> str:
    """`target` when it is a path on this server, else "/": what a login may lead to."""
    if not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable() or "\\" in target:
        return "/"
    return target
