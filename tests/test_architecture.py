"""Who may import whom, and how large a module may grow. Read with `ast`, so imports inside functions count too."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "server", "workbench")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path) for path in MODULES]
MOST_LINES = 450  # aim at 400
SHARED = {"base", "bodies", "guarded", "heads", "streams", "routes", "context", "encoding", "failures", "openapi",
          "page_text"}
FACES = {"panel", "bokeh", "holoviews", "param"}


def imports(path: str, *, top: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; `top`: only those that importing it imports."""
    for node in _nodes(_parsed(path), top):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def _nodes(node: ast.AST, top: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if top and (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or _only_for_types(child)):
            continue
        yield child
        yield from _nodes(child, top)


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def roots(path: str, *, top: bool = False) -> set[str]:
    return {name.partition(".")[0] for name in imports(path, top=top)}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 30
    assert "server" in roots("workbench/mount.py") and "sqlalchemy" in roots("server/store/tables/core.py")


@pytest.mark.parametrize("path", NAMES)
def test_layers(path: str) -> None:
    found = roots(path)
    assert not found & {"tests", "benchmarks"}
    if path.startswith("engine/"):
        assert not found & {"server", "workbench", "tornado", "sqlalchemy", "distributed", "httpx"}
    if path.startswith("server/"):
        assert "workbench" not in found
    if path.startswith("workbench/") and path != "workbench/mount.py":
        assert "server" not in found, "only workbench/mount.py may know the server"


@pytest.mark.parametrize("path", [path for path in NAMES if path.startswith("server/")])
def test_the_server_stays_light(path: str) -> None:
    found = roots(path)
    assert not found & (FACES | {"pandas", "vectorbt", "numba"})
    if "sqlalchemy" in found:
        assert path.startswith(("server/store/", "server/services/"))
    if found & {"distributed", "dask"}:
        assert path.startswith("server/pool")
        assert not roots(path, top=True) & {"distributed", "dask"}, "the pool imports it when it starts"
    if path.startswith("server/store/"):
        assert not any(name.startswith(("server.dialects", "server.services")) for name in imports(path))
    if path.startswith("server/services/"):
        assert not any(name.startswith("server.dialects") for name in imports(path))
    if path.startswith("server/exchanges/"):
        above = ("server.dialects", "server.services", "server.store")
        assert not any(name.startswith(above) for name in imports(path))
    heavy = {"ccxt", "cryptography"}
    if found & heavy:
        assert not roots(path, top=True) & heavy, "these take long to import: do it where they are used"
    if "ccxt" in found:
        assert path.startswith("server/exchanges/")


@pytest.mark.parametrize("path", [path for path in NAMES if path.startswith("server/dialects/")])
def test_dialects_know_services_and_not_each_other(path: str) -> None:
    own = Path(path).stem
    for name in imports(path):
        assert not name.startswith("server.store"), f"{name}: dialects talk to services"
        if name.startswith("server.dialects."):
            other = name.split(".")[2]
            family = own.partition("_")[0] == other.partition("_")[0]
            assert other in SHARED or (family and own not in SHARED), f"{own} imports {other}"
        elif name == "server.dialects":
            pytest.fail("import the module by its full name")


@pytest.mark.parametrize("path", [path for path in NAMES if path.startswith("engine/")])
def test_the_engine_draws_only_in_its_plots(path: str) -> None:
    found = roots(path)
    assert not found & {"panel", "param"}
    if found & FACES:
        assert path.startswith("engine/plots/") or not roots(path, top=True) & FACES
    assert "vectorbt" not in roots(path, top=True), "it takes seconds to import: do it inside functions"


@pytest.mark.parametrize("path", [path for path in NAMES if path.startswith("server/")])
def test_settings_are_read_in_one_place(path: str) -> None:
    if path == "server/config.py":
        return
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), f"{path}: read the environment in server/config.py"


@pytest.mark.parametrize("path", NAMES)
def test_modules_are_nouns_of_readable_size(path: str) -> None:
    assert not set(Path(path).stem.split("_")) & {"utils", "util", "helpers", "helper", "common", "misc"}
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= MOST_LINES, f"{path} has {lines} lines; split it by noun"
