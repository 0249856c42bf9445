"""Models deployed by the clients to a real server: folders, files, classes of a notebook; run, watched, backtested."""

import io
import json
import linecache
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from engine import archive
from engine.errors import Invalid, NotFound, TooLarge
from tests.harness import ServerProcess, wait_until
from workbench.model_source import script_of
from workbench.packing import packed

STEP = 0.05
GREETING = "hello"


def settle(price: float) -> float:
    """What a class below needs from around it."""
    import math

    return math.floor(price * 100) / 100


class Ticker:
    """Counts, live; doubles its money in a backtest."""

    def run(self) -> None:
        import time

        print(f"{GREETING} from {type(self).__name__}", flush=True)
        while True:
            time.sleep(STEP)

    def backtest(self, days: int = 10, factor: float = 2.0) -> dict[str, Any]:
        start = 1_700_000_000
        values = [{"time": start + 86400 * day, "value": settle(1000 * (1 + (factor - 1) * day / (days - 1)))}
                  for day in range(days)]
        trades = [{"symbol": "COIN-USD", "side": "buy", "size": 1.0, "price": 500.0, "time": start + 86400},
                  {"symbol": "COIN-USD", "side": "sell", "size": 1.0, "price": 900.0, "time": start + 86400 * 3}]
        print("counted", days, "days")
        return {"symbols": ["COIN-USD"], "quote_asset": "USD", "account_values": values, "trades": trades,
                "metrics": {"luck": {"value": 7, "display_name": "Luck"}}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[wb.Client]:
    with ServerProcess(data_dir=tmp_path_factory.mktemp("deploy") / "data", compute=False) as server, \
            wb.connect(server.url, server.token) as client:
        yield client


def lines(model: Any) -> list[str]:
    return list(model.logs()["line"])


def files_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as found:
        return {name.removeprefix("model/"): found.read(name) for name in found.namelist()}


# -- packing


def test_a_folder_is_packed_without_what_is_no_part_of_it(tmp_path: Path) -> None:
    for name, text in {"bot.py": "print(1)", "data/prices.csv": "1,2", "notes/draft.md": "x", "notes/deep/more.md": "x",
                       ".git/objects/ab/cd": "x", "sub/.git/config": "x", "__pycache__/bot.cpython-311.pyc": "x",
                       "lib/old.pyc": "x", "env/pyvenv.cfg": "home", "env/bin/python": "x", "lib/x.py": "pass",
                       "lib/env/pyvenv.cfg": "", "lib/env/y.py": "", "a.log": "", "lib/b.log": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "blankly.json").write_text(json.dumps({"ignore_files": ["./notes", "*.log"]}))
    with packed(tmp_path) as made:
        assert set(files_of(made.path)) == {"bot.py", "data/prices.csv", "lib/x.py", "blankly.json"}
        assert made.name == tmp_path.name
        assert archive.inspect(made.path).main_script == "bot.py"
        where = made.path
    assert not where.exists()


def test_what_cannot_be_packed_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="no file or folder"), packed(tmp_path / "nothing"):
        pass
    with pytest.raises(Invalid, match="is empty"), packed(tmp_path):
        pass
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(Invalid, match="neither a zip nor a Python file"), packed(tmp_path / "picture.png"):
        pass
    with pytest.raises(Invalid, match="which script to run"), packed(tmp_path):
        pass
    (tmp_path / "bot.py").write_text("print(1)")
    with pytest.raises(Invalid, match="requirements are for"), packed(tmp_path, requirements=["numpy"]):
        pass
    os.symlink("/etc/hostname", tmp_path / "link")
    with pytest.raises(Invalid, match="link to somewhere else"), packed(tmp_path):
        pass
    (tmp_path / "link").unlink()
    (tmp_path / "blankly.json").write_text("{")
    with pytest.raises(Invalid, match="cannot be read"), packed(tmp_path):
        pass
    (tmp_path / "blankly.json").write_text("{}")
    monkeypatch.setattr(archive.Limits.__init__, "__kwdefaults__", {**archive.Limits.__init__.__kwdefaults__,
                                                                   "size": 3})
    with pytest.raises(TooLarge, match="too large"), packed(tmp_path):
        pass


