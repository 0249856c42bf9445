"""Trading with a key: balances, orders and what became of them. Orders are sent once and never again by themselves."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from engine.errors import Conflict, Invalid, NotFound
from engine.model import Market
from server.exchanges.exchange import Exchange
from server.exchanges.thread import LoopThread

__all__ = ["Account", "Placed", "Ticker"]

T = TypeVar("T")
Status = Literal["open", "closed", "canceled", "rejected"]
_STATUS: Final[Mapping[str, Status]] = {"open": "open", "closed": "closed", "canceled": "canceled",
                                        "cancelled": "canceled", "expired": "canceled", "rejected": "rejected"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticker:
    """What the market would give now; None where the exchange does not say."""

    bid: float | None
    ask: float | None
    last: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An order as the exchange sees it. `price` is the mean of the fills, None without any; amounts are of the asset,
    `cost` of the currency, `at` seconds since 1970."""

    id: str
    client_id: str
    side: str
    amount: float
    filled: float
    remaining: float
    price: float | None
    cost: float
    fee: float | None
    fee_currency: str
    status: Status
    at: float | None


class Account:
    """One key on one exchange. Made by `Exchanges.account`; close it."""

    def __init__(self, exchange: Exchange, thread: LoopThread) -> None:
        self._exchange = exchange
        self._thread = thread

    @property
    def name(self) -> str:
        return self._exchange.name

    async def close(self) -> None:
        await self._thread.run(self._exchange.close)

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        return await self._thread.run(work)

    async def balance(self, market: Market) -> tuple[float, float]:
        """What is free of asset and currency. Raises `Forbidden` for a key that the exchange refuses."""

        async def work() -> tuple[float, float]:
            listing = await self._exchange.listing(market)
            free = (await self._exchange.ask("fetch_balance")).get("free") or {}
            return tuple(float(free.get(name) or 0.0)  # type: ignore[return-value]
                         for name in (listing.market.asset, listing.market.currency))

        return await self._run(work)

    async def ticker(self, market: Market) -> Ticker:
        async def work() -> Ticker:
            listing = await self._exchange.listing(market)
            found = await self._exchange.ask("fetch_ticker", listing.symbol)
            return Ticker(bid=found.get("bid"), ask=found.get("ask"), last=found.get("last"))

        return await self._run(work)

    async def create(self, market: Market, *, side: Literal["buy", "sell"], amount: float, price: float | None = None,
                     id: str = "") -> Placed:
        """Place an order, at `price` or (None) at the market's; `id` is the client's own name for it.

        The amount is cut to the exchange's steps. Raises `Invalid` below its least size, `Conflict` when it rejects the
        order, `Unavailable` when it is not known whether the order arrived: look with `find`.
        """
        if side not in ("buy", "sell") or not (amount > 0 and math.isfinite(amount)):
            raise Invalid(f"no order: {side} {amount}", field="amount", remedy="buy or sell an amount above 0")

        async def work() -> Placed:
            exchange = self._exchange
            listing = await exchange.listing(market)
            client = exchange.client
            try:
                size = float(client.amount_to_precision(listing.symbol, amount))
            except Exception:  # ccxt raises when nothing is left of the amount
                size = 0.0
            if size <= 0 or size < (listing.least_amount or 0.0):
                raise Invalid(f"{amount:.10g} {market.asset} are less than {exchange.name} takes", field="amount",
                              remedy=f"at least {listing.least_amount or listing.amount_step}")
            params = {"clientOrderId": id} if id else {}
            at = None if price is None else float(client.price_to_precision(listing.symbol, price))
            found = await exchange.ask("create_order", listing.symbol, "market" if at is None else "limit", side, size,
                                       at, params, once=True)
            return _placed(found, side=side, amount=size, client_id=id)

        return await self._run(work)

    async def fetch(self, market: Market, order_id: str) -> Placed:
        """How the order stands. Raises `NotFound`."""

        async def work() -> Placed:
            listing = await self._exchange.listing(market)
            return _placed(await self._exchange.ask("fetch_order", order_id, listing.symbol))

        return await self._run(work)

    async def cancel(self, market: Market, order_id: str) -> Placed:
        """Take an order back and say how it stands then; one that is done already is left as it is."""

        async def work() -> Placed:
            listing = await self._exchange.listing(market)
            with suppress(NotFound, Conflict):  # it was done before, or a first attempt had worked
                await self._exchange.ask("cancel_order", order_id, listing.symbol)
            return _placed(await self._exchange.ask("fetch_order", order_id, listing.symbol))

        return await self._run(work)

    async def find(self, market: Market, id: str) -> Placed | None:
        """The order with a client's own id among the open and the recent ones; None when the exchange has none."""

        async def work() -> Placed | None:
            exchange = self._exchange
            listing = await exchange.listing(market)
            for question in ("fetch_open_orders", "fetch_orders", "fetch_closed_orders"):
                if not exchange.offers(_camel(question)):
                    continue
                for each in await exchange.ask(question, listing.symbol):
                    if each.get("clientOrderId") == id:
                        return _placed(each)
            return None

        return await self._run(work)


def _camel(question: str) -> str:
    first, *rest = question.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _placed(found: Mapping[str, Any], *, side: str = "", amount: float = 0.0, client_id: str = "") -> Placed:
    """ccxt's order as ours. An answer to a new order may hold nothing but the id."""

    def number(name: str) -> float | None:
        value = found.get(name)
        return None if value is None else float(value)

    size = number("amount") or amount
    filled = number("filled") or 0.0
    remaining = number("remaining")
    fee = found.get("fee") or next(iter(found.get("fees") or []), None) or {}
    at = number("timestamp")
    average = number("average") or (number("cost") or 0.0) / filled if filled else None
    return Placed(id=str(found["id"]), client_id=str(found.get("clientOrderId") or client_id),
                  side=str(found.get("side") or side), amount=size, filled=filled,
                  remaining=max(0.0, size - filled) if remaining is None else remaining, price=average,
                  cost=number("cost") or 0.0, fee=None if fee.get("cost") is None else float(fee["cost"]),
                  fee_currency=str(fee.get("currency") or ""),
                  status=_STATUS.get(str(found.get("status")), "open"), at=None if at is None else at / 1000)
