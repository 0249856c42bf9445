"""What detection hears of in the event log: candles that reached the store, and candles that live instances heard.

A live market's candles that are stored are heard of twice, and taken in once. A replay's are known as the market
`replay:ASSET/CURRENCY`, so that detection can be tried on prices of the past as if they were made now.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
from sqlalchemy import select

from engine import times
from engine.candles import Candles
from engine.errors import WorkbenchError
from engine.model import Event, Market
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables.instances import instances

__all__ = ["Hearing"]

LIVE: Final = "instance/"
STORED: Final = "market/"
LOOK_BACK: Final = 10_000
"""Events before a start that are heard again: what a server heard in its last moments may not have been taken in."""
RETRY: Final = 1.0
_FIELDS: Final = ("open", "high", "low", "close", "volume")

log = logging.getLogger("workbench.alerts")


class Hearing:
    """Calls `tell(market's key, candles)`, candles None for those that stand in the store, for markets that `wanted()`
    names."""

    def __init__(self, *, db: Database, events: EventLog, wanted: Callable[[], Collection[str]],
                 tell: Callable[[str, Candles | None], None]) -> None:
        self._db = db
        self._events = events
        self._wanted = wanted
        self._tell = tell
        self._markets: dict[str, str] = {}

    def start(self, last: int) -> list["asyncio.Task[None]"]:
        """Begin with the events after the one of the id `last`; the tasks end with the database."""
        return [asyncio.create_task(self._follow(STORED, last, self._hear_stored), name="detection-stored"),
                asyncio.create_task(self._follow(LIVE, max(0, last - LOOK_BACK), self._hear_live),
                                    name="detection-live")]

    async def _follow(self, prefix: str, after: int, hear: Callable[[Event], Any]) -> None:
        while True:
            try:
                async for event in self._events.follow_all(prefix, after):
                    if event.type in ("candles", "candle"):
                        await hear(event)
                    after = event.id
                return
            except WorkbenchError as error:
                log.warning("detection cannot hear of new candles: %s", error)
                await asyncio.sleep(RETRY)

    async def _hear_stored(self, event: Event) -> None:
        market = str(event.data.get("market", ""))
        if market in self._wanted():
            self._tell(market, None)

    async def _hear_live(self, event: Event) -> None:
        if not self._wanted():
            return
        id = event.stream.removeprefix(LIVE)
        market = self._markets.get(id)
        if market is None:
            market = await self._db.read(lambda connection: connection.execute(
                select(instances.c.market).where(instances.c.id == id)).scalar_one_or_none())
            if market is None:  # deleted meanwhile
                return
            self._markets[id] = market
        if market in self._wanted():
            self._tell(market, _candle(Market.parse(market), event.data["payload"]))


def _candle(market: Market, minute: Any) -> Candles:
    prices: dict[str, Any] = {name: np.array([minute[name]], float) for name in _FIELDS}
    at = times.micros(times.parse(minute["start"]))
    return Candles(market=market, resolution=60, time=np.array([at], np.int64), **prices)
