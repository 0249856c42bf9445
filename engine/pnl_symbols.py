"""What a bot's symbol means: asset, quote currency, and the market of the candle store that prices it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from engine.model import Market

__all__ = ["Pair", "market_of", "markets_of", "pair_of"]

QUOTES: Final = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "CHF", "AUD", "CAD", "BTC", "ETH",
                 "BNB", "DAI")
"""Quote currencies of symbols written without a separator, longest first."""
_SPLIT: Final = re.compile(r"([A-Za-z0-9.]+)[/_-]([A-Za-z0-9]{3,6})(?::.*)?")


@dataclass(frozen=True, slots=True)
class Pair:
    """`currency` is in capitals, "?" when nobody says it."""

    asset: str
    currency: str


def pair_of(symbol: str, currency: str = "") -> Pair:
    """BTC-USD, BTC/USD, BTC_USD, BTC/USDT:USDT, BTCUSDT; anything else is an asset in `currency` (else "?")."""
    split = _SPLIT.fullmatch(symbol)
    if split:
        return Pair(split[1], split[2].upper())
    for quote in QUOTES:
        if symbol.upper().endswith(quote) and len(symbol) >= len(quote) + 2:
            return Pair(symbol[:-len(quote)], quote)
    return Pair(symbol, currency or "?")


def market_of(symbol: str, exchange: str, markets: Iterable[Market]) -> Market | None:
    """The market that prices a symbol: the first of `markets_of`; None if there is none."""
    return next(iter(markets_of(symbol, exchange, markets)), None)


def markets_of(symbol: str, exchange: str, markets: Iterable[Market]) -> list[Market]:
    """The markets that can price a symbol: same asset and currency (any letter case; a symbol without a currency fits
    any), the bot's exchange before others, then by key."""
    pair = pair_of(symbol)
    fits = [each for each in markets if each.asset.upper() == pair.asset.upper()
            and pair.currency.upper() in ("?", each.currency.upper())]
    return sorted(fits, key=lambda each: (each.exchange.lower() != exchange.lower(), each.key))
