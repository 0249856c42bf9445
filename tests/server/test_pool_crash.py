"""What a real server process does when it is killed or stopped under load, with its real workers."""

import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from engine.candle_store import CandleStore
from engine.demo import demo_candles
from tests.harness import ServerProcess, wait_until

API = "/workbench/api"
SPEC: dict[str, Any] = {"strategy": "sma_cross", "markets": ["demo:AAPL/USD"]}
FINAL = ("completed", "failed", "cancelled")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CandleStore(tmp_path / "candles").write(demo_candles()[0])
    return tmp_path


class House:
    """A server on a data directory, started as often as needed."""

    def __init__(self, folder: Path) -> None:
        self.server = ServerProcess("--rate-limit", "0", "--workers", "2", data_dir=folder,
                                    env={"WORKBENCH_TOKEN": "a-secret-token-of-the-tests"})
        self.api = httpx.Client()

    def start(self) -> None:
        self.server.start()
        self.api.close()
        self.api = httpx.Client(base_url=self.server.url + API, headers=self.server.headers, timeout=60)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.api.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, path: str = "/runs", **changes: Any) -> str:
        answer = self.api.post(path, json=SPEC | changes if path == "/runs" else changes)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def submit_many(self, count: int) -> list[str]:
        return [self.submit(params={"fast": 2 + n % 20, "slow": 30 + n // 20}) for n in range(count)]

    def wait_ready(self) -> None:
        wait_until(lambda: httpx.get(self.server.url + "/healthz").json()["workers"]["ready"], 120)

    def processes(self) -> list[int]:
        """The live processes of the server's group but itself."""
        return [pid for pid in _group(self.server.process.pid) if pid != self.server.process.pid]


def _group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == leader and state not in "ZX":
                found.append(int(entry.name))
    return found


@pytest.fixture
def house(folder: Path) -> Iterator[House]:
    made = House(folder)
    made.start()
    yield made
    made.api.close()
    made.server.kill()


def check_events(events: list[dict[str, Any]]) -> list[str]:
    """No hole and nothing doubled; after the final state nothing. Returns the states."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    states = [event["data"] for event in events if event["type"] == "state"]
    for before, after in pairwise(states):
        assert after["previous_state"] == before["state"]
    assert events[-1]["type"] == "state" and states[-1]["state"] in FINAL
    return [state["state"] for state in states]


def test_a_killed_server_loses_and_doubles_nothing(house: House) -> None:
    house.wait_ready()
    sweep = house.submit("/sweeps", base=SPEC, parameters={"fast": list(range(2, 42)), "slow": list(range(50, 90))})
    wait_until(lambda: house.get(f"/sweeps/{sweep}")["trials"]["completed"], 60)
    ids = house.submit_many(60)

    followed: list[dict[str, Any]] = []
    with connect(f"{house.server.websocket_url}{API}/stream?prefix=run/&after_id=0",  # some may have finished already
                 additional_headers=house.server.headers) as socket:
        while not any(frame["data"].get("state") == "running" and frame["stream"][4:] in ids for frame in followed):
            followed.append(json.loads(socket.recv(60)))
        workers = house.processes()
        os.kill(house.server.process.pid, signal.SIGKILL)  # the server alone: its workers must notice
        with pytest.raises(ConnectionClosed):
            while True:
                followed.append(json.loads(socket.recv(60)))
    assert len(workers) >= 2
    wait_until(lambda: not house.processes(), 60, "workers outlive their server")
    house.server.wait()

    house.start()
    after = followed[-1]["id"]
    with connect(f"{house.server.websocket_url}{API}/stream?prefix=run/&after_id={after}",
                 additional_headers=house.server.headers) as socket:
        open_ = {*ids, sweep}
        ended = {frame["stream"][4:] for frame in followed if frame["data"].get("state") in FINAL}
        while open_ - ended:
            followed.append(json.loads(socket.recv(120)))
            if followed[-1]["data"].get("state") in FINAL:
                ended.add(followed[-1]["stream"][4:])

    restarted = 0
    for id in ids:
        run, events = house.get(f"/runs/{id}"), house.get(f"/runs/{id}/events", limit=10_000)["items"]
        assert [frame for frame in followed if frame["stream"] == f"run/{id}"] == [
            event for event in events if event["id"] in {frame["id"] for frame in followed}]
        assert run["state"] == "completed" and run["metrics"]["trades"] is not None, run
        states = check_events(events)
        again = [event["data"] for event in events if event["data"].get("message") == "server restarted"]
        restarted += len(again)
        assert len(again) == run["attempts"] <= 1
        assert states == (["queued", "running", "queued", "running", "completed"] if again else
                          ["queued", "running", "completed"])
        assert again == [] or (again[0]["previous_state"], again[0]["state"]) == ("running", "queued")
    ids_heard = [frame["id"] for frame in followed]
    assert ids_heard == sorted(set(ids_heard))
    found = house.get(f"/sweeps/{sweep}")
    assert found["state"] == "completed" and found["trials"]["completed"] == 1600
    numbers = house.get(f"/sweeps/{sweep}/trials", limit=10_000)["columns"]["number"]
    assert numbers == list(range(1600)), "every trial once"
    assert check_events(house.get(f"/runs/{sweep}/events", limit=10_000)["items"])[:2] == ["queued", "running"]


def test_sigterm_under_load_is_quick_and_loses_nothing(house: House) -> None:
    house.wait_ready()
    ids = house.submit_many(40)
    sweep = house.submit("/sweeps", base=SPEC, parameters={"fast": list(range(2, 42)), "slow": list(range(50, 90))})
    wait_until(lambda: any(house.get(f"/runs/{id}")["state"] != "queued" for id in ids[:5]), 60)
    with connect(f"{house.server.websocket_url}{API}/runs/{ids[-1]}/stream",
                 additional_headers=house.server.headers) as socket:
        assert json.loads(socket.recv(60))["seq"] == 1
        begun = time.monotonic()
        house.server.terminate()
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(60)
        assert socket.protocol.close_code in (1000, 1001)
    assert house.server.wait(60) == 0
    assert time.monotonic() - begun < 12
    wait_until(lambda: not house.processes(), 60, "processes are left")
    assert "Traceback" not in house.server.errors and '"level":"error"' not in house.server.errors, house.server.errors

    house.start()
    assert len(house.get("/runs", limit=500)["items"]) == 41
    waiting = {*ids, sweep}

    def all_ended() -> bool:
        page = house.get("/runs", limit=500)["items"]
        return {run["state"] for run in page if run["id"] in waiting} == {"completed"}

    wait_until(all_ended, 120)
    for id in ids:
        assert check_events(house.get(f"/runs/{id}/events", limit=10_000)["items"])[-1] == "completed"
