"""One exchange through ccxt: its markets, and questions that are asked again when the answer did not come.

Everything here runs on the exchanges' own thread. ccxt keeps the exchange's rate limit; a refusal that names a time to
wait holds back all questions to that exchange.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from engine.errors import Busy, Invalid, NotFound, Unavailable
from engine.model import Market
from server.exchanges.faults import clean, meaning, retry_after, transient
from server.exchanges.options import ExchangeOptions

__all__ = ["Exchange", "Listing"]

MARKETS_FOR: Final = 86400.0  # seconds until markets are loaded again
LONGEST_WAIT: Final = 30.0
CREDENTIALS: Final = {"apiKey": "key", "secret": "secret", "password": "passphrase", "uid": "username",
                      "login": "username", "privateKey": "privateKey", "walletAddress": "walletAddress",
                      "token": "token"}
"""ccxt's names of what a key consists of, and those of Gekko's clients."""

# Only what is traded on the spot: futures and options have addresses of their own, which need not be asked.
_DEFAULTS: Final[Mapping[str, Any]] = {"enableRateLimit": True, "timeout": 10_000,
                                       "options": {"defaultType": "spot", "fetchMargins": False,
                                                   "warnOnFetchOpenOrdersWithoutSymbol": False}}
_KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "binance": {"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}},
    "bybit": {"options": {"fetchMarkets": {"types": ["spot"]}}},
    "okx": {"options": {"fetchMarkets": {"types": ["spot"]}}},
}
logging.getLogger("ccxt").setLevel(logging.WARNING)  # at debug it writes requests with keys and signatures
log = logging.getLogger("workbench.exchanges")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A market as the exchange lists it. Least sizes and steps are None where it does not say."""

    market: Market
    symbol: str
    least_amount: float | None = None
    least_cost: float | None = None
    least_price: float | None = None
    price_step: float | None = None
    amount_step: float | None = None


