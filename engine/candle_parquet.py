"""How candles look in a Parquet file: columns, footer, partition by period, merging of two sets of bars."""

import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.candles import FIELDS, Candles
from engine.errors import Unavailable
from engine.model import Market
from engine.threads import at_once

if TYPE_CHECKING:
    import pyarrow as pa

_FOOTER: Final = b"workbench.candles"
_TAIL: Final = 16_384  # bytes at a file's end in which its footer is looked for
_JSON: Final = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteReport:
    """What a write did to bars (`added` are new, `kept` were there and stayed, `replaced` changed) and `files`."""

    added: int = 0
    kept: int = 0
    replaced: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Footer:
    """First and last bar (microseconds) and number of bars of a file, as of `stamp` (mtime ns, size, inode)."""

    stamp: tuple[int, int, int]
    first: int
    last: int
    rows: int


def read_footer(path: str, stamp: tuple[int, int, int]) -> Footer:
    """A file's footer, without its columns. Raises `FileNotFoundError`, `Unavailable` for a damaged file."""
    if noted := _noted(path):
        return Footer(stamp, noted["first"], noted["last"], noted["rows"])
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        noted = json.loads((metadata.metadata or {})[_FOOTER])
        return Footer(stamp, int(noted["first"]), int(noted["last"]), metadata.num_rows)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _noted(path: str) -> dict[str, int]:
    """What we noted in a file's footer, where it stands as plain text. The first look at a thousand files takes a tenth
    of the time that Arrow takes to read their footers whole. Empty when it is not found: Arrow says why."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != b"PAR1" or length + 8 > len(tail):
        return {}
    footer = tail[-8 - length : -8]
    key = footer.find(_FOOTER)
    at = footer.find(b"{", key, key + len(_FOOTER) + 8)  # Thrift's type and length stand between key and text
    if key < 0 or at < 0:
        return {}
    try:
        noted, _ = _JSON.raw_decode(footer[at:].decode("latin-1"))
    except ValueError:
        return {}
    return noted if all(isinstance(noted.get(name), int) for name in ("first", "last", "rows")) else {}


Chunks = dict[str, "pa.ChunkedArray"]
"""A file's columns by name, times as int64 microseconds, the rest float64, without nulls."""


def load(path: Path, market: Market, resolution: int) -> Candles:
    """One whole file as writable columns. Raises `FileNotFoundError`, `Unavailable` for a damaged file."""
    chunks = chunks_of(path)
    made = _Columns(len(chunks["time"]))
    made.put(0, chunks)
    return made.candles(market, resolution)


def load_all(files: Mapping[Path, int], market: Market, resolution: int) -> Candles:
    """Files in time order, each with its number of bars, as one; an extra column that a file lacks is NaN there.

    Every column is copied into its place as its file is read, so that nothing long is held twice. Raises as `load`
    does, and `FileNotFoundError` for a file that has not so many bars any more.
    """
    ends = list(itertools.accumulate(files.values()))
    made = _Columns(ends[-1] if ends else 0)

    def read(item: tuple[Path, int]) -> None:
        path, end = item
        chunks = chunks_of(path)
        if len(chunks["time"]) != files[path]:
            raise FileNotFoundError(path)
        made.put(end - files[path], chunks)

    at_once(read, zip(files, ends, strict=True), made.rows)
    return made.candles(market, resolution)


