"""Answers to questions about how a model fares, made in threads of its book."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from engine import times
from engine.downsample import line_points
from engine.pnl import Position, Roundtrip
from engine.pnl_figures import STATED, WORKING, Figures, curves_of, figures_of, metrics_of, reported_figures
from engine.pnl_fills import Key
from server.services.profit_book import Book
from server.services.profit_prices import Prices

__all__ = ["REPORTED", "View", "equity", "figures_json", "metrics", "pnl", "positions", "roundtrips"]

REPORTED: Final = "reported by the model"
COMPUTED: Final = "computed from its orders at average cost"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What a question about a model is answered from, in a thread: its book up to date, prices, the instant (all in
    microseconds), and the series it reported when it computes its profit itself (else None)."""

    book: Book
    prices: Prices
    now: int
    points: Sequence[tuple[int, float]] | None = None

    def marks(self, time: Any) -> Mapping[Any, Any]:
        return self.prices.marks(self.book.ledger.fills, time)

    def figures(self) -> Figures:
        ledger = self.book.ledger
        computed = figures_of(ledger, self.marks, self.now)
        if self.points is None:
            return computed
        currency, exposure = "?", None
        if len(computed.totals) == 1:
            [(currency, totals)] = computed.totals.items()
            exposure = totals.exposure
        return reported_figures(self.points, self.now, currency=currency, exposure=exposure,
                                unpriced=computed.unpriced)


def figures_json(figures: Figures) -> dict[str, Any]:
    """Figures as events and answers show them."""
    return {"totals": {currency: asdict(totals) for currency, totals in figures.totals.items()},
            "unpriced": figures.unpriced, "reported": figures.reported}


def positions(view: View) -> dict[str, Any]:
    """Every symbol that was traded, open ones first, and symbols of which only orders without a price are known."""
    ledger = view.book.ledger
    unpriced: dict[Key, list[str]] = {}
    for each in ledger.unpriced.values():
        unpriced.setdefault(each.key, []).append(each.currency)
    columns = ledger.fills.columns()
    last = {key: int(columns["time"][columns["key"] == number].max()) for number, key in enumerate(ledger.fills.keys)
            if key in ledger.positions}
    items = [_position(view, position, last[key], len(unpriced.pop(key, ())))
             for key, position in ledger.positions.items()]
    for (exchange, symbol), currencies in unpriced.items():
        items.append({
            "symbol": symbol, "exchange": exchange, "currency": currencies[0], "quantity": 0.0, "average_cost": None,
            "price": None, "price_at": None, "price_source": None, "value": None, "unrealised": None, "realised": 0.0,
            "fees": 0.0, "fills": 0, "since": None, "unpriced": len(currencies)})
    items.sort(key=lambda item: (not item["quantity"], item["symbol"], item["exchange"]))
    return {"items": items, "unpriced": len(ledger.unpriced), "at": times.iso(view.now)}


def _position(view: View, position: Position, filled: int, unpriced: int) -> dict[str, Any]:
    latest = view.prices.latest(position.key, filled, max(view.now, filled))
    price, when, source = (*latest, "candle") if latest else (position.last, filled, "fill")
    held = bool(position.quantity)
    return {
        "symbol": position.key[1], "exchange": position.key[0], "currency": position.currency,
        "quantity": position.quantity, "average_cost": position.cost if held else None, "price": price,
        "price_at": times.iso(when), "price_source": source, "value": position.quantity * price,
        "unrealised": position.unrealised(price), "realised": position.realised, "fees": position.fees,
        "fills": position.fills, "since": times.iso(position.since) if held and position.since else None,
        "unpriced": unpriced}


