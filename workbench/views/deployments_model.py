"""One uploaded model: run and stop it, its log and usage live, its versions and what changed, backtests with args."""

import asyncio
import io
import json
from functools import partial
from html import escape
from typing import Any, Final
from urllib.parse import quote

import panel as pn

from engine.activity import Model
from engine.deployment import Version
from engine.errors import Invalid, NotFound, WorkbenchError
from engine.model import Event
from workbench import cards
from workbench.client_deployments import Deployed, Standing, VersionDetails
from workbench.views.base import PageView, explained, markup, on_page
from workbench.views.deployments_parts import (
    Meter,
    arguments_of,
    bars,
    contents,
    difference,
    facts,
    pill,
    sentence,
    texts,
    versions,
    when,
)
from workbench.views.deployments_upload import PlanChoice, Upload
from workbench.views.model_output import Log
from workbench.views.new_backtest import _CARD, _cell

EVERY: Final = 1.0
GATHER: Final = 0.05
MOST_WAITING: Final = 5000
SHOWN: Final = 8
"""Files of which the lines that changed are shown, and backtests that are listed."""
_WIDE: Final[dict[str, Any]] = {"sizing_mode": "stretch_width", "margin": 0}
_MONO: Final = "textarea.bk-input { font-family: var(--wb-mono); font-size: 12.5px; }"


