"""HTTP to a workbench server: credentials, retries, and the server's problems as the workbench's own exceptions."""

import asyncio
import random
import weakref
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import orjson

from engine import errors
from engine.errors import Problem

_BY_STATUS: Final[dict[int, type[errors.WorkbenchError]]] = {
    400: errors.Invalid, 401: errors.Unauthenticated, 403: errors.Forbidden, 404: errors.NotFound,
    409: errors.Conflict, 413: errors.TooLarge, 422: errors.Invalid, 429: errors.Busy, 503: errors.Unavailable,
}
_BY_CODE: Final = {str(vars(kind)["code"]): kind for kind in (*_BY_STATUS.values(), errors.Cancelled)}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

Params = Mapping[str, Any]


def error_of(status: int, body: bytes, *, request_id: str = "") -> errors.WorkbenchError:
    """The exception for an error answer: its class by code or status, its problems with field and remedy."""
    try:
        told = orjson.loads(body)["error"]
        message = str(told["message"])
        problems = tuple(
            Problem(str(entry.get("field", "")), str(entry.get("message", "")), str(entry.get("remedy", "") or ""))
            for entry in told.get("problems") or ()
        )
        kind = _BY_CODE.get(told.get("code")) or _BY_STATUS.get(status, errors.WorkbenchError)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        kind = _BY_STATUS.get(status, errors.WorkbenchError)
        message, problems = f"the server answered {status}", ()
    if kind is errors.Invalid:
        return errors.Invalid(message, problems=problems)
    first = problems[0] if problems else Problem("", message, "")
    remedy = first.remedy
    if status >= 500 and status != 503 and not remedy:
        remedy = "see the server's log" + (f" for request {request_id}" if request_id else "")
    return kind(first.message or message, field=first.field, remedy=remedy)


class Transport:
    """Requests to one server, from any event loop.

    Connections belong to the loop that opened them, so that one client serves a page's loop and a notebook's private
    thread alike. GETs, and POSTs that carry an `Idempotency-Key`, are tried again after a lost connection, a 429 or a
    503, waiting as `Retry-After` says or 0.2 s, 0.4 s, 0.8 s … with some chance in it.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0,
                 attempts: int = 5) -> None:
        self.url = url.rstrip("/")
        self.headers = dict(headers or {})
        self.timeout = timeout
        self.attempts = attempts
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary())

    def speaking_as(self, headers: Mapping[str, str]) -> "Transport":
        """The same connections with other credentials."""
        other = Transport(self.url, headers=headers, timeout=self.timeout, attempts=self.attempts)
        other._clients = self._clients
        return other

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, where no proxy belongs in between."""
        return (urlsplit(self.url).hostname or "") in _LOOPBACK

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None or client.is_closed:
            # No cookies are kept: connections may serve several people, and credentials are ours to give.
            client = httpx.AsyncClient(
                base_url=self.url, timeout=self.timeout, trust_env=not self.local,
                verify=self.url.startswith("https:"), cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                limits=httpx.Limits(max_connections=20, max_keepalive_connections=10))
            self._clients[loop] = client
        return client

    async def request(self, method: str, path: str, *, params: Params | None = None, json: Any = None,
                      content: bytes | None = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """One request, tried again when that is safe; raises the exception that the answer means."""
        sent = {**self.headers, **(headers or {})}
        if json is not None:
            content = orjson.dumps(json, option=orjson.OPT_SERIALIZE_NUMPY)
            sent["Content-Type"] = "application/json"
        again = method == "GET" or "Idempotency-Key" in sent
        query = _query(params)
        attempt = 0
        while True:
            attempt += 1
            last = not again or attempt >= self.attempts
            try:
                answer = await self._client().request(method, path, params=query, content=content, headers=sent)
            except httpx.TransportError as error:
                if last:
                    raise self._unreachable(error) from error
                await asyncio.sleep(_pause(attempt, None))
                continue
            if answer.status_code in (429, 503) and not last:
                await asyncio.sleep(_pause(attempt, answer.headers.get("Retry-After")))
                continue
            if answer.status_code >= 400:
                raise error_of(answer.status_code, answer.content,
                               request_id=answer.headers.get("X-Request-ID", ""))
            if answer.is_redirect:
                raise errors.Unavailable(f"{self.url} answered with a redirect to {answer.headers.get('Location')}",
                                         remedy="use the address that the server prints at its start")
            return answer

    def _unreachable(self, error: httpx.TransportError) -> errors.Unavailable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return errors.Unavailable(f"{self.url} did not answer within {self.timeout:g} s",
                                      remedy="try again, or give the client a longer timeout")
        return errors.Unavailable(f"no workbench answers at {self.url}", remedy="start one with: workbench serve")

    async def json(self, method: str, path: str, **words: Any) -> Any:
        """The decoded JSON of the answer, None for an empty one."""
        answer = await self.request(method, path, **words)
        if not answer.content:
            return None
        try:
            return orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            raise errors.Unavailable(f"what answers at {self.url} is not a workbench",
                                     remedy="check the address and port") from None

    async def close(self) -> None:
        """Close this loop's connections."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


def _query(params: Params | None) -> httpx.QueryParams:
    pairs: list[tuple[str, str | int | float | bool | None]] = []
    for name, value in (params or {}).items():
        if value is None or value == "":
            continue
        if isinstance(value, bool):
            pairs.append((name, "true" if value else "false"))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            pairs.extend((name, str(entry)) for entry in value)
        else:
            pairs.append((name, str(value)))
    return httpx.QueryParams(pairs)


def _pause(attempt: int, told: str | None) -> float:
    """Seconds to wait before the next attempt: what the server asked for (at most 30), else growing with chance."""
    try:
        return min(max(float(told), 0.0), 30.0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return min(0.2 * 2 ** (attempt - 1), 5.0) * random.uniform(0.7, 1.3)
