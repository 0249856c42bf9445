"""The first page: what bots do, what runs, what has run, which candles are there, and how to begin."""

import asyncio
import html
from typing import Any

import panel as pn

from engine import times
from engine.errors import WorkbenchError
from engine.model import FINISHED, Run
from workbench import cards
from workbench.views.base import PageView, markup
from workbench.views.models import AllModels

LATEST = 8


def ago(at: Any) -> str:
    """How long since an instant, for people."""
    seconds = max((times.now() - at).total_seconds(), 0)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def when(at: Any) -> str:
    """An instant as a `<time>`: relative to read, exact on hover."""
    return f'<time datetime="{times.iso(at)}" title="{times.iso(at)[:19].replace("T", " ")} UTC">{ago(at)}</time>'


class Overview(PageView):
    """Counts, models, latest runs with their equity, markets, workers, and hints for a new workbench."""

    def build(self) -> Any:
        self._counts = markup('<div class="tiles"><div class="tile"><span>Runs</span><b>…</b></div></div>')
        self._runs = markup('<section class="card" aria-busy="true"><h2>Latest runs</h2>'
                            '<p class="muted">Loading …</p></section>')
        self._side = markup("")
        self._models = AllModels(self.client, self.look, shown=12, titled=True)
        self._curves: dict[str, list[float]] = {}
        self._changed = asyncio.Event()
        self._ready = False
        head = markup('<div class="head"><h1>Overview</h1><a class="button" href="/new">New backtest</a></div>')
        return pn.Column(head, self._counts, self._models.view, pn.FlexBox(
            pn.Column(self._runs, styles={"flex": "3 1 620px", "min-width": "0"}, margin=0),
            pn.Column(self._side, styles={"flex": "1 1 300px", "min-width": "0"}, margin=0),
            gap="14px", sizing_mode="stretch_width", margin=0), sizing_mode="stretch_width", margin=0,
            styles={"gap": "14px"})

    async def prepare(self) -> None:
        await self._models.begin()

    async def load(self) -> None:
        self.spawn(self._watch_models())
        await self._show()
        self.spawn(self._listen())
        self.spawn(self._refresh())
        while not self._ready:  # the pool warms up after a start
            await asyncio.sleep(1.5)
            await self._show()

    async def _watch_models(self) -> None:
        await self._models.load()
        await self._models.follow()

    async def _listen(self) -> None:
        async for event in self.client.follow_all(prefix="run/"):
            if event.type == "state":
                self._changed.set()

    async def _refresh(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(0.3)  # a burst of changes is one redraw
            self._changed.clear()
            await self._show()

    async def _show(self) -> None:
        latest, queued, running, done, markets, health = await asyncio.gather(
            self.client.runs(limit=LATEST), self.client.runs(states=["queued"], limit=1),
            self.client.runs(states=["running"], limit=1), self.client.runs(states=["completed"], limit=1),
            self.client.markets(), self.client.health())
        workers = health.get("workers") or {}
        self._ready = bool(workers.get("ready"))
        ready = f"{workers.get('count', 0)} ready" if workers.get("ready") else "starting"
        tiles = [("Runs", f"{latest.total:,}"), ("Completed", f"{done.total:,}"),
                 ("Running", f"{running.total:,}"), ("Queued", f"{queued.total:,}"),
                 ("Markets", f"{len({entry['market'] for entry in markets}):,}"), ("Workers", ready)]
        self._counts.object = '<div class="tiles">' + "".join(
            f'<div class="tile"><span>{name}</span><b>{value}</b></div>' for name, value in tiles) + "</div>"
        await asyncio.gather(*(self._curve(run) for run in latest.items if run.state == "completed"))
        self._runs.object = self._table(latest.items) if latest.items else _WELCOME
        self._side.object = _markets(markets) + _connect(self.client.url, bool(latest.items))

    async def _curve(self, run: Run) -> None:
        if run.id in self._curves or run.kind != "backtest":
            return
        try:
            table = await self.client.table(run.id, "equity", points=80)
            self._curves[run.id] = [float(value) for value in table["value"]]
        except WorkbenchError:
            self._curves[run.id] = []  # a run without a stored result still has its row

    def _table(self, runs: tuple[Run, ...]) -> str:
        rows = "".join(self._row(run) for run in runs)
        return ('<section class="card"><div class="head"><h2>Latest runs</h2><a href="/runs">All runs</a></div>'
                '<div class="scroll"><table><thead><tr><th scope="col">Run</th><th scope="col">State</th>'
                '<th scope="col">Equity</th><th scope="col" class="num">Return</th>'
                '<th scope="col" class="num">Sharpe</th><th scope="col" class="num">Max drawdown</th>'
                f'<th scope="col" class="num">When</th></tr></thead><tbody>{rows}</tbody></table></div></section>')

    def _row(self, run: Run) -> str:
        gain = run.metrics.get("total_return")
        tone = "" if gain is None else "gain" if gain >= 0 else "loss"
        state = cards.badge(run.state)
        if run.state not in FINISHED:
            state += f' <span class="muted">{run.progress:.0%}</span>'
        return (f'<tr><td class="name"><a href="/run?id={html.escape(run.id)}">{html.escape(cards.title_of(run))}</a>'
                f'<br><span class="muted">{html.escape(cards.span_of(run))}</span></td><td>{state}</td>'
                f"<td>{cards.sparkline(self._curves.get(run.id, []), width=130, height=32)}</td>"
                f'<td class="num {tone}">{cards.number(gain, "percent")}</td>'
                f'<td class="num">{cards.number(run.metrics.get("sharpe"))}</td>'
                f'<td class="num">{cards.number(run.metrics.get("max_drawdown"), "percent")}</td>'
                f'<td class="num muted">{when(run.created_at)}</td></tr>')


_WELCOME = """<section class="card"><h2>Welcome</h2>
<p>Nothing has run here yet. Three ways to begin:</p>
<ol><li><a href="/new">Fill in a backtest</a> and watch it run.</li>
<li><a href="/markets">Bring your own candles</a>: CSV or Parquet, dropped on a page.</li>
<li>Open a notebook:<pre>import workbench as wb
client = wb.connect()
run = client.backtest("sma_cross", market="demo:AAPL/USD", fast=10, slow=50)
run.report()</pre></li></ol></section>"""


def _markets(items: list[dict[str, Any]]) -> str:
    if not items:
        return ('<section class="card"><h2>Markets</h2><p class="muted">No candles yet.</p>'
                '<a href="/markets">Import some</a></section>')
    rows = "".join(f'<tr><td class="name"><a href="/markets?market={html.escape(entry["market"])}&amp;resolution='
                   f'{html.escape(str(entry["resolution"]))}">{html.escape(entry["market"])}</a></td>'
                   f'<td>{html.escape(str(entry["resolution"]))}</td><td class="num">{entry["rows"]:,}</td></tr>'
                   for entry in items[:10])
    more = f'<p class="muted">and {len(items) - 10:,} more</p>' if len(items) > 10 else ""
    return ('<section class="card"><div class="head"><h2>Markets</h2><a href="/markets">All markets</a></div>'
            '<table><thead><tr><th scope="col">Market</th><th scope="col">Bars of</th>'
            f'<th scope="col" class="num">Rows</th></tr></thead><tbody>{rows}</tbody></table>{more}</section>')


def _connect(url: str, used: bool) -> str:
    if not used:
        return ""
    return ('<section class="card" style="margin-top:14px"><h2>From a notebook</h2><pre>import workbench as wb\n'
            f'client = wb.connect("{html.escape(url)}")\nclient.runs()</pre>'
            '<a href="/settings">Tokens</a> · <a href="/docs">API</a></section>')
