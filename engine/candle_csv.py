"""Candles out of delimited text: a fast pass with pyarrow, and on any doubt a slow one that names line and column."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeAlias

import numpy as np

from engine.candle_columns import (
    ALIASES,
    EXTRAS,
    REQUIRED,
    another_unit,
    choose_format,
    detect,
    micros_of_numbers,
    micros_of_text,
)
from engine.candles import SPAN
from engine.errors import Invalid, Problem, TooLarge

_DELIMITERS: Final = ",;\t|"
_PREAMBLE: Final = 20  # lines before the header that some sources put there
_SAMPLE: Final = 200
_MOST_PROBLEMS: Final = 20
_NUMBERS: Final = ("open", "high", "low", "close", "volume", "vwp", "trades", "adjusted")
_EPOCH: Final = re.compile(r"\d{9,20}(\.\d*)?")
# A table without a header: what most exchanges' dumps hold, and the twelve columns of Binance's.
_BARE: Final = ("time", "open", "high", "low", "close", "volume")
_BARE_12: Final = (*_BARE, "close_time", "quote_volume", "trades", "taker_base", "taker_quote", "ignore")

Columns: TypeAlias = tuple[dict[str, np.ndarray], np.ndarray | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the text is laid out. `positions`: our column -> position(s); `skip`: physical lines before the first row."""

    delimiter: str
    decimal: str
    names: tuple[str, ...]
    positions: dict[str, tuple[int, ...]]
    skip: int
    formats: tuple[str, ...] = ()


def read_csv(data: bytes, *, max_rows: int, time_format: str | None = None, adjusted: bool = False) -> Columns:
    """Columns (time in microseconds, figures as float64) and symbols of delimited text; all or nothing.

    Raises `Invalid` with line, column, the text found and the remedy for up to twenty faults; `TooLarge`.
    """
    data = _utf8(data)
    layout = _layout(data, time_format, adjusted)
    lines = data.count(b"\n") + 1
    if lines - layout.skip > max_rows + _PREAMBLE:
        raise TooLarge(f"more than {max_rows} rows", remedy="split the file")
    fast = _fast(data, layout)
    return fast if fast is not None else _slow(data, layout)


def _utf8(data: bytes) -> bytes:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def _layout(data: bytes, time_format: str | None, adjusted: bool) -> Layout:
    head = data[: 1 << 16]
    whole = len(head) == len(data)
    lines = head.decode("utf-8", errors="replace").splitlines()
    lines = lines if whole else lines[:-1]
    if not any(line.strip() for line in lines):
        raise Invalid("the text is empty", remedy="give a header line and at least one bar")
    fault: Invalid | None = None
    for number, line in enumerate(lines[:_PREAMBLE]):
        if not line.strip():
            continue
        delimiter = max(_DELIMITERS, key=line.count)
        names = tuple(next(csv.reader([line], delimiter=delimiter)))
        if _bare(names, delimiter):
            names = _BARE_12 if len(names) == 12 else (*_BARE, *(f"column_{p}" for p in range(7, len(names) + 1)))
            skip = number
            positions = detect(names, adjusted=adjusted)
        else:
            try:
                positions = detect(names, adjusted=adjusted)
            except Invalid as error:
                fault = fault or Invalid(f"line {number + 1}: {error.message}", field=error.field, remedy=error.remedy)
                continue
            skip = number + 1
        layout = Layout(delimiter=delimiter, decimal=".", names=names, positions=positions, skip=skip)
        return _with_formats(layout, lines[skip:skip + _SAMPLE], time_format)
    raise fault or Invalid("no header line", remedy="name the columns start, open, high, low, close, volume")


def _bare(names: tuple[str, ...], delimiter: str) -> bool:
    """Whether a line is already data: at least five values of which the second to fifth are numbers."""
    try:
        [float(_dotted(text, "," if delimiter != "," else ".")) for text in names[1:5]]
    except ValueError:
        return False
    return len(names) >= 5


def _with_formats(layout: Layout, sample: list[str], time_format: str | None) -> Layout:
    rows = [row for row in csv.reader(sample, delimiter=layout.delimiter) if any(cell.strip() for cell in row)]
    if layout.delimiter != ",":
        prices = [row[p] for row in rows for name in ("open", "high", "low", "close") for p in layout.positions[name]
                  if p < len(row)]
        if any("," in price and "." not in price.rpartition(",")[2] for price in prices):
            layout = replace(layout, decimal=",")
    if time_format is not None:
        return replace(layout, formats=(time_format,))
    stamps = [_joined(row, layout.positions["time"]) for row in rows]
    chosen = choose_format([stamp for stamp in stamps if stamp])
    return replace(layout, formats=(chosen,) if chosen else ())


def _joined(row: list[str], positions: tuple[int, ...]) -> str:
    return " ".join(row[position].strip() for position in positions if position < len(row)).strip()


