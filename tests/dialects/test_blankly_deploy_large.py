"""Uploads of hundreds of megabytes, and the real models of Blankly's where they are at hand."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import ServerProcess, wait_until

MODELS = os.environ.get("WORKBENCH_TEST_MODELS", "")
BACKTEST_ARGS = '{"start_date":1434000000,"end_date":1592784000,"initial_values":{"USD":10000}}'
MIB = 2**20


class Desk:
    """A server and a program that has logged in to it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, headers=server.headers, timeout=300)
        answer = self.client.post("/auth/token", data={"refreshToken": server.token}).json()
        self.user, self.token = answer["data"]["user_id"], {"token": answer["idToken"]}

    def post(self, path: str, **more: Any) -> Any:
        answer = httpx.post(self.server.url + path, headers=self.token, timeout=300, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, path: str, **query: Any) -> Any:
        answer = self.client.get("/workbench/api" + path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def most_memory(self) -> int:
        """MiB that the server's process held at most, so far."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with ServerProcess("--rate-limit", "0", "--api-only", compute=False) as server:
        made = Desk(server)
        yield made
        made.client.close()


def test_an_upload_of_300_megabytes_is_never_in_memory(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/bot.py", "print(1)")
        for number in range(3):
            with archive.open(f"model/data{number}.bin", "w") as file:
                for _ in range(100):
                    file.write(os.urandom(MIB))
    desk.post("/model/upload", files={"model": ("model.zip", _small())}, data={"name": "small"})
    before = desk.most_memory()
    with path.open("rb") as file:
        made = desk.post("/model/upload", files={"model": ("model.zip", file)}, data={"name": "large"})
    assert desk.most_memory() - before < 40, "the server's memory does not grow with the upload"
    [version] = desk.ask(f"/models/{made['modelId']}/versions")["items"]
    with path.open("rb") as file:
        assert version["sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    desk.post("/model/delete", data={"modelId": made["modelId"]})
    left = [each for each in (desk.server.data_dir / "archives").rglob("*") if each.is_file()]
    assert sum(each.stat().st_size for each in left) < MIB


def test_an_upload_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with ServerProcess("--rate-limit", "0", "--api-only", "--max-upload", "1MB", compute=False) as server:
        desk = Desk(server)
        answer = httpx.post(server.url + "/model/upload", headers=desk.token, data={"name": "x"},
                            files={"model": ("model.zip", os.urandom(2 * MIB))})
        assert answer.status_code == 413 and "too large" in answer.json()["error"]
        desk.client.close()


def _small() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/bot.py", "print(1)")
    return buffer.getvalue()


# -- the real models


needs_models = pytest.mark.skipif(not MODELS, reason="WORKBENCH_TEST_MODELS names no folder with Blankly's models")


@needs_models
def test_a_real_model_is_backtested(desk: Desk) -> None:
    with (Path(MODELS) / "rsi_daily.zip").open("rb") as file:
        made = desk.post("/model/backtest", files={"model": file}, data={
            "name": "RSI", "projectId": desk.user, "backtestArgs": BACKTEST_ARGS, "pythonVersion": "3.11"})

    def ended() -> Any:
        run = desk.ask(f"/runs/{made['backtestId']}")
        return run if run["state"] in ("completed", "failed") else None

    run = wait_until(ended, 600)
    assert run["state"] == "completed", run
    assert {"total_return", "sharpe", "max_drawdown"} <= run["metrics"].keys() and run["metrics"]["trades"] > 0
    result = desk.ask(f"/runs/{run['id']}/result")
    assert len(result["extra"]["reported by the model"]) == 12 and result["rows"]["equity"] > 1500


@needs_models
def test_a_real_model_runs_live(desk: Desk) -> None:
    with (Path(MODELS) / "replay_live.zip").open("rb") as file:
        made = desk.post("/model/deploy", files={"model": file}, data={
            "name": "Replay", "projectId": desk.user, "plan": "small", "pythonVersion": "3.11"})
    path = f"/models/{made['modelId']}"

    def told() -> str:
        return "\n".join(str(event["line"]) for event in desk.ask(path + "/logs", limit=500)["items"])

    wait_until(lambda: desk.ask(path + "/orders")["items"] and "Traceback" in told(), 600)
    orders = desk.ask(path + "/orders", limit=500)["items"]
    assert {order["side"] for order in orders} <= {"buy", "sell"} and any(order["annotation"] for order in orders)
    assert told().count("Traceback (most recent call last)") == 1
    if desk.ask(path + "/deployment")["wanted"] == "running":
        desk.post("/model/kill", data={"modelId": made["modelId"]})
        wait_until(lambda: desk.ask(path + "/deployment")["state"] in ("completed", "stopped"), 60)
