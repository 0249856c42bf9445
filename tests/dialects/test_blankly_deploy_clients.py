"""Blankly's own programs, unchanged but for the address they send to, upload models to a real server process."""

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blankly_clients import FOLDER, ROOT, MissingClientError, python_of
from tests.harness import ServerProcess, wait_until

TIMEOUT = 300.0
UP = "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"
BACKTEST = """
from blankly_external import Reporter
class Strategy:
    def __init__(self): Reporter.export_strategy(self)
    def backtest(self, **args):
        assert args["to"] == "1y"
        Reporter.export_backtest_result({
            "symbols": ["BTC-USD"], "quote_asset": "USD", "start_time": 1600000000, "stop_time": 1600864000,
            "account_values": [{"time": 1600000000 + n * 86400, "value": 1000.0 + 10 * n} for n in range(10)],
            "trades": [], "metrics": {}, "indicators": {}})
Strategy()
"""
# What a program runs in: its address, a browser that signs in as a person would, and no way out of this machine.
START = '''
import sys, threading, urllib.parse, urllib.request, webbrowser
URL, TOKEN = {url!r}, {token!r}
import requests
_request = requests.Session.request
def request(self, method, url, *args, **kwargs):
    if url.startswith("https://firebasestorage.googleapis.com/"):
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"signed in"
        return answer
    assert url.startswith(URL), url
    return _request(self, method, url, *args, **kwargs)
requests.Session.request = request
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args): return None
def sign_in(page):
    form = urllib.parse.urlencode({{"token": TOKEN}}).encode()
    try:
        urllib.request.build_opener(Stay).open(page, form, timeout=60)
    except urllib.error.HTTPError as answer:
        listener = answer.headers["Location"]
    for _ in range(200):
        try:
            urllib.request.build_opener(Stay).open(listener, timeout=60).read()
        except urllib.error.HTTPError:
            return  # it leads to a page elsewhere
        except OSError:
            threading.Event().wait(0.05)
        else:
            return
def open_new(url, *args, **kwargs):
    print("opened", url, flush=True)
    if "/auth/signin" in url:
        path = url.replace("https://app.blankly.finance", URL)
        threading.Thread(target=sign_in, args=(path,), daemon=True).start()
    return True
webbrowser.open = webbrowser.open_new = open_new
import {package}.api as api
api.blankly_deployment_url = URL
'''


