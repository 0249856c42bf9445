"""Orders, logs, calls and events of a model as files: rows as plain columns, batch by batch, off the event loop."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, Literal

import orjson

from engine import times
from engine.activity import Order
from engine.model import Event

__all__ = ["EXPORTS", "CsvFile", "ParquetFile", "Sheet"]

Kind = Literal["text", "number", "integer", "time"]


class Sheet:
    """What a file of these things holds: its columns with their kinds, and the row of one thing."""

    def __init__(self, columns: Mapping[str, Kind], row: Callable[[Any], Sequence[Any]]) -> None:
        self.columns = columns
        self.row = row


def _json(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()


def _order(order: Order) -> Sequence[Any]:
    return (order.at, order.id, order.symbol, order.exchange, order.side, order.kind, order.size, order.funds,
            order.price, order.activate, order.filled, order.status, order.executed_at, order.canceled_at, order.fee,
            order.fee_currency, order.annotation, order.run, order.version, order.received_at,
            _json(dict(order.extra)) if order.extra else None)


def _log(event: Event) -> Sequence[Any]:
    data = event.data
    return event.seq, event.at, data.get("at"), data.get("type"), data.get("line"), data.get("run") or ""


def _call(event: Event) -> Sequence[Any]:
    data = event.data
    return (event.seq, event.at, data.get("at"), data.get("type"), _json(data.get("args")),
            _json(data.get("response")), data.get("annotation"), data.get("run") or "")


def _event(event: Event) -> Sequence[Any]:
    return event.seq, event.id, event.at, event.type, orjson.dumps(dict(event.data)).decode()


def _screener(event: Event) -> Sequence[Any]:
    return event.seq, event.at, event.data.get("at"), _json(event.data.get("result")), event.data.get("run") or ""


EXPORTS: Final[Mapping[str, Sheet]] = {
    "orders": Sheet({
        "at": "time", "id": "text", "symbol": "text", "exchange": "text", "side": "text", "kind": "text",
        "size": "number", "funds": "number", "price": "number", "activate": "number", "filled": "number",
        "status": "text", "executed_at": "time", "canceled_at": "time", "fee": "number", "fee_currency": "text",
        "annotation": "text", "run": "text", "version": "text", "received_at": "time", "extra": "text"}, _order),
    "logs": Sheet({"seq": "integer", "received_at": "time", "at": "time", "type": "text", "line": "text",
                   "run": "text"}, _log),
    "calls": Sheet({"seq": "integer", "received_at": "time", "at": "time", "type": "text", "args": "text",
                    "response": "text", "annotation": "text", "run": "text"}, _call),
    "events": Sheet({"seq": "integer", "id": "integer", "received_at": "time", "type": "text", "data": "text"},
                    _event),
    "screener": Sheet({"seq": "integer", "received_at": "time", "at": "time", "result": "text",
                       "run": "text"}, _screener),
}
"""The files that can be had."""


class CsvFile:
    """CSV, made piece by piece: `add(rows)` gives the text of a batch, the first with its head line. Instants are
    RFC 3339, what is missing is empty."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._begun = False

    def add(self, items: Sequence[Any]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        if not self._begun:
            writer.writerow(self._sheet.columns)
            self._begun = True
        for item in items:
            writer.writerow([times.iso(value) if isinstance(value, datetime) else value
                             for value in self._sheet.row(item)])
        return text.getvalue().encode()


class ParquetFile:
    """Parquet, written to a file batch by batch: `add(rows)`, then `finish()`. Instants are `timestamp[us, UTC]`."""

    def __init__(self, sheet: Sheet, file: Path | IO[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        kinds = {"text": pa.string(), "number": pa.float64(), "integer": pa.int64(),
                 "time": pa.timestamp("us", tz="UTC")}
        self._sheet = sheet
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in sheet.columns.items()])
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def add(self, items: Sequence[Any]) -> None:
        import pyarrow as pa

        if not items:
            return
        columns = zip(*map(self._sheet.row, items), strict=True)
        arrays = [pa.array([_moment(value) for value in column] if pa.types.is_timestamp(entry.type) else list(column),
                           type=entry.type) for column, entry in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def finish(self) -> None:
        self._writer.close()


def _moment(value: Any) -> datetime | None:
    """The instant of a cell; a bot's clock stands in events as text."""
    return value if value is None or isinstance(value, datetime) else times.parse(value)
