"""Many rows at once, past SQLAlchemy: `executemany` of SQLite's driver, COPY on PostgreSQL.

For the few tables into which bots push; everything else goes through SQLAlchemy. Values are what the driver takes:
text, numbers, None, booleans (JSON columns: their text).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table

from server.store.engines import driver

__all__ = ["find_rows", "insert_events", "insert_rows", "last_numbers", "upsert_rows"]

_FEW: Final = 8  # rows for which COPY costs more than it saves
_EVENTS_SQLITE: Final = "INSERT INTO events (stream, seq, type, at, data) VALUES (?, ?, ?, ?, ?)"
_COPY_EVENTS: Final = "COPY events (id, stream, seq, type, at, data) FROM STDIN"
_EVENT_IDS: Final = "SELECT nextval(pg_get_serial_sequence('events', 'id')) FROM generate_series(1, %s)"
_LAST_SQLITE: Final = "SELECT coalesce(max(seq), 0) FROM events WHERE stream = ?"
_LAST: Final = ("SELECT name, coalesce((SELECT max(seq) FROM events WHERE stream = name), 0) "
                "FROM unnest(%s::text[]) AS name")
_STATEMENTS: dict[tuple[str, str], str] = {}


def last_numbers(connection: Connection, streams: Collection[str]) -> dict[str, int]:
    """The number of the last event of each stream, 0 for one without."""
    raw = driver(connection)
    if connection.dialect.name == "sqlite":
        return {stream: raw.execute(_LAST_SQLITE, (stream,)).fetchone()[0] for stream in streams}
    with raw.cursor() as cursor:
        return dict(cursor.execute(_LAST, (list(streams),)).fetchall())


def insert_events(connection: Connection, rows: Sequence[tuple[str, int, str, int, str]]) -> list[int]:
    """Insert events (stream, seq, type, at, data) inside a write; their ids, rising, in the order of the rows."""
    raw = driver(connection)
    if connection.dialect.name == "sqlite":
        raw.executemany(_EVENTS_SQLITE, rows)
        last = raw.execute("SELECT last_insert_rowid()").fetchone()[0]
        return list(range(last - len(rows) + 1, last + 1))
    # The writer alone takes numbers, so they rise with the rows; COPY cannot give them back.
    with raw.cursor() as cursor:
        ids = sorted(row[0] for row in cursor.execute(_EVENT_IDS, (len(rows),)).fetchall())
        # JSON holds no control characters as such, only backslashes that COPY would take for its own.
        text = "".join([
            f"{id}\t{stream}\t{seq}\t{type}\t{at}\t" + data.replace("\\", "\\\\") + "\n"
            for id, (stream, seq, type, at, data) in zip(ids, rows, strict=True)])
        with cursor.copy(_COPY_EVENTS) as copy:
            copy.write(text)
    return ids


def find_rows(connection: Connection, table: Table, keys: Collection[tuple[str, ...]]) -> list[Sequence[Any]]:
    """The whole rows with these primary keys (texts), those that are there."""
    if not keys:
        return []
    raw = driver(connection)
    names = [f'"{column.name}"' for column in table.primary_key.columns]
    what = f'SELECT {", ".join(_names(table))} FROM "{table.name}" WHERE '
    if connection.dialect.name == "sqlite":
        one = what + " AND ".join(f"{name} = ?" for name in names)
        return [row for key in keys if (row := raw.execute(one, key).fetchone()) is not None]
    lists = ", ".join(["%s::text[]"] * len(names))
    with raw.cursor() as cursor:
        found = cursor.execute(f"{what}({', '.join(names)}) IN (SELECT * FROM unnest({lists}))",
                               [list(part) for part in zip(*keys, strict=True)])
        return list(found.fetchall())


def insert_rows(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert whole rows, in the order of the table's columns, that are not there yet."""
    if not rows:
        return
    raw = driver(connection)
    if connection.dialect.name == "sqlite":
        raw.executemany(_statement(table, "INSERT", "?"), rows)
        return
    with raw.cursor() as cursor:
        if len(rows) <= _FEW:
            cursor.executemany(_statement(table, "INSERT", "%s"), rows)
            return
        with cursor.copy(f'COPY "{table.name}" ({", ".join(_names(table))}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)


def upsert_rows(connection: Connection, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    """Insert whole rows, or put them in the place of those with the same key."""
    found = list(rows)
    if not found:
        return
    raw = driver(connection)
    if connection.dialect.name == "sqlite":
        raw.executemany(_statement(table, "UPSERT", "?"), found)
        return
    with raw.cursor() as cursor:
        cursor.executemany(_statement(table, "UPSERT", "%s"), found)


def _names(table: Table) -> list[str]:
    return [f'"{column.name}"' for column in table.columns]


def _statement(table: Table, kind: str, place: str) -> str:
    statement = _STATEMENTS.get((table.name, kind + place))
    if statement is None:
        names = _names(table)
        statement = (f'INSERT INTO "{table.name}" ({", ".join(names)}) '
                     f"VALUES ({', '.join([place] * len(names))})")
        if kind == "UPSERT":
            keys = [f'"{column.name}"' for column in table.primary_key.columns]
            changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
            statement += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
        _STATEMENTS[table.name, kind + place] = statement
    return statement
