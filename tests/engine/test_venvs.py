"""Environments of uploaded models while they are made and used; `uv` is a script that does as the test wants."""

import os
import threading
import time
from pathlib import Path

import pytest

from engine import venvs
from engine.errors import WorkbenchError
from engine.venvs import Venvs
from tests.harness import wait_until

SCRIPT = """#!/bin/sh
if [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python"; exit 0; fi
echo "Looking in indexes: https://me:s3cret@index.example/simple"
{then}
"""


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "uv"
    path.write_text(SCRIPT.format(then="true"))
    path.chmod(0o755)
    monkeypatch.setattr(venvs, "_uv", lambda: str(path))
    return path


def test_a_silent_installation_is_stopped_with_all_it_started(uv: Path, tmp_path: Path) -> None:
    uv.write_text(SCRIPT.format(then="sleep 600"))
    said: list[str] = []
    with pytest.raises(WorkbenchError, match="was stopped"):
        Venvs(tmp_path / "venvs").get("", "numpy\n", said.append, lambda: len(said) > 1)
    assert said[-1] == "Looking in indexes: https://***@index.example/simple"
    assert not list((tmp_path / "venvs").glob("*/ready"))


def test_one_that_waits_for_another_installation_is_stopped_too(uv: Path, tmp_path: Path) -> None:
    uv.write_text(SCRIPT.format(then="sleep 600"))
    said: list[str] = []
    over = threading.Event()

    def first() -> None:
        with pytest.raises(WorkbenchError):
            Venvs(tmp_path / "venvs").get("", "numpy\n", said.append, over.is_set)

    other = threading.Thread(target=first)
    other.start()
    try:
        wait_until(lambda: len(said) > 1)  # it has the lock
        with pytest.raises(WorkbenchError, match="was stopped"):
            Venvs(tmp_path / "venvs").get("", "numpy\n", lambda line: None, lambda: True)
        assert other.is_alive()
    finally:
        over.set()
        other.join()


def test_an_installation_has_its_time(uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvs, "INSTALL_TIMEOUT", 1.0)
    uv.write_text(SCRIPT.format(then="sleep 600"))
    with pytest.raises(WorkbenchError, match="took too long"):
        Venvs(tmp_path / "venvs").get("", "numpy\n", lambda line: None)


def test_an_environment_that_is_used_is_kept_however_old(uv: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvs, "KEPT", 1)
    house = Venvs(tmp_path / "venvs")

    def made(name: str, age: float) -> venvs.Environment:
        found = house.get("", name, lambda line: None)
        at = time.time() - age
        os.utime(found.folder / "ready", (at, at))
        return found

    used = made("used", 300_000)
    with house.held(used) as python:
        old = made("old", 200_000)
        made("new", 0)
        assert python.is_file() and not old.folder.exists()
    made("newer", 0)
    assert not used.folder.exists()
