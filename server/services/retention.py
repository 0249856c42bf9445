"""How long chatter is kept: events that say how far something is. Orders, trades, logs and states stay."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from engine import times
from engine.errors import WorkbenchError
from server.store.events import EventLog

__all__ = ["Retention"]

EVERY: Final = 6 * 3600.0  # seconds

log = logging.getLogger("workbench.retention")


class Retention:
    """Deletes chatter older than `days`, now and every six hours; 0 keeps it for ever."""

    def __init__(self, events: EventLog, days: float, *, clock: Callable[[], datetime] = times.now) -> None:
        self._events = events
        self._days = days
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._days:
            self._task = asyncio.create_task(self._run(), name="retention")

    async def look(self) -> None:
        """Nobody asks for anything here."""

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                count = await self._events.prune(self._clock() - timedelta(days=self._days))
            except WorkbenchError as error:
                log.warning("old events were not deleted; tried again in six hours",
                            extra={"facts": {"because": str(error)}})
            else:
                if count:
                    log.info("old events deleted", extra={"facts": {"count": count, "days": self._days}})
            await asyncio.sleep(EVERY)
