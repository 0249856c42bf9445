"""Where the minutes of a watched market come from: an exchange, or the candle store replayed.

A feed has a clock of its own, in seconds. An exchange's is the world's; a replay's is the market's past. Minutes are
plain dicts, ready for `engine.gekko_live`: start (whole seconds), open, high, low, close, vwp, volume, trades.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from engine import times
from engine.candles import Candles
from engine.errors import Invalid, NotFound
from engine.gekko_ranges import read_date
from engine.model import Market
from server.services.markets import Markets

__all__ = ["REPLAY", "ExchangeFeed", "Feed", "Minute", "Replay", "ReplayFeed", "candles_of", "minutes_of", "replay_of"]

REPLAY: Final = "replay"
"""The exchange that plays stored candles back."""

MINUTE: Final = 60
SPEED: Final = 60.0
AT_ONCE: Final = 500  # minutes handed over together
CHUNK: Final = 10_000  # minutes read together
SHORTEST: Final = 0.05  # seconds between two hand-overs of a replay
IDLE: Final = 1.0  # seconds between looks for new candles at a replay's end
INTERVAL: Final = 20.0
LONG_AGO: Final = -(10**10)  # before all candles

Minute = dict[str, Any]


class Feed(Protocol):
    """Minutes in order of time, in groups of at most `AT_ONCE`."""

    stored: bool  # whether the minutes come from the store, so that they need not be written there
    home: Market  # where the store has this market's candles

    def now(self) -> int | None:
        """The minute that runs on the feed's clock; None when that stands still until somebody listens."""

    async def begins(self) -> int:
        """The first minute that somebody who listens from now on hears. Raises `Invalid` when there is none."""

    def minutes(self, since: int | None) -> AsyncIterator[list[Minute]]:
        """From the minute `since` on; None: from `now`. Raises `NotFound` and `Invalid` for what will never work,
        `Unavailable` and others for what may work later."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What to replay: the stored market, seconds from and to (inclusive), and how many times faster than life; 0 is as
    fast as it goes."""

    source: Market
    speed: float = SPEED
    start: int | None = None
    end: int | None = None


def replay_of(watch: Mapping[str, Any], markets: list[Market]) -> Replay:
    """What the `watch` of a configuration with the exchange "replay" asks for, among these stored markets.

    `source` names the exchange whose candles are played (not needed where only one has the market), `speed`, `from`
    and `to` the rest. Raises `Invalid`.
    """
    def same(a: object, b: object) -> bool:
        return isinstance(a, str) and isinstance(b, str) and a.casefold() == b.casefold()

    fits = [market for market in markets
            if same(market.asset, watch.get("asset")) and same(market.currency, watch.get("currency"))]
    source = watch.get("source")
    if source is not None:
        fits = [market for market in fits if same(market.exchange, source)]
    if len(fits) != 1:
        pair = f"{watch.get('asset')}/{watch.get('currency')}"[:100]
        if not fits:
            raise Invalid(f"there are no candles of {pair} to replay", field="watch.source" if source else "watch",
                          remedy="import them first; /api/scansets lists what there is")
        raise Invalid(f"{len(fits)} exchanges have candles of {pair}", field="watch.source",
                      remedy="choose one of " + ", ".join(sorted(market.exchange for market in fits)))
    speed = watch.get("speed", SPEED)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 <= speed <= 1e9:
        raise Invalid(f"{speed!r} is no speed"[:100], field="watch.speed",
                      remedy="60 plays an hour in a minute, 0 is as fast as it goes")
    start, end = (None if watch.get(key) is None else read_date(watch[key], field=f"watch.{key}")
                  for key in ("from", "to"))
    if start is not None and end is not None and end < start:
        raise Invalid("the replay ends before it begins", field="watch.to", remedy="give a later date")
    return Replay(source=fits[0], speed=float(speed), start=start, end=end)


