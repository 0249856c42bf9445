"""What the documents say is true: settings, commands, links, protocols, the changelog's form."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine import __version__
from server import config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def test_the_settings_table_is_the_settings():
    assert config.table() in README, "put the output of server.config.table() into README.md"


def test_every_linked_file_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_every_make_target_named_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"run", "test", "bench", "check"} <= named <= targets


def shell_lines() -> list[str]:
    lines = [line for language, block in BLOCKS if not language for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip()]


def test_the_shell_blocks_name_only_known_programs():
    assert {line.split()[0] for line in shell_lines()} <= {"make", "workbench", "curl"}


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("workbench ")])
def test_every_workbench_command_shown_is_understood(line: str):
    words = shlex.split(line)[1:]
    if "--help" in words:
        words = ["--help"]
    code = "import sys; from workbench.__main__ import parser; parser().parse_args(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_python_block_uses_what_the_client_has():
    from workbench.runs import Run, Sweep
    from workbench.sync import Client

    block = next(block for language, block in BLOCKS if language == "python")
    compile(block, "README.md", "exec")
    for owner, names in ((Client, re.findall(r"client\.(\w+)\(", block)), (Run, re.findall(r"\brun\.(\w+)", block)),
                         (Sweep, ["heatmap"])):
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n") and "keepachangelog.com" in text
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_is_the_same_everywhere():
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_tidy(path: Path):
    """Checked cells carry their output, others none; no error is stored; the first cell says what it is."""
    book = json.loads(path.read_text())
    assert book["cells"][0]["cell_type"] == "markdown" and "".join(book["cells"][0]["source"]).startswith("# ")
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert bool(cell["outputs"]) == ("NBVAL_CHECK_OUTPUT" in "".join(cell["source"]))
            assert all(output["output_type"] != "error" for output in cell["outputs"])
    assert path.stat().st_size < 200_000


def test_no_text_of_the_project_names_a_place_on_some_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert listed
    private = re.compile("|".join(("/work" + "/main", "/work" + "/shared", "/root" + "/", "/tmp" + "/brief",
                                   "files.python" + "hosted", "py" + "pi.org")))
    found = []
    for name in listed:
        path = ROOT / name
        if path.suffix not in (".png", ".gz", ".parquet", ".arrow") and path.is_file():
            found += [f"{name}: {match[0]}" for match in [private.search(path.read_text(errors="ignore"))] if match]
    assert not found
