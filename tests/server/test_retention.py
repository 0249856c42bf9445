"""Chatter goes after its days; what was done stays."""

from datetime import UTC, datetime, timedelta

import pytest

from server.services.retention import Retention
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import until

pytestmark = pytest.mark.anyio

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


async def fill(database: Database, log: EventLog) -> None:
    def work(connection) -> None:
        for day in range(40):
            for type in ("progress", "order", "candles"):
                log.append(connection, "run/a", type, {"day": day}, BEGAN + timedelta(days=day))

    await database.write(work)


async def kept(log: EventLog, type: str) -> list[int]:
    return [event.data["day"] for event in await log.page("run/a", limit=1000) if event.type == type]


async def test_progress_and_candles_go_after_their_days(database: Database) -> None:
    log = EventLog(database)
    await fill(database, log)
    retention = Retention(log, 30, clock=lambda: BEGAN + timedelta(days=40))
    await retention.start()

    async def done() -> bool:
        return await kept(log, "progress") == await kept(log, "candles") == list(range(10, 40))

    await until(done)
    await retention.close()
    assert await kept(log, "order") == list(range(40))


async def test_nothing_goes_when_chatter_is_kept_for_ever(database: Database) -> None:
    log = EventLog(database)
    await fill(database, log)
    retention = Retention(log, 0, clock=lambda: BEGAN + timedelta(days=40_000))
    await retention.start()
    await retention.close()
    assert retention._task is None and await kept(log, "progress") == list(range(40))


async def test_a_database_that_is_away_is_asked_again_later(database: Database,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog(database)
    await fill(database, log)
    await database.close()
    retention = Retention(log, 30, clock=lambda: BEGAN + timedelta(days=40))
    await retention.start()
    await until(lambda: "tried again" in caplog.text)
    assert retention._task is not None and not retention._task.done()
    await retention.close()
