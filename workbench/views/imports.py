"""Minutes from exchanges: imports with their progress, exchanges with what they can do, and their keys."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from html import escape
from typing import Any, Final

import panel as pn

from engine.errors import Invalid, NotFound, Problem, WorkbenchError
from engine.model import Market
from workbench.client import AsyncClient
from workbench.views.base import explained, markup
from workbench.views.bots_rows import clock, named
from workbench.views.new_backtest import _CARD, _GRID, Field, _day

__all__ = ["ImportPanel", "KeyPanel"]

SHOWN: Final = 20
GATHER: Final = 0.2
"""Seconds between two showings of progress."""
OVER: Final = frozenset({"completed", "failed", "cancelled"})
FACTS: Final = ("state", "progress", "position", "latest", "added", "missing")


class ImportRow:
    """One import: what it is, how far it came, and what can be done."""

    def __init__(self, act: Callable[[str, str], Awaitable[None]], facts: dict[str, Any]) -> None:
        self.facts = facts
        self._words = markup("")
        narrow: dict[str, Any] = {"margin": 0, "width": 86, "visible": False}
        self._buttons = {verb: pn.widgets.Button(name=name, **narrow) for verb, name in (
            ("cancel", "Cancel"), ("resume", "Resume"), ("delete", "Remove"))}
        for verb, button in self._buttons.items():
            async def clicked(_event: Any, verb: str = verb) -> None:
                await act(verb, str(self.facts["id"]))

            button.on_click(clicked)
        self._words.styles = {"flex": "1 1 300px", "min-width": "0"}
        self.view = pn.FlexBox(self._words, *self._buttons.values(), gap="8px", align_items="center", margin=0,
                               sizing_mode="stretch_width",
                               styles={"border-top": "1px solid var(--wb-grid)", "padding": "8px 0"})
        self.show()

    def show(self) -> None:
        """What it is now."""
        facts, state = self.facts, str(self.facts["state"])
        tone = {"completed": "gain", "failed": "loss"}.get(state, "muted")
        share = f"{float(facts['progress']) * 100:.0f}"
        told = [f"{int(facts['added']):,} minutes added"]
        if facts["missing"]:
            told.append(f"{int(facts['missing']):,} that the exchange does not have")
        if state == "running" and facts.get("position"):
            told.append(f"at {clock(facts['position'])}")
        problem = ""
        if facts.get("error"):
            problem = (f'<div class="error" role="alert" style="margin-top:6px;overflow-wrap:anywhere">'
                       f'{escape(str(facts["error"])[:400])} <span class="muted">What was stored stays: resume goes on '
                       "where it stopped.</span></div>")
        self._words.object = (
            f'<div class="head"><b style="overflow-wrap:anywhere">{escape(facts["market"])}</b>'
            f'<span class="pill {tone}">{escape(state)}</span></div>'
            f'<div class="muted">{clock(facts["start"])} – {clock(facts["end"])} UTC</div>'
            f'<div class="bar" role="progressbar" aria-label="Import of {escape(facts["market"])}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{share}" style="margin:6px 0 4px"><i style="width:{share}%"></i></div>'
            f'<div class="muted">{share} % · {" · ".join(told)}</div>{problem}')
        for verb, on in (("cancel", state not in OVER), ("resume", state in ("failed", "cancelled")),
                         ("delete", state in OVER)):
            if self._buttons[verb].visible != on:
                self._buttons[verb].visible = on


class ImportPanel:
    """The form and the list. `complain` shows an error on the page, `stored` is awaited after candles came."""

    def __init__(self, client: AsyncClient, complain: Callable[[WorkbenchError], None],
                 stored: Callable[[], Awaitable[None]]) -> None:
        self._client, self._complain, self._stored = client, complain, stored
        self._rows: dict[str, ImportRow] = {}
        self._changed: set[str] = set()
        self._stirred = asyncio.Event()
        self._exchanges: dict[str, Mapping[str, Any]] = {}
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self._fields = {
            "exchange": Field("exchange", pn.widgets.Select(name="From the exchange", options=[], **wide)),
            "pair": Field("pair", pn.widgets.AutocompleteInput(
                name="Pair to import", placeholder="BTC/USDT", restrict=False, min_characters=1, case_sensitive=False,
                **wide), "asset/currency"),
            "start": Field("start", pn.widgets.DatePicker(name="First day", **wide)),
            "end": Field("end", pn.widgets.DatePicker(name="Last day", **wide), "empty: up to now")}
        self["exchange"].param.watch(self._turned, "value")
        self._status = markup("")
        self._go = pn.widgets.Button(name="Start import", button_type="primary", width=130, margin=0, disabled=True)
        self._go.on_click(self._clicked)
        self._list = pn.Column(sizing_mode="stretch_width", margin=0)
        self._none = markup('<p class="muted">Nothing was imported from an exchange yet.</p>', visible=False)
        self.view = pn.Column(
            markup('<h2>Import from an exchange</h2><p class="muted">Minutes that are stored already stay as they are; '
                   "an import that stops goes on where it was.</p>"),
            pn.Column(*(field.view for field in self._fields.values()), sizing_mode="stretch_width", margin=0,
                      stylesheets=[_GRID.replace("LEAST", "170px")]),
            self._go, self._status, self._none, self._list, sizing_mode="stretch_width", margin=0,
            styles={**_CARD, "gap": "10px"})

    def __getitem__(self, name: str) -> Any:
        return self._fields[name].widget

    async def load(self) -> None:
        """What there is, and what was imported."""
        self._exchanges = {entry["slug"]: entry for entry in await self._client.exchanges()}
        self["exchange"].options = named(self._exchanges)
        self._turned(None)
        self._go.disabled = False
        await self._read()

    async def follow(self) -> None:
        """Go on showing what becomes of imports, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._show_changes())
            async for event in self._client.follow_all(prefix="import/", watcher=self._watched):
                facts = event.data.get("import") or {}
                id = event.stream.removeprefix("import/")
                row = self._rows.get(id)
                if row is not None and event.type == "progress":
                    row.facts.update({name: facts[name] for name in FACTS if name in facts})
                else:
                    self._changed.add("")  # a new one, or another state: the list is read again
                self._changed.add(id)
                self._stirred.set()

    def _watched(self, connected: bool) -> None:
        if connected:  # what happened while nobody listened
            self._changed.add("")
            self._stirred.set()

    async def _show_changes(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            changed, self._changed = self._changed, set()
            try:
                if "" in changed:
                    before = {id: row.facts["state"] for id, row in self._rows.items()}
                    await self._read()
                    if any(row.facts["state"] in OVER and before.get(id) not in OVER
                           for id, row in self._rows.items() if id in before):
                        await self._stored()
                else:
                    for id in changed & self._rows.keys():
                        self._rows[id].show()
            except WorkbenchError:
                self._changed.add("")
                await asyncio.sleep(1.0)
                self._stirred.set()
            await asyncio.sleep(GATHER)

    async def _read(self) -> None:
        found = await self._client.imports(limit=SHOWN)
        rows = {}
        for facts in found:
            row = self._rows.get(facts["id"])
            if row is None:
                row = ImportRow(self._act, facts)
            else:
                row.facts = facts
                row.show()
            rows[facts["id"]] = row
        if list(rows) != list(self._rows):
            self._list[:] = [row.view for row in rows.values()]
        self._rows = rows
        self._none.visible = not rows

    async def _act(self, verb: str, id: str) -> None:
        calls: dict[str, Callable[[str], Awaitable[Any]]] = {
            "cancel": self._client.cancel_import, "resume": self._client.resume_import,
            "delete": self._client.delete_import}
        try:
            await calls[verb](id)
            await self._read()
            if verb == "cancel":
                await self._stored()
        except WorkbenchError as error:
            self._complain(error)

    def _turned(self, _event: Any) -> None:
        entry = self._exchanges.get(self["exchange"].value)
        self["pair"].options = [f"{asset}/{currency}" for currency, asset in (
            market["pair"] for market in entry["markets"])] if entry else []

    async def _clicked(self, _event: Any) -> None:
        for field in self._fields.values():
            field.clear()
        self._status.object = ""
        self._go.disabled = True
        try:
            if self["start"].value is None:
                raise Invalid("this is missing", field="start", remedy="say from which day on")
            market = f"{self['exchange'].value}:{(self['pair'].value or '').strip()}"
            try:
                Market.parse(market)
            except Invalid:
                raise Invalid("this is no pair", field="pair", remedy="write it as asset/currency: BTC/USDT") from None
            await self._client.start_import(market, _day(self["start"].value), _day(self["end"].value, last=True))
            await self._read()
        except WorkbenchError as error:
            lost: list[Problem] = []
            for problem in error.problems:
                place = self._fields.get({"market": "pair"}.get(problem.field, problem.field))
                if place is None:
                    lost.append(problem)
                else:
                    place.complain(problem.message + (f" – {problem.remedy}" if problem.remedy else ""))
            if lost or not error.problems:
                self._status.object = f'<div class="error" role="alert">{explained(error)}</div>'
        finally:
            self._go.disabled = False


class KeyPanel:
    """Exchanges with what they can do, and the keys stored for them: set and removed, never shown."""

    def __init__(self, client: AsyncClient, complain: Callable[[WorkbenchError], None]) -> None:
        self._client, self._complain = client, complain
        self._exchanges: dict[str, Mapping[str, Any]] = {}
        self._keys: list[str] = []
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self._table = markup("")
        self._exchange = pn.widgets.Select(name="Exchange of the key", options=[], **wide)
        self._exchange.param.watch(self._turned, "value")
        self._parts: dict[str, Any] = {}
        self._box = pn.Column(sizing_mode="stretch_width", margin=0, styles={"gap": "8px"})
        self._save = pn.widgets.Button(name="Store key", button_type="primary", width=120, margin=0)
        self._save.on_click(self._saved)
        self._load = pn.widgets.Button(name="Load its markets", width=140, margin=0)
        self._load.on_click(self._loaded)
        self._status = markup("")
        self._list = pn.Column(sizing_mode="stretch_width", margin=0, styles={"gap": "6px"})
        self.view = pn.Column(
            markup("<h2>Exchanges</h2>"), self._table,
            markup('<h2 style="margin-top:6px">Keys</h2><p class="muted">Only trade bots need one. Keys are stored '
                   "encrypted and cannot be read again, by anybody.</p>"),
            self._list, self._exchange, self._box, pn.FlexBox(self._save, self._load, gap="8px", margin=0),
            self._status, sizing_mode="stretch_width", margin=0, styles={**_CARD, "gap": "10px"})

    async def load(self) -> None:
        """Read both."""
        self._exchanges = {entry["slug"]: entry for entry in await self._client.exchanges()}
        self._keys = await self._client.exchange_keys()
        chosen = self._exchange.value
        self._exchange.param.update(
            options=named(self._exchanges),
            value=chosen if chosen in self._exchanges else next(iter(self._exchanges), None))
        self._show()

    def _show(self) -> None:
        rows = "".join(
            f'<tr><td class="name">{escape(name)}</td><td class="num">{len(self._exchanges[slug]["markets"]):,}</td>'
            f'<td>{"yes" if self._exchanges[slug]["providesFullHistory"] else "no"}</td>'
            f'<td>{"yes" if self._exchanges[slug]["tradable"] else "no"}</td>'
            f'<td>{"stored" if slug in self._keys else "–"}</td></tr>'
            for name, slug in named(self._exchanges).items())
        self._table.object = (
            '<div class="scroll" style="max-height:300px;overflow-y:auto" tabindex="0" role="region" '
            'aria-label="Exchanges"><table><thead><tr><th scope="col">Exchange</th>'
            '<th scope="col" class="num">Known markets</th><th scope="col">History</th><th scope="col">Orders</th>'
            f'<th scope="col">Key</th></tr></thead><tbody>{rows}</tbody></table></div>')
        self._list[:] = [self._key(name) for name in self._keys]
        self._show_parts()

    def _key(self, name: str) -> Any:
        remove = pn.widgets.Button(name="Remove key", margin=0, width=110)
        sure = pn.widgets.Button(name="Really remove it", button_type="danger", margin=0, width=130, visible=False)

        def ask(_event: Any) -> None:
            sure.visible = not sure.visible

        remove.on_click(ask)
        sure.on_click(partial(self._removed, name))
        words = markup(f"<b>{escape(name)}</b>", sizing_mode=None, styles={"flex": "1 1 auto"})
        return pn.FlexBox(words, remove, sure, gap="8px", align_items="center", margin=0, sizing_mode="stretch_width")

    def _turned(self, _event: Any) -> None:
        self._show_parts()

    def _show_parts(self) -> None:
        entry = self._exchanges.get(self._exchange.value)
        parts = tuple(entry["requires"]) if entry else ()
        if parts != tuple(self._parts):
            self._parts = {part: pn.widgets.PasswordInput(name=part, sizing_mode="stretch_width", margin=0)
                           for part in parts}
            self._box[:] = list(self._parts.values())

    async def _saved(self, _event: Any) -> None:
        values = {part: widget.value.strip() for part, widget in self._parts.items()}
        try:
            missing = [part for part, value in values.items() if not value]
            if missing:
                raise Invalid("this is missing", field=missing[0], remedy="a key has " + ", ".join(values))
            await self._client.set_exchange_key(self._exchange.value, values)
        except WorkbenchError as error:
            self._status.object = f'<div class="error" role="alert">{explained(error)}</div>'
            return
        finally:
            for widget in self._parts.values():
                widget.value = ""
        self._status.object = ('<div class="good" role="status">The key for '
                               f"{escape(self._exchange.value)} is stored.</div>")
        await self.load()

    async def _removed(self, name: str, _event: Any) -> None:
        try:
            with suppress(NotFound):  # somebody else removed it
                await self._client.remove_exchange_key(name)
        except WorkbenchError as error:
            self._complain(error)
            return
        self._status.object = f'<div class="good" role="status">The key for {escape(name)} is gone.</div>'
        await self.load()

    async def _loaded(self, _event: Any) -> None:
        self._load.disabled = True
        self._status.object = '<div class="muted" role="status">Asking the exchange …</div>'
        try:
            found = await self._client.refresh_exchange(self._exchange.value)
        except WorkbenchError as error:
            self._status.object = f'<div class="error" role="alert">{explained(error)}</div>'
        else:
            self._status.object = (f'<div class="good" role="status">{escape(found["name"])} has '
                                   f'{len(found["markets"]):,} markets.</div>')
            await self.load()
        finally:
            self._load.disabled = False
