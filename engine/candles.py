"""Candles as columns."""

from dataclasses import dataclass, field

import numpy as np

from engine.model import Market

FIELDS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, kw_only=True, eq=False)
class Candles:
    """Bars of one market at one resolution, in time order without duplicates.

    `time` is int64 microseconds since 1970 of each bar's open; the prices and `volume` are float64, all of one length n.
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
