"""Folders that models run in: gone with their maker, and swept with all that still runs in them when it was killed."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from engine.model_scratch import folder, sweep
from tests.harness import wait_until

MAKER = """
import subprocess, sys, time
from pathlib import Path
from engine.model_scratch import folder
with folder(Path(sys.argv[1])) as made:
    (made / "keys.json").write_text("secret")
    child = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"], start_new_session=True,
                             env={"WORKBENCH_MODEL_PROCESS": str(made)})
    print(made, child.pid, flush=True)
    time.sleep(600)
"""


def test_a_folder_is_there_while_it_is_used(tmp_path: Path) -> None:
    with folder(tmp_path / "models") as first, folder(tmp_path / "models") as second:
        assert first != second and sweep(tmp_path / "models") == 0
        assert first.is_dir() and second.is_dir()
    assert not first.exists() and not second.exists() and sweep(tmp_path / "none") == 0


def test_what_a_killed_maker_left_is_removed_and_its_model_ended(tmp_path: Path) -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    made, pid = maker.stdout.readline().split()
    child = psutil.Process(int(pid))
    try:
        with folder(tmp_path) as mine:
            assert sweep(tmp_path) == 0 and child.is_running(), "its maker is at work"
            maker.send_signal(signal.SIGKILL)
            maker.wait()
            (tmp_path / "other").mkdir()
            assert sweep(tmp_path) == 1
            wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
            assert not Path(made).exists() and mine.is_dir() and (tmp_path / "other").is_dir()
    finally:
        maker.stdout.close()
        maker.kill()
        maker.wait()
        with contextlib.suppress(psutil.Error):
            child.kill()


def test_a_folder_whose_maker_died_at_once_is_removed(tmp_path: Path) -> None:
    with folder(tmp_path) as made:
        bare = made.with_name(made.name + "x")
        bare.mkdir()
        assert sweep(tmp_path) == 1 and not bare.exists() and made.is_dir()
