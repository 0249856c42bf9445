"""The six built-in strategies of the GlowBack dialect, with that program's own rules.

They share little with the strategies of the same names in `engine.strategies`: they are called once for every bar of a
day after the whole day is known, size themselves, and keep one memory for all symbols where the original does. A
strategy sees an `Account` and answers with orders (signed quantities, positive buys). Only the parameters listed in
`PARAMETERS` count; any other is ignored, as the original's API does.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final, Protocol

from engine import times
from engine.errors import Invalid, Problem

#: Our own decimal context: the thread's is anybody's (ccxt sets its rounding, for one).
EXACT: Final = Context(prec=34, rounding=ROUND_HALF_EVEN)
WINDOW: Final = 100
"""Closes kept for each symbol: a strategy that needs more never trades."""
MOST_PERIOD: Final = 2**53  # longer ones trade as little, and would not fit the results' whole numbers

INVESTED: Final = 0.95
SLICE: Final = 0.25
LEAST: Final = 0.0001
TIE: Final = 1e-13
"""Two means closer than this (relative) are equal: prices have four decimals and windows at most 100 closes."""

NAMES: Final = ("buy_and_hold", "ma_crossover", "momentum", "mean_reversion", "rsi", "covered_call")
ALIASES: Final = {"moving_average_crossover": "ma_crossover"}
UNSUPPORTED: Final = f"Unsupported strategy. Use one of: {', '.join(NAMES)}."

# name -> (kind, default, least allowed); a period below its least would divide by zero or look past the present.
PARAMETERS: Final[dict[str, dict[str, tuple[str, float, float | None]]]] = {
    "buy_and_hold": {},
    "ma_crossover": {"short_period": ("period", 10, 1), "long_period": ("period", 20, 1)},
    "momentum": {"lookback_period": ("period", 10, 1), "momentum_threshold": ("number", 0.05, None)},
    "mean_reversion": {"lookback_period": ("period", 20, 1), "entry_threshold": ("number", 2.0, None),
                       "exit_threshold": ("number", 1.0, None)},
    "rsi": {"lookback_period": ("period", 14, 1), "oversold_threshold": ("number", 30.0, None),
            "overbought_threshold": ("number", 70.0, None)},
    "covered_call": {},
}


class Account(Protocol):
    """What a strategy may see. `day` changes with every step of the clock; `value` is the total equity."""

    day: int
    value: float

    @property
    def cash(self) -> float: ...

    def position(self, symbol: str) -> float: ...

    def closes(self, symbol: str) -> Sequence[float]: ...


class Strategy:
    """Base: `on_bar` answers with signed quantities to order at the market; `on_day_end` closes a day of the clock."""

    name = ""

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        raise NotImplementedError

    def on_day_end(self) -> None:
        """Nothing, unless a strategy counts days."""


class BuyAndHold(Strategy):
    """The first symbol, once, at its first bar, with 95 % of the cash."""

    name = "buy_and_hold"

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbol = symbols[0]
        self._done = False

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        price = account.closes(symbol)[-1]
        if self._done or symbol != self._symbol or price <= 0:
            return ()
        self._done = True
        return _buy(INVESTED * max(account.cash, 0.0) / price)


class MaCrossover(Strategy):
    """Two simple means; acts when the sign of their difference is not the one remembered last, for any symbol."""

    name = "ma_crossover"

    def __init__(self, short_period: int, long_period: int) -> None:
        self._short = short_period
        self._long = long_period
        self._needed = max(short_period, long_period)
        self._last: int | None = None
        self._known: dict[str, tuple[int, int | None]] = {}

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        day, signal = self._known.get(symbol, (-1, None))
        if day != account.day:
            signal = self._signal(account.closes(symbol))
            self._known[symbol] = account.day, signal
        if signal is None or signal == self._last:
            return ()
        self._last = signal
        price = account.closes(symbol)[-1]
        held = account.position(symbol)
        if signal == 0 or price <= 0:
            return ()
        if signal > 0:
            cover = _buy(-held) if held < 0 else ()
            return (*cover, *_buy(INVESTED * max(account.cash, 0.0) / price))
        sale = _sell(held) if held > 0 else ()
        return (*sale, *_sell(INVESTED * account.value / price))

    def _signal(self, closes: Sequence[float]) -> int | None:
        if len(closes) < self._needed:
            return None
        short = math.fsum(closes[-self._short:]) / self._short
        long = math.fsum(closes[-self._long:]) / self._long
        return 0 if abs(short - long) <= TIE * abs(long) else 1 if short > long else -1


class Momentum(Strategy):
    """The change over a window in percent; looks again when five days have passed since any symbol was looked at."""

    name = "momentum"

    def __init__(self, lookback_period: int, momentum_threshold: float) -> None:
        self._period = lookback_period
        self._threshold = momentum_threshold
        self._days = 0

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        closes = account.closes(symbol)
        if self._days < 5 or len(closes) < self._period:
            return ()
        self._days = 0
        price, before = closes[-1], closes[-self._period]
        if price <= 0 or before == 0:
            return ()
        momentum = 100 * (price / before - 1)
        held = account.position(symbol)
        if momentum > self._threshold:
            difference = INVESTED * account.value / price - held
            return (difference,) if abs(difference) > LEAST else ()
        if momentum < -self._threshold and held > 0:
            return _sell(held)
        return ()

    def on_day_end(self) -> None:
        self._days += 1


class MeanReversion(Strategy):
    """Quarter steps against the distance from the mean, in population deviations; may sell short."""

    name = "mean_reversion"

    def __init__(self, lookback_period: int, entry_threshold: float, exit_threshold: float) -> None:
        self._period = lookback_period
        self._entry = entry_threshold
        self._exit = exit_threshold
        self._known: dict[str, tuple[int, float | None]] = {}

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        day, z = self._known.get(symbol, (-1, None))
        if day != account.day:
            z = self._distance(account.closes(symbol))
            self._known[symbol] = account.day, z
        price = account.closes(symbol)[-1]
        if z is None or price <= 0:
            return ()
        held = account.position(symbol)
        full = INVESTED * account.value / price
        piece = SLICE * account.value / price
        orders: list[float] = []
        if z < -self._entry and held < full:
            quantity = min(full - held, piece)
            if max(account.cash, 0.0) > quantity * price:
                orders += _buy(quantity)
        elif z > self._entry:
            orders += _sell(min(held + full, piece))
        if held > 0 and z > -self._exit:
            orders += _sell(min(held, piece))
        elif held < 0 and z < self._exit:
            orders += _buy(min(-held, piece))
        return orders

    def _distance(self, closes: Sequence[float]) -> float | None:
        if len(closes) < self._period:
            return None
        window = closes[-self._period:]
        if min(window) == max(window):
            return None
        mean = math.fsum(window) / self._period
        deviation = math.sqrt(math.fsum((close - mean) ** 2 for close in window) / self._period)
        return (window[-1] - mean) / deviation if deviation > 0 else None


class Rsi(Strategy):
    """Relative strength from plain averages of gains and losses (not Wilder's); buys low, sells high, never short."""

    name = "rsi"

    def __init__(self, lookback_period: int, oversold_threshold: float, overbought_threshold: float) -> None:
        self._period = lookback_period
        self._oversold = oversold_threshold
        self._overbought = overbought_threshold
        self._known: dict[str, tuple[int, float | None]] = {}

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        day, strength = self._known.get(symbol, (-1, None))
        if day != account.day:
            strength = self._strength(account.closes(symbol))
            self._known[symbol] = account.day, strength
        price = account.closes(symbol)[-1]
        if strength is None or price <= 0:
            return ()
        held = account.position(symbol)
        if strength < self._oversold:
            room = INVESTED * account.value / price - held
            return (room,) if room > LEAST else ()
        if strength > self._overbought and held > 0:
            return _sell(held)
        return ()

    def _strength(self, closes: Sequence[float]) -> float | None:
        if len(closes) < self._period + 1:
            return None
        window = closes[-self._period - 1:]
        changes = [after - before for before, after in itertools.pairwise(window)]
        gains = math.fsum(change for change in changes if change > 0)
        losses = -math.fsum(change for change in changes if change < 0)
        if losses == 0:
            return 100.0
        return 0.0 if gains == 0 else 100 - 100 / (1 + gains / losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A written call: money as currency, expiry in microseconds; `premium` and `fee` are per share and per contract."""

    symbol: str
    strike: float
    expiry: int
    contracts: int
    multiplier: int
    premium: float
    fee: float
    spot: float

    @property
    def income(self) -> float:
        """What writing it brought, fees taken off."""
        return self.premium * self.multiplier * self.contracts - self.fee * self.contracts

    @property
    def shares(self) -> float:
        return float(self.multiplier * self.contracts)


class CoveredCall(Strategy):
    """A hundred shares of the first symbol and one call written against them, once."""

    name = "covered_call"
    SHARES: Final = 100
    AWAY: Final = Decimal("1.05")
    DAYS: Final = 7
    VOLATILITY: Final = 0.25
    RATE: Final = 0.01
    FEE: Final = 0.65

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbol = symbols[0]
        self._ordered = False
        self._written = False

    def on_bar(self, symbol: str, account: Account) -> Sequence[float]:
        price = account.closes(symbol)[-1]
        if self._ordered or symbol != self._symbol or price <= 0 or account.cash < self.SHARES * price:
            return ()
        self._ordered = True
        return (float(self.SHARES),)

    def on_fill(self, symbol: str, held: float, close: float, now: int) -> Call | None:
        """The call to write once all shares are there; None before that and ever after."""
        if self._written or symbol != self._symbol or held < self.SHARES - LEAST or close <= 0:
            return None
        self._written = True
        strike = float(EXACT.quantize(EXACT.multiply(Decimal(repr(close)), self.AWAY), Decimal("0.01")))
        premium = black_scholes_call(close, strike, self.DAYS / 365.25, self.RATE, self.VOLATILITY)
        return Call(symbol=symbol, strike=strike, expiry=now + self.DAYS * times.DAY, contracts=1,
                    multiplier=self.SHARES, premium=premium, fee=self.FEE, spot=close)


def black_scholes_call(spot: float, strike: float, years: float, rate: float, volatility: float) -> float:
    """A European call's value a share, without dividends. Black and Scholes (1973)."""
    width = volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + (rate + volatility**2 / 2) * years) / width
    return spot * normal_cdf(d1) - strike * math.exp(-rate * years) * normal_cdf(d1 - width)


def normal_cdf(x: float) -> float:
    """The normal distribution as the original takes it: formula 7.1.26 of Abramowitz and Stegun for the error function,
    but with t made from |x| where the formula wants |x|/sqrt(2). Up to 0.04 off; kept, because premiums follow from it.
    """
    t = 1 / (1 + 0.3275911 * abs(x))
    tail = 0.5 * t * math.exp(-x * x / 2) * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return 1 - tail if x >= 0 else tail


def make(name: str, params: Mapping[str, Any], symbols: Sequence[str]) -> Strategy:
    """The strategy of a name with its parameters read; raises `Invalid` naming what cannot be used."""
    name = ALIASES.get(name, name)
    if name not in NAMES:
        raise Invalid(UNSUPPORTED)
    values = read_parameters(name, params)
    if name == "ma_crossover":
        return MaCrossover(int(values["short_period"]), int(values["long_period"]))
    if name == "momentum":
        return Momentum(int(values["lookback_period"]), values["momentum_threshold"])
    if name == "mean_reversion":
        return MeanReversion(int(values["lookback_period"]), values["entry_threshold"], values["exit_threshold"])
    if name == "rsi":
        return Rsi(int(values["lookback_period"]), values["oversold_threshold"], values["overbought_threshold"])
    return BuyAndHold(symbols) if name == "buy_and_hold" else CoveredCall(symbols)


def read_parameters(name: str, params: Mapping[str, Any]) -> dict[str, float]:
    """Complete parameters of a strategy (canonical name); periods are rounded to whole numbers, half upwards.

    Raises `Invalid` with one problem for every value that is no finite number or below its least.
    """
    values: dict[str, float] = {}
    problems = []
    for key, (kind, default, least) in PARAMETERS[name].items():
        given = params.get(key)
        number = default if given is None else _number(given)
        if number is not None and kind == "period":
            number = min(math.floor(number + 0.5), MOST_PERIOD)
        if number is None:
            problems.append(Problem(f"strategy.params.{key}", f"{given!r} is not a number",
                                    f"the default is {default}"))
        elif least is not None and number < least:
            problems.append(Problem(f"strategy.params.{key}", f"{given!r} is too small", f"use at least {least:g}"))
        else:
            values[key] = number
    if problems:
        raise Invalid(str(problems[0]), problems=problems)
    return values


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _buy(quantity: float) -> tuple[float, ...]:
    return (quantity,) if quantity > 0 else ()


def _sell(quantity: float) -> tuple[float, ...]:
    return (-quantity,) if quantity > 0 else ()
