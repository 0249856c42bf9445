"""Candles as columns: cutting, checking, resampling, fingerprint."""

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from engine import times
from engine.errors import Invalid, Problem
from engine.model import Market

if TYPE_CHECKING:
    from engine.quality import Quality

FIELDS: Final = ("open", "high", "low", "close", "volume")
MONDAY: Final = 4 * times.DAY  # 1970-01-05: the epoch itself was a Thursday
WEEK: Final = 7 * 86400

_EXTRA: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
SPAN: Final = (times.micros(times.EARLIEST), times.micros(times.LATEST))
"""Candles' times lie from the first to before the second, as all instants do (microseconds)."""

_MOST_PROBLEMS: Final = 20
_PIECE: Final = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class Candles:
    """Bars of one market at one resolution, in time order without duplicates.

    `time` is int64 microseconds since 1970 of each bar's open; prices and `volume` are float64, all of one length n.
    `extra` holds optional float64 columns of the same length (`vwp`, `trades`). `resolution` is seconds.
    """

    market: Market
    resolution: int
    time: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time)

    def columns(self) -> dict[str, np.ndarray]:
        """Every column by name: time, open, high, low, close, volume, then the extra ones."""
        return {"time": self.time, **{name: getattr(self, name) for name in FIELDS}, **self.extra}

    def take(self, index: slice | np.ndarray) -> Self:
        """The bars at `index`: views for a slice, copies for an array of positions or a mask."""
        return self._with({name: column[index] for name, column in self.columns().items()})

    def between(self, start: int | None = None, end: int | None = None) -> Self:
        """The bars that open from `start` to `end` (microseconds, both inclusive, None = open side), as views."""
        first = 0 if start is None else int(np.searchsorted(self.time, start, side="left"))
        last = len(self) if end is None else int(np.searchsorted(self.time, end, side="right"))
        return self.take(slice(first, max(first, last)))

    def checked(self) -> Self:
        """These bars as the store takes them: right types, finite, in time order, one bar a time.

        Unsorted bars are sorted; of several bars with one time the last given wins (a correction follows what it
        corrects). Raises `Invalid` naming the column and the row, counted from 1, for columns of unequal length,
        values that are not finite numbers, times outside 1900-2200, and bars closer together than the resolution.
        A price below zero is allowed (futures have traded there), and a high below the open is kept: `quality`
        reports such bars.
        """
        columns = self.columns()
        n = len(self.time)
        for name in self.extra:
            if not _EXTRA.fullmatch(name) or name in FIELDS or name == "time":
                raise Invalid(f"{name!r} cannot name an extra column", field=name,
                              remedy="use lower case letters, digits and _, at most 32")
        if self.resolution <= 0:
            raise Invalid("a resolution is a positive number of seconds", field="resolution", remedy="use 1m, 1h or 1d")
        for name, column in columns.items():
            kind = np.int64 if name == "time" else np.float64
            column = np.ascontiguousarray(column)
            if column.ndim != 1 or len(column) != n:
                raise Invalid(f"has {column.size} values where time has {n}", field=name,
                              remedy="give every column the same number of rows")
            if name == "time" and column.dtype.kind not in "iu":
                raise Invalid("times are whole microseconds since 1970", field="time", remedy="convert to int64")
            columns[name] = column.astype(kind, copy=False)
        _refuse_unusable(columns, self.extra)
        checked = self._with(columns)
        time = checked.time
        if n > 1:
            steps = np.diff(time)
            if not (steps > 0).all():
                order = np.argsort(time, kind="stable")
                ordered = time[order]
                final = np.append(ordered[1:] != ordered[:-1], True)  # the last given of each time
                checked = checked.take(order[final])
                steps = np.diff(checked.time)
            # The median lets a session's odd first bar and a day of 23 hours pass.
            if len(steps) and 2 * float(np.median(steps)) <= self.resolution * times.SECOND:
                raise Invalid(
                    f"bars {float(np.median(steps)) / times.SECOND:g} s apart cannot have the resolution "
                    f"{times.resolution_name(self.resolution)}", field="resolution",
                    remedy="give the resolution the bars really have; any coarser one is made from it on request",
                )
        return checked

    def resample(self, resolution: int) -> Self:
        """These bars gathered into coarser ones of `resolution` seconds, a multiple of the present one.

        Buckets are anchored at the Unix epoch in UTC; whole weeks at Monday. A bucket's bar opens at the bucket's
        start, and exists when at least one bar fell into it (first and last may be partial). Open is the first, close
        the last, high and low the extremes, volume and `trades` the sums, `vwp` the volume-weighted mean (of a bucket
        without volume: its open), any other extra column the last value. Raises `Invalid` when it does not divide.
        """
        if resolution == self.resolution:
            return self
        if resolution < self.resolution or resolution % self.resolution:
            raise Invalid(
                f"{times.resolution_name(resolution)} is no multiple of {times.resolution_name(self.resolution)}",
                field="resolution", remedy="ask for a whole multiple of the stored resolution",
            )
        if not len(self):
            return replace(self, resolution=resolution)
        bucket = bucket_start(self.time, resolution)
        starts = np.concatenate(([0], np.flatnonzero(bucket[1:] != bucket[:-1]) + 1))
        ends = np.append(starts[1:], len(self)) - 1
        opens = self.open[starts]
        volume = np.add.reduceat(self.volume, starts)
        extra: dict[str, np.ndarray] = {}
        for name, column in self.extra.items():
            if name == "trades":
                extra[name] = np.add.reduceat(column, starts)
            elif name == "vwp":
                weight = np.where(np.isfinite(column), self.volume, 0.0)
                weights = np.add.reduceat(weight, starts)
                total = np.add.reduceat(np.where(weight != 0.0, column, 0.0) * weight, starts)
                extra[name] = np.divide(total, weights, out=opens.copy(), where=weights > 0)
            else:
                extra[name] = column[ends]
        return replace(
            self, resolution=resolution, time=bucket[starts], open=opens, high=np.maximum.reduceat(self.high, starts),
            low=np.minimum.reduceat(self.low, starts), close=self.close[ends], volume=volume, extra=extra,
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) of resolution and columns: equal for equal bars on any machine, whatever the market's name."""
        digest = hashlib.sha256(f"candles 1 {self.resolution} {len(self)}".encode())
        columns = self.columns()
        for name in ("time", *FIELDS, *sorted(self.extra)):
            kind = "<i8" if name == "time" else "<f8"
            digest.update(f" {name} ".encode())
            for first in range(0, len(self), _PIECE):  # copies of whole columns would be hundreds of megabytes
                piece = columns[name][first : first + _PIECE].astype(kind, copy=False)
                if name != "time":
                    piece = piece + 0.0  # minus zero is zero
                digest.update(np.ascontiguousarray(piece).data)
        return digest.hexdigest()

    def quality(self) -> "Quality":
        """What is good and bad about these bars; see `engine.quality`."""
        from engine.quality import quality

        return quality(self)

    def _with(self, columns: dict[str, np.ndarray]) -> Self:
        own: dict[str, Any] = {name: columns[name] for name in ("time", *FIELDS)}
        return replace(self, **own, extra={name: columns[name] for name in self.extra})