class Exchange:
    """One connection. `values` are a key's, in the words of Gekko's clients; without them only public data."""

    def __init__(self, name: str, options: ExchangeOptions, values: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.options = options
        self.secrets = tuple(values.values()) if values else ()
        self._values = values
        self._client: Any = None
        self._listings: dict[tuple[str, str], Listing] = {}
        self._loaded = -math.inf
        self._loading = asyncio.Lock()
        self._not_before = 0.0
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def client(self) -> Any:
        """ccxt's own object. Raises `NotFound` for a kind that ccxt does not have."""
        if self._client is None:
            self._client = self._open()
        return self._client

    def _open(self) -> Any:
        import ccxt.async_support as ccxt

        kind = self.options.kind
        if kind not in ccxt.exchanges:
            raise NotFound(f"there is no exchange {self.name!r}", field="exchange",
                           remedy="near names: " + ", ".join(get_close_matches(kind, ccxt.exchanges, 5, 0.5)))
        client = self._configured(getattr(ccxt, kind), {})
        for theirs, ours in CREDENTIALS.items():
            if self._values and ours in self._values and client.requiredCredentials.get(theirs):
                setattr(client, theirs, self._values[ours])
        return client

    def _configured(self, base: Any, changes: Mapping[str, Any]) -> Any:
        """A client of ccxt's class with the operator's options; `changes` are methods of ours."""
        wary = type(self.options.kind, (base,), {"on_rest_response": _refuse_pages, **changes})
        client = wary(base.deep_extend(_DEFAULTS, _KINDS.get(self.options.kind, {}), dict(self.options.rest)))
        if self.options.sandbox:
            client.set_sandbox_mode(True)
        if self.options.base_url:
            client.urls = {**client.urls, "api": _moved(client.urls["api"], self.options.base_url)}
        return client

    def open_socket(self, changes: Mapping[str, Any]) -> Any:
        """Another client, for one market's WebSocket, with the markets that are loaded; None where ccxt has none.
        Close it with `close_socket`."""
        import ccxt.pro

        kind = self.options.kind
        if kind not in ccxt.pro.exchanges:
            return None
        client = self._configured(getattr(ccxt.pro, kind), changes)
        client.newUpdates = False  # late news of a minute that is over count too
        for ours, theirs in (("httpProxy", "wsProxy"), ("httpsProxy", "wssProxy"), ("socksProxy", "wsSocksProxy")):
            if self.options.rest.get(ours) and not any(map(client.value_is_defined, client.check_ws_proxy_settings())):
                setattr(client, theirs, self.options.rest[ours])
        client.set_markets_from_exchange(self.client)
        return client

    def close_socket(self, client: Any) -> None:
        """Close it in the background: ccxt takes its time. `close` waits for that."""
        closing = asyncio.ensure_future(client.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    # -- asking

    async def ask(self, question: str, *arguments: Any, once: bool = False, **named: Any) -> Any:
        """The answer of ccxt's method `question`; asked again, a little later each time, when it does not come, unless
        `once`. Raises what `meaning` makes of the last failure."""
        options, began, attempt = self.options, time.monotonic(), 0
        while True:
            held = self._not_before - time.monotonic()
            if held > options.patience:
                raise Busy(f"{self.name} wants to be left alone for {held:.0f} s", remedy="try again later")
            if held > 0:
                await asyncio.sleep(held)
            client = self.client
            try:
                return await getattr(client, question)(*arguments, **named)
            except Exception as error:
                told = retry_after(error, client.last_response_headers)
                if told:
                    self._not_before = time.monotonic() + told
                wait = max(told, min(LONGEST_WAIT, options.backoff * 2**attempt) * random.uniform(0.8, 1.2))
                late = time.monotonic() - began + wait > options.patience
                if once or attempt >= options.retries or late or not transient(error):
                    raise meaning(error, self.name, self.secrets) from None
                log.info("asking again", extra={"facts": {
                    "exchange": self.name, "question": question, "wait": round(wait, 2), "attempt": attempt + 1,
                    "error": clean(f"{type(error).__name__}: {error}", self.secrets)}})
                attempt += 1
                await asyncio.sleep(wait)

    # -- markets

    async def load(self) -> dict[tuple[str, str], Listing]:
        """Every market traded on the spot, by asset and currency; loaded once a day."""
        async with self._loading:
            if time.monotonic() - self._loaded > MARKETS_FOR:
                try:
                    markets = await self.ask("load_markets", bool(self._listings))
                except (Unavailable, Busy):
                    if not self._listings:
                        raise
                    log.warning("markets could not be loaded again", extra={"facts": {"exchange": self.name}})
                else:
                    self._listings = _listings(self.name, markets)
                self._loaded = time.monotonic()
        return self._listings

    async def listing(self, market: Market) -> Listing:
        """The market, in any case. Raises `NotFound` with near names."""
        known = await self.load()
        found = known.get((market.asset, market.currency)) or known.get(
            (market.asset.upper(), market.currency.upper()))
        if found is not None:
            return found
        names = [each.symbol for each in known.values()]
        near = get_close_matches(f"{market.asset}/{market.currency}".upper(), names, 5, 0.5)
        raise NotFound(f"{self.name} does not trade {market.asset} for {market.currency}", field="watch",
                       remedy="near names: " + ", ".join(near) if near else "look at the list of its markets")

    def requires(self) -> list[str]:
        """What a key consists of, in the words of Gekko's clients."""
        needed = self.client.requiredCredentials
        return list(dict.fromkeys(ours for theirs, ours in CREDENTIALS.items() if needed.get(theirs)))

    def offers(self, *questions: str) -> bool:
        """Whether ccxt says that the exchange has all of these itself ("fetchOHLCV", "createOrder" …)."""
        return all(self.client.has.get(question) is True for question in questions)

    def most(self, question: str, symbol: str, default: int) -> int:
        """How many rows one answer may hold."""
        try:
            found = self.client.feature_value(symbol, question, "limit", default)
        except Exception:  # what the table of an exchange lacks is no reason not to ask it
            found = default
        return found if isinstance(found, int) and found > 0 else default


def _refuse_pages(client: Any, code: int, reason: str, url: str, method: str, headers: Any, body: str, *_: Any) -> str:
    """ccxt's hook for an answer's text. A page that comes with status 200 (maintenance, a login of some network) would
    be taken for an empty list."""
    from ccxt.base.errors import ExchangeNotAvailable

    text = body.strip()
    if code == 200 and not text.startswith(("{", "[")):
        raise ExchangeNotAvailable(f"{client.id} {method} {url} answered with something else than data")
    return text


def _moved(addresses: Any, base: str) -> Any:
    """The same addresses on another host."""
    if isinstance(addresses, dict):
        return {key: _moved(each, base) for key, each in addresses.items()}
    if not isinstance(addresses, str):
        return addresses
    scheme, _, rest = addresses.partition("://")
    _, slash, path = rest.partition("/")
    return (base.replace("http", "ws", 1) if scheme.startswith("ws") else base) + slash + path


def _listings(name: str, markets: Mapping[str, Any]) -> dict[tuple[str, str], Listing]:
    found: dict[tuple[str, str], Listing] = {}
    for symbol, each in markets.items():
        if not each.get("spot") or each.get("active") is False:
            continue
        try:
            market = Market(name, each["base"], each["quote"])
        except Invalid:  # a name that our own could not hold
            continue
        limits, precision = each.get("limits") or {}, each.get("precision") or {}
        least = {key: (limits.get(key) or {}).get("min") for key in ("amount", "cost", "price")}
        found[market.asset, market.currency] = Listing(
            market=market, symbol=symbol, least_amount=least["amount"], least_cost=least["cost"],
            least_price=least["price"], price_step=precision.get("price"), amount_step=precision.get("amount"))
    return found
