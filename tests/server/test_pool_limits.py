"""Limits of single jobs: a job over its time or memory ends alone, with a reason."""

import os
from pathlib import Path
from typing import Any

import pytest

from server.pool import Pool, Report
from tests.harness import until
from tests.server import pool_jobs

pytestmark = pytest.mark.anyio


def job(key: str, folder: Path, **params: Any) -> dict[str, Any]:
    return {"key": key, "kind": "test", "run_id": key, "spec": {"params": params}, "results": str(folder / key)}


async def ready(pool: Pool, heard: list[Report]) -> None:
    pool.attach(heard.append, lambda: None)
    await pool.start()
    await until(lambda: pool.count == 2 and pool.ready, 60)


def finals(heard: list[Report]) -> dict[str, str]:
    found = [(report.key, report.type) for report in heard if report.final]
    assert len(found) == len(dict(found)), "a job ended twice"
    return dict(found)


async def test_a_job_over_its_time_fails_and_the_others_do_not(tmp_path: Path) -> None:
    pool, heard = Pool(data_dir=tmp_path, workers=2, run_timeout=1.0, do=pool_jobs.do, warm_up=pool_jobs.nothing), []
    await ready(pool, heard)
    try:
        pool.submit([job("slow", tmp_path, act="deaf"), job("behind", tmp_path)])
        pool.submit([job("beside", tmp_path, act="deaf", seconds=0.8)])
        await until(lambda: not pool.waiting, 30)
        assert finals(heard) == {"slow": "failed", "behind": "returned", "beside": "done"}
        assert next(r for r in heard if r.key == "slow" and r.final).data["error"] == "time limit of 1 s exceeded"
        await until(lambda: pool.count == 2, 60)
        pool.submit([job("after", tmp_path)])
        await until(lambda: not pool.waiting, 30)
        assert finals(heard)["after"] == "done"
    finally:
        await pool.close()


async def test_a_job_over_its_memory_fails_with_the_figures(tmp_path: Path) -> None:
    limit = 600 * 2**20
    pool, heard = Pool(data_dir=tmp_path, workers=2, run_memory=limit, do=pool_jobs.do, warm_up=pool_jobs.nothing), []
    await ready(pool, heard)
    try:
        pool.submit([job("hoard", tmp_path, act="hoard"), job("behind", tmp_path)])
        pool.submit([job("beside", tmp_path, act="deaf", seconds=0.5)])
        await until(lambda: not pool.waiting, 30)
        assert finals(heard) == {"hoard": "failed", "behind": "returned", "beside": "done"}
        final = next(r for r in heard if r.key == "hoard" and r.final)
        assert final.data["error"].startswith("memory limit of 600 MiB exceeded")
        assert not list((tmp_path / "results" / ".work").glob("*.note"))
    finally:
        await pool.close()


async def test_closing_the_pool_leaves_no_process(tmp_path: Path) -> None:
    pool, heard = Pool(data_dir=tmp_path, workers=2, do=pool_jobs.do, warm_up=pool_jobs.nothing), []
    await ready(pool, heard)
    pids = pool.pids()
    assert len(pids) == 2
    pool.submit([job("busy", tmp_path, act="deaf")])
    await until(lambda: any(report.type == "started" for report in heard))
    await pool.close()
    await until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert finals(heard) == {} and not pool.ready