def _fast(data: bytes, layout: Layout) -> Columns | None:
    """The whole text at once, or None when anything is not as expected."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pc_csv

    labels = [f"c{position}" for position in range(len(layout.names))]
    types: dict[str, pa.DataType] = {}
    wanted: dict[str, tuple[str, ...]] = {}
    for ours, positions in layout.positions.items():
        wanted[ours] = tuple(labels[position] for position in positions)
        for label in wanted[ours]:
            if ours in _NUMBERS:
                types[label] = pa.float64()
            elif ours == "symbol" or layout.formats or len(positions) > 1:
                types[label] = pa.string()
    try:
        table = pc_csv.read_csv(
            pa.BufferReader(data),
            read_options=pc_csv.ReadOptions(column_names=labels, skip_rows=layout.skip, block_size=4 << 20),
            parse_options=pc_csv.ParseOptions(delimiter=layout.delimiter),
            convert_options=pc_csv.ConvertOptions(
                column_types=types, include_columns=[label for group in wanted.values() for label in group],
                decimal_point=layout.decimal, null_values=[""],
            ),
        )
        needed = [label for ours, group in wanted.items() if ours not in EXTRAS for label in group]
        if any(table.column(label).null_count for label in needed):
            return None
        columns: dict[str, np.ndarray] = {
            name: table.column(wanted[name][0]).to_numpy() for name in _NUMBERS if name in wanted}
        if not all(np.isfinite(column).all() for name, column in columns.items() if name not in EXTRAS):
            return None
        stamps = table.column(wanted["time"][0])
        if len(wanted["time"]) > 1:
            stamps = pc.binary_join_element_wise(stamps, table.column(wanted["time"][1]), " ")
        if pa.types.is_string(stamps.type):
            if not layout.formats:
                return None
            texts = pc.utf8_trim_whitespace(stamps)
            stamps = pc.strptime(texts, format=layout.formats[0], unit="us")
            # Arrow takes 30 February for 1 March: what it would not print the same way, Python must read too.
            for text in texts.filter(pc.not_equal(pc.strftime(stamps, format=layout.formats[0]), texts)).unique():
                datetime.strptime(text.as_py(), layout.formats[0])
        if pa.types.is_timestamp(stamps.type) or pa.types.is_date(stamps.type):
            columns["time"] = stamps.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        elif pa.types.is_integer(stamps.type) or pa.types.is_floating(stamps.type):
            columns["time"] = micros_of_numbers(stamps.to_numpy())
        else:
            return None
        if len(stamps) and not (SPAN[0] <= columns["time"].min() and columns["time"].max() < SPAN[1]):
            return None
        symbols = None
        if "symbol" in wanted:
            symbols = np.char.strip(table.column(wanted["symbol"][0]).to_numpy(zero_copy_only=False).astype(str))
    except (pa.ArrowException, ValueError, OverflowError):
        return None
    return columns, symbols


def _slow(data: bytes, layout: Layout) -> Columns:
    """Line by line, tolerant of thousands separators and blanks, naming every fault."""
    found: dict[str, list[float]] = {name: [] for name in layout.positions if name in _NUMBERS}
    stamps: list[int] = []
    symbols: list[str] = []
    problems: list[Problem] = []
    before: float | None = None
    for line, row in _rows(data, layout):
        for name, column in found.items():
            position = layout.positions[name][0]
            text = row[position].strip() if position < len(row) else ""
            if name in EXTRAS and not text:
                column.append(np.nan)
                continue
            try:
                value = float(_dotted(text, layout.decimal))
                if not np.isfinite(value):
                    raise ValueError
                column.append(value)
            except ValueError:
                problems.append(_fault(line, layout.names[position], name, text))
        text = _joined(row, layout.positions["time"])
        name = layout.names[layout.positions["time"][0]]
        number = float(text) if _EPOCH.fullmatch(text) else None
        if number and before and not 0.002 < number / before < 500 and another_unit(number, before):
            problems.append(Problem("time", f"line {line}, column {name}: {text[:60]!r} is in another unit of time "
                                    "than the line before", "give all times in seconds, or all in milliseconds"))
        before = number
        try:
            stamps.append(micros_of_text(text, layout.formats))
        except Invalid as error:
            problems.append(_fault(line, name, "time", text, error.remedy))
        if "symbol" in layout.positions:
            position = layout.positions["symbol"][0]
            text = row[position].strip() if position < len(row) else ""
            symbols.append(text)
            if not text:
                problems.append(_fault(line, layout.names[position], "symbol", text))
        if len(problems) >= _MOST_PROBLEMS:
            break
    if problems:
        raise Invalid(problems[0].message, field=problems[0].field, remedy=problems[0].remedy, problems=problems)
    columns = {name: np.array(values) for name, values in found.items()}
    columns["time"] = np.array(stamps, np.int64)
    return columns, np.array(symbols) if symbols else None


def _rows(data: bytes, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """(physical line number counted from 1, cells) of each row that is not blank."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace", newline="")
    for _ in range(layout.skip):
        text.readline()
    reader = csv.reader(text, delimiter=layout.delimiter)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield layout.skip + reader.line_num, row
    except csv.Error as error:
        line = layout.skip + reader.line_num
        raise Invalid(f"line {line}: {error}", field="", remedy="give plain delimited text") from None


def _dotted(text: str, decimal: str) -> str:
    """A number's text as Python reads it: without thousands separators, with a decimal point."""
    if "_" in text:
        raise ValueError(text)  # Python would read 1_000
    text = text.strip().replace("\u00a0", "").replace(" ", "")
    if decimal == ",":
        grouped = "," in text or re.fullmatch(r"[+-]?\d{1,3}(\.\d{3})+", text)
        return text.replace(".", "").replace(",", ".") if grouped else text
    return text.replace(",", "")


def _fault(line: int, column: str, ours: str, text: str, remedy: str = "") -> Problem:
    what = repr(text[:60]) if text else "nothing"
    wanted = "a time" if ours == "time" else "a symbol" if ours == "symbol" else "a finite number"
    needed = ours in REQUIRED or ours == "symbol"
    remedy = remedy or f"put {wanted} there" + ("" if needed else f", or leave out the column {column}")
    return Problem(ours, f"line {line}, column {column.strip() or ALIASES[ours][0]}: {what} is not {wanted}", remedy)
