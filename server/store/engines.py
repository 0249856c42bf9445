"""Connections: the URL forms, one engine for reading and one for writing, and how each database is set up."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from engine.errors import Invalid, Unavailable
from server.store.encoding import decode, encode
from server.store.words import FUNCTION, small

__all__ = ["LOCK", "database_url", "driver", "make_engine", "safe_text", "touch"]

LOCK: Final = 7_164_925_011_330_917  # our key among PostgreSQL's advisory locks
_SCHEMES: Final = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg", "sqlite": "sqlite+pysqlite"}
_REMEDY: Final = "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"


def database_url(text: str | Path) -> URL:
    """The URL of a database; a path means a SQLite file. Raises `Invalid` naming `database_url`."""
    if isinstance(text, Path):
        return URL.create("sqlite+pysqlite", database=str(text.resolve()))
    try:
        url = make_url(text)
    except ArgumentError:
        raise Invalid("this is not a database URL", field="database_url", remedy=_REMEDY) from None
    driver = _SCHEMES.get(url.drivername, url.drivername)
    if driver not in _SCHEMES.values():
        raise Invalid(f"{url.drivername} databases are not supported", field="database_url", remedy=_REMEDY)
    if driver == "sqlite+pysqlite":
        if url.database in (None, "", ":memory:") or url.query:
            raise Invalid("a SQLite database must be a file", field="database_url", remedy=_REMEDY)
        url = url.set(database=str(Path(url.database).expanduser().resolve()))
    return url.set(drivername=driver)


def safe_text(url: URL) -> str:
    """The URL without its password, for logs and messages."""
    return url.render_as_string(hide_password=True)


def make_engine(url: URL, *, writing: bool, size: int, synchronous: str = "FULL", patience: float = 5.0) -> Engine:
    """An engine whose transactions are snapshots (reading) or hold the one write lock from the start (writing).

    SQLite begins a write with BEGIN IMMEDIATE; PostgreSQL takes an advisory lock that ends with the transaction. So
    writes of all processes on one database happen one after another: numbers given inside have no holes, commit order
    is number order, and a read inside a write cannot be overtaken.
    """
    common: dict[str, Any] = {
        "pool_size": size, "max_overflow": 0, "pool_timeout": 30,
        "json_serializer": encode, "json_deserializer": decode, "query_cache_size": 500,
    }
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, connect_args={"isolation_level": None, "check_same_thread": False, "timeout": patience}, **common,
        )
        event.listen(engine, "connect", _sqlite_set_up(writing, synchronous))
        event.listen(engine, "begin", _begin_with("BEGIN IMMEDIATE" if writing else "BEGIN"))
        return engine
    options: dict[str, Any] = {"options": "-c timezone=UTC", "connect_timeout": 10, "application_name": "workbench"}
    if writing:
        # Whoever holds the lock commits within milliseconds; if not, tell rather than wait for ever.
        options["options"] += f" -c lock_timeout={int(max(patience, 10) * 1000)}"
        engine = create_engine(url, isolation_level="READ COMMITTED", connect_args=options, **common)
        event.listen(engine, "begin", _begin_with(f"SELECT pg_advisory_xact_lock({LOCK})"))
        return engine
    return create_engine(url, isolation_level="REPEATABLE READ", connect_args=options,
                         execution_options={"postgresql_readonly": True}, **common)


def driver(connection: Connection) -> Any:
    """The driver's own connection below SQLAlchemy's, for the few statements that every request needs."""
    return connection.connection.dbapi_connection


def touch(url: URL) -> None:
    """Make the file of a SQLite database if it is missing, readable by its owner only: it holds token hashes.

    Raises `Unavailable` when it cannot be made.
    """
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise Unavailable(f"cannot make or open the database {path}: {error.strerror}",
                          remedy="give the server's user the right to write there, or name another place") from error


def _begin_with(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _sqlite_set_up(writing: bool, synchronous: str) -> Callable[[Any, Any], None]:
    def set_up(connection: Any, _record: Any) -> None:
        for pragma in (f"synchronous={synchronous}", "foreign_keys=ON", "temp_store=MEMORY", "cache_size=-16000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function(FUNCTION, 1, small, deterministic=True)
        if writing:
            # Once set, WAL stays with the file. Only a fresh file is changed, and that one under nobody's eyes.
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA journal_size_limit=67108864")
            # Copying the journal back stops the writing for as long as the disk takes; 32 MB of it is read as quickly.
            connection.execute("PRAGMA wal_autocheckpoint=8000")
        else:
            connection.execute("PRAGMA query_only=ON")

    return set_up