def in_a_cell(text: str, name: str = "Model", number: list[int] = [0]) -> Any:  # noqa: B006  # cells are counted
    """What a definition is in a notebook: its source is known to linecache under the name of a cell."""
    number[0] += 1
    file = f"<cell-{number[0]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), space)
    return space[name]


def test_a_class_becomes_a_script_with_what_it_needs() -> None:
    name, script = script_of(Ticker)
    assert name == "Ticker"
    assert "STEP = 0.05" in script and "GREETING = 'hello'" in script and "def settle(" in script
    assert script.index("def settle(") < script.index("class Ticker")
    assert "from typing import Any" in script and "import pytest" not in script
    compile(script, "bot.py", "exec")


def test_a_cell_of_a_notebook_is_read_where_it_was_typed() -> None:
    model = in_a_cell("import json as j, math\nfrom pathlib import Path\nRATES = {'a': [1, 2.5]}\nclass Base:\n"
                      "    level = 3\nclass Model(Base):\n    '''Said.'''\n    def run(self):\n"
                      "        print(j.dumps(RATES), math.pi, Path('.'), self.level)\n")
    _, script = script_of(model)
    assert script.startswith("from pathlib import Path\nimport json as j\nimport math\n")
    assert "RATES = {'a': [1, 2.5]}" in script and script.index("class Base") < script.index("class Model")


def test_classes_that_were_decorated_are_read_whole() -> None:
    model = in_a_cell("from dataclasses import dataclass\nfrom functools import cache\n@dataclass(frozen=True)\n"
                      "class Rule:\n    level: float = 1.5\n@cache\ndef level():\n    return Rule().level\n"
                      "class Model:\n    @staticmethod\n    def run():\n        print(level())\n")
    with pytest.raises(Invalid, match="uses 'level'"):  # what a decorator made is no function
        script_of(model)
    model = in_a_cell("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Rule:\n"
                      "    level: float = 1.5\nclass Model:\n    @staticmethod\n    def run():\n"
                      "        print(Rule().level)\n")
    assert "@dataclass(frozen=True)\nclass Rule:" in script_of(model)[1]


@pytest.mark.parametrize(("text", "said"), [
    pytest.param("class Model:\n    pass\n    def other(self): pass\n", "neither run", id="nothing-to-run"),
    pytest.param("class Model:\n    def backtest(self): pass\n", "no run", id="backtest-only"),
    pytest.param("class Model:\n    def __init__(self, a): pass\n    def run(self): pass\n", "without arguments",
                 id="arguments"),
    pytest.param("class Model:\n    def run(self): print(nowhere)\n", "not defined", id="unknown-name"),
    pytest.param("import threading\nlock = threading.Lock()\ndef Model():\n    return lock\n", "cannot be put",
                 id="value"),
    pytest.param("import httpx\ndef Model():\n    return httpx\n", "'httpx', which must be installed", id="package"),
    pytest.param("def Model():\n    import httpx\n", "'httpx', which must be installed", id="package-inside"),
    pytest.param("from tests import harness\ndef Model():\n    return harness\n", "of your own", id="own-module"),
    pytest.param("async def Model():\n    pass\n", "coroutine", id="coroutine"),
    pytest.param("Model = lambda: 1\n", "lambda", id="lambda"),
    pytest.param("Model = 5\n", "neither a path nor a class", id="number"),
])
def test_what_cannot_become_a_script_says_why(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        script_of(in_a_cell(text))
    assert caught.value.problems[0].remedy


def test_a_class_without_source_says_so() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("class Model:\n    def run(self): pass\n", "<typed>", "exec"), space)
    with pytest.raises(Invalid, match="source of Model cannot be had"):
        script_of(space["Model"])


# -- against a server


