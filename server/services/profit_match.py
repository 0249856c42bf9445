"""A model's live trades beside those of a run: uploaded, detached or native, whatever has a table of fills."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np

from engine import times
from engine.activity import Model
from engine.downsample import line_points
from engine.errors import Conflict, Invalid
from engine.match import Match, Trade, match
from engine.model import Run
from engine.pnl_figures import STATED, WORKING, curves_of
from engine.pnl_fills import Fills, Key, tracks
from engine.pnl_symbols import pair_of
from server.services.profit import Profit
from server.services.profit_views import View
from server.services.runs import Runs

__all__ = ["live_window", "matched"]

DRAWN: Final = 1500
SHOWN: Final = 10_000
MINUTE: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Backtest:
    """What is compared of a run: `time`, `value` of its equity at the ends of its bars, and its fills."""

    start: int
    end: int
    time: np.ndarray
    value: np.ndarray
    names: frozenset[str]
    trades: tuple[Trade, ...]
    unpriced: int


def live_window(view: View, model: Model) -> tuple[int, int]:
    """From the first fill to the model's end, else to when it was heard of last (microseconds), never before its last
    fill. Raises `Conflict` for a model that has not traded."""
    filled = view.book.ledger.fills.time
    if not len(filled):
        raise Conflict("the model has made no trade that has a price", remedy="compare it once it has traded")
    end = model.ended_at or model.heard_at
    if model.running is False and model.ended_at is None:
        end = None
    return int(filled[0]), max(int(filled[-1]), times.micros(end) if end else 0)


async def matched(profit: Profit, runs: Runs, model: Model, run_id: str, *, tolerance: float | None = None,
                  start: int | None = None, end: int | None = None, capital: float | None = None) -> dict[str, Any]:
    """The two on the time that both cover (or what is stated of it, microseconds), the symbols of the run. `tolerance`
    in seconds; None: a bar of the run and a minute. Raises `NotFound`, `Conflict` and `Invalid`."""
    run = await runs.get(run_id)
    width = times.resolution(run.resolution) if run.resolution else 0
    fills, equity = await runs.table(run_id, "fills"), await runs.table(run_id, "equity")
    seconds = width + MINUTE if tolerance is None else tolerance

    def work(view: View) -> dict[str, Any]:
        other = _read(run, fills, equity, width)
        first, last = live_window(view, model)
        window = (max(first, other.start) if start is None else start, min(last, other.end) if end is None else end)
        if window[0] > window[1]:
            raise Invalid("the model and the run have no time in common", field="run", remedy=(
                f"the model traded from {times.iso(first)} to {times.iso(last)}, the run has "
                f"{times.iso(other.start)} to {times.iso(other.end)}"))
        return _compare(view, other, window, seconds, capital)

    return await profit.ask(model.id, work)


def _read(run: Run, fills: Any, equity: Any, width: int) -> _Backtest:
    time, value = (np.asarray(equity[name].to_numpy(zero_copy_only=False)) for name in ("time", "value"))
    if not len(time):
        raise Conflict("the run has no equity curve", remedy="choose another run")
    names = frozenset("/".join(_pair(key)) for key in run.markets)
    symbols = fills["symbol"].cast("string").to_pylist()
    known = {symbol: "/".join(_pair(symbol)) for symbol in set(symbols)}
    rows = zip(symbols, fills["time"].cast("int64").to_pylist(), fills["side"].to_pylist(),
               fills["price"].to_pylist(), fills["quantity"].to_pylist(), strict=True)
    trades = [Trade(symbol=known[symbol], side="buy" if side > 0 else "sell", at=times.instant(at), price=price,
                    quantity=quantity) for symbol, at, side, price, quantity in rows
              if price is not None and price > 0]
    time = time.astype(np.int64)
    return _Backtest(start=int(time[0]), end=int(time[-1]) + width * times.SECOND, time=time + width * times.SECOND,
                     value=value.astype(float), names=names | frozenset(known.values()), trades=tuple(trades),
                     unpriced=len(symbols) - len(trades))


def _compare(view: View, other: _Backtest, window: tuple[int, int], seconds: float,
             capital: float | None) -> dict[str, Any]:
    fills = view.book.ledger.fills
    names = {key: _name(key, currency, other.names) for key, currency in zip(fills.keys, fills.currencies, strict=True)}
    mine, left_out = fills, 0
    if any(names[key] not in other.names for key in names):
        mine = Fills()
        for fill in fills:
            if names[fill.key] in other.names:
                mine.append(fill)
            else:
                left_out += 1
    margin = round(seconds * times.SECOND)
    live = [Trade(symbol=names[fill.key], side="buy" if fill.quantity > 0 else "sell", at=fill.at, price=fill.price,
                  quantity=abs(fill.quantity), id=fill.id)
            for fill in _near(mine, window, margin)]
    theirs = [trade for trade in other.trades
              if window[0] - margin <= times.micros(trade.at) <= window[1] + margin]
    found = match(live, theirs, timedelta(seconds=seconds))
    alone = [[trade for trade in trades if window[0] <= times.micros(trade.at) <= window[1]]
             for trades in (found.only_live, found.only_backtest)]
    count = len(found.pairs) + len(alone[0]) + len(alone[1])
    trades = _trades(found, alone)
    return {
        "match_rate": len(found.pairs) / count if count else None, "matched": len(found.pairs),
        "only_live": len(alone[0]), "only_backtest": len(alone[1]), "tolerance": seconds,
        "start": times.iso(window[0]), "end": times.iso(window[1]),
        "median_delay": found.median_late, "worst_delay": found.worst_late,
        "median_price_difference": found.median_price, "worst_price_difference": found.worst_price,
        "symbols": sorted({trade.symbol for trade in (*live, *theirs)}), "left_out": left_out,
        "unpriced_live": len(view.book.ledger.unpriced), "unpriced_backtest": other.unpriced,
        "trades": trades[:SHOWN], "total": len(trades)} | _curves(view, mine, other, window, capital)


def _near(fills: Fills, window: tuple[int, int], margin: int) -> Iterable[Any]:
    time = fills.time
    first, last = np.searchsorted(time, window[0] - margin), np.searchsorted(time, window[1] + margin, side="right")
    return (fills[row] for row in range(int(first), int(last)))


def _trades(found: Match, alone: list[list[Trade]]) -> list[dict[str, Any]]:
    rows = [(pair.live.at, {"live": _shown(pair.live), "backtest": _shown(pair.backtest), "delay": pair.late,
                            "price_difference": pair.price}) for pair in found.pairs]
    for side, trades in zip(("live", "backtest"), alone, strict=True):
        rows += [(trade.at, {"live": None, "backtest": None, "delay": None, "price_difference": None}
                  | {side: _shown(trade)}) for trade in trades]
    rows.sort(key=lambda row: row[0])
    return [row for _, row in rows]


def _shown(trade: Trade) -> dict[str, Any]:
    return {"time": times.iso(trade.at), "symbol": trade.symbol, "side": trade.side, "price": trade.price,
            "quantity": trade.quantity} | ({"id": trade.id} if trade.id else {})


def _curves(view: View, mine: Fills, other: _Backtest, window: tuple[int, int],
            capital: float | None) -> dict[str, Any]:
    """Both as returns since the window's start, along the same instants: the ends of the run's bars and live fills."""
    inside = (other.time >= window[0]) & (other.time <= window[1])
    filled = mine.time
    filled = filled[(filled >= window[0]) & (filled <= window[1])]
    time = np.union1d(np.array(window, np.int64), np.concatenate((other.time[inside], filled)))
    place = np.searchsorted(other.time, time, side="right") - 1
    value = other.value[np.maximum(place, 0)]
    backtest = value / value[0] - 1.0 if value[0] > 0 else np.full(len(time), np.nan)
    live, base, currency = np.full(len(time), np.nan), capital, None
    along = np.concatenate(([window[0] - 1], time))
    worth = tracks(mine, along, view.prices.marks(mine, along))
    if worth:
        currency = max(worth, key=lambda each: float(worth[each].gross.max()))
        if base is None:
            base = curves_of(view.book.ledger, view.marks, view.now)[currency].base
        if base > 0:
            live = (worth[currency].profit[1:] - worth[currency].profit[0]) / base
    return {"live": _thin(time, live), "backtest": _thin(time, backtest), "currency": currency, "live_base": base,
            "live_base_source": WORKING if capital is None else STATED}


def _thin(time: np.ndarray, value: np.ndarray) -> dict[str, Any]:
    kept = line_points(time, value, DRAWN)
    return {"time": time[kept].tolist(), "value": value[kept].tolist()}


def _name(key: Key, currency: str, names: frozenset[str]) -> str:
    """A live symbol as the run's symbols are called; one without a currency is the run's with the same asset."""
    asset = pair_of(key[1]).asset.upper()
    if currency == "?":
        return min((name for name in names if name.partition("/")[0] == asset), default=f"{asset}/?")
    return f"{asset}/{currency.upper()}"


def _pair(symbol: str) -> tuple[str, str]:
    """Asset and currency of a market's key or a plain symbol, in capitals."""
    exchange, colon, rest = symbol.partition(":")
    pair = pair_of(rest if colon and "/" in rest and "/" not in exchange else symbol)
    return pair.asset.upper(), pair.currency.upper()
