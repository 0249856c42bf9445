"""The strategies that come with the workbench, by name. Reading their descriptions needs no compiler."""

from typing import Any, Final

from engine.errors import Invalid
from engine.strategies import bollinger, buy_and_hold, donchian, gekko, macd, momentum_rotation, rsi, sma_cross
from engine.strategies.base import Indicator, Parameter, Strategy
from engine.strategies.python import from_function

__all__ = ["Indicator", "Parameter", "Strategy", "describe", "find", "from_function", "get", "names"]

_ALL: Final[dict[str, Strategy]] = {
    strategy.name: strategy
    for strategy in (
        *(module.STRATEGY for module in (sma_cross, macd, rsi, bollinger, donchian, buy_and_hold, momentum_rotation)),
        *gekko.STRATEGIES,
    )
}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(_ALL)


def get(name: str) -> Strategy:
    """The strategy of that name; raises `Invalid` naming the ones there are."""
    try:
        return _ALL[name]
    except KeyError:
        raise Invalid(f"there is no strategy {name!r}", field="strategy",
                      remedy="strategies are " + ", ".join(_ALL)) from None


def find(name: str, store: Any) -> Strategy:
    """The strategy of that name, also an uploaded one that is registered beside the candle store; raises as `get`."""
    if name.startswith("upload."):
        from engine.uploads import find as find_uploaded
        from engine.uploads import uploads_of

        return find_uploaded(name, uploads_of(store.root))
    return get(name)


def describe() -> list[dict[str, Any]]:
    """Every strategy as JSON: name, title, doc, scope, speeds, parameters, indicators."""
    return [strategy.describe() for strategy in _ALL.values()]
