"""Writing while the ground moves: PostgreSQL stopped and started again, a wall clock that jumps."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from engine import times
from engine.errors import Unavailable
from server.store.tables import events
from tests.harness import running_server, until

pytestmark = pytest.mark.anyio
TOKEN = "a-secret-token-of-the-tests"
STREAM = "model/m/log"


def client(server: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url + "/workbench/api", timeout=60,
                             headers={"Authorization": f"Bearer {TOKEN}"})


class Bots:
    """Some bots, each sending one numbered line after the other, whatever is answered."""

    def __init__(self, api: httpx.AsyncClient, count: int = 4) -> None:
        self._api = api
        self.told: list[str] = []  # what was acknowledged
        self.refused: list[tuple[str, httpx.Response]] = []
        self._stopped = False
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(count)]

    async def _run(self, bot: int) -> None:
        number = 0
        while not self._stopped:
            line = f"{bot} {number}"
            number += 1
            answer = await self._api.post("/events?model=m", content=json.dumps({"kind": "log", "line": line}))
            if answer.status_code == 200:
                self.told.append(line)
            else:
                self.refused.append((line, answer))

    @property
    def ended(self) -> bool:
        return all(task.done() for task in self._tasks)

    async def more(self, count: int) -> None:
        wanted = len(self.told) + count
        await until(lambda: len(self.told) >= wanted, 60)

    async def more_refused(self, count: int) -> None:
        wanted = len(self.refused) + count
        await until(lambda: len(self.refused) >= wanted, 60)

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


class Follower:
    """Hears a stream; asks again after its last number when the database was away."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.seqs: list[int] = []
        self.lines: list[str] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            with suppress(Unavailable):
                async for event in self._log.follow(STREAM, self.seqs[-1] if self.seqs else 0):
                    self.seqs.append(event.seq)
                    self.lines.append(event.data["line"])

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def kept(server: Any) -> list[str]:
    """The lines in the database, in order of their numbers."""
    rows = await server.services.db.read(lambda connection: connection.execute(
        select(events.c.seq, events.c.data).where(events.c.stream == STREAM).order_by(events.c.seq)).all())
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    return [json.loads(row.data)["line"] for row in rows]


async def test_postgresql_may_be_stopped_and_started_under_the_server(tmp_path: Path, own_postgres: Any) -> None:
    async with (running_server(tmp_path, token=TOKEN, rate_limit=0, database_url=own_postgres.get_uri()) as server,
                client(server) as api):
        bots, follower = Bots(api), Follower(server.services.events)
        try:
            for _ in range(2):
                await bots.more(40)
                await asyncio.to_thread(own_postgres.stop)
                acknowledged = len(bots.told)
                await bots.more_refused(8)
                assert len(bots.told) == acknowledged  # nothing is acknowledged meanwhile
                problem = bots.refused[-1][1].json()["error"]
                assert problem["code"] == "unavailable" and problem["problems"][0]["remedy"]
                assert (await api.get("/models/m/logs")).status_code == 503
                health = await api.get(f"{server.url}/healthz")
                assert (health.status_code, health.json()["database"]) == (503, False)
                await asyncio.to_thread(own_postgres.start)
            await bots.more(40)
            assert (await api.get(f"{server.url}/healthz")).json()["database"] is True
        finally:
            await bots.stop()
        assert {answer.status_code for _, answer in bots.refused} == {503}
        lines = await kept(server)
        counts = {line: lines.count(line) for line in {*lines, *bots.told}}
        assert all(counts[line] == 1 for line in counts), counts  # also of those that may or may not be there
        assert set(lines) - set(bots.told) <= {line for line, _ in bots.refused}
        await until(lambda: len(follower.lines) >= len(lines), 60)
        await follower.stop()
        assert follower.lines == lines and follower.seqs == list(range(1, len(lines) + 1))


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_a_wall_clock_that_jumps_leaves_order_and_completeness(
        tmp_path: Path, backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    url = request.getfixturevalue("postgres_url") if backend == "postgresql" else ""
    jump, real = timedelta(), times.now
    monkeypatch.setattr(times, "now", lambda: real() + jump)
    async with (running_server(tmp_path, token=TOKEN, rate_limit=0, database_url=url) as server,
                client(server) as api):
        bots, follower = Bots(api, 3), Follower(server.services.events)
        pager = asyncio.create_task(paged(api, lambda: bots.ended))
        try:
            for jump in (timedelta(hours=-1), timedelta(days=1), timedelta(hours=-1), timedelta()):  # noqa: B007
                await bots.more(30)
        finally:
            await bots.stop()
        assert not bots.refused
        lines = await kept(server)
        assert sorted(lines) == sorted(bots.told)
        for bot in range(3):  # of each in the order in which it spoke
            numbers = [int(line.split()[1]) for line in lines if line.startswith(f"{bot} ")]
            assert numbers == list(range(len(numbers)))
        await until(lambda: len(follower.lines) >= len(lines), 60)
        await follower.stop()
        assert follower.lines == lines
        assert await asyncio.wait_for(pager, 60) == lines
        received = [times.parse(each["received_at"]) for each in (await api.get("/models/m/logs?tail=1000")).json()[
            "items"]]
        assert received != sorted(received)  # the clock did jump


async def paged(api: httpx.AsyncClient, ended: Callable[[], bool]) -> list[str]:
    """The lines as one gets them who asks page by page, always after the last number, until nothing comes any more."""
    lines: list[str] = []
    after = 0
    while True:
        last = ended()
        answer = await api.get("/models/m/logs", params={"after": after, "limit": 7})
        if answer.status_code == 404:  # the model was not heard of yet
            continue
        page = answer.json()
        lines += [each["line"] for each in page["items"]]
        after = page["items"][-1]["seq"] if page["items"] else after
        if last and not page["items"]:
            return lines
