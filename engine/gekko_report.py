"""Gekko's performance report, and the whole answer of a backtest in the form that goes over the wire.

Two things that the original gets wrong are answered as its clients know them, and right under another key:

    trades[].portfolio         the portfolio at the end in every trade; right: `portfolios`, one for each trade
    stratUpdates[].indicators  of PPO the values at the end in every update; right: `indicators`, one for each update
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, Final

import numpy as np

from engine import times

Columns = Mapping[str, np.ndarray]

_EXACT: Final = Context(prec=1_100, rounding=ROUND_HALF_UP)  # a double has at most 1,075 digits
CANDLE: Final = ("start", "open", "high", "low", "close", "vwp", "volume", "trades")

def divide(a: float, b: float) -> float:
    """a / b by IEEE 754."""
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def plain(value: float) -> int | float | None:
    """A number as JSON in JavaScript has it: None for NaN and infinities, no minus zero, whole numbers whole."""
    value = float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def humanize(milliseconds: float) -> str:
    """A length of time in words, the way Gekko's library for times says it."""
    def near(value: float) -> int:
        return math.floor(value + 0.5)

    total = milliseconds / 864e5
    seconds, minutes, hours, days = (near(milliseconds / size) for size in (1e3, 6e4, 36e5, 864e5))
    months = near(total * 4800 / 146097)
    years = near(total * 4800 / 146097 / 12)
    if seconds <= 44:
        return "a few seconds"
    for limit, count, one, many in ((45, minutes, "a minute", "minutes"), (22, hours, "an hour", "hours"),
                                    (26, days, "a day", "days"), (11, months, "a month", "months")):
        if count <= 1:
            return one
        if count < limit:
            return f"{count} {many}"
    return "a year" if years <= 1 else f"{years} years"


def fixed(value: float, digits: int = 4) -> str:
    """A number with so many decimals, of its exact value, half up."""
    if not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    made = _EXACT.quantize(Decimal(abs(value)), Decimal(f"1e-{digits}"))
    return f"-{made}" if value < 0 else str(made)


