"""The runs service on a database of its own and a pool of real processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine.candle_store import CandleStore
from engine.model import Run
from server.pool import Pool
from server.services.runs import Runs
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import new_database, until
from tests.server import pool_jobs


@asynccontextmanager
async def running_pool(data_dir: Path, **settings: Any) -> AsyncIterator[Pool]:
    """Two processes that do `pool_jobs.do`."""
    pool = Pool(data_dir=data_dir, workers=2, do=pool_jobs.do, warm_up=pool_jobs.nothing, **settings)
    await pool.start()
    try:
        await until(lambda: pool.ready, 60)
        yield pool
    finally:
        await pool.close()


class House:
    """A database, an event log and the runs service on a pool; `close` and `open` are a kill and a new life."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        self.folder, self.pool = folder, pool

    async def open(self) -> None:
        self.db = Database(new_database(self.folder / "workbench.sqlite"))
        await self.db.open()
        self.events = EventLog(self.db)
        self.runs = Runs(db=self.db, events=self.events, pool=self.pool, store=CandleStore(self.folder / "candles"),
                         data_dir=self.folder)
        await self.runs.start()

    async def close(self) -> None:
        await self.runs.close()
        await self.db.close()

    async def __aenter__(self) -> "House":
        await until(lambda: self.pool.count == 2, 60)
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        await until(lambda: not self.pool.waiting, 60)

    async def reaches(self, run: Run, state: str) -> Run:
        """The run, once it has that state."""
        async def there() -> Run | None:
            found = await self.runs.get(run.id)
            return found if found.state == state else None

        return await until(there, 60)
