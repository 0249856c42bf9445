"""A search over parameters: how good the best trial is, how far it can be believed, and what all trials look like."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
import panel as pn

from engine.model import FINISHED, Metric
from engine.plots import sweep as pictures
from engine.plots.render import draw
from engine.plots.style import Style
from workbench import cards, theme
from workbench.views import tables, tiles
from workbench.views.blocks import Block, card, grid, html
from workbench.views.drawing import drawn
from workbench.views.report_trades import grid_css

Columns = Mapping[str, np.ndarray]
PAGE: Final = 15
_CELLS: Final = "Each cell is the best trial with these two values; other parameters may vary. No colour: no trial."
FIGURES: Final = ("total_return", "annual_return", "annualized_return", "sharpe", "sharpe_ratio", "max_drawdown",
                  "fills", "trades", "total_trades")
"""What the table shows of a trial beside its parameters and its objective."""


class SweepReport(pn.viewable.Viewer):
    """One search and its trials, for a page and for a notebook's cell.

    `update` takes what `AsyncClient.sweep` and `AsyncClient.trials` answer, again and again while the search runs.
    `chosen` is told when a person picks a trial: its number and parameters. `actions` stand below the figures.
    """

    def __init__(self, *, look: str | Style | None = None,
                 chosen: Callable[[int, Mapping[str, Any]], None] | None = None, actions: Sequence[Any] = (),
                 **params: Any) -> None:
        super().__init__(**params)
        self.look = theme.style(look)
        self._chosen = chosen
        self._status: Mapping[str, Any] = {}
        self._trials: Columns = {}
        self._drawn: tuple[int, bool] | None = None
        self._offering = False
        self._head, self._tiles = html("", self.look), html("", self.look)
        narrow: dict[str, Any] = {"width": 170, "margin": (0, 10, 0, 0), "visible": False}
        self.x = pn.widgets.Select(label="Across", options=[], **narrow)
        self.y = pn.widgets.Select(label="Up", options=[], **narrow)
        self.figure = pn.widgets.Select(label="Figure", options={}, **{**narrow, "width": 220})
        for widget in (self.x, self.y, self.figure):
            widget.param.watch(self._wanted, "value")
        self._map = pn.Column(sizing_mode="stretch_width", margin=0)
        self._told = html("", self.look)
        self._more = pn.Column(sizing_mode="stretch_width", margin=0)
        self._table = pn.Column(sizing_mode="stretch_width", margin=0)
        controls = pn.FlexBox(self.x, self.y, self.figure, sizing_mode="stretch_width", margin=(4, 0, 6, 0))
        self._note = html("", self.look)
        heat = pn.Column(self._note, controls, self._map, self._told, sizing_mode="stretch_width", margin=0)
        self._heat = card(Block(title="Parameters and result", content=heat), self.look)
        self._root = pn.Column(self._head, self._tiles, *actions, self._heat, self._more, self._table, margin=0,
                               sizing_mode="stretch_width", css_classes=["wb-sweep"], styles={"gap": "12px"},
                               stylesheets=[f":host {{ background: {self.look.page}; padding: 4px 0 16px; }}"])

    def __panel__(self) -> pn.Column:
        return self._root

    # -- what the search says of itself

    @property
    def _spec(self) -> Mapping[str, Any]:
        return self._status.get("spec") or {}

    @property
    def objective(self) -> str:
        """The figure that trials are ranked by."""
        return str(self._spec.get("objective") or "objective")

    @property
    def parameters(self) -> list[str]:
        """The names of the searched parameters."""
        return [name.removeprefix("params.") for name in self._trials if name.startswith("params.")] or list(
            self._spec.get("parameters") or ())

    @property
    def _lowest(self) -> bool:
        return self._spec.get("direction") == "minimize"

    @property
    def _wins(self) -> str:
        if self.objective == "max_drawdown":  # stored as a negative number
            return "deepest" if self._lowest else "shallowest"
        return "lowest" if self._lowest else "highest"

    @property
    def _foreign(self) -> bool:
        """Whether the trials' figures are those of a dialect, with names and units of its own."""
        return (self._spec.get("base") or {}).get("fill_model", "next_bar") != "next_bar"

    def _metric(self, key: str) -> Metric:
        """The figure's definition; a dialect's own figures are plain numbers, whatever their names."""
        if self._foreign:
            return Metric(key=key, name=key.replace("_", " ").capitalize(), unit="ratio", formula="")
        return tiles.metric_of(key)

    def _scaled(self, key: str) -> tuple[str, float]:
        """What a figure is called beside numbers, and the factor from the stored ones: fractions become percent."""
        metric = self._metric(key)
        return (f"{metric.name} %", 100.0) if metric.unit == "fraction" else (metric.name, 1.0)

    def _text(self, key: str, value: Any) -> str:
        figure = _number(value)
        if self._foreign:
            return "–" if figure is None else tiles.number(figure, 2 if figure % 1 else 0)
        return " ".join(tiles.shown(self._metric(key), _number(value))).strip()

    @property
    def _ended(self) -> bool:
        return self._status.get("state") in FINISHED

    # -- show

    def update(self, status: Mapping[str, Any], trials: Columns) -> None:
        """Show another state of the search. Charts are drawn again only when there are more trials than before."""
        self._status, self._trials = status, trials
        self._head.object = self._header()
        self._tiles.object = self._figures()
        size = len(trials.get("number", ()))
        ended = self._ended
        if (size, ended) == self._drawn:
            return
        self._drawn = size, ended
        self._offering = True
        self._offer()
        self._offering = False
        self._draw_map()
        if ended:
            self._more[:] = [grid(drawn(self._pictures), self.look)]
            self._table[:] = [self._trial_table()]

    def _header(self) -> str:
        spec, base = self._spec, self._spec.get("base") or {}
        judged = (spec.get("validation") or {}).get("mode", "none")
        window = spec.get("validation") or {}
        words = {"none": "the same data", "holdout": f"the last {window.get('fraction', 0):.0%} of the data",
                 "walk_forward": f"{window.get('windows', 0)} later windows (walk-forward)"}
        bounds = {one["name"]: one["values"] or {"low": one["low"], "high": one["high"]}
                  for one in spec.get("dimensions") or ()}
        ranges = "; ".join(f"{name} {_range(values or bounds.get(name))}"
                           for name, values in (spec.get("parameters") or {}).items())
        facts = [
            ("Strategy", base.get("strategy", "")), ("Searched", ranges),
            ("Markets", ", ".join(list(base.get("markets", ()))[:6])), ("Bars", base.get("resolution", "")),
            ("Range", f"{tiles.day(base['start'])} to {tiles.day(base.get('end')) or 'the last bar'}"
             if base.get("start") else "all bars"),
            ("Method", spec.get("method", "")),
            ("Objective", f"{self._metric(self.objective).name}, {self._wins} wins"),
            ("Judged on", words.get(judged, judged)), ("Costs", tiles.costs(base)), ("Seed", str(spec.get("seed", ""))),
            ("Sweep", str(self._status.get("id", ""))[:18])]
        items = "".join(f"<div><dt>{label}</dt><dd>{escape(str(text))}</dd></div>" for label, text in facts if text)
        title = escape(self._status.get("name") or f"Sweep of {base.get('strategy', 'a strategy')}")
        return (f'<header><div class="wb-head"><h1>{title}</h1>{cards.badge(str(self._status.get("state", "")))}</div>'
                f'<dl class="wb-facts">{items}</dl></header>')

    def _figures(self) -> str:
        counts, best = self._status.get("trials") or {}, self._status.get("best") or {}
        said, key = self._status.get("diagnostics") or {}, self.objective
        done, total, failed = (int(counts.get(name) or 0) for name in ("completed", "total", "failed"))
        gap = said.get(f"generalization_gap_{key}")
        stable = said.get("parameter_stability") or {}
        figures: list[tuple[str, str, str, str]] = [
            ("Trials", f"{done + failed:,}", f"of {total:,}", "How many ran."),
            *([("Failed trials", f"{failed:,}", "", "What each says stands in the table.")] if failed else []),
            (f"Best {self._metric(key).name}"[:26], self._text(key, best.get("objective")) if best else "–", "",
             "The objective of the best trial" + (", on data it was not fitted to." if gap is not None else ".")),
            ("Deflated Sharpe", _percent((self._status.get("metrics") or {}).get("deflated_sharpe")), "",
             "Probability that the best trial beats what luck shows in so many trials (Bailey and López de Prado, "
             "2014). Below 95 % it may well be luck."),
            ("Validation gap", self._text(key, gap), "", "Training less validation of the best trial: "
             "well above zero means that it fits its own past better than what came after."),
            ("Stable parameters", f"{sum(bool(one.get('stable')) for one in stable.values())} of {len(stable)}"
             if stable else "–", "", f"Parameters on which the best {said.get('top_trials', 0)} trials agree."),
        ]
        metrics = best.get("metrics") or {}
        for name in FIGURES:
            if name in metrics and name != key and len(figures) < 8:  # one row of a wide page
                figures.append((f"{tiles.SHORT.get(name, self._metric(name).name)}", self._text(name, metrics[name]),
                                "", f"Of the best trial. {self._metric(name).formula}".strip()))
        cells = "".join(
            f'<div class="wb-tile{" wb-key" if place < 4 else ""}" tabindex="0" role="group" '
            f'aria-label="{escape(f"{name}: {text} {note}".strip())}" data-figure="{escape(name)}">'
            f"<dt>{escape(name)}</dt><dd>{escape(text) or '–'}{f' <small>{escape(note)}</small>' if note else ''}</dd>"
            + (f'<span class="wb-tip" role="tooltip">{escape(tip)}</span>' if tip else "") + "</div>"
            for place, (name, text, note, tip) in enumerate(figures))
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in (best.get("parameters") or {}).items())
        words = (f'<p class="wb-best"><strong>Best parameters</strong> {escape(chosen)} '
                 f'<span class="wb-muted">trial {int(best.get("number", 0)) + 1}</span></p>') if chosen else ""
        return f'{words}<dl class="wb-tiles" aria-label="Figures of the sweep">{cells}</dl>'

    def _offer(self) -> None:
        """The choices of the map: parameters with more than one value first, the objective and every figure."""
        names = sorted(self.parameters, key=lambda name: len(np.unique(_labels(self._column(name)))) < 2)
        figures = {f"{self._metric(self.objective).name} (objective)": "objective"}
        figures |= {self._metric(name[8:]).name: name for name in self._trials
                    if name.startswith("metrics.") and np.isfinite(_floats(self._trials[name])).any()}
        for widget, position in ((self.x, 0), (self.y, 1)):
            if widget.options != names:
                widget.param.update(options=names, value=names[min(position, len(names) - 1)] if names else None)
            widget.visible = len(names) > 1
        if self.figure.options != figures:
            kept = self.figure.value if self.figure.value in figures.values() else "objective"
            self.figure.param.update(options=figures, value=kept)
        self.figure.visible = bool(names)

    def _column(self, parameter: str) -> np.ndarray:
        return np.asarray(self._trials.get(f"params.{parameter}", ()))

    def _wanted(self, _event: Any) -> None:
        if not self._offering:
            self._draw_map()

    def _draw_map(self) -> None:
        drawn(self._draw)

    def _draw(self) -> None:
        names, key = self.parameters, (self.figure.value or "objective").removeprefix("metrics.")
        title, factor = self._scaled(self.objective if key == "objective" else key)
        score = _floats(self._trials.get(self.figure.value or "objective", ())) * factor
        if not np.isfinite(score).any() or not names:
            nothing = tables.empty("No trial has this figure", "what went wrong stands in the table of trials"
                                   ) if self._ended else tables.empty(
                "No trials yet", "the map is drawn as soon as trials are finished")
            self._map[:] = [html(nothing, self.look)]
            self._told.object = ""
            return
        x, y = self.x.value or names[0], self.y.value or names[-1]
        lowest = self._lowest and key == "objective"
        flat = len(names) == 1 or x == y
        self._note.object = "" if flat else f'<p class="wb-sub">{_CELLS}</p>'
        if not flat:
            element: Any = pictures.heatmap(self._column(x), self._column(y), score, self.look, xlabel=x, ylabel=y,
                                            objective=title, lowest=lowest)
        else:
            element = pictures.scores(_scale(self._column(x)), score, self.look, xlabel=x, objective=title, height=320,
                                      lowest=lowest)
        self._map[:] = [pn.pane.Bokeh(draw(element, self.look).figure, sizing_mode="stretch_width", margin=0)]
        at = int(np.nanargmin(score) if lowest else np.nanargmax(score))
        shown = list(dict.fromkeys((x, y)))
        where = ", ".join(f"{name} {_short(self._column(name)[at])}" for name in shown)
        self._told.object = (f'<p class="wb-sub" role="status">{escape(title)} runs from '
                             f"{escape(tiles.number(float(np.nanmin(score)), 3))} to "
                             f"{escape(tiles.number(float(np.nanmax(score)), 3))} over "
                             f"{int(np.isfinite(score).sum()):,} trials; the best is at {escape(where)}.</p>")

    def _pictures(self) -> list[Block]:
        title, factor = self._scaled(self.objective)
        score, names = _floats(self._trials.get("objective", ())) * factor, self.parameters
        if not np.isfinite(score).any() or len(names) < 2:
            return []  # the trials of one parameter are above
        numeric = {name: _scale(self._column(name)) for name in names if len(set(_labels(self._column(name)))) > 1}
        numeric = {name: values for name, values in numeric.items() if np.isfinite(values).all()}
        found = []
        if len(numeric) > 1:
            found.append(Block(
                title="All trials", note="Each line is a trial, the best in the strongest colour. Every axis goes from "
                "its lowest to its highest value.", content=draw(pictures.parallel(
                    numeric, score, self.look, objective=title, lowest=self._lowest), self.look).figure))
        found += [Block(title=f"{name} and {title}", note="The best trial is larger",
                        span=6 if len(numeric) > 1 else 12, content=draw(pictures.scores(
                            values, score, self.look, xlabel=name, objective=title, lowest=self._lowest),
                            self.look).figure)
                  for name, values in list(numeric.items())[:8]]
        return found

    def _trial_table(self) -> Any:
        if not len(self._trials.get("number", ())):
            return html(tables.empty("No trials", "none was finished before the search ended"), self.look)
        import pandas as pd
        from bokeh.models.widgets.tables import NumberFormatter

        shown: dict[str, Any] = {"trial": np.asarray(self._trials["number"]) + 1}
        shown |= {name: self._column(name) for name in self.parameters}
        title, factor = self._scaled(self.objective)
        shown[f"{title} (objective)"] = objective = _floats(self._trials["objective"]) * factor
        formats: dict[str, Any] = {"trial": NumberFormatter(format="0", text_align="right")}
        for name in (*FIGURES, f"train_{self.objective}", f"validation_{self.objective}"):
            if f"metrics.{name}" in self._trials:
                part, _, key = name.partition("_") if name.endswith(f"_{self.objective}") else ("", "", name)
                label, scale = self._scaled(key)
                values = _floats(self._trials[f"metrics.{name}"]) * scale
                if part or not np.array_equal(values, objective, equal_nan=True):  # twice the same says nothing
                    shown[f"{label} ({part})" if part else label] = values
        shown["seconds"] = _floats(self._trials.get("seconds", ()))
        errors = [str(text or "") for text in self._trials.get("error", ())]
        if any(text and text != "nan" for text in errors):
            shown["error"] = ["" if text == "nan" else text for text in errors]
        frame = pd.DataFrame(shown)
        for name in frame.columns[1:]:
            if frame[name].dtype.kind in "fi":
                whole = bool((frame[name].dropna() % 1 == 0).all())
                formats[name] = NumberFormatter(format="0,0" if whole else "0,0.[0000]" if name in self.parameters
                                                else "0,0.00" if " %" in name else "0,0.000", text_align="right",
                                                nan_format="–")
        ranked = frame.columns[1 + len(self.parameters)]
        frame = frame.sort_values(ranked, ascending=self._lowest, na_position="last", ignore_index=True)
        self.table = pn.widgets.Tabulator(
            frame, show_index=False, disabled=True, selectable=1, pagination="remote", page_size=PAGE,
            layout="fit_data_fill", sizing_mode="stretch_width", theme="simple", margin=0, formatters=formats,
            configuration={"columnDefaults": {"tooltip": True}},
            titles={name: name[:1].upper() + name[1:] for name in frame.columns}, stylesheets=[grid_css(self.look)])
        self.table.param.watch(self._picked, "selection")
        return card(Block(title="Trials", content=self.table, note="Best first. A click on a heading sorts, "
                          "a click on a row chooses the trial for a backtest."), self.look)

    def _picked(self, event: Any) -> None:
        if event.new and self._chosen is not None:
            number = int(self.table.value["trial"].iloc[event.new[0]]) - 1
            self._chosen(number, self.parameters_of(number))

    def parameters_of(self, number: int) -> dict[str, Any]:
        """The parameters of a trial, as JSON would have them."""
        at = int(np.flatnonzero(np.asarray(self._trials["number"]) == number)[0])
        found = {name: self._column(name)[at] for name in self.parameters}
        whole = {one["name"] for one in self._spec.get("dimensions") or () if one.get("kind") == "int_range"}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}
        return {name: int(value) if name in whole else value for name, value in plain.items()}


