"""From fills to a result: the common end of every fill model.

vectorbt's portfolio functions make the equity curve and the roundtrips of every run alike. They are given the fills as
order records, each with its own price and fee. Up to `WHOLE` cells (bars x markets) they see
every bar; beyond that on the bars with fills and the last bar of each day, and the bars in between, at which cash
and positions do not change, come from the ledger kept here. Both are compared wherever they meet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import float64, int64, types

from engine import metrics, provenance
from engine.advice import merged_time
from engine.candles import Candles
from engine.compiled import kernel
from engine.errors import Invalid, TooLarge
from engine.notices import notices
from engine.reporter import Reporter
from engine.result import BacktestResult, Columns
from engine.spec import BacktestSpec
from engine.strategies.base import Strategy

WHOLE: Final = 30_000
MOST_CELLS: Final = 40_000_000
MOST_POSITIONS: Final = 2_000_000
"""Above so many rows the table `positions` of several markets leaves out the flat ones."""
_AGREE: Final = 1e-9

_VECTOR = types.Array(float64, 1, "C", readonly=True)
_INTEGERS = types.Array(int64, 1, "C", readonly=True)


def build(spec: BacktestSpec, candles: Sequence[Candles], fills: Columns, *,
          strategy: Strategy | None = None, params: Mapping[str, Any] | None = None,
          indicators: Columns | None = None, equity: Columns | None = None,
          benchmark: Candles | np.ndarray | None = None, symbols: Sequence[str] | None = None,
          warnings: Sequence[Mapping[str, str]] = (), logs: Sequence[str] = (),
          extra: Mapping[str, Any] | None = None, provenance_extra: Mapping[str, Any] | None = None,
          merged: np.ndarray | None = None, fingerprints: Callable[[], Sequence[str]] | None = None,
          reporter: Reporter | None = None) -> BacktestResult:
    """The whole result of a run from its fills.

    `candles`: one for each symbol, none empty, prices positive; `symbols` are their names in `fills` (default
    `spec.markets`). `fills`: the table of that name (`engine.result.TABLES`), in time order, each at a bar time of any
    of the candles; several of one symbol at one bar are fine. `merged`: all bar times, made from the candles if None.

    `equity` replaces columns of the table `equity` (`value`, `cash`, ... along `merged`) for a fill model whose own
    rules mark otherwise (funding, marking at another price); what is left out comes from the Portfolio. `benchmark`:
    candles to hold, a curve along `merged`, or None for the run's own markets in equal parts, bought at each one's
    first close without costs. `indicators`, `warnings`, `logs` and `extra` pass into the result; `warnings` are joined
    by those that `engine.notices` finds. `strategy` and `params` (resolved) name what ran, for the provenance;
    `fingerprints` gives the candles' (None: they are taken here).

    Raises `Invalid` for fills off the bars and `TooLarge` for more than `MOST_CELLS` cells.
    """
    reporter = reporter or Reporter()
    symbols = tuple(symbols or spec.markets)
    merged = merged_time(candles) if merged is None else merged
    if len(merged) * len(candles) > MOST_CELLS:
        raise TooLarge(f"{len(merged):,} bars of {len(candles)} markets are too many for one run", field="markets",
                       remedy="run fewer markets, a shorter range or a coarser resolution")
    book = book_of(symbols, merged, fills)
    closes = closes_along(candles, merged)
    cash, net, gross, quantity = ledger(len(merged), closes, book, spec.cash)
    value, roundtrips, engine = _vectorbt(spec, candles, symbols, merged, closes, book, cash, net)
    curve = benchmark if isinstance(benchmark, np.ndarray) else holding(spec, closes, merged, candles, benchmark)
    table: dict[str, np.ndarray] = {"time": merged, "value": value, "cash": cash, "positions": net, "gross": gross,
                                    "benchmark": curve}
    table |= {name: np.asarray(column, float) for name, column in (equity or {}).items() if name != "time"}
    reporter.progress(0.9, "Computing metrics")
    periods = metrics.periods_of(merged, spec.resolution_seconds)
    figures = metrics.compute(equity=table, fills=fills, roundtrips=roundtrips, cash=spec.cash,
                              resolution=spec.resolution_seconds, periods=periods)
    found = notices(spec, candles, symbols, fills, figures)
    return BacktestResult(
        spec=spec.model_dump(mode="json"),
        tables={"equity": table, "fills": dict(fills), "roundtrips": roundtrips,
                "indicators": dict(indicators) if indicators else {"time": merged[:0], "symbol": np.empty(0, object)},
                "positions": _positions(merged, symbols, quantity, net, closes)},
        metrics=figures,
        provenance=provenance.of(spec, candles, strategy=strategy, params=params, annualisation=periods.text,
                                 vectorbt_engine=engine,
                                 fingerprints=fingerprints() if fingerprints else None) | dict(provenance_extra or {}),
        warnings=(*warnings, *found), logs=tuple(logs), extra=dict(extra or {}),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Book:
    """Fills as numbers, in time order: bar (position in merged), column, signed quantity, price, fee."""

    bar: np.ndarray
    column: np.ndarray
    change: np.ndarray
    price: np.ndarray
    fee: np.ndarray


def book_of(symbols: Sequence[str], merged: np.ndarray, fills: Columns) -> Book:
    """The table `fills` as numbers along merged. Raises `Invalid` for fills out of order or off the bars."""
    time = np.asarray(fills["time"], np.int64)
    bar = np.searchsorted(merged, time)
    if len(time) and (bar[-1] >= len(merged) or (merged[np.minimum(bar, len(merged) - 1)] != time).any()
                      or (time[1:] < time[:-1]).any()):
        raise Invalid("fills must be in time order, each at a bar", field="fills", remedy="use the bars' own times")
    place = {name: index for index, name in enumerate(symbols)}
    try:
        column = np.array([place[name] for name in fills["symbol"]], np.int64) if len(symbols) > 1 \
            else np.zeros(len(time), np.int64)
    except KeyError as error:
        raise Invalid(f"{error.args[0]!r} is none of the run's markets", field="fills") from None
    return Book(bar=bar.astype(np.int64), column=column,
                 change=np.asarray(fills["side"], float) * np.asarray(fills["quantity"], float),
                 price=np.asarray(fills["price"], float), fee=np.asarray(fills["fee"], float))


def closes_along(candles: Sequence[Candles], merged: np.ndarray) -> np.ndarray:
    """Closes along merged, (T, n): the last one where a market has no bar, its first one before that."""
    if len(candles) == 1 and len(candles[0]) == len(merged):
        return np.ascontiguousarray(candles[0].close).reshape(-1, 1)
    closes = np.empty((len(merged), len(candles)))
    for s, each in enumerate(candles):
        if len(each) == len(merged):
            closes[:, s] = each.close
        else:
            closes[:, s] = each.close[np.maximum(np.searchsorted(each.time, merged, side="right") - 1, 0)]
    return closes


_TABLE = types.Array(float64, 2, "C")


@kernel(types.void(types.Array(float64, 2, "C", readonly=True), _INTEGERS, _INTEGERS, _VECTOR, _VECTOR, _VECTOR,
                   float64, *[types.Array(float64, 1, "C")] * 3, _TABLE))
def _walk_ledger(closes, bar, column, change, price, fee, start, cash, net, gross, quantity):
    n = closes.shape[1]
    held = np.zeros(n)
    now = start
    next_fill = 0
    for t in range(closes.shape[0]):
        while next_fill < len(bar) and bar[next_fill] == t:
            s = column[next_fill]
            now -= change[next_fill] * price[next_fill] + fee[next_fill]
            held[s] += change[next_fill]
            next_fill += 1
        cash[t] = now
        total, size = 0.0, 0.0
        for s in range(n):
            if held[s] != 0.0:
                worth = held[s] * closes[t, s]
                total += worth
                size += abs(worth)
            quantity[t, s] = held[s]
        net[t] = total
        gross[t] = size


def ledger(rows: int, closes: np.ndarray, book: Book, start: float) -> tuple[np.ndarray, ...]:
    """Cash, net and gross value (T,) and quantities (T, n) at every close. Net and gross are one array if equal."""
    cash, net, quantity = np.empty(rows), np.empty(rows), np.empty(closes.shape)
    short = any((np.cumsum(book.change[book.column == s]) < 0).any() for s in range(closes.shape[1]))
    gross = np.empty(rows) if short else net
    _walk_ledger(closes, book.bar, book.column, book.change, book.price, book.fee, start, cash, net, gross, quantity)
    return cash, net, (net if gross is net or np.array_equal(net, gross) else gross), quantity


def accounts(closes: np.ndarray, bar: np.ndarray, column: np.ndarray, change: np.ndarray, price: np.ndarray,
             fee: np.ndarray, cash: float) -> tuple[np.ndarray, np.ndarray, str]:
    """What vectorbt's Portfolio makes of these fills, one column a market and one cash for all: the equity at every
    close, the records of its positions, and the engine that made them. The functions behind it are called directly:
    for a year of days its tables of statistics and its pandas frames would cost four times as much as all else."""
    from vectorbt._engine import is_rust_available
    from vectorbt.portfolio import dispatch
    from vectorbt.portfolio.enums import Direction, order_dt

    engine = "rust" if is_rust_available() else "numba"
    n = closes.shape[1]
    order = np.argsort(column, kind="stable") if n > 1 else slice(None)
    records = np.zeros(len(bar), order_dt)
    records["id"] = np.arange(len(bar))
    records["col"], records["idx"] = column[order], bar[order]
    records["size"], records["side"] = np.abs(change[order]), change[order] < 0
    records["price"], records["fees"] = price[order], fee[order]
    of_column = _map(records, n)
    held = dispatch.assets(dispatch.asset_flow(closes.shape, records, of_column, Direction.Both, engine=engine),
                           engine=engine)
    worth = dispatch.asset_value(closes, held, engine=engine)
    flow = dispatch.cash_flow(closes.shape, records, of_column, False, engine=engine)
    if n > 1:
        group, start = np.array([n]), np.array([cash])
        worth = dispatch.asset_value_grouped(worth, group, engine=engine)
        flow = dispatch.cash_flow_grouped(flow, group, engine=engine)
        left = dispatch.cash_grouped(closes.shape, flow, group, start, engine=engine)
    else:
        left = dispatch.cash(flow, np.array([cash]), engine=engine)
    value = np.ascontiguousarray(dispatch.value(left, worth, engine=engine)).reshape(-1)
    if not len(records):
        return value, np.empty(0, _EMPTY_TRADES), engine
    trades = dispatch.get_exit_trades(records, closes, of_column, engine=engine)
    return value, dispatch.get_positions(trades, _map(trades, n), engine=engine), engine


def _map(records: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """vectorbt's map of records to columns; they come column by column, so they are their own order."""
    return np.arange(len(records)), np.bincount(records["col"], minlength=columns)


