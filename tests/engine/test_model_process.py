"""A model's process: its lines, entries, limits and end. Real processes; runaways are stopped and harm nobody."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine import model_process, sandbox
from engine.model_process import Ending, ModelProcess, Usage
from engine.sandbox import Box, Isolation, Plan, interpreter_folders, isolation, plan_of

UNBOXED = Isolation(kind="limits", reason="for the test")
PYTHON = Path(sys.executable)
FOLDERS = interpreter_folders(PYTHON)
SMALL = Plan(name="test", cpu=2000, memory=200, disk=8, processes=20, output=1, seconds=30.0)


class Heard:
    """Everything that one run of a model let hear."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.entries: list[Any] = []
        self.progress: list[float] = []
        self.answers: list[bool] = []
        self.ending: Ending

    def texts(self, pipe: str) -> list[str]:
        return [text for name, text in self.lines if name == pipe]


def run(folder: Path, script: str, plan: Plan = SMALL, *, network: bool = False, grace: float = 0.5,
        stopped: Callable[[Heard], bool] = lambda heard: False, environment: Mapping[str, str] | None = None,
        on_usage: Callable[[Heard], object] = lambda heard: None) -> Heard:
    folder.mkdir(exist_ok=True)
    (folder / "bot.py").write_text(script)
    heard = Heard()

    def hear_usage(usage: Usage) -> None:
        heard.answers.append(usage.answers)
        on_usage(heard)

    box = Box(plan=plan, network=network, model=folder, readable=FOLDERS,
              environment={"PYTHONUNBUFFERED": "1", **(environment or {})})
    script_path = "/model/bot.py" if isolation().kind == "bubblewrap" else str(folder / "bot.py")
    process = ModelProcess(box=box, inner=[str(PYTHON), "-Iu", script_path], slot=7, folder=folder, grace=grace,
                           on_line=lambda pipe, text: heard.lines.append((pipe, text)),
                           on_entry=heard.entries.append, on_progress=heard.progress.append,
                           on_usage=hear_usage)
    heard.ending = process.run(lambda: stopped(heard))
    return heard


def _without_box(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sandbox, model_process, sys.modules[__name__]):
        monkeypatch.setattr(module, "isolation", lambda: UNBOXED)


@pytest.fixture(params=["bubblewrap", "limits"])
def kept_apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of running, the one without bubblewrap too where it is there."""
    if request.param == "limits":
        _without_box(monkeypatch)
    else:
        assert isolation().kind == "bubblewrap", isolation().reason
    return str(request.param)


def test_lines_entries_and_progress_come_in_order_and_apart(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
import json, os, sys, time
out = os.fdopen(int(os.environ["WORKBENCH_ENTRIES"]), "w")
for number in range(300):
    print("line", number)
    print("error", number, file=sys.stderr)
    print(json.dumps({"kind": "log", "number": number}), file=out, flush=True)
for number in range(5):
    time.sleep(0.05 * (number == 4))  # the bar and its carriage return are read apart from what was drawn before
    print(f"\\rProgress: [##---] {number * 25}.00% ", end="", flush=True)
    if number in (1, 4):
        print("bought", number)
print("no entry", file=out, flush=True)
time.sleep(0.5)
sys.stdout.write("ünïcode, no newline")
""")
    assert heard.texts("stdout") == [f"line {number}" for number in range(300)] + [
        "bought 1", "bought 4", "ünïcode, no newline"]
    stderr = heard.texts("stderr")
    stderr.remove("not an entry: no entry")
    assert stderr == [f"error {number}" for number in range(300)]
    assert [entry["number"] for entry in heard.entries] == list(range(300))
    assert heard.progress == [0.0, 0.25, 0.5, 0.75, 1.0]
    ending = heard.ending
    assert (ending.code, ending.reason, ending.stopped, ending.lines) == (0, "", False, 603)
    assert ending.usage.most > 2**20


def test_a_model_stands_back_behind_the_server(kept_apart: str, tmp_path: Path) -> None:
    assert run(tmp_path / "m", "import os; print(os.nice(0))").texts("stdout") == [str(min(19, os.nice(0) + 10))]


