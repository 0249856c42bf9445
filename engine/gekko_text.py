"""A Gekko report as JSON text, made from columns: half a million rows in a fraction of a second.

Figures become text column by column (in C), and the rows are woven of these texts and the keys between them, some
thousand rows at a time, so that whoever writes them away as they come needs memory for those only.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

if TYPE_CHECKING:
    from engine.gekko_report import GekkoReport

ROWS: Final = 4_000
"""Rows woven at once."""

Texts = Sequence[bytes]
Woven = list[tuple[bytes, Texts | None]]
"""What stands in a row: a fixed text, then one that each row has for itself (or nothing)."""


def pieces(report: "GekkoReport") -> Iterator[bytes]:
    """The answer (see `engine.gekko_report.GekkoReport.answer`) in parts that together are the text."""
    yield orjson.dumps(report.head())[:-1]
    makers = {"stratUpdates": _updates, "roundtrips": _roundtrips, "stratCandles": _candles, "trades": _trades}
    for name in report.lists():
        yield f',"{name}":['.encode()
        for place, rows in enumerate(makers[name](report)):
            if place:
                yield b","
            yield rows
        yield b"]"
    yield b"}"


def figures(column: np.ndarray) -> Texts:
    """Every figure of a column as JSON; NaN and infinities are null, minus zero is zero."""
    if not len(column):
        return []
    if column.dtype.kind == "f":
        column = column + 0.0
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def weave(fields: Woven, rows: int) -> bytes:
    """Rows of these fields, parted by commas."""
    own = [(before, texts) for before, texts in fields if texts is not None]
    end = fields[-1][0] if fields[-1][1] is None else b""
    pieces: list[bytes] = [b""] * (2 * len(own) * rows)
    stride = 2 * len(own)
    for place, (before, texts) in enumerate(own):
        lead = end + b"," + before if place == 0 else before
        pieces[2 * place::stride] = [lead] * rows
        pieces[2 * place + 1::stride] = texts
    pieces[0] = own[0][0]
    return b"".join([*pieces, end])


def _slices(rows: int) -> Iterator[slice]:
    return (slice(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS))


def _fields(names: Sequence[str], columns: dict[str, Texts]) -> Woven:
    made: Woven = [((b"," if place else b"{") + f'"{name}":'.encode(), columns[name])
                   for place, name in enumerate(names)]
    return [*made, (b"}", None)]


def _roundtrips(report: "GekkoReport") -> Iterator[bytes]:
    columns = report.roundtrip_columns
    for rows in _slices(len(columns["id"])):
        yield weave(_fields(tuple(columns), {name: figures(column[rows]) for name, column in columns.items()}),
                    rows.stop - rows.start)


def _candles(report: "GekkoReport") -> Iterator[bytes]:
    if report.exported.get("portfolioValues"):  # a key that the first rows lack
        if entries := report.stratCandles:
            yield orjson.dumps(entries)[1:-1]
        return
    columns, names = report.candle_columns, report.candle_keys()
    for rows in _slices(len(columns["start"])):
        yield weave(_fields(names, {name: figures(columns[name][rows]) for name in names}), rows.stop - rows.start)


def _trades(report: "GekkoReport") -> Iterator[bytes]:
    columns = report.trade_columns
    if not len(columns["date"]):
        return
    final = orjson.dumps(report.portfolios[-1])
    percent = figures(np.array([report.fee_percent]))[0]
    for rows in _slices(len(columns["date"])):
        price = columns["price"][rows]
        number, advice = (figures(columns[name][rows]) for name in ("number", "advice"))
        action = [b"buy" if side > 0 else b"sell" for side in columns["side"][rows].tolist()]
        fields: Woven = [
            (b'{"id":"trade-', number), (b'","adviceId":"advice-', advice), (b'","action":"', action),
            (b'","cost":', figures(columns["cost"][rows])), (b',"amount":', figures(columns["amount"][rows])),
            (b',"price":', figures(price)),
            (b',"portfolio":' + final + b',"balance":', figures(columns["balance"][rows])),
            (b',"date":', figures(columns["date"][rows])), (b',"effectivePrice":', figures(price * report.fee)),
            (b',"feePercent":' + percent + b"}", None)]
        yield weave(fields, rows.stop - rows.start)


def _updates(report: "GekkoReport") -> Iterator[bytes]:
    dates = report.candle_columns["start"]
    begin = max(report.first_values, default=0)
    for rows in _slices(len(dates)):
        singles = [report.lines[place, rows] for _, kind, place, _ in report.shows if kind == "single"]
        if rows.start < begin or any((~np.isfinite(line) | (line == 0)).any() for line in singles):
            yield orjson.dumps(report.updates(rows))[1:-1]
            continue
        fields: Woven = [(b'{"date":', figures(dates[rows]))]
        lead = b',"indicators":{'
        for name, kind, place, keys in report.shows:
            lead += f'"{name}":'.encode()
            if kind == "shared":
                lead += orjson.dumps(report.last(name))
            elif kind == "native":
                for k, key in enumerate(keys):
                    fields.append((lead + (b"," if k else b"{") + f'"{key}":'.encode(),
                                   figures(report.lines[place + k, rows])))
                    lead = b""
                lead = b"}"
            else:
                fields.append((lead, figures(report.lines[place, rows])))
                lead = b""
            lead += b","
        yield weave([*fields, ((lead[:-1] if report.shows else lead) + b"}}", None)], rows.stop - rows.start)
