"""Stretches of history: candles where the exchange offers them, else trades made into minutes.

A page is what one or a few questions gave. Minutes that are missing in it are asked for a second time; what is missing
then was a time without trades (up to an hour, filled as Gekko fills it) or a time that the exchange lacks (left out):
nobody shall trade on hours of candles that were made up.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import Invalid
from engine.minutes import WIDTH, Gathering, Minute, Trade, fill, flat, minute_of, read_rows
from server.exchanges.exchange import Exchange, Listing

__all__ = ["Page", "read_page", "trades_from"]

ROWS: Final = 500  # candles or trades asked for where ccxt does not know the exchange's limit
FILLED: Final = 60  # minutes: a longer hole is no time without trades
RECENT: Final = 600  # seconds: what is younger may still be on its way
LATE: Final = 300  # seconds by which candles may begin later than asked before trades are asked for
AGAIN: Final = 8  # holes of one page that are asked for once more
TRADE_QUESTIONS: Final = 20  # of one page
MOST_QUESTIONS: Final = 200  # of one page that found nothing
SETTLED: Final = 60  # seconds after which a minute gets no more trades
HOUR: Final = 3600
SHORT: Final[Mapping[str, int]] = {"kraken": 700, "krakenfutures": 700}
"""Exchanges whose candles reach back only so many minutes, whatever is asked for (their API documents say so)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Minutes from a point on. `until` (seconds): all before it is here, or is nowhere. `latest`: of the newest trade
    or candle received. `missing`: minutes that the exchange does not have."""

    minutes: tuple[Minute, ...]
    until: int
    latest: int | None = None
    missing: int = 0


async def read_page(exchange: Exchange, listing: Listing, start: int, end: int, *, close: float | None = None,
                    longest: int | None = FILLED, now: float | None = None) -> Page:
    """The next minutes from `start` to before `end` (whole minutes in seconds); `end` must be over.

    close: of the minute before. longest: holes of more minutes are left (None: none are). `until` is `start` when
    there is nothing yet. Raises `Invalid` for an exchange that offers neither candles nor trades.
    """
    now = time.time() if now is None else now
    if _has_candles(exchange, start, now):
        return await _from_candles(exchange, listing, start, end, close, longest, now)
    if not exchange.offers("fetchTrades"):
        raise Invalid(f"{exchange.name} offers neither candles nor trades", field="watch.exchange",
                      remedy="use another exchange, or import a file")
    page = await _from_trades(exchange, listing, start, end, close, longest, now)
    if not page.minutes and close is not None and longest is None:
        return Page(minutes=(), until=start)
    return page


def _has_candles(exchange: Exchange, start: int, now: float) -> bool:
    client = exchange.client
    reach = SHORT.get(exchange.options.kind, math.inf) * WIDTH
    return (exchange.options.candles and exchange.offers("fetchOHLCV") and "1m" in (client.timeframes or {})
            and start >= now - reach)


async def _from_candles(exchange: Exchange, listing: Listing, start: int, end: int, close: float | None,
                        longest: int | None, now: float) -> Page:
    rows = exchange.most("fetchOHLCV", listing.symbol, ROWS)
    asked = min(rows, (end - start) // WIDTH + 1)
    found = (await _candles(exchange, listing, start, end, asked)
             or await _candles(exchange, listing, start, end, asked))  # nothing is not believed at once
    if not found:
        if close is not None and longest is None:  # without holes: the next minute says what was before it
            return Page(minutes=(), until=start)
        page = await _before(exchange, listing, start, end, close, longest, now)
        return page or await _nothing(exchange, listing, start, end, now)
    holes = _holes(found, start)
    for first, last in holes[:AGAIN]:
        if (last - first) // WIDTH < rows:
            found += await _candles(exchange, listing, first, last, (last - first) // WIDTH + 1)
    found = sorted(found, key=lambda each: each["start"])
    first = int(found[0]["start"])
    if first - start >= LATE and (page := await _before(exchange, listing, start, first, close, longest, now)):
        return page
    until = int(found[-1]["start"]) + WIDTH
    minutes, missing = fill(found, start, close, longest)
    return Page(minutes=tuple(minutes), until=until, latest=until - WIDTH, missing=missing)


async def _before(exchange: Exchange, listing: Listing, start: int, end: int, close: float | None,
                  longest: int | None, now: float) -> Page | None:
    """Minutes of trades where candles are missing: some exchanges keep candles for a shorter time."""
    if not exchange.offers("fetchTrades"):
        return None
    page = await _from_trades(exchange, listing, start, min(end, start + HOUR), close, longest, now)
    return page if page.minutes else None


async def _candles(exchange: Exchange, listing: Listing, start: int, end: int, rows: int) -> list[Minute]:
    return read_rows(await exchange.ask("fetch_ohlcv", listing.symbol, "1m", start * 1000, rows), start, end)


def _holes(minutes: list[Minute], start: int) -> list[tuple[int, int]]:
    """(first, end) of each stretch of missing minutes, from `start` to the last minute."""
    found, expected = [], start
    for each in minutes:
        at = int(each["start"])
        if at > expected:
            found.append((expected, at))
        expected = at + WIDTH
    return found


async def _nothing(exchange: Exchange, listing: Listing, start: int, end: int, now: float) -> Page:
    """An empty answer: nothing in this stretch, or nothing before the market was listed."""
    until = end
    if end - start > 2 * 86400 and "1d" in (exchange.client.timeframes or {}):
        days = await exchange.ask("fetch_ohlcv", listing.symbol, "1d", start * 1000, ROWS)
        begin = min((int(row[0]) // 1000 for row in days if row[0] // 1000 > start), default=end)
        until = max(start + WIDTH, min(end, begin))
    elif end - start > HOUR:
        until = start + HOUR
    until = max(start, min(until, minute_of(now - RECENT)))  # the newest minutes may only be late
    return Page(minutes=(), until=until, missing=(until - start) // WIDTH)


async def _from_trades(exchange: Exchange, listing: Listing, start: int, end: int, close: float | None,
                       longest: int | None, now: float) -> Page:
    """At least a minute, if there were trades; about an hour, if that takes few questions."""
    gathering, minutes = Gathering(start, close, longest), list[Minute]()
    rows = exchange.most("fetchTrades", listing.symbol, ROWS)
    since, questions, over = start * 1000, 0, False
    while not over:
        trades = trades_from(await exchange.ask("fetch_trades", listing.symbol, since, rows)
                             or await exchange.ask("fetch_trades", listing.symbol, since, rows))
        questions += 1
        new = gathering.push(trades)
        newest = max((trade.at for trade in trades), default=0)
        if newest >= end * 1000:
            over = True
        elif new:  # a page may end in the middle of a millisecond: that one is asked for again
            since = max(since, newest)
        else:  # nothing in the stretch that the exchange looked at, or more in one instant than it gives at once
            since += 1000 if trades else HOUR * 1000
            over = since >= min(end, now) * 1000
        minutes += gathering.take(end=minute_of(min(end, now - SETTLED)) if over else None)
        enough = minutes and (questions >= TRADE_QUESTIONS or minutes[-1]["start"] - start >= HOUR)
        if enough or questions >= MOST_QUESTIONS:
            break
    kept = [each for each in minutes if each["start"] < end]
    latest = None if gathering.latest is None else min(gathering.latest // 1000, end)
    reached = int(kept[-1]["start"]) + WIDTH if kept else start
    if over and newest >= end * 1000:  # what comes later is known, so what is missing up to there had no trades
        before = kept[-1]["close"] if kept else close
        if before is not None and (longest is None or (end - reached) // WIDTH <= longest):
            kept += [flat(at, before) for at in range(reached, end, WIDTH)]
        until = end
    elif kept:
        until = reached
    else:
        until = max(start, min(end, minute_of(min(since / 1000, now - RECENT))))
    return Page(minutes=tuple(kept), until=until, latest=latest, missing=(until - start) // WIDTH - len(kept))


def trades_from(answer: Iterable[Mapping[str, Any]]) -> list[Trade]:
    """What can be read of an answer. Trades without an id are told apart by what they are and how often."""
    found: list[Trade] = []
    often: Counter[tuple[int, float, float]] = Counter()
    for each in answer:
        try:
            at, price, amount = int(each["timestamp"]), float(each["price"]), float(each["amount"])
        except (TypeError, ValueError, KeyError):
            continue
        id = each.get("id")
        if not id:
            often[at, price, amount] += 1
            id = f"{at} {price} {amount} {often[at, price, amount]}"
        found.append(Trade(at=at, price=price, amount=amount, id=str(id)))
    return found
