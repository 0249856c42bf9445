"""One bot's book: its ledger as far as its orders are known, and the prices that were looked up for them.

A book is built from the rows of the orders in batches, and goes on from there with the orders of events. Everything
here blocks: use threads, one at a time for a book.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, Connection, func, or_, select

from engine import times
from engine.model import Market
from engine.pnl import AnyOrder, Counted, Ledger, executed, place_of
from engine.pnl_fills import Key
from engine.pnl_symbols import Pair, pair_of
from server.services.profit_prices import STALE, Prices
from server.store.encoding import decode
from server.store.tables import events
from server.store.tables.activity import models, orders, pnl_points

__all__ = ["BATCH", "Book", "look", "order_batch", "order_of_event"]

BATCH: Final = 5000
PAGE: Final = 1000
_COLUMNS: Final = (
    orders.c.at, orders.c.id, orders.c.symbol, orders.c.exchange, orders.c.kind, orders.c.side, orders.c.size,
    orders.c.funds, orders.c.price, orders.c.filled, orders.c.status, orders.c.executed_at, orders.c.canceled_at,
    orders.c.fee, orders.c.fee_currency)


def order_batch(connection: Connection, model: str, after: tuple[int, str] | None) -> Sequence[Any]:
    """The next `BATCH` rows of a model's live orders, by their bot's clock, after (at, id) of the last."""
    where: list[ColumnElement[bool]] = [orders.c.model_id == model, orders.c.run_id == ""]
    if after is not None:
        # the first bound alone is what the index understands
        where += [orders.c.at >= after[0], or_(orders.c.at > after[0], orders.c.id > after[1])]
    return connection.execute(select(*_COLUMNS).where(*where).order_by(orders.c.at, orders.c.id).limit(BATCH)).all()


def look(connection: Connection, model: str, after: int | None
         ) -> tuple[int, list[Any], bool, list[tuple[int, float]] | None] | None:
    """The number of a model's last event, the orders of its events after a number, whether there are more of those
    than a page (then the number is theirs), and its reported series when it does not leave the profit to us; None when
    there is no such model."""
    row = connection.execute(select(models.c.auto_pnl).where(models.c.id == model)).first()
    if row is None:
        return None
    stream = f"model/{model}"
    last = connection.execute(select(func.coalesce(func.max(events.c.seq), 0)).where(
        events.c.stream == stream)).scalar_one()
    page: Sequence[Any] = ()
    if after is not None and last > after:
        page = connection.execute(select(events.c.seq, events.c.data).where(
            events.c.stream == stream, events.c.seq > after, events.c.type == "order")
            .order_by(events.c.seq).limit(PAGE)).all()
    more = len(page) == PAGE
    points = None
    if not row.auto_pnl:
        series = select(pnl_points.c.at, pnl_points.c.value).where(pnl_points.c.model_id == model)
        points = [(each.at, each.value) for each in connection.execute(series.order_by(pnl_points.c.at))]
    found = [decode(each.data) for each in page]
    return page[-1].seq if more else last, [data for data in found if not data.get("run")], more, points


def order_of_event(data: Mapping[str, Any]) -> Counted:
    """What counts of the order in an event of type `order`."""
    def instant(name: str) -> datetime | None:
        value = data.get(name)
        return None if value is None else times.parse(value, field=name)

    at = instant("at")
    assert at is not None
    return Counted(
        id=data["id"], symbol=data["symbol"], exchange=data.get("exchange") or "", side=data["side"],
        kind=data["kind"], at=at, size=data.get("size"), funds=data.get("funds"),
        price=data.get("price"), filled=data.get("filled"), status=data.get("status"),
        executed_at=instant("executed_at"), canceled_at=instant("canceled_at"), fee=data.get("fee"),
        fee_currency=data.get("fee_currency") or "")


def _order_of_row(row: Any) -> Counted:
    at, id, symbol, exchange, kind, side, size, funds, price, filled, status, executed_at, canceled_at, *fee = row
    return Counted(
        times.instant(at), id, symbol, exchange, kind, side, size, funds, price, filled, status,
        None if executed_at is None else times.instant(executed_at),
        None if canceled_at is None else times.instant(canceled_at), *fee)


class Book:
    """`ledger` is right once `finish` was called. `seq`: the last number of the model's stream that is taken in."""

    def __init__(self, prices: Prices, *, sorted_whole: bool = False) -> None:
        self.ledger = Ledger()
        self.seq = 0
        self.disordered = False
        self._prices = prices
        self._pairs: dict[Key, Pair] = {}
        self._priced: dict[str, float] = {}
        self._looked: dict[Key, list[int]] = {}
        self._whole = sorted_whole
        self._waiting: list[Counted] = []

    # -- building

    def feed(self, rows: Sequence[Any]) -> None:
        """Take the next rows in. Orders wait until none that was placed later can have been executed earlier; where
        even that was not enough `disordered` is set, and a new book must be `sorted_whole`."""
        found = [order for order in map(_order_of_row, rows) if executed(order)]
        self._look_up(found)
        self._waiting += found
        if rows and not self._whole:
            self._add_until(times.instant(rows[-1][0]))

    def finish(self) -> None:
        self._add_until(None)
        self._priced = {}

    def _add_until(self, at: datetime | None) -> None:
        self._waiting.sort(key=place_of)
        count = len(self._waiting)
        if at is not None:
            count = bisect_left(self._waiting, at, key=lambda order: place_of(order)[0])
        for order in self._waiting[:count]:
            if not self.ledger.take(order, self._pair, self._price):
                self.disordered = True
                break
        del self._waiting[:count]

    # -- going on

    def take(self, found: Iterable[Counted]) -> bool:
        """Take orders of events in. False: the book must be built anew."""
        latest = {order.id: order for order in found}
        self._look_up([order for order in latest.values() if executed(order)])
        kept = all(self.ledger.take(order, self._pair, self._price)
                   for order in sorted(latest.values(), key=place_of))
        self._priced = {}
        return kept

    def touched(self, market: Market, first: int, last: int, resolution: int) -> bool:
        """Whether bars that open from `first` to `last` (microseconds) of a market may change the price of an order."""
        width = resolution * times.SECOND
        for key, looked in self._looked.items():
            if not self._same(key, market):
                continue
            looked.sort()
            place = bisect_left(looked, first + width)
            if place < len(looked) and looked[place] <= last + (1 + STALE) * width:
                return True
        return any(pair.currency == "?" and self._same(key, market) for key, pair in self._pairs.items())

    def holds(self, market: Market) -> bool:
        """Whether a market may be one of those that it trades."""
        return any(self._same(key, market) for key in self._pairs)

    def priceable(self) -> bool:
        """Whether a price can be told now of an order that had none."""
        return any(not np.isnan(self._prices.at(each.key, [times.micros(each.at)])[0])
                   for each in self.ledger.unpriced.values())

    def _same(self, key: Key, market: Market) -> bool:
        return self._pairs[key].asset.upper() == market.asset.upper() if key in self._pairs else (
            pair_of(key[1]).asset.upper() == market.asset.upper())

    def _pair(self, order: AnyOrder) -> Pair:
        key = (order.exchange, order.symbol)
        pair = self._pairs.get(key)
        if pair is None:
            pair = pair_of(order.symbol)
            if pair.currency == "?":
                market = next(iter(self._prices.markets(key)), None)
                pair = pair if market is None else Pair(pair.asset, market.currency.upper())
            self._pairs[key] = pair
        return pair

    def _price(self, order: AnyOrder) -> float | None:
        return self._priced.get(order.id)

    def _look_up(self, found: Sequence[Counted]) -> None:
        """Ask for the prices of orders that say none, all of a symbol at once."""
        asked: dict[Key, list[Counted]] = {}
        for order in found:
            if order.price is None or not order.price > 0:
                asked.setdefault((order.exchange, order.symbol), []).append(order)
        for key, mine in asked.items():
            instants = [times.micros(order.executed_at or order.at) for order in mine]
            self._looked.setdefault(key, []).extend(instants)
            for order, price in zip(mine, self._prices.at(key, instants), strict=True):
                if price > 0:
                    self._priced[order.id] = float(price)