def backtest_of(status: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of the backtest of one trial: what the search was based on, with these parameters."""
    base = dict((status.get("spec") or {}).get("base") or {})
    return {**base, "params": {**(base.get("params") or {}), **parameters}}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number) and math.isfinite(value) else None


def _percent(value: Any) -> str:
    figure = _number(value)
    return "–" if figure is None else f"{tiles.number(figure * 100, 1)} %"


def _floats(values: Any) -> np.ndarray:
    """A column as floats, NaN for what is no number."""
    array = np.asarray(values)
    if array.dtype.kind in "fiub":
        return array.astype(float)
    return np.array([float(value) if isinstance(value, int | float) else np.nan for value in array], float)


def _labels(values: np.ndarray) -> np.ndarray:
    return np.array([_short(value) for value in values], dtype=str)


def _scale(values: np.ndarray) -> np.ndarray:
    """A parameter on an axis of numbers; texts and switches by their place in the sorted list."""
    if values.dtype.kind in "fiu":
        return values.astype(float)
    if all(isinstance(value, int | float) for value in values):
        return values.astype(float)
    return np.unique(_labels(values), return_inverse=True)[1].astype(float)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)


def _range(values: Any) -> str:
    if isinstance(values, Mapping):
        step = f" by {_short(values['step'])}" if values.get("step") else ""
        return f"{_short(values.get('low', ''))} to {_short(values.get('high', ''))}{step}"
    if isinstance(values, Sequence) and not isinstance(values, str):
        shown = [_short(value) for value in values]
        return ", ".join(shown if len(shown) < 9 else [*shown[:4], "…", shown[-1]])
    return "" if values is None else str(values)
