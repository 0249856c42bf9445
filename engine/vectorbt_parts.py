"""vectorbt without what a run does not use of it.

`import vectorbt` brings its charts, indicators and data sources along, and with them matplotlib, scikit-learn and what
plotly needs in notebooks: 160 MB in every worker and most of the seconds of its start. A run uses the functions of its
portfolio alone, which are arithmetic on arrays. So the packages are made here without running their own lists of
imports; who asks one for anything that is not there, has it run then, and gets all that it always gives.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

__all__ = ["load"]

PACKAGES: Final = ("vectorbt", "vectorbt.base", "vectorbt.portfolio", "vectorbt.records", "vectorbt.utils")

OPTIONAL: Final = ("IPython", "anywidget", "bottleneck", "ccxt", "coverage", "ipywidgets", "nbformat", "scipy.linalg",
                   "telegram")
"""What vectorbt, plotly, pandas and numba import where it is there: to draw in notebooks, fetch candles, send messages,
sum frames, count lines, and for np.dot in compiled functions, of which a run has none."""


class _Package(ModuleType):
    """A package of which nothing has run. Looking for what it does not have runs it, unless a module has that name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module = f"{self.__name__}.{name}"
        if name != "__all__" and importlib.util.find_spec(module):
            return importlib.import_module(module)
        self.__class__ = ModuleType  # type: ignore[assignment]  # from here on it is a package like any other
        assert self.__spec__ and self.__spec__.loader
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def load() -> None:
    """Import what makes a run's portfolio, unless the process has imported vectorbt already."""
    if "vectorbt" in sys.modules:
        return
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
        package = importlib.util.module_from_spec(spec)
        package.__class__ = _Package
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)
    with _without(OPTIONAL):
        importlib.import_module("vectorbt.base.array_wrapper")  # it and another import each other: it goes first
        importlib.import_module("vectorbt.portfolio.dispatch")
        importlib.import_module("numba.np.arraymath")  # looks for scipy's BLAS


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """While inside, these cannot be imported unless they have been."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
