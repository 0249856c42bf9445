"""What people copy runs as it stands."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.harness import running_server
from workbench import snippets

pytestmark = pytest.mark.anyio
ODD = """it's "odd" $HOME `x` \\ {0} %s é"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    async with running_server(tmp_path, rate_limit=0) as running:
        yield running


@pytest.mark.parametrize(("name", "program"), [
    ("curl", ["sh", "-e"]), ("Python", [sys.executable, "-"]), ("JavaScript", ["node", "-"])],
    ids=["curl", "Python", "JavaScript"])
async def test_it_runs_as_it_stands(server: Any, name: str, program: list[str]) -> None:
    if shutil.which("curl" if name == "curl" else program[0]) is None:
        pytest.skip(f"there is no {program[0]} here")
    activity = server.services.activity
    project = await activity.create_project("desk")
    model = await activity.create_model(project.id, "bot")
    _, api_key, key = await activity.create_key(project.id, model.id)
    text = snippets.SNIPPETS[name](server.url + "/", api_key, model.id, key)
    done = await anyio.run_process(program, input=text.encode(), check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = await activity.model(model.id)
    assert (found.message, found.running, found.orders) == ("Running", True, 1)
    order = await activity.order(model.id, "order-1")
    assert (order.symbol, order.side, order.size, order.price) == ("BTC-USD", "buy", 0.5, 50000.0)
    [line] = await server.services.events.page(f"model/{model.id}/log")
    assert line.data["line"] == f"hello from {name}"


def texts(program: str) -> set[object]:
    """The constants in a Python program."""
    return {node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)}


def test_every_text_survives_its_language() -> None:
    made = snippets.snippets(f"http://127.0.0.1:8888/{ODD}", ODD, ODD, ODD)
    assert list(made) == list(snippets.SNIPPETS)
    for name in ("Python", "blankly-slate 1.0", "blankly-slate 1.1", "blankly-slate 1.3 to 1.10"):
        assert ODD in texts(made[name])
    assert f"http://127.0.0.1:8888/{ODD}" in texts(made["Python"]) & texts(made[snippets.REDIRECT_FILE])
    blankly = "\n".join(line for line in made["blankly 1.16 to 1.18.23"].splitlines() if not line.startswith("#"))
    assert json.loads(blankly) == {"model_id": ODD, "api_key": ODD, "api_pass": ODD}
    if shutil.which("sh"):
        words = subprocess.run(["sh", "-c", "curl() { for word; do printf '%s\\n' \"$word\"; done; }\n" + made["curl"]],
                               capture_output=True, text=True, check=True).stdout.splitlines()
        assert f"api_pass: {ODD}" in words and f"model_id: {ODD}" in words


def test_the_redirecting_file_needs_only_what_the_kits_bring() -> None:
    names = {alias.name for node in ast.walk(ast.parse(snippets.redirect("http://x"))) if isinstance(node, ast.Import)
             for alias in node.names}
    assert names == {"os", "webbrowser", "requests"}
