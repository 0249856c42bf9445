"""One run: while it runs its progress and log, after that its report. And several runs side by side."""

import html
from typing import Any, Final

import panel as pn

from engine import times
from engine.errors import Invalid, NotFound
from engine.model import FINISHED, Event, Run
from workbench import cards, theme
from workbench.views.base import PageView, markup, on_page
from workbench.views.form_values import may_change
from workbench.views.overview import when

TAIL: Final = 200


class RunPage(PageView):
    """`/run?id=…`: follows the run and shows the report the moment that it is completed."""

    def build(self) -> Any:
        self._run: Run | None = None
        self._lines: list[str] = []
        self._progress = 0.0
        self._message = ""
        self._head = markup('<p class="muted">Loading …</p>')
        self._live = markup("", visible=False)
        self._log = markup("", visible=False)
        self._cancel = pn.widgets.Button(name="Cancel this run", visible=False, width=140, margin=0)
        look: dict[str, Any] = {"visible": False, "height": 37, "margin": (0, 6, 0, 0),  # as high as the report's
                                "stylesheets": [theme.button_css(self.look)]}
        self._again = pn.widgets.Button(name="Run again", width=96, **look)
        self._change = pn.widgets.Button(name="Change and run", width=130, **look)
        self._cancel.on_click(self._cancelled)
        self._again.on_click(self._repeated)
        self._change.on_click(self._altered)
        self._report = pn.Column(sizing_mode="stretch_width", margin=0)
        return pn.Column(self._head, self._live, pn.FlexBox(self._cancel, self._again, self._change, margin=0),
                         self._log, self._report, sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        run_id = self.query.get("id", "")
        if not run_id:
            raise Invalid("the address names no run", field="id", remedy="open one from the list of runs")
        try:
            self._run = await self.client.run(run_id)
        except NotFound:
            self._head.object = ('<div class="card empty"><h1>No such run</h1><p>It may have been deleted. '
                                 'Choose one in the <a href="/runs">list of runs</a>.</p></div>')
            raise
        self._head.object = ""
        self.entitle(cards.title_of(self._run))
        if self._run.kind == "optimization":
            from workbench.views.sweep_page import SweepPart

            self._body[:] = [self._report]
            part = SweepPart(self, self._run)
            self._report[:] = [part.view]
            await part.load()
            return
        if self._run.state == "completed":
            await self._finished()
            return
        self._show()
        if self._run.finished:
            await self._explain()
        else:
            self.spawn(self._follow())

    async def _follow(self) -> None:
        assert self._run is not None
        async for event in self.client.follow(self._run.id):
            self._heard(event)
        self._run = await self.client.run(self._run.id)
        if self._run.state == "completed":
            await self._finished()
        else:
            self._show()

    def _heard(self, event: Event) -> None:
        stamp = times.iso(event.at)[11:23]
        if event.type == "progress":
            self._progress = float(event.data.get("progress") or 0.0)
            self._message = str(event.data.get("message") or "")
            text = f"{self._progress:4.0%} {self._message}"
        elif event.type == "metric":
            text = f"{event.data.get('name')} = {event.data.get('value')}"
        else:
            text = str(event.data.get("message") or event.data.get("state") or "")
            if event.type == "state" and event.data.get("error"):
                text += f": {event.data['error']}"
        self._lines.append(f"{stamp} {event.type:8} {text}")
        del self._lines[:-TAIL]
        self._show()

    async def _explain(self) -> None:
        assert self._run is not None
        for event in await self.client.events(self._run.id):
            self._heard(event)

    def _show(self) -> None:
        run = self._run
        if run is None:
            return
        self._head.object = (f'<div class="head"><div><h1>{html.escape(cards.title_of(run))}</h1><div class="muted">'
                             f"{html.escape(cards.span_of(run))} · {when(run.created_at)}</div></div>"
                             f"{cards.badge(run.state)}</div>")
        live = run.state not in FINISHED
        done = f"{self._progress:.0%}"
        if live:
            message = html.escape(self._message or run.state)
            self._live.object = (
                f'<div class="card" role="status"><div class="head"><span>{message}</span><b>{done}</b></div>'
                f'<div class="bar" role="progressbar" aria-label="progress" aria-valuenow="{done[:-1]}" '
                f'aria-valuemin="0" aria-valuemax="100"><i style="width:{done}"></i></div></div>')
        elif run.state == "failed":
            self._live.object = (f'<div class="error" role="alert"><b>This run failed.</b>'
                                 f'<div class="said" tabindex="0">{html.escape(run.error or "")}</div></div>')
        else:
            self._live.object = '<div class="card" role="status">This run was cancelled.</div>'
        self._live.visible = True
        self._log.object = ('<details class="card" open><summary>What happened</summary><pre aria-label="log" '
                            'style="max-height:340px;overflow-y:auto;margin-top:8px">'
                            + html.escape("\n".join(self._lines)) + "</pre></details>")
        self._log.visible = bool(self._lines)
        self._cancel.visible = live
        self._again.visible = not live
        self._change.visible = not live and may_change(run)

    async def _finished(self) -> None:
        from workbench.views.report import Report

        assert self._run is not None
        self._body[:] = [self._report]  # hidden parts would leave their gaps
        self._again.visible = self._run.kind == "backtest"
        self._change.visible = may_change(self._run)
        self._report[:] = [Report(self.client, self._run.id, look=self.look, actions=[self._again, self._change])]

    @on_page
    async def _cancelled(self, _event: Any) -> None:
        assert self._run is not None
        self._cancel.disabled = True
        await self.client.cancel(self._run.id)

    @on_page
    async def _repeated(self, _event: Any) -> None:
        assert self._run is not None
        run = await self.client.rerun(self._run.id)
        self.visit(f"/run?id={run.id}")

    @on_page
    async def _altered(self, _event: Any) -> None:
        assert self._run is not None
        self.visit(f"/new?run={self._run.id}")


class ComparePage(PageView):
    """`/compare?ids=a,b`: several completed runs side by side."""

    def build(self) -> Any:
        self._parts = pn.Column(markup('<p class="muted">Loading …</p>'), sizing_mode="stretch_width", margin=0)
        return self._parts

    async def load(self) -> None:
        ids = [part for part in self.query.get("ids", "").split(",") if part]
        if len(ids) < 2:
            self._parts[:] = [markup('<div class="card empty"><h1>Compare</h1><p>Choose two or more completed runs '
                                     'in the <a href="/runs">list of runs</a>.</p></div>')]
            return
        from workbench.views.compare import Compare

        self._parts[:] = [markup('<div class="head"><h1>Compare</h1><a href="/runs">Choose other runs</a></div>'),
                          Compare(self.client, ids, look=self.look)]
