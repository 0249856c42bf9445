"""All models at a glance, and the page of one: state, heartbeat, profit, exposure, what went wrong last."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from html import escape
from typing import Any, Final
from urllib.parse import quote

import panel as pn

from engine.activity import Model
from engine.analysis import sparkline
from engine.errors import Invalid, NotFound, WorkbenchError
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.base import PageView, markup
from workbench.views.live_rows import LiveRows, Row
from workbench.views.model_rows import millis, state_of

EVERY: Final = 1.0
"""Seconds between two looks for models that were heard since."""
FEW: Final = 20
LATEST: Final = 200
"""Models that such a look reads: a few, more when all of those changed or figures are due; when all of these changed,
everything is read."""
PENDING: Final = 0.5
"""Seconds until figures that are being computed are asked for again."""
FIGURES: Final = 5.0
"""Seconds between two questions for profit and exposure while models report; three times that when none does."""
FIRST: Final = 100
"""Models that are shown before the others are read."""
SHARE: Final = 0.1
"""Of the time, at most, in which figures that are being computed are asked for: those of many models take a while."""
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

    def __init__(self, client: AsyncClient, look: Style, *, shown: int = SHOWN, titled: bool = False
                 ) -> None:
        self._client = client
        self.table = LiveRows(look, columns=COLUMNS, caption="Models", placeholder="No models yet.", page=shown,
                              most=MOST, sortable=True, searchable="Search models")
        self._nothing = markup(NOTHING, visible=False)
        self._busy = markup('<p class="muted" role="status">Loading …</p>')
        head = '<div class="head"><h2>Models</h2><a href="/models">All models</a></div>'
        self._card = pn.Column(
            *([markup(head)] if titled else []), self.table,
            sizing_mode="stretch_width", margin=0, visible=False,
            styles={"background": look.surface, "border": f"1px solid {look.border}", "border-radius": "10px",
                    "padding": "14px 16px", "min-width": "0"})
        self.view = pn.Column(self._busy, self._nothing, self._card, sizing_mode="stretch_width", margin=0)
        self._models: dict[str, Model] = {}
        self._figures: dict[str, Mapping[str, Any]] = {}
        self._shown: dict[str, Row] = {}
        self._pending: float | None = None
        self._more: bool | None = None  # than those that were read first; None before that

    async def begin(self) -> None:
        """Those that were heard last."""
        first, _ = await asyncio.gather(self._client.models(sort="heard_at", limit=FIRST), self._read_figures(FIRST))
        self._models = {model.id: model for model in first.items}
        self._show(self._models)
        self._more = first.next is not None

    async def load(self) -> None:
        """Everything, those first that were heard last."""
        if self._more is None:
            await self.begin()
        if self._more:
            await self._read_all()
            await self._read_figures()
            self._show(self._models)

    async def _read_all(self) -> None:
        found: dict[str, Model] = {}
        cursor: str | None = None
        while len(found) < MOST:
            page = await self._client.models(limit=1000, cursor=cursor)
            found |= {model.id: model for model in page.items}
            cursor = page.next
            if cursor is None:
                break
        kept = {id: found[id] for id in self._models if id in found}  # rows that are seen stay where they are
        self._models = kept | found

    async def _read_figures(self, most: int = MOST) -> None:
        """Profit and exposure. Models are shown without them while they cannot be told."""
        began = time.monotonic()
        try:
            told = await self._client.overview(limit=most)
        except WorkbenchError as error:
            self.table.note(f"no profit can be shown now: {error}")
            return
        self._figures = {str(entry["id"]): entry for entry in told["items"]}
        self._pending = max(PENDING, (time.monotonic() - began) / SHARE) if told.get("pending") else None
        self.table.note("")

    def _show(self, ids: Iterable[str]) -> None:
        """Tell the browser what changed of these models."""
        rows = [row_of(self._models[id], self._figures.get(id, {})) for id in ids]
        if self._busy.visible:
            self._busy.param.update(visible=False, object="")
        self._nothing.visible = not self._models
        self._card.visible = bool(self._models)
        gone = self._shown.keys() - self._models.keys()
        changed = [row for row in rows if self._shown.get(row["id"]) != row]
        self._shown = {id: row for id, row in self._shown.items() if id not in gone} | {row["id"]: row for row in rows}
        if gone or len(changed) > LATEST:
            self.table.reset(self._shown.values())
        elif changed:
            self.table.put(changed)

    async def follow(self) -> None:
        """Go on showing what changes. A server that is away is asked again until it is back."""
        loop = asyncio.get_running_loop()
        asked, stirred = loop.time(), False
        while True:
            await asyncio.sleep(min(self._pending or EVERY, EVERY))
            try:
                due = loop.time() - asked > (self._pending or (FIGURES if stirred else 3 * FIGURES))
                changed = await self._look(LATEST if due else FEW)
                stirred = stirred or bool(changed)
                if due:
                    await self._read_figures()
                    asked, stirred, changed = loop.time(), False, list(self._models)
                self._show(changed)
            except WorkbenchError as error:
                self.table.note(f"reconnecting … {error}")

    async def _look(self, most: int) -> list[str]:
        """The ids of the models that were heard, made or deleted since the last look. Reads `most` models that were
        heard last, and more when all of them changed."""
        page = await self._client.models(sort="heard_at", limit=most)
        changed = [model.id for model in page.items if self._models.get(model.id) != model]
        if len(changed) == most < LATEST:
            return await self._look(LATEST)
        fresh = sum(id not in self._models for id in changed)
        if len(changed) == LATEST or page.total != len(self._models) + fresh:
            await self._read_all()
            return list(self._models)
        self._models |= {model.id: model for model in page.items}
        return changed


def row_of(model: Model, figures: Mapping[str, Any]) -> Row:
    """A model with its figures (of the overview) as a row."""
    state = state_of(model)
    symbols = ", ".join(model.symbols[:4])
    return {
        "id": model.id, "name": model.name, "name_by": model.name.lower(), "href": f"/model?id={_quoted(model.id)}",
        "under": " · ".join(part for part in (model.project, symbols) if part), "state": list(state),
        "state_by": state[0], "heard": millis(model.heard_at),
        "equity": sparkline(figures.get("equity") or ()), "today": figures.get("today") or {},
        "total": figures.get("total") or {}, "exposure": figures.get("exposure") or {}, "orders": model.orders,
        "error": (model.last_error or "")[:120],
        "find": f"{model.name} {model.id} {symbols} {state[0]} {model.project} {model.last_error or ''}"}


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

    async def prepare(self) -> None:
        await self._all.begin()

    async def load(self) -> None:
        await self._all.load()
        self.spawn(self._all.follow())


class ModelPage(PageView):
    """`/model?id=…`: one model live."""

    def build(self) -> Any:
        from workbench.views.model_live import ModelLive

        self._origin = markup("", visible=False)
        self._live = ModelLive(self.client, self.query.get("id", ""), look=self.look)
        self._place = pn.Column(self._origin, self._live, sizing_mode="stretch_width", margin=0)
        return self._place

    async def prepare(self) -> None:
        if self._live.id:
            await self._live.prepare()

    async def load(self) -> None:
        live = self._live
        if not live.id:
            self._place.clear()
            raise Invalid("the address names no model", field="id", remedy="open one from the list of models")
        try:
            if live.model is None:
                await live.read()
        except NotFound:
            self._place[:] = [markup('<div class="card empty"><h1>No such model</h1><p>'
                                     f'{escape(live.id[:128])}</p><a href="/models">All models</a></div>')]
            raise
        except WorkbenchError:
            self.spawn(live.follow())  # it is read as soon as it can be
            raise
        assert live.model is not None
        self.entitle(live.model.name)
        try:
            await live.load()
            link = await self._link(live.model)
            self._origin.param.update(object=link, visible=bool(link))
        finally:  # what could not be read now is shown as soon as it can be
            self.spawn(live.follow())

    async def _link(self, model: Model) -> str:
        """A link to where the model is run from, if it is run here."""
        id = quote(model.id, safe="")
        if model.dialect == "gekko":
            with suppress(NotFound):
                await self.client.instance(model.id)
                return f'<a href="/bot?id={id}">Bot: start, stop, configuration</a>'
        elif await self.client.versions(model.id):
            return f'<a href="/deployment?id={id}">Uploaded: versions, run, stop, output</a>'
        return ""
