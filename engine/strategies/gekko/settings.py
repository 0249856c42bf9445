"""Parameters that Gekko's strategies share. The first of each strategy is `history`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from engine.errors import Problem
from engine.strategies.base import Parameter

HISTORY: Final = Parameter(name="history", type="int", default=10, low=0, high=1_000_000, step=1,
                           doc="Gekko's historySize: candles until the strategy is asked for the first time")


def whole(name: str, default: int, doc: str, *, low: int = 1, high: int = 10_000) -> Parameter:
    """A number of candles."""
    return Parameter(name=name, type="int", default=default, low=low, high=high, step=1, doc=doc)


def real(name: str, default: float, doc: str, *, low: float = -1e6, high: float = 1e6, step: float = 0.1) -> Parameter:
    """A threshold or a factor."""
    return Parameter(name=name, type="float", default=default, low=low, high=high, step=step, doc=doc)


def weight(name: str, default: float, doc: str) -> Parameter:
    """The weight of an exponential average: its factor is 2 / (weight + 1)."""
    return Parameter(name=name, type="float", default=default, low=0, high=10_000, step=1, doc=doc)


def persistence(default: int) -> Parameter:
    return Parameter(name="persistence", type="int", default=default, low=0, high=10_000, step=1,
                     doc="candles that a trend must last before it is advised")


def warm_up(params: Mapping[str, Any]) -> int:
    """The first candle on which the strategy can advise, counted from 1."""
    return max(1, int(params["history"]))


def ordered(low: str, high: str) -> Callable[[Mapping[str, Any]], list[Problem]]:
    """A rule: one parameter must not lie above another."""
    def rule(params: Mapping[str, Any]) -> list[Problem]:
        if params[low] <= params[high]:
            return []
        return [Problem(f"params.{low}", f"must not be above {high}", f"use at most {params[high]:g}")]

    return rule
