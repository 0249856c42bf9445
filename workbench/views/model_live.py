"""One model while it works: one class for the page and the notebook cell.

State is read once, with the position of the stream at which it was read; from there on the streams are followed
(`model_watch`), so that nothing falls between the two, and after a lost connection they go on where they were. What
arrives is gathered and shown in one go: rows at once when it is quiet and a few times a second in a storm; charts and
what else costs the browser a drawing a little later, so that nobody's rows wait for anybody's charts.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property, partial
from html import escape
from typing import Any, Final

import panel as pn

from engine import times
from engine.activity import Model
from engine.errors import Unavailable, WorkbenchError
from engine.model import Event
from engine.plots.style import Style
from workbench import theme
from workbench.client import AsyncClient
from workbench.client_models import order_of
from workbench.views.base import explained
from workbench.views.live_part import LiveTiles, Sight
from workbench.views.live_rows import LiveRows, words
from workbench.views.model_details import Details
from workbench.views.model_figures import Figures, figures_of
from workbench.views.model_match import Match
from workbench.views.model_output import Calls, Log
from workbench.views.model_rows import millis, state_of
from workbench.views.model_trading import Trading
from workbench.views.model_watch import Ear, watching

__all__ = ["TABS", "ModelLive"]

log = logging.getLogger("workbench.pages")
TABS: Final = ("Trading", "Log", "Calls", "Details", "Against a backtest")
TILES: Final = ("Profit", "Today", "Unrealised", "Exposure", "Open positions", "Orders")
GATHER: Final = 0.05
"""Seconds between two showings of what has arrived."""
UNSEEN: Final = 2.0
"""The same while nobody looks: so much is shown at once when somebody does."""
DRAWN: Final = 0.4
"""Seconds from an order's row to its mark in the chart, and between two drawings of charts: long enough for the figures
to be drawn with the mark, since drawing is what costs the browser most."""
SHARE: Final = 0.01
"""Of the time, at most, in which the script of a page draws charts while orders keep coming. What the browser then does
with the picture costs as much again, and where many pages share a slow machine rows go first."""
LONGEST: Final = 5.0
"""Seconds between two drawings of charts at most, however slow they are."""
AGAIN: Final = 1.0
"""Seconds until a model that could not be read is asked for again."""
PULSE: Final = [
    {"key": "state", "title": "State", "kind": "state"}, {"key": "message", "title": "Message", "kind": "text"},
    {"key": "heard", "title": "Heard", "kind": "ago"}, {"key": "stream", "title": "Stream", "kind": "state"}]


class ModelLive(pn.viewable.Viewer):
    """A model's trading, output, calls and facts, followed live.

    `client` is asynchronous. `await load()` reads the state, `await follow()` goes on until it is cancelled. `look` is
    as for `Report`.
    """

    def __init__(self, client: AsyncClient, model_id: str, *, look: str | Style | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.client, self.id, self.look = client, model_id, theme.style(look)
        self.model: Model | None = None
        self._after = self._log_after = 0
        self._loaded = False
        self._figures: Figures | None = None
        self._late: list[Callable[[], None]] = []
        self._stirred, self._undrawn = asyncio.Event(), asyncio.Event()
        self._connected = True
        self._opened = {TABS[0]}
        self._following: asyncio.Task[None] | None = None
        self.document: Any = None
        self._head = words("", self.look)
        self._problem = words("", self.look, visible=False)
        self._pulse = LiveRows(self.look, columns=PULSE, caption="State of the model", bare=True, placeholder="")
        self._tiles = LiveTiles(self.look, awaited=TILES)
        self._sight = Sight()
        self.trading = Trading(client, model_id, self.look, self.locked, self._undrawn.set)
        self._places = {name: pn.Column(*([self.trading.view] if name == TABS[0] else []), sizing_mode="stretch_width",
                                        margin=(12, 0, 0, 0), min_height=320) for name in TABS}
        self._tabs = pn.Tabs(*self._places.items(), sizing_mode="stretch_width", margin=0,
                             stylesheets=[theme.tabs_css(self.look)])
        self._tabs.param.watch(self._turned, "active")
        self._root = pn.Column(self._head, self._pulse, self._problem, self._tiles, self._tabs, self._sight,
                               sizing_mode="stretch_width", margin=0, styles={"gap": "10px"},
                               stylesheets=[theme.ground(self.look)])

    def __panel__(self) -> pn.Column:
        return self._root

    # -- tabs that are made when they are first opened --------------------------------------------------------------

    @cached_property
    def log(self) -> Log:
        """The output."""
        return Log(self.client, self.id, self.look)

    @cached_property
    def calls(self) -> Calls:
        """Function calls with arguments and responses."""
        return Calls(self.client, self.id, self.look)

    @cached_property
    def details(self) -> Details:
        """Facts, and how the model has lived."""
        return Details(self.client, self.id, self.look)

    @cached_property
    def match(self) -> Match:
        """The comparison with a backtest."""
        return Match(self.client, self.id, self.look)

    # -- reading -------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Read the state and the newest orders. Raises `NotFound` for a model that is not there."""
        events, lines = await asyncio.gather(self.client.model_events(self.id, tail=1),
                                             self.client.logs(self.id, tail=1))
        self._after, self._log_after = events.last, lines.last
        self.model, _ = await asyncio.gather(self.client.model(self.id), self.trading.read())
        self._show_state()

    async def prepare(self) -> None:
        """Read what is shown first; what changes from now on is followed."""
        await self.read()
        self._figures = await self._read_figures()

    async def load(self) -> None:
        """Read what has not been read, and draw the charts."""
        self.document = pn.state.curdoc or self.document
        if self.model is None:
            await self.read()
        assert self.model is not None
        figures = self._figures or await self._read_figures()
        self._figures = None
        if self._served:
            await self.trading.orders.stands()  # drawing charts would keep the rows waiting
        try:
            await self.trading.load(self.model.symbols)
        except Unavailable:
            raise
        except WorkbenchError as error:
            self._complain(error)
        self._loaded = True
        if figures is not None:
            await self.trading.profit(figures)

    async def _read_figures(self) -> Figures | None:
        try:
            figures = await figures_of(self.client, self.id)
        except WorkbenchError as error:  # all else is worth seeing, and they will be asked for again
            self._complain(error)
            return None
        self._show_tiles(figures)
        self.trading.count(figures)
        return figures

    def _turned(self, event: Any) -> None:
        pn.state.execute(partial(self._open, TABS[event.new]))

    async def _open(self, name: str) -> None:
        """Fill a tab when it is first opened."""
        if name in self._opened or self.model is None:
            return
        self._opened.add(name)
        try:
            match name:
                case "Log":
                    self._places[name][:] = [self.log.view]
                    await self.log.load()
                case "Calls":
                    self._places[name][:] = [self.calls.view]
                    await self.calls.load()
                case "Details":
                    self._places[name][:] = [self.details.view]
                    await self.details.load(self.model)
                case _:
                    self._places[name][:] = [self.match.view]
                    await self.match.load()
        except WorkbenchError as error:
            self._opened.discard(name)
            self._places[name][:] = [words(f'<div class="error" role="alert">{explained(error)}</div>', self.look)]

    # -- following -----------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Go on showing what the model does, until cancelled."""
        while not self._loaded:
            await asyncio.sleep(AGAIN)
            try:
                await self.load()
            except Unavailable as error:
                self._complain(error)
        async with (watching(self.client, self.id).ear(self.client, self._after, self._log_after) as ear,
                    asyncio.TaskGroup() as tasks):
            tasks.create_task(self._show_rows(ear))
            tasks.create_task(self._show_rest(ear))
            tasks.create_task(self._show_charts())

    def go_on(self) -> None:
        """Follow on the caller's own event loop, as a notebook has one; without a loop the view stays as it is."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self.stop()
        self._following = loop.create_task(self.follow())
        self._following.add_done_callback(_told)

    def stop(self) -> None:
        """Follow no longer."""
        if self._following is not None:
            self._following.cancel()
            self._following = None

    async def _show_rows(self, ear: Ear) -> None:
        while True:
            await ear.wait()
            events, lines = ear.take()
            self._after, self._log_after = ear.position(0), ear.position(1)
            if events or lines:
                await self._say(partial(self._hear, events, lines))
            if ear.asked or ear.connected != self._connected:
                self._stirred.set()
            await asyncio.sleep(GATHER)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sight.opened(), UNSEEN)

    async def _show_rest(self, ear: Ear) -> None:
        """Figures and state."""
        while True:
            await self._stirred.wait()
            await asyncio.sleep(DRAWN)
            await self._sight.opened()
            self._stirred.clear()
            asked, rested = ear.asked, ear.rested
            ear.asked = ear.rested = False
            figures = ear.figures if asked else None
            self._connected = ear.connected and not isinstance(ear.problem, Unavailable)
            if asked and ear.problem is None and ear.model is not None and self.model is not None:
                heard = max(filter(None, (ear.model.heard_at, self.model.heard_at)), default=None)
                self.model = replace(ear.model, heard_at=heard)
            late, self._late = self._late, []

            def change(late: list[Callable[[], None]] = late, figures: Any = figures, asked: bool = asked) -> None:
                for each in late:
                    each()
                self._show_state()
                if asked:
                    self._complain(ear.problem)
                if figures is not None:
                    self._show_tiles(figures)
                    self.trading.count(figures)

            await self._say(change)
            if rested:
                await self.trading.refresh()

    async def _show_charts(self) -> None:
        while True:
            await self._undrawn.wait()
            await asyncio.sleep(DRAWN)
            self._undrawn.clear()
            took = await self.trading.draw(self._change)
            await asyncio.sleep(min(took / SHARE, LONGEST))

    async def _say(self, change: Callable[[], None]) -> None:
        """Do something to parts of the page that need no lock; what it does to others, Panel does under the lock."""
        if self._served:
            _tried(change)
        else:
            await self._change(change)

    async def _change(self, change: Callable[[], None]) -> None:
        """Do something to the page under its document's lock, and wait until it is done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def work() -> None:
            with self._one_message():
                _tried(change)
            if not done.done():
                done.set_result(None)

        self.locked(work)
        await done

    def _one_message(self) -> AbstractContextManager[None]:
        """All that is changed in this context goes to the browser at once."""
        return pn.io.hold(self.document) if self._served else nullcontext()

    @property
    def _served(self) -> bool:
        return self.document is not None and self.document.session_context is not None

    def locked(self, change: Callable[[], None]) -> None:
        """Do something to Bokeh models: now in a notebook, else in the document's next tick."""
        if self._served:
            self.document.add_next_tick_callback(change)
        else:
            change()
            pn.io.push_notebook(self._root)

    def _hear(self, events: list[Event], lines: list[Event]) -> None:
        assert self.model is not None
        orders, calls = [], []
        for event in events:
            data = event.data
            if event.type == "order":
                if not data.get("run"):
                    orders.append(order_of(data))
            elif event.type == "annotation":
                orders += self.trading.annotated(str(data.get("id")), str(data.get("annotation")))
            elif event.type == "call":
                calls.append(event)
            elif event.type == "lifecycle":
                self._lived(event)
        if orders:
            self.trading.heard(orders)
        if calls and "Calls" in self._opened:
            self.calls.heard(calls)
        if lines and "Log" in self._opened:
            self.log.heard(lines)
        heard = max((event.at for event in (*events[-1:], *lines[-1:])), default=None)
        self.model = replace(self.model, heard_at=heard or self.model.heard_at)
        others = [event for event in events if event.type not in ("order", "call")]
        if others and "Details" in self._opened:
            self._late.append(partial(self._tell, others))
        self._stirred.set()

    def _tell(self, events: list[Event]) -> None:
        assert self.model is not None
        self.details.heard(self.model, events)

    def _lived(self, event: Event) -> None:
        assert self.model is not None
        told = {name: event.data[name] for name in ("message", "running") if name in event.data}
        for name in ("started_at", "ended_at"):
            if name in event.data:
                told[name] = None if event.data[name] is None else times.parse(event.data[name])
        self.model = replace(self.model, **told)

    def _complain(self, error: WorkbenchError | None) -> None:
        """What cannot be fetched now is said while it lasts."""
        if isinstance(error, Unavailable) and self._connected:
            self._connected = False
            self._show_pulse()
        text = "" if error is None else f'<div class="error" role="alert">{explained(error)}</div>'
        if self._problem.object != text:
            self._problem.param.update(object=text, visible=bool(text))

    # -- showing -------------------------------------------------------------------------------------------------

    def _show_state(self) -> None:
        model = self.model
        assert model is not None
        facts = [model.id if model.id != model.name else "", f"project {model.project}", model.kind,
                 ", ".join((*model.exchanges, *model.symbols)[:8])]
        head = (f'<div class="head"><div><h1>{escape(model.name)}</h1><div class="muted">'
                f'{escape(" · ".join(fact for fact in facts if fact))}</div></div>'
                f'<a href="/connect?model={escape(model.id)}">Connect your bot</a></div>')
        if model.description:
            head += f'<p class="muted" style="margin:4px 0 0">{escape(model.description[:400])}</p>'
        if model.last_error:
            when = times.iso(model.last_error_at)[:19].replace("T", " ") if model.last_error_at else ""
            head += (f'<div class="error" style="margin-top:8px;overflow-wrap:anywhere"><b>Last error</b> '
                     f'<span class="muted">{when} UTC, {model.errors:,} in all</span><br>'
                     f"{escape(model.last_error[:500])}</div>")
        if self._head.object != head:
            self._head.object = head
        self._show_pulse()

    def _show_pulse(self) -> None:
        if self.model is None:
            return
        pulse = {"id": "pulse", "state": list(state_of(self.model)), "message": self.model.message or "",
                 "heard": millis(self.model.heard_at),
                 "stream": ["live", "good"] if self._connected else ["reconnecting …", "bad"]}
        if self._pulse.rows != [pulse]:
            self._pulse.put([pulse])

    def _show_tiles(self, figures: Figures) -> None:
        self._tiles.put(figures.tiles(self.model.orders if self.model else 0))


def _tried(change: Callable[[], None]) -> None:
    """A change that fails is written down, and the page goes on."""
    try:
        change()
    except Exception:
        log.exception("a change of a model's page failed")


def _told(task: asyncio.Task[None]) -> None:
    """An end of following that nobody waits for is at least written down."""
    if not task.cancelled() and task.exception() is not None:
        log.error("a model is followed no longer", exc_info=task.exception())