class Desk:
    """A server, and what it knows."""

    def __init__(self, server: ServerProcess) -> None:
        self.server, self.url = server, server.url
        self._client = httpx.Client(base_url=server.url + "/workbench/api", headers=server.headers, timeout=60)
        self.token = self.ask("POST", "/tokens", json={"name": "laptop", "scopes": ["deploy"]})["token"]

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._client.request(method, path, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def state(self, model: str) -> str:
        return str(self.ask("GET", f"/models/{model}/deployment")["state"])

    def lines(self, model: str) -> list[str]:
        return [event["line"] for event in self.ask("GET", f"/models/{model}/logs", params={"limit": 500})["items"]]

    def finished(self, model: str) -> Any:
        """The model's backtest, once it has ended."""
        def ended() -> Any:
            runs = self.ask("GET", "/runs", params={"strategy": model, "kind": "backtest"})["items"]
            return runs[0] if runs and runs[0]["state"] in ("completed", "failed", "cancelled") else None

        return wait_until(ended, 60)

    def versions(self, model: str) -> list[Any]:
        return list(self.ask("GET", f"/models/{model}/versions")["items"])

    def stop(self, model: str) -> None:
        assert self._client.delete(f"/models/{model}/deployment").status_code == 200

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with ServerProcess("--rate-limit", "0", "--api-only", compute=False) as server:
        made = Desk(server)
        yield made
        made.close()


@pytest.fixture
def listener() -> Iterator[None]:
    """The one port that programs listen on while they log in."""
    with (FOLDER / ".listener").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Program:
    """A client's own interpreter and home."""

    def __init__(self, desk: Desk, client: str, folder: Path, package: str = "blankly.deployment") -> None:
        try:
            self.python = python_of(client)
        except MissingClientError as error:
            pytest.skip(str(error))
        self.folder, self.home = folder / "bot", folder / "home"
        self.folder.mkdir()
        (self.home / "tmp").mkdir(parents=True)
        self.start = START.format(url=desk.url, token=desk.token, package=package)
        inherited = {name: value for name, value in os.environ.items()
                     if not name.startswith(("PYTHON", "WORKBENCH_"))}
        self.env = {**inherited, "HOME": str(self.home), "TMPDIR": str(self.home / "tmp"), "TERM": "xterm",
                    "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}

    def write(self, script: str = UP, **manifest: Any) -> None:
        """What `init` makes."""
        (self.folder / "bot.py").write_text(script)
        (self.folder / "requirements.txt").write_text("")
        for name in ("keys.json", "settings.json", "backtest.json"):
            (self.folder / name).write_text("{}")
        (self.folder / "blankly.json").write_text(json.dumps({
            "main_script": "./bot.py", "python_version": "3.11", "requirements": "./requirements.txt",
            "working_directory": ".", "ignore_files": ["price_caches"], "backtest_args": {"to": "1y"}, **manifest}))

    @property
    def manifest(self) -> Any:
        return json.loads((self.folder / "blankly.json").read_text())

    def run(self, program: str, answers: str = "") -> str:
        """What a program prints, its questions answered from a pipe."""
        done = subprocess.run([str(self.python), "-c", self.start + program], cwd=self.folder, env=self.env,
                              input=answers, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def cli(self, module: str, *words: str) -> str:
        return f"from {module} import main\nsys.argv = ['program', *{list(words)!r}]\nmain()\n"

    def talk(self, program: str, answers: Sequence[tuple[str, str]]) -> str:
        """What a program prints on a terminal; each answer is typed when its question has come."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen([str(self.python), "-c", self.start + program], cwd=self.folder, env=self.env,
                                   stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        said, since, left = "", 0, list(answers)
        until = time.monotonic() + TIMEOUT
        try:
            while time.monotonic() < until:
                if select.select([ours], [], [], 0.1)[0]:
                    try:
                        said += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(ours, 65536).decode(errors="replace"))
                    except OSError:  # it has gone
                        break
                if left and left[0][0] in said[since:]:
                    question, answer = left.pop(0)
                    since = said.index(question, since) + len(question)
                    os.write(ours, answer.encode() + b"\r")
            assert process.wait(60) == 0 and not left, said
        finally:
            os.close(ours)
            if process.poll() is None:
                process.kill()
                process.wait()
        return said


# -- blankly 1.18.23: the last one with login and deploy


def test_login_and_deploy_on_a_terminal(desk: Desk, tmp_path: Path, listener: None) -> None:
    program = Program(desk, "blankly-1.18.23b0", tmp_path)
    said = program.talk(program.cli("blankly.deployment.new_cli", "login"), [])
    assert "opened https://app.blankly.finance/auth/signin?redirectUrl=/deploy" in said and "Logged in" in said
    kept = json.loads((program.home / ".local/share/blankly/auth.json").read_text())
    assert kept == {"token": desk.token}
    assert "already logged in" in program.talk(program.cli("blankly.deployment.new_cli", "login"), [])

    program.write(type="strategy")
    said = program.talk(program.cli("blankly.deployment.new_cli", "deploy"), [
        ("Select a plan", ""), ("create a new model", ""), ("Model name?", ""), ("Model description?", "buys low"),
        ("What team", ""), ("Enter a description for this version", "first try")])
    assert "Created model" in said and "Model uploaded" in said
    model = program.manifest["model_id"]
    assert program.manifest["plan"] == "nano" and program.manifest["api_key"] == program.manifest["project_id"]
    found = desk.ask("GET", f"/models/{model}")
    assert (found["name"], found["description"], found["kind"]) == ("bot", "buys low", "strategy")
    wait_until(lambda: "up" in desk.lines(model), 60)

    (program.folder / "bot.py").write_text("print('second')")
    said = program.talk(program.cli("blankly.deployment.new_cli", "deploy"), [
        ("Enter a description for this version", "better")])
    assert "Model uploaded" in said
    assert [each["description"] for each in desk.versions(model)] == ["better", "first try"]
    wait_until(lambda: desk.state(model) == "completed", 60)
    assert "second" in desk.lines(model)
    assert "Logged out" in program.talk(program.cli("blankly.deployment.new_cli", "logout"), [])


def test_a_refused_upload_is_told_in_words(desk: Desk, tmp_path: Path) -> None:
    program = Program(desk, "blankly-1.18.23b0", tmp_path)
    auth = program.home / ".local/share/blankly/auth.json"
    auth.parent.mkdir(parents=True)
    auth.write_text(json.dumps({"token": desk.token}))
    program.write(type="strategy", plan="gigantic", model_id="x", project_id="y", api_key="k", api_pass="p")
    said = program.talk(program.cli("blankly.deployment.new_cli", "deploy"), [("Enter a description", "v")])
    assert "This modelId was not found under this project" in said


# -- every call of the API class


CALLS = '''
import json
client = api.API(TOKEN)
assert client.user_id and client.get_status()["status"]
own = client.list_projects()[0]
assert own["projectId"] == client.user_id, own
made = client.create_project("of {name}", "for tests")
assert made["status"] == "success" and made["projectId"], made
assert client.get_plans("live")["nano"]["cpu"] and client.get_plans("backtesting")["slow"]["ram"]
'''
NEWER = CALLS + '''
assert [team["id"] for team in client.list_teams() if team["id"] == made["projectId"]]
assert client.generate_keys(client.user_id, "keys").keys() == {{"apiKey", "apiPass"}}
assert client.get_starter_models() == []
model = client.create_model(made["projectId"], "strategy", "m", "")
assert [one["modelId"] for one in client.list_models(made["projectId"])] == [model["id"]]
assert [one for one in client.list_all_models() if one.get("team") and one["id"] == model["id"]]
details = client.get_details(made["projectId"], model["id"])
assert details["exists"] and details["id"] == model["id"], details
from blankly.deployment.deploy import zip_dir
path = zip_dir(".", ["price_caches"])
done = client.deploy(path, model["id"], "v1", "3.11", "strategy", "nano", project_id=made["projectId"])
assert done["status"] == "success" and done["timestamp"] and done["versionId"], done
screener = client.create_model(None, "screener", "s", "")
wrong = client.deploy(path, screener["id"], "v1", "3.11", "screener", "nano")
assert wrong["error"] == "Missing required argument: schedule (send it)", wrong
right = client.deploy(path, screener["id"], "v1", "3.11", "screener", "nano", schedule="0 3 1 1 *")
assert right["status"] == "success", right
tested = client.backtest(path, model["id"], {{"to": "1y"}}, "slow", "strategy", "3.11", "why")
assert tested["status"] == "success" and tested["versionId"], tested
again = client.backtest_deployed(model["id"], {{"to": "1y"}}, done["versionId"], "again")
assert again["status"] == "success", again
print("RESULT", json.dumps([model["id"], screener["id"]]))
'''
OLDER = CALLS + '''
import uuid
from blankly.deployment.cli import zip_dir
path = zip_dir({{"path": "."}}, {{"ignore_files": ["price_caches"]}})
id = str(uuid.uuid4())
done = client.deploy(path, "nano", made["projectId"], id, "buys low", "v1", "Old", True, 3.11)
assert done["status"] == "success" and done["modelId"] == id and done["projectId"] == made["projectId"], done
assert client.get_details(id)["exists"]
tested = client.backtest(path, made["projectId"], id, {{"to": "1y"}}, "slow", False, "Old", 3.11, "why")
assert tested["status"] == "success" and tested["projectId"], tested
again = client.backtest_deployed(made["projectId"], id, {{"to": "1y"}}, done["versionId"], "again")
assert again["status"] == "success", again
print("RESULT", json.dumps([id]))
'''


@pytest.mark.parametrize(("client", "calls"), [
    ("blankly-1.15.0b0", OLDER), ("blankly-1.18.23b0", NEWER), ("blankly-1.18.25b0", NEWER)],
    ids=["1.15.0", "1.18.23", "1.18.25"])
def test_every_call_of_the_api_class(desk: Desk, tmp_path: Path, client: str, calls: str) -> None:
    program = Program(desk, client, tmp_path)
    program.write(BACKTEST)
    said = program.run(calls.format(name=client))
    model, *_ = json.loads(said.split("RESULT ", 1)[1])
    run = desk.finished(model)
    assert run["state"] == "completed" and run["metrics"]["total_return"] == pytest.approx(0.09), run
    assert len(desk.versions(model)) == 2
    assert "Invalid Response" not in said and "Unauthorized" not in said


def test_a_wrong_token_is_understood(desk: Desk, tmp_path: Path) -> None:
    program = Program(desk, "blankly-1.18.25b0", tmp_path)
    said = program.run("try:\n    api.API('wrong')\nexcept KeyError as error:\n    print('SAID', error)\n")
    assert "Failed to authenticate" in said and "Invalid Response" not in said


# -- the older command lines, their questions answered from a pipe


def test_the_command_line_of_1_15(desk: Desk, tmp_path: Path, listener: None) -> None:
    program = Program(desk, "blankly-1.15.0b0", tmp_path)
    main = "blankly.deployment.cli"
    assert "Login success" in program.run(program.cli(main, "login"))
    assert "Created first" in program.run(program.cli(main, "create"), "first\nfor tests\n\n")
    listed = program.run(program.cli(main, "list"))
    assert "first" in listed and "for tests" in listed
    program.write(BACKTEST)
    said = program.run(program.cli(main, "deploy", "."), "0\nOld timer\nbuys low\n0\nv1\n")
    assert "Model upload completed" in said and f"Model ID:\t{program.manifest['model_id']}" in said
    model = program.manifest["model_id"]
    assert desk.ask("GET", f"/models/{model}")["name"] == "Old timer"
    assert "Backtest upload completed" in program.run(program.cli(main, "backtest", "."), "0\nwhy\n")
    assert desk.finished(model)["state"] == "completed"


def test_the_older_command_line_of_1_18_25(desk: Desk, tmp_path: Path, listener: None) -> None:
    program = Program(desk, "blankly-1.18.25b0", tmp_path)
    main = "blankly.deployment.cli"
    program.run(program.cli(main, "login"))
    program.write(BACKTEST, api_key="k", api_pass="p")  # without these it calls what it does not have
    said = program.run(program.cli(main, "deploy", "."), "0\nOld and new\nbuys low\n0\n0\nv1\n")
    assert "Model upload completed" in said and "/overview" in said
    named = re.search(r"Model ID:\s+(\w+)", said)
    assert named, said
    model = named[1]
    program.write(BACKTEST, api_key="k", api_pass="p", type="strategy", model_id=model, model_name="x")  # nor kept
    assert "completed at" in program.run(program.cli(main, "backtest", "."), "0\nwhy\n")
    assert desk.finished(model)["state"] == "completed"


# -- slate


def test_slate_makes_and_deploys_a_model(desk: Desk, tmp_path: Path, listener: None) -> None:
    program = Program(desk, "slate-1.10.6b0", tmp_path, "slate.cli")
    said = program.talk(program.cli("slate.cli", "login"), [])
    assert "Logged in" in said
    said = program.talk(program.cli("slate.cli", "init"), [
        ("create a new model", ""), ("Model name?", "slated"), ("Model description?", ""), ("What team", "")])
    assert "Your model was created" in said
    keys = json.loads((program.folder / "slate.json").read_text())
    model = keys["model_id"]
    (program.folder / "requirements.txt").write_text("")  # it names another package than its own
    said = program.talk(program.cli("slate.cli", "deploy"), [
        ("Select a plan", ""), ("Enter a description for this version", "first")])
    assert "Model uploaded" in said
    wait_until(lambda: "Hello, World!" in desk.lines(model), 60)
    headers = {name: keys[name] for name in ("api_key", "api_pass", "model_id")}
    sent = httpx.post(desk.url + "/v1/live/log", headers=headers, json={"line": "from afar", "type": "stdout"})
    assert sent.status_code == 200 and "from afar" in desk.lines(model)


@pytest.mark.parametrize("client", ["slate-1.0.0b0", "slate-1.1.0b0", "slate-1.10.6b0"])
def test_slate_inside_a_deployed_model_reports_here(desk: Desk, tmp_path: Path, client: str) -> None:
    try:
        python = python_of(client)
    except MissingClientError as error:
        pytest.skip(str(error))
    project = desk.ask("POST", "/projects", json={"name": client})["id"]
    model = desk.ask("POST", "/models", json={"project": project, "name": client})["id"]
    key = desk.ask("POST", f"/models/{model}/keys", json={"name": client})["token"]
    script = tmp_path / "bot.py"
    script.write_text("from slate import Slate\nbot = Slate()\nbot.live.log('from inside', 'stdout')\n"
                      "bot.live.spot_market('BTC-USD', 'demo', 'o1', 'buy', size=1)\n")
    given = {"SLATE_MODEL_ID": model, "SLATE_API_KEY": project, "SLATE_PROJECT_ID": project, "SLATE_API_PASS": key,
             "SLATE_TOKEN": key, "URL_MODEL_EVENTS_API": desk.url, "PYTHONPATH": str(ROOT / "engine" / "model_child"),
             "WORKBENCH_JOB": json.dumps({"kind": "live", "model": str(tmp_path), "work": str(tmp_path),
                                          "script": "bot.py"})}
    done = subprocess.run([str(python), str(ROOT / "engine/model_child/model_main.py")], env={**_plain(), **given},
                          capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    assert [order["id"] for order in desk.ask("GET", f"/models/{model}/orders")["items"]] == ["o1"]
    assert "from inside" in desk.lines(model)


def _plain() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WORKBENCH_"))}