class ReplayFeed:
    """Stored candles, at a speed. At their end it waits for more."""

    stored = True

    def __init__(self, replay: Replay, markets: Markets) -> None:
        self._replay = replay
        self._markets = markets
        self.home = replay.source

    def now(self) -> int | None:
        return None

    async def begins(self) -> int:
        start = None if self._replay.start is None else self._replay.start * times.SECOND
        end = None if self._replay.end is None else self._replay.end * times.SECOND
        first = await self._markets.candles(self.home, MINUTE, start, end, limit=1)
        return int(first.candles.time[0]) // times.SECOND

    async def minutes(self, since: int | None) -> AsyncIterator[list[Minute]]:
        replay = self._replay
        position = max(LONG_AGO if value is None else value for value in (since, replay.start))
        width = MINUTE / replay.speed if replay.speed else 0.0
        clock = asyncio.get_running_loop().time
        due = clock()
        while replay.end is None or position <= replay.end:
            ahead = await self._read(position)
            if not ahead:
                await asyncio.sleep(IDLE)
                due = max(due, clock())
                continue
            position = ahead[-1]["start"] + 1
            place = 0
            while place < len(ahead):
                count = AT_ONCE
                if width:
                    count = min(AT_ONCE, max(1, math.ceil(SHORTEST / width)))
                    due = max(due + count * width, clock() - 1.0)  # never more than a second's worth at once
                    await asyncio.sleep(max(0.0, due - clock()))
                yield ahead[place:place + count]
                place += count
        await asyncio.Event().wait()  # until whoever listens leaves

    async def _read(self, position: int) -> list[Minute]:
        end = None if self._replay.end is None else self._replay.end * times.SECOND
        try:
            page = await self._markets.candles(self.home, MINUTE, position * times.SECOND, end, limit=CHUNK)
        except Invalid:  # none from there on
            return []
        return await asyncio.to_thread(minutes_of, page.candles)


class ExchangeFeed:
    """A market of an exchange, as it trades. `exchanges` is the service of that name."""

    stored = False

    def __init__(self, market: Market, exchanges: Any, interval: float = INTERVAL) -> None:
        self.home = market
        self._exchanges = exchanges
        self._interval = interval

    def now(self) -> int:
        return int(getattr(self._exchanges, "clock", time.time)()) // MINUTE * MINUTE

    async def begins(self) -> int:
        return self.now()

    async def minutes(self, since: int | None) -> AsyncIterator[list[Minute]]:
        """Minutes that come close together are handed over together."""
        if self._exchanges is None:
            raise NotFound(f"there is no exchange {self.home.exchange!r}", field="watch.exchange")
        waiting: asyncio.Queue[Minute] = asyncio.Queue(AT_ONCE)

        async def fetch() -> None:
            async with aclosing(self._exchanges.candles(self.home, since, self._interval)) as found:
                async for minute in found:
                    await waiting.put(minute)

        fetching = asyncio.ensure_future(fetch())
        try:
            while True:
                first = asyncio.ensure_future(waiting.get())
                try:
                    await asyncio.wait((first, fetching), return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError:
                    first.cancel()
                    raise
                if not first.done():
                    first.cancel()
                    fetching.result()  # raises what ended it
                    return
                group = [first.result()]
                await asyncio.sleep(0)
                while not waiting.empty() and len(group) < AT_ONCE:
                    group.append(waiting.get_nowait())
                yield group
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)


def minutes_of(candles: Candles) -> list[Minute]:
    """Rows; vwp is the close and trades are 0 where the store has none, as in a backtest."""
    close = candles.close
    vwp = candles.extra.get("vwp", close)
    vwp = np.where(np.isfinite(vwp), vwp, close)
    trades = np.nan_to_num(candles.extra.get("trades", np.zeros(len(close))))
    whole = trades.astype(np.int64)
    columns = [candles.time // times.SECOND, candles.open, candles.high, candles.low, close, vwp, candles.volume,
               whole if (whole == trades).all() else trades]
    names = ("start", "open", "high", "low", "close", "vwp", "volume", "trades")
    return [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]


def candles_of(market: Market, minutes: list[Minute]) -> Candles:
    """Minutes as the store takes them."""
    def column(name: str) -> np.ndarray:
        return np.array([minute[name] for minute in minutes], np.float64)

    return Candles(
        market=market, resolution=MINUTE, time=np.array([minute["start"] for minute in minutes], np.int64)
        * times.SECOND, open=column("open"), high=column("high"), low=column("low"), close=column("close"),
        volume=column("volume"), extra={"vwp": column("vwp"), "trades": column("trades")})
