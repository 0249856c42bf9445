"""Many rows at once, past SQLAlchemy: statements of many rows, COPY on PostgreSQL.

For the few tables into which bots push; everything else goes through SQLAlchemy. Values are what the driver takes:
text, numbers, None, booleans (JSON columns: their text).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, Table

from server.store.engines import driver

__all__ = ["find_rows", "insert_events", "insert_rows", "last_numbers", "update_row", "upsert_rows"]

_FEW: Final = 8  # rows for which COPY costs more than it saves
# Rows of one statement. SQLite's driver lets go of the interpreter, and must get hold of it again, once a statement:
# `executemany` does so for every row. Few sizes, so that the prepared statements are used again.
_SIZES: Final = (512, 64, 8, 1)
_VALUES: Final = 32_000  # of one statement; SQLite takes 32,766, PostgreSQL twice as many
_EVENT: Final = ("stream", "seq", "type", "at", "data")
_COPY_EVENTS: Final = f"COPY events (id, {', '.join(_EVENT)}) FROM STDIN"
# All ids at once: asking for each takes PostgreSQL as long as it takes to read the row.
_TAKE_IDS: Final = ("SELECT setval(ids, nextval(ids) + %s - 1) "
                    "FROM CAST(pg_get_serial_sequence('events', 'id') AS regclass) AS ids")
_LAST_SQLITE: Final = "SELECT coalesce(max(seq), 0) FROM events WHERE stream = ?"
_LAST: Final = ("SELECT name, coalesce((SELECT max(seq) FROM events WHERE stream = name), 0) "
                "FROM unnest(%s::text[]) AS name")


def last_numbers(connection: Connection, streams: Collection[str]) -> dict[str, int]:
    """The number of the last event of each stream, 0 for one without."""
    raw = driver(connection)
    if connection.dialect.name == "sqlite":
        return {stream: raw.execute(_LAST_SQLITE, (stream,)).fetchone()[0] for stream in streams}
    with raw.cursor() as cursor:
        return dict(cursor.execute(_LAST, (list(streams),)).fetchall())


def insert_events(connection: Connection, rows: Sequence[tuple[str, int, str, int, str]]) -> range:
    """Insert events (stream, seq, type, at, data) inside a write; their ids, in the order of the rows."""
    raw = driver(connection)
    if connection.dialect.name == "sqlite":
        _in_statements(raw.execute, "events", _EVENT, (), rows)
        last = raw.execute("SELECT last_insert_rowid()").fetchone()[0]
    else:
        with raw.cursor() as cursor:
            last = cursor.execute(_TAKE_IDS, (len(rows),)).fetchone()[0]
            # JSON holds no control characters as such, only backslashes that COPY would take for its own.
            text = "".join([f"{id}\t{stream}\t{seq}\t{type}\t{at}\t{data}\n"
                            for id, (stream, seq, type, at, data) in enumerate(rows, last - len(rows) + 1)])
            with cursor.copy(_COPY_EVENTS) as copy:
                copy.write(text.replace("\\", "\\\\"))
    return range(last - len(rows) + 1, last + 1)  # the writer alone takes numbers, so there are no others in between


def find_rows(connection: Connection, table: Table, keys: Collection[tuple[str, ...]]) -> list[Sequence[Any]]:
    """The whole rows with these primary keys (texts), those that are there."""
    if not keys:
        return []
    raw = driver(connection)
    names = [f'"{column.name}"' for column in table.primary_key.columns]
    if connection.dialect.name == "sqlite":
        found: list[Sequence[Any]] = []
        for size, part in _parts(list(keys), len(names)):
            found += raw.execute(_look_up(table, size), list(chain.from_iterable(part))).fetchall()
        return found
    lists = ", ".join(["%s::text[]"] * len(names))
    with raw.cursor() as cursor:
        return list(cursor.execute(
            f'SELECT {", ".join(_names(table))} FROM "{table.name}" WHERE ({", ".join(names)}) IN '
            f"(SELECT * FROM unnest({lists}))", [list(part) for part in zip(*keys, strict=True)]).fetchall())


def insert_rows(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert whole rows, in the order of the table's columns, that are not there yet."""
    if connection.dialect.name == "sqlite" or len(rows) <= _FEW:
        _put(connection, table, rows, ())
        return
    with driver(connection).cursor() as cursor, cursor.copy(
            f'COPY "{table.name}" ({", ".join(_names(table))}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row(row)


def update_row(connection: Connection, table: Table, id: str, values: Mapping[str, Any]) -> None:
    """Change these columns of the row with this `id`."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    driver(connection).execute(_change(table, tuple(values), mark), (*values.values(), id))


def upsert_rows(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert whole rows, each with a key of its own, or put them in the place of those with the same key."""
    _put(connection, table, rows, tuple(column.name for column in table.primary_key.columns))


def _put(connection: Connection, table: Table, rows: Sequence[Sequence[Any]], keys: tuple[str, ...]) -> None:
    raw = driver(connection)
    columns = tuple(column.name for column in table.columns)
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _in_statements(raw.execute, table.name, columns, keys, rows)
        return
    from psycopg import RawCursor  # takes $1 as it is: rewriting long statements takes longer than all else

    with RawCursor(raw) as cursor:
        _in_statements(cursor.execute, table.name, columns, keys, rows, "$")


def _names(table: Table) -> list[str]:
    return [f'"{column.name}"' for column in table.columns]


def _in_statements(execute: Callable[..., Any], table: str, columns: tuple[str, ...], keys: tuple[str, ...],
                   rows: Sequence[Sequence[Any]], sign: str = "?") -> None:
    """Insert rows, as many in a statement as go; with `keys`, in the place of those that have the same. sign: what
    stands before the numbers of the driver's parameters."""
    for size, part in _parts(rows, len(columns)):
        execute(_statement(table, columns, keys, size, sign), list(chain.from_iterable(part)))


def _parts(rows: Sequence[Sequence[Any]], width: int) -> Iterator[tuple[int, Sequence[Sequence[Any]]]]:
    """Rows of `width` values in parts of the sizes that statements have."""
    begin = 0
    for size in _SIZES:
        while size * width <= _VALUES and len(rows) - begin >= size:
            yield size, rows[begin:begin + size]
            begin += size


@cache
def _statement(table: str, columns: tuple[str, ...], keys: tuple[str, ...], size: int, sign: str) -> str:
    names, width = [f'"{name}"' for name in columns], len(columns)
    rows = [f"({', '.join(f'{sign}{number}' for number in range(first, first + width))})"
            for first in range(1, size * width + 1, width)]
    statement = f'INSERT INTO "{table}" ({", ".join(names)}) VALUES {", ".join(rows)}'
    if keys:
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in columns if name not in keys)
        statement += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    return statement


@cache
def _change(table: Table, columns: tuple[str, ...], mark: str) -> str:
    changes = ", ".join(f'"{name}" = {mark}' for name in columns)
    return f'UPDATE "{table.name}" SET {changes} WHERE id = {mark}'


@cache
def _look_up(table: Table, size: int) -> str:
    """SQLite's way to find rows by their keys, which stand on the left, so that each is looked up."""
    keys = [f'"{column.name}"' for column in table.primary_key.columns]
    row = f"({', '.join('?' * len(keys))})"
    same = " AND ".join(f"column{number} = {name}" for number, name in enumerate(keys, 1))
    return (f'SELECT {", ".join(_names(table))} FROM (VALUES {", ".join([row] * size)}) '
            f'CROSS JOIN "{table.name}" ON {same}')
