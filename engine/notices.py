"""What a person should know before believing a result. Each notice is {"code", "message"}."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from engine import times
from engine.calendars import Gap, calendar_of, gaps_of
from engine.candles import Candles
from engine.errors import Invalid, Problem
from engine.quality import bad_bars
from engine.result import Columns
from engine.spec import BacktestSpec

FEW_TRADES: Final = 30
SHORT_DAYS: Final = 90.0
UNREAL_RETURN: Final = 5.0
_NAMED: Final = 3


def notice(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


def holes(candles: Candles) -> list[Gap]:
    """The gaps in these bars that are no night, weekend or holiday."""
    found = gaps_of(candles.time, candles.resolution, calendar_of(candles.time, candles.resolution))
    return [gap for gap in found if gap.severity == "gap"]


def examine(spec: BacktestSpec, name: str, candles: Candles) -> tuple[Candles, list[dict[str, str]]]:
    """The bars that may be traded, and what was wrong with the others.

    Bars with a price of zero or less are left out, with a warning; of holes, and of bars whose extremes cannot be,
    there is a warning. With `data_mode` "fail" all three raise `Invalid` that names them.
    """
    problems: list[Problem] = []
    warnings: list[dict[str, str]] = []
    lowest = min(float(column.min()) for column in (candles.open, candles.high, candles.low, candles.close))
    if lowest <= 0:
        bad = (candles.open <= 0) | (candles.high <= 0) | (candles.low <= 0) | (candles.close <= 0)
        text = f"{name}: {np.count_nonzero(bad)} bars with a price of zero or less, the first at " \
               + times.iso(int(candles.time[np.argmax(bad)]))
        problems.append(Problem("markets", text, "correct or delete them"))
        warnings.append(notice("bad_bars", text + "; they were left out"))
        candles = candles.take(~bad)
        if not len(candles):
            raise Invalid(f"{name} has no bar with usable prices", field="markets", remedy="correct the data")
    odd = bad_bars(candles)
    if len(odd):
        text = f"{name}: {len(odd)} bars with a high below or a low above another of their prices, the first at " \
               + times.iso(int(candles.time[odd[0]]))
        problems.append(Problem("markets", text, "correct or delete them"))
        warnings.append(notice("impossible_bars", text + "; they were used as they are"))
    gaps = holes(candles)
    if gaps:
        biggest = sorted(gaps, key=lambda gap: -gap.missing)[:_NAMED]
        listed = "; ".join(f"{gap.missing} from {_minute(gap.start)} to {_minute(gap.end)}" for gap in biggest)
        text = f"{name}: {sum(gap.missing for gap in gaps)} bars missing in {len(gaps)} holes ({listed}" \
               + ("; …)" if len(gaps) > _NAMED else ")")
        problems.append(Problem("data_mode", text, 'fill the holes, choose another range, or use data_mode "warn"'))
        warnings.append(notice("data_holes", text))
    if problems and spec.data_mode == "fail":
        raise Invalid(str(problems[0]), field=problems[0].field, problems=problems)
    return candles, warnings


def _minute(at: int) -> str:
    return times.iso(at)[:16] + "Z"


def notices(spec: BacktestSpec, candles: Sequence[Candles], symbols: Sequence[str], fills: Columns,
            figures: Mapping[str, float | None]) -> list[dict[str, str]]:
    """Everything that can be seen in the finished figures."""
    found = []
    trades = int(figures["trades"] or 0)
    if trades < FEW_TRADES:
        found.append(notice("few_trades", f"{trades} trades are too few to tell skill from luck; "
                                          f"at least {FEW_TRADES} are wanted"))
    silent, late = _fills_at_odds(candles, symbols, fills)
    if silent:
        found.append(notice("zero_volume_fills", f"{silent} fills at bars without volume: nobody may have traded "
                                                 "there"))
    if late:
        found.append(notice("fills_after_gaps", f"{late} fills at the first bar after a hole in the data, at a price "
                                                "that may not have been there"))
    first = min(int(each.time[0]) for each in candles)
    last = max(int(each.time[-1]) for each in candles)
    days = (last - first) / times.DAY + spec.resolution_seconds / 86400
    annual = figures["annual_return"]
    if days < SHORT_DAYS:
        found.append(notice("short_range", f"the run covers {days:.3g} days; annual figures are made of far less "
                                           "than a year"))
    if annual is not None and annual > UNREAL_RETURN:
        found.append(notice("unrealistic_return", f"an annual return of {annual:.0%} is hardly real; look for errors "
                                                  "in the data, missing costs or too short a range"))
    return found


def _fills_at_odds(candles: Sequence[Candles], symbols: Sequence[str], fills: Columns) -> tuple[int, int]:
    """How many fills happened at bars without volume (of markets that have some), and right after holes."""
    silent = late = 0
    if not len(fills["time"]):
        return 0, 0
    for name, each in zip(symbols, candles, strict=True):
        time = fills["time"] if len(symbols) == 1 else fills["time"][fills["symbol"] == name]
        if not len(time):
            continue
        row = np.minimum(np.searchsorted(each.time, time), len(each) - 1)
        there = each.time[row] == time
        volume = each.volume[row]
        if (volume[there] <= 0).any() and each.volume.any():
            silent += int(np.count_nonzero(there & (volume <= 0)))
        if len(each) > 1 and (ends := {gap.end for gap in holes(each)}):
            width = each.resolution * times.SECOND
            previous = each.time[np.maximum(row - 1, 0)]
            # The bar before a fill lies before the hole and the fill's bar right behind it.
            edge = np.array(sorted(ends))
            at = np.searchsorted(edge, time) - 1
            late += int(np.count_nonzero((at >= 0) & (edge[np.maximum(at, 0)] > previous) & (time - previous > width)))
    return silent, late
