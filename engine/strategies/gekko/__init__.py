"""The strategies that come with Gekko, as ordinary strategies of the workbench.

Each gives the advice that Gekko's strategy of that name gives on the same candles: exposure 1 for Gekko's "long" and -1
for its "short", which means "sell" (Gekko holds the asset or the currency, it never goes short), so run them with
direction "long". `history` is Gekko's historySize: the strategy is asked for the first time on that candle. With fill
model "gekko" they trade and report as Gekko does.
"""

from typing import Final

from engine.strategies.base import Strategy
from engine.strategies.gekko import averages, examples, native, oscillators, varppo

STRATEGIES: Final[tuple[Strategy, ...]] = (
    *averages.STRATEGIES, *oscillators.STRATEGIES, *varppo.STRATEGIES, *native.STRATEGIES, *examples.STRATEGIES)
