"""History files as Gekko writes them, and such as it does not."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.candle_files import import_file
from engine.candle_store import CandleStore
from engine.errors import Invalid, NotFound
from engine.gekko_history import COLUMNS, read_history
from engine.model import Market
from workbench.__main__ import main

M = 1_514_764_800
TABLE = ('CREATE TABLE "{}" (id INTEGER PRIMARY KEY AUTOINCREMENT, start INTEGER UNIQUE, open REAL NOT NULL, high REAL '
         "NOT NULL, low REAL NOT NULL, close REAL NOT NULL, vwp REAL NOT NULL, volume REAL NOT NULL, "
         "trades INTEGER NOT NULL)")


def rows(count: int, first: float = 10.0) -> list[tuple[Any, ...]]:
    return [(M + 60 * number, first + number, first + number + 2, first + number - 1, first + number + 1,
             first + number + 0.5, 3.25, number % 4) for number in range(count)]


def history(path: Path, tables: dict[str, list[tuple[Any, ...]]], *, wal: bool = False) -> Path:
    connection = sqlite3.connect(path)
    if wal:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    for name, content in tables.items():
        connection.execute(TABLE.format(name))
        connection.executemany(f'INSERT OR IGNORE INTO "{name}" ({", ".join(COLUMNS)}) VALUES (?,?,?,?,?,?,?,?)',
                               content)
    connection.commit()
    if not wal:
        connection.close()
    return path


def test_every_table_becomes_a_market(tmp_path: Path) -> None:
    path = history(tmp_path / "poloniex_0.1.db", {"candles_USDT_BTC": rows(500), "candles_BTC_ETH": rows(3, 0.05),
                                                   "candles_USDT_XRP": []})
    done = import_file(path, data_dir=tmp_path / "data")
    assert [(each.market, each.resolution, each.rows, each.added) for each in done] == [
        ("poloniex:BTC/USDT", "1m", 500, 500), ("poloniex:ETH/BTC", "1m", 3, 3)]
    found = CandleStore(tmp_path / "data" / "candles").read(Market("poloniex", "BTC", "USDT"), 60)
    columns = np.array(rows(500)).T
    for name, column in zip(COLUMNS[1:], columns[1:], strict=True):
        assert np.array_equal(found.columns()[name], column), name
    assert np.array_equal(found.time, columns[0].astype(np.int64) * 10**6)
    again = import_file(path, data_dir=tmp_path / "data", exchange="mine", asset="btc", currency="usdt")
    assert [each.market for each in again] == ["mine:BTC/USDT"]
    with pytest.raises(NotFound, match=r"no candles of LTC.*BTC/USDT, ETH/BTC"):
        import_file(path, data_dir=tmp_path / "data", asset="LTC")


def test_what_stands_in_the_journal_is_read_too_and_nothing_is_changed(tmp_path: Path) -> None:
    path = history(tmp_path / "kraken_0.1.db", {"candles_EUR_XBT": rows(50)}, wal=True)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert f"{path.name}-wal" in before
    (candles,) = read_history(path)
    assert (candles.market.key, len(candles)) == ("kraken:XBT/EUR", 50)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("tables", "name", "said"), [
    ({"other": []}, "x_0.1.db", "no table of candles"), ({"candles_USDT_BTC": []}, "x_0.1.db", "are empty"),
    ({"candles_USDT_BTC": [(M, 1, 1, 1, "abc", 1, 1, 1)]}, "x_0.1.db", "row 1 of the table candles_USDT_BTC: 'abc'"),
    ({"candles_USDT_BTC": [(M + 1, 1, 1, 1, 1, 1, 1, 1)]}, "x_0.1.db", "not the start of a minute"),
    ({"candles_USDT_BTC": rows(1)}, "nothing.db", "of which exchange")], ids=lambda value: str(value)[:20])
def test_a_file_that_is_no_history_is_refused_with_the_place(tmp_path: Path, tables: Any, name: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        import_file(history(tmp_path / name, tables), data_dir=tmp_path / "data")
    assert not (tmp_path / "data" / "candles").exists()


def test_a_damaged_file_and_a_foreign_table_are_refused(tmp_path: Path) -> None:
    path = history(tmp_path / "x_0.1.db", {"candles_USDT_BTC": rows(2000)})
    content = bytearray(path.read_bytes())
    content[4096 * 2:] = b"\xff" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    with pytest.raises(Invalid, match="damaged"):
        import_file(path, data_dir=tmp_path / "data")
    connection = sqlite3.connect(tmp_path / "y_0.1.db")
    connection.execute("CREATE TABLE candles_USDT_BTC (start INTEGER, open REAL)")
    connection.commit()
    connection.close()
    with pytest.raises(Invalid, match="no column high"):
        import_file(tmp_path / "y_0.1.db", data_dir=tmp_path / "data")


def test_the_command_needs_no_exchange_for_a_history_and_one_for_all_else(tmp_path: Path,
                                                                          capsys: pytest.CaptureFixture[str]) -> None:
    path = history(tmp_path / "binance_0.1.db", {"candles_USDT_BTC": rows(10)})
    assert main(["import", str(path), "--data-dir", str(tmp_path / "data")]) == 0
    assert "binance:BTC/USDT 1m: 10 bars from 2018-01-01" in capsys.readouterr().out
    (tmp_path / "a.csv").write_text("start,open,high,low,close,volume\n1514764800,1,1,1,1,1\n")
    assert main(["import", str(tmp_path / "a.csv"), "--data-dir", str(tmp_path / "data")]) == 2
    assert "give --exchange" in capsys.readouterr().err
