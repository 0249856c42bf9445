"""Charts are made beside the event loop: a page that is opened must not keep the API waiting."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

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
    if data is not None and not waits(data):
        return drawn(work, *given, **named)
    return await asyncio.to_thread(lambda: drawn(work, *given, **named))


def at_once(build: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    """A builder that would fetch what is fetched already, as a plain function."""
    from workbench.views.data import drive

    return lambda: drive(build(*given))
