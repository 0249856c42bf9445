"""One of several servers does what only one may do; the others have it done."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from engine.candle_store import CandleStore
from engine.errors import Conflict
from server.services.lease import Duty, Lease, gone, process
from server.store.database import Database
from server.store.tables.leases import leases
from tests.engine.gekko_golden import candles
from tests.harness import ServerProcess, until, wait_until
from tests.server.instance_stage import replay

pytestmark = pytest.mark.anyio
BEAT = 0.01


class Work:
    """What a duty was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, word: str) -> Any:
        async def told() -> None:
            if word != "look" or self.said[-1:] != ["look"]:
                self.said.append(word)

        return told

    @property
    def duty(self) -> Duty:
        return Duty(begin=self.tell("begin"), look=self.tell("look"), end=self.tell("end"))


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """All holders are on machines of which nothing is known."""
    monkeypatch.setattr("server.services.lease.gone", lambda process: False)


async def test_the_first_has_it_until_it_gives_it_back(database_url: str) -> None:
    async with Database(database_url) as db, Database(database_url) as other:
        first, second, work = Lease(db, beat=BEAT), Lease(other, beat=BEAT), Work()
        await first.add(work.duty)
        assert work.said == []
        await first.start()
        await second.start()
        assert first.sure and not second.held and work.said[0] == "begin"
        await until(lambda: work.said == ["begin", "look"])
        late = Work()
        await first.add(late.duty)
        assert late.said[0] == "begin"
        await db.write(first.check)
        with pytest.raises(Conflict, match="another server"):
            await other.write(second.check)
        await first.close()
        assert work.said == ["begin", "look", "end"] and late.said[-1] == "end"
        await until(lambda: second.held)
        with pytest.raises(Conflict):
            await db.write(first.check)
        await second.close()