def _vectorbt(spec: BacktestSpec, candles: Sequence[Candles], symbols: Sequence[str], merged: np.ndarray,
              closes: np.ndarray, book: Book, cash: np.ndarray, net: np.ndarray) -> tuple[np.ndarray, Columns, str]:
    """Equity at every close, roundtrips, and the engine that made them."""
    if closes.size <= WHOLE:
        rows, bar, kept = None, book.bar, closes
    else:
        rows = np.unique(np.concatenate((book.bar, metrics.day_ends(merged))))
        bar, kept = np.searchsorted(rows, book.bar), closes[rows]
    value, records, engine = accounts(kept, bar, book.column, book.change, book.price, book.fee, spec.cash)
    own = cash + net
    ours = own if rows is None else own[rows]
    off = np.abs(value - ours).max() / max(float(np.abs(ours).max()), spec.cash)
    if not off <= _AGREE:
        raise AssertionError(f"the ledger and the portfolio disagree by {off:g} of the equity")
    table = _roundtrips(records, candles, symbols, merged, rows)
    if rows is None:
        return value, table, engine
    own[rows] = value
    return own, table, engine


_EMPTY_TRADES: Final = [(name, np.float64) for name in (
    "col", "size", "entry_idx", "entry_price", "entry_fees", "exit_idx", "exit_price", "exit_fees", "pnl", "return",
    "direction", "status")]


