"""Detectors: what they do, what they would have given (a backtest before they are switched on), and the switches."""

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine import times
from engine.alerts import INSTRUMENTS
from engine.errors import Invalid, WorkbenchError
from engine.model import FINISHED
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.alerts_history import _day, box, grid
from workbench.views.alerts_statistics import figures_table, report_tiles
from workbench.views.base import PageView, explained, markup
from workbench.views.live_rows import LiveRows, Row
from workbench.views.new_backtest import Field, parameter_field

__all__ = ["Detectors"]

EVERY: Final = 5.0
"""Seconds between two looks at what is switched on."""
STATES: Final[Mapping[str, tuple[str, str]]] = {"on": ("on", "good"), "paused": ("paused", "idle"),
                                                "off": ("off", "unknown")}
SWITCHES: Final = [
    {"key": "market", "title": "Market", "kind": "text"}, {"key": "detector", "title": "Detector", "kind": "text"},
    {"key": "state", "title": "State", "kind": "state"}, {"key": "bar", "title": "Bars of", "kind": "text"},
    {"key": "instrument", "title": "Instrument", "kind": "text"},
    {"key": "seen", "title": "Last candle", "kind": "time"},
    {"key": "late", "title": "Late", "kind": "number", "digits": 0},
    {"key": "alert", "title": "Open alert", "kind": "link"}]
FOUND: Final = [
    {"key": "at", "title": "Detected (UTC)", "kind": "time"}, {"key": "market", "title": "Market", "kind": "text"},
    {"key": "side", "title": "Side", "kind": "side"}, {"key": "state", "title": "State", "kind": "state"},
    {"key": "start", "title": "Start", "kind": "number"}, {"key": "target", "title": "Target", "kind": "number"},
    {"key": "stop", "title": "Stop", "kind": "number"}, {"key": "exit", "title": "Exit", "kind": "number"},
    {"key": "r", "title": "R", "kind": "money"}, {"key": "end", "title": "Ended by", "kind": "text"}]


