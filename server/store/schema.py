"""The revision of a database's tables: checked at every start, made or brought up to date by alembic."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from engine.errors import Unavailable
from server.store.engines import database_url, make_engine, safe_text, touch
from server.store.failures import unavailable
from server.store.migrations import HEAD, REVISIONS

__all__ = ["prepare", "revision", "upgrade"]

_SCRIPTS: Final = Path(__file__).parent / "migrations"


def revision(connection: Connection) -> str | None:
    """The revision of the tables in the database; None when there are none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def prepare(url: URL, *, create: bool = True) -> None:
    """See that the tables are those of this version; make them in a new database when `create`.

    Several processes may start at once: whoever holds the write lock makes the tables, the others find them.
    Raises `Unavailable` with the command to type when the tables are older, newer, missing or somebody else's.
    """
    if url.get_backend_name() == "sqlite":
        if create:
            touch(url)
        elif not Path(url.database or "").exists():
            raise Unavailable(f"there is no database {url.database}", remedy="make it with: workbench db upgrade")
    _in_transaction(url, lambda connection: _prepare(connection, create))


def upgrade(url: str | URL | Path) -> tuple[str | None, str]:
    """Bring a database to this version's tables (or make them); returns the revisions before and after."""
    url = url if isinstance(url, URL) else database_url(url)
    if url.get_backend_name() == "sqlite":
        touch(url)
    before: list[str | None] = []

    def work(connection: Connection) -> None:
        before.append(revision(connection))
        if before[-1] is not None and before[-1] not in REVISIONS:
            raise _newer(before[-1])
        _migrate(connection)

    _in_transaction(url, work)
    return before[-1], HEAD


def _prepare(connection: Connection, create: bool) -> None:
    found = revision(connection)
    if found == HEAD:
        return
    if found is None:
        if not create:
            raise Unavailable("the database has no tables yet", remedy="make them with: workbench db upgrade")
        _migrate(connection)
    elif found in REVISIONS:
        raise Unavailable(f"the database has revision {found}, this version needs {HEAD}",
                          remedy="back it up, then bring it up to date with: workbench db upgrade")
    else:
        raise _newer(found)


def _newer(found: str) -> Unavailable:
    return Unavailable(f"the database has revision {found}, made by a newer version (this one knows {HEAD})",
                       remedy="install the newer version of workbench, or name another database")


def _migrate(connection: Connection) -> None:
    from alembic import command  # loaded only when there is something to do: it costs a tenth of a second
    from alembic.config import Config

    from server.store.tables import metadata

    if revision(connection) is None:
        ours = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
        if ours:
            raise Unavailable(f"the database has tables {', '.join(ours)} that workbench did not make",
                              remedy="name a database of its own")
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _in_transaction(url: URL, work: Callable[[Connection], None]) -> None:
    """Run `work` while no other process can look at or change the tables."""
    engine = make_engine(url, writing=True, size=1, patience=30.0)
    try:
        for attempt in range(100):
            try:
                with engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                # SQLite does not wait for a lock while a fresh file is being switched to WAL: ask again.
                if attempt < 99 and getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                    time.sleep(0.05)
                    continue
                problem = unavailable(error)
                if problem is None:
                    raise
                problem.message = f"{safe_text(url)}: {problem.message}"
                raise problem from error
    finally:
        engine.dispose()
