"""The open alerts, live: one class for the page and the notebook cell.

The list is read once, with the number of the last step that it shows; from there on the stream is followed, so that
nothing falls between the two. What arrives is gathered and shown in one go.
"""

import asyncio
import logging
from typing import Any, Final

import panel as pn

from engine.alerts import Alert
from engine.errors import WorkbenchError
from engine.model import Event
from engine.plots.style import Style
from workbench import theme
from workbench.client import AsyncClient
from workbench.client_alerts import alert_of
from workbench.views.alerts_cards import STATES, AlertCards, Prices, instrument_of, named
from workbench.views.base import explained
from workbench.views.live_rows import LiveRows, Row, words
from workbench.views.model_rows import millis

__all__ = ["COLUMNS", "RESULT", "OpenAlerts", "alert_rows", "row_of"]

log = logging.getLogger("workbench.pages")
GATHER: Final = 0.1
"""Seconds between two showings of what has arrived."""
EVERY: Final = 3.0
"""Seconds between two looks for newer candles."""
CARDS: Final = 9
"""Charts at first; more come on request."""
MOST: Final = 5000
"""Open alerts that are listed at most."""
ENDED: Final = 50
COLUMNS: Final = [
    {"key": "ticker", "title": "Ticker", "kind": "link"}, {"key": "side", "title": "Side", "kind": "side"},
    {"key": "state", "title": "State", "kind": "state"}, {"key": "instrument", "title": "Instrument", "kind": "text"},
    {"key": "duration", "title": "Duration", "kind": "text"}, {"key": "by", "title": "From", "kind": "text"},
    {"key": "start", "title": "Start", "kind": "number"}, {"key": "target", "title": "Target", "kind": "number"},
    {"key": "stop", "title": "Stop", "kind": "number"}, {"key": "detected", "title": "Detected", "kind": "ago"}]
RESULT: Final = [{"key": "exit", "title": "Exit", "kind": "number"}, {"key": "r", "title": "R", "kind": "money"}]
LOST: Final = {True: ("live", "good"), False: ("reconnecting …", "bad")}


def alert_rows(look: Style, **options: Any) -> LiveRows:
    """A table of alerts."""
    table = LiveRows(look, **options)
    table.stylesheets = [*table.stylesheets, ".state.is-live .dot { background: var(--wb-accent); }"]
    return table


def row_of(alert: Alert, base: str = "") -> Row:
    """A row of a table of alerts; `base` is the server's address where links need it."""
    word, tone = STATES.get(alert.state, (alert.state, "unknown"))
    if alert.state == "closed" and (alert.gain or 0) <= 0:
        tone = "bad"
    return {"id": str(alert.id), "ticker": alert.ticker, "href": f"{base}/alerts?id={alert.id}",
            "side": alert.direction.lower(), "state": [word, tone], "state_by": alert.state,
            "instrument": instrument_of(alert), "duration": alert.duration_strategy,
            "by": named(alert), "start": alert.start, "target": alert.target, "stop": alert.stop, "exit": alert.exit,
            "r": alert.r, "detected": millis(alert.detected_at), "type": instrument_of(alert),
            "find": f"{alert.ticker} {alert.market} {named(alert)} {alert.direction} {alert.id}"}


