"""Strategies written on the spot: a Python function with a step's signature becomes a strategy."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from engine.compiled import StepFunction
from engine.strategies.base import Indicator, Parameter, Strategy


def from_function(step: StepFunction | None = None, /, *, name: str = "", doc: str = "",
                  params: Mapping[str, int | float | bool] | Iterable[Parameter] = (),
                  indicators: Iterable[str | Indicator] = (), scope: Literal["market", "portfolio"] = "market",
                  state: int | Callable[[Mapping[str, Any], int], int] = 64, warm_up: int = 0,
                  compiled: bool = False) -> Any:
    """A strategy made of `step(params, state, bars, advice, out)`, see `engine.strategies.base`; also a decorator.

    `params` are names with defaults (their type is the default's) or whole `Parameter`s; `state` is the number of
    floats of memory, or a function of (params, number of symbols). `compiled=True` makes machine code of the step (it
    must then keep to what numba can compile); otherwise it runs as plain Python, some microseconds a bar.

    >>> @from_function(params={"level": 100.0})
    ... def above(params, state, bars, advice, out):
    ...     advice[0] = 1.0 if bars[0, 3] > params[0] else 0.0
    >>> above.name, above.speeds
    ('above', ('python', 'live'))
    """
    def make(function: StepFunction) -> Strategy:
        described = tuple(_parameter(key, value) for key, value in params.items()) if isinstance(params, Mapping) \
            else tuple(params)
        title = name or function.__name__
        return Strategy(
            name=title, title=title.replace("_", " ").capitalize(), doc=doc or inspect.getdoc(function) or "",
            step=function, parameters=described, scope=scope,
            indicators=tuple(Indicator(name=each) if isinstance(each, str) else each for each in indicators),
            state_size=state if callable(state) else lambda resolved, n: int(state), warm_up=lambda resolved: warm_up,
            speeds=("backtest", "sweep", "live") if compiled else ("python", "live"), tags=("own",),
        )

    return make if step is None else make(step)


strategy = from_function
"""The same under the name that people write: `@workbench.strategy(params={"fast": 10})`."""


def _parameter(name: str, default: int | float | bool) -> Parameter:
    kind: Literal["int", "float", "bool"] = "float"
    if isinstance(default, int):
        kind = "bool" if isinstance(default, bool) else "int"
    return Parameter(name=name, type=kind, default=default)