async def test_one_that_stands_still_is_replaced_and_knows_it(database_url: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    now = 0.0
    async with Database(database_url) as db, Database(database_url) as other:
        work = Work()
        asleep = Lease(db, beat=3600.0, patience=15.0, clock=lambda: now)
        await asleep.add(work.duty)
        await asleep.start()
        second = Lease(other, beat=BEAT, patience=15.0, clock=lambda: now)
        await second.start()
        now = 14.9
        await asyncio.sleep(10 * BEAT)  # several looks, to no effect
        assert not second.held and asleep.sure
        now = 15.1
        assert asleep.held and not asleep.sure
        await until(lambda: second.held)
        with pytest.raises(Conflict):
            await db.write(asleep.check)
        await asleep.close()
        assert work.said == ["begin", "end"]
        await other.write(second.check)  # what is not its own any more, it does not give back
        await second.close()


async def test_a_holder_without_its_database_ends_its_work_before_another_begins(
        database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Database(database_url) as db:
        work = Work()
        lease = Lease(db, beat=BEAT, patience=0.2)
        await lease.add(work.duty)
        await lease.start()
        write = db.write

        async def hang(work: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(db, "write", hang)
        await until(lambda: not lease.held)
        assert work.said[-1] == "end"
        monkeypatch.setattr(db, "write", write)
        await until(lambda: lease.held)
        assert work.said.count("begin") == 2
        await lease.close()


async def test_a_holder_that_was_replaced_hears_so(database_url: str) -> None:
    async with Database(database_url) as db:
        work = Work()
        lease = Lease(db, beat=BEAT)
        await lease.add(work.duty)
        await lease.start()
        await db.write(lambda connection: connection.execute(update(leases).values(
            holder="another", process=process())).rowcount)
        await until(lambda: not lease.held)
        assert work.said[-1] == "end"
        await lease.close()


def test_a_process_is_gone_when_it_has_ended() -> None:
    machine, number, began = process().rsplit(" ", 2)
    assert not gone(process())
    assert gone(f"{machine} {number} {int(began) - 1}"), "the number was used again"
    assert not gone(f"elsewhere {number} 1") and not gone(f"{machine} {number} ")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but nobody has asked how
    assert gone(f"{machine} {ended.pid} 1")
    ended.wait()
    assert gone(f"{machine} {ended.pid} 1")


@pytest.fixture
def two(postgres_url: str, tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers on one PostgreSQL and one data directory; the first has the lease."""
    def server() -> ServerProcess:
        return ServerProcess("--database-url", postgres_url, "--api-only", "--rate-limit", "0", data_dir=tmp_path,
                             env={"WORKBENCH_TOKEN": "of-both-servers"}, compute=False)

    first, second = server(), server()
    with first, second:
        yield first, second


def has_lease(server: ServerProcess) -> bool:
    return "\nworkbench_has_lease 1.0" in httpx.get(server.url + "/metrics", headers=server.headers).text


def kept(server: ServerProcess, id: str) -> list[int]:
    """The minutes that an instance has heard."""
    with httpx.Client(base_url=server.url + "/workbench/api", headers=server.headers, timeout=60) as api:
        items = api.get(f"/instances/{id}/events", params={"type": "candle", "limit": 10_000}).json()["items"]
    return [each["data"]["payload"]["id"] for each in items]


def test_an_instance_is_run_by_one_server_and_survives_it(tmp_path: Path,
                                                          two: tuple[ServerProcess, ServerProcess]) -> None:
    first, second = two
    CandleStore(tmp_path / "candles").write(candles("rw60d").take(slice(0, 6000)))
    assert has_lease(first) and not has_lease(second)
    with httpx.Client(headers=first.headers, timeout=60) as http:
        api, other = first.url + "/workbench/api/instances", second.url + "/workbench/api/instances"
        made = http.post(other, json={"config": replay(speed=1200)})  # a candle every 50 ms
        assert made.status_code == 201, made.text
        id = made.json()["id"]
        wait_until(lambda: len(kept(second, id)) > 20)
        assert http.get(f"{api}/{id}").json()["state"] == http.get(f"{other}/{id}").json()["state"] == "live"

        first.kill()
        before = len(kept(second, id))
        wait_until(lambda: len(kept(second, id)) > before + 20, message=second.errors)
        assert has_lease(second)
        heard = kept(second, id)
        assert heard == list(range(heard[0], heard[0] + len(heard))), "a minute is missing or doubled"

        first.start()
        assert not has_lease(first)
        api = first.url + "/workbench/api/instances"
        stopped = http.post(f"{api}/{id}/stop")
        assert stopped.is_success and stopped.json()["state"] == "stopped", stopped.text
        assert http.post(f"{other}/{id}/stop").status_code == 409
        assert http.delete(f"{api}/{id}").status_code == 204
        assert http.get(f"{api}/{id}").status_code == 404
        wait_until(lambda: http.get(f"{other}/{id}").status_code == 404)  # it looks every two seconds


BUSY = b"""
import time
print("up", flush=True)
while True: time.sleep(0.05)
"""


def test_a_model_is_run_by_one_server_and_survives_it(two: tuple[ServerProcess, ServerProcess]) -> None:
    first, second = two
    with httpx.Client(headers=first.headers, timeout=90) as http:
        def state(server: ServerProcess) -> tuple[str, int]:
            found = http.get(f"{server.url}/workbench/api/models/{id}/deployment").json()
            lives = http.get(f"{server.url}/workbench/api/runs", params={"kind": "live"}).json()["items"]
            return found["state"], sum(run["state"] == "running" for run in lives)

        api = second.url + "/workbench/api"  # has not the lease
        http.post(f"{api}/projects", json={"name": "mine", "id": "p"})
        id = http.post(f"{api}/models", json={"name": "bot", "project": "p"}).json()["id"]
        uploaded = http.post(f"{api}/models/{id}/versions", content=BUSY, params={"file": "bot.py"},
                             headers={"Content-Type": "application/zip"})
        assert uploaded.status_code == 201, uploaded.text
        deployed = http.put(f"{api}/models/{id}/deployment", json={})
        assert deployed.is_success, deployed.text
        wait_until(lambda: state(second) == ("running", 1))
        run = http.get(f"{api}/models/{id}/deployment").json()["run"]

        first.kill()
        wait_until(lambda: state(second) == ("running", 1)
                   and http.get(f"{api}/models/{id}/deployment").json()["run"] != run, message=second.errors)
        assert http.get(f"{api}/runs/{run}").json()["error"] == "server restarted"

        first.start()
        http.delete(f"{first.url}/workbench/api/models/{id}/deployment")
        wait_until(lambda: state(first) == ("stopped", 0))
        http.put(f"{first.url}/workbench/api/models/{id}/deployment", json={})
        wait_until(lambda: state(first) == ("running", 1))
        assert http.delete(f"{first.url}/workbench/api/models/{id}").is_success
        assert http.get(f"{api}/models/{id}").status_code == 404
