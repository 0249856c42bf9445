"""What `/run?id=…` shows of a search: progress while it runs, its report, and what can be done with it."""

import asyncio
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import panel as pn

from engine.model import Run
from workbench import cards
from workbench.views.base import PageView, markup
from workbench.views.form_values import may_change
from workbench.views.sweep import SweepReport, backtest_of

if TYPE_CHECKING:
    from workbench.frames import Columns

PAUSE: Final = 1.0
"""Seconds between two looks at the trials of a running search; longer when there are thousands."""
MOST: Final = 10_000


class SweepPart:
    """One search on a page, live until it ends, and again after `resume`."""

    def __init__(self, page: PageView, run: Run) -> None:
        self._page, self._run = page, run
        self._status: Mapping[str, Any] = {}
        self._trial: tuple[int, Mapping[str, Any]] | None = None
        self._live = markup("", visible=False)
        self._test = self._button("Backtest with these", self._tested, 240, button_type="primary")
        self._cancel = self._button("Cancel this sweep", self._cancelled, 150)
        self._resume = self._button("Resume", self._resumed, 100)
        self._change = self._button("Change and run", self._altered, 150)
        buttons = pn.FlexBox(self._test, self._cancel, self._resume, self._change, gap="8px", margin=0)
        self.report = SweepReport(look=page.look, chosen=self._choose, actions=[self._live, buttons])
        self.view = pn.Column(self.report, sizing_mode="stretch_width", margin=0)

    def _button(self, name: str, handler: Any, width: int, **words: Any) -> pn.widgets.Button:
        button = pn.widgets.Button(label=name, visible=False, width=width, margin=0, **words)

        async def clicked(_event: Any) -> None:
            self._page.quiet()
            button.disabled = True
            try:
                await self._page.guarded(handler())
            finally:
                button.disabled = False

        button.on_click(clicked)
        return button

    async def load(self) -> None:
        """Show what there is, and follow the search if it is not finished."""
        await self._refresh()
        if not self._run.finished:
            self._page.spawn(self._follow())

    async def _follow(self) -> None:
        """The event stream says that something has happened; the trials are fetched at a gentle pace."""
        stirred = asyncio.Event()
        ended = False

        async def listen() -> None:
            nonlocal ended
            try:
                async for _ in self._page.client.follow(self._run.id):
                    stirred.set()
            finally:
                ended = True
                stirred.set()

        listener = self._page.spawn(listen())
        try:
            while not ended:
                await stirred.wait()
                stirred.clear()
                await self._refresh()
                size = int((self._status.get("trials") or {}).get("completed") or 0)
                await asyncio.wait([listener], timeout=PAUSE + size / 2000)
        finally:
            listener.cancel()
        await self._refresh()

    async def _refresh(self) -> None:
        client = self._page.client
        trials: Columns
        self._status, trials = await asyncio.gather(client.sweep(self._run.id), client.trials(self._run.id, limit=MOST))
        self._run = await client.run(self._run.id)
        self.report.update(self._status, trials)
        self._show()

    def _show(self) -> None:
        run, counts = self._run, self._status.get("trials") or {}
        done = int(counts.get("completed") or 0) + int(counts.get("failed") or 0)
        part = f"{run.progress:.0%}"
        if not run.finished:
            said = f"{done:,} of {int(counts.get('total') or 0):,} trials" if run.state == "running" else "waiting"
            self._live.object = (
                f'<div class="card" role="status"><div class="head"><span>{said}</span><b>{part}</b></div>'
                f'<div class="bar" role="progressbar" aria-label="progress" aria-valuenow="{part[:-1]}" '
                f'aria-valuemin="0" aria-valuemax="100"><i style="width:{part}"></i></div></div>')
        elif run.state == "failed":
            self._live.object = (f'<div class="error" role="alert"><b>This sweep failed.</b> '
                                 f"{html.escape(run.error or '')}<br>"
                                 "Finished trials are kept; it can be resumed.</div>")
        elif run.state == "cancelled":
            self._live.object = '<div class="card" role="status">This sweep was cancelled; its trials are kept.</div>'
        self._live.visible = run.state != "completed"
        self._cancel.visible = not run.finished
        self._resume.visible = run.state in ("failed", "cancelled")
        self._change.visible = run.finished and may_change(run)
        self._test.visible = bool(self._status.get("best"))

    def _choose(self, number: int, parameters: Mapping[str, Any]) -> None:
        self._trial = number, parameters
        self._test.label = f"Backtest with trial {number + 1}"

    async def _tested(self) -> None:
        best = self._status["best"]
        number, parameters = self._trial or (best["number"], best["parameters"])
        run = await self._page.client.submit(
            backtest_of(self._status, parameters), tags=["sweep"],
            name=f"{cards.title_of(self._run)[:150]}, trial {number + 1}")
        self._page.visit(f"/run?id={run.id}")

    async def _cancelled(self) -> None:
        await self._page.client.cancel_sweep(self._run.id)
        await self._refresh()

    async def _altered(self) -> None:
        self._page.visit(f"/new?run={self._run.id}")

    async def _resumed(self) -> None:
        await self._page.client.resume_sweep(self._run.id)
        await self.load()
