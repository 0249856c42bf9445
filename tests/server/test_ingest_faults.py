"""Ingest under attack: killed servers, full disks, databases that may not be written, stalled readers, wrong clocks."""

import asyncio
import collections
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text

from engine import times
from server.store.database import Database
from server.store.tables import events
from server.store.tables.activity import models, orders
from tests.harness import ROOT, ServerProcess, running_server, until, wait_until

pytestmark = pytest.mark.anyio
API = "/workbench/api"
TOKEN = "a-secret-token-of-the-tests"
KILLS = int(os.environ.get("INGEST_KILLS", "5"))
FLAGS = ("--api-only", "--rate-limit", "0", "--log-level", "error")


def acknowledged(output: str) -> dict[str, int]:
    """Entries acknowledged, by model; the last line may be torn."""
    found: dict[str, int] = {}
    for line in output.rpartition("\n")[0].splitlines():
        model, number = line.split()
        found[model] = int(number)
    return found


async def kept(url: str) -> tuple[dict[str, list[int]], dict[str, int], dict[str, list[int]], str]:
    """What is in a database: the numbers of log lines and of orders by model, orders as counted in the model's row,
    and the numbers of their events."""
    async with Database(url) as database:
        def work(connection: Any) -> Any:
            lines: dict[str, list[int]] = collections.defaultdict(list)
            placed: dict[str, list[int]] = collections.defaultdict(list)
            for stream, type, data in connection.execute(
                    select(events.c.stream, events.c.type, events.c.data).where(
                        events.c.stream.like("model/%")).order_by(events.c.stream, events.c.seq)):
                model = stream.split("/")[1]
                if type == "log":
                    lines[model].append(int(json.loads(data)["line"]))
                elif type == "order":
                    placed[model].append(int(json.loads(data)["id"][1:]))
            counts = dict(connection.execute(select(models.c.id, models.c.orders)).all())
            rows: dict[str, list[int]] = collections.defaultdict(list)
            for model, id in connection.execute(select(orders.c.model_id, orders.c.id)):
                rows[model].append(int(id[1:]))
            holes = connection.execute(select(func.count()).select_from(
                select(events.c.stream).group_by(events.c.stream).having(func.count() != func.max(events.c.seq))
                .subquery())).scalar_one()
            assert holes == 0
            assert {model: sorted(found) for model, found in rows.items()} == {
                model: sorted(found) for model, found in placed.items()}
            return lines, counts, placed, connection.execute(text("PRAGMA integrity_check")).scalar_one()

        return await database.read(work)


async def test_every_acknowledged_entry_is_there_once_after_each_kill(tmp_path: Path) -> None:
    chance = random.Random(11)
    told: dict[str, int] = {}
    for life in range(KILLS):
        with ServerProcess(*FLAGS, data_dir=tmp_path / "data", compute=False) as server:
            output = tmp_path / f"acknowledged-{life}"
            with output.open("wb") as file:
                bots = subprocess.Popen([sys.executable, "-m", "tests.server.ingest_load", server.url, server.token,
                                         f"life{life}", "24"], stdout=file, cwd=ROOT)
            try:
                await asyncio.to_thread(wait_until, lambda output=output: output.stat().st_size > 8_000)
                await asyncio.sleep(chance.uniform(0.0, 0.3))  # not always at the same point of its work
                server.kill()
                assert await asyncio.to_thread(bots.wait, 90) == 0
            finally:
                bots.kill()
                bots.wait()
        told |= acknowledged(output.read_text())
    lines, counts, placed, integrity = await kept(f"sqlite:///{tmp_path / 'data' / 'workbench.sqlite'}")
    assert integrity == "ok" and len(told) == KILLS * 24
    assert sum(told.values()) > KILLS * 500
    for model, number in told.items():
        numbers = sorted(lines[model] + placed[model])
        assert numbers == list(range(len(numbers))), model  # each once
        assert lines[model] == sorted(lines[model])  # in order
        assert number <= len(numbers) <= number + 50, model  # what was not answered may be there, whole
        assert counts[model] == len(placed[model])


def mounted(path: Path, size: str) -> bool:
    path.mkdir()
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
                          capture_output=True).returncode == 0


async def post(api: httpx.AsyncClient, line: str, **more: Any) -> httpx.Response:
    return await api.post("/events?model=m", content=json.dumps({"kind": "log", "line": line, **more}))


async def lines_of(api: httpx.AsyncClient) -> list[str]:
    page = (await api.get("/models/m/logs", params={"tail": 1000})).json()
    return [each["line"] for each in page["items"]]


def client(server: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url + API, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)


