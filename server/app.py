"""The server: services, routes of all dialects, one port; starts, listens, and stops without losing anything."""

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from tornado.httputil import HTTPServerConnectionDelegate

from engine.errors import NotFound, Unavailable, WorkbenchError
from server import logs
from server.auth import Authenticator, Origins, Sessions, secret_key
from server.config import Config
from server.dialects import (
    blankly_deploy,
    blankly_events,
    gekko,
    gekko_imports,
    gekko_live,
    gekko_live_page,
    glowback,
    native,
    native_alerts,
    native_deliveries,
    native_deployments,
    native_detectors,
    native_events,
    native_imports,
    native_instances,
    native_markets,
    native_models,
    native_profit,
    native_projects,
    native_rules,
    native_runs,
    native_subscribers,
    native_sweeps,
    pages,
    tradingpartners,
)
from server.dialects.base import BaseHandler
from server.dialects.context import Context
from server.dialects.routes import group
from server.front import Front
from server.limits import RateLimiter
from server.metrics import Metrics
from server.services import Services
from server.services.lease import Duty
from server.services.model_environment import ModelEnvironment
from server.store.database import Subscriber
from server.store.events import Span

__all__ = ["DIALECTS", "Server", "run", "serve"]

DIALECTS: Final[tuple[Any, ...]] = (
    pages, native, blankly_deploy, blankly_events,
    native_events, native_imports, native_instances, native_markets, native_models, native_profit,
    native_projects, native_runs, native_sweeps, native_alerts, native_deliveries, native_deployments,
    native_detectors, native_rules, native_subscribers, tradingpartners,
    gekko_imports, gekko_live, gekko_live_page, gekko, glowback,  # whose catch-alls come last
)
"""Every module that serves something; each has `routes(services) -> list[Route]`."""

LOGINS_A_MINUTE: Final = 10

log = logging.getLogger("workbench.server")


