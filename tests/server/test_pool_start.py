"""A pool that is closed before it stands leaves nothing behind: no process, no task, nothing half closed."""

import asyncio
import gc
import logging
from pathlib import Path

import psutil
import pytest

from server.pool import Pool
from tests.harness import until
from tests.server import pool_jobs

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("process", [False, True], ids=["before its processes", "with them"])
async def test_one_that_is_closed_while_it_starts_is_closed_whole(tmp_path: Path, process: bool,
                                                                  caplog: pytest.LogCaptureFixture) -> None:
    before = asyncio.all_tasks()
    pool = Pool(data_dir=tmp_path, workers=2, do=pool_jobs.do, warm_up=pool_jobs.nothing)
    await pool.start()
    await until(lambda: pool._cluster._cluster is not None)
    cluster = pool._cluster._cluster
    await until(lambda: cluster.status.name == "running")
    if process:
        await until(lambda: cluster._created and all(each.process for each in cluster._created))
    children = psutil.Process().children(recursive=True)
    await pool.close()
    assert cluster.status.name == "closed" and not pool.ready
    await until(lambda: asyncio.all_tasks() <= before)
    await until(lambda: not [each for each in children if each.is_running() and "spawn_main" in "".join(each.cmdline())
                             and "resource_tracker" not in "".join(each.cmdline())])
    # A report of a worker that arrives while the client goes is no matter for the log, which Dask holds critical.
    assert not logging.getLogger("distributed.scheduler").isEnabledFor(logging.CRITICAL)
    gc.collect()  # what was not closed would complain
    assert not [each for each in caplog.records if each.name == "asyncio"]
