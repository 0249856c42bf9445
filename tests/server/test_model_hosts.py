"""Uploaded models on two hosts: real Dask workers on loopback with what they can give, and the loss of one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from engine import archive
from server.config import Config
from server.services import Services
from tests.harness import ServerProcess, until, wait_until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]
FOREVER = b"import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"


class Hosts:
    """A scheduler and two hosts; each can give one model of the plan nano what it needs, and half of another."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self._folder = folder
        self._processes = [self._spawn("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port),
                                       "--no-dashboard", "--dashboard-address", "127.0.0.1:0")]
        self.hosts = [self.host(), self.host()]

    def host(self) -> "subprocess.Popen[bytes]":
        made = self._spawn("distributed.cli.dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "8",
                           "--no-nanny", "--no-dashboard", "--local-directory", str(self._folder),
                           "--resources", "cpu=375,memory=768")
        self._processes.append(made)
        return made

    @staticmethod
    def _spawn(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(tmp_path / "dask")
    yield made
    made.kill()


@pytest.fixture
async def services(hosts: Hosts, tmp_path: Path) -> AsyncIterator[Services]:
    made = await Services.open(Config(data_dir=tmp_path / "data", token="", model_hosts=hosts.address), compute=False)
    await made.deployments.start()
    await made.activity.create_project("mine", id="p")
    yield made
    await made.close()


async def test_models_share_the_hosts_and_survive_the_loss_of_one(services: Services, hosts: Hosts,
                                                                   tmp_path: Path) -> None:
    deployments = services.deployments
    wanted = []
    for name in ("first", "second", "third"):
        archive.pack({"bot.py": FOREVER}, tmp_path / "upload")
        model = (await services.activity.create_model("p", name)).id
        wanted.append(model)
        version, _ = await deployments.versions.add(model, tmp_path / "upload", file="model.zip")
        await deployments.run(version)

    async def up() -> set[str]:
        return {model for model in wanted
                if any(event.data["line"] == "up" for event in await services.events.page(f"model/{model}/log"))}

    async def two() -> bool:
        return len(await up()) == 2

    await until(two, 90)
    waiting = next(iter(set(wanted) - await up()))  # the hosts are full
    stopped = sorted(await up())[0]
    await deployments.stop(stopped)

    async def third() -> bool:
        return waiting in await up()

    await until(third, 60)
    os.killpg(hosts.hosts[0].pid, signal.SIGKILL)

    async def lost() -> str | None:
        for model in set(wanted) - {stopped}:
            found = await deployments.get(model)
            if found.error == "the host of the model died":
                return model
        return None

    unlucky = await until(lost, 60)
    hosts.hosts[0] = hosts.host()

    async def again() -> bool:
        lines = [event.data["line"] for event in await services.events.page(f"model/{unlucky}/log")]
        return lines.count("up") == 2

    await until(again, 90)
    assert (await deployments.get(str(unlucky))).restarts >= 1


def test_models_on_hosts_end_with_their_server(hosts: Hosts, tmp_path: Path) -> None:
    """One that went on would trade beside the one that the next server starts."""
    data = tmp_path / "data"

    def at_work() -> int:
        return sum(str(data / "venvs") in " ".join(each.info["cmdline"] or ()) and each.info["name"] != "bwrap"
                   for each in psutil.process_iter(["cmdline", "name"]))

    server = ServerProcess("--model-hosts", hosts.address, data_dir=data, compute=False).start()
    try:
        with httpx.Client(base_url=server.url, headers={"token": server.token}, timeout=60) as client:
            answer = client.post("/model/deploy", data={"name": "bot", "createNew": "True"},
                                 files={"model": ("bot.py", FOREVER)})
            assert answer.status_code == 200, answer.text
        wait_until(lambda: at_work() == 1, 90)
    finally:
        server.kill()
    wait_until(lambda: at_work() == 0, 60)
