"""Candles out of files and request bodies: CSV, Parquet, Arrow and JSON; and the import of a file into a data folder.

    csv      delimited text (comma, semicolon, tab, |), with or without header
    parquet  Apache Parquet
    arrow    Arrow IPC, stream or file
    json     {"time": [...], "open": [...], ...} or the same under "columns", or a list of row objects or row lists

Column names are those of `engine.candle_columns.ALIASES`; naive times are UTC. Everything is read or nothing.
"""

import gzip
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import times
from engine.candle_columns import (
    EXTRAS,
    REQUIRED,
    Target,
    adjust,
    assemble,
    choose_format,
    detect,
    micros_of_numbers,
    micros_of_text,
)
from engine.candle_csv import Columns, read_csv
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid, NotFound, Problem, TooLarge
from engine.gekko_history import is_history, read_history

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS: Final = 100_000_000
MAX_BYTES: Final = 16 << 30
FORMATS: Final = ("csv", "parquet", "arrow", "json")
_ENDINGS: Final[Mapping[str, str]] = {
    ".csv": "csv", ".txt": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow",
    ".arrows": "arrow", ".ipc": "arrow", ".feather": "arrow", ".json": "json",
}
_MOST_PROBLEMS: Final = 20
_TIME_REMEDY: Final = "use ISO 8601 or seconds since 1970"
_ROW_LIST: Final = ("time", "open", "high", "low", "close", "volume")


class NotJson(Invalid):
    """What should be JSON is not, or breaks off."""

    code = "malformed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What an import did for one market: bars in the file, first and last (microseconds), and how they merged."""

    market: str
    resolution: str
    rows: int
    first: int
    last: int
    added: int
    kept: int
    replaced: int


def import_file(path: Path | str, *, data_dir: Path | str, exchange: str | None = None, asset: str | None = None,
                currency: str | None = None, resolution: str | int | None = None, overwrite: bool = False,
                adjusted: bool = False, time_format: str | None = None) -> list[Imported]:
    """Read a file of candles and merge it into `data_dir`/candles, as `workbench import` does.

    Needs no server and does not disturb one that runs on the same folder. A table with a symbol column fills one
    market a symbol unless `asset` picks one; a history file of Gekko's one for each of its tables, and its name says
    the exchange. `adjusted` multiplies prices by adjusted close / close. `resolution` is inferred from the times unless
    given. Raises `NotFound` for a missing file, `Invalid` with line and column for a faulty one (then nothing is
    stored, of a history what came before), `Unavailable` when the disk is full.
    """
    store = CandleStore(Path(data_dir) / "candles")
    done = []
    found: Iterable[Candles]
    if is_history(Path(path)):
        found = read_history(Path(path), exchange=exchange, asset=asset, currency=currency)
    elif not exchange:
        raise Invalid("the exchange is missing", field="exchange", remedy="give --exchange")
    else:
        found = read_file(path, Target(exchange=exchange, asset=asset, currency=currency), resolution=resolution,
                          adjusted=adjusted, time_format=time_format)
    for candles in found:
        report = store.write(candles, overwrite=overwrite)
        done.append(Imported(
            market=candles.market.key, resolution=times.resolution_name(candles.resolution), rows=len(candles),
            first=int(candles.time[0]), last=int(candles.time[-1]),
            added=report.added, kept=report.kept, replaced=report.replaced,
        ))
    return done


