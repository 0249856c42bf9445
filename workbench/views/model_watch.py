"""One model, followed once for all who look at it: a pair of feeds and one question a second, however many pages.

Views that speak to the same server on the same event loop share a `Watch`. Each has an `Ear`: what came and was not yet
shown. A view says up to where it has read the model's state; what happened between that and the place of the feeds is
read once more, so that nothing is lost and nothing is heard twice.

The views may be of several people. The watch asks with the credentials of one of them, and with another's once those
are refused; every few seconds it makes sure that each of the others may still see the model.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from engine.activity import Model
from engine.errors import Forbidden, NotFound, Unauthenticated, WorkbenchError
from engine.model import Event
from workbench.client import AsyncClient
from workbench.views.model_figures import Figures, figures_of

__all__ = ["Ear", "Watch", "watching"]

log = logging.getLogger("workbench.pages")
MOST_WAITING: Final = 5000
"""Events that wait for the slowest view before the stream is asked to wait."""
FIGURES: Final = 1.0
"""Seconds between two questions for profit and positions while the model trades."""
BURST: Final = 0.15
"""Seconds after an order before they are asked for: a burst of orders is one question."""
REST: Final = 15.0
"""Seconds after which figures are fetched without an order, as prices move on their own; and between two questions
whether everybody may still see the model."""
_REFUSALS: Final = (Unauthenticated, Forbidden, NotFound)
_QUIET: Final = frozenset({"stdout", "info", "debug"})


class Ear:
    """What one view has yet to show. `events` and `lines` have risen numbers, each once; `model`, `figures` and
    `problem` are the newest answers (None: no news); `rested` says that nothing was traded for a while. `client` has
    the credentials of the view."""

    def __init__(self, client: AsyncClient, after: int, log_after: int) -> None:
        self.client = client
        self.events: list[Event] = []
        self.lines: list[Event] = []
        self.model: Model | None = None
        self.figures: Figures | None = None
        self.problem: WorkbenchError | None = None
        self.asked = self.rested = False
        self.connected = True
        self.failed: BaseException | None = None
        self.arrived = asyncio.Event()
        self._after = [after, log_after]
        self._early: list[tuple[int, Event]] | None = []
        self._emptied = asyncio.Event()

    async def wait(self) -> None:
        """Until something came. Raises what ended the watch: the model is gone, the token ended."""
        await self.arrived.wait()
        self.arrived.clear()
        if self.failed is not None:
            raise self.failed

    def take(self) -> tuple[list[Event], list[Event]]:
        """Events and lines of output since the last time."""
        (events, self.events), (lines, self.lines) = (self.events, []), (self.lines, [])
        self._emptied.set()
        return events, lines

    # -- for the watch -------------------------------------------------------------------------------------------

    def position(self, which: int) -> int:
        """The number of the last event that was heard."""
        return self._after[which]

    def hear(self, which: int, event: Event) -> None:
        """An event of the feed; the ones that the view already knows are left out."""
        if self._early is not None:
            self._early.append((which, event))
        else:
            self.add(which, event)

    def add(self, which: int, event: Event) -> None:
        """An event in its turn."""
        if event.seq > self._after[which]:
            self._after[which] = event.seq
            (self.lines if which else self.events).append(event)
            self.arrived.set()

    def caught_up(self) -> None:
        """What came meanwhile may follow."""
        early, self._early = self._early or [], None
        for which, event in early:
            self.add(which, event)

    async def room(self) -> None:
        """Until the view has shown enough for more to come."""
        while self._early is None and len(self.events) + len(self.lines) >= MOST_WAITING:
            self._emptied.clear()
            await self._emptied.wait()


class Watch:
    """A model as its views watch it. It works while there are ears."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._ears: dict[Ear, None] = {}  # in the order in which they came
        self._at = [0, 0]
        self._connected = [True, True]
        self._traded = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def ear(self, client: AsyncClient, after: int, log_after: int) -> AsyncIterator[Ear]:
        """An ear that hears what comes after these numbers of the model's two streams. `wait` raises `Unauthenticated`,
        `Forbidden` or `NotFound` once these credentials do not show the model any more."""
        ear = Ear(client, after, log_after)
        if not self._ears:
            self._begin(after, log_after)
        ear.connected = all(self._connected)
        at = tuple(self._at)
        self._ears[ear] = None
        try:
            for which, until in enumerate(at):
                while ear.position(which) < until:
                    await self._read_up(ear, which)
            ear.caught_up()
            yield ear
        finally:
            self._ears.pop(ear, None)
            ear.take()
            if not self._ears:
                self._end()

    def _begin(self, after: int, log_after: int) -> None:
        self._end()
        self._at = [after, log_after]
        self._connected = [True, True]
        self._tasks = [asyncio.create_task(self._guarded(work)) for work in (
            self._follow(0), self._follow(1), self._ask(), self._check())]

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    def _refuse(self, ear: Ear, error: BaseException) -> None:
        """One view hears no more."""
        self._ears.pop(ear, None)
        ear.failed = error
        ear.arrived.set()

    async def _read_up(self, ear: Ear, which: int) -> None:
        """The next page of what happened between the view's state and the place of the feed."""
        if which:
            lines = await ear.client.logs(self._model, after=ear.position(1), limit=1000)
            for entry in lines.items:
                ear.add(1, Event(id=0, stream="", seq=entry.seq, type="log", at=entry.received_at, data={
                    "line": entry.line, "type": entry.type, "at": entry.at, "run": entry.run}))
            more = bool(lines.items)
        else:
            page = await ear.client.model_events(self._model, after=ear.position(0), limit=1000)
            for event in page.items:
                ear.add(0, event)
            more = bool(page.items)
        if not more:  # they were removed meanwhile
            ear._after[which] = self._at[which]

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except Exception as error:
            if not isinstance(error, WorkbenchError):
                log.exception("a model is followed no longer")
            for ear in tuple(self._ears):
                self._refuse(ear, error)

    async def _follow(self, which: int) -> None:
        while self._ears:
            speaker = next(iter(self._ears))
            try:
                await self._hear(speaker.client, which)
            except _REFUSALS as error:
                self._refuse(speaker, error)
            else:
                return

    async def _hear(self, client: AsyncClient, which: int) -> None:
        feed = client.follow_logs if which else client.follow_model

        def heard(connected: bool) -> None:
            self._connected[which] = connected
            for ear in self._ears:
                if ear.connected != all(self._connected):
                    ear.connected = all(self._connected)
                    ear.arrived.set()

        async for event in feed(self._model, self._at[which], watcher=heard):
            self._at[which] = event.seq
            for ear in self._ears:
                ear.hear(which, event)
            if not which or str(event.data.get("type", "")) not in _QUIET:
                self._traded.set()
            for ear in tuple(self._ears):  # the stream is a position on the server: nothing is lost by waiting
                await ear.room()

    async def _ask(self) -> None:
        """The model, its profit and its positions after it did something; and now and then without that."""
        while True:
            rested = False
            try:
                async with asyncio.timeout(REST):
                    await self._traded.wait()
            except TimeoutError:
                rested = True
            await asyncio.sleep(BURST)
            self._traded.clear()
            model: Model | None = None
            figures: Figures | None = None
            problem: WorkbenchError | None = None
            if not self._ears:
                return
            speaker = next(iter(self._ears))
            try:
                model, figures = await asyncio.gather(
                    speaker.client.model(self._model), figures_of(speaker.client, self._model))
            except (Unauthenticated, Forbidden) as error:
                self._refuse(speaker, error)
                self._traded.set()  # at once, with another's credentials
                continue
            except WorkbenchError as error:  # what cannot be told now will be asked for again
                problem = error
            for ear in self._ears:
                ear.model, ear.figures, ear.problem = model or ear.model, figures or ear.figures, problem
                ear.asked, ear.rested = True, rested
                ear.arrived.set()
            await asyncio.sleep(FIGURES)

    async def _check(self) -> None:
        """Whether everybody may still see the model: what is heard was asked for by one of them."""
        while True:
            await asyncio.sleep(REST)
            clients = {ear.client.credentials: ear.client for ear in self._ears}
            for credentials, client in clients.items():
                try:
                    await client.model(self._model)
                except _REFUSALS as error:
                    for ear in tuple(self._ears):
                        if ear.client.credentials == credentials:
                            self._refuse(ear, error)
                except WorkbenchError:
                    continue  # nothing was said about the right to see it


def watching(client: AsyncClient, model: str) -> Watch:
    """The watch of a model that all views on this client's connections and event loop share."""
    return client.shared(("watch", model), lambda: Watch(model))
