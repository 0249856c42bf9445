"""Live trades beside those of a backtest: which belong together, and how far apart they are."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

__all__ = ["Match", "Pairing", "Trade", "match"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trade:
    """`side` is buy or sell; `price` in the quote currency for a unit. `id` and `quantity` are for people."""

    symbol: str
    side: str
    at: datetime
    price: float
    quantity: float = 0.0
    id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """`late` is live minus backtest in seconds, `price` live / backtest - 1."""

    live: Trade
    backtest: Trade
    late: float
    price: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """`rate` is pairs / (pairs + missing on either side), None without any trade. `median_*` and `worst_*` are of
    absolute differences (seconds; fraction of the backtest's price), None without a pair."""

    pairs: tuple[Pairing, ...]
    only_live: tuple[Trade, ...]
    only_backtest: tuple[Trade, ...]
    rate: float | None
    median_late: float | None
    worst_late: float | None
    median_price: float | None
    worst_price: float | None


def match(live: Iterable[Trade], backtest: Iterable[Trade], tolerance: timedelta) -> Match:
    """One to one, same symbol and side, at most `tolerance` apart. In time order each takes the earliest partner that
    is still free, which makes as many pairs as can be made."""
    sides: dict[tuple[str, str], tuple[list[Trade], list[Trade]]] = {}
    for which, trades in enumerate((live, backtest)):
        for trade in trades:
            sides.setdefault((trade.symbol, trade.side), ([], []))[which].append(trade)
    pairs: list[Pairing] = []
    alone: tuple[list[Trade], list[Trade]] = ([], [])
    for key in sorted(sides):
        ours, theirs = (sorted(each, key=lambda trade: trade.at) for each in sides[key])
        i = j = 0
        while i < len(ours) and j < len(theirs):
            late = ours[i].at - theirs[j].at
            if abs(late) <= tolerance:
                pairs.append(Pairing(live=ours[i], backtest=theirs[j], late=late.total_seconds(),
                                     price=ours[i].price / theirs[j].price - 1))
                i, j = i + 1, j + 1
            elif late < timedelta():
                alone[0].append(ours[i])
                i += 1
            else:
                alone[1].append(theirs[j])
                j += 1
        alone[0].extend(ours[i:])
        alone[1].extend(theirs[j:])
    pairs.sort(key=lambda pair: pair.live.at)
    count = len(pairs) + len(alone[0]) + len(alone[1])
    lates, prices = [abs(pair.late) for pair in pairs], [abs(pair.price) for pair in pairs]
    return Match(pairs=tuple(pairs), only_live=tuple(alone[0]), only_backtest=tuple(alone[1]),
                 rate=len(pairs) / count if count else None,
                 median_late=median(lates) if pairs else None, worst_late=max(lates, default=None),
                 median_price=median(prices) if pairs else None, worst_price=max(prices, default=None))
