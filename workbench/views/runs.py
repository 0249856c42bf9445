"""All runs: find, sort, watch, cancel, delete, run again, compare. Only one page of rows is ever in the browser."""

import asyncio
import html
from typing import Any, Final
from urllib.parse import urlencode

import panel as pn

from engine import times
from engine.errors import Invalid
from engine.model import FINISHED, RUN_STATES, Event, Run
from workbench import cards
from workbench.views.base import TABLE_CSS, PageView, markup, on_page

SIZE: Final = 50
COLUMNS: Final[dict[str, tuple[str, str, str]]] = {
    # column: (title, what the API sorts by, kind of figure)
    "run": ("Run", "name", "text"), "state": ("State", "state", "text"), "strategy": ("Strategy", "strategy", "text"),
    "markets": ("Markets", "", "text"), "total_return": ("Return", "metrics.total_return", "percent"),
    "annual_return": ("CAGR", "metrics.annual_return", "percent"), "sharpe": ("Sharpe", "metrics.sharpe", "ratio"),
    "max_drawdown": ("Max drawdown", "metrics.max_drawdown", "percent"),
    "trades": ("Trades", "metrics.trades", "count"), "created": ("Created (UTC)", "created_at", "text"),
    "tags": ("Tags", "", "text"),  # the last column takes the room that is left, little in a narrow window
}


def row_of(run: Run) -> dict[str, Any]:
    """What the table shows of a run."""
    state = run.state if run.finished or run.state == "queued" else f"{run.state} {run.progress:.0%}"
    kind = " (sweep)" if run.kind == "optimization" else ""
    return {"id": run.id, "run": cards.title_of(run), "state": state, "strategy": run.strategy + kind,
            "markets": ", ".join(run.markets[:3]) + (f" +{len(run.markets) - 3}" if len(run.markets) > 3 else ""),
            **{key: run.metrics.get(key) for key, (_, _, kind) in COLUMNS.items() if kind != "text"},
            "tags": ", ".join(run.tags), "created": times.iso(run.created_at)[:16].replace("T", " ")}


