"""API, streams and pages on one port and one event loop. The only module of the faces that knows the server.

The API answers first. Panel is imported on a thread and its pages stand behind the server's own routes; until then a
page is a short notice that loads itself anew.
"""

import argparse
import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from tornado.httputil import HTTPServerRequest

from engine.errors import Unauthenticated, WorkbenchError
from workbench.client import AsyncClient
from workbench.page_server import Pages
from workbench.server_process import PARENT

T = TypeVar("T")
log = logging.getLogger("workbench.pages")


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for every setting of the server."""
    from server.config import add_arguments

    add_arguments(parser)


def run_server(arguments: argparse.Namespace) -> int:
    """`workbench serve`: until a signal to stop. Gives the exit status; raises `Invalid` for wrong settings."""
    from server.app import run
    from server.config import Config

    config = Config.from_arguments(arguments)
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal():
        _end_with(int(parent))
    return run(config, extra)


def _end_with(parent: int) -> None:
    """Stop this server, as a signal would, when the process that started it is gone: killed processes say no word."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


async def extra(server: Any) -> None:
    """What comes after the API answers: pages, demo, a browser. A page's failure never takes the API down."""
    config = server.config
    logging.getLogger("httpx").setLevel(logging.WARNING)  # pages ask the API all the time; the server logs it already
    pages: Pages | None = None
    try:
        if not config.api_only:
            pages = pages_of(server)
            server.mount(pages)
        if config.demo:
            await _demo(server)
        if pages is not None:
            try:
                await pages.start()
            except Exception:
                log.exception("the pages could not be prepared; the API goes on")
                server.mount(None)
            else:
                if not config.no_browser:
                    await asyncio.to_thread(_open_browser, server.login_url)
                if config.demo:  # its report is about to be opened; other servers save the memory
                    await pages.warm_charts()
        await asyncio.Event().wait()  # until the server stops
    finally:
        if pages is not None:
            await pages.stop()


def pages_of(server: Any) -> Pages:
    """The pages of a running server. They let in whom its API lets in."""
    async def identify(request: HTTPServerRequest) -> str | None:
        if "token" in request.query_arguments and not server.config.open:
            return None  # /login lets its visitor in, and leads back without the token in the address
        try:
            return (await server.context.authenticator.identify(request)).principal.name
        except Unauthenticated:
            return None

    names = {urlsplit(server.local_url).netloc, f"localhost:{server.port}", f"127.0.0.1:{server.port}"}
    names |= {urlsplit(origin).netloc for origin in server.config.origins}
    if not server.config.loopback:
        names.add(f"*:{server.port}")  # reached by names that only the network knows; the cookie is SameSite
    key = (server.config.data_dir / "secret").read_bytes()
    return Pages(api_url=server.local_url, identify=identify, hosts=sorted(names), key=key,
                 can_leave=not server.config.open)


async def _demo(server: Any) -> None:
    from workbench.demo import demo_run, load_aside

    try:
        await load_aside(server.config.data_dir)
        async with AsyncClient(server.local_url, server.services.admin_token) as client:
            run_id = await demo_run(client)
    except WorkbenchError as error:
        print(f"the demo could not be prepared: {error}", flush=True)
        return
    path = f"/run?id={run_id}"
    token = server.services.admin_token
    address = f"/login?token={quote(token)}&next={quote(path, safe='')}" if token else path
    print(f"demo report at {server.local_url}{address}", flush=True)


def _open_browser(url: str) -> None:
    import os
    import sys
    import webbrowser

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    webbrowser.open(url)


# -- what the command line does in a local data directory --------------------------------------------------------------


def config_of(arguments: argparse.Namespace) -> Any:
    """The settings that flags, environment and file name. Raises `Invalid`."""
    from server.config import Config

    return Config.from_arguments(arguments)


def local_tokens(arguments: argparse.Namespace, work: Callable[[Any], Awaitable[T]]) -> T:
    """Do something with the tokens of a local database, whether a server runs on it or not."""
    from server.services.users import Users
    from server.store.database import Database

    async def run() -> T:
        config = config_of(arguments)
        config.make_data_dir()
        db = Database(config.database)
        await db.open()
        try:
            users = Users(db)
            await users.ensure_admin(config.data_dir, config.token)
            return await work(users)
        finally:
            await db.close()

    return _run(run())


def local_subscribers(arguments: argparse.Namespace, work: Callable[[Any, Any], Awaitable[T]]) -> T:
    """Do something with the subscribers and credits of a local database, whether a server runs on it or not."""
    from server.services.credits import Credits
    from server.services.subscribers import Subscribers
    from server.services.users import Users
    from server.store.database import Database
    from server.store.events import EventLog

    async def run() -> T:
        config = config_of(arguments)
        config.make_data_dir()
        async with Database(config.database) as db:
            subscribers = Subscribers(db, Users(db))
            try:
                return await work(subscribers, Credits(db, EventLog(db)))
            finally:
                await subscribers.close()

    return _run(run())


def upgrade_database(arguments: argparse.Namespace) -> tuple[str | None, str]:
    """Bring the database to this version's tables; the revisions before and after."""
    from server.store.schema import upgrade

    config = config_of(arguments)
    config.make_data_dir()
    return upgrade(config.database)


def check_database(arguments: argparse.Namespace) -> str:
    """Whether the database can be opened and fits this version; its URL without secrets. Raises `Unavailable`."""
    from server.store.database import Database

    async def run() -> str:
        db = Database(config_of(arguments).database)
        await db.open(create=False)
        try:
            return repr(db)
        finally:
            await db.close()

    return _run(run())


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