def total(values: np.ndarray) -> float:
    """The sum, one after another from the left."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0


def deviation(profits: np.ndarray) -> float:
    """Standard deviation of the whole population, of the finite ones; NaN of none."""
    kept = profits[np.isfinite(profits)]
    if not len(kept):
        return math.nan
    off = kept - total(kept) / len(kept)
    return math.sqrt(total(off * off) / len(kept))


def quarter(losses: np.ndarray) -> float:
    """The 25th percentile of the losses; NaN of none."""
    if not len(losses):
        return math.nan
    values = np.sort(losses).tolist()
    place = len(values) * 0.25 - 0.5
    if place == int(place):
        return values[int(place)]
    low = int(place)
    part = place - low
    return (1 - part) * values[low] + part * values[min(low + 1, len(values) - 1)]


def performance(*, start: int, end: int, start_price: float, end_price: float, start_balance: float, balance: float,
                trades: int, roundtrips: Columns, risk_free: float) -> dict[str, Any]:
    """The performanceReport in the order of its keys. `start`, `end` in seconds, `risk_free` in percent a year,
    `roundtrips` the columns of the table of that name (times in seconds)."""
    with np.errstate(all="ignore"):
        length = (end - start) * 1000
        years = ((length / 864e5) * 4800 / 146097) / 12
        profit = balance - start_balance
        relative = divide(balance, start_balance) * 100 - 100
        market = divide(end_price * 100, start_price) - 100
        yearly = divide(relative, years)
        profits, pnl = roundtrips["profit"], roundtrips["pnl"]
        losses = profits[roundtrips["exitBalance"] < roundtrips["entryBalance"]]
        ratio = divide(trades, trades - 2)
        factor = math.sqrt(ratio) if ratio >= 0 else math.nan
        sharpe = divide(divide(yearly - risk_free, deviation(profits)), factor)
        downside = quarter(losses) * factor
        exposed = int(roundtrips["duration"].sum())
        won: Any = fixed(int((pnl > 0).sum()) / len(pnl) * 100) if len(pnl) else 100
        return {
            "startTime": _moment(start), "endTime": _moment(end), "timespan": humanize(length), "market": plain(market),
            "balance": plain(balance), "profit": plain(profit), "relativeProfit": plain(relative),
            "yearlyProfit": plain(divide(profit, years)), "relativeYearlyProfit": plain(yearly),
            "startPrice": plain(start_price), "endPrice": plain(end_price), "trades": trades,
            "startBalance": plain(start_balance), "exposure": plain(divide(exposed, length)), "sharpe": plain(sharpe),
            "downside": plain(downside), "ratioRoundTrips": won, "alpha": plain(relative - market),
        }


def _moment(seconds: int) -> str:
    return times.instant(int(seconds) * times.SECOND).strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, kw_only=True, eq=False)
class GekkoReport:
    """The outcome of a Gekko backtest: figures as columns, and as the plain values of Gekko's answer.

    Columns (times in seconds since 1970): `advice_columns` date, side, candle; `trade_columns` date, side, number,
    advice, cost, amount, price, asset, currency, balance; `roundtrip_columns` id, entryAt, entryPrice, entryBalance,
    exitAt, exitPrice, exitBalance, duration (ms), pnl, profit; `candle_columns` the eight of a candle and
    `portfolioValue`; `lines` the indicators, shape (k, candles). `shows`: see `engine.gekko_settings.Method`.
    """

    market: Mapping[str, Any]
    tradingAdvisor: Mapping[str, Any]
    strategyParameters: Any
    performanceReport: Mapping[str, Any] | None
    advice_columns: Columns
    trade_columns: Columns
    roundtrip_columns: Columns
    candle_columns: Columns
    lines: np.ndarray
    fee: float
    fee_percent: float
    trail: float
    shows: tuple[tuple[str, str, int, tuple[str, ...]], ...]
    first_values: tuple[int, ...]
    exported: Mapping[str, Any] = field(default_factory=dict)

    @property
    def advices(self) -> list[dict[str, Any]]:
        """All advices: id, recommendation, trigger where there is one, date (seconds)."""
        columns = self.advice_columns
        found = []
        for number, (date, side, close) in enumerate(zip(*(columns[key].tolist() for key in ("date", "side", "close")),
                                                         strict=True), 1):
            trigger = {"trigger": {"type": "trailingStop", "trailPercentage": plain(self.trail),
                                   "trailValue": plain(self.trail / 100.0 * close)}} if self.trail and side > 0 else {}
            found.append({"id": f"advice-{number}", "recommendation": "long" if side > 0 else "short", **trigger,
                          "date": date})
        return found

    @property
    def trades(self) -> list[dict[str, Any]]:
        columns = self.trade_columns
        if not len(columns["date"]):
            return []
        final = self.portfolios[-1]
        percent = plain(self.fee_percent)
        return [
            {"id": f"trade-{number}", "adviceId": f"advice-{advice}", "action": "buy" if side > 0 else "sell",
             "cost": cost, "amount": amount, "price": price, "portfolio": final, "balance": balance, "date": date,
             "effectivePrice": effective, "feePercent": percent}
            for date, side, number, advice, cost, amount, price, balance, effective in zip(
                *(columns[key].tolist() for key in ("date", "side", "number", "advice")),
                *(_figures(columns[key]) for key in ("cost", "amount", "price", "balance")),
                _figures(columns["price"] * self.fee), strict=True)]

    @property
    def portfolios(self) -> list[dict[str, Any]]:
        """What was held after each trade."""
        return [{"asset": asset, "currency": currency} for asset, currency in zip(
            _figures(self.trade_columns["asset"]), _figures(self.trade_columns["currency"]), strict=True)]

    @property
    def roundtrips(self) -> list[dict[str, Any]]:
        return list(_objects({key: _figures(column) for key, column in self.roundtrip_columns.items()}))

    @property
    def stratCandles(self) -> list[dict[str, Any]]:
        columns = self.candle_columns
        rows = list(_objects({name: _figures(columns[name]) for name in self.candle_keys()}))
        if self.exported.get("portfolioValues"):
            for row, value in zip(rows, _figures(columns["portfolioValue"]), strict=True):
                if value == value:
                    row["portfolioValue"] = value
        return rows

    @property
    def stratUpdates(self) -> list[dict[str, Any]]:
        return self.updates(slice(None))

    @property
    def indicators(self) -> list[dict[str, Any]]:
        """The indicators of each of the strategy's candles as they were then."""
        return [row["indicators"] for row in self.updates(slice(None), shared=False)]

    def answer(self) -> dict[str, Any]:
        """The body of Gekko's answer: what was not asked for is absent."""
        return {**self.head(), **{name: getattr(self, name) for name in self.lists()}}

    def json(self) -> bytes:
        """The same as JSON, made from the columns without the objects in between."""
        from engine.gekko_text import pieces

        return b"".join(pieces(self))

    def head(self) -> dict[str, Any]:
        """The answer without its lists."""
        head: dict[str, Any] = {"market": self.market, "tradingAdvisor": self.tradingAdvisor}
        if self.strategyParameters is not None:
            head["strategyParameters"] = self.strategyParameters
        if self.performanceReport is not None:
            head["performanceReport"] = self.performanceReport
        return head

    def lists(self) -> list[str]:
        """The lists that were asked for, in the order of the answer."""
        return [name for name in ("stratUpdates", "roundtrips", "stratCandles", "trades") if self.exported.get(name)]

    def candle_keys(self) -> list[str]:
        """The columns that an entry of stratCandles has, in order."""
        props = self.exported.get("stratCandleProps")
        names = [*dict.fromkeys(each for each in props if each in CANDLE)] if isinstance(props, list) else list(CANDLE)
        return names if "start" in names else [*names, "start"]

    def updates(self, rows: slice, shared: bool = True) -> list[dict[str, Any]]:
        """Entries of stratUpdates; not `shared`: with the right values (see above)."""
        when = self.candle_columns["start"][rows].tolist()
        skipped = rows.start or 0
        shown: list[list[Any]] = []
        for (name, kind, place, keys), begin in zip(self.shows, self.first_values, strict=True):
            missing = min(max(0, begin - skipped), len(when))
            lines = [_figures(self.lines[place + k, rows]) for k in range(max(1, len(keys)))]
            if kind == "shared" and shared:
                shown.append([self.last(name)] * len(when))
            elif kind in ("shared", "native"):
                shown.append([{}] * missing + list(_objects(dict(zip(keys, lines, strict=True))))[missing:])
            elif kind == "single":
                values = [value if value == value and value else {keys[0]: value} for value in lines[0]]
                shown.append([{}] * missing + values[missing:])
            else:
                shown.append([False] * missing + lines[0][missing:])
        names = [name for name, *_ in self.shows]
        return [{"date": date, "indicators": dict(zip(names, values, strict=True))}
                for date, *values in zip(when, *shown, strict=True)]

    def last(self, name: str) -> dict[str, Any]:
        """The final values of an indicator that is an object."""
        place, keys = next((place, keys) for each, _, place, keys in self.shows if each == name)
        if not self.lines.shape[1]:
            return {}
        return {key: plain(value) for key, value in zip(keys, self.lines[place:place + len(keys), -1], strict=True)}


def _objects(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    names = tuple(columns)
    return (dict(zip(names, row, strict=False)) for row in zip(*columns.values(), strict=True))


def _figures(column: np.ndarray) -> list[Any]:
    """A column as plain numbers without minus zeros; whole columns of whole numbers as ints. Infinities and NaN stay:
    JSON makes null of both."""
    if column.dtype.kind in "iu":
        return column.tolist()
    return (column + 0.0).tolist()
