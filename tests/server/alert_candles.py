"""Minute candles whose alerts are known, for tests of detection."""

from collections.abc import Sequence

import numpy as np

from engine.candles import Candles
from engine.model import Market

MARKET = Market("test", "BTC", "USD")
BEGIN = 1_700_000_040_000_000  # a whole minute
PARAMS = {"channel": 3, "window": 2, "margin": 0.0, "risk": 1.0, "reward": 2.0, "patience": 5, "trail": 0.0}
"""breakout_retest on bars of one candle: the channel is the 3 bars before, the true range the mean of 2."""

# Calm between 100 and 102; minute 4 closes above 102: an alert at 102, stop 100 (true range 2), target 106.
CALM = [(101.0, 102.0, 100.0, 101.0)] * 4
BREAK = [(101.0, 103.0, 101.0, 103.0)]
ABOVE = [(103.0, 103.5, 102.5, 103.0)]
RETEST = [(103.0, 103.0, 102.0, 102.5)]
WIN = [(102.5, 106.5, 102.5, 103.0)]
LOSE = [(102.5, 102.5, 99.0, 101.5)]


def candles(rows: Sequence[tuple[float, ...]], first: int = 0, market: Market = MARKET) -> Candles:
    """Candles of these prices from minute `first` on, volume 1."""
    table = np.array(rows, float).reshape(-1, 4)
    time = BEGIN + (first + np.arange(len(table), dtype=np.int64)) * 60_000_000
    return Candles(market=market, resolution=60, time=time, open=table[:, 0], high=table[:, 1], low=table[:, 2],
                   close=table[:, 3], volume=np.ones(len(table)))


def wandering(count: int, seed: int, first: int = 0, market: Market = MARKET) -> Candles:
    """A random walk of prices that are whole hundredths."""
    random = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, 0.002, count))), 2)
    opens = np.concatenate(([100.0], close[:-1])) + np.round(random.normal(0, 0.02, count), 2)
    high = np.maximum(opens, close) + np.round(abs(random.normal(0, 0.05, count)), 2)
    low = np.minimum(opens, close) - np.round(abs(random.normal(0, 0.05, count)), 2)
    return candles(list(zip(opens, high, low, close, strict=True)), first, market)
