"""Uploaded models: a card for each, and the form that deploys one."""

import asyncio
from html import escape
from typing import Any, Final

import panel as pn

from engine.activity import Model
from engine.deployment import Version
from engine.errors import WorkbenchError
from workbench.client_deployments import Deployed, Standing
from workbench.views.base import PageView, markup
from workbench.views.deployments_parts import Meter, bars, linked, pill, sentence, when
from workbench.views.deployments_upload import LARGEST, Upload
from workbench.views.new_backtest import _CARD, _cell

EVERY: Final = 1.0
"""Seconds between two looks at what deployments use."""
ALL: Final = 10
"""Looks after which models and versions are read again too."""
MOST: Final = 200
NOTHING: Final = ('<section class="card empty"><h2>No uploaded models yet</h2><p>Drop a zip of a model\'s folder, or '
                  'one Python file, and it runs here: its log, its orders and what it uses are shown live.</p><p>'
                  'From a notebook: <code>client.deploy("folder")</code></p></section>')
_GRID: Final = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr));gap:12px"


class Deployments(PageView):
    """`/deployments`: what was uploaded, how it stands, and a form for more."""

    def build(self) -> Any:
        self._models: dict[str, Model] = {}
        self._versions: dict[str, Version] = {}
        self._standing: dict[str, Standing] = {}
        self._plans: dict[str, dict[str, Any]] = {}
        self._meters: dict[str, Meter] = {}
        self._cards = markup('<p class="muted" role="status">Loading …</p>')
        self._lost = markup("", visible=False)
        self._apart = markup("")
        self._upload = Upload(self.client, self._deployed)
        form = pn.Column(
            markup(f'<h2>Deploy a model</h2><p class="muted">A zip of its folder, or one <code>.py</code> file, up to '
                   f'{LARGEST // 2**20} MB; <code>requirements.txt</code> in it is installed.</p>'),
            self._upload.view, self._apart, sizing_mode="stretch_width", margin=0, styles={**_CARD, "gap": "10px"})
        return pn.Column(
            markup('<div class="head"><h1>Uploaded models</h1><a href="/models">All models</a></div>'), self._lost,
            pn.FlexBox(_cell(pn.Column(self._cards, sizing_mode="stretch_width", margin=0), 480, grow=3),
                       _cell(form, 320, grow=2), gap="12px", align_items="flex-start", sizing_mode="stretch_width",
                       margin=0), sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        told = await self.client.plans()
        self._plans = {plan["name"]: plan for plan in told["live"]}
        self._upload.plan.offer(told["live"])
        self._apart.object = f'<p class="muted" style="margin:0">{sentence(told["isolation"]["reason"])}</p>'
        await self._read()
        self._show()
        self.spawn(self._follow())

    async def _read(self) -> None:
        self._versions = await self.client.newest_versions()
        found: dict[str, Model] = {}
        for id in list(self._versions)[:MOST]:
            if id not in self._models:
                found[id] = await self.client.model(id)
        self._models = {id: model for id, model in (self._models | found).items() if id in self._versions}
        await self._look()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        self._standing = {each.deployment.model: each for each in await self.client.deployments()}
        for id, standing in self._standing.items():
            self._meters.setdefault(id, Meter()).see(standing, now)

    async def _follow(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(EVERY)
            looks += 1
            try:
                await (self._read() if looks % ALL == 0 else self._look())
            except WorkbenchError as error:
                self._lost.object = f'<p class="muted" role="status">reconnecting … {escape(str(error))}</p>'
                self._lost.visible = True
                continue
            self._lost.visible = False
            self._show()

    def _show(self) -> None:
        if not self._models:
            text = NOTHING
        else:
            cards = "".join(self._card(id) for id in self._models)
            more = len(self._versions) - len(self._models)
            text = (f'<div style="{_GRID}">{cards}</div>'
                    + (f'<p class="muted">and {more:,} more, see <a href="/models">all models</a></p>' if more else ""))
        if self._cards.object != text:
            self._cards.object = text

    def _card(self, id: str) -> str:
        model, newest, standing = self._models[id], self._versions[id], self._standing.get(id)
        deployed = standing.deployment if standing else None
        state = pill(deployed.state) if deployed else '<span class="pill muted" data-state="">never run</span>'
        facts = [f"{model.project}", f"version {newest.number}"]
        if deployed:
            facts += [f"plan {deployed.plan}", *([deployed.schedule] if deployed.schedule else []),
                      *([f"started again {deployed.restarts} times"] if deployed.restarts else []),
                      *([f"next {when(deployed.next_at)} UTC"] if deployed.next_at else [])]
        usage = bars(standing, self._plans.get(standing.deployment.plan), self._meters[id].rate) if standing else ""
        error = (f'<p class="loss" style="margin:6px 0 0;overflow-wrap:anywhere">{escape(deployed.error[:240])}</p>'
                 if deployed and deployed.error else "")
        about = f'<p style="margin:6px 0 0;overflow-wrap:anywhere">{escape(newest.description[:200])}</p>' \
            if newest.description else ""
        return (f'<article class="card" data-model="{escape(id)}" style="min-width:0">'
                f'<div style="display:flex;justify-content:space-between;gap:8px;align-items:baseline"><h2 '
                f'style="margin:0;min-width:0;overflow-wrap:anywhere"><a href="{linked(id)}">'
                f'{escape(model.name[:200])}</a></h2>{state}</div><div class="muted" style="overflow-wrap:anywhere">'
                f'{escape(" · ".join(facts))}</div>{about}{error}{usage}</article>')

    async def _deployed(self, made: Deployed) -> None:
        self.visit(linked(made.model.id))