@kernel(types.void(_INTEGERS, _INTEGERS, _VECTOR, _VECTOR, _VECTOR, _VECTOR, _VECTOR, types.Array(float64, 1, "C"),
                   types.Array(float64, 1, "C")))
def _excursions(first, last, highs, lows, entry, leave, direction, mae, mfe):
    """Worst and best price of bars first..last - 1 and at the exit, as signed fractions of the entry price."""
    for i in range(len(first)):
        low, high = min(entry[i], leave[i]), max(entry[i], leave[i])
        for row in range(first[i], last[i]):
            low = min(low, lows[row])
            high = max(high, highs[row])
        if direction[i] > 0:
            mae[i], mfe[i] = low / entry[i] - 1.0, high / entry[i] - 1.0
        else:
            mae[i], mfe[i] = 1.0 - high / entry[i], 1.0 - low / entry[i]


def _roundtrips(records: np.ndarray, candles: Sequence[Candles], symbols: Sequence[str], merged: np.ndarray,
                rows: np.ndarray | None) -> Columns:
    """vectorbt's positions as the table `roundtrips`, in order of entry. The bar of the exit itself counts for the
    excursions only with the exit price, for the position left at its open; open trades count to the last bar."""
    column = records["col"].astype(np.int64)
    entry, leave = (records[name].astype(np.int64) for name in ("entry_idx", "exit_idx"))
    if rows is not None:
        entry, leave = rows[entry], rows[leave]
    order = np.lexsort((column, entry))
    records, column, entry, leave = records[order], column[order], entry[order], leave[order]
    entry_time, exit_time = merged[entry], merged[leave]
    closed = records["status"] == 1
    direction = np.where(records["direction"] == 0, 1, -1).astype(np.int8)
    entry_price, exit_price = (np.ascontiguousarray(records[name], dtype=np.float64)
                               for name in ("entry_price", "exit_price"))
    mae, mfe = np.zeros(len(records)), np.zeros(len(records))
    bars = np.zeros(len(records), np.int64)
    for s in np.unique(column):
        mine = np.flatnonzero(column == s)
        own = candles[s]
        first = np.searchsorted(own.time, entry_time[mine])
        last = np.searchsorted(own.time, exit_time[mine], side="left")
        bars[mine] = last - first
        worst, best = np.empty(len(mine)), np.empty(len(mine))
        _excursions(first, last + (~closed[mine]), np.ascontiguousarray(own.high), np.ascontiguousarray(own.low),
                    entry_price[mine], exit_price[mine], direction[mine].astype(float), worst, best)
        mae[mine], mfe[mine] = np.minimum(worst, 0.0), np.maximum(best, 0.0)
        exit_time[mine[~closed[mine]]] = merged[-1]
    return {
        "symbol": np.array(symbols, object)[column], "direction": direction,
        "entry_time": entry_time, "exit_time": exit_time, "entry_price": entry_price, "exit_price": exit_price,
        "quantity": records["size"].astype(float), "fees": records["entry_fees"] + records["exit_fees"],
        "pnl": records["pnl"].astype(float), "return": records["return"].astype(float), "mae": mae, "mfe": mfe,
        "bars": bars, "status": np.array(["open", "closed"], object)[closed.astype(np.int64)],
    }


