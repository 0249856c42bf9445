"""What a backtest produced: tables as columns, figures, and where they came from.

A result is kept as a folder of Arrow files, one a table, and one `summary.json`. A column that is another table's too
is kept once: the file that lacks it names the table that has it. Nothing here imports pandas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.errors import NotFound
from engine.threads import at_once

Columns = Mapping[str, np.ndarray]
"""A table: column name -> array, all of one length. Times are int64 microseconds since 1970, UTC bar opens."""

TABLES: Final[dict[str, tuple[str, ...]]] = {
    # value = cash + positions; positions is the signed market value, gross its absolute sum; benchmark is the value
    # that the same capital would have in the benchmark.
    "equity": ("time", "value", "cash", "positions", "gross", "benchmark"),
    # one row a fill: side +1 buy, -1 sell; quantity > 0; price includes slippage; fee in currency, >= 0;
    # advised_at is the bar that asked for it; reason is a short word.
    "fills": ("time", "symbol", "side", "quantity", "price", "fee", "advised_at", "reason"),
    # entry to exit: direction +1 long, -1 short; pnl after fees; return = pnl / entry value; mae <= 0 and mfe >= 0
    # are fractions of the entry price; open trades carry the last close as exit_price and status "open".
    "roundtrips": ("symbol", "direction", "entry_time", "exit_time", "entry_price", "exit_price", "quantity", "fees",
                   "pnl", "return", "mae", "mfe", "bars", "status"),
    # time, symbol and one column for every indicator of the strategy.
    "indicators": ("time", "symbol"),
    # signed quantity and market value of every symbol at every bar.
    "positions": ("time", "symbol", "quantity", "value"),
}


_PLACES: Final = b"workbench.columns"
"""In a file's metadata: every column of the table, in order, and where it is: the table's own name, or
[another table, its column]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BacktestResult:
    """Everything about a finished backtest.

    `spec` is BacktestSpec as JSON. `metrics` uses the keys of `engine.metrics` (fractions, not percent; None where
    undefined). `warnings` are {"code", "message"}. `provenance` names strategy source hash, data fingerprints,
    versions, seed, costs and the annualisation rule. `extra` is what a dialect's own report needs.
    """

    spec: Mapping[str, Any]
    tables: Mapping[str, Columns]
    metrics: Mapping[str, float | None]
    provenance: Mapping[str, Any]
    warnings: tuple[Mapping[str, str], ...] = ()
    logs: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """All but the tables, ready for JSON, with each table's number of rows."""
        return {
            "spec": dict(self.spec), "metrics": dict(self.metrics), "provenance": dict(self.provenance),
            "warnings": [dict(entry) for entry in self.warnings], "logs": list(self.logs), "extra": dict(self.extra),
            "rows": {name: len(next(iter(table.values()), ())) for name, table in self.tables.items()},
        }

    def save(self, folder: Path) -> None:
        """Write all files into `folder` (made if missing). `summary.json` comes last and by rename: its presence
        says that the result is whole."""
        import orjson
        import pyarrow as pa
        import pyarrow.feather as feather

        folder.mkdir(parents=True, exist_ok=True)
        first: dict[int, str] = {}  # the table that keeps an array, by the array's identity
        for name, columns in self.tables.items():
            for column in columns.values():
                first.setdefault(id(column), name)

        def write(name: str) -> None:
            columns = self.tables[name]
            places = {key: name if (there := first[id(column)]) == name else [there, next(
                other for other, each in self.tables[there].items() if each is column)]
                for key, column in columns.items()}
            table = pa.table({key: _arrow(column) for key, column in columns.items() if places[key] == name})
            table = table.replace_schema_metadata({_PLACES: orjson.dumps(places)})
            feather.write_feather(table, str(folder / f"{name}.arrow"), compression="lz4")

        at_once(write, self.tables, sum(len(table.get("time", ())) for table in self.tables.values()))
        partial = folder / "summary.json.part"
        partial.write_bytes(orjson.dumps(self.summary(), option=orjson.OPT_SERIALIZE_NUMPY))
        partial.rename(folder / "summary.json")


def _arrow(column: np.ndarray):
    import pyarrow as pa

    if column.dtype.kind in "OU":
        if len(column) and column.strides == (0,):  # one text for every row, kept once
            return pa.DictionaryArray.from_arrays(np.zeros(len(column), np.int32), pa.array(column[:1], pa.string()))
        return pa.array(column, type=pa.string()).dictionary_encode()
    return pa.array(column)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a saved result; raises `NotFound` when there is no whole result in `folder`."""
    import orjson

    try:
        return orjson.loads((folder / "summary.json").read_bytes())
    except FileNotFoundError:
        raise NotFound("this run has no stored result") from None


def read_table(folder: Path, name: str, columns: list[str] | None = None):
    """One table of a saved result as a memory-mapped `pyarrow.Table`; raises `NotFound` for an unknown name."""
    import orjson
    import pyarrow as pa
    import pyarrow.feather as feather

    path = folder / f"{name}.arrow"
    if not path.name[: -len(".arrow")].isidentifier() or not path.is_file():
        raise NotFound(f"this run has no table {name!r}", remedy="tables are " + ", ".join(TABLES))
    with pa.memory_map(str(path)) as file:
        places = orjson.loads((pa.ipc.open_file(file).schema.metadata or {}).get(_PLACES, b"{}"))
    wanted = list(places) if columns is None else columns
    own = feather.read_table(str(path), columns=[key for key in wanted if places[key] == name] if places else columns,
                             memory_map=True)
    if not places or len(own.column_names) == len(wanted):
        return own
    return pa.table({key: own.column(key) if places[key] == name else
                     read_table(folder, places[key][0], [places[key][1]]).column(0) for key in wanted})


def load(folder: Path) -> BacktestResult:
    """A saved result, tables as numpy columns (text columns as object arrays)."""
    summary = read_summary(folder)
    tables = {
        path.stem: {name: column.to_numpy(zero_copy_only=False) for name, column in
                    zip(table.column_names, table.combine_chunks().columns, strict=True)}
        for path in sorted(folder.glob("*.arrow")) for table in [read_table(folder, path.stem)]
    }
    return BacktestResult(spec=summary["spec"], tables=tables, metrics=summary["metrics"],
                          provenance=summary["provenance"], warnings=tuple(summary["warnings"]),
                          logs=tuple(summary["logs"]), extra=summary["extra"])