def chunks_of(path: Path) -> Chunks:
    """One whole file's columns as Arrow reads them. Raises as `load` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            table = file.read()
        found = {name: _checked(table.column(name)) for name in table.column_names}
        return {name: found.pop(name) for name in ("time", *FIELDS)} | found
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


class _Columns:
    """Columns of `rows` bars that several threads fill."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._lock = threading.Lock()
        self._columns = {name: np.empty(rows, np.int64 if name == "time" else np.float64) for name in ("time", *FIELDS)}

    def put(self, begin: int, chunks: Chunks) -> None:
        for name, column in chunks.items():
            with self._lock:
                if name not in self._columns:
                    self._columns[name] = np.full(self.rows, np.nan)
            at = begin
            for chunk in column.chunks:
                self._columns[name][at : at + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
                at += len(chunk)

    def candles(self, market: Market, resolution: int) -> Candles:
        columns = dict(self._columns)
        own = {name: columns.pop(name) for name in ("time", *FIELDS)}
        return Candles(market=market, resolution=resolution, **own, extra=dict(sorted(columns.items())))


def load_time(path: Path) -> np.ndarray:
    """The bars' times in one file, int64 microseconds. Raises as `load` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            return _checked(file.read(columns=["time"]).column("time")).to_numpy()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path | str, error: Exception) -> Unavailable:
    name = "/".join(Path(path).parts[-4:])
    return Unavailable(f"the candle file {name} cannot be read: {str(error)[:200]}",
                       remedy="restore it from a backup, or delete it and import its candles again")


def _checked(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """A column in the form that is worked with. Raises `ValueError` for nulls and for what is no number."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz=column.type.tz)).cast(pa.int64())
    if column.null_count:
        raise ValueError("a column holds nulls")
    return column if column.type in (pa.int64(), pa.float64()) else column.cast(pa.float64())


def _joined(parts: list[Candles]) -> Candles:
    """Two sets of a market's bars, one after the other; an extra column that one lacks is NaN there."""
    names = dict.fromkeys(name for part in parts for name in part.columns())
    columns = {name: np.concatenate([part.columns().get(name, np.full(len(part), np.nan)) for part in parts])
               for name in names}
    own = {name: columns.pop(name) for name in ("time", *FIELDS)}
    return Candles(market=parts[0].market, resolution=parts[0].resolution, **own, extra=columns)


def partition(candles: Candles) -> Iterator[tuple[str, Candles]]:
    """File name -> its bars, in time order."""
    if candles.resolution >= 86400:
        yield "all", candles
        return
    unit = "M" if candles.resolution < 3600 else "Y"
    period = candles.time.view("datetime64[us]").astype(f"datetime64[{unit}]").astype(np.int64)
    starts = np.concatenate(([0], np.flatnonzero(period[1:] != period[:-1]) + 1, [len(candles)]))
    for begin, stop in itertools.pairwise(starts):
        number = int(period[begin])
        name = f"{1970 + number // 12:04d}-{number % 12 + 1:02d}" if unit == "M" else f"{1970 + number:04d}"
        yield name, candles.take(slice(int(begin), int(stop)))


def merge(old: Candles | None, new: Candles, overwrite: bool) -> tuple[Candles, WriteReport]:
    """Both in time order. Where both have a bar, the old one stays, or the new one comes when `overwrite`."""
    if old is None or not len(old):
        return new, WriteReport(added=len(new))
    if new.time[0] > old.time[-1]:  # the usual case of a feed: append
        return _joined([old, new]), WriteReport(added=len(new))
    at = np.searchsorted(old.time, new.time)
    at_or_last = np.minimum(at, len(old) - 1)
    known = old.time[at_or_last] == new.time
    changed = np.zeros(len(new), bool)
    if overwrite:
        same = known.copy()
        for name, column in new.columns().items():
            before = old.columns().get(name)
            if before is None:
                same &= np.isnan(column)
            else:
                same &= (before[at_or_last] == column) | (np.isnan(column) & np.isnan(before[at_or_last]))
        changed = known & ~same
    added = int((~known).sum())
    report = WriteReport(added=added, kept=int((known & ~changed).sum()), replaced=int(changed.sum()))
    if not added and not report.replaced:
        return old, report
    stays = np.ones(len(old), bool)
    stays[at[changed]] = False
    both = _joined([old.take(stays), new.take(~known | changed)])
    return both.take(np.argsort(both.time, kind="stable")), report


def encode(candles: Candles) -> "pa.Buffer":
    """A Parquet file in memory, so that the disk sees plain writes whose failure is plain to see.

    Byte-stream split and delta encoding under LZ4: a third of the size and no slower to read than raw values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = candles.columns()
    arrays = {name: pa.array(column) for name, column in columns.items()}
    arrays["time"] = arrays["time"].view(pa.timestamp("us", tz="UTC"))
    noted = {"version": 1, "market": candles.market.key, "resolution": candles.resolution, "rows": len(candles),
             "first": int(candles.time[0]), "last": int(candles.time[-1])}
    table = pa.table(arrays).replace_schema_metadata({_FOOTER: json.dumps(noted)})
    sink = pa.BufferOutputStream()
    encoding = {name: "DELTA_BINARY_PACKED" if name == "time" else "BYTE_STREAM_SPLIT" for name in columns}
    pq.write_table(table, sink, compression="lz4", use_dictionary=False, column_encoding=encoding)
    return sink.getvalue()
