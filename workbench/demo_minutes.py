"""Minutes of a market that never was, for trying live bots where no minutes are stored yet."""

from typing import Any, Final

from workbench.client import AsyncClient

__all__ = ["MARKET", "offer", "walk"]

MARKET: Final = "demo:WALK/USD"
BEGIN: Final = 1_704_067_200  # 2024-01-01, seconds
DAYS: Final = 3


def walk(days: int = DAYS, seed: int = 7) -> dict[str, Any]:
    """Candles of a random walk around 100 with slow waves: numpy columns time (microseconds), open, high, low, close,
    vwp, volume, trades. The same for the same seed."""
    import numpy as np

    random = np.random.default_rng(seed)
    size = days * 1440
    waves = 0.00012 * np.sin(np.arange(size) / 190) + 0.00025 * np.sin(np.arange(size) / 61)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, 0.0008, size) + waves)), 2)
    opened = np.concatenate([[100.0], close[:-1]])
    reach = np.round(np.abs(random.normal(0, 0.0004, (2, size))) * close, 2)
    high, low = np.maximum(opened, close) + reach[0], np.minimum(opened, close) - reach[1]
    return {"time": (BEGIN + np.arange(size, dtype=np.int64) * 60) * 1_000_000, "open": opened, "high": high,
            "low": low, "close": close, "vwp": np.round((high + low + close) / 3, 4),
            "volume": np.round(random.gamma(2, 1.5, size), 3), "trades": random.integers(1, 60, size).astype(float)}


async def offer(client: AsyncClient) -> str:
    """A market with stored minutes to be replayed: the made-up one, stored first where it is not there yet."""
    if not any(entry["market"] == MARKET and str(entry["resolution"]) == "1m" for entry in await client.markets()):
        columns = walk()
        await client.upload({**columns, "time": columns["time"] // 1_000_000}, MARKET, "1m")
    return MARKET
