"""Every alert there was: found by what it is, counted, and one of them on its chart."""

from datetime import UTC, date, datetime
from typing import Any, Final

import panel as pn

from engine import times
from engine.alerts import INSTRUMENTS, STATES
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.alerts_cards import AlertCards, Prices
from workbench.views.alerts_open import COLUMNS, RESULT, alert_rows, row_of
from workbench.views.alerts_statistics import gathered, table_of
from workbench.views.base import PageView, markup

__all__ = ["History", "box", "grid"]

PART: Final = 100
"""Alerts that are read at once."""
OUTCOMES: Final = {"any": "", "working": "working", "on going": "onGoing", "closed": "closed", "won": "won",
                   "lost": "lost", "aborted": "aborted"}
BOX: Final = {"background": "var(--wb-surface)", "border": "1px solid var(--wb-border)", "border-radius": "10px",
              "padding": "14px 16px"}
GRID: Final = """
:host { display: grid !important; grid-template-columns: repeat(auto-fill, minmax(min(LEAST, 100%), 1fr));
  gap: 8px 12px; align-items: end; }
:host > * { width: auto !important; min-width: 0; }
"""


def grid(*parts: Any, least: int = 150) -> pn.Column:
    """Fields side by side where there is room."""
    return pn.Column(*parts, sizing_mode="stretch_width", margin=0,
                     stylesheets=[GRID.replace("LEAST", f"{least}px")])


def box(*parts: Any, gap: str = "10px") -> pn.Column:
    """A card."""
    return pn.Column(*parts, sizing_mode="stretch_width", margin=0, styles={**BOX, "gap": gap})


class History:
    """The second tab. `view` is its layout; `page` shows what goes wrong."""

    def __init__(self, page: PageView, client: AsyncClient, look: Style) -> None:
        self._page, self._client = page, client
        self._prices = Prices(client)
        self._count = 0
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self.ticker = pn.widgets.TextInput(label="Ticker", placeholder="any part of it", **wide)
        self.detector = pn.widgets.Select(label="Detector", options={"any": ""}, **wide)
        self.instrument = pn.widgets.Select(label="Instrument", options={
            "any": "", **{name.lower(): name for name in INSTRUMENTS}}, **wide)
        self.direction = pn.widgets.Select(label="Direction", options={"any": "", "buy": "BUY", "sell": "SELL"}, **wide)
        self.outcome = pn.widgets.Select(label="State", options=OUTCOMES, **wide)
        self.since = pn.widgets.DatePicker(label="Detected from", **wide)
        self.until = pn.widgets.DatePicker(label="until", **wide)
        self._clear = pn.widgets.Button(label="Clear filters", width=110, margin=(20, 0, 0, 0))  # beside the inputs
        self._filters = (self.ticker, self.detector, self.instrument, self.direction, self.outcome, self.since,
                         self.until)
        for widget in self._filters:
            widget.param.watch(self._changed, "value")
        self._clear.on_click(self._cleared)
        self._statistics = markup("")
        self._found = markup("")
        self.table = alert_rows(look, columns=[*COLUMNS[:9], *RESULT, {**COLUMNS[9], "kind": "time"}], most=20_000,
                              caption="Alerts", placeholder="No alerts yet.", asks=True, page=PART, picks=True,
                              asked=self._asked)
        self._chart = AlertCards(look, large=True, caption="The chosen alert", visible=False)
        self.view = pn.Column(
            box(grid(*self._filters, self._clear, least=140)),
            box(markup("<h2>By detector and instrument</h2>"), self._statistics), self._chart,
            box(self._found, self.table), sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})
        self._quiet = False

    async def load(self) -> None:
        """The newest alerts, and the names to choose from."""
        detectors = await self._client.detectors()
        self._quiet = True
        self.detector.options = {"any": "", **{entry["title"]: entry["key"] for entry in detectors}}
        self._quiet = False
        await self._prices.look()
        await self.read()

    def chosen(self) -> dict[str, Any]:
        """The filters as the client takes them."""
        outcome = str(self.outcome.value)
        words: dict[str, Any] = {
            "ticker": str(self.ticker.value or "").strip(), "detector": self.detector.value,
            "instruments": self.instrument.value, "direction": self.direction.value,
            "since": _day(self.since.value), "until": _day(self.until.value, last=True)}
        if outcome in STATES:
            words["states"] = outcome
        elif outcome:
            words |= {"states": "closed", "won": outcome == "won"}
        return words

    async def read(self) -> None:
        """The first part of what fits, and its figures."""
        filters = self.chosen()
        page = await self._client.alerts(limit=PART, **filters)
        self._count = len(page.items)
        self.table.reset((row_of(alert) for alert in page.items), more=self._count < page.total)
        self._found.object = (f'<h2 role="status">{page.total:,} alert{"" if page.total == 1 else "s"}'
                              f"{' fit' if any(filters.values()) else ''}</h2>")
        self._statistics.object = table_of(gathered(await self._client.alert_statistics(**filters)))

    def _changed(self, _event: Any) -> None:
        if not self._quiet:
            pn.state.execute(self._again)

    async def _again(self) -> None:
        self._page.quiet()
        await self._page.guarded(self.read())

    async def _cleared(self, _event: Any) -> None:
        self._quiet = True
        for widget in self._filters:
            widget.value = None if widget in (self.since, self.until) else ""
        self._quiet = False
        await self._again()

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        await self._page.guarded(self._further() if name == "more" else self.show(int(data["id"])))

    async def _further(self) -> None:
        page = await self._client.alerts(limit=PART, offset=self._count, **self.chosen())
        self._count += len(page.items)
        self.table.older([row_of(alert) for alert in page.items], more=self._count < page.total and bool(page.items))

    async def show(self, id: int) -> None:
        """One alert on its chart."""
        alert = await self._client.alert(id)
        self._chart.visible = True
        self._chart.reset(await self._prices.cards([alert]))
        self.table.pick(str(id))


def _day(value: date | None, *, last: bool = False) -> str | None:
    if value is None:
        return None
    clock = (23, 59, 59, 999999) if last else (0, 0, 0, 0)
    return times.iso(datetime(value.year, value.month, value.day, *clock, tzinfo=UTC))
