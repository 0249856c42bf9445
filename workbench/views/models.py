"""All models at a glance, and the page of one: state, heartbeat, profit, exposure, what went wrong last."""

import asyncio
from collections.abc import Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine import times
from engine.errors import Invalid, WorkbenchError
from engine.plots import live as pictures
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.base import PageView, markup
from workbench.views.live_rows import LiveRows, Row

EVERY: Final = 1.0
"""Seconds between two looks for what changed. A look asks for the models heard since the last one, not for all."""
WHOLE: Final = 15.0
"""Seconds between two looks at everything: prices move without a word from any model."""
SHOWN: Final = 50
MOST: Final = 20_000
COLUMNS: Final = [
    {"key": "name", "title": "Model", "kind": "link"}, {"key": "state", "title": "State", "kind": "state"},
    {"key": "heard", "title": "Heard", "kind": "ago"}, {"key": "equity", "title": "Profit curve", "kind": "spark"},
    {"key": "today", "title": "Profit today", "kind": "money"}, {"key": "total", "title": "Profit", "kind": "money"},
    {"key": "exposure", "title": "Exposure", "kind": "money", "plain": True},
    {"key": "orders", "title": "Orders", "kind": "number", "digits": 0},
    {"key": "error", "title": "Last error", "kind": "text"}]
NOTHING: Final = ('<section class="card empty"><h2>No models yet</h2><p>A bot in any language can report what it does: '
                  'its orders, its log, its state.</p><a class="button" href="/connect">Connect your bot</a></section>')


class AllModels:
    """The table of models. `view` is its layout; `load` once, then `follow` until cancelled."""

    def __init__(self, client: AsyncClient, look: Style, *, shown: int = SHOWN) -> None:
        self._client = client
        self.table = LiveRows(look, columns=COLUMNS, caption="Models", placeholder="No models yet.", page=shown,
                              most=MOST, sortable=True, searchable="Search models")
        self._nothing = markup(NOTHING, visible=False)
        self._busy = markup('<p class="muted" role="status">Loading …</p>')
        self._card = pn.Column(
            markup('<div class="head"><h2>Models</h2><a href="/connect">Connect your bot</a></div>'), self.table,
            sizing_mode="stretch_width", margin=0, visible=False,
            styles={"background": look.surface, "border": f"1px solid {look.border}", "border-radius": "10px",
                    "padding": "14px 16px", "min-width": "0"})
        self.view = pn.Column(self._busy, self._nothing, self._card, sizing_mode="stretch_width", margin=0)
        self._seen: dict[str, Row] = {}

    async def load(self) -> None:
        """Everything."""
        rows = [row_of(entry) for entry in await self._entries()]
        changed = [row for row in rows if self._seen.get(row["id"]) != row]
        gone = len(rows) < len(self._seen)
        self._seen = {row["id"]: row for row in rows}
        self._busy.visible, self._nothing.visible, self._card.visible = False, not rows, bool(rows)
        if gone or len(changed) > 200:
            self.table.reset(rows)
        elif changed:
            self.table.put(changed)

    async def _entries(self) -> list[Mapping[str, Any]]:
        entries: list[Mapping[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self._client.overview(limit=1000, cursor=cursor)
            entries += page["items"]
            cursor = page.get("next")
            if cursor is None or len(entries) >= MOST:
                return entries

    async def follow(self) -> None:
        """Go on showing what changes. A server that is away is asked again until it is back."""
        loop = asyncio.get_running_loop()
        whole = loop.time()
        heard: Any = _latest(self._seen)
        while True:
            await asyncio.sleep(EVERY)
            try:
                page = await self._client.models(sort="heard_at", limit=1)
                latest = page.items[0].heard_at if page.items else None
                if (latest, page.total) != heard or loop.time() - whole > WHOLE:
                    heard, whole = (latest, page.total), loop.time()
                    await self.load()
                self.table.note("")
            except WorkbenchError as error:
                self.table.note(f"reconnecting … {error}")


def _latest(seen: Mapping[str, Row]) -> tuple[Any, int]:
    return (None, -1) if seen else (None, 0)


def row_of(entry: Mapping[str, Any]) -> Row:
    """A model of the overview as a row."""
    from workbench.views.model_rows import SILENT

    heard = entry.get("heard_at")
    at = None if heard is None else times.parse(heard)
    quiet = at is not None and (times.now() - at).total_seconds() > SILENT
    running = entry.get("running")
    if running is False:
        state = ["stopped", "idle"]
    elif at is None:
        state = ["never heard", ""]
    elif quiet:
        state = ["silent", "bad" if running else ""]
    else:
        state = ["running" if running else "reporting", "good"]
    id, name = str(entry["id"]), str(entry.get("name") or entry["id"])
    symbols = ", ".join(list(entry.get("symbols") or ())[:4])
    return {
        "id": id, "name": name, "name_by": name.lower(), "href": f"/model?id={_quoted(id)}",
        "under": " · ".join(part for part in (str(entry.get("project") or ""), symbols) if part),
        "state": state, "state_by": state[0], "heard": None if at is None else times.micros(at) / 1000,
        "equity": pictures.sparkline(entry.get("equity") or ()), "today": entry.get("today") or {},
        "total": entry.get("total") or {}, "exposure": entry.get("exposure") or {}, "orders": entry.get("orders"),
        "error": str(entry.get("last_error") or "")[:120],
        "find": f"{name} {id} {symbols} {state[0]} {entry.get('project') or ''} {entry.get('last_error') or ''}"}


def _quoted(id: str) -> str:
    from urllib.parse import quote

    return quote(id, safe="")


class Models(PageView):
    """`/models`: all of them, found and sorted in the browser."""

    def build(self) -> Any:
        self._all = AllModels(self.client, self.look, shown=100)
        return pn.Column(
            markup('<div class="head"><h1>Models</h1><a class="button" href="/connect">Connect your bot</a></div>'),
            self._all.view, sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        await self._all.load()
        self.spawn(self._all.follow())


class ModelPage(PageView):
    """`/model?id=…`: one model live."""

    def build(self) -> Any:
        self._place = pn.Column(markup('<p class="muted" role="status">Loading …</p>'), sizing_mode="stretch_width",
                                margin=0)
        return self._place

    async def load(self) -> None:
        from workbench.views.model_live import ModelLive

        model_id = self.query.get("id", "")
        if not model_id:
            raise Invalid("the address names no model", field="id", remedy="open one from the list of models")
        live = ModelLive(self.client, model_id, look=self.look)
        try:
            live.model = await self.client.model(model_id)
        except WorkbenchError:
            self._place[:] = [markup('<div class="card empty"><h1>No such model</h1><p>'
                                     f'{escape(model_id[:128])}</p><a href="/models">All models</a></div>')]
            raise
        self.entitle(live.model.name)
        self._place[:] = [live]
        try:
            await live.load()
        finally:  # what could not be read now is shown as soon as it can be
            self.spawn(live.follow())
