"""Bots: watchers and strategies on live or replayed candles; how they fare, how to start, stop and delete them."""

import asyncio
from collections.abc import Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine.errors import Invalid, NotFound, WorkbenchError
from workbench import demo_minutes
from workbench.views.base import PageView, markup, on_page
from workbench.views.bots_form import StartForm, body_sections
from workbench.views.bots_rows import COLUMNS, row_of
from workbench.views.live_rows import LiveRows, Row
from workbench.views.new_backtest import _CARD

__all__ = ["BotPage", "Bots"]

NEWS: Final = ("state", "trades", "advice", "error")
"""What a row is marked for when it changes: candles come to all of them all the time."""

EVERY: Final = 1.0
"""Seconds between two looks while a bot is live; three times that when none is."""
DEMO: Final = {"short": 10, "long": 21, "signal": 9, "down": -0.025, "up": 0.025, "persistence": 1}
EMPTY: Final = ('<div class="empty"><h2>No bots yet</h2><p>A watcher hears a market, a paper trader runs a strategy '
                "on it with play money. See one at work now, on a made-up market that is replayed 600 times faster "
                "than life:</p></div>")


class Bots(PageView):
    """`/bots`: all of them, those that ended, and the form that starts one."""

    def build(self) -> Any:
        shared: dict[str, Any] = {"columns": COLUMNS, "page": 15, "most": 5000, "sortable": True}
        self._live = LiveRows(self.look, caption="Live bots", placeholder="No bot is live.",
                              searchable="Search live bots", **shared)
        self._past = LiveRows(self.look, caption="Archive", placeholder="Nothing was archived yet.",
                              searchable="Search the archive", **shared)
        self._rows: dict[str, dict[str, Row]] = {"live": {}, "past": {}}
        self._busy = markup('<section class="card"><p class="muted" role="status">Loading …</p></section>')
        self._demo = pn.widgets.Button(name="Replay a demo market", button_type="primary", width=200, margin=0,
                                       align="center")
        self._demo.on_click(self._replayed)
        self._nothing = pn.Column(markup(EMPTY), self._demo, sizing_mode="stretch_width", margin=0, visible=False,
                                  styles={**_CARD, "padding-bottom": "36px"})
        self._halt = pn.widgets.Button(name="Stop all trade bots now", button_type="danger", width=200, margin=0,
                                       visible=False)
        self._halt.on_click(self._halted)
        self._live_card = self._card("Live", self._live)
        self._past_card = self._card("Archive", self._past)
        self._form = StartForm(self.client, lambda id: self.visit(f"/bot?id={id}"))
        return pn.Column(
            pn.FlexBox(markup("<h1>Bots</h1>", sizing_mode=None), self._halt, justify_content="space-between",
                       align_items="center", gap="8px", sizing_mode="stretch_width", margin=0),
            self._busy, self._nothing, self._live_card, self._form.view, self._past_card, sizing_mode="stretch_width",
            margin=0, styles={"gap": "12px"})

    def _card(self, title: str, table: LiveRows) -> pn.Column:
        return pn.Column(markup(f"<h2>{title}</h2>"), table, sizing_mode="stretch_width", margin=0, visible=False,
                         styles={**_CARD, "min-width": "0"})

    async def load(self) -> None:
        await self._show()
        self.spawn(self._follow())
        await self._form.load()

    async def _show(self) -> bool:
        """Read and tell the browser what changed; whether one is live."""
        found = await self.client.instances()
        for name, table, card, items in (
                ("live", self._live, self._live_card, [each for each in found if each["state"] == "live"]),
                ("past", self._past, self._past_card, [each for each in found if each["state"] != "live"])):
            rows, known = {each["id"]: row_of(each) for each in items}, self._rows[name]
            if rows.keys() - known.keys() or known.keys() - rows.keys():
                table.reset(rows.values())
            elif changed := [{**row, "quiet": not any(row[key] != known[id][key] for key in NEWS)}
                             for id, row in rows.items() if row != known[id]]:
                table.put(changed)
            self._rows[name] = rows
            card.visible = bool(rows)
        self._busy.visible, self._nothing.visible = False, not found
        self._halt.visible = any(each["kind"] == "tradebot" and each["state"] == "live" for each in found)
        return bool(self._rows["live"])

    async def _follow(self) -> None:
        """Go on; a server that is away is asked again until it is back."""
        live = True
        while True:
            await asyncio.sleep(EVERY if live else 3 * EVERY)
            try:
                live = await self._show()
                self._live.note("")
            except WorkbenchError as error:
                self._live.note(f"reconnecting … {error}")

    @on_page
    async def _replayed(self, _event: Any) -> None:
        self._demo.disabled = True
        try:
            market = await demo_minutes.offer(self.client)
            begun = await self.client.start_instance(
                market, "MACD", parameters=body_sections("MACD", DEMO)["MACD"], candle_size=5, history=10,
                replay={"speed": 600})
        finally:
            self._demo.disabled = False
        self.visit(f"/bot?id={begun['id']}")

    @on_page
    async def _halted(self, _event: Any) -> None:
        stopped = await self.client.halt_trading()
        self.say(f"{len(stopped)} trade bot{'s were' if len(stopped) != 1 else ' was'} stopped.")
        await self._show()


