"""Machine code from Python functions, kept on disk between processes. numba is imported at the first use only.

A strategy's step is compiled to a C function of one fixed signature, so that every loop that calls steps is compiled
once for all strategies. The compiler keeps its work under `NUMBA_CACHE_DIR` (default: `~/.cache/workbench`), in a
folder named after a hash of everything that goes into it: its own check sees only the file that holds the function,
and would go on using steps made from an older `engine/indicators.py`.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

StepFunction = Callable[..., None]
"""step(params f8[:], state f8[:], bars f8[n, 5], advice f8[n], out f8[k]) -> None, see `engine.strategies.base`."""

_SOURCES: Final = ("compiled.py", "*indicators.py", "strategies/**/*.py", "fills/*.py", "detectors/*.py",
                   "alert_life.py", "alert_walk.py")


@functools.cache
def _folder() -> str:
    engine = Path(__file__).parent
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(engine.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(os.path.expanduser("~"), ".cache", "workbench", "numba")
    return os.path.join(root, "engine-" + digest.hexdigest()[:16])


@contextlib.contextmanager
def _cached() -> Iterator[None]:
    """While inside, numba puts new functions' caches into our folder; other libraries' caches stay where they are."""
    from numba.core import config as module

    config: Any = module  # its settings are made from the environment at import
    before = config.CACHE_DIR
    config.CACHE_DIR = _folder()
    try:
        yield
    finally:
        config.CACHE_DIR = before


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
    on_disk = os.path.isfile(function.__code__.co_filename) and function.__closure__ is None
    with _cached():
        return numba.cfunc(signature(), cache=on_disk)(function)


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: compile for exactly these argument types (or, without any, at the first call), kept on disk."""
    import numba

    def decorate(function: Callable[..., Any]) -> Any:
        with _cached():
            if signatures:
                return numba.njit(list(signatures), cache=True)(function)
            return numba.njit(cache=True)(function)

    return decorate


def step_type() -> Any:
    """numba's type of a step handed to a loop."""
    from numba import types

    return types.FunctionType(signature())
