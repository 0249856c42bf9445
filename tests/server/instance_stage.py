"""A stage for live instances: services on a database of their own, candles, and an exchange that does as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Unavailable
from engine.gekko_live import PaperGekko
from engine.model import Market, Principal
from server.services.activity import Activity
from server.services.instance_feeds import minutes_of
from server.services.instance_rows import stream_of
from server.services.instance_runner import settings_of, wired
from server.services.instances import Instances
from server.services.markets import Markets
from server.services.users import Users
from server.store.database import Database
from server.store.events import EventLog
from tests.engine.gekko_golden import cases
from tests.harness import until

ADMIN = Principal(name="tester", scopes=frozenset({"admin"}))


class Stage:
    """Services that belong together; `instances` is new after `again`."""

    def __init__(self, db: Database, folder: Path, **more: Any) -> None:
        self.db = db
        self.events = EventLog(db)
        self.store = CandleStore(folder / "candles")
        self.markets = Markets(store=self.store, db=db, events=self.events)
        self.activity = Activity(db=db, events=self.events, users=Users(db))
        self._more = more
        self.instances = self._make()

    def _make(self) -> Instances:
        return Instances(db=self.db, events=self.events, markets=self.markets, store=self.store,
                         activity=self.activity, **self._more)

    async def again(self) -> Instances:
        """Another life of the service."""
        await self.instances.close()
        self.instances = self._make()
        await self.instances.start()
        return self.instances

    async def begin(self, config: Mapping[str, Any]) -> Any:
        return await self.instances.begin(config, principal=ADMIN)

    async def heard(self, id: str) -> list[tuple[str, Any]]:
        """Everything an instance said, by the event log; its numbers have no holes."""
        found: list[Any] = []
        while page := await self.events.page(stream_of(id), len(found)):
            found += page
        assert [each.seq for each in found] == list(range(1, len(found) + 1))
        return [(each.type, each.data.get("payload")) for each in found if "payload" in each.data]

    async def reached(self, instance: Any, second: int) -> None:
        """Wait until an instance has heard the minute that starts then."""
        def there() -> bool:
            assert instance.state != "failed", instance.error
            return (instance.position or 0) >= second
        await until(there, timeout=60, message=f"{instance.id} does not reach {second}")


@asynccontextmanager
async def stage(db: Database, folder: Path, **more: Any) -> AsyncIterator[Stage]:
    made = Stage(db, folder, **more)
    await made.instances.start()
    try:
        yield made
    finally:
        await made.instances.close()
        await made.activity.close()
        await made.markets.close()


def replay(case: str = "MACD-60-10", **watch: Any) -> dict[str, Any]:
    """The configuration of a golden case, as a strategy runner on the replay of its candles."""
    request = {name: value for name, value in cases()[case]["request"].items()
               if name not in ("backtest", "backtestResultExporter")}
    return {**request, "mode": "realtime", "market": {"type": "leech"},
            "watch": {"exchange": "replay", "asset": "BTC", "currency": "USDT", "speed": 0, **watch}}


def alone(config: Mapping[str, Any], candles: Candles) -> list[tuple[str, Any]]:
    """What the engine by itself says on these candles, without the candles."""
    gekko = PaperGekko(settings_of(config))
    return [said for minute in minutes_of(candles) for said in wired(gekko.push(minute))]


class FakeExchanges:
    """Minutes of one market that a test lets go, one after another, and failures in between."""

    def __init__(self, minutes: list[dict[str, Any]]) -> None:
        self.minutes = minutes
        self.ready = 0
        self.problems: list[Exception] = []
        self.asked: list[int | None] = []
        self.changed = asyncio.Event()

    def give(self, count: int = 1, *problems: Exception) -> None:
        self.ready += count
        self.problems += problems
        self.changed.set()

    async def candles(self, market: Market, since: int | None, interval: float) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(since)
        place = next((place for place, minute in enumerate(self.minutes) if minute["start"] >= (since or 0)), 0)
        while True:
            if self.problems:
                raise self.problems.pop(0)
            if place < self.ready:
                yield self.minutes[place]
                place += 1
            else:
                self.changed.clear()
                await self.changed.wait()


AWAY: Callable[[], Unavailable] = lambda: Unavailable("the exchange is away")  # noqa: E731