async def test_a_full_disk_is_told_and_forgiven(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not await asyncio.to_thread(mounted, disk, "12m"):
        pytest.skip("this user may not mount a small disk")
    try:
        async with running_server(disk / "data", token=TOKEN, rate_limit=0) as server, client(server) as api:
            said = ["first"]
            assert (await post(api, "first")).status_code == 200
            with (disk / "ballast").open("wb") as file:
                shutil.copyfileobj(Zeros(shutil.disk_usage(disk).free - 300_000), file)
            for number in range(1000):
                answer = await post(api, f"{number} " + "x" * 20_000)
                if answer.status_code != 200:
                    break
                said.append(f"{number} " + "x" * 20_000)
            problem = answer.json()["error"]
            assert (answer.status_code, problem["code"]) == (503, "unavailable"), problem
            assert "full" in problem["message"] or "disk" in problem["message"]
            assert problem["problems"][0]["remedy"]
            assert await lines_of(api) == said  # reading goes on, and nothing of the refused is there
            (disk / "ballast").unlink()
            assert (await post(api, "last")).status_code == 200
            assert await lines_of(api) == [*said, "last"]
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(disk)], check=True)


class Zeros:
    """So many zeros, to be read."""

    def __init__(self, count: int) -> None:
        self._left = max(count, 0)

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_a_read_only_database_is_told_and_forgiven(
        tmp_path: Path, backend: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url") if backend == "postgresql" else ""
    statement = "SET default_transaction_read_only = on" if url else "PRAGMA query_only=ON"
    async with (running_server(tmp_path, token=TOKEN, rate_limit=0, database_url=url) as server,
                client(server) as api):
        assert (await post(api, "before")).status_code == 200
        await server.services.db.write(lambda connection: connection.execute(text(statement)))
        answers = await asyncio.gather(*(post(api, "meanwhile") for _ in range(8)))
        assert 503 in {answer.status_code for answer in answers}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert "read-only" in refused.json()["error"]["message"]
        await until(lambda: works(api))
        lines = await lines_of(api)
        assert lines.count("meanwhile") == sum(answer.status_code == 200 for answer in answers)
        assert lines[0] == "before" and lines[-1] == "after"


async def works(api: httpx.AsyncClient) -> bool:
    return (await post(api, "after")).status_code == 200


async def test_readers_that_read_nothing_never_slow_ingest(tmp_path: Path) -> None:
    """Twenty followers that never read a byte, one that does; the server neither waits nor grows."""
    async with (running_server(tmp_path, token=TOKEN, rate_limit=0) as server, client(server) as api):
        await post(api, "first")

        async def rate() -> float:
            """Seconds of a processor for 20 requests of 100 lines, each of 500 characters."""
            body = "\n".join([json.dumps({"kind": "log", "line": "x" * 500})] * 100)
            began = time.process_time()
            for _ in range(20):
                assert (await api.post("/events?model=m", content=body)).status_code == 200
            return time.process_time() - began

        await rate()
        alone = min([await rate() for _ in range(2)])
        stalled = [await asyncio.to_thread(stall, server.port) for _ in range(20)]
        try:
            await until(lambda: len(server.context.streams) == 20)
            beside = min([await rate() for _ in range(3)])
            buffered = sum(len(stream.ws_connection.stream._write_buffer) for stream in server.context.streams)
            assert buffered <= 20 * 2 * 2**20
            assert beside < 3 * alone + 0.5, (alone, beside)
            assert len(server.context.streams) == 20
        finally:
            for each in stalled:
                each.close()


def stall(port: int) -> socket.socket:
    """A follower of the model's output that reads nothing after the handshake."""
    made = socket.create_connection(("127.0.0.1", port))
    made.sendall((f"GET {API}/models/m/logs/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                  "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                  f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {TOKEN}\r\n\r\n").encode())
    assert made.recv(12) == b"HTTP/1.1 101"
    return made


@pytest.mark.parametrize("clock", ["1971-01-01T00:00:00Z", "2199-12-31T00:00:00Z", 0, 4_102_444_800_000],
                         ids=["long-ago", "far-ahead", "epoch", "milliseconds"])
async def test_a_wrong_clock_changes_nothing_but_its_own_timestamps(tmp_path: Path, clock: Any) -> None:
    async with (running_server(tmp_path, token=TOKEN, rate_limit=0) as server, client(server) as api):
        began = times.now()
        for number in range(3):
            assert (await post(api, str(number), at=clock if number == 1 else None)).status_code == 200
        order = {"kind": "order", "id": "o1", "symbol": "BTC-USD", "side": "buy", "size": 1, "at": clock}
        assert (await api.post("/events?model=m", content=json.dumps(order))).status_code == 200
        items = (await api.get("/models/m/logs")).json()["items"]
        assert [each["line"] for each in items] == ["0", "1", "2"]  # in the order of arrival
        assert times.parse(items[1]["at"]) == times.parse(clock)
        for each in items:
            assert began <= times.parse(each["received_at"]) <= times.now()
        kept_order = (await api.get("/models/m/orders/o1")).json()
        assert times.parse(kept_order["at"]) == times.parse(clock)
        assert began <= times.parse(kept_order["received_at"]) <= times.now()
        model = (await api.get("/models/m")).json()
        assert began <= times.parse(model["heard_at"]) <= times.now()
        for nonsense in ("soon", "1492-10-12", True):
            answer = await post(api, "x", at=nonsense)
            assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "at"
