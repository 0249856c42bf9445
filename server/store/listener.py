"""PostgreSQL's LISTEN: hears what other processes committed."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import URL

__all__ = ["CHANNEL", "Listener"]

CHANNEL: Final = "workbench_events"
_logger: Final = logging.getLogger(__name__)
_PAUSE: Final = 0.5  # seconds before a lost connection is tried again


class Listener:
    """Calls `heard()` on the loop for each notification that another node sent, and after each reconnection,
    because what was said meanwhile was not heard."""

    def __init__(self, url: URL, node: str, heard: Callable[[], None]) -> None:
        self._conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._node = node
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    async def start(self) -> None:
        """Returns when the first attempt to listen has succeeded or failed."""
        first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(first), name="database-listener")
        await first

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, first: "asyncio.Future[None]") -> None:
        import psycopg

        again = False
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, connect_timeout=10, application_name="workbench listener",
                    keepalives=1, keepalives_idle=30, keepalives_interval=10, keepalives_count=3,
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self.listening.set()
                    if again:
                        self._heard()
                    if not first.done():
                        first.set_result(None)
                    async for notification in connection.notifies():
                        if notification.payload != self._node:
                            self._heard()
            except psycopg.Error as error:
                _logger.warning("cannot listen to other servers on the database, trying again: %s", error)
            finally:
                self.listening.clear()
                if not first.done():
                    first.set_result(None)
            again = True
            await asyncio.sleep(_PAUSE)
