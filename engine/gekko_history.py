"""Gekko's own history files: SQLite, one file for each exchange (`binance_0.1.db`), a table `candles_USDT_BTC` for each
market, with start (seconds), open, high, low, close, vwp, volume and trades of every minute."""

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine import times
from engine.candles import Candles
from engine.errors import Invalid, NotFound
from engine.model import Market

__all__ = ["is_history", "read_history"]

MAGIC: Final = b"SQLite format 3\x00"
COLUMNS: Final = ("start", "open", "high", "low", "close", "vwp", "volume", "trades")
_TABLE: Final = re.compile(r"candles_([A-Za-z0-9.^=-]+)_([A-Za-z0-9._^=-]+)")
_ROWS: Final = 100_000


def is_history(path: Path) -> bool:
    """Whether a file is SQLite's; False when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_history(path: Path, *, exchange: str | None = None, asset: str | None = None,
                 currency: str | None = None) -> Iterator[Candles]:
    """The candles of every market in the file, or of those with this asset and currency (in any case), one after
    another. The exchange is that of the file's name unless given.

    Raises `Invalid` for a file that is no history, naming table, row and column; `NotFound` for a market it lacks.
    """
    name = exchange or path.name.partition("_")[0].lower()
    if not exchange and "_" not in path.name:
        raise Invalid(f"{path.name} does not say of which exchange it is", field="exchange", remedy="give --exchange")
    with _opened(path) as connection:
        tables = _tables(connection, path)
        wanted = [(table, cur, ass) for table, cur, ass in tables
                  if (asset is None or ass.casefold() == asset.casefold())
                  and (currency is None or cur.casefold() == currency.casefold())]
        if not wanted:
            there = ", ".join(f"{ass}/{cur}" for _, cur, ass in tables[:20])
            raise NotFound(f"{path.name} has no candles of {asset or 'anything'}/{currency or 'anything'}",
                           field="asset", remedy=f"it has {there}")
        found = 0
        for table, cur, ass in wanted:
            candles = _candles(connection, path, table, Market(name, ass, cur))
            found += len(candles)
            if len(candles):
                yield candles
        if not found:
            raise Invalid(f"the tables of {path.name} are empty", field="file", remedy="import something else")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, for reading only. Beside a journal that Gekko left it is read as a copy: nothing of it is changed."""
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        beside = path.with_name(path.name + "-wal")
        flags = "mode=ro&immutable=1"
        if beside.exists() and beside.stat().st_size:
            for each in (path, beside):
                shutil.copy(each, folder)
            path, flags = Path(folder) / path.name, "mode=rw"
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?{flags}", uri=True)
        except sqlite3.Error as error:
            raise Invalid(f"{path.name} cannot be opened: {error}", field="file") from None
        try:
            yield connection
        except sqlite3.Error as error:
            raise Invalid(f"{path.name} is damaged, or no history of Gekko's: {error}", field="file",
                          remedy="repair it: sqlite3 FILE .recover") from None
        finally:
            connection.close()


def _tables(connection: sqlite3.Connection, path: Path) -> list[tuple[str, str, str]]:
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")]
    found = [(name, match[1], match[2]) for name in names if (match := _TABLE.fullmatch(name))]
    if not found:
        raise Invalid(f"{path.name} has no table of candles, such as candles_USDT_BTC", field="file",
                      remedy="give a file from the folder history of a Gekko")
    return found


def _candles(connection: sqlite3.Connection, path: Path, table: str, market: Market) -> Candles:
    there = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
    if lacking := [name for name in COLUMNS if name not in there]:
        raise Invalid(f"the table {table} of {path.name} has no column {lacking[0]}", field=lacking[0],
                      remedy="it must have " + ", ".join(COLUMNS))
    cursor = connection.execute(f'SELECT {", ".join(COLUMNS)} FROM "{table}" ORDER BY start')
    parts: list[np.ndarray] = []
    while rows := cursor.fetchmany(_ROWS):
        parts.append(_figures(rows, sum(map(len, parts)), table))
    figures = np.concatenate(parts) if parts else np.empty((0, len(COLUMNS)))
    columns: dict[str, Any] = dict(zip(COLUMNS, np.ascontiguousarray(figures.T), strict=True))
    start = columns.pop("start")
    extra = {name: columns.pop(name) for name in ("vwp", "trades")}
    return Candles(market=market, resolution=60, time=start.astype(np.int64) * times.SECOND, extra=extra, **columns)


def _figures(rows: list[tuple[Any, ...]], before: int, table: str) -> np.ndarray:
    try:
        found = np.array(rows, np.float64)
    except (TypeError, ValueError):
        found = None
    if found is not None and np.isfinite(found).all() and (found[:, 0] % 60 == 0).all():
        return found
    for number, row in enumerate(rows, before + 1):
        for name, value in zip(COLUMNS, row, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise Invalid(f"row {number} of the table {table}: {value!r} is not a number"[:200], field=name)
        if row[0] % 60:
            raise Invalid(f"row {number} of the table {table}: {row[0]} is not the start of a minute", field="start")
    raise Invalid(f"the table {table} cannot be read", field="file")
