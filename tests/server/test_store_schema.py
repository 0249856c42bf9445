"""The schema: made by the migrations, checked at every start."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from engine.errors import Invalid, Unavailable
from server.store import migrations, schema
from server.store.database import Database
from server.store.engines import database_url as parse_url
from server.store.tables import metadata

pytestmark = pytest.mark.anyio


@pytest.fixture
def database_url(bare_database_url: str) -> str:
    return bare_database_url


@pytest.fixture
def plain(database_url: str) -> Iterator[Connection]:
    """A plain connection to the same database, without any of the store's set-up."""
    engine = create_engine(parse_url(database_url))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def shape(connection: Connection) -> dict[str, Any]:
    """Everything the database knows of its tables, comparable."""
    inspector = inspect(connection)
    inspector.clear_cache()
    found: dict[str, Any] = {}
    for table in sorted(inspector.get_table_names()):
        if table == "alembic_version":
            continue
        found[table] = {
            "columns": [
                (column["name"], repr(column["type"]), column["nullable"], column["default"], column.get("identity"))
                for column in inspector.get_columns(table)
            ],
            "primary": inspector.get_pk_constraint(table),
            "foreign": inspector.get_foreign_keys(table),
            "indexes": [index | {"dialect_options": {name: str(value) for name, value in options.items()}}
                        for index in sorted(inspector.get_indexes(table), key=lambda index: index["name"] or "")
                        for options in [index.get("dialect_options", {})]],
            "unique": sorted(inspector.get_unique_constraints(table), key=lambda unique: unique["name"] or ""),
        }
    return found


async def test_the_migrations_make_the_tables_the_code_declares(database_url: str, plain: Connection) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    async with Database(database_url):
        pass
    assert compare_metadata(MigrationContext.configure(plain, opts={"compare_type": True}), metadata) == []
    migrated = shape(plain)
    metadata.drop_all(plain)
    metadata.create_all(plain)
    assert set(migrated) == set(metadata.tables)
    assert migrated == shape(plain)


async def test_the_list_of_revisions_is_that_of_the_files() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert tuple(revision.revision for revision in reversed(list(script.walk_revisions()))) == migrations.REVISIONS
    assert script.get_current_head() == migrations.HEAD


async def test_a_newer_database_is_refused_with_what_to_do(database_url: str, plain: Connection) -> None:
    async with Database(database_url):
        pass
    plain.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    plain.commit()
    with pytest.raises(Unavailable, match=r"9999.*newer version") as caught:
        await Database(database_url).open()
    assert "install the newer version" in caught.value.remedy
    with pytest.raises(Unavailable, match="9999"):
        schema.upgrade(database_url)


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("runs", sa.Column("colour", sa.Text, nullable=False, server_default="blue"))
"""


async def test_an_older_database_is_refused_until_it_is_upgraded(
        database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Today's database as a coming version, with one more revision, will meet it."""
    insert = text("INSERT INTO runs (id, kind, state, created_at, tags, markets, spec, metrics) "
                  "VALUES ('r', 'backtest', 'completed', 1, '[]', '[]', '{}', '{}')")
    async with Database(database_url) as database:
        await database.write(lambda connection: connection.execute(insert))
    scripts = tmp_path / "coming"
    shutil.copytree(Path(migrations.__file__).parent, scripts)
    (scripts / "versions" / "next.py").write_text(NEXT.format(head=migrations.HEAD))
    monkeypatch.setattr(schema, "_SCRIPTS", scripts)
    monkeypatch.setattr(schema, "REVISIONS", (*migrations.REVISIONS, "next"))
    monkeypatch.setattr(schema, "HEAD", "next")

    with pytest.raises(Unavailable, match=f"revision {migrations.HEAD}, this version needs next") as caught:
        await Database(database_url).open()
    assert "workbench db upgrade" in caught.value.remedy
    assert schema.upgrade(database_url) == (migrations.HEAD, "next")
    async with Database(database_url) as database:
        row = text("SELECT id, colour FROM runs")
        assert await database.read(lambda connection: connection.execute(row).all()) == [("r", "blue")]


async def test_upgrade_keeps_the_rows(database_url: str, plain: Connection) -> None:
    schema.upgrade(database_url)
    insert = text("INSERT INTO events (stream, seq, type, at, data) VALUES ('run/1', 1, 'log', 5, '{}')")
    plain.execute(insert)
    plain.commit()
    assert schema.upgrade(database_url) == (migrations.HEAD, migrations.HEAD)
    async with Database(database_url) as database:
        assert await database.read(lambda connection: connection.execute(
            text("SELECT stream, seq, at FROM events")).all()) == [("run/1", 1, 5)]


async def test_a_database_is_only_made_when_asked_to(database_url: str) -> None:
    with pytest.raises(Unavailable, match="no ") as caught:
        await Database(database_url).open(create=False)
    assert "workbench db upgrade" in caught.value.remedy
    schema.upgrade(database_url)
    database = Database(database_url)
    await database.open(create=False)
    await database.close()


