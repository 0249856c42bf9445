"""Charts are made beside the event loop: a page that is opened must not keep the API waiting."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from engine.plots.render import Drawing
from workbench.views.data import RunData, waits

P = ParamSpec("P")
T = TypeVar("T")
ONE_AT_A_TIME: Final = threading.RLock()
"""HoloViews numbers the options of its elements in one table, so only one thread may make elements."""


def drawn(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Make charts here and now."""
    with ONE_AT_A_TIME:
        return work(*given, **named)


async def beside(data: RunData | None, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Make charts for a page: on a thread where there is a loop to keep free, here for data that is at hand.

    What is made belongs to no document yet, so that a thread may make it.
    """
    return await off_loop(data, lambda: drawn(work, *given, **named))


async def off_loop(data: RunData | None, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Do what takes long and makes no charts: on a thread where there is a loop to keep free, else here."""
    if data is not None and not waits(data):
        return work(*given, **named)
    return await asyncio.to_thread(work, *given, **named)


def at_once(build: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    """A builder that would fetch what is fetched already, as a plain function."""
    from workbench.views.data import drive

    return lambda: drive(build(*given))


def grow(drawing: Drawing, label: str, columns: Mapping[str, np.ndarray]) -> None:
    """Show columns under the element `label` that mostly are those which it shows: of a curve that grew at its end only
    the end travels. The caller holds the document's lock."""
    source = drawing.sources[label]
    shown = {name: np.asarray(values) for name, values in source.data.items() if name in columns}
    had = min((len(values) for values in shown.values()), default=0)
    if len(shown) < len(source.data) or any(_agreed(values, columns[name]) < had for name, values in shown.items()):
        drawing.fill(label, dict(columns))
        return
    tail = few({name: columns[name][had:] for name in shown})
    if all(tail.values()):
        source.stream(tail)


def few(columns: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Few rows as lists, which travel within the message: an array costs two messages of its own for every column."""
    return {name: list(values) if values.dtype.kind == "M" else values.tolist() for name, values in columns.items()}


def _agreed(one: np.ndarray, other: np.ndarray) -> int:
    """How many values at their beginnings are the same; what is no number is like itself."""
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    differ = (one != other) & ((one == one) | (other == other))
    return int(np.argmax(differ)) if differ.any() else length
