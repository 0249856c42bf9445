"""How a notice leaves the house: signed webhooks, and people's services through apprise.

A webhook is a POST of JSON, signed as the Standard Webhooks specification says (standardwebhooks.com): headers
webhook-id (the same for every attempt), webhook-timestamp (seconds) and webhook-signature, "v1," and the base64 of
HMAC-SHA256 over "ID.TIMESTAMP.BODY" with the bytes after "whsec_" in the channel's key.

Where notices may go. Whoever may make channels can have this server send requests; so link-local, multicast and
metadata addresses are refused, unless the settings allow them. The check is made on the addresses that are connected
to, so a name that changes its address gains nothing; redirects are not followed, and what is answered is not shown.
Loopback and private addresses are allowed: a workbench of one's own has its receivers there. With apprise the
connection is the library's: its host is looked up and checked just before, which a name that changes could outwit.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.netutil import DefaultLoopResolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient

from engine.errors import Forbidden, Invalid

__all__ = ["Outcome", "Senders", "new_key", "signature"]

CONNECT: Final = 5.0  # seconds
WHOLE: Final = 10.0
METADATA: Final = tuple(ipaddress.ip_address(text) for text in ("100.100.100.200", "fd00:ec2::254", "192.0.0.192"))
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt. `status`: the HTTP status, where there was one; `wait`: seconds that the receiver
    asked for; `final`: another attempt would be in vain."""

    ok: bool
    status: int | None = None
    error: str = ""
    wait: float = 0.0
    final: bool = False


class Targets:
    """Which addresses notices may go to."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        try:
            self._allowed = tuple(ipaddress.ip_network(text, strict=False) for text in allowed)
        except ValueError as error:
            raise Invalid(f"this is no network: {error}", field="notice_networks",
                          remedy="write networks such as 169.254.10.0/24") from None

    def check(self, address: str) -> None:
        """Raise `Forbidden` for an address that notices may not go to."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found
        if any(found.version == network.version and found in network for network in self._allowed):
            return
        if found.is_link_local or found.is_multicast or found.is_unspecified or found in METADATA or (
                found.is_reserved and not found.is_loopback):
            raise Forbidden(f"notices may not go to {found}", field="url",
                            remedy="allow its network with --notice-networks")

    def check_host(self, host: str) -> None:
        """Look a name up and check what it stands for; unknown names pass, nobody can connect to them."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        for entry in found:
            self.check(str(entry[4][0]))


class _Resolver(DefaultLoopResolver):
    def initialize(self, targets: Targets) -> None:  # type: ignore[override]
        super().initialize()
        self._targets = targets

    async def resolve(self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC) -> Any:
        found = await super().resolve(host, port, family)
        for _, address in found:
            self._targets.check(address[0])
        return found


class Senders:
    """Sends notices. One per server, on its loop."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self.targets = Targets(allowed)
        self._http: Any = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="notices")

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def off_loop(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def webhook(self, url: str, key: str, id: str, topic: str, body: bytes) -> Outcome:
        """POST a body to a webhook."""
        if self._http is None:
            self._http = SimpleAsyncHTTPClient(force_instance=True, max_clients=100, max_body_size=2**16)
            self._http.tcp_client = TCPClient(resolver=_Resolver(targets=self.targets))
        at = int(time.time())
        headers = {"Content-Type": "application/json", "User-Agent": "workbench", "webhook-id": id,
                   "webhook-timestamp": str(at), "webhook-signature": signature(key, id, at, body),
                   "X-Workbench-Topic": topic}
        try:
            request = HTTPRequest(url, method="POST", headers=headers, body=body, follow_redirects=False,
                                  connect_timeout=CONNECT, request_timeout=WHOLE, decompress_response=False)
            answer = await self._http.fetch(request, raise_error=False)
        except Forbidden as error:
            return Outcome(False, error=error.message, final=True)
        except (HTTPClientError, OSError, ValueError) as error:
            return Outcome(False, error=_said(error))
        if isinstance(answer.error, Forbidden):
            return Outcome(False, error=answer.error.message, final=True)
        status = answer.code
        if answer.error is not None and (status == 599 or not isinstance(answer.error, HTTPClientError)):
            return Outcome(False, error=_said(answer.error))
        if 200 <= status < 300:
            return Outcome(True, status)
        return Outcome(False, status, f"the receiver answered {status}", _seconds(answer.headers), status == 410)

    async def apprise(self, url: str, title: str, body: str) -> Outcome:
        """Tell people, in a thread: the library is slow to import and waits for answers."""
        return await self.off_loop(self._apprise, url, title, body)

    def _apprise(self, url: str, title: str, body: str) -> Outcome:
        from apprise import Apprise, LogCapture

        host = urlsplit(url).hostname
        try:
            if host:
                self.targets.check_host(host)
        except Forbidden as error:
            return Outcome(False, error=error.message, final=True)
        told = Apprise()
        if not told.add(url):
            return Outcome(False, error="this address is not understood any more", final=True)
        with LogCapture(level=logging.WARNING, fmt="%(message)s") as output:
            if told.notify(title=title, body=body):
                return Outcome(True)
            said = output.getvalue().strip().replace(url, "…")
        return Outcome(False, error=said[:500] or "the service did not take it")

    def masked(self, kind: str, url: str) -> str:
        """An address as it may be shown, without anything that lets others send. Raises `Invalid`, `Forbidden`."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise Invalid("this is no address", field="url", remedy="write https://host/path") from None
        if kind == "webhook":
            if parts.scheme not in ("http", "https") or not host or port == 0 or (
                    not url.isprintable() or " " in url):
                raise Invalid("this is no webhook's address", field="url", remedy="write https://host/path")
            if parts.username or parts.password:
                raise Invalid("an address with a name or password in it", field="url",
                              remedy="put what is secret into the path; bodies are signed")
            self.targets.check_host(host)
            named = f"[{host}]" if ":" in host else host
            return f"{parts.scheme}://{named}" + (f":{port}" if port else "") + ("/…" if parts.path.strip("/") or
                                                                                 parts.query else "")
        from apprise import Apprise

        made = Apprise.instantiate(url)
        if made is None:
            raise Invalid("no service has such an address", field="url",
                          remedy="see the list of services of apprise: mailto://…, tgram://…, slack://…, discord://…")
        if host:
            self.targets.check_host(host)
        if parts.scheme.rstrip("s") in ("json", "xml", "form"):  # the library shows their paths
            return f"{parts.scheme}://{host}" + (f":{port}" if port else "") + "/…"
        return made.url(privacy=True).partition("?")[0][:500]


def new_key() -> str:
    """A key that signs a webhook's bodies."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(key: str, id: str, at: int, body: bytes) -> str:
    """The header webhook-signature of a body."""
    secret = base64.b64decode(key.removeprefix("whsec_"))
    found = hmac.new(secret, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(found).decode()


def _said(error: BaseException) -> str:
    """An error without the address, in which secrets may stand."""
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return "the receiver did not answer in time"
    if isinstance(error, socket.gaierror):
        return "the receiver's name is not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:200]
    return f"the connection failed ({type(error).__name__})"


def _seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0