class Runs(PageView):
    """The table of runs. The filters are in the address, so that a view can be kept and shared."""

    def build(self) -> Any:
        self._cursors: list[str | None] = [None]
        self._next: str | None = None
        self._total = 0
        self._items: dict[str, Run] = {}
        self._selected: set[str] = set()
        self._sort, self._descending = self.query.get("sort", "created_at"), self.query.get("order", "desc") != "asc"
        self._changed = asyncio.Event()
        self._asked = 0
        text = pn.widgets.TextInput(name="Search", placeholder="name, strategy, market, tag, id",
                                    value=self.query.get("q", ""), width=230, margin=0)
        states = pn.widgets.Select(name="State", options={"all": "", **{state: state for state in RUN_STATES}},
                                   value=self.query.get("state", "") if self.query.get("state") in RUN_STATES else "",
                                   width=120, margin=0)
        strategy = pn.widgets.Select(name="Strategy", options={"all": ""}, width=150, margin=0)
        market = pn.widgets.Select(name="Market", options={"all": ""}, width=160, margin=0)
        tag = pn.widgets.TextInput(name="Tag", value=self.query.get("tag", ""), width=110, margin=0)
        self._filters = {"q": text, "state": states, "strategy": strategy, "market": market, "tag": tag}
        self._clear = pn.widgets.Button(name="Clear", width=70, margin=0, align="end")
        self._clear.on_click(self._cleared)
        for widget in self._filters.values():
            widget.param.watch(self._filtered, "value")
        self._count = markup('<p class="muted" role="status">Loading …</p>')
        self._compare = pn.widgets.Button(name="Compare", button_type="primary", disabled=True, width=100, margin=0)
        self._open = pn.widgets.Button(name="Open", disabled=True, width=80, margin=0)
        self._cancel = pn.widgets.Button(name="Cancel", disabled=True, width=80, margin=0)
        self._again = pn.widgets.Button(name="Run again", disabled=True, width=100, margin=0)
        self._delete = pn.widgets.Button(name="Delete", button_type="danger", disabled=True, width=80, margin=0)
        self._sure = pn.widgets.Button(name="Really delete", button_type="danger", visible=False, width=130, margin=0)
        self._compare.on_click(self._compared)
        self._open.on_click(self._opened)
        self._cancel.on_click(self._cancelled)
        self._again.on_click(self._repeated)
        self._delete.on_click(self._make_sure)
        self._sure.on_click(self._deleted)
        self._back = pn.widgets.Button(name="‹ Previous", disabled=True, width=100, margin=0)
        self._on = pn.widgets.Button(name="Next ›", disabled=True, width=100, margin=0)
        self._back.on_click(self._paged_back)
        self._on.on_click(self._paged_on)
        # The table is made with its first rows: one that is filled while the browser sets it up may stay empty.
        self._table: Any = None
        self._place = pn.Column(sizing_mode="stretch_width", margin=0)
        self._nothing = markup("", visible=False)
        tools = pn.FlexBox(self._compare, self._open, self._again, self._cancel, self._delete, self._sure, gap="6px",
                           align_items="center", margin=0)
        return pn.Column(
            markup('<div class="head"><h1>Runs</h1><a class="button" href="/new">New backtest</a></div>'),
            pn.FlexBox(*self._filters.values(), self._clear, gap="4px 10px", align_items="flex-end", margin=0),
            tools, self._count, self._place, self._nothing,
            pn.FlexBox(self._back, self._on, gap="6px", margin=0), sizing_mode="stretch_width", margin=0,
            styles={"gap": "10px"})

    def _tabulator(self, frame: Any) -> Any:
        formatters: dict[str, Any] = {}
        for key, (_, _, kind) in COLUMNS.items():
            if kind != "text":
                formatters[key] = _FIGURES[kind]()
        table = pn.widgets.Tabulator(
            frame, hidden_columns=["id"], disabled=True, selectable="checkbox", layout="fit_data_stretch",
            titles={key: title for key, (title, _, _) in COLUMNS.items()}, formatters=formatters,
            text_align={key: "right" for key, (_, _, kind) in COLUMNS.items() if kind != "text"},
            widths={"run": 210, "markets": 140, "created": 145}, sizing_mode="stretch_width", theme="simple", margin=0,
            configuration={"columnDefaults": {"tooltip": True, "headerSortTristate": False},
                           "placeholder": "No runs fit"},
            stylesheets=[TABLE_CSS])
        table.param.watch(self._picked, "selection")
        table.param.watch(self._sorted, "sorters")
        table.on_click(self._clicked)
        return table

    def _make_sure(self, _event: Any) -> None:
        self._sure.param.update(visible=not self._sure.visible, label=f"Really delete {len(self._selected)}")

    async def load(self) -> None:
        strategies, markets = await asyncio.gather(self.client.strategies(), self.client.markets())
        for name, options in (("strategy", [entry["name"] for entry in strategies]),
                              ("market", sorted({entry["market"] for entry in markets}))):
            widget: Any = self._filters[name]
            chosen = self.query.get(name, "")
            if chosen and chosen not in options:
                options.append(chosen)
            widget.options = {"all": "", **{option: option for option in options}}
            widget.value = chosen
        await self._show()
        self.spawn(self._listen())
        self.spawn(self._refresh())

    # -- showing -------------------------------------------------------------------------------------------------

    async def _show(self) -> None:
        self._asked += 1
        asked = self._asked
        chosen = {name: widget.value for name, widget in self._filters.items()}
        page = await self.client.runs(
            text=chosen["q"], states=[chosen["state"]] if chosen["state"] else [], strategy=chosen["strategy"] or None,
            market=chosen["market"] or None, tag=chosen["tag"] or None, sort=self._sort, descending=self._descending,
            limit=SIZE, cursor=self._cursors[-1])
        if asked != self._asked:
            return  # a newer question is on its way
        self._items = {run.id: run for run in page.items}
        self._next, self._total = page.next, page.total
        self._fill()
        first = (len(self._cursors) - 1) * SIZE
        self._count.object = ('<p class="muted" role="status">'
                              + (f"{first + 1:,}–{first + len(page.items):,} of {page.total:,}" if page.items else "")
                              + "</p>")
        self._back.disabled, self._on.disabled = len(self._cursors) == 1, page.next is None
        narrowed = any(chosen.values())
        self._place.visible = bool(page.items)
        self._nothing.visible = not page.items
        self._nothing.object = '<div class="card empty">' + (
            "No run fits these filters." if narrowed else
            'Nothing has run yet. <a href="/new">Start a backtest</a>.') + "</div>"
        self._remember(chosen)

    def _fill(self) -> None:
        import pandas as pd

        rows = [row_of(run) for run in self._items.values()]
        frame = pd.DataFrame(rows, columns=["id", *COLUMNS])
        for key, (_, _, kind) in COLUMNS.items():
            if kind != "text":
                frame[key] = frame[key].astype(float)
        frame = frame.set_index("id")
        keep = [index for index, run_id in enumerate(frame.index) if run_id in self._selected]
        self._selected &= set(frame.index)
        if self._table is None:
            if rows:
                self._table = self._tabulator(frame)
                self._place[:] = [self._table]
        else:
            self._table.value = frame
            self._table.selection = keep
        self._buttons()

    def _remember(self, chosen: dict[str, str]) -> None:
        told = {name: value for name, value in chosen.items() if value}
        if self._sort != "created_at" or not self._descending:
            told |= {"sort": self._sort, "order": "desc" if self._descending else "asc"}
        self.readdress("/runs" + (f"?{urlencode(told)}" if told else ""))

    async def _listen(self) -> None:
        async for event in self.client.follow_all(prefix="run/"):
            self._heard(event)

    def _heard(self, event: Event) -> None:
        run_id = event.stream.partition("/")[2]
        if event.type == "progress" and run_id in self._items:
            self._mark(run_id, f"running {float(event.data.get('progress') or 0):.0%}")
        elif event.type == "state":
            self._changed.set()

    def _mark(self, run_id: str, text: str) -> None:
        if self._table is not None and run_id in self._table.value.index:
            self._table.patch({"state": [(run_id, text)]})

    async def _refresh(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(0.4)  # a burst of changes is one question
            self._changed.clear()
            await self._show()

    # -- acting --------------------------------------------------------------------------------------------------

    def _chosen(self) -> list[Run]:
        return [run for run_id, run in self._items.items() if run_id in self._selected]

    def _buttons(self) -> None:
        chosen = self._chosen()
        done = [run for run in chosen if run.state == "completed"]
        self._compare.disabled = len(done) < 2 or len(done) != len(chosen)
        self._compare.name = f"Compare {len(done)}" if len(done) > 1 else "Compare"
        self._open.disabled = len(chosen) != 1
        self._again.disabled = not chosen
        self._cancel.disabled = not any(run.state not in FINISHED for run in chosen)
        self._delete.disabled = not chosen or any(run.state not in FINISHED for run in chosen)
        if self._delete.disabled:
            self._sure.visible = False

    def _picked(self, event: Any) -> None:
        index = list(self._table.value.index)
        self._selected = {index[row] for row in event.new if row < len(index)}
        self._buttons()

    def _clicked(self, event: Any) -> None:
        if event.column == "run":
            self.visit(f"/run?id={self._table.value.index[event.row]}")

    @on_page
    async def _filtered(self, _event: Any) -> None:
        self._cursors = [None]
        await self._show()

    @on_page
    async def _cleared(self, _event: Any) -> None:
        for widget in self._filters.values():
            widget.value = ""

    @on_page
    async def _sorted(self, event: Any) -> None:
        if not event.new:
            return
        field, direction = event.new[0].get("field"), event.new[0].get("dir")
        key = COLUMNS.get(field, ("", "", ""))[1]
        if not key:
            raise Invalid(f"runs cannot be sorted by {field}", field=str(field))
        self._sort, self._descending, self._cursors = key, direction == "desc", [None]
        await self._show()

    @on_page
    async def _paged_on(self, _event: Any) -> None:
        if self._next is not None:
            self._cursors.append(self._next)
            await self._show()

    @on_page
    async def _paged_back(self, _event: Any) -> None:
        if len(self._cursors) > 1:
            self._cursors.pop()
            await self._show()

    @on_page
    async def _compared(self, _event: Any) -> None:
        self.visit("/compare?ids=" + ",".join(run.id for run in self._chosen()))

    @on_page
    async def _opened(self, _event: Any) -> None:
        for run in self._chosen()[:1]:
            self.visit(f"/run?id={run.id}")

    @on_page
    async def _cancelled(self, _event: Any) -> None:
        for run in self._chosen():
            if run.state not in FINISHED:
                await self.client.cancel(run.id)
        await self._show()

    @on_page
    async def _repeated(self, _event: Any) -> None:
        runs = [await self.client.rerun(run.id) for run in self._chosen()]
        links = ", ".join(f'<a href="/run?id={html.escape(run.id)}">{html.escape(cards.title_of(run))}</a>'
                          for run in runs)
        self.say(f"Queued again: {links}", raw=True)
        self._cursors = [None]
        await self._show()

    @on_page
    async def _deleted(self, _event: Any) -> None:
        self._sure.visible = False
        gone = self._chosen()
        for run in gone:
            await self.client.delete(run.id)
        self.say(f"Deleted {len(gone)} run{'s' if len(gone) != 1 else ''}.")
        self._selected.clear()
        await self._show()


def _percent() -> Any:
    from bokeh.models.widgets.tables import NumberFormatter

    return NumberFormatter(format="0,0.0 %", nan_format="—")


def _ratio() -> Any:
    from bokeh.models.widgets.tables import NumberFormatter

    return NumberFormatter(format="0,0.00", nan_format="—")


def _count() -> Any:
    from bokeh.models.widgets.tables import NumberFormatter

    return NumberFormatter(format="0,0", nan_format="—")


_FIGURES: Final = {"percent": _percent, "ratio": _ratio, "count": _count}
