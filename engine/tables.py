"""Result tables on their way out: a part of one, as columns for JSON, as an Arrow stream, CSV or Parquet."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.downsample import line_points
from engine.errors import Invalid, TooLarge

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS: Final[dict[str, str]] = {
    "json": "application/json", "arrow": "application/vnd.apache.arrow.stream", "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
MOST_JSON: Final = 2_000_000  # rows; more are a download in another format
DRAWN: Final = {"equity": ("value", "benchmark", "gross"), "positions": ("value",), "indicators": ()}
"""Tables that can be drawn as lines, and the columns whose shape counts (none named: every figure)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Rows `offset` … of the `total` that the filters let through."""

    table: "pa.Table"
    offset: int
    total: int


def part_of(table: "pa.Table", name: str, *, symbol: str | None = None, start: int | None = None,
            end: int | None = None, points: int | None = None, offset: int = 0, limit: int | None = None) -> Part:
    """The rows of a table that are asked for.

    `symbol` keeps one market's rows. `start` and `end` (microseconds, inclusive) keep the bars, fills or, of the
    roundtrips, those open at any time between them. `points` keeps at most about that many rows that draw the same
    lines (MinMaxLTTB; each symbol has its share), for tables of lines only. `offset` and `limit` come last.
    Raises `Invalid` naming the parameter that cannot apply to this table.
    """
    import pyarrow.compute as pc

    if symbol:
        if "symbol" not in table.column_names:
            raise Invalid(f"the table {name} has no symbols", field="symbol", remedy="leave it out")
        table = table.filter(pc.equal(table["symbol"].cast("string"), symbol))
    first, last = ("exit_time", "entry_time") if name == "roundtrips" else ("time", "time")
    if start is not None:
        table = table.filter(pc.greater_equal(table[first].cast("int64"), start))
    if end is not None:
        table = table.filter(pc.less_equal(table[last].cast("int64"), end))
    if points is not None:
        if name not in DRAWN:
            raise Invalid(f"the table {name} is not drawn as lines", field="points", remedy="use offset and limit")
        table = table.take(_drawn(table, name, points))
    total = table.num_rows
    return Part(table=table.slice(offset, limit), offset=offset, total=total)


def _drawn(table: "pa.Table", name: str, points: int) -> np.ndarray:
    """Ascending positions of the rows that draw the table's lines."""
    if table.num_rows <= points:
        return np.arange(table.num_rows)
    time = table["time"].to_numpy()
    columns = [column for column in table.column_names
               if column not in ("time", "symbol") and (not DRAWN[name] or column in DRAWN[name])]
    groups = [np.arange(table.num_rows)]
    if "symbol" in table.column_names:
        symbols = np.unique(table["symbol"].cast("string").to_numpy(zero_copy_only=False), return_inverse=True)[1]
        groups = [np.flatnonzero(symbols == each) for each in range(symbols.max() + 1)]
    share = max(3, points // (len(groups) * max(1, len(columns))))
    kept = []
    for column in columns:
        values = table[column].cast("float64").to_numpy(zero_copy_only=False)
        kept += [rows[line_points(time[rows], values[rows], share)] for rows in groups]
    return np.unique(np.concatenate(kept)) if kept else np.arange(min(points, table.num_rows))


def render(part: Part, form: str) -> Any:
    """The part as a JSON-ready object (form "json": columns of lists and numpy arrays, times as int microseconds),
    else as bytes. Times are `timestamp[us, UTC]` in Arrow and Parquet, ISO 8601 in CSV."""
    if form == "json":
        if part.table.num_rows > MOST_JSON:
            raise TooLarge(f"{part.table.num_rows} rows are too many for JSON",
                           remedy="use points, limit, or format=arrow, csv or parquet")
        columns = {name: _plain(column) for name, column in zip(part.table.column_names, part.table.columns,
                                                               strict=True)}
        return {"columns": columns, "rows": part.table.num_rows, "offset": part.offset, "total": part.total}
    if form == "arrow":
        return _arrow(_timed(part.table))
    if form == "parquet":
        return _parquet(_timed(part.table))
    if form == "csv":
        return _csv(part.table)
    raise Invalid(f"{form!r} is not a format", field="format", remedy="formats are " + ", ".join(FORMATS))


def _plain(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        return column.to_pylist()
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False))


def _is_time(name: str) -> bool:
    return name in ("time", "advised_at") or name.endswith("_time")


def _timed(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa

    stamp = pa.timestamp("us", tz="UTC")
    return pa.table({
        name: column.cast(stamp) if _is_time(name) and pa.types.is_integer(column.type) else
        column.cast("string") if pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)})


def _arrow(table: "pa.Table") -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _parquet(table: "pa.Table") -> bytes:
    import pyarrow.parquet as parquet

    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _without_nan(column: Any) -> Any:
    """Floats with nulls for NaN: an empty cell is what spreadsheets read as missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _csv(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.csv as csv

    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _is_time(name) and pa.types.is_integer(column.type):
            stamps = column.to_numpy().astype("datetime64[us]")
            columns[name] = pa.array(np.strings.add(np.datetime_as_string(stamps, unit="us"), "Z")
                                     if len(stamps) else np.array([], dtype="U27"))
        else:
            columns[name] = column.cast("string") if pa.types.is_dictionary(column.type) else _without_nan(column)
    sink = io.BytesIO()
    csv.write_csv(pa.table(columns), sink)
    return sink.getvalue()
