"""Which markets which exchange has, in the words of Gekko's clients, without asking anybody.

What was loaded from an exchange is kept in `DATA_DIR/exchanges/NAME.json` with the time. Of exchanges that were never
asked a few well-known pairs are listed, so that a client has something to choose from; the rest comes when the exchange
is first used, or on request.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from engine import times
from server.exchanges.exchange import Exchange, Listing

__all__ = ["KNOWN", "Catalogue", "capability"]

_COINS: Final = ("BTC", "ETH", "LTC", "XRP", "BCH", "ADA", "DOGE", "DOT", "LINK", "SOL", "XLM", "TRX", "ETC", "XMR")
_PAIRS: Final[Mapping[str, tuple[str, ...]]] = {"USDT": _COINS, "BTC": _COINS[1:]}
_DOLLARS: Final[Mapping[str, tuple[str, ...]]] = {"USD": _COINS[:12], "EUR": _COINS[:8], "BTC": _COINS[1:6]}
_KEY: Final = ("key", "secret")
KNOWN: Final[Mapping[str, tuple[str, tuple[str, ...], Mapping[str, tuple[str, ...]]]]] = {
    "binance": ("Binance", _KEY, _PAIRS),
    "bitfinex": ("Bitfinex", _KEY, _DOLLARS),
    "bitstamp": ("Bitstamp", _KEY, _DOLLARS),
    "bybit": ("Bybit", _KEY, _PAIRS),
    "coinbase": ("Coinbase Advanced", _KEY, _DOLLARS),
    "gate": ("Gate", _KEY, _PAIRS),
    "gemini": ("Gemini", _KEY, _DOLLARS),
    "kraken": ("Kraken", _KEY, _DOLLARS),
    "kucoin": ("KuCoin", (*_KEY, "passphrase"), _PAIRS),
    "okx": ("OKX", (*_KEY, "passphrase"), _PAIRS),
    "poloniex": ("Poloniex", _KEY, _PAIRS),
}
"""Exchanges that are listed from the beginning: name, what a key consists of, pairs by currency."""


def capability(slug: str, name: str, requires: Iterable[str], markets: list[dict[str, Any]], *, tradable: bool = True,
               history: bool = True) -> dict[str, Any]:
    """Gekko's capability object."""
    return {"name": name, "slug": slug,
            "currencies": list(dict.fromkeys(each["pair"][0] for each in markets)),
            "assets": list(dict.fromkeys(each["pair"][1] for each in markets)),
            "markets": markets, "requires": list(requires), "maxTradesAge": 60, "maxHistoryFetch": None,
            "fetchTimespan": 60, "tid": "tid", "providesHistory": "date" if history else False,
            "providesFullHistory": history, "tradable": tradable}


def _market(listing: Listing) -> dict[str, Any]:
    order: dict[str, Any] = {"amount": listing.least_amount or 0, "unit": "asset"}
    if listing.least_price is not None:
        order["price"] = listing.least_price
    if listing.least_cost is not None:
        order["order"] = listing.least_cost
    return {"pair": [listing.market.currency, listing.market.asset], "minimalOrder": order}


def _pairs(pairs: Mapping[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    return [{"pair": [currency, asset], "minimalOrder": {"amount": 0.0001, "unit": "asset"}}
            for currency, assets in pairs.items() for asset in assets]


class Catalogue:
    """The capability objects, from files. Blocks: call it off the loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """One for every exchange of `names` and every one that was loaded before, in order of the slug."""
        found = {slug: capability(slug, name, requires, _pairs(pairs))
                 for slug, (name, requires, pairs) in KNOWN.items()}
        for slug in names:
            found.setdefault(slug, capability(slug, slug, _KEY, []))
        for path in sorted(self._folder.glob("*.json")):
            try:
                kept = json.loads(path.read_text())["capability"]
                found[kept["slug"]] = kept
            except (OSError, ValueError, KeyError, TypeError):  # half a file, or another version's
                continue
        return [found[slug] for slug in sorted(found)]

    def keep(self, exchange: Exchange, listings: Iterable[Listing]) -> None:
        """Write down what an exchange has; its name is one that the operator or ccxt gave."""
        client = exchange.client
        made = capability(
            exchange.name, str(client.name or exchange.name), exchange.requires(), [_market(each) for each in listings],
            tradable=exchange.offers("createOrder", "fetchOrder"),
            history=exchange.offers("fetchOHLCV") or exchange.offers("fetchTrades"))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{exchange.name}.json"
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        partial.write_text(json.dumps({"at": times.iso(times.now()), "capability": made}))
        os.replace(partial, path)