def test_a_class_is_deployed_watched_backtested_and_stopped(client: wb.Client) -> None:
    model = client.deploy(Ticker, description="the first", plan="nano")
    wait_until(lambda: lines(model) == ["hello from Ticker"], 60)
    standing = wait_until(lambda: (found := model.deployment()).usage and found, 30)
    assert standing.deployment.state == "running" and standing.usage["memory"] > 2**20
    assert client.deployments().loc[model.id, "state"] == "running"
    run = model.backtest({"days": 5, "factor": 3.0}, description="tripled", progress=False)
    assert run.state == "completed" and run.equity["value"].iloc[-1] == 3000.0
    assert run.metrics["total_return"] == pytest.approx(2.0)
    assert run.summary["extra"]["reported by the model"] == {"Luck": 7}
    assert len(run.roundtrips) == 1 and run.roundtrips["pnl"].iloc[0] == 400.0
    assert "counted 5 days" in [event.data.get("message") for event in run.events()]
    assert "runs/" not in repr(run) and run.report() is not None
    assert model.stop().state == "stopped"
    assert model.data.running is False
    again = client.deploy(Ticker, run=False)
    assert again.id == model.id and list(client.versions(model.id).index) == [2, 1]


def test_a_function_is_a_model_too(client: wb.Client) -> None:
    greet = in_a_cell("import os\nTARGET = 'the world'\ndef greet(target=TARGET):\n    print('good day,', target)\n"
                      "    return {'account_values': [{'time': 1700000000 + 86400 * day, 'value': 100 + day}"
                      " for day in range(3)]}\n", "greet")
    model = client.deploy(greet, name="a greeter")
    wait_until(lambda: lines(model) == ["good day, the world"], 60)
    wait_until(lambda: model.deployment().deployment.state == "completed")
    run = model.backtest({"target": "you"}, progress=False)
    assert "good day, you" in [event.data.get("message") for event in run.events()]
    assert run.metrics["final_value"] == 102.0
    with pytest.raises(wb.RunFailed, match="nonsense"):
        model.backtest({"nonsense": 1}, progress=False)


def test_a_zip_and_a_file_are_versions_that_differ(client: wb.Client, tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "bot.py").write_text("print('one')")
    (folder / "keys.json").write_text('{"secret": "s-1"}')
    first = client.deploy(folder, run=False, description="one")
    assert first.data.name == "grid"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("model/bot.py", "print('two')")
        made.writestr("model/extra.txt", "more")
    (tmp_path / "other.zip").write_bytes(buffer.getvalue())
    assert client.deploy(tmp_path / "other.zip", model=first.id, run=False).id == first.id
    table = client.versions(first.id)
    assert list(table["description"]) == ["", "one"] and list(table["files"]) == [2, 2]
    ask = client.asynchronous
    old, new = table.loc[1, "id"], table.loc[2, "id"]
    assert client._loop.call(ask.version_difference(first.id, old, new)) == {
        "added": ["extra.txt"], "removed": ["keys.json"], "changed": ["bot.py"], "from": old, "to": new}
    told = client._loop.call(ask.version(first.id, old))
    assert {each["path"]: each["secret"] for each in told.contents} == {"bot.py": False, "keys.json": True}
    assert client._loop.call(ask.version_file(first.id, old, "bot.py")) == "print('one')"
    with pytest.raises(Invalid, match="secrets"):
        client._loop.call(ask.version_file(first.id, old, "keys.json"))
    kept = client.download_version(first.id, old, tmp_path / "again.zip")
    assert files_of(kept)["bot.py"] == b"print('one')" and kept.stat().st_mode & 0o77 == 0
    assert {"nano", "large"} <= set(client.plans().loc["live"].index)


def test_what_is_refused_leaves_no_model_behind(client: wb.Client, tmp_path: Path) -> None:
    script = tmp_path / "lonely.py"
    script.write_text("print(1)")
    with pytest.raises(Invalid, match="no plan 'huge'"):
        client.deploy(script, plan="huge")
    with pytest.raises(Invalid, match="schedule"):
        client.deploy(script, schedule="whenever")
    assert "lonely" not in set(client.models()["name"])
    with pytest.raises(NotFound):
        client.deploy(script, model="nobody")
    quiet = client.create_model("quiet")
    with pytest.raises(NotFound, match="no version"):
        quiet.run()
    with pytest.raises(NotFound, match="not deployed"):
        quiet.deployment()
