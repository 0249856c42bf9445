"""Live minutes over an exchange's WebSocket, through ccxt.pro.

A line is one market's own connection. It hands on a minute only when it must be whole: it listened from the minute's
begin on (an exchange's candle holds all that was before), on one connection, and heard of a later minute. What it knew
is forgotten with the connection: whoever uses it asks over REST for whatever the line does not have. So a line may
break, fall silent or say things twice or late at any time, and no minute is lost, doubled or cut short by that.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from engine.errors import Unavailable
from engine.minutes import WIDTH, Gathering, Minute, Trade, minute_of, read_rows
from server.exchanges.exchange import Exchange, Listing
from server.exchanges.faults import clean
from server.exchanges.pages import trades_from

__all__ = ["Line"]

BREAKS: Final = 5  # so many
WITHIN: Final = 300.0  # seconds: too many; then the exchange is only asked
APART: Final = 600.0  # seconds, before the next try
SILENCE: Final = 30.0  # seconds without a message, while trades happened: the line is dead
LONGEST_PAUSE: Final = 30.0
ROWS: Final = 3  # of ccxt's newest candles that are looked at with each message
MOST: Final = 600  # minutes held for whoever listens
AHEAD: Final = 120  # seconds by which an exchange's clock may be before ours

log = logging.getLogger("workbench.exchanges")


class Line:
    """Lives on the exchanges' thread: all but the constructor and `closed` must be called there. `clock` gives seconds
    since 1970. `state` is "down", "up", or "resting" after it broke too often."""

    def __init__(self, exchange: Exchange, listing: Listing, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._listing = listing
        self._clock = clock
        self._breaks: deque[float] = deque()
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self.state: Literal["down", "up", "resting"] = "down"
        self.broken = 0
        """How often the line broke."""
        self._reset()

    def _reset(self) -> None:
        self._minutes: dict[int, Minute] = {}
        self._trades: dict[int, dict[str, Trade]] = {}
        self._first: int | None = None  # the first minute that this connection can tell whole
        self._newest = 0
        self._opened = self._clock()
        self._heard = time.monotonic()

    async def open(self) -> None:
        """Begin to listen, if ccxt can listen to this exchange."""
        if self._exchange.options.sockets and self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"line {self._listing.market.key}")

    def close(self) -> None:
        """Hang up."""
        if self._running is not None:
            self._running.cancel()

    # -- what whoever uses it asks

    async def take(self, start: int, end: int, close: float | None, patience: float) -> list[Minute]:
        """The whole minutes from `start` on (seconds), without holes, before `end`; waits up to `patience` seconds for
        the first of them. Empty when there is nothing to wait for: ask the exchange. `close`: of the minute before."""
        deadline = time.monotonic() + patience
        while True:
            self._news.clear()
            if found := self._whole(start, end, close):
                return found
            left = deadline - time.monotonic()
            if left <= 0 or self.state != "up" or self._first is None or not self._first <= start or (
                    self._newest > start):
                return []
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)

    def passed(self, start: int, traded: int | None) -> None:
        """All before `start` is known by other means; `traded` is the last minute with trades among it."""
        for held in (self._minutes, self._trades):
            for minute in [each for each in held if each < start]:
                del held[minute]  # type: ignore[attr-defined]
        quiet = time.monotonic() - self._heard
        if (traded is not None and self.state == "up" and self._newest < traded
                and traded > minute_of(self._opened) and quiet > SILENCE):
            self._break(f"nothing was said for {quiet:.0f} s while trades happened")

    def _whole(self, start: int, end: int, close: float | None) -> list[Minute]:
        if self._first is None or start < self._first:
            return []
        held = self._minutes or self._trades
        until = start
        while until < min(end, self._newest) and until in held:
            until += WIDTH
        if until == start:
            return []
        if self._minutes:
            return [self._minutes.pop(minute) for minute in range(start, until, WIDTH)]
        gathering = Gathering(start, close)
        for minute in range(start, until, WIDTH):
            gathering.push(self._trades.pop(minute).values())
        return gathering.take(end=until)

    # -- listening

    async def _run(self) -> None:
        while True:
            self._reset()
            self._listening = asyncio.create_task(self._listen())
            try:
                await asyncio.wait((self._listening,))
            finally:
                self._listening.cancel()
                self.state = "down"
                self._news.set()
            if self._listening.cancelled():
                why = "hung up"
            elif (error := self._listening.exception()) is None:
                return  # ccxt cannot listen to it
            else:
                why = clean(f"{type(error).__name__}: {error}", self._exchange.secrets)
            await asyncio.sleep(self._pause(why))

    def _pause(self, why: str) -> float:
        now = time.monotonic()
        self.broken += 1
        self._breaks.append(now)
        while now - self._breaks[0] > WITHIN:
            self._breaks.popleft()
        if len(self._breaks) >= BREAKS:
            self._breaks.clear()
            self.state = "resting"
            pause = APART
        else:
            pause = min(LONGEST_PAUSE, self._exchange.options.backoff * 2 ** (len(self._breaks) - 1))
        log.info("a line broke", extra={"facts": {"market": self._listing.market.key, "because": why,
                                                  "state": self.state, "again in": round(pause, 2)}})
        return pause * random.uniform(0.8, 1.2)

    def _break(self, why: str) -> None:
        log.warning("a line is silent", extra={"facts": {"market": self._listing.market.key, "because": why}})
        if self._listening is not None:
            self._listening.cancel()

    async def _listen(self) -> None:
        gone: list[BaseException | int] = []
        symbol = self._listing.symbol

        def heard(client: Any) -> None:  # before the next message can overwrite what this one said
            if cached := (client.ohlcvs or {}).get(symbol, {}).get("1m"):
                self._hear_candles(list(cached)[-ROWS:])

        client = self._exchange.open_socket(_watched(gone, heard))
        if client is None:
            return
        try:
            has = client.has
            candles = (self._exchange.options.candles and has.get("watchOHLCV") is True
                       and "1m" in (client.timeframes or {}))
            if not candles and has.get("watchTrades") is not True:
                return
            self.state = "up"
            while True:
                if candles:
                    self._hear_candles(await client.watch_ohlcv(symbol, "1m", None, ROWS))
                else:
                    self._hear_trades(await client.watch_trades(symbol))
                self._news.set()
                if gone:  # ccxt would open another connection without a word
                    raise Unavailable(f"the connection ended: {gone[0]}")
        finally:
            self._exchange.close_socket(client)

    def _hear_candles(self, rows: Sequence[Any]) -> None:
        self._heard = time.monotonic()
        for each in read_rows(rows, 0, int(self._clock()) + AHEAD):
            minute = int(each["start"])
            if self._first is None:
                self._first = minute
            known = self._minutes.get(minute)
            if known is None or each["volume"] >= known["volume"]:  # else an older state that came late
                self._keep(self._minutes, minute, each)

    def _hear_trades(self, answer: Sequence[Any]) -> None:
        self._heard = time.monotonic()
        for trade in trades_from(answer):
            minute = minute_of(trade.at / 1000)
            if not 0 <= minute < self._clock() + AHEAD:
                continue
            if self._first is None:
                self._first = minute + WIDTH  # of its own minute there may have been trades before
            if minute in self._trades:
                self._trades[minute].setdefault(trade.id, trade)
            else:
                self._keep(self._trades, minute, {trade.id: trade})

    def _keep(self, held: dict[int, Any], minute: int, what: Any) -> None:
        held[minute] = what
        self._newest = max(self._newest, minute)
        if len(held) > MOST:
            del held[min(held)]


def _watched(gone: list[BaseException | int], heard: Callable[[Any], None]) -> dict[str, Any]:
    """Methods for a class of ccxt.pro that note in `gone` when a connection ends, for whatever reason, and call `heard`
    after every message."""

    def on_error(self: Any, connection: Any, error: BaseException) -> None:
        gone.append(error)
        super(type(self), self).on_error(connection, error)

    def on_close(self: Any, connection: Any, code: int) -> None:
        gone.append(code)
        super(type(self), self).on_close(connection, code)

    def client(self: Any, address: str) -> Any:
        """ccxt's connection; what it cannot read would end its loop without a word."""
        from ccxt.base.errors import NetworkError

        connection = super(type(self), self).client(address)
        if "handle_message" not in vars(connection):
            handle = connection.handle_message

            def guarded(message: Any) -> None:
                try:
                    handle(message)
                    heard(self)
                except Exception as error:
                    connection.on_error(NetworkError(f"a message makes no sense: {error}"))

            connection.handle_message = guarded
        return connection

    return {"on_error": on_error, "on_close": on_close, "client": client}
