"""pyproject.toml, requirements.lock and environment.yml say the same, and the lock names no place to fetch from."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(\[[^\]]*\])?==([^ ;\\]+)", re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    return {normal(name): pinned for name, _, pinned in PIN.findall((ROOT / "requirements.lock").read_text())}


def declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {normal(re.match(r"[A-Za-z0-9_.-]+", line)[0]): line for line in wanted}


def test_every_declared_package_is_locked_at_a_version_that_its_range_admits():
    from packaging.requirements import Requirement

    pins = locked()
    for name, line in declared().items():
        assert name in pins, f"{name} is declared but not locked: make lock"
        assert Requirement(line).specifier.contains(pins[name]), f"{line} does not admit {pins[name]}"


def test_every_locked_package_has_hashes_and_no_address_is_named():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(entries) > 100
    for entry in entries:
        assert "==" in entry and "--hash=sha256:" in entry, entry[:80]
    assert not re.search(r"https?://|file:|index-url|find-links", text)


def test_the_conda_environment_lists_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = environment["dependencies"][-1]["pip"]
    pins = {normal(name): pinned for name, _, pinned in (PIN.match(line).groups() for line in listed)}
    assert pins == {name: locked()[name] for name in declared()}
    assert "python=3.11" in environment["dependencies"]


def test_what_is_installed_is_what_is_locked():
    pins = locked()
    assert {name: version(name) for name in declared()} == {name: pins[name] for name in declared()}


def test_packages_of_the_given_stack_are_declared():
    given = {"jupyterlab", "panel", "holoviews", "bokeh", "tornado", "sqlalchemy", "vectorbt", "numpy", "nbval",
             "pytest"}
    assert given <= set(declared())


def test_the_makefile_installs_with_hashes():
    shown = subprocess.run(["make", "-n", "-W", "requirements.lock", "venv", f"PYTHON={sys.executable}"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout
    assert "--require-hashes -r requirements.lock" in shown
