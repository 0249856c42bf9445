"""Minutes as they come from outside: gathered from trades, checked and filled, turned into columns.

A minute is a dict of start (whole seconds since 1970), open, high, low, close, vwp, volume and trades. Where a source
gives candles without vwp or number of trades, the close stands for the one and 0 for the other.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from engine import times
from engine.candles import Candles
from engine.errors import Invalid
from engine.model import Market

__all__ = ["FIELDS", "WIDTH", "Gathering", "Minute", "Trade", "candles_of", "fill", "flat", "minute_of", "read_rows"]

WIDTH: Final = 60
FIELDS: Final = ("open", "high", "low", "close", "vwp", "volume", "trades")
_COLUMNS: Final = ("open", "high", "low", "close", "volume")

Minute: TypeAlias = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trade:
    """One trade of others: milliseconds since 1970, price, amount; `id` "" where the exchange gives none."""

    at: int
    price: float
    amount: float
    id: str = ""


def minute_of(seconds: float) -> int:
    """The start of the minute in which an instant lies."""
    return int(seconds // WIDTH) * WIDTH


def flat(start: int, close: float) -> Minute:
    """A minute without trades."""
    return {"start": start, "open": close, "high": close, "low": close, "close": close, "vwp": close, "volume": 0.0,
            "trades": 0}


def fill(minutes: Sequence[Minute], start: int, close: float | None,
         most: int | None = None) -> tuple[list[Minute], int]:
    """The minutes with flat ones where some are missing from `start` on, and how many still are.

    A hole of more than `most` minutes stays; so does what is missing at the front without a `close` from before.
    """
    found: list[Minute] = []
    missing = 0
    for each in minutes:
        hole = (int(each["start"]) - start) // WIDTH
        if hole > 0 and close is not None and (most is None or hole <= most):
            found += [flat(start + number * WIDTH, close) for number in range(hole)]
        else:
            missing += max(0, hole)
        found.append(each)
        start, close = int(each["start"]) + WIDTH, each["close"]
    return found, missing


def read_rows(rows: Iterable[Sequence[Any]], start: int, end: int) -> list[Minute]:
    """Rows of (milliseconds, open, high, low, close, volume) as minutes from `start` to before `end`.

    They may come in any order and doubled (the last given counts), with times inside their minute. Rows without a
    usable price are left out.
    """
    found: dict[int, Minute] = {}
    for row in rows:
        try:
            at, figures = minute_of(row[0] / 1000), [float(each) for each in row[1:5]]
            volume = float(row[5] or 0.0) if len(row) > 5 else 0.0
        except (TypeError, ValueError, IndexError):
            continue
        if start <= at < end and all(math.isfinite(each) for each in (*figures, volume)):
            opened, high, low, close = figures
            found[at] = {"start": at, "open": opened, "high": high, "low": low, "close": close, "vwp": close,
                         "volume": volume, "trades": 0}
    return [found[at] for at in sorted(found)]


class Gathering:
    """Trades become minutes. The newest minute is held back until a later trade shows that it is complete.

    `start` (seconds): what is older is left out. `close`: the price before, for minutes without trades at the front.
    `longest`: so many minutes without trades are filled, more are left out (None: any number is filled). Trades of
    minutes that were given already, those without an amount, and doubles are left out and counted.
    """

    def __init__(self, start: int, close: float | None = None, longest: int | None = None) -> None:
        self.start = minute_of(start)
        self.late = 0
        self.latest: int | None = None
        self._close = close
        self._longest = longest
        self._held: dict[int, list[Trade]] = {}
        self._known: set[str] = set()

    def push(self, trades: Iterable[Trade]) -> int:
        """Take trades in any order; how many of them were new."""
        new = 0
        for trade in trades:
            if trade.amount <= 0 or not math.isfinite(trade.price) or (trade.id and trade.id in self._known):
                continue
            minute = minute_of(trade.at / 1000)
            if minute < self.start:
                self.late += 1
                continue
            if trade.id:
                self._known.add(trade.id)
            self._held.setdefault(minute, []).append(trade)
            self.latest = max(self.latest or trade.at, trade.at)
            new += 1
        return new

    def take(self, end: int | None = None) -> list[Minute]:
        """The complete minutes, those between them that had no trades included, oldest first.

        `end` (seconds): everything before is over by the clock, so the newest minute may be complete too.
        """
        if not self._held:
            return []
        newest = max(self._held)
        done = sorted(each for each in self._held if each < newest or (end is not None and each + WIDTH <= end))
        found: list[Minute] = []
        for minute in done:
            trades = self._held.pop(minute)
            found += self._quiet(minute)
            found.append(_candle(minute, trades))
            self._known -= {trade.id for trade in trades}
            self.start, self._close = minute + WIDTH, found[-1]["close"]
        if self._held and done:
            held = min(self._held)
            found += self._quiet(held)
            self.start = held
        return found

    def _quiet(self, end: int) -> list[Minute]:
        """What to put where nothing was traded up to `end`."""
        hole = range(self.start, end, WIDTH)
        if self._close is None or (self._longest is not None and len(hole) > self._longest):
            return []
        return [flat(at, self._close) for at in hole]


def _candle(start: int, trades: list[Trade]) -> Minute:
    trades = sorted(trades, key=lambda trade: trade.at)  # stable: as they were given within a millisecond
    volume = value = 0.0
    for trade in trades:
        volume += trade.amount
        value += trade.price * trade.amount
    prices = [trade.price for trade in trades]
    return {"start": start, "open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1],
            "vwp": value / volume, "volume": volume, "trades": len(trades)}


def candles_of(market: Market, minutes: Sequence[Minute]) -> Candles:
    """Minutes as columns for the store. Raises `Invalid` when there are none."""
    if not minutes:
        raise Invalid("there are no minutes")
    columns: dict[str, Any] = {name: np.array([each[name] for each in minutes], np.float64) for name in FIELDS}
    time = np.array([int(each["start"]) for each in minutes], np.int64) * times.SECOND
    return Candles(market=market, resolution=WIDTH, time=time, **{name: columns[name] for name in _COLUMNS},
                   extra={name: columns[name] for name in ("vwp", "trades")})
