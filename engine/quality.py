"""How good candles are: holes, doubles, impossible bars, outliers; and what calendar they follow."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from engine import times
from engine.calendars import Gap, calendar_of, gaps_of
from engine.candles import Candles

_LISTED: Final = 500  # gaps and bars that are listed; counts are of all
_OUTLIER: Final = 20.0  # robust standard deviations
_MAD: Final = 1.482602218505602  # of a normal distribution: standard deviation / median absolute deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """A report on candles. Times are microseconds of bar opens; `first` and `last` are None when there are no bars.

    `gaps` lists at most 500, in time order: `missing` bars from `start` to `end` (opens, inclusive) with severity
    "gap", or "session" where a single trading day (a holiday, probably) or the end of one (a short session) is missing.
    `coverage` is bars / (bars + those missing in gaps), a fraction; guessed holidays do not lower it.
    `calendar` is "24x7" or "exchange"; `weekdays` (0 = Monday, UTC) are its trading days. `periods_per_year` is days a
    year with trading, for annualising daily figures; `periods_text` says where it comes from; `bars_per_year` is bars.
    `bad_bars`: the high is below, or the low above, another price. `outliers`: the close moved more than 20 robust
    standard deviations (1.4826 x median absolute deviation of log returns). Both list at most 500 times.
    """

    market: str
    resolution: int
    rows: int
    first: int | None
    last: int | None
    calendar: Literal["24x7", "exchange"]
    weekdays: tuple[int, ...]
    periods_per_year: float
    periods_text: str
    bars_per_year: float
    coverage: float
    gaps: tuple[Gap, ...]
    gap_count: int
    missing_bars: int
    missing_sessions: int
    duplicates: int
    misaligned: int
    bad_bar_count: int
    bad_bars: tuple[int, ...]
    non_positive: int
    zero_volume: int
    longest_zero_volume: int
    outlier_count: int
    outliers: tuple[int, ...]
    fingerprint: str

    @property
    def findings(self) -> tuple[str, ...]:
        """What a person should know, a sentence each, the gravest first; empty when all is well."""
        said = []
        if not self.rows:
            return ("there are no bars",)
        if self.duplicates:
            said.append(f"{self.duplicates} bars have the time of another or are out of order")
        if self.bad_bar_count:
            said.append(f"{self.bad_bar_count} bars have a high below or a low above another of their prices")
        if self.non_positive:
            said.append(f"{self.non_positive} bars have a price of zero or less")
        if self.gap_count:
            said.append(f"{self.gap_count} gaps, {self.missing_bars} bars missing, coverage {self.coverage:.2%}")
        if self.outlier_count:
            said.append(f"{self.outlier_count} moves of more than {_OUTLIER:g} robust standard deviations")
        if self.misaligned:
            said.append(f"{self.misaligned} bars do not open on a multiple of the resolution")
        if self.rows > 1 and self.zero_volume == self.rows:
            said.append("no bar has a volume")
        elif self.longest_zero_volume > 1 and 100 * self.zero_volume > self.rows:
            said.append(f"{self.zero_volume} bars without volume, up to {self.longest_zero_volume} in a row")
        if self.missing_sessions:
            said.append(f"{self.missing_sessions} single sessions missing or short, probably holidays")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Plain values; times as RFC 3339 text, the resolution by name."""
        found = asdict(self)
        for name in ("first", "last"):
            found[name] = None if found[name] is None else times.iso(found[name])
        for name in ("bad_bars", "outliers"):
            found[name] = [times.iso(at) for at in found[name]]
        found["gaps"] = [{**asdict(gap), "start": times.iso(gap.start), "end": times.iso(gap.end)} for gap in self.gaps]
        found["weekdays"] = list(self.weekdays)
        found["resolution"] = times.resolution_name(self.resolution)
        found["findings"] = list(self.findings)
        return found


def quality(candles: Candles) -> Quality:
    """Examine candles, also ones that never were through `Candles.checked`. A million bars: 0.1 s."""
    steps = np.diff(candles.time)
    doubles = int(np.count_nonzero(steps <= 0))
    ordered = candles if not doubles else candles.take(np.unique(candles.time, return_index=True)[1])
    calendar = calendar_of(ordered.time, candles.resolution)
    gaps = gaps_of(ordered.time, candles.resolution, calendar)
    grave = [gap for gap in gaps if gap.severity == "gap"]
    missing = sum(gap.missing for gap in grave)
    bad = bad_bars(candles)
    outliers = _outliers(ordered)
    silent = candles.volume <= 0
    prices = np.minimum(np.minimum(candles.open, candles.close), np.minimum(candles.high, candles.low))
    rows = len(candles)
    return Quality(
        market=candles.market.key, resolution=candles.resolution, rows=rows,
        first=int(ordered.time[0]) if rows else None, last=int(ordered.time[-1]) if rows else None,
        calendar=calendar.kind, weekdays=calendar.weekdays, periods_per_year=calendar.periods_per_year,
        periods_text=calendar.text, bars_per_year=calendar.bars_per_year,
        coverage=len(ordered) / (len(ordered) + missing) if rows else 0.0,
        gaps=tuple(sorted(sorted(gaps, key=lambda gap: (gap.severity != "gap", -gap.missing))[:_LISTED],
                          key=lambda gap: gap.start)),
        gap_count=len(grave), missing_bars=missing, missing_sessions=len(gaps) - len(grave), duplicates=doubles,
        misaligned=int(np.count_nonzero(candles.time % (min(candles.resolution, 86400) * times.SECOND)))
        if candles.resolution <= 86400 else 0,
        bad_bar_count=len(bad), bad_bars=tuple(candles.time[bad[:_LISTED]].tolist()),
        non_positive=int(np.count_nonzero(prices <= 0)), zero_volume=int(np.count_nonzero(silent)),
        longest_zero_volume=_longest(silent),
        outlier_count=len(outliers), outliers=tuple(ordered.time[outliers[:_LISTED]].tolist()),
        fingerprint=candles.fingerprint(),
    )


def bad_bars(candles: Candles) -> np.ndarray:
    """Positions of bars whose extremes are not their extremes, by more than rounding."""
    opens, highs, lows, closes = candles.open, candles.high, candles.low, candles.close
    odd = np.flatnonzero((highs < opens) | (highs < closes) | (lows > opens) | (lows > closes))
    if len(odd):
        opens, highs, lows, closes = (column[odd] for column in (opens, highs, lows, closes))
        slack = 1e-9 * np.abs(closes)
        odd = odd[(highs < np.maximum(opens, closes) - slack) | (lows > np.minimum(opens, closes) + slack)
                  | (highs < lows)]
    return odd


def _outliers(candles: Candles) -> np.ndarray:
    """Positions of bars whose close is an improbable distance from the one before."""
    close = candles.close
    if len(close) < 30 or (close <= 0).any():
        return np.empty(0, np.int64)
    moves = np.diff(np.log(close))
    deviation = np.abs(moves - np.median(moves))
    sigma = _MAD * float(np.median(deviation))
    if sigma == 0.0:  # more than half the bars did not move: measure those that did
        moved = deviation[deviation > 0]
        sigma = _MAD * float(np.median(moved)) if len(moved) >= 30 else 0.0
    return np.flatnonzero(deviation > _OUTLIER * sigma) + 1 if sigma else np.empty(0, np.int64)


def _longest(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))
