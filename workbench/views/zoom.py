"""Charts that fetch what a person looks at: the visible range decides which columns lie under the figures."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from workbench.views.data import drive

SETTLE_MS = 40
"""How long the view must rest before it is fetched again; a drag makes dozens of changes a second."""


def micros(value: Any) -> int:
    """A bound of a time axis (Bokeh's milliseconds, datetime or datetime64) as integer microseconds."""
    if isinstance(value, int | float):
        return int(value * 1000)
    return int(np.datetime64(value.replace(tzinfo=None) if hasattr(value, "tzinfo") else value, "us").astype(np.int64))


class Zoom:
    """Calls `refresh(start, end)` (microseconds) after an x-range has changed, at most once for each pause.

    In a served page it runs on the session's loop and may wait; without a session (a notebook) it runs at once, for
    data that need not be awaited. A figure for a file is not `live`: nothing will hear its range change.
    """

    def __init__(self, figure: Any, refresh: Callable[[int, int], Awaitable[None]], *, live: bool = True
                 ) -> None:
        self._figure, self._refresh = figure, refresh
        self._waiting = False
        self.refreshed = 0
        for bound in ("start", "end") if live else ():
            figure.x_range.on_change(bound, self._moved)

    @property
    def view(self) -> tuple[int, int]:
        """The visible range."""
        return micros(self._figure.x_range.start), micros(self._figure.x_range.end)

    async def show(self, start: int, end: int, change: Callable[[], None] = lambda: None) -> None:
        """Move the view and make a `change` of the figure with it.

        A figure on a page may be changed only while its document is locked, which coroutines do not hold: there both
        happen in the next tick.
        """

        def move() -> None:
            change()
            self._figure.x_range.update(start=start / 1000, end=end / 1000)

        if self._served:
            self._figure.document.add_next_tick_callback(move)
            return
        self._waiting = True
        move()
        self._waiting = False
        await self.now()

    @property
    def _served(self) -> bool:
        document = self._figure.document
        return document is not None and document.session_context is not None

    def _moved(self, attribute: str, old: Any, new: Any) -> None:
        if self._waiting or new is None:
            return
        if self._served:
            self._waiting = True
            self._figure.document.add_timeout_callback(self._settled, SETTLE_MS)
        else:
            drive(self.now())

    async def _settled(self) -> None:
        self._waiting = False
        await self.now()

    async def now(self) -> None:
        """Fetch the visible range."""
        start, end = self.view
        if end > start:
            await self._refresh(start, end)
            self.refreshed += 1