class Detectors:
    """The third tab. `view` is its layout."""

    def __init__(self, page: PageView, client: AsyncClient, look: Style) -> None:
        self._page, self._client = page, client
        self._known: dict[str, dict[str, Any]] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        self._fields: dict[str, Field] = {}
        self._shown = ""
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self.detector = pn.widgets.Select(label="Detector", options=[], **wide)
        self.detector.param.watch(self._chosen, "value")
        self._about = markup("")
        self._parameters = grid(least=200)
        self.markets = Field("markets", pn.widgets.MultiChoice(
            label="Markets", options=[], placeholder="type to search", **wide))
        self.start = Field("start", pn.widgets.DatePicker(label="Start", **wide), "empty: the first candle")
        self.end = Field("end", pn.widgets.DatePicker(label="End", **wide), "empty: the last candle")
        self.bar = Field("bar", pn.widgets.Select(label="Bars of", options={"the detector's own": ""}, **wide),
                         "gathered from the finest candles")
        self.instrument = Field("instrument", pn.widgets.Select(label="Instrument", options={
            "told by the market's name": "", **{name.lower(): name for name in INSTRUMENTS}}, **wide),
            "of its alerts, once it is on")
        self._go = pn.widgets.Button(label="Backtest", button_type="primary", width=130, margin=0)
        self._on = pn.widgets.Button(label="Switch on", width=110, margin=0)
        self._pause = pn.widgets.Button(label="Pause", width=90, margin=0)
        self._off = pn.widgets.Button(label="Switch off", width=110, margin=0)
        self._forget = pn.widgets.Button(label="Forget", width=90, margin=0)
        self._go.on_click(self._backtested)
        for button, state in ((self._on, "on"), (self._pause, "paused"), (self._off, "off"), (self._forget, "")):
            button.on_click(self._switcher(state))
        self._status = markup("")
        self._report = pn.Column(sizing_mode="stretch_width", margin=0, visible=False, styles={"gap": "12px"})
        self._figures, self._title = markup(""), markup("")
        self._found = LiveRows(look, columns=FOUND, caption="Alerts of the backtest", page=50, most=2000,
                               sortable=True, placeholder="It would have given no alert.")
        self.switches = LiveRows(look, columns=SWITCHES, caption="Detection", page=50, most=20_000, sortable=True,
                                 picks=True, asked=self._asked, placeholder="Nothing is switched on yet.",
                                 searchable="Search markets and detectors")
        self._report[:] = [box(self._title, self._figures), box(markup("<h2>Its alerts</h2>"), self._found)]
        self.view = pn.Column(
            box(markup("<h2>Detector</h2>"), self.detector, self._about, self._parameters,
                grid(*(field.view for field in (self.markets, self.start, self.end, self.bar, self.instrument)),
                     least=190),
                self._status,
                pn.FlexBox(self._go, self._on, self._pause, self._off, self._forget, gap="8px", margin=0)),
            self._report,
            box(markup('<h2>Switched on, and what was</h2><p class="muted">Choose a row to take its settings into the '
                       "form above.</p>"), self.switches),
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        """Detectors, markets, switches."""
        self._known = {entry["key"]: entry for entry in await self._client.detectors()}
        markets = sorted({entry["market"] for entry in await self._client.markets()})
        self.markets.widget.options = markets
        self.bar.widget.options = {"the detector's own": "", **{name: name for name in (
            "1m", "5m", "15m", "30m", "1h", "4h", "1d")}}
        self.detector.options = {entry["title"]: key for key, entry in self._known.items()}
        self.detector.value = next(iter(self._known), None)
        self._show_detector()
        for button in (self._go, self._on, self._pause, self._off, self._forget):
            button.disabled = not markets
        if not markets:
            self._status.object = ('<div class="card">There are no candles to detect in yet. '
                                   '<a href="/markets">Import some</a> first.</div>')
        await self.read()

    async def read(self) -> None:
        """What is switched on."""
        settings = {f"{entry['market']} {entry['detector']}": entry for entry in await self._client.detections()}
        if settings != self._settings:
            self._settings = settings
            self.switches.reset(self._row(key, entry) for key, entry in settings.items())

    def _row(self, key: str, entry: Mapping[str, Any]) -> Row:
        position = entry["position"]
        return {"id": key, "market": entry["market"], "detector": entry["detector"],
                "state": list(STATES.get(entry["state"], (entry["state"], "unknown"))), "state_by": entry["state"],
                "bar": entry["bar"], "instrument": entry["instrument"].lower(), "late": entry["late"],
                "seen": None if position is None else times.micros(times.parse(position)) / 1000,
                "alert": "" if entry["alert_id"] is None else f"#{entry['alert_id']}",
                "href": f"/alerts?id={entry['alert_id']}", "find": key}

    # -- the form ------------------------------------------------------------------------------------------------

    def _chosen(self, _event: Any) -> None:
        self._show_detector()

    def _show_detector(self, params: Mapping[str, Any] | None = None) -> None:
        entry = self._known.get(str(self.detector.value))
        if entry is None or (self._shown == entry["key"] and params is None):
            return  # the browser echoes a choice; what was typed since then must stay
        self._shown = entry["key"]
        sources = "".join(f"<li>{escape(source)}</li>" for source in entry["sources"])
        self._about.object = (f'<p>{escape(entry["doc"])}</p><p class="muted">{escape(entry["duration"])}, bars of '
                              f'{escape(entry["bar"])}</p><details><summary>Where it is from</summary><ul>{sources}'
                              "</ul></details>")
        given = params or {}
        self._fields = {one["name"]: parameter_field(one, given.get(one["name"])) for one in entry["parameters"]}
        self._parameters[:] = [field.view for field in self._fields.values()]

    def _params(self) -> dict[str, Any]:
        return {name: field.widget.value for name, field in self._fields.items()}

    def _clear(self) -> list[str]:
        """Take complaints away; the chosen markets."""
        self._page.quiet()
        self._status.object = ""
        for field in (*self._fields.values(), self.markets, self.start, self.end, self.bar, self.instrument):
            field.clear()
        return [str(market) for market in self.markets.widget.value]

    def _spread(self, error: WorkbenchError) -> None:
        """Each problem next to its field, the others below the form."""
        fields = {field.name: field for field in (self.markets, self.start, self.end, self.bar, self.instrument)}
        fields |= {name: field for field in self._fields.values() for name in (field.name,
                                                                               field.name.removeprefix("params."))}
        fields["fill_options.bar"] = fields["resolution"] = self.bar
        placed = 0
        for problem in error.problems:
            path = problem.field.removeprefix("body.")
            field = fields.get(path) or fields.get(path.split(".")[0])
            if field is not None:
                field.complain(problem.message + (f" – {problem.remedy}" if problem.remedy else ""))
                placed += 1
        if placed < len(error.problems):
            self._status.object = f'<div class="error" role="alert">{explained(error)}</div>'

    async def _backtested(self, _event: Any) -> None:
        markets = self._clear()
        if not markets:
            self.markets.complain("choose at least one")
            return
        self._go.disabled = True
        try:
            await self._page.guarded(self._backtest(markets))
        finally:
            self._go.disabled = False

    async def _backtest(self, markets: list[str]) -> None:
        key = str(self.detector.value)
        try:
            run = await self._client.submit_detector(
                key, markets, params=self._params(), bar=self.bar.widget.value or None,
                start=_day(self.start.widget.value), end=_day(self.end.widget.value, last=True))
            await self._wait(run.id)
            run = await self._client.run(run.id)
            if run.state != "completed":
                self._status.object = (f'<div class="error" role="alert">The <a href="/run?id={escape(run.id)}">'
                                       f"backtest</a> is {escape(run.state)}. {escape(run.error or '')}</div>")
                return
            report = await self._client.detector_report(run.id)
        except WorkbenchError as error:
            self._spread(error)
            return
        self._status.object = ""
        self._show_report(run.id, markets, report)

    async def _wait(self, run_id: str) -> None:
        self._status.object = '<p role="status">Queued …</p>'
        async for event in self._client.follow(run_id):
            if event.type == "progress":
                done = float(event.data.get("progress") or 0.0)
                self._status.object = (
                    f'<div role="status"><div class="head"><span>{escape(str(event.data.get("message") or ""))}</span>'
                    f'<b>{done:.0%}</b></div><div class="bar"><i style="width:{done:.0%}"></i></div></div>')
            elif event.type == "state" and event.data.get("state") in FINISHED:
                break

    def _show_report(self, run_id: str, markets: list[str], report: Mapping[str, Any]) -> None:
        told = report["statistics"]
        places = ", ".join(markets[:6]) + (f" and {len(markets) - 6} more" if len(markets) > 6 else "")
        self._title.object = (
            f'<div class="head"><h2>{escape(self._known[report["detector"]]["title"])} on {escape(places)}</h2>'
            f'<a href="/run?id={escape(run_id)}">Report of the portfolio</a></div>')
        self._figures.object = report_tiles(told["all"]) + '<div style="height:10px"></div>' + figures_table(told)
        self._found.reset(_alert_row(number, alert) for number, alert in enumerate(report["alerts"]))
        if report["total"] > len(report["alerts"]):
            self._found.note(f"the first {len(report['alerts']):,} of {report['total']:,}")
        self._report.visible = True

    # -- switches ------------------------------------------------------------------------------------------------

    def _switcher(self, state: str) -> Any:
        async def switched(_event: Any) -> None:
            markets = self._clear()
            if not markets:
                self.markets.complain("choose at least one")
                return
            await self._page.guarded(self._switch(markets, state))

        return switched

    async def _switch(self, markets: list[str], state: str) -> None:
        key = str(self.detector.value)
        try:
            for market in markets:
                if not state:
                    await self._client.forget_detection(market, key)
                    continue
                told: dict[str, Any] = {"params": self._params(), "bar": self.bar.widget.value or None,
                        "instrument": self.instrument.widget.value or None} if state == "on" else {}
                await self._client.switch_detection(market, key, state, **told)
        except Invalid as error:
            self._spread(error)
        else:
            words = STATES[state][0] if state else "forgotten"
            self._status.object = (f'<div class="good" role="status">{escape(key)} is {words} for '
                                   f"{escape(', '.join(markets))}.</div>")
        finally:
            await self.read()

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        entry = self._settings.get(str(data.get("id")))
        if name != "pick" or entry is None:
            return
        self._clear()
        self.markets.widget.value = [entry["market"]] if entry["market"] in self.markets.widget.options else []
        self._shown = entry["detector"]  # its own parameters follow below, not the defaults
        self.detector.value = entry["detector"]
        self._show_detector(entry["params"])
        self.bar.widget.value = entry["bar"] if entry["bar"] in self.bar.widget.options.values() else ""
        self.instrument.widget.value = entry["instrument"]


def _alert_row(number: int, alert: Mapping[str, Any]) -> Row:
    from workbench.views.alerts_cards import STATES as LIVES

    word, tone = LIVES.get(alert["state"], (alert["state"], "unknown"))
    if alert["state"] == "closed" and (alert["gain"] or 0) <= 0:
        tone = "bad"
    return {"id": str(number), "at": times.micros(times.parse(alert["detected_at"])) / 1000, "market": alert["symbol"],
            "side": alert["direction"].lower(), "state": [word, tone], "state_by": alert["state"],
            "start": alert["start"], "target": alert["target"], "stop": alert["stop"], "exit": alert["exit"],
            "r": alert["r"], "end": alert["end"], "detail": {
                "why": alert["reason"], "started": alert["started_at"] or "–", "ended": alert["ended_at"] or "–"}}