class EventCount(Subscriber):
    """Counts the events that this server committed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def committed(self, items: Sequence[Any]) -> None:
        self._metrics.events.inc(sum(item.count if isinstance(item, Span) else 1 for item in items))


class NotFoundHandler(BaseHandler):
    """What answers when no route does."""

    async def admit(self) -> None:
        self._answer_origin()
        self.context.origins.check_host(self.request)
        raise NotFound("there is nothing at this address", remedy="/docs lists what there is")


class Server:
    """One server. `start` opens everything and, unless told otherwise, listens; `stop` ends it. On one event loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        self.context: Context
        self.services: Services
        self._http: Front | None = None

    @property
    def url(self) -> str:
        """Where the server listens, without a slash at the end."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    @property
    def local_url(self) -> str:
        """Where a browser of this machine finds it."""
        names = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
        host = names.get(self.config.host)
        return f"http://{host}:{self.port}" if host else self.url

    @property
    def login_url(self) -> str:
        """A link that logs a browser in."""
        token = self.services.admin_token
        return f"{self.local_url}/" + (f"login?token={token}" if token else "")

    async def start(self, *, listen: bool = True, compute: bool = True) -> None:
        """Open the services and listen; without `compute` the pool stays down. Raises `Unavailable` when the address
        is taken or the database is away."""
        config = self.config
        self.services = await Services.open(config, compute=compute)
        try:
            self.context = self._make_context()
            self._http = Front(self.context, NotFoundHandler, **self.http_options())
            if listen:
                self._listen()
            if compute:
                await self.start_models()
        except BaseException:
            await self.services.close()
            raise

    async def start_models(self) -> None:
        """Take up the models that should run, here or when this server has the lease: they are told where it is."""
        services = self.services
        environment = ModelEnvironment(users=services.users, activity=services.activity,
                                       url=self.config.public_url or (self.local_url if self.port else ""))
        services.deployments.lives.environment = environment.given
        if services.hosts is not None and not self.config.public_url and self.config.loopback:
            log.warning("models on other machines do not find this server: set --public-url", extra={"facts": {
                "url": self.url}})

        async def begin() -> None:
            await environment.start()
            await services.deployments.start()

        await services.lease.add(Duty(begin=begin, look=services.deployments.look, end=services.deployments.close))

    def _make_context(self) -> Context:
        config, services = self.config, self.services
        metrics = Metrics()
        services.db.subscribe(EventCount(metrics))
        context = Context(
            config=config, services=services, metrics=metrics, origins=Origins(config),
            authenticator=Authenticator(services.users, Sessions(secret_key(config.data_dir), config.session_days),
                                        open_to_all=config.open),
            limiter=RateLimiter(config.rate_limit), logins=RateLimiter(LOGINS_A_MINUTE),
            routes=group(route for dialect in DIALECTS for route in dialect.routes(services)))
        metrics.gauge("workbench_open_streams", "Streams that are open", lambda: float(len(context.streams)))
        metrics.gauge("workbench_requests_in_flight", "Requests being answered", lambda: float(len(context.in_flight)))
        metrics.gauge("workbench_workers", "Pool processes connected", lambda: float(services.pool.count))
        metrics.gauge("workbench_workers_ready", "1 when jobs can be computed at once",
                      lambda: float(bool(services.pool.ready)))
        metrics.gauge("workbench_has_lease", "1 where this server runs instances, models and imports",
                      lambda: float(services.lease.held))
        return context

    def http_options(self) -> dict[str, Any]:
        """Arguments of the HTTPServer that the routes are served by."""
        # Routes set their own limits on bodies; this one is for handlers that do not (pages).
        return {"max_body_size": 2**20, "max_header_size": 65536, "xheaders": self.config.trust_proxy}

    def mount(self, application: HTTPServerConnectionDelegate) -> None:
        """Let another application (the pages) answer what no route matches."""
        assert self._http is not None
        self._http.pages = application

    def _listen(self) -> None:
        assert self._http is not None
        try:
            sockets = _bind(self.config.host, self.config.port)
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"cannot listen on {self.config.host}:{self.config.port}: "
                              f"{getattr(error, 'strerror', None) or error}",
                              remedy="is a server running there already? choose another --port") from None
        self.port = sockets[0].getsockname()[1]
        self._http.add_sockets(sockets)

    async def stop(self) -> None:
        """Stop accepting, close streams with 1001, let answers in flight finish, then close the services."""
        context = self.context
        context.stopping = True
        if self._http is not None:
            self._http.stop()
        context.close_streams()
        if not await context.settle(self.config.shutdown_timeout):
            log.warning("stopping although requests are in flight", extra={"facts": {
                "requests": len(context.in_flight), "streams": len(context.streams)}})
        if self._http is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._http.close_all_connections(), 2.0)
        await self.services.close()


def _bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on all addresses of a name, all on one port. Raises `OSError`, and leaves none open then."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(sorted(found, key=lambda entry: entry[0])):
            made = socket.socket(family, kind, protocol)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setblocking(False)
            try:
                made.bind((address[0], sockets[0].getsockname()[1] if port == 0 and len(sockets) > 1 else port,
                           *address[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL or len(sockets) == 1:
                    raise
                sockets.pop().close()  # "localhost" has an IPv6 address even where IPv6 is switched off
                continue
            made.listen(1024)
    except OSError:
        for made in sockets:
            made.close()
        raise
    return sockets


Extra = Callable[[Server], Awaitable[None]]


def tune() -> None:
    """Set the interpreter up for serving."""
    gc.freeze()  # what was imported will not be garbage
    gc.set_threshold(20_000, 20, 20)  # a batch of entries is thousands of objects that all go soon after
    # Each call into the system and the database lets go of the interpreter; a thread that computes gives it back after
    # this time, so the loop waits no longer for one that reads a large batch.
    sys.setswitchinterval(0.0005)


async def serve(config: Config, extra: Extra | None = None) -> None:
    """Serve until SIGTERM or SIGINT. `extra(server)` runs once the server listens: it mounts pages, loads the demo.

    Prints `listening on http://HOST:PORT` once it answers. A second signal ends the process at once.
    """
    server = Server(config)
    await server.start()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopped.is_set():
            sys.exit(128 + number)
        log.info("stopping", extra={"facts": {"signal": signal.Signals(number).name}})
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    tune()
    print(f"listening on {server.url}", flush=True)
    if config.token is None:
        print(f"log in at {server.login_url}", flush=True)
    mounting = asyncio.ensure_future(extra(server)) if extra else None
    waiting = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait([waiting, *([mounting] if mounting else [])], return_when=asyncio.FIRST_COMPLETED)
        if mounting is not None and mounting.done():
            mounting.result()
        await waiting
    finally:
        if mounting is not None and not mounting.done():
            mounting.cancel()
        await server.stop()


def run(config: Config, extra: Extra | None = None) -> int:
    """Configure the log, choose the event loop and serve; the process's exit code."""
    logs.configure(config.log_level, config.log_format)
    try:
        with asyncio.Runner(loop_factory=_loop_factory(config)) as runner:
            runner.run(serve(config, extra))
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if config.uvloop:
        with contextlib.suppress(ImportError):
            import uvloop

            return uvloop.new_event_loop
    return None
