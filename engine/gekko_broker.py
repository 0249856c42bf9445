"""Gekko's live strategy with orders that somebody else fills: the paper trader's events, with what really happened.

The strategy's advice becomes a wish (`wishes`); a broker fulfils it, in its own time, and says so with `filled` or
`refused`. The book is the bot's own: what it begins with, and what its orders changed. It never sells what it did not
buy.
"""

from dataclasses import dataclass, replace
from typing import Any

from engine.gekko_live import Event, PaperGekko
from engine.gekko_report import plain
from engine.gekko_settings import Settings

__all__ = ["BrokeredGekko", "Wish"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A trade that the strategy wants: "buy" with all its currency or "sell" all its asset. `date` in seconds; `number`
    counts the wishes."""

    number: int
    trade: str
    advice: str
    action: str
    date: int


class BrokeredGekko(PaperGekko):
    """A strategy on live candles whose orders a broker fills. `currency`: what its book begins with."""

    remembered = (*PaperGekko.remembered, "_wished", "_wishes_so_far", "_day")

    def __init__(self, settings: Settings, started: int | None = None, *, currency: float = 0.0) -> None:
        super().__init__(replace(settings, asset=0.0, currency=currency, trading=True), started)
        self._wished: list[dict[str, Any]] = []
        self._wishes_so_far = 0
        self._day: list[float] | None = None  # which day it is, and the book's worth when it began

    @property
    def wishes(self) -> list[Wish]:
        """What has still to be filled or refused, oldest first."""
        return [Wish(**each) for each in self._wished]

    @property
    def book(self) -> tuple[float, float]:
        """Asset and currency of the bot's own."""
        return self._asset, self._currency

    @property
    def worth(self) -> float:
        """The book at the last close; the currency alone before the first."""
        return self._currency + self._asset * self._price if self._asset else self._currency

    def lost(self, now: float) -> float:
        """What the day (UTC) of `now` has lost so far, in the currency; negative for a gain."""
        day = now // 86400
        if self._day is None or self._day[0] != day:
            self._day = [day, self.worth]
        return self._day[1] - self.worth

    def _initiate(self, action: str, date: int) -> None:
        trade = f"trade-{self._number}"
        self._trader.append(("tradeInitiated", {
            "id": trade, "adviceId": f"advice-{self._last_advice}", "action": action, "portfolio": self._portfolio(),
            "balance": self._worth(), "date": date}))
        self._wishes_so_far += 1
        self._wished.append({"number": self._wishes_so_far, "trade": trade, "advice": f"advice-{self._last_advice}",
                             "action": action, "date": date})

    def filled(self, number: int, *, asset: float, currency: float, price: float, cost: float, fee_percent: float,
               date: int) -> list[Event]:
        """A wish was fulfilled: `asset` and `currency` are what the book gained (lost when negative), fees included;
        `price` is the mean of the fills, `cost` the fees in the currency. The events that follow."""
        wish = self._take(number)
        self._asset = max(0.0, self._asset + asset)
        self._currency = max(0.0, self._currency + currency)
        self._exposed = self._asset > 0
        rate = fee_percent / 100.0
        self._trader.append(("portfolioChange", self._portfolio()))
        self._trader.append(("portfolioValueChange", {"balance": self._worth()}))
        self._trader.append(("tradeCompleted", {
            "id": wish.trade, "adviceId": wish.advice, "action": wish.action, "cost": plain(cost),
            "amount": plain(abs(asset)), "price": plain(price), "portfolio": self._portfolio(),
            "balance": self._worth(), "date": date,
            "effectivePrice": plain(price * (1 + rate if wish.action == "buy" else 1 - rate)),
            "feePercent": plain(fee_percent)}))
        return self._flush(self._price)

    def refused(self, number: int, reason: str, *, date: int, kind: str = "tradeErrored") -> list[Event]:
        """A wish was not fulfilled; `kind` is tradeErrored, tradeCancelled or tradeAborted. The events that follow."""
        wish = self._take(number)
        self._trader.append((kind, {"id": wish.trade, "adviceId": wish.advice, "date": date, "reason": reason}))
        return self._flush(self._price)

    def _take(self, number: int) -> Wish:
        wish = next(each for each in self.wishes if each.number == number)
        self._wished = [each for each in self._wished if each["number"] != number]
        return wish
