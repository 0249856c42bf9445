"""A form for a backtest, made from the strategies' own descriptions; the server's findings stand next to the fields."""

import asyncio
import html
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import panel as pn

from engine import times
from engine.errors import WorkbenchError
from workbench import requests
from workbench.views import form_values
from workbench.views.base import PageView, explained, markup, on_page

PRESETS: Final[dict[str, dict[str, float]]] = {
    "no costs": {"fee_rate": 0.0, "slippage": 0.0, "fixed_fee": 0.0},
    "share broker": {"fee_rate": 0.0005, "slippage": 0.0002, "fixed_fee": 1.0},
    "crypto exchange": {"fee_rate": 0.001, "slippage": 0.0005, "fixed_fee": 0.0},
}
RESOLUTIONS: Final = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "7d")


class Field:
    """A widget with room for what is wrong with it. `name` is the field in the server's answers."""

    def __init__(self, name: str, widget: Any, doc: str = "") -> None:
        self.name = name
        self.widget = widget
        self._wrong = markup("", visible=False)
        hint = [markup(f'<div class="muted" style="font-size:12px">{html.escape(doc)}</div>')] if doc else []
        self.view = pn.Column(widget, *hint, self._wrong, sizing_mode="stretch_width", margin=0)

    def complain(self, text: str) -> None:
        """Show what is wrong below the widget."""
        self._wrong.object = f'<div role="alert" class="loss" style="font-size:12px">{html.escape(text)}</div>'
        self._wrong.visible = True

    def clear(self) -> None:
        """Take the complaint away."""
        self._wrong.visible = False


def parameter_field(parameter: Mapping[str, Any], value: Any = None) -> Field:
    """The field of one strategy parameter: bounds in the widget, documentation below it."""
    name, kind = str(parameter["name"]), str(parameter.get("type", "float"))
    start = parameter.get("default") if value is None else value
    low, high, step = parameter.get("low"), parameter.get("high"), parameter.get("step")
    wide: dict[str, Any] = {"name": name, "sizing_mode": "stretch_width", "margin": (0, 0, 0, 0)}
    if kind == "bool":
        widget: Any = pn.widgets.Checkbox(value=bool(start), **wide)
    elif kind == "choice":
        widget = pn.widgets.Select(options=list(parameter.get("choices") or []), value=start, **wide)
    elif kind == "int":
        # Bounds are told, not forced: the server's word counts, and a clamped typo would be a silent lie.
        widget = pn.widgets.IntInput(value=int(start or 0), step=int(step or 1), **wide)
    else:
        widget = pn.widgets.FloatInput(value=float(start or 0), step=float(step or 0.1), **wide)
    bounds = f" ({low:g} to {high:g})" if low is not None and high is not None and kind in ("int", "float") else ""
    return Field(f"params.{name}", widget, str(parameter.get("doc") or "") + bounds)


def numbers(text: str, *, whole: bool) -> list[float | int]:
    """The values of "5, 10, 20" or "10:50:5" (first:last:step, last included). Raises `ValueError`."""
    found: list[float | int] = []
    for part in text.replace(";", ",").split(","):
        if ":" in part:
            low, high, step = ([float(piece) for piece in part.split(":")] + [1.0])[:3]
            if step <= 0 or high < low:
                raise ValueError(part)
            count = int((high - low) / step + 1e-9) + 1
            if count > 10_000:
                raise ValueError(part)
            found.extend(low + step * index for index in range(count))
        elif part.strip():
            found.append(float(part))
    return [int(value) if whole else value for value in found]