def pnl(view: View) -> dict[str, Any]:
    """Totals by currency, the share of each symbol, what is left out."""
    ledger, figures = view.book.ledger, view.figures()
    symbols = [{"symbol": item["symbol"], "exchange": item["exchange"], "currency": item["currency"],
                "realised": item["realised"], "unrealised": item["unrealised"] or 0.0, "fees": item["fees"],
                "total": item["realised"] + (item["unrealised"] or 0.0), "unpriced": item["unpriced"]}
               for item in positions(view)["items"]]
    return figures_json(figures) | {
        "symbols": symbols, "outside_fees": dict(ledger.outside), "fills": len(ledger.fills),
        "source": REPORTED if figures.reported else COMPUTED, "base_source": WORKING, "at": times.iso(figures.at)}


def equity(view: View, points: int | None, capital: float | None) -> dict[str, Any]:
    """Profit over time by currency (`time` in microseconds), thinned out to `points`, with equity on its base."""
    found: dict[str, Any] = {}
    if view.points is not None:
        figures = view.figures()
        currency = next(iter(figures.totals), "?")
        if view.points:
            time, value = (np.array(column) for column in zip(*view.points, strict=True))
            found[currency] = _curve(time.astype(np.int64), value.astype(float), capital, points)
    else:
        for currency, curve in curves_of(view.book.ledger, view.marks, view.now).items():
            found[currency] = _curve(curve.time, curve.profit, curve.base if capital is None else capital, points)
        found = dict(sorted(found.items(), key=lambda each: -(each[1]["base"] or 0.0)))
    return {"curves": found, "reported": view.points is not None,
            "source": COMPUTED if view.points is None else REPORTED,
            "base_source": WORKING if capital is None else STATED, "unpriced": len(view.book.ledger.unpriced),
            "at": times.iso(view.now)}


def _curve(time: np.ndarray, profit: np.ndarray, base: float | None, points: int | None) -> dict[str, Any]:
    below = profit - np.maximum.accumulate(np.maximum(profit, 0.0))
    if points is not None and len(time) > points:
        kept = line_points(time, profit, points)
        time, profit, below = time[kept], profit[kept], below[kept]
    return {"time": time.tolist(), "value": profit.tolist(), "drawdown": below.tolist(), "base": base,
            "equity": None if base is None else (base + profit).tolist()}


def roundtrips(view: View, *, symbol: str, descending: bool, limit: int, offset: int) -> dict[str, Any]:
    """Closed trades by their end."""
    found = [trip for trip in view.book.ledger.roundtrips if not symbol or trip.key[1] == symbol]
    if descending:
        found.reverse()
    page = found[offset:offset + limit]
    return {"items": [_trip(trip) for trip in page], "total": len(found),
            "next": offset + limit if offset + limit < len(found) else None}


def _trip(trip: Roundtrip) -> dict[str, Any]:
    return {
        "symbol": trip.key[1], "exchange": trip.key[0], "currency": trip.currency, "direction": trip.direction,
        "entry_time": times.iso(trip.entry_at), "exit_time": times.iso(trip.exit_at), "quantity": trip.quantity,
        "entry_price": trip.entry_price, "exit_price": trip.exit_price, "fees": trip.fees, "pnl": trip.pnl,
        "return": trip.pnl / (trip.entry_price * trip.quantity)}


def metrics(view: View, capital: float | None) -> dict[str, Any]:
    """The figures of backtests, for each currency by itself, and how returns are annualised."""
    ledger, found = view.book.ledger, {}
    for currency in dict.fromkeys(position.currency for position in ledger.positions.values()):
        keys = [key for key, position in ledger.positions.items() if position.currency == currency]
        figures, periods = metrics_of(ledger, currency, view.marks, view.now, capital=capital,
                                      calendar=view.prices.calendar(keys))
        base = capital
        if base is None:
            base = curves_of(ledger, view.marks, view.now)[currency].base
        found[currency] = {"metrics": figures, "periods": periods.text, "base": base}
    return {"currencies": found, "base_source": WORKING if capital is None else STATED, "source": COMPUTED,
            "unpriced": len(ledger.unpriced), "at": times.iso(view.now)}