class DeploymentPage(PageView):
    """`/deployment?id=…`: one uploaded model."""

    def build(self) -> Any:
        self._plans: dict[str, dict[str, Any]] = {}
        self._place = pn.Column(markup('<p class="muted" role="status">Loading …</p>'), **_WIDE)
        return self._place

    async def load(self) -> None:
        id = self.query.get("id", "")
        if not id:
            raise Invalid("the address names no model", field="id", remedy="open one from the list of uploaded models")
        try:
            model = await self.client.model(id)
        except WorkbenchError:
            self._place[:] = [markup('<div class="card empty"><h1>No such model</h1><p style="overflow-wrap:anywhere">'
                                     f'{escape(id[:128])}</p><a href="/deployments">Uploaded models</a></div>')]
            raise
        self.entitle(model.name)
        layout = self._lay_out(model)
        try:
            await self._fill()
        finally:  # selects that a browser has not drawn yet must not change: they are filled before
            self._place[:] = [layout]
        self.spawn(self._follow())
        self.spawn(self._tail())

    async def _fill(self) -> None:
        told = await self.client.plans()
        self._plans = {plan["name"]: plan for plan in told["live"]}
        self._plan.offer(told["live"])
        self._slow.offer(told["backtest"])
        self._apart.object = f'<p class="muted" style="margin:8px 0 0">{sentence(told["isolation"]["reason"])}</p>'
        await self._read_versions()
        await self._look()
        if self._standing is not None:
            deployed = self._standing.deployment
            self._plan.widget.value, self._schedule.value = deployed.plan, deployed.schedule
        await self.log.load()
        await self._read_backtests()

    def _lay_out(self, model: Model) -> pn.Column:
        self.model = model
        self._versions: list[Version] = []
        self._standing: Standing | None = None
        self._meter = Meter()
        self._head, self._facts, self._usage = markup(""), markup(""), markup("")
        self._apart, self._table, self._files = markup(""), markup(""), markup("")
        self._changes, self._wrong, self._ran = markup(""), markup("", visible=False), markup("")
        self._version = pn.widgets.Select(name="Version", options={}, **_WIDE)
        self._plan, self._slow = PlanChoice(), PlanChoice()
        self._schedule = pn.widgets.TextInput(name="Schedule (cron, UTC)", placeholder="all the time", **_WIDE)
        self._run = pn.widgets.Button(name="Run", button_type="primary", width=100, margin=0, disabled=True)
        self._stop = pn.widgets.Button(name="Stop", button_type="danger", width=100, margin=0, disabled=True)
        self._run.on_click(self._started)
        self._stop.on_click(self._stopped)
        self._args = pn.widgets.TextAreaInput(name="Arguments of .backtest() (JSON)", placeholder='{"to": "1y"}',
                                              rows=4, stylesheets=[_MONO], **_WIDE)
        self._args.param.watch(self._typed, "value_input")
        self._tested = pn.widgets.Select(name="Version", options={}, **_WIDE)
        self._backtest = pn.widgets.Button(name="Backtest", button_type="primary", width=110, margin=0, disabled=True)
        self._backtest.on_click(self._asked)
        self._old, self._new = (pn.widgets.Select(name=name, options={}, **_WIDE) for name in ("Compare", "with"))
        self._compare = pn.widgets.Button(name="Compare", width=100, margin=0, align="end")
        self._compare.on_click(self._compared)
        self._download = pn.Column(margin=0)
        self._tested.param.watch(self._chosen, "value")
        self._old.param.watch(self._named, "value")
        self._upload = Upload(self.client, self._uploaded, model=model.id)
        self.log = Log(self.client, model.id, self.look)
        card: dict[str, Any] = {**_WIDE, "styles": {**_CARD, "gap": "8px", "min-width": "0"}}

        def row(*parts: Any, least: int = 130) -> Any:
            return pn.FlexBox(*(_cell(part, least) for part in parts), gap="8px 12px", margin=0)

        running = pn.Column(markup("<h2>Run</h2>"), self._facts, self._usage, self._apart,
                            row(self._version, self._plan.widget, self._schedule),
                            pn.FlexBox(self._run, self._stop, gap="8px", margin=0), **card)
        testing = pn.Column(markup("<h2>Backtest</h2>"), self._args, self._wrong, row(self._tested, self._slow.widget),
                            self._backtest, self._ran, **card)
        listing = pn.Column(markup("<h2>Versions</h2>"), self._table, self._files,
                            row(self._old, self._new, least=150),
                            pn.FlexBox(self._compare, self._download, gap="8px", margin=0), self._changes, **card)
        more = pn.Column(markup('<h2>Upload a new version</h2>'), self._upload.view, **card)
        log = pn.Column(markup("<h2>Log</h2>"), self.log.view, **card)
        return pn.Column(
            self._head, pn.FlexBox(_cell(running, 420), _cell(testing, 340), gap="12px", align_items="flex-start",
                                   sizing_mode="stretch_width", margin=0), log,
            pn.FlexBox(_cell(listing, 480, grow=3), _cell(more, 320, grow=2), gap="12px", align_items="flex-start",
                       sizing_mode="stretch_width", margin=0), styles={"gap": "12px"}, **_WIDE)

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read_versions(self) -> None:
        self._versions = await self.client.versions(self.model.id)
        options = {f"{each.number}" + (f" · {each.description[:40]}" if each.description else ""): each.id
                   for each in self._versions}
        for widget, place in ((self._version, 0), (self._tested, 0), (self._new, 0), (self._old, 1)):
            widget.options = options
            if self._versions:
                widget.value = self._versions[min(place, len(self._versions) - 1)].id
        self._run.disabled = self._backtest.disabled = not self._versions
        self._compare.disabled = len(self._versions) < 2
        self._show_versions()
        if self._versions:
            details = await self.client.version(self.model.id, self._versions[0].id)
            self._files.object = contents(details)
            self._suggest(details)

    def _suggest(self, details: VersionDetails) -> None:
        """Arguments that the model's own blankly.json names, as long as nothing was typed."""
        given = details.manifest.get("backtest_args")
        if isinstance(given, dict) and given and not self._args.value:
            self._args.value = json.dumps(given, indent=2)

    async def _look(self) -> None:
        try:
            self._standing = await self.client.deployment(self.model.id)
        except NotFound:
            self._standing = None
        else:
            self._meter.see(self._standing, asyncio.get_running_loop().time())
        self._show()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._look()
            except WorkbenchError as error:
                self._usage.object = f'<p class="muted" role="status">reconnecting … {escape(str(error))}</p>'

    async def _tail(self) -> None:
        """The log as it comes, several lines at a time in a storm."""
        waiting: list[Event] = []
        arrived, shown = asyncio.Event(), asyncio.Event()

        async def hear() -> None:
            async for event in self.client.follow_logs(self.model.id, after=self.log.last):
                waiting.append(event)
                arrived.set()
                while len(waiting) >= MOST_WAITING:
                    shown.clear()
                    await shown.wait()

        self.spawn(hear())
        while True:
            await arrived.wait()
            arrived.clear()
            lines, waiting[:] = waiting[:], []
            shown.set()
            if fresh := [event for event in lines if event.seq > self.log.last]:
                self.log.heard(fresh)
            await asyncio.sleep(GATHER)

    async def _read_backtests(self) -> None:
        found = (await self.client.runs(strategy=self.model.id, kind="backtest", limit=SHOWN)).items
        rows = "".join(
            f'<tr><td class="name"><a href="/run?id={quote(run.id, safe="")}">{escape(run.name[:120])}</a></td>'
            f"<td>{cards.badge(run.state)}</td>"
            f'<td class="num">{cards.number(run.metrics.get("total_return"), "percent")}</td>'
            f'<td style="white-space:nowrap">{when(run.created_at)[:16]}</td></tr>' for run in found)
        self._ran.object = ('<div class="scroll"><table aria-label="Backtests"><thead><tr><th scope="col">Backtest</th>'
                            '<th scope="col">State</th><th scope="col" class="num">Return</th>'
                            f'<th scope="col">Made (UTC)</th></tr></thead><tbody>{rows}</tbody></table></div>'
                            if rows else '<p class="muted">No backtests of it yet.</p>')

    # -- showing -------------------------------------------------------------------------------------------------

    def _show_versions(self) -> None:
        found = self._standing.deployment if self._standing else None
        table = versions(self._versions, found.version if found and found.wanted == "running" else None)
        if self._table.object != table:
            self._table.object = table

    def _show(self) -> None:
        found = self._standing.deployment if self._standing else None
        state = pill(found.state) if found else '<span class="pill muted" data-state="">never run</span>'
        about = [self.model.id if self.model.id != self.model.name else "", f"project {self.model.project}"]
        head = (f'<div class="head"><div style="min-width:0"><h1>{escape(self.model.name)}</h1><div class="muted" '
                f'style="overflow-wrap:anywhere">{escape(" · ".join(filter(None, about)))}</div></div>'
                f'<div style="display:flex;gap:14px;align-items:center">{state}'
                f'<a href="/model?id={quote(self.model.id, safe="")}">Orders, profit, calls</a>'
                '<a href="/deployments">All uploaded</a></div></div>')
        version = next((each for each in self._versions if found and each.id == found.version), None)
        told = facts(found, version) if found else '<p class="muted">It was never run.</p>'
        usage = bars(self._standing, self._plans.get(found.plan), self._meter.rate) if self._standing and found else ""
        for pane, text in ((self._head, head), (self._facts, told), (self._usage, usage)):
            if pane.object != text:
                pane.object = text
        self._show_versions()
        up = found is not None and found.wanted == "running"
        self._stop.disabled = not up
        self._run.name = "Run this instead" if up else "Run"
        self._run.width = 156 if up else 100
        if found:
            self._upload.kept = (found.plan, found.schedule)

    def _typed(self, event: Any) -> None:
        try:
            arguments_of(event.new or "")
        except Invalid as error:
            self._wrong.object = f'<div role="alert" class="loss" style="font-size:12px">{explained(error)}</div>'
            self._wrong.visible = True
        else:
            self._wrong.object, self._wrong.visible = "", False

    def _chosen(self, event: Any) -> None:
        pn.state.execute(self._show_files)

    async def _show_files(self) -> None:
        if self._tested.value:
            await self.guarded(self._fill_files(self._tested.value))

    async def _fill_files(self, version: str) -> None:
        self._files.object = contents(await self.client.version(self.model.id, version))

    def _named(self, event: Any) -> None:
        found = next((each for each in self._versions if each.id == event.new), None)
        if found is not None:  # a button for each: one that is not drawn yet cannot be renamed
            ending = "py" if found.file.endswith(".py") else "zip"
            name = self.model.name[:60].replace("/", "_")
            self._download[:] = [pn.widgets.FileDownload(
                label=f"Download {found.number}", callback=partial(self._archive, found.id), width=130, margin=0,
                filename=f"{name}-{found.number}.{ending}")]

    async def _archive(self, version: str) -> io.BytesIO:
        return io.BytesIO(await self.client.download_version(self.model.id, version))

    # -- what a person does --------------------------------------------------------------------------------------

    @on_page
    async def _started(self, _event: Any) -> None:
        await self.client.run_model(self.model.id, version=self._version.value, plan=self._plan.widget.value,
                                    schedule=(self._schedule.value or "").strip())
        await self._look()

    @on_page
    async def _stopped(self, _event: Any) -> None:
        self._stop.disabled = True
        await self.client.stop_model(self.model.id)
        await self._look()

    @on_page
    async def _asked(self, _event: Any) -> None:
        args = arguments_of(self._args.value_input or self._args.value or "")
        self._backtest.disabled = True
        try:
            run = await self.client.submit_model_backtest(
                self.model.id, args, version=self._tested.value, plan=self._slow.widget.value)
        finally:
            self._backtest.disabled = False
        self.visit(f"/run?id={quote(run.id, safe='')}")

    @on_page
    async def _compared(self, _event: Any) -> None:
        by_id = {each.id: each for each in self._versions}
        old, new = sorted((by_id[self._old.value], by_id[self._new.value]), key=lambda each: each.number)
        changes = await self.client.version_difference(self.model.id, old.id, new.id)
        shown = []
        for path in changes["changed"][:SHOWN]:
            try:
                before = await self.client.version_file(self.model.id, old.id, path)
                after = await self.client.version_file(self.model.id, new.id, path)
            except Invalid as error:  # a secret
                shown.append((path, f'<p class="muted">{escape(error.message)}; not shown</p>'))
            else:
                shown.append((path, texts(before, after, old, new)))
        self._changes.object = difference(changes, old, new, shown)

    async def _uploaded(self, _made: Deployed) -> None:
        await self._read_versions()
        await self._look()