def read_file(path: Path | str, target: Target, *, resolution: str | int | None = None, adjusted: bool = False,
              time_format: str | None = None, max_rows: int = MAX_ROWS) -> list[Candles]:
    """The candles of a file, its format known by its ending or first bytes; `.gz` around it is accepted."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            data: Any = gzip.GzipFile(fileobj=file).read(MAX_BYTES + 1) if head.startswith(b"\x1f\x8b") else file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no file {path}", field="file", remedy="check the path") from None
    except IsADirectoryError:
        raise Invalid(f"{path} is a folder", field="file", remedy="name one file") from None
    except PermissionError:
        raise Invalid(f"{path} may not be read", field="file", remedy="check its permissions") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise Invalid(f"{path.name} is a damaged gzip file: {error}", field="file") from None
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{path.name} is too large unpacked", field="file", remedy="split it")
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    return read_bytes(data, _ENDINGS.get(ending, ""), target, resolution=resolution, adjusted=adjusted,
                      time_format=time_format, max_rows=max_rows)


def read_bytes(data: bytes, form: str, target: Target, *, resolution: str | int | None = None, adjusted: bool = False,
               time_format: str | None = None, max_rows: int = MAX_ROWS) -> list[Candles]:
    """The candles of a file's content. `form` is one of `FORMATS`; the first bytes of Parquet and Arrow overrule it.

    Raises `Invalid` naming line or row, column, what was found and the remedy; `TooLarge` over `max_rows`.
    """
    seconds = None if resolution is None else times.resolution(resolution)
    if data[:4] == b"PAR1":
        form = "parquet"
    elif data[:6] == b"ARROW1" or data[:4] == b"\xff\xff\xff\xff":
        form = "arrow"
    if form == "parquet":
        columns, symbols = _columns(_parquet(data, max_rows, adjusted), time_format, adjusted)
    elif form == "arrow":
        columns, symbols = _columns(_arrow(data, max_rows), time_format, adjusted)
    elif form == "json" or (not form and data.lstrip()[:1] in (b"{", b"[")):
        columns, symbols = _json(data, max_rows, time_format, adjusted)
    else:
        columns, symbols = read_csv(data, max_rows=max_rows, time_format=time_format, adjusted=adjusted)
    if adjusted:
        adjust(columns)
    return assemble(columns, symbols, target, seconds)


def _parquet(data: bytes, max_rows: int, adjusted: bool) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _limit(file.metadata.num_rows, max_rows)  # before anything is unpacked: a few bytes can claim a billion rows
        names = file.schema_arrow.names
        wanted = {p for positions in detect(names, adjusted=adjusted).values() for p in positions}
        return file.read(columns=[names[p] for p in sorted(wanted)])
    except pa.ArrowNotImplementedError as error:
        raise Invalid(f"this Parquet file cannot be read: {error}", remedy="write it without encryption") from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise Invalid(f"this is no sound Parquet file: {str(error)[:200]}", remedy="write it again") from None


def _arrow(data: bytes, max_rows: int) -> "pa.Table":
    import pyarrow as pa

    def batches() -> Iterator["pa.RecordBatch"]:
        if data[:6] == b"ARROW1":
            reader = pa.ipc.open_file(pa.BufferReader(data))
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(pa.BufferReader(data))

    try:
        kept, rows = [], 0
        for batch in batches():
            rows += batch.num_rows
            _limit(rows, max_rows)
            batch.validate(full=True)  # offsets of text may point anywhere
            detect(batch.schema.names)
            kept.append(batch)
        if not kept:
            raise Invalid("there are no rows", remedy="give at least one bar")
        return pa.Table.from_batches(kept)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise Invalid(f"this is no sound Arrow data: {str(error)[:200]}",
                      remedy="send an Arrow IPC stream, as pyarrow.ipc.new_stream writes it") from None


def _limit(rows: int, most: int) -> None:
    if rows > most:
        raise TooLarge(f"{rows} rows are more than the {most} allowed", remedy="send it in parts")


def _columns(table: "pa.Table", time_format: str | None, adjusted: bool) -> Columns:
    """Our columns of an Arrow table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    positions = detect(table.column_names, adjusted=adjusted)
    columns: dict[str, np.ndarray] = {}
    symbols = None
    for ours, (position, *others) in positions.items():
        column, name = table.column(position), table.column_names[position]
        if column.null_count and ours not in EXTRAS:
            row = pc.index(column.is_null(), True).as_py() + 1
            raise Invalid(f"row {row}, column {name}: nothing there", field=ours, remedy="fill it or leave the row out")
        try:
            if ours == "symbol":
                symbols = column.cast(pa.string()).to_numpy(zero_copy_only=False).astype(str)
            elif ours == "time":
                columns["time"] = _times(column, [table.column(p) for p in others], name, time_format)
            else:
                columns[ours] = column.cast(pa.float64(), safe=False).to_numpy()
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise Invalid(f"column {name}: {str(error)[:200]}", field=ours,
                          remedy="give times as timestamps and the others as numbers") from None
    return columns, symbols


def _times(column: "pa.ChunkedArray", others: list["pa.ChunkedArray"], name: str,
           time_format: str | None) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        fine = getattr(column.type, "unit", "") == "ns"  # of which the last digits are dropped
        zoneless = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=not fine)
        return zoneless.cast(pa.int64()).to_numpy()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return micros_of_numbers(column.to_numpy())
    text = column.cast(pa.string())
    for other in others:
        text = pc.binary_join_element_wise(text, other.cast(pa.string()), " ")
    return _text_times(text.to_pylist(), name, time_format)


def _text_times(texts: list[Any], name: str, time_format: str | None) -> np.ndarray:
    chosen = time_format or choose_format([str(text) for text in texts[:200]])
    formats = (chosen,) if chosen else ()
    found = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        try:
            found[row] = micros_of_text(str(text), formats)
        except Invalid as error:
            raise Invalid(f"row {row + 1}, column {name}: {error.message}", field="time", remedy=error.remedy) from None
    return found