def holding(spec: BacktestSpec, closes: np.ndarray, merged: np.ndarray, candles: Sequence[Candles],
          benchmark: Candles | None) -> np.ndarray:
    """The starting cash held in the benchmark, or in equal parts in the run's markets, each from its first close."""
    if benchmark is not None:
        close = benchmark.close[np.maximum(np.searchsorted(benchmark.time, merged, side="right") - 1, 0)]
        return spec.cash * close / close[0]
    curve = closes[:, 0] / closes[0, 0]
    for s in range(1, len(candles)):
        curve += closes[:, s] / closes[0, s]  # before its first bar a market stands at its first close
    curve *= spec.cash / len(candles)
    return curve


def _positions(merged: np.ndarray, symbols: Sequence[str], quantity: np.ndarray, net: np.ndarray,
               closes: np.ndarray) -> Columns:
    rows, n = quantity.shape
    if n == 1:
        return {"time": merged, "symbol": np.broadcast_to(np.array(symbols[0], object), rows),
                "quantity": quantity[:, 0], "value": net}
    names = np.array(symbols, object)
    if rows * n <= MOST_POSITIONS:
        return {"time": np.repeat(merged, n), "symbol": np.tile(names, rows), "quantity": quantity.reshape(-1),
                "value": (quantity * closes).reshape(-1)}
    bar, column = np.nonzero(quantity)
    held = quantity[bar, column]
    return {"time": merged[bar], "symbol": names[column], "quantity": held, "value": held * closes[bar, column]}