async def test_tables_of_somebody_else_are_left_alone(database_url: str, plain: Connection) -> None:
    plain.execute(text("CREATE TABLE runs (whatever INTEGER)"))
    plain.commit()
    with pytest.raises(Unavailable, match="tables runs"):
        await Database(database_url).open()
    assert inspect(plain).get_table_names() == ["runs"]


async def test_a_failed_migration_leaves_nothing_behind(
        database_url: str, plain: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    def half(config: Any, _: str) -> None:
        config.attributes["connection"].execute(text("CREATE TABLE runs (id INTEGER)"))
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", half)
        with pytest.raises(RuntimeError, match="power cut"):
            schema.upgrade(database_url)
    assert inspect(plain).get_table_names() == []
    plain.rollback()
    async with Database(database_url):
        pass


STARTER = """
import asyncio, sys
from server.store.database import Database
from server.store.events import EventLog

async def main() -> None:
    async with Database(sys.argv[1]) as database:
        log = EventLog(database)
        await database.write(lambda connection: log.append(connection, "start", "log", {}))

sys.stdin.read(1)
asyncio.run(main())
"""


async def test_processes_that_start_together_on_a_new_database_all_come_up(database_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", STARTER, database_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    async with Database(database_url) as database:
        numbers = await database.read(lambda connection: connection.execute(
            text("SELECT seq FROM events ORDER BY id")).scalars().all())
    assert numbers == [1, 2, 3]


@pytest.mark.parametrize(("url", "words"), [
    ("nonsense", "not a database URL"),
    ("mysql://host/name", "mysql databases are not supported"),
    ("sqlite://", "must be a file"),
    ("sqlite:///:memory:", "must be a file"),
])
async def test_a_wrong_url_is_refused_with_the_right_forms(url: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        Database(url)
    assert caught.value.field == "database_url"
    assert "sqlite:///PATH" in caught.value.remedy


async def test_the_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "workbench.sqlite"
    async with Database(path):
        for file in path.parent.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


async def test_a_password_is_never_shown() -> None:
    assert "hunter2" not in repr(Database("postgresql://somebody:hunter2@localhost/name"))


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "workbench.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(Unavailable, match="not a SQLite database") as caught:
        await Database(path).open()
    assert "restore a backup" in caught.value.remedy
    assert path.read_bytes().startswith(b"not a database")


async def test_a_server_that_is_away_is_said_to_be() -> None:
    with pytest.raises(Unavailable, match="connection to the database was lost") as caught:
        await Database("postgresql://nobody@127.0.0.1:1/none").open()
    assert "PostgreSQL is running" in caught.value.remedy


async def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot make or open the database") as caught:
        await Database(tmp_path / "file" / "workbench.sqlite").open()
    assert "name another place" in caught.value.remedy


async def test_lists_of_runs_are_filled_for_the_runs_that_are_there_already(
        database_url: str, plain: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of revision 0005 with runs, as it comes to this version."""
    from alembic import command

    with monkeypatch.context() as patch:
        whole = command.upgrade
        patch.setattr(command, "upgrade", lambda config, _: whole(config, "0005"))
        schema.upgrade(database_url)
    assert "run_figures" not in inspect(plain).get_table_names()
    plain.execute(text(
        "INSERT INTO runs (id, kind, state, created_at, name, notes, strategy, tags, markets, spec, metrics) VALUES "
        "('A', 'backtest', 'completed', 1, 'Night RUN', 'long', 'macd', '[\"t\"]', '[\"demo:A/USD\"]', '{}', "
        "'{\"sharpe\": 1.5, \"trades\": 3, \"beta\": null, \"said\": \"x\"}'), "
        "('B', 'backtest', 'queued', 2, '', '', '', '[]', '[]', '{}', '{}')"))
    plain.commit()
    schema.upgrade(database_url)
    figures = text("SELECT run_id, key, value FROM run_figures ORDER BY run_id, key")
    labels = text("SELECT run_id, text, markets, tags FROM run_labels ORDER BY run_id")
    assert plain.execute(figures).all() == [("A", "sharpe", 1.5), ("A", "trades", 3.0)]
    assert [tuple(row) for row in plain.execute(labels)] == [
        ("A", "a\x1fnight run\x1flong\x1fmacd\x1f[\"demo:a/usd\"]\x1f[\"t\"]", '["demo:A/USD"]', '["t"]'),
        ("B", "b\x1f\x1f\x1f\x1f[]\x1f[]", "[]", "[]")]
    plain.rollback()
    # From here on the database keeps them in step.
    plain.execute(text("UPDATE runs SET metrics = '{\"sharpe\": 2}', name = 'Noon', tags = '[\"u\"]' WHERE id = 'A'"))
    plain.execute(text("UPDATE runs SET state = 'failed' WHERE id = 'A'"))
    assert plain.execute(figures).all() == [("A", "sharpe", 2.0)]
    assert plain.execute(labels).first()[1:] == ("a\x1fnoon\x1flong\x1fmacd\x1f[\"demo:a/usd\"]\x1f[\"u\"]",
                                                 '["demo:A/USD"]', '["u"]')
    plain.rollback()
