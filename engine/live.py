"""A strategy one candle at a time: the step that a backtest ran, on bars as they arrive."""

from collections.abc import Mapping

import numpy as np

from engine.errors import Invalid
from engine.spec import ParameterValue
from engine.strategies.base import Strategy


class Stepper:
    """A strategy's memory and the way to give it the next bar.

    `n` is the number of symbols that a portfolio strategy sees; a market strategy takes 1. Raises `Invalid` for
    parameters that do not fit, unless they come `resolved`: then they are complete and taken as they are.
    """

    def __init__(self, strategy: Strategy, params: Mapping[str, ParameterValue] | None = None, n: int = 1, *,
                 resolved: bool = False) -> None:
        if strategy.scope == "market" and n != 1:
            raise Invalid("a market strategy sees one market", field="n", remedy="make one Stepper for each market")
        self.strategy = strategy
        self.params = dict(params or {}) if resolved else strategy.resolve(params or {})
        self._n = n
        self._vector = strategy.vector(self.params)
        self.state = np.zeros(strategy.state_size(self.params, n))
        """All that the strategy remembers; put another's here to go on where it was."""
        step = strategy.load()
        self._step = step if "python" in strategy.speeds else _caller(step)

    def push(self, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advice (n,) and indicators (k,) after the close of `bars`, shape (n, 5): open, high, low, close, volume.

        NaN advice means "as before"; a symbol without a bar is a row of NaN.
        """
        bars = np.ascontiguousarray(bars, dtype=np.float64)
        if bars.shape != (self._n, 5):
            raise Invalid(f"bars have the shape {bars.shape}", field="bars", remedy=f"give an array ({self._n}, 5)")
        advice = np.full(self._n, np.nan)
        out = np.full(len(self.strategy.indicators), np.nan)
        self._step(self._vector, self.state, bars, advice, out)
        return advice, out


def _caller(step):
    """The compiled step as something Python can call with arrays."""
    from engine.advice import call

    return lambda *arrays: call(step, *arrays)
