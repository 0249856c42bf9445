"""Fewer points that look the same: lines by MinMaxLTTB, candles by gathering them into coarser ones."""

from typing import Final

import numpy as np

from engine import times
from engine.candles import WEEK, Candles, bucket_start
from engine.errors import Invalid

_WIDTHS: Final = tuple(
    [1, 2, 5, 10, 15, 30]
    + [60 * m for m in (1, 2, 3, 5, 10, 15, 20, 30)]
    + [3600 * h for h in (1, 2, 3, 4, 6, 8, 12)]
    + [86400, 2 * 86400] + [WEEK * 2**k for k in range(12)]
)


def line_points(x: np.ndarray, y: np.ndarray, points: int) -> np.ndarray:
    """Positions (ascending, at most `points`) that draw the line y over x like all of them: MinMaxLTTB.

    `x` is int64 or float64 in ascending order, `y` float64 of the same length; NaN in `y` is skipped. First and last
    finite value are always among them. Source: Van Der Donckt et al., "MinMaxLTTB", 2023, as in tsdownsample.
    """
    if points < 3:
        raise Invalid("fewer than 3 points draw no line", field="points", remedy="ask for at least 3")
    finite = np.flatnonzero(np.isfinite(y))
    if len(finite) <= points:
        return finite
    from tsdownsample import MinMaxLTTBDownsampler

    some_x, some_y = np.ascontiguousarray(x[finite]), np.ascontiguousarray(y[finite], dtype=np.float64)
    picked = MinMaxLTTBDownsampler().downsample(some_x, some_y, n_out=points)
    return finite[np.unique(picked.astype(np.int64))]


def fewer_candles(candles: Candles, points: int) -> Candles:
    """At most `points` bars that draw the same chart: the bars themselves when they are few enough, else buckets of a
    round width (2m, 15m, 4h, 1d, 1w ...) as `Candles.resample` makes them; the result's resolution says which."""
    if points < 2:
        raise Invalid("fewer than 2 candles draw no chart", field="points", remedy="ask for at least 2")
    if len(candles) <= points:
        return candles
    least = candles.resolution * -(-len(candles) // points)
    for width in _widths(candles.resolution):
        # A chart with holes has fewer buckets than its bars suggest: try from a third of the width upwards.
        if 3 * width >= least:
            bucket = bucket_start(candles.time, width)
            if 1 + int(np.count_nonzero(bucket[1:] != bucket[:-1])) <= points:
                return candles.resample(width)
    span = int(candles.time[-1] - candles.time[0]) // times.SECOND + candles.resolution
    return candles.resample(candles.resolution * -(-2 * span // candles.resolution))


def _widths(resolution: int) -> list[int]:
    """Round multiples of a resolution in seconds, ascending; plain multiples where none is round."""
    round_ones = [width for width in _WIDTHS if width > resolution and width % resolution == 0]
    return round_ones or [resolution * 2**k for k in range(1, 24)]