def bucket_start(time: np.ndarray, resolution: int) -> np.ndarray:
    """The start (int64 microseconds) of the bucket of `resolution` seconds that each time falls into."""
    width = resolution * times.SECOND
    anchor = MONDAY if resolution % WEEK == 0 else 0
    return (time - anchor) // width * width + anchor


def empty(market: Market, resolution: int) -> Candles:
    """No bars of a market."""
    none: dict[str, Any] = {name: np.empty(0) for name in FIELDS}
    return Candles(market=market, resolution=resolution, time=np.empty(0, np.int64), **none)


def _refuse_unusable(columns: dict[str, np.ndarray], extra: dict[str, np.ndarray]) -> None:
    """Raise `Invalid` with the first rows whose time or figures cannot be used; extra columns may hold NaN."""
    problems: list[Problem] = []
    time = columns["time"]
    wrong = np.flatnonzero((time < SPAN[0]) | (time >= SPAN[1]))
    for row in wrong[:_MOST_PROBLEMS]:
        problems.append(Problem("time", f"row {row + 1}: {time[row]} is outside the years 1900-2200",
                                "give microseconds since 1970"))
    for name, column in columns.items():
        if name == "time" or name in extra:
            continue
        finite = np.isfinite(column)
        if not finite.all():
            for row in np.flatnonzero(~finite)[:_MOST_PROBLEMS]:
                problems.append(Problem(name, f"row {row + 1}: {column[row]} is not a finite number",
                                        "leave the row out or correct it"))
    if problems:
        raise Invalid(str(problems[0]), field=problems[0].field, remedy=problems[0].remedy,
                      problems=problems[:_MOST_PROBLEMS])
