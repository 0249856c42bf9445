"""Whole runs of small models: what is told of them in order, environments made and found again, failures in words."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine import archive, model_process
from engine.errors import Invalid
from engine.model_runner import ModelJob, run
from engine.sandbox import LIVE_PLANS, Plan
from engine.venvs import Venvs, interpreters

PLAN = Plan(name="test", cpu=2000, memory=300, seconds=30.0)


class House:
    """A folder with archives, environments and scratch files."""

    def __init__(self, folder: Path, venvs: Path) -> None:
        self.folder, self.venvs = folder, venvs
        self.told: list[tuple[str, Mapping[str, Any]]] = []

    def run(self, files: Mapping[str, str], kind: str = "live", **job: Any) -> str:
        target = self.folder / "model.zip"
        archive.pack({name: content.encode() for name, content in files.items()}, target)
        self.told.clear()
        wanted = {"plan": PLAN, "python": job.pop("python", ""), **job}
        stopped = wanted.pop("stopped", lambda: False)
        return run(ModelJob(kind=kind, archive=target, venvs=self.venvs, scratch=self.folder / "work",  # type: ignore
                            **wanted), lambda kind, data: self.told.append((kind, dict(data))), stopped)

    def lines(self, type: str) -> list[str]:
        return [data["line"] for kind, data in self.told if kind == "log" and data["type"] == type]

    def all(self, kind: str) -> list[Any]:
        return [data for name, data in self.told if name == kind]


@pytest.fixture(scope="module")
def venvs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("venvs")


@pytest.fixture
def house(tmp_path: Path, venvs: Path) -> House:
    return House(tmp_path, venvs)


def test_a_script_runs_in_its_own_files_and_reports(house: House) -> None:
    ended = house.run({"bot.py": """
import os, sys, json
from blankly_external import report, Reporter
print(os.getcwd() == os.path.expanduser("~"), open("data/prices.csv").read(), sys.argv[0].endswith("bot.py"))
open("written.txt", "w").write("mine")
import side
report("order", id="1", symbol="BTC-USD", side="buy", size=1.5, extra={"nan": float("nan")})
Reporter.log_limit_order({"id": 7, "symbol": "A", "side": "sell", "size": 2, "price": 3.0, "status": "open"}, "paper")
Reporter.update_order({"id": 7, "status": "filled"})
print(os.environ["GIVEN"], sorted(name for name in os.environ if "SECRET" in name))
""", "side.py": "print('imported')\n", "data/prices.csv": "1,2"}, environment={"GIVEN": "yes"})
    assert ended == "done", house.told
    assert house.lines("stdout") == ["True 1,2 True", "imported", "yes []"]
    entries = house.all("entry")
    assert [entry["kind"] for entry in entries] == ["order", "order", "order-change"]
    assert entries[0]["extra"] == {"nan": None} and entries[0]["size"] == 1.5
    assert (entries[1]["id"], entries[1]["type"], entries[1]["exchange"]) == ("7", "limit", "paper")
    assert house.all("phase")[-1] == {"message": "Monitoring Active"}
    assert house.told[-1][0] == "done" and house.told[-1][1]["lines"] == 3
    assert not list((house.folder / "work").iterdir()), "nothing is left behind"


def test_a_backtest_asks_the_first_strategy(house: House) -> None:
    script = """
import os
from blankly_external import Reporter
class Strategy:
    def __init__(self, name): self.name = name; Reporter.export_strategy(self)
    def backtest(self, **args):
        Reporter.export_backtest_result({"symbols": ["A"], "args": args, "name": self.name})
first, second = Strategy("first"), Strategy("second")
print(os.environ["BACKTESTING"])
"""
    assert house.run({"bot.py": script}, "backtest", args={"to": "1y"}) == "done"
    result, status = house.all("entry")
    assert result["result"] == {"symbols": ["A"], "args": {"to": "1y"}, "name": "first"}
    assert (status["kind"], status["successful"]) == ("backtest-status", True) and status["time_elapsed"] >= 0
    assert house.run({"bot.py": "print('nothing')"}, "backtest") == "failed"
    assert house.all("entry")[-1]["successful"] is False and "no strategy" in house.lines("stderr")[-1]


def test_failures_have_words(house: House) -> None:
    assert house.run({"bot.py": "import json\nraise RuntimeError('no luck')"}) == "failed"
    assert house.told[-1][1]["error"] == "RuntimeError: no luck (exit code 1)" and house.told[-1][1]["tracebacks"] == 1
    assert house.lines("stderr")[-1] == "RuntimeError: no luck"
    assert house.run({"bot.py": "import sys; sys.exit(3)"}) == "failed"
    assert house.told[-1][1]["error"] == "exit code 3"
    assert house.run({"bot.py": "import sys; sys.exit()"}) == "done"
    assert house.run({"bot.py": "x ="}) == "failed" and "SyntaxError" in house.lines("stderr")[-1]
    assert house.run({"bot.py": ""}, python="3.99") == "failed"
    assert "Python 3.99 is not installed" in house.told[-1][1]["error"]
    assert house.run({"bot.py": "", "requirements.txt": "this-package-does-not-exist-anywhere==1"}) == "failed"
    assert "environment could not be made" in house.told[-1][1]["error"] and house.lines("install")
    assert not [path for path in house.venvs.iterdir() if path.is_dir() and not (path / "ready").exists()]


def test_threads_go_on_until_it_is_stopped(house: House) -> None:
    script = """
import threading, time
def work():
    while True: print("tick", flush=True); time.sleep(0.05)
threading.Thread(target=work).start()
print("script over")
"""
    assert house.run({"bot.py": script}, stopped=lambda: len(house.lines("stdout")) > 5) == "stopped"
    assert house.lines("stdout").count("tick") >= 4 and house.told[-1][1]["error"] == ""


def test_a_live_model_says_that_it_is_alive(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never said so is not missed: so it has said so when it is, as it is here between two times."""
    monkeypatch.setattr(model_process, "SILENT", 0.5)
    assert house.run({"bot.py": "import time\nwhile True: time.sleep(0.05)"},
                     stopped=lambda: any(not data["answers"] for data in house.all("usage"))) == "stopped"
    assert not house.all("entry")


def test_environments_are_made_once_for_a_version_and_its_requirements(venvs: Path) -> None:
    house, said = Venvs(venvs), []
    first = house.get("", "# nothing\n", said.append)
    assert house.get("", "# nothing\n\n").python == first.python
    again = house.get("", "# nothing\n", said.append)
    assert again.cached and again.folder == first.folder and not said
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert version in interpreters() and house.get(version + ".1", "# nothing\n").folder == first.folder
    with pytest.raises(Invalid, match="not installed") as caught:
        house.get("2.7", "")
    assert caught.value.problems[0].field == "pythonVersion" and version in caught.value.problems[0].remedy


def test_plans_are_data() -> None:
    assert LIVE_PLANS["nano"].cpu < LIVE_PLANS["large"].cpu
    assert json.dumps({name: {"cpu": plan.cpu, "ram": plan.memory} for name, plan in LIVE_PLANS.items()})
