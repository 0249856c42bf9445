"""Alerts: the open ones live, those that were, detectors, accounts of the stream, and how to hear it elsewhere."""

import asyncio
from functools import partial
from html import escape
from typing import Any, Final

import panel as pn

from engine.errors import WorkbenchError
from workbench import alert_snippets
from workbench.views.alerts_history import box
from workbench.views.alerts_open import OpenAlerts
from workbench.views.base import PageView, explained, markup
from workbench.views.connect import copied

__all__ = ["TABS", "Alerts"]

TABS: Final = {"open": "Open", "history": "History", "detectors": "Detectors", "subscribers": "Subscribers",
               "listen": "Listen"}


class Alerts(PageView):
    """`/alerts`: five tabs, each built when it is first opened; `?tab=` names one, `?id=` an alert."""

    def build(self) -> Any:
        self._opened: dict[str, Any] = {}
        self._places = {name: pn.Column(sizing_mode="stretch_width", margin=(12, 0, 0, 0), min_height=260)
                        for name in TABS}
        first = "history" if self.query.get("id") else self.query.get("tab", "open")
        self._tabs = pn.Tabs(*((TABS[name], place) for name, place in self._places.items()),
                             active=list(TABS).index(first) if first in TABS else 0,
                             sizing_mode="stretch_width", margin=0)
        self._tabs.param.watch(self._turned, "active")
        return pn.Column(
            markup('<div class="head"><h1>Alerts</h1><a href="/notices">Notices: rules, channels, log</a></div>'),
            self._tabs, sizing_mode="stretch_width", margin=0, styles={"gap": "8px"})

    async def load(self) -> None:
        await self._open(list(TABS)[self._tabs.active])
        history = self._opened.get("history")
        wanted = self.query.get("id", "")
        if history is not None and wanted.isascii() and wanted.isdigit():
            await history.show(int(wanted))

    def _turned(self, event: Any) -> None:
        name = list(TABS)[event.new]
        self.readdress("/alerts" if name == "open" else f"/alerts?tab={name}")
        pn.state.execute(partial(self._come, name))

    async def _come(self, name: str) -> None:
        self.quiet()
        await self.guarded(self._open(name))

    async def _open(self, name: str) -> None:
        """Build a tab when it is first opened; what was read before is read anew."""
        if name in self._opened:
            if name in ("history", "subscribers"):
                await self._opened[name].read()
            return
        place = self._places[name]
        match name:
            case "open":
                view = self._opened[name] = OpenAlerts(self.client, look=self.look)
                place[:] = [view]
                try:
                    await view.load()
                finally:  # what could not be read now is shown as soon as it can be
                    self.spawn(view.follow())
            case "listen":
                self._opened[name] = None
                place[:] = [_listen(self.client.url)]
            case _:
                part = self._part(name)
                place[:] = [markup('<p class="muted" role="status">Loading …</p>')]
                try:
                    await part.load()
                except WorkbenchError as error:
                    place[:] = [markup(f'<div class="error" role="alert">{explained(error)}</div>')]
                    return
                place[:] = [part.view]  # with its choices: a select box takes no new ones while it is being drawn
                self._opened[name] = part
                if name == "detectors":
                    self.spawn(self._watch(part))

    def _part(self, name: str) -> Any:
        if name == "history":
            from workbench.views.alerts_history import History

            return History(self, self.client, self.look)
        if name == "detectors":
            from workbench.views.alerts_detectors import Detectors

            return Detectors(self, self.client, self.look)
        from workbench.views.alerts_subscribers import Subscribers

        return Subscribers(self, self.client, self.look)

    async def _watch(self, part: Any) -> None:
        """Detection goes on: its positions and open alerts change."""
        from workbench.views.alerts_detectors import EVERY

        while True:
            await asyncio.sleep(EVERY)
            if list(TABS)[self._tabs.active] == "detectors":
                try:
                    await part.read()
                except WorkbenchError as error:
                    part.switches.note(f"reconnecting … {error}")
                else:
                    part.switches.note("")


def _listen(url: str) -> Any:
    """How programs and browsers hear alerts."""
    parts: list[Any] = [markup(
        '<p>Alerts stream as Server-Sent Events from <code>/api/v1/alerts</code> to accounts with FULL access and '
        "credits, and to tokens that may manage alerts. A line that breaks goes on after the last alert "
        '(<code>Last-Event-ID</code>). A page on another address must be named in <code>--origins</code>. '
        'Everything is described at <a href="/docs">/docs</a>.</p>')]
    for title, text in alert_snippets.snippets(url).items():
        parts += [markup(f"<h2>{escape(title)}</h2>"), copied(text, title)]
    return box(*parts, gap="4px")