class BotPage(PageView):
    """`/bot?id=…`: one of them, live."""

    def build(self) -> Any:
        self._place = pn.Column(markup('<p class="muted" role="status">Loading …</p>'), sizing_mode="stretch_width",
                                margin=0)
        wide: dict[str, Any] = {"margin": 0, "width": 130}
        self._stop = pn.widgets.Button(name="Stop", button_type="warning", visible=False, **wide)
        self._delete = pn.widgets.Button(name="Delete", button_type="danger", visible=False, **wide)
        self._really = pn.widgets.Button(name="Really stop it", button_type="danger", visible=False, **wide)
        self._asked = markup("", visible=False, sizing_mode=None)
        self._stop.on_click(lambda _: self._ask("Really stop it"))
        self._delete.on_click(lambda _: self._ask("Really delete it"))
        self._really.on_click(self._done)
        back = markup('<a href="/bots">All bots</a>', sizing_mode=None, styles={"flex": "1 1 auto"})
        top = pn.FlexBox(back, self._asked, self._really, self._stop, self._delete, gap="8px", align_items="center",
                         sizing_mode="stretch_width", margin=0)
        return pn.Column(top, self._place, sizing_mode="stretch_width", margin=0, styles={"gap": "10px"})

    async def load(self) -> None:
        from workbench.views.bots_live import BotLive

        self.id = self.query.get("id", "")
        if not self.id:
            raise Invalid("the address names no bot", field="id", remedy="open one from the list of bots")
        try:
            instance = await self.client.instance(self.id)
        except NotFound:
            self._place[:] = [markup('<div class="card empty"><h1>No such bot</h1><p>'
                                     f"{escape(self.id[:128])}</p></div>")]
            raise
        self._live = BotLive(self.client, instance, self.look)
        self._live.over = lambda: self._offer(self._live.instance)
        self.entitle(f"{instance['strategy'] or 'Watcher'} · {instance['market']}")
        self._place[:] = [self._live.view]
        self._offer(instance)
        await self._live.load()
        self.spawn(self._live.follow())

    def _offer(self, instance: Mapping[str, Any]) -> None:
        """The buttons that make sense now."""
        live = instance["state"] == "live"
        self._stop.visible, self._delete.visible = live, not live
        self._really.visible = self._asked.visible = False

    def _ask(self, name: str) -> None:
        showing = self._really.visible
        self._really.name = name
        told = ("Open orders are taken back; what it holds stays." if self._live.instance["kind"] == "tradebot" else
                "It moves to the archive.") if "stop" in name else (
            "Its events go; what it traded stays with its model." if self._live.instance["model"] else "Its events go.")
        self._asked.object = f'<span class="muted">{told}</span>'
        self._really.visible = self._asked.visible = not showing

    @on_page
    async def _done(self, _event: Any) -> None:
        self._really.disabled = True
        try:
            if "stop" in self._really.name:
                await self.client.stop_instance(self.id)
                self._really.visible = self._asked.visible = False
            else:
                await self.client.delete_instance(self.id)
                self.visit("/bots")
        finally:
            self._really.disabled = False
