"""Columns that come over the wire, as numpy arrays and as pandas frames."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import Invalid

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, np.ndarray]


def is_time(name: str) -> bool:
    """Whether a column of this name holds int64 microseconds since 1970."""
    return name in ("time", "advised_at", "first", "last") or name.endswith("_time")


def of_arrow(body: bytes) -> Columns:
    """The columns of an Arrow stream or file; text as object arrays, times as int64 microseconds."""
    import pyarrow as pa

    reader = pa.ipc.open_file(body) if body[:6] == b"ARROW1" else pa.ipc.open_stream(body)
    table = reader.read_all()
    columns: Columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us")).cast(pa.int64())
        columns[name] = column.to_numpy()
    return columns


def of_json(data: Mapping[str, Any]) -> Columns:
    """The columns of a JSON answer `{"columns": {name: […]}}`; numbers with nulls become float64 with NaN."""
    columns: Columns = {}
    for name, values in data["columns"].items():
        if is_time(name) and None not in values:
            columns[name] = np.asarray(values, dtype=np.int64)
        elif any(isinstance(value, str | bool | list | dict) for value in values):
            columns[name] = np.asarray(values, dtype=object)
        else:
            columns[name] = np.asarray([np.nan if value is None else value for value in values])
    return columns


def frame(columns: Columns, index: str | None = None) -> "pd.DataFrame":
    """A DataFrame of columns: times as UTC timestamps, `index` (when present) as its index."""
    import pandas as pd

    data = {name: pd.to_datetime(values, unit="us", utc=True) if is_time(name) and values.dtype.kind == "i" else values
            for name, values in columns.items()}
    result = pd.DataFrame(data)
    if index is not None and index in result.columns:
        result = result.set_index(index)
    return result


def arrow_of_candles(data: "pd.DataFrame | Mapping[str, Any]") -> bytes:
    """The Arrow stream of candles to upload, from a DataFrame (time in the index or in a column) or a mapping.

    Column names may be written in any case; `time` may be called `timestamp`, `date` or `start` (unix seconds).
    Raises `Invalid` naming the missing or unreadable column.
    """
    import pandas as pd
    import pyarrow as pa

    table = data if isinstance(data, pd.DataFrame) else pd.DataFrame(dict(data))
    if isinstance(table.index, pd.DatetimeIndex):
        table = table.reset_index(names="time")
    table = table.rename(columns={name: str(name).strip().lower() for name in table.columns})
    names = {"timestamp": "time", "date": "time", "datetime": "time", "start": "time"}
    table = table.rename(columns={old: new for old, new in names.items()
                                  if old in table.columns and new not in table.columns})
    for name in ("time", "open", "high", "low", "close"):
        if name not in table.columns:
            raise Invalid(f"the candles have no column {name!r}", field=name,
                          remedy="give time (column or index), open, high, low, close and volume")
    columns = {"time": _micros(table["time"])}
    for name in ("open", "high", "low", "close", "volume", "vwp", "trades"):
        if name in table.columns:
            try:
                columns[name] = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError):
                raise Invalid(f"the column {name!r} holds something that is not a number", field=name) from None
    columns.setdefault("volume", np.zeros(len(table)))
    sink = pa.BufferOutputStream()
    packed = pa.table(columns)
    with pa.ipc.new_stream(sink, packed.schema) as writer:
        writer.write_table(packed)
    return sink.getvalue().to_pybytes()


def _micros(at: "pd.Series[Any]") -> np.ndarray:
    import pandas as pd

    from engine import times

    if pd.api.types.is_numeric_dtype(at):
        values = at.to_numpy()
        if not len(values):
            return np.zeros(0, dtype=np.int64)
        first = times.micros(times.parse(values[0].item()))
        scale = {1: 1_000_000, 1000: 1000, 10**6: 1, 10**9: 0}
        for per_second, factor in scale.items():  # one unit for the whole column, told from its first value
            if first == round(values[0].item() * 1_000_000 / per_second):
                return values.astype(np.int64) // 1000 if factor == 0 else np.round(values * factor).astype(np.int64)
    try:
        return pd.to_datetime(at, utc=True).dt.as_unit("us").astype("int64").to_numpy()
    except (TypeError, ValueError) as error:
        raise Invalid(f"the times cannot be read: {error}", field="time",
                      remedy="use ISO 8601 such as 2023-01-31T00:00:00Z, or seconds since 1970") from None