def _json(data: bytes, max_rows: int, time_format: str | None, adjusted: bool) -> Columns:
    import orjson

    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"malformed JSON, line {error.lineno} column {error.colno}: {error.msg}",
                      remedy="send valid JSON") from None
    for key in ("columns", "candles", "rows", "data"):
        if isinstance(body, dict) and isinstance(body.get(key), dict | list):
            body = body[key]
    if isinstance(body, list):
        body = _by_column(body)
    if not isinstance(body, dict):
        raise Invalid("neither columns nor rows", remedy='send {"time": [...], "open": [...], ...} or a list of rows')
    names = list(body)
    columns: dict[str, np.ndarray] = {}
    symbols = None
    for ours, (position, *others) in detect(names, adjusted=adjusted).items():
        name, values = names[position], body[names[position]]
        if not isinstance(values, list):
            raise Invalid(f"column {name} is no list", field=ours, remedy="give a list of values for each column")
        _limit(len(values), max_rows)
        if ours == "symbol":
            symbols = np.array([str(value) for value in values])
        elif ours == "time":
            columns["time"] = _json_times(values, [body[names[p]] for p in others], name, time_format)
        else:
            columns[ours] = _json_numbers(values, name, ours)
    if len({len(column) for column in columns.values()} | ({len(symbols)} if symbols is not None else set())) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise Invalid(f"the columns have unequal lengths: {lengths}", remedy="give each the same number of values")
    return columns, symbols


def _by_column(rows: list[Any]) -> dict[str, list[Any]]:
    """Row objects, or row lists in the order time, open, high, low, close, volume, as columns."""
    if not rows:
        raise Invalid("there are no rows", remedy="give at least one bar")
    if isinstance(rows[0], dict):
        names = list(rows[0])
        needed = {names[p] for ours, positions in detect(names).items() for p in positions
                  if ours in (*REQUIRED, "volume")}
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or needed - row.keys():
                lacks = ", ".join(sorted(needed - row.keys())) if isinstance(row, dict) else "everything"
                raise Invalid(f"row {number} lacks {lacks}", field="rows", remedy="give every row the same fields")
        return {name: [row.get(name) for row in rows] for name in names}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or not 5 <= len(row) <= 12 or len(row) != len(rows[0]):
            raise Invalid(f"row {number} is not time, open, high, low, close, volume", field="rows",
                          remedy="give row objects, or lists in that order")
    return {name: [row[p] for row in rows] for p, name in enumerate(_ROW_LIST) if p < len(rows[0])}


def _json_numbers(values: list[Any], name: str, ours: str) -> np.ndarray:
    if all(type(value) in (float, int) for value in values):
        return np.array(values, dtype=np.float64)
    problems = []
    for row, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(Problem(ours, f"row {row}, column {name}: {str(value)[:60]!r} is not a number",
                                    "put a finite number there"))
            if len(problems) == _MOST_PROBLEMS:
                break
    raise Invalid(problems[0].message, field=ours, remedy=problems[0].remedy, problems=problems)


def _json_times(values: list[Any], others: list[list[Any]], name: str, time_format: str | None) -> np.ndarray:
    kinds = {type(value) for value in values}
    if not others and kinds <= {int, float}:
        try:
            return micros_of_numbers(np.array(values))
        except (ValueError, OverflowError, TypeError) as error:
            raise Invalid(f"column {name}: {error}", field="time", remedy=_TIME_REMEDY) from None
    for row, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise Invalid(f"row {row}, column {name}: {str(value)[:60]!r} is not a time", field="time",
                          remedy=_TIME_REMEDY)
    joined = values if not others else [" ".join(map(str, parts)) for parts in zip(values, *others, strict=False)]
    return _text_times(joined, name, time_format)


def arrow_stream(candles: Candles) -> bytes:
    """The candles as an Arrow IPC stream: `time` as timestamp[us, UTC], then the figures."""
    import pyarrow as pa

    arrays: dict[str, Any] = {name: pa.array(column) for name, column in candles.columns().items()}
    arrays["time"] = arrays["time"].view(pa.timestamp("us", tz="UTC"))
    noted = {"market": candles.market.key, "resolution": times.resolution_name(candles.resolution)}
    table = pa.table(arrays).replace_schema_metadata(noted)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def csv_text(candles: Candles, *, header: bool = True) -> bytes:
    """The candles as CSV: `start` as ISO 8601 UTC, then the figures; what `read_bytes` reads back."""
    import pyarrow as pa
    import pyarrow.csv as pc_csv

    columns = candles.columns()
    time = columns.pop("time")
    instants: Any = time.view("datetime64[us]")
    stamps = np.strings.add(np.datetime_as_string(instants, unit="us" if (time % times.SECOND).any() else "s"), "Z")
    table = pa.table({"start": pa.array(stamps), **{name: pa.array(column) for name, column in columns.items()}})
    sink = io.BytesIO()
    if header:
        sink.write(",".join(table.column_names).encode() + b"\n")
    pc_csv.write_csv(table, sink, pc_csv.WriteOptions(include_header=False, quoting_style="none"))
    return sink.getvalue()
