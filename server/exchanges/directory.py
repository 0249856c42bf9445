"""All exchanges, for the server's own loop: one connection each, opened on first use and shared."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Final

from engine.errors import Invalid, NotFound, WorkbenchError
from engine.minutes import Minute, minute_of
from engine.model import Market
from server.exchanges.account import Account
from server.exchanges.catalogue import KNOWN, Catalogue
from server.exchanges.exchange import Exchange, Listing
from server.exchanges.live import follow
from server.exchanges.options import NAME, ExchangeOptions, read_options
from server.exchanges.pages import FILLED, Page, read_page
from server.exchanges.sockets import Line
from server.exchanges.thread import LoopThread

__all__ = ["Exchanges"]

log = logging.getLogger("workbench.exchanges")
SETTLE: Final = 2.0  # seconds after a minute's end before it is asked for: clocks differ


class Exchanges:
    """See the package's docstring. `clock` gives seconds since 1970."""

    def __init__(self, folder: Path, options: Mapping[str, ExchangeOptions] | Path | None = None, *,
                 clock: Callable[[], float] = time.time, settle: float = SETTLE) -> None:
        self.clock = clock
        self._settle = settle
        self._options = dict(options) if isinstance(options, Mapping) else read_options(options)
        self._catalogue = Catalogue(folder)
        self._thread = LoopThread("exchanges")
        self._open: dict[str, Exchange] = {}
        self._kept: set[str] = set()
        self._loading: dict[str, asyncio.Future[None]] = {}

    async def close(self) -> None:
        """Close every connection."""
        for task in list(self._loading.values()):
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for exchange in self._open.values():
            await self._thread.run(exchange.close)
        self._open.clear()
        await self._thread.close()

    # -- what there is

    def names(self) -> list[str]:
        """Exchanges that are listed without further ado: well-known ones and those of the operator's file."""
        return sorted({*KNOWN, *self._options})

    async def capabilities(self) -> list[dict[str, Any]]:
        """Gekko's capability objects, from what is known. Markets of the operator's own exchanges are loaded meanwhile,
        for the next time; no other is asked."""
        for name in self._options.keys() - self._kept - self._loading.keys():
            task = self._loading[name] = asyncio.ensure_future(self._load_quietly(name))
            task.add_done_callback(partial(self._loaded, name))
        return await asyncio.to_thread(self._catalogue.read, list(self._options))

    def _loaded(self, name: str, _: object) -> None:
        self._loading.pop(name, None)

    async def _load_quietly(self, name: str) -> None:
        try:
            await self._load(self._exchange(name))
        except WorkbenchError as error:
            log.warning("markets could not be loaded", extra={"facts": {"exchange": name, "error": str(error)}})

    async def known(self, name: str) -> bool:
        """Whether there is an exchange of this name (any of ccxt's, or the operator's)."""
        return isinstance(name, str) and (name in self.names() or await asyncio.to_thread(_in_ccxt, name))

    async def refresh(self, name: str) -> dict[str, Any]:
        """Load an exchange's markets now; its capability object. Raises `NotFound`, `Unavailable`."""
        exchange = self._exchange(name)
        await self._load(exchange)
        return next(each for each in await self.capabilities() if each["slug"] == exchange.name)

    async def listing(self, market: Market) -> Listing:
        """The market as the exchange lists it, its markets loaded when they are not yet. Raises `NotFound`."""
        exchange = self._exchange(market.exchange)
        await self._load(exchange)
        return await self._thread.run(lambda: exchange.listing(market))

    async def _load(self, exchange: Exchange) -> None:
        listings = await self._thread.run(exchange.load)
        if exchange.name not in self._kept:
            await asyncio.to_thread(self._catalogue.keep, exchange, list(listings.values()))
            self._kept.add(exchange.name)

    def _exchange(self, name: str) -> Exchange:
        name = _name(name)
        found = self._open.get(name)
        if found is None:
            found = self._open[name] = Exchange(name, self._options_of(name))
        return found

    def _options_of(self, name: str) -> ExchangeOptions:
        return self._options.get(name) or ExchangeOptions(kind=name)

    # -- candles

    def over(self) -> int:
        """The end (seconds) of the last minute that is over."""
        return minute_of(self.clock() - self._settle)

    async def page(self, market: Market, start: int, end: int, *, close: float | None = None,
                   longest: int | None = FILLED) -> Page:
        """The next minutes from `start` to before `end` (seconds); see `read_page`. A minute that is not over is never
        among them."""
        exchange = self._exchange(market.exchange)
        listing = await self.listing(market)
        end = min(minute_of(end), self.over())
        if end <= start:
            return Page(minutes=(), until=start)
        return await self._thread.run(lambda: read_page(exchange, listing, start, end, close=close, longest=longest,
                                                        now=self.clock()))

    async def candles(self, market: Market, since: int | None = None, interval: float = 20.0) -> AsyncIterator[Minute]:
        """Finished minutes as they come, from `since` (seconds; None: the minute that runs now) on."""
        start = minute_of(self.clock() if since is None else since)
        listing = await self.listing(market)

        def ask(start: int, end: int, close: float | None) -> Awaitable[Page]:
            return self.page(market, start, end, close=close, longest=None)

        line = Line(self._exchange(market.exchange), listing, self.clock)
        async with aclosing(follow(ask, line, self._thread, start=start, interval=interval,  # type: ignore[type-var]
                                   settle=self._settle, clock=self.clock)) as minutes:
            async for minute in minutes:
                yield minute

    # -- trading

    async def account(self, name: str, values: Mapping[str, str]) -> Account:
        """A connection with a key. Raises `NotFound` for an unknown exchange, `Invalid` for a key that lacks a part."""
        name = _name(name)
        exchange = Exchange(name, self._options_of(name), dict(values))

        async def check() -> list[str]:
            return [each for each in exchange.requires() if not values.get(each)]

        if lacking := await self._thread.run(check):
            raise Invalid(f"the key of {name} lacks {', '.join(lacking)}", field="values",
                          remedy="store it again, with all its parts")
        return Account(exchange, self._thread)


def _name(name: str) -> str:
    folded = name.lower() if isinstance(name, str) else ""
    if not NAME.fullmatch(folded):
        raise NotFound(f"{str(name)[:80]!r} is no exchange", field="watch.exchange",
                       remedy="GET /api/exchanges lists exchanges")
    return folded


def _in_ccxt(name: str) -> bool:
    import ccxt.async_support as ccxt

    return name in ccxt.exchanges