class NewBacktest(PageView):
    """`/new`: one backtest, or a sweep over parameters."""

    def build(self) -> Any:
        self._strategies: dict[str, dict[str, Any]] = {}
        self._shown = ""
        self._parameters: dict[str, Field] = {}
        self._swept: dict[str, Field] = {}
        self._fields: dict[str, Field] = {}
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}

        def add(name: str, widget: Any, doc: str = "") -> Field:
            field = self._fields[name] = Field(name, widget, doc)
            return field

        add("strategy", pn.widgets.Select(name="Strategy", options=[], **wide))
        add("markets", pn.widgets.MultiChoice(name="Markets", options=[], placeholder="type to search", **wide),
            "several markets share one portfolio and its cash").view.styles = {"grid-column": "1 / -1"}
        add("resolution", pn.widgets.Select(name="Bars of", options=list(RESOLUTIONS), value="1d", **wide))
        add("start", pn.widgets.DatePicker(name="Start", **wide), "empty: the first bar")
        add("end", pn.widgets.DatePicker(name="End", **wide), "empty: the last bar")
        add("cash", pn.widgets.FloatInput(name="Cash", value=100_000.0, step=1000, **wide))
        add("currency", pn.widgets.TextInput(name="Currency", value="USD", **wide))
        add("direction", pn.widgets.Select(name="Direction", options=["long", "short", "both"], **wide))
        add("sizing.kind", pn.widgets.Select(name="Position size is a", options={
            "fraction of equity": "fraction", "amount of cash": "cash", "number of units": "units"}, **wide))
        add("sizing.value", pn.widgets.FloatInput(name="Position size", value=1.0, step=0.05, **wide))
        add("preset", pn.widgets.Select(name="Cost preset", options=["choose …", *PRESETS], **wide))
        fine: dict[str, Any] = {"step": 0.0001, "format": "0.[000000]", **wide}
        add("costs.fee_rate", pn.widgets.FloatInput(name="Fee rate", value=0.001, **fine),
            "fraction of the traded value: 0.001 is 0.1 %")
        add("costs.slippage", pn.widgets.FloatInput(name="Slippage", value=0.0005, **fine),
            "fraction of the price, against you")
        add("costs.fixed_fee", pn.widgets.FloatInput(name="Fixed fee", value=0.0, step=0.5, **wide),
            "currency for each fill")
        add("benchmark", pn.widgets.Select(name="Benchmark", options={"the markets themselves, held": ""}, **wide))
        add("data_mode", pn.widgets.Select(name="Data with holes", options={
            "warn and go on": "warn", "refuse to run": "fail"}, **wide))
        add("seed", pn.widgets.IntInput(name="Seed", value=0, **wide))
        add("name", pn.widgets.TextInput(name="Name", placeholder="how to find it again", **wide))
        add("tags", pn.widgets.TextInput(name="Tags", placeholder="separated by commas", **wide))
        self["strategy"].param.watch(self._strategy_chosen, "value")
        self["preset"].param.watch(self._preset_chosen, "value")
        self["markets"].param.watch(self._markets_chosen, "value")
        self._about = markup("")
        self._parameter_box = pn.Column(sizing_mode="stretch_width", margin=0, styles={"gap": "10px"})
        self._go = pn.widgets.Button(name="Run backtest", button_type="primary", width=160, margin=0, disabled=True)
        self._go.on_click(self._submitted)
        self._status = markup("")
        self._sweep_go = pn.widgets.Button(name="Start sweep", button_type="primary", width=160, margin=0,
                                           disabled=True)
        self._sweep_go.on_click(self._sweep_submitted)
        self._sweep_box = pn.Column(sizing_mode="stretch_width", margin=0, styles={"gap": "10px"})
        self._objective = Field("objective", pn.widgets.Select(name="Objective", options=["sharpe"], **wide))
        methods = ["grid", "random", "bayesian"]
        self._method = Field("method", pn.widgets.Select(name="Method", options=methods, **wide))
        self._trials = Field("max_trials", pn.widgets.IntInput(name="Most trials", value=200, start=1, **wide))
        judged = {"the same data": "none", "data kept aside (holdout)": "holdout",
                  "later windows (walk-forward)": "walk_forward"}
        self._validation = Field("validation", pn.widgets.Select(name="Judge on", options=judged, **wide))
        return self._layout()

    def __getitem__(self, name: str) -> Any:
        return self._fields[name].widget

    def _layout(self) -> Any:
        def group(title: str, *names: str, least: int = 150) -> Any:
            grid = pn.Column(*(self._fields[name].view for name in names), sizing_mode="stretch_width", margin=0,
                             stylesheets=[_GRID.replace("LEAST", f"{least}px")])
            return pn.Column(markup(f"<h2>{title}</h2>"), grid, sizing_mode="stretch_width", margin=0, styles=_CARD)

        what = pn.Column(markup("<h2>Strategy</h2>"), self._fields["strategy"].view, self._about, self._parameter_box,
                         sizing_mode="stretch_width", margin=0, styles={**_CARD, "gap": "10px"})
        rest = pn.Column(
            group("Data", "markets", "resolution", "start", "end"),
            group("Capital and rules", "cash", "currency", "direction", "sizing.kind", "sizing.value"),
            group("Costs", "preset", "costs.fee_rate", "costs.slippage", "costs.fixed_fee"),
            group("Record", "name", "tags", "benchmark", "data_mode", "seed"),
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})
        single = pn.Column(self._status, self._go, sizing_mode="stretch_width", margin=(12, 0), styles={"gap": "8px"})
        sweep = pn.Column(
            markup('<p class="muted">Give several values for at least one parameter: <code>5, 10, 20</code> or '
                   '<code>10:50:5</code> (first:last:step). Everything else is taken from the form above.</p>'),
            self._sweep_box, pn.FlexBox(*(_cell(field.view, 160) for field in (
                self._objective, self._method, self._trials, self._validation)), gap="10px 14px", margin=0),
            self._sweep_go, sizing_mode="stretch_width", margin=(12, 0), styles={"gap": "10px"})
        self._tabs = pn.Tabs(("One backtest", single), ("Sweep over parameters", sweep), dynamic=True,
                             sizing_mode="stretch_width", margin=0)
        return pn.Column(
            markup('<h1>New backtest</h1>'),
            pn.FlexBox(_cell(what, 300, grow=1), _cell(rest, 420, grow=2), gap="12px", sizing_mode="stretch_width",
                       margin=0, align_items="flex-start"),
            self._tabs,
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        strategies, markets, metrics = await asyncio.gather(
            self.client.strategies(), self.client.markets(), self.client.metrics())
        self._strategies = {entry["name"]: entry for entry in strategies}
        keys = sorted({entry["market"] for entry in markets})
        self._finest = {entry["market"]: entry["resolution"] for entry in reversed(markets)}
        self["markets"].options = keys
        asked = [key for key in self.query.get("market", "").split(",") if key in keys]
        self["markets"].value = asked or keys[:1]
        self["benchmark"].options = {"the markets themselves, held": "", **{key: key for key in keys}}
        self._objective.widget.options = [entry["key"] for entry in metrics if entry.get("better")] or ["sharpe"]
        self._objective.widget.value = "sharpe"
        earlier = form_values.asked(await self.client.run(self.query["run"])) if self.query.get("run") else {}
        wanted = earlier.get("strategy") or self.query.get("strategy", "sma_cross")
        chosen = wanted if wanted in self._strategies else next(iter(self._strategies), None)
        self["strategy"].param.update(options={entry["title"]: entry["name"] for entry in strategies}, value=chosen)
        self._show_strategy()
        self._go.disabled = self._sweep_go.disabled = not keys
        if not keys:
            self._status.object = ('<div class="card">There are no candles to test on yet. '
                                   '<a href="/markets">Import some</a> first.</div>')
        if earlier:
            self._take(earlier)

    def _take(self, earlier: Mapping[str, Any]) -> None:
        """Begin with what an earlier run was asked; what is no longer here is said."""
        gone = [market for market in earlier["markets"] if market not in self["markets"].options]
        if earlier["strategy"] not in self._strategies:
            gone.append(earlier["strategy"])
        if gone:
            self.say(f"Not here any more: {', '.join(gone)}. Choose something else.", good=False)
        self["markets"].value = [market for market in earlier["markets"] if market not in gone]
        self["resolution"].options = list(dict.fromkeys((*RESOLUTIONS, earlier.get("resolution", RESOLUTIONS[0]))))
        if earlier["benchmark"] not in self["benchmark"].options.values():
            earlier = {**earlier, "benchmark": ""}
        for name in self._fields.keys() & earlier.keys() - {"strategy", "markets"}:
            self[name].value = earlier[name]
        for fields, values in ((self._parameters, earlier["params"]), (self._swept, earlier["swept"])):
            for name, value in values.items():
                if name in fields:
                    widget = fields[name].widget
                    widget.value = type(widget.value)(value) if isinstance(widget.value, int | float) else value
        for field in (self._objective, self._method, self._trials, self._validation):
            if field.name in earlier:
                field.widget.value = earlier[field.name]
        self._tabs.active = 1 if earlier["swept"] else 0

    # -- the form ------------------------------------------------------------------------------------------------

    def _strategy_chosen(self, _event: Any) -> None:
        self._show_strategy()

    def _show_strategy(self) -> None:
        entry = self._strategies.get(self["strategy"].value)
        if entry is None or self._shown == entry["name"]:
            return  # the browser echoes a choice; what was typed since then must stay
        self._shown = entry["name"]
        self._about.object = f'<p class="muted">{html.escape(str(entry.get("doc") or ""))}</p>'
        parameters: Sequence[Mapping[str, Any]] = entry.get("parameters") or ()
        self._parameters = {str(one["name"]): parameter_field(one) for one in parameters}
        shown: list[Any] = [field.view for field in self._parameters.values()] or [
            markup('<p class="muted">This strategy has no parameters.</p>')]
        self._parameter_box[:] = shown
        self._swept = {str(one["name"]): Field(f"parameters.{one['name']}", pn.widgets.TextInput(
            name=str(one["name"]), placeholder=f"fixed at the value above, or e.g. {_example(one)}",
            sizing_mode="stretch_width", margin=0)) for one in parameters if one.get("type") in ("int", "float")}
        self._sweep_box[:] = [pn.FlexBox(*(_cell(field.view, 240) for field in self._swept.values()), gap="10px 14px",
                                         margin=0)]

    def _preset_chosen(self, event: Any) -> None:
        for name, value in PRESETS.get(event.new, {}).items():
            self[f"costs.{name}"].value = value

    def _markets_chosen(self, event: Any) -> None:
        """Bars of the chosen market's own size are the likely wish."""
        if len(event.new) == 1 and not event.old:
            stored = str(getattr(self, "_finest", {}).get(event.new[0], ""))
            if stored in RESOLUTIONS:
                self["resolution"].value = stored

    def body(self) -> dict[str, Any]:
        """The JSON of what the form says."""
        body = requests.backtest_body(
            self["strategy"].value or "", markets=list(self["markets"].value) or None,
            params={name: field.widget.value for name, field in self._parameters.items()},
            resolution=self["resolution"].value, start=_day(self["start"].value),
            end=_day(self["end"].value, last=True), cash=self["cash"].value, currency=self["currency"].value,
            direction=self["direction"].value,
            sizing={"kind": self["sizing.kind"].value, "value": self["sizing.value"].value},
            costs={name: self[f"costs.{name}"].value for name in ("fee_rate", "slippage", "fixed_fee")},
            data_mode=self["data_mode"].value, seed=self["seed"].value)
        if self["benchmark"].value:
            body["benchmark"] = self["benchmark"].value
        return body

    @property
    def _tags(self) -> list[str]:
        return [tag.strip() for tag in self["tags"].value.split(",") if tag.strip()]

    @on_page
    async def _submitted(self, _event: Any) -> None:
        self._clear()
        self._go.disabled = True
        try:
            run = await self.client.submit(self.body(), name=self["name"].value, tags=self._tags)
        except WorkbenchError as error:
            self._status.object = self._spread(error)
        else:
            self._status.object = '<div class="good" role="status">Queued. Opening its page …</div>'
            self.visit(f"/run?id={run.id}")
        finally:
            self._go.disabled = False

    @on_page
    async def _sweep_submitted(self, _event: Any) -> None:
        self._clear()
        grid: dict[str, list[float | int]] = {}
        for name, field in self._swept.items():
            if field.widget.value.strip():
                whole = isinstance(self._parameters[name].widget.value, int)
                try:
                    grid[name] = numbers(field.widget.value, whole=whole)
                except ValueError:
                    field.complain("write 5, 10, 20 or 10:50:5")
                    return
        if not grid:
            self.say("Give several values for at least one parameter.", good=False)
            return
        base = self.body()
        params = {name: value for name, value in base.pop("params").items() if name not in grid}
        markets, strategy = base.pop("markets"), base.pop("strategy")
        try:
            run = await self.client.submit_sweep(
                strategy, markets=markets, grid=grid, method=self._method.widget.value, params=params,
                max_trials=self._trials.widget.value, objective=self._objective.widget.value,
                validation={"mode": self._validation.widget.value}, name=self["name"].value, **base)
        except WorkbenchError as error:
            self.say(self._spread(error), good=False, raw=True)
        else:
            self.visit(f"/run?id={run.id}")

    def _clear(self) -> None:
        self._status.object = ""
        for field in (*self._fields.values(), *self._parameters.values(), *self._swept.values()):
            field.clear()

    def _spread(self, error: WorkbenchError) -> str:
        """Put each problem next to its field; what has no field comes back as HTML for the foot of the form."""
        fields = {**self._fields, **{field.name: field for field in self._parameters.values()},
                  **{name: field for name, field in self._parameters.items() if name not in self._fields}}
        placed = 0
        for problem in error.problems:
            path = problem.field.removeprefix("base.").removeprefix("spec.")
            field = next((fields[name] for name in _paths(path) if name in fields), None)
            if field is not None:
                field.complain(problem.message + (f" – {problem.remedy}" if problem.remedy else ""))
                placed += 1
        count = len(error.problems)
        intro = f"{count} thing{'s' if count != 1 else ''} to correct" + (" above." if placed == count else ":")
        return f'<div class="error" role="alert"><b>{intro}</b>{"" if placed == count else explained(error)}</div>'


_GRID: Final = """
:host { display: grid !important; grid-template-columns: repeat(auto-fill, minmax(min(LEAST, 100%), 1fr));
  gap: 10px 14px; align-items: start; }
:host > * { width: auto !important; min-width: 0; }
"""
_CARD: Final = {"background": "var(--wb-surface)", "border": "1px solid var(--wb-border)", "border-radius": "10px",
                "padding": "14px 16px"}


def _cell(view: Any, least: int, grow: int = 1) -> Any:
    view.styles = {**(view.styles or {}), "flex": f"{grow} 1 {least}px", "min-width": f"min({least}px, 100%)"}
    return view


def _paths(path: str) -> list[str]:
    """`markets.0` may be said of `markets`, `costs.fee_rate` of itself."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _day(value: date | None, *, last: bool = False) -> str | None:
    """A picked day as an instant: its first, or its last second."""
    if value is None:
        return None
    clock = (23, 59, 59) if last else (0, 0, 0)
    return times.iso(datetime(value.year, value.month, value.day, *clock, tzinfo=UTC))


def _example(parameter: Mapping[str, Any]) -> str:
    start = parameter.get("default") or 1
    if parameter.get("type") == "int":
        return f"{max(int(start) // 2, 1)}, {int(start)}, {int(start) * 2}"
    return f"{start / 2:g}, {start:g}, {start * 2:g}"
