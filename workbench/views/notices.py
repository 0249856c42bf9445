"""Notices: rules on what bots do, the channels that notices go to, and what was delivered."""

import asyncio
from typing import Any, Final

import panel as pn

from engine.errors import Forbidden, WorkbenchError
from workbench.views.base import PageView, markup
from workbench.views.notices_channels import Channels, Log
from workbench.views.notices_rules import Rules

__all__ = ["Notices"]

EVERY: Final = 2.5
"""Seconds between two looks at firings and deliveries."""
FORBIDDEN: Final = ('<section class="card empty">Only an administrator may see where notices go and what was sent.'
                    "</section>")


class Notices(PageView):
    """`/notices`: rules, channels, deliveries."""

    def build(self) -> Any:
        self._rules = Rules(self, self.client, self.look)
        self._log = Log(self, self.client, self.look)
        self._channels = Channels(self, self.client, self.look, sent=self._log.read)
        self._refused = markup(FORBIDDEN, visible=False)
        return pn.Column(
            markup('<div class="head"><h1>Notices</h1><a href="/alerts">Alerts</a></div>'),
            self._rules.view, self._refused, self._channels.view, self._log.view,
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        await self._rules.load()
        try:
            await self._channels.load()
            await self._log.load(self._channels.names)
        except Forbidden:
            self._channels.view.visible = self._log.view.visible = False
            self._refused.visible = True
        self.spawn(self._watch())

    async def _watch(self) -> None:
        """Rules fire and notices go out while somebody looks."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._rules.read_firings()
                if not self._refused.visible:
                    self._log.names = self._channels.names
                    await self._log.read()
            except WorkbenchError as error:
                self._log.table.note(f"reconnecting … {error}")
            else:
                self._log.table.note("")
