"""Alerts: a price to begin at, one to aim at, one to stop at, and what became of it.

    working (detected) -> onGoing (start reached) -> closed (stop hit, or profit taken)
            \\-> aborted (invalidated or timed out)

The words of the states are those of the alert stream's clients. `engine.alert_life` says when each step happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from engine import times
from engine.errors import Conflict, Invalid, Problem
from engine.model import Market

__all__ = [
    "DIRECTIONS", "DURATIONS", "INSTRUMENTS", "STATES", "Alert", "AlertState", "Direction", "Duration", "check_levels",
    "check_move", "direction_of", "gain_of", "instrument_of", "price_problem",
    "r_of",
]

AlertState = Literal["working", "onGoing", "closed", "aborted"]
Direction = Literal["BUY", "SELL"]
Duration = Literal["short", "long"]

STATES: Final[tuple[AlertState, ...]] = ("working", "onGoing", "closed", "aborted")
DIRECTIONS: Final[tuple[Direction, ...]] = ("BUY", "SELL")
DURATIONS: Final[tuple[Duration, ...]] = ("short", "long")
INSTRUMENTS: Final[tuple[str, ...]] = (
    "CRYPTOCURRENCIES", "FOREX", "INDICES", "COMMODITIES", "FUTURES", "STOCKS", "ETFS")

MOVES: Final[Mapping[str, tuple[str, ...]]] = {"working": ("onGoing", "aborted"), "onGoing": ("closed",),
                                               "closed": (), "aborted": ()}
"""What may follow each state."""

HIGHEST: Final = 1e15  # prices stay below
CLOSEST: Final = 1e-18  # between start and stop, at least

_COINS: Final = frozenset({"BTC", "XBT", "ETH", "USDT", "USDC", "BNB", "SOL", "XRP", "ADA", "DOGE", "LTC", "DOT", "TRX",
                           "AVAX", "LINK", "BCH", "DAI", "BUSD", "FDUSD", "XMR", "ETC", "XLM", "TUSD"})
_MONEY: Final = frozenset({"USD", "EUR", "GBP", "JPY", "CHF", "AUD", "NZD", "CAD", "CNY", "CNH", "SEK", "NOK", "DKK",
                           "PLN", "CZK", "HUF", "TRY", "ZAR", "MXN", "SGD", "HKD", "INR", "KRW", "BRL"})
_METALS: Final = frozenset({"XAU", "XAG", "XPT", "XPD"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One alert. Prices are in the market's currency.

    `market` is the market's key, "" when a bot's alert names none; `detector` the detector's key, "" for a bot's own.
    `entry` is the price at which it began (the start, or the open that jumped over it), `exit` the one at which it
    closed. `gain` = exit - entry for BUY, entry - exit for SELL; `r` = gain / |start - stop|; both None until closed.
    `trailing` is the distance at which the stop follows the best price, None when it does not. `reason` says why it
    was given and, once it has ended, why it ended. `source` says who made it: "detector", or the bot's own word.
    """

    id: int
    instrument: str
    ticker: str
    market: str = ""
    duration_strategy: str = "short"
    detector: str = ""
    direction: Direction
    state: AlertState = "working"
    start: float
    target: float
    stop: float
    trailing: float | None = None
    detected_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    entry: float | None = None
    exit: float | None = None
    gain: float | None = None
    r: float | None = None
    reason: str = ""
    source: str = "detector"

    @property
    def ended(self) -> bool:
        return self.state in ("closed", "aborted")

    def as_json(self) -> dict[str, Any]:
        """All of it by name; instants as RFC 3339 texts or null."""
        found: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            found[name] = times.iso(value) if isinstance(value, datetime) else value
        return found


def direction_of(start: float, target: float) -> Direction:
    """BUY when the target lies above the start."""
    return "BUY" if target > start else "SELL"


def gain_of(direction: str, entry: float, exit: float) -> float:
    """Gain in price units, positive when the price went the alert's way."""
    return exit - entry if direction == "BUY" else entry - exit


def r_of(gain: float, start: float, stop: float) -> float:
    """The gain in multiples of what was risked, |start - stop| (V. Tharp's R multiples)."""
    return gain / abs(start - stop)


def price_problem(name: str, value: Any) -> Problem | None:
    """What is wrong with a price: it is none, or its gain in units of risk would be beyond all figures."""
    if type(value) in (int, float) and abs(value) < HIGHEST:
        return None
    return Problem(name, f"{str(value)[:40]} is not a price", f"give a number below {HIGHEST:g}")


def check_levels(start: float, target: float, stop: float) -> None:
    """Raise `Invalid` unless all are prices, and stop and target lie on opposite sides of the start."""
    problems = [problem for name, value in (("start", start), ("target", target), ("stop", stop))
                if (problem := price_problem(name, value))]
    if not problems and target == start:
        problems.append(Problem("target", "the target is the start", "put it above the start to buy, below to sell"))
    if not problems and not (stop < start < target or target < start < stop):
        problems.append(Problem("stop", "stop and target lie on the same side of the start",
                                "put the stop below the start to buy, above to sell"))
    if not problems and abs(start - stop) < CLOSEST:
        problems.append(Problem("stop", "the stop is the start", "leave something between them"))
    if problems:
        raise Invalid("these prices make no alert", field=problems[0].field, problems=problems)


def check_move(state: str, wanted: str) -> None:
    """Raise `Invalid` for a word that is no state, `Conflict` for a step that life does not take."""
    if wanted not in MOVES:
        raise Invalid(f"{wanted!r} is not a state", field="state", remedy="use onGoing, aborted or closed")
    if wanted not in MOVES[state]:
        after = " or ".join(MOVES[state])
        raise Conflict(f"the alert is {state} and cannot become {wanted}", field="state",
                       remedy=f"it may become {after}" if after else "it has ended for good")


def instrument_of(market: Market) -> str:
    """A guess at the class of a market from its two names; whoever switches detection on may say better."""
    asset, currency = market.asset.upper(), market.currency.upper()
    if asset in _COINS or currency in _COINS:
        return "CRYPTOCURRENCIES"
    if asset in _METALS:
        return "COMMODITIES"
    if asset in _MONEY and currency in _MONEY:
        return "FOREX"
    return "STOCKS"
