"""Candles made in memory and a store that serves them."""

from collections.abc import Sequence

import numpy as np

from engine.candles import Candles
from engine.errors import NotFound
from engine.model import Market

DAY = 86_400_000_000
FIRST = 1_577_836_800_000_000  # 2020-01-01


class MemoryStore:
    """The part of a candle store that a backtest uses."""

    def __init__(self, *candles: Candles) -> None:
        self._candles = {each.market: each for each in candles}

    def read(self, market: Market, resolution: int, start: int | None = None, end: int | None = None) -> Candles:
        if market not in self._candles:
            raise NotFound(f"no candles of {market}", field="markets")
        return self._candles[market].between(start, end)


def bars(opens: Sequence[float], closes: Sequence[float] | None = None, *, key: str = "demo:AAA/USD",
         resolution: int = 86400, first: int = FIRST, times: Sequence[int] | None = None, volume: float = 1000.0,
         spread: float = 0.0) -> Candles:
    """Candles of these prices; `times` counts in bars from `first`."""
    opened = np.asarray(opens, float)
    closed = np.asarray(opened if closes is None else closes, float)
    at = np.arange(len(opened)) if times is None else np.asarray(times)
    return Candles(
        market=Market.parse(key), resolution=resolution, time=(first + at * resolution * 1_000_000).astype(np.int64),
        open=opened, close=closed, high=np.maximum(opened, closed) * (1 + spread),
        low=np.minimum(opened, closed) * (1 - spread), volume=np.full(len(opened), volume),
    )


def walk(n: int, seed: int = 0, *, key: str = "demo:AAA/USD", resolution: int = 86400, first: int = FIRST,
         volatility: float = 0.02, drift: float = 0.0005) -> Candles:
    """A random walk of n bars."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(drift, volatility, n)))
    opened = np.concatenate(([100.0], close[:-1])) * np.exp(random.normal(0, volatility / 5, n))
    high = np.maximum(opened, close) * (1 + np.abs(random.normal(0, volatility / 4, n)))
    low = np.minimum(opened, close) * (1 - np.abs(random.normal(0, volatility / 4, n)))
    return Candles(
        market=Market.parse(key), resolution=resolution,
        time=first + np.arange(n, dtype=np.int64) * resolution * 1_000_000,
        open=opened, high=high, low=low, close=close, volume=random.uniform(100, 1000, n),
    )
