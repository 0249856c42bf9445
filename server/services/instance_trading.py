"""Real orders of a trade bot, one wish of its strategy after another.

Every order has a name of our own, made of the instance's id, the wish's number and the piece's: an order whose answer
was lost is looked for by that name, and nothing is ever sent twice. No order is worth more than the limit; a position
that grew beyond it is sold in pieces. When a day (UTC) has lost more than the other limit, nothing is bought until the
next day; selling goes on. The bot trades its own book: it begins with currency up to the limit of one order and never
sells what it did not buy.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from engine.errors import Invalid, Unavailable, WorkbenchError
from engine.gekko_broker import BrokeredGekko, Wish
from engine.gekko_settings import Settings
from server.services.instance_limits import Limits
from server.services.instance_rows import Instance, Told
from server.services.instance_runner import Runner, wired

__all__ = ["TradeRunner", "Trading"]

POLL: Final = 1.0
PATIENCE: Final = 60.0  # seconds after which an order that was not filled is taken back
LONGEST_PAUSE: Final = 30.0
SPARE: Final = 0.995  # of the currency: prices move, and fees come on top
PIECES: Final = 50
LOOKS: Final = 3  # for an order whose answer was lost
STALE: Final = 300.0  # seconds after which nobody buys on an advice
STOPPING: Final = 15.0  # seconds to take back what is open

log = logging.getLogger("workbench.trading")


class TradeRunner(Runner):
    """A strategy with a broker. `currency`: what its book begins with."""

    def __init__(self, instance: Instance, limits: Limits, currency: float) -> None:
        super().__init__(instance)
        self.limits = limits
        self._currency = currency
        self.broker: BrokeredGekko | None = None

    def engine(self, settings: Settings) -> BrokeredGekko:
        self.broker = BrokeredGekko(settings, started=self.instance.begin, currency=self._currency)
        return self.broker


Settle = Callable[[TradeRunner, Callable[[BrokeredGekko], Sequence[Told]]], Awaitable[None]]
"""Changes a runner's book with the watch's lock held, and keeps what it says."""


class Trading:
    """Fulfils the wishes of one trade bot. `account` is `server.exchanges.account.Account`; nothing is ordered unless
    `alone` says that no other server does so."""

    def __init__(self, runner: TradeRunner, account: Any, settle: Settle, *,
                 now: Callable[[], float] = time.time, alone: Callable[[], bool] = lambda: True) -> None:
        self._runner = runner
        self._alone = alone
        self._account = account
        self._settle = settle
        self._now = now
        self._market = runner.instance.market
        self._wake = asyncio.Event()
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=f"orders of {runner.instance.id}")
        self._again = bool(runner.broker and runner.broker.wishes)  # of a former life: they may have been placed

    def wake(self) -> None:
        """There may be a wish."""
        self._wake.set()

    async def close(self) -> None:
        """Leave it as it is: the next life looks for what was placed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._account.close()

    async def stop(self) -> None:
        """Place nothing more, take back what is open and settle what was filled."""
        self._stopping = True
        self._wake.set()
        try:
            await asyncio.wait_for(asyncio.shield(self._task), STOPPING)
        except TimeoutError:
            log.error("an order may still be open", extra={"facts": {"instance": self._runner.instance.id}})
        await self.close()

    # -- wishes

    async def _run(self) -> None:
        broker = self._runner.broker
        assert broker is not None
        while True:
            self._wake.clear()
            broker.lost(self._now())  # a new day begins with what the book is worth
            if wishes := broker.wishes:
                while not self._alone():  # this process was asleep: another server may have the bot now
                    await asyncio.sleep(POLL)
                await self._fulfil(broker, wishes[0])
            elif self._stopping:
                return
            else:
                await self._wake.wait()
            self._again = False

    async def _fulfil(self, broker: BrokeredGekko, wish: Wish) -> None:
        reason = "" if self._again else self._against(broker, wish)
        if reason:
            await self._refuse(wish, reason, "tradeAborted")
            return
        filled = value = fee_asset = fee_currency = 0.0
        asset, currency = broker.book
        problem = ""
        for piece in range(PIECES):
            try:
                placed = await self._place(wish, piece, asset - filled, currency)
            except WorkbenchError as error:
                problem = str(error)
                break
            if placed is None:
                problem = "the order was not placed before the server stopped" if self._again else problem
                break
            if placed.filled:
                filled += placed.filled
                value += placed.cost or placed.filled * (placed.price or 0.0)
                if placed.fee_currency == self._market.asset:
                    fee_asset += placed.fee or 0.0
                else:
                    fee_currency += placed.fee or 0.0
            if placed.status != "closed":
                problem = f"the order was {placed.status}"
            if placed.status != "closed" or self._stopping or (wish.action == "buy" and not self._again):
                break
        if not filled:
            kind = "tradeCancelled" if "canceled" in problem else "tradeErrored"
            await self._refuse(wish, problem or "there was nothing to trade", kind)
            return
        price = value / filled
        fees = fee_currency + fee_asset * price
        gained, got = (filled - fee_asset, -value - fee_currency) if wish.action == "buy" else (
            -filled - fee_asset, value - fee_currency)
        log.info("a trade bot traded", extra={"facts": {
            "instance": self._runner.instance.id, "action": wish.action, "size": filled, "price": price}})
        await self._settle(self._runner, lambda engine: wired(engine.filled(
            wish.number, asset=gained, currency=got, price=price, cost=fees,
            fee_percent=100.0 * fees / value if value else 0.0, date=int(self._now()))))

    def _against(self, broker: BrokeredGekko, wish: Wish) -> str:
        """Why nothing is ordered, if so."""
        if self._stopping:
            return "the bot was stopped"
        if wish.action == "sell":  # late is better than never
            return "" if broker.book[0] > 0 else "there is nothing of its own to sell"
        if self._now() - wish.date > STALE:
            return "the advice is too old"
        lost, limit = broker.lost(self._now()), self._runner.limits.loss
        return f"the day has lost {lost:.8g}, the limit is {limit:g}" if lost >= limit else ""

    async def _refuse(self, wish: Wish, reason: str, kind: str) -> None:
        log.warning("a trade bot's wish was not fulfilled", extra={"facts": {
            "instance": self._runner.instance.id, "because": reason}})
        date = int(self._now())
        await self._settle(self._runner, lambda engine: wired(engine.refused(wish.number, reason, date=date,
                                                                             kind=kind)))

    async def _amount(self, action: str, left: float, currency: float) -> float:
        """The size of the next order, within the limit and what the account really has."""
        async def look() -> float:
            ticker = await self._account.ticker(self._market)
            free_asset, free_currency = await self._account.balance(self._market)
            price = (ticker.ask if action == "buy" else ticker.bid) or ticker.last
            if not price or price <= 0:
                raise Invalid("the exchange says no price")
            limit = self._runner.limits.order
            if action == "buy":
                return SPARE * min(limit, currency, free_currency) / price
            have = min(left, free_asset)
            return have / max(1, math.ceil(have * price / limit))  # in equal pieces, none of them above the limit

        return await self._patiently(look)

    # -- one order

    def _name(self, wish: Wish, piece: int) -> str:
        """The same for the same wish, in every life; short enough for all exchanges."""
        text = f"{self._runner.instance.id} {wish.number} {piece}"
        return "wb" + hashlib.sha256(text.encode()).hexdigest()[:30]

    async def _place(self, wish: Wish, piece: int, left: float, currency: float) -> Any:
        """The order, when nothing more will become of it; None when there is none."""
        name = self._name(wish, piece)
        placed = None
        if not self._again:
            amount = await self._amount(wish.action, left, currency)
            if amount <= 0:
                return None
            try:
                placed = await self._account.create(self._market, side=wish.action, amount=amount, id=name)
            except Unavailable as error:  # it may have arrived
                for _ in range(LOOKS):
                    if (placed := await self._patiently(lambda: self._account.find(self._market, name))) is not None:
                        break
                    await asyncio.sleep(POLL)
                else:
                    raise Invalid(f"the order did not arrive: {error.message}") from None
        else:
            placed = await self._patiently(lambda: self._account.find(self._market, name))
        return None if placed is None else await self._await(placed)

    async def _await(self, placed: Any) -> Any:
        """Wait until it is filled; take it back after a while, or when the bot is stopped."""
        id, clock = placed.id, asyncio.get_running_loop().time
        until = clock() + PATIENCE
        while placed.status == "open":
            if self._stopping or clock() > until:
                return await self._patiently(lambda: self._account.cancel(self._market, id))
            await asyncio.sleep(POLL)
            placed = await self._patiently(lambda: self._account.fetch(self._market, id))
        if placed.filled and not placed.cost:
            placed = await self._patiently(lambda: self._account.fetch(self._market, id))
        return placed

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask until there is an answer: an order must not be forgotten because the line was down."""
        pause = POLL
        while True:
            try:
                return await ask()
            except Unavailable as error:
                log.warning("an exchange does not answer, asking again", extra={"facts": {
                    "instance": self._runner.instance.id, "because": error.message}})
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
