"""Machine code from Python functions, kept on disk between processes. numba is imported at the first use only.

A strategy's step is compiled to a C function of one fixed signature, so that every loop that calls steps is compiled
once for all strategies. Nothing is compiled before it is called, and nothing again while it and all that it calls are
as they were: see `engine.compiled_cache`. The compiler keeps its work under `NUMBA_CACHE_DIR` (default:
`~/.cache/workbench`).
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

StepFunction = Callable[..., None]
"""step(params f8[:], state f8[:], bars f8[n, 5], advice f8[n], out f8[k]) -> None, see `engine.strategies.base`."""


@contextlib.contextmanager
def _cached(function: Callable[..., Any]) -> Iterator[bool]:
    """While inside, numba keeps new functions' code in our way; other libraries' stays where it is. Gives whether
    this one's can be kept: it comes from a file, not from inside of another call, and there is a place to write."""
    from numba.core import config as module

    from engine.compiled_cache import Locator

    config: Any = module  # its settings are made from the environment at import
    before = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    root = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(os.path.expanduser("~"), ".cache", "workbench", "numba")
    config.CACHE_DIR = os.path.join(root, "engine")
    config.CACHE_LOCATOR_CLASSES = f"{Locator.__module__}.{Locator.__qualname__}"
    try:
        place = Locator.from_function(function, function.__code__.co_filename)
        yield function.__closure__ is None and place is not None
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before


@functools.cache
def signature() -> Any:
    """numba's type of a step."""
    from numba import types

    vector, table = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
    return types.void(vector, vector, table, vector, vector)


@functools.cache
def _register_indicators() -> None:
    from numba.extending import register_jitable

    from engine import gekko_indicators, indicators

    for module in (indicators, gekko_indicators):
        for name in module.__all__:
            register_jitable(getattr(module, name))


@functools.cache
def step(function: StepFunction) -> Any:
    """The step as a C function that the loops take; kept on disk when it comes from a file, else for this process.

    The function may call everything in `engine.indicators` and `engine.gekko_indicators`.
    """
    import numba

    _register_indicators()
    with _cached(function) as keep:
        return numba.cfunc(signature(), cache=keep)(function)


class Kernel:
    """A function that is compiled for its signatures when it is first called; `py_func` is the function itself."""

    def __init__(self, function: Callable[..., Any], signatures: tuple[Any, ...]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self._signatures = list(signatures)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        import numba

        with _cached(self.py_func) as keep:
            return numba.njit(self._signatures, cache=keep)(self.py_func)

    def __call__(self, *arguments: Any) -> Any:
        return self.compiled(*arguments)


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: compile for exactly these argument types, kept on disk."""
    return lambda function: Kernel(function, signatures)


def step_type() -> Any:
    """numba's type of a step handed to a loop."""
    from numba import types

    return types.FunctionType(signature())