def test_a_failure_says_why(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", "print('before')\nraise ValueError('broken')\n")
    assert (heard.ending.code, heard.ending.tracebacks) == (1, 1)
    assert heard.ending.reason == "ValueError: broken (exit code 1)"
    assert heard.texts("stdout") == ["before"] and heard.texts("stderr")[-1] == "ValueError: broken"
    late = run(tmp_path / "l", """
import sys, traceback
try:
    raise ValueError("overcome")
except ValueError:
    traceback.print_exc()
print("on we go", file=sys.stderr)
sys.exit(4)
""")
    assert (late.ending.reason, late.ending.tracebacks) == ("exit code 4", 1)
    assert "KILL" in run(tmp_path / "n", "import os; os.kill(os.getpid(), 9)\n").ending.reason


def test_it_is_asked_to_stop_and_then_made_to(kept_apart: str, tmp_path: Path) -> None:
    polite = run(tmp_path / "a", """
import time
try:
    print("up"); time.sleep(60)
except KeyboardInterrupt:
    print("bye")
""", stopped=lambda heard: bool(heard.lines))
    assert polite.texts("stdout") == ["up", "bye"] and polite.ending.stopped and polite.ending.reason == ""
    began = time.monotonic()
    deaf = run(tmp_path / "b", """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(2, 1); time.sleep(60)"],
                         start_new_session=True)
print("up"); time.sleep(60)
""", stopped=lambda heard: bool(heard.lines))
    assert deaf.ending.stopped and time.monotonic() - began < 50
    assert not _left("import signal, time; signal.signal(2, 1); time.sleep(60)")


def _left(words: str) -> list[int]:
    found = []
    for each in psutil.process_iter(["pid", "cmdline", "status"]):
        if words in (each.info["cmdline"] or []) and each.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(each.info["pid"])
    return found


def test_a_memory_hog_is_ended(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
import time
hog = []
while True:
    hog.append(bytearray(10_000_000)); time.sleep(0.01)
""")
    assert "out of memory" in heard.ending.reason or heard.texts("stderr")[-1] == "MemoryError"
    assert heard.ending.usage.most < 1000 * 2**20


def test_memory_is_counted_over_all_its_processes(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
import subprocess, sys, time
hog = "import time; hog = bytearray(90_000_000); print(len(hog), flush=True); time.sleep(60)"
children = [subprocess.Popen([sys.executable, "-I", "-c", hog]) for _ in range(4)]
time.sleep(60)
""")
    assert "out of memory: the plan test has 200 MiB" in heard.ending.reason
    assert heard.ending.usage.processes >= 3


def test_memory_that_processes_share_is_counted_once(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
import os, time
shared = bytearray(b"x") * 100_000_000
children = []
for _ in range(5):
    child = os.fork()
    if not child:
        time.sleep(2)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print(len(shared))
""", replace(SMALL, memory=300))
    assert heard.ending.reason == "" and heard.texts("stdout") == ["100000000"]


def test_one_that_stops_saying_that_it_is_alive_does_not_answer(kept_apart: str, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_process, "SILENT", 0.5)
    heard = run(tmp_path / "m", """
import os, time
def beat(): os.write(int(os.environ["WORKBENCH_ENTRIES"]), b'{"kind": "beat"}\\n')
beat()
while not os.path.exists(os.path.join(os.path.dirname(__file__), "go")): time.sleep(0.05)
while True: beat(); time.sleep(0.05)
""", stopped=lambda heard: heard.answers[-1:] == [True] and False in heard.answers,
                on_usage=lambda heard: None if all(heard.answers) else (tmp_path / "m" / "go").write_text(""))
    assert heard.ending.stopped and heard.entries == []


def test_a_time_limit_holds(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", "import time; time.sleep(60)", replace(SMALL, seconds=0.5))
    assert heard.ending.reason == "time limit of 0.5 s exceeded"


def test_endless_output_is_ended_and_a_flood_thinned(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", "while True: print('x' * 100)")
    assert "printed more than the 1 MiB" in heard.ending.reason
    assert heard.ending.dropped > 0 and len(heard.lines) <= 2000 * 5
    assert any("lines left out" in text for text in heard.texts("stdout"))
    long = run(tmp_path / "n", "print('y' * 100_000); print('after')").texts("stdout")
    assert long[0].startswith("y" * 8192) and long[0].endswith("(cut)") and long[-1] == "after" and len(long) == 2


def test_its_share_of_the_processor_is_held_to(kept_apart: str, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", "while True: pass", replace(SMALL, cpu=250, seconds=4.0))
    assert heard.ending.reason.startswith("time limit")
    assert 0.3 < heard.ending.usage.cpu < 2.0, "a quarter of a core for 4 s is 1 s"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port of this machine on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


needs_box = pytest.mark.skipif("isolation().kind != 'bubblewrap'", reason="bubblewrap is not here")


@needs_box
def test_a_fork_bomb_stays_in_its_box(tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
import os
made = 0
try:
    while True:
        if os.fork() == 0:
            import time; time.sleep(60); os._exit(0)
        made += 1
except OSError as error:
    print(made, error)
""")
    made = int(heard.texts("stdout")[-1].split()[0])
    assert made < 20 and heard.ending.code == 0


@needs_box
def test_a_disk_filler_fills_its_own_disk(tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
for folder in ("/home/model", "/tmp"):
    total = 0
    try:
        for number in range(100):
            with open(f"{folder}/{number}", "wb") as file:
                total += file.write(b"x" * 1_000_000)
    except OSError as error:
        print(total, error.errno)
""")
    for text in heard.texts("stdout"):
        total, number = map(int, text.split())
        assert 6_000_000 <= total <= 8 * 2**20 and number == 28
    assert len(heard.texts("stdout")) == 2


@pytest.fixture
def only_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without bubblewrap."""
    _without_box(monkeypatch)


def test_without_a_box_too_many_processes_are_ended_with_all_they_start(only_limits: None, tmp_path: Path) -> None:
    """Every child starts another as soon as it is there, in a session of its own: none is below the first process."""
    chain = """
import subprocess, sys, time
if int(sys.argv[1]):
    subprocess.Popen([sys.executable, "-I", "-c", sys.argv[2], str(int(sys.argv[1]) - 1), *sys.argv[2:]],
                     start_new_session=True)
else:
    time.sleep(60)
time.sleep(60 * (int(sys.argv[1]) % 2))
"""
    heard = run(tmp_path / "m", f"""
import subprocess, sys, time
for _ in range(5):
    subprocess.Popen([sys.executable, "-I", "-c", {chain!r}, "40", {chain!r}, {str(tmp_path)!r}])
time.sleep(60)
""", replace(SMALL, memory=4000))
    assert heard.ending.reason == "more than the 20 processes that the plan test allows"
    assert not _left(str(tmp_path))


def test_without_a_box_a_disk_filler_is_ended(only_limits: None, tmp_path: Path) -> None:
    heard = run(tmp_path / "m", """
import time
for number in range(10_000):
    with open(f"{number}", "wb") as file:
        file.write(b"x" * 1_000_000)
    time.sleep(0.01)
""")
    assert heard.ending.reason == "its files take more than the 8 MiB that the plan test allows"


@needs_box
def test_it_sees_nothing_of_the_server_and_may_nothing(tmp_path: Path, port: int) -> None:
    secret = tmp_path / "data" / "token"
    secret.parent.mkdir()
    secret.write_text("secret")
    heard = run(tmp_path / "m", f"""
import os, socket, sys
for path in ({str(secret)!r}, "/root", "/etc/shadow", "/home", {os.getcwd()!r} + "/pyproject.toml"):
    try:
        print("seen", path, os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        pass
try:
    open("/model/bot.py", "a"); print("written")
except OSError:
    pass
print("pids", len([name for name in os.listdir("/proc") if name.isdigit()]) < 10)
print("caps", open("/proc/self/status").read().split("CapEff:")[1].split()[0])
print("uid", os.getuid() != 0)
print("python", sys.prefix)
print("env", sorted(name for name in os.environ if name not in ("LC_CTYPE", "PWD")))
try:
    socket.create_connection(("127.0.0.1", {port}), 2); print("connected")
except OSError:
    print("no network")
""")
    told = heard.texts("stdout")
    assert not any("secret" in text or "written" in text or "connected" in text for text in told)
    assert told[-6:] == ["pids True", "caps 0000000000000000", "uid True", f"python {sys.prefix}",
                         "env ['PYTHONUNBUFFERED', 'WORKBENCH_ENTRIES', 'WORKBENCH_MODEL_PROCESS']", "no network"]
    assert not any(text.startswith("seen /etc/shadow") or "pyproject" in text for text in told)


@needs_box
def test_a_live_model_may_use_the_network(tmp_path: Path, port: int) -> None:
    heard = run(tmp_path / "m", f"""
import socket
socket.create_connection(("127.0.0.1", {port}), 2); print("connected")
""", network=True)
    assert heard.texts("stdout") == ["connected"]


def test_its_environment_is_not_on_the_list_of_processes(kept_apart: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(heard: Heard) -> bool:
        seen.extend(" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"]))
        return bool(heard.lines)

    heard = run(tmp_path / "m", "import os, time; print(os.environ['KEY']); time.sleep(60)", stopped=look,
                environment={"KEY": "secret-of-the-model"})
    assert heard.texts("stdout") == ["secret-of-the-model"]
    assert any("bot.py" in line for line in seen) and not any("secret-of-the-model" in line for line in seen)


def test_plans_are_found_by_name() -> None:
    assert plan_of("", live=True).name == "nano" and plan_of("slow", live=False).seconds
    with pytest.raises(Exception, match="plans are nano"):
        plan_of("huge", live=True)