class OpenAlerts(pn.viewable.Viewer):
    """Open alerts on their charts and in a table. `await load()` reads them, `await follow()` goes on until it is
    cancelled. `filters` narrow what is shown: `instrument`, `detector`, `ticker` (any part of it), `market`."""

    def __init__(self, client: AsyncClient, *, look: str | Style | None = None, instrument: str = "",
                 detector: str = "", ticker: str = "", market: str = "", base: str = "", **params: Any) -> None:
        super().__init__(**params)
        self._base = base
        self.client, self.look = client, theme.style(look)
        self._filters = {"instruments": instrument, "detector": detector, "ticker": ticker, "market": market}
        self._prices = Prices(client)
        self._open: dict[int, Alert] = {}
        self._picked: Alert | None = None
        self._shown = CARDS
        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self.last = 0
        self.head = words("", self.look)
        self.problem = words("", self.look, visible=False)
        self.cards = AlertCards(self.look)
        self._empty = words('<section class="card empty"><h2>No open alerts</h2><p>They appear here the moment that a '
                            "detector or a bot gives one.</p></section>", self.look, visible=False)
        self.table = alert_rows(self.look, columns=COLUMNS, caption="Open alerts", page=25, most=MOST, sortable=True,
                              picks=True, searchable="Search open alerts", typed=True, asked=self._asked,
                              placeholder="No open alerts.", visible=False)
        self.ended = alert_rows(self.look, columns=[*COLUMNS[:6], *RESULT, COLUMNS[-1]], most=ENDED, picks=True,
                              caption="Ended while you watched", asked=self._asked, visible=False)
        self._ended_head = words("<h2>Ended while you watched</h2>", self.look, visible=False)
        self._more = pn.widgets.Button(label="Show more charts", visible=False, width=160, margin=0)
        self._more.on_click(self._further)
        self._root = pn.Column(self.head, self.problem, self._empty, self.cards, self._more, self.table,
                               self._ended_head, self.ended, sizing_mode="stretch_width", margin=0,
                               styles={"gap": "12px"}, stylesheets=[theme.ground(self.look)])

    def __panel__(self) -> pn.Column:
        return self._root

    @property
    def alerts(self) -> list[Alert]:
        """The open alerts that are shown, newest first."""
        return sorted(self._open.values(), key=lambda alert: (alert.detected_at, alert.id), reverse=True)

    # -- reading -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what is open."""
        filters: dict[str, Any] = {**self._filters, "states": ("working", "onGoing")}
        page = await self.client.alerts(limit=1000, **filters)
        found, self.last = list(page.items), page.last
        while len(found) < min(page.total, MOST):
            page = await self.client.alerts(limit=1000, offset=len(found), **filters)
            if not page.items:
                break
            found += page.items
        self._open = {alert.id: alert for alert in found}
        await self._prices.look()
        self.table.reset(row_of(alert, self._base) for alert in self.alerts)
        self._say(True)
        self._frame()
        await self._draw()

    def _fits(self, alert: Alert) -> bool:
        wanted = self._filters
        return (wanted["instruments"] in ("", alert.instrument) and wanted["detector"] in ("", alert.detector)
                and wanted["market"] in ("", alert.market) and wanted["ticker"].lower() in alert.ticker.lower())

    # -- following -----------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Go on showing what happens, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._hear(), self._show(), self._watch()):
                tasks.create_task(work)

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

    async def _hear(self) -> None:
        async for event in self.client.follow_alerts(self.last, watcher=self._say):
            self._events.append(event)
            self._arrived.set()

    async def _show(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            events, self._events = self._events, []
            try:
                await self._heard(events)
            except WorkbenchError as error:  # the charts; the stream itself goes on
                self._complain(error)
            await asyncio.sleep(GATHER + len(self._open) / 5000)  # long lists are not sent ten times a second

    async def _heard(self, events: list[Event]) -> None:
        changed: dict[int, Alert] = {}
        ended: dict[int, Alert] = {}
        for event in events:
            alert = alert_of(event.data)
            self.last = event.seq
            if not self._fits(alert):
                continue
            if self._picked is not None and self._picked.id == alert.id:
                self._picked = alert
            if alert.ended:
                self._open.pop(alert.id, None)
                changed.pop(alert.id, None)
                ended[alert.id] = alert
            else:
                self._open[alert.id] = changed[alert.id] = alert
        if ended or len(changed) > 200 or len(self._open) > MOST:
            self.table.reset(row_of(alert, self._base) for alert in self.alerts)
        elif changed:
            new = [alert for alert in changed.values() if str(alert.id) not in self.table._rows]
            if new:  # the newest stand first
                self.table.reset(row_of(alert, self._base) for alert in self.alerts)
            else:
                self.table.put([row_of(alert, self._base) for alert in changed.values()])
        if ended:
            self.ended.visible = self._ended_head.visible = True
            self.ended.put([row_of(alert, self._base) for alert in ended.values()])
        self._say(True)
        self._frame()
        if any(alert.market not in self._markets for alert in changed.values()):
            await self._prices.look()
        await self._draw()

    async def _watch(self) -> None:
        """Newer candles under the charts."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                fresh = await self._prices.look()
                touched = [alert for alert in self._charted()
                           if (entry := self._prices.dataset(alert)) and entry["market"] in fresh]
                if touched:
                    self.cards.put([card for card in await self._prices.cards(touched)
                                    if card["id"] in self.cards._cards])
                self.problem.visible = False
            except WorkbenchError as error:
                self._complain(error)

    # -- showing -------------------------------------------------------------------------------------------------

    @property
    def _markets(self) -> set[str]:
        return {"", *(entry["market"] for entry in self._prices._stored)}

    def _charted(self) -> list[Alert]:
        """What has a chart: the one that was picked, and the newest."""
        first = [] if self._picked is None else [self._picked]
        return [*first, *(alert for alert in self.alerts if not first or alert.id != first[0].id)][:self._shown]

    async def _draw(self) -> None:
        self.cards.reset(await self._prices.cards(self._charted()))

    def _frame(self) -> None:
        self._empty.visible = not self._open
        self.table.visible = bool(self._open)
        self.cards.visible = bool(self._open) or self._picked is not None
        self._more.visible = len(self._open) > self._shown

    def _say(self, connected: bool) -> None:
        working = sum(alert.state == "working" for alert in self._open.values())
        word, tone = LOST[connected]
        text = (f'<div class="head" role="status"><span><b>{len(self._open):,}</b> open: {working:,} working, '
                f'{len(self._open) - working:,} on going</span>'
                f'<span class="muted"><b class="{"gain" if tone == "good" else "loss"}" aria-hidden="true">●</b> '
                f"<span>{word}</span></span></div>")
        if self.head.object != text:
            self.head.object = text

    def _complain(self, error: WorkbenchError) -> None:
        self.problem.object = f'<div class="error" role="alert">{explained(error)}</div>'
        self.problem.visible = True

    async def _further(self, _event: Any) -> None:
        self._shown += 2 * CARDS
        self._frame()
        await self._draw()

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        if name != "pick":
            return
        try:
            self._picked = await self.client.alert(int(data["id"]))
            self._frame()
            await self._draw()
        except WorkbenchError as error:
            self._complain(error)


def _told(task: asyncio.Task[None]) -> None:
    """An end of following that nobody waits for is at least written down."""
    if not task.cancelled() and task.exception() is not None:
        log.error("alerts are followed no longer", exc_info=task.exception())
