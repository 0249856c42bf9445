"""Runs side by side: equity curves on one chart, figures with their differences, what was asked differently."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import panel as pn
from bokeh.layouts import column
from bokeh.models import CustomJS, Line, Row
from bokeh.models.widgets.inputs import Checkbox

from engine import analysis
from engine.errors import WorkbenchError
from engine.plots import equity as pictures
from engine.plots.render import draw, hide_x, link
from engine.plots.style import Style
from workbench import theme
from workbench.views import tables, tiles
from workbench.views.blocks import Block, grid, html
from workbench.views.data import Cache, RunData, drive, run_data, waits
from workbench.views.drawing import beside

MOST = 12


class Compare(pn.viewable.Viewer):
    """Two or more runs; the first is what the others are measured against.

    `source` is a list of run data (or results, or a notebook's runs), or an async client together with `run_ids`.
    `look` as for `Report`. More than `MOST` runs are refused with a message: a person cannot tell the lines apart.
    """

    def __init__(
        self, source: Any, run_ids: Sequence[str] | None = None, *, look: str | Style | None = None, **params: Any
    ) -> None:
        super().__init__(**params)
        self.look = theme.style(look)
        self.runs: list[RunData] = (
            [run_data(source, run_id) for run_id in run_ids]
            if run_ids is not None
            else [run_data(entry) for entry in source]
        )
        self._root = pn.Column(
            html('<div class="wb-empty" role="status">The runs are being compared</div>', self.look),
            sizing_mode="stretch_width",
            margin=0,
            stylesheets=[theme.ground(self.look)],
        )
        if any(waits(run) for run in self.runs):
            pn.state.onload(self._start)
        else:
            drive(self._start())

    def __panel__(self) -> pn.Column:
        return self._root

    async def _start(self) -> None:
        if not 2 <= len(self.runs) <= MOST:
            said = f"choose two to {MOST} runs; {len(self.runs)} were given"
            self._root[:] = [html(tables.empty("Nothing to compare", said), self.look)]
            return
        caches = [Cache(run) for run in self.runs]
        try:
            for cache in caches:
                await cache.load()
            curves = [await cache.table("equity") for cache in caches]
        except WorkbenchError as error:
            self._root[:] = [html(tables.empty("These runs cannot be compared", str(error)), self.look)]
            return
        cards = await beside(self.runs[0], blocks, caches, curves, self.look)
        self._root[:] = [grid(cards, self.look)]


def labels(caches: Sequence[Cache]) -> list[str]:
    """A short name for each run, made unique with its number in the list."""
    names = []
    for cache in caches:
        run = cache.data.run
        given = (run.get("name") if isinstance(run, dict) else getattr(run, "name", "")) or ""
        told = ", ".join(f"{name} {value}" for name, value in (cache.spec.get("params") or {}).items())
        names.append(str(given or f"{cache.spec.get('strategy', 'run')} {told}".strip())[:40])
    return [name if names.count(name) == 1 else f"{name} #{position}" for position, name in enumerate(names, start=1)]


def blocks(caches: Sequence[Cache], curves: Sequence[analysis.Columns], look: Style) -> list[Block]:
    """The cards of a comparison."""
    names = labels(caches)
    shown = {
        name: (np.asarray(curve["time"]), np.asarray(curve["value"], float))
        for name, curve in zip(names, curves, strict=True)
        if len(curve["time"]) > 1
    }
    if shown:
        starts = {name: cache.cash for name, cache in zip(names, caches, strict=True)}
        growth = {name: (time, analysis.rebased(value, starts[name])) for name, (time, value) in shown.items()}
        falls = {name: (time, analysis.drawdown(value)) for name, (time, value) in shown.items()}
        figures = [
            draw(pictures.compared(growth, look), look).figure,
            draw(pictures.compared(falls, look, height=150, ylabel="Drawdown"), look).figure,
        ]
        for figure in figures:
            figure.legend.visible = False
        pairs = zip(*(_lines(figure) for figure in figures), strict=True)
        link(figures, crosshair=look.muted)
        hide_x(figures[:-1])
        chart: Any = column(switches(list(shown), list(pairs), look), *figures, sizing_mode="stretch_width", spacing=0)
    else:
        chart = tables.empty("No equity curves", "none of these runs has more than one bar")
    found = [
        Block(title="Cumulative return", note="Each run from its own capital", content=chart),
        Block(content=figures_table(names, caches, look)),
        Block(content=differences(names, caches)),
    ]
    if len(shown) > 1:
        found.append(Block(content=correlations(list(shown), list(shown.values()))))
    return found


def _lines(figure: Any) -> list[Any]:
    return [renderer for renderer in figure.renderers if isinstance(renderer.glyph, Line)]


def switches(names: Sequence[str], pairs: Sequence[Sequence[Any]], look: Style) -> Row:
    """The legend: a box for each run in its colour, which shows and hides its lines in all charts. It takes as many
    rows as the names need, where Bokeh's own would be cut off."""
    boxes: list[Any] = []
    for position, (name, lines) in enumerate(zip(names, pairs, strict=True)):
        color = look.series[position % len(look.series)]
        dashes = " (dashed)" if position >= len(look.series) else ""
        box = Checkbox(label=name + dashes, active=True, margin=(0, 14, 0, 0), stylesheets=[
            f":host {{ color: {look.text}; font: 12px/1.6 {look.font}; max-width: 100%; }}"
            f"input {{ accent-color: {color}; }} span {{ overflow-wrap: anywhere; }}"])
        box.js_on_change("active", CustomJS(
            args={"lines": list(lines)}, code="for (const line of lines) line.visible = cb_obj.active"))
        boxes.append(box)
    return Row(children=boxes, styles={"flex-wrap": "wrap"}, sizing_mode="stretch_width", margin=(0, 0, 6, 0))


def _chip(position: int, name: str, look: Style) -> str:
    color = look.series[position % len(look.series)]
    dashed = f"repeating-linear-gradient(90deg,{color} 0 3px,transparent 3px 5px)"
    fill = color if position < len(look.series) else dashed
    return (
        f'<span aria-hidden="true" style="display:inline-block;width:10px;height:10px;border-radius:2px;'
        f'background:{fill};margin-right:6px"></span>{escape(name)}'
    )


def figures_table(names: Sequence[str], caches: Sequence[Cache], look: Style) -> str:
    """Every figure of every run, and under it the difference to the first run, coloured by what is better."""
    keys = [key for key in tiles.TILES if any(key in cache.metrics for cache in caches)]
    keys += [key for key in caches[0].metrics if key not in keys]
    heads = "".join(f'<th scope="col" class="wb-number wb-run">{_chip(i, name, look)}</th>'
                    for i, name in enumerate(names))
    body = []
    for key in keys:
        metric = tiles.metric_of(key)
        base = caches[0].metrics.get(key)
        cells = []
        for position, cache in enumerate(caches):
            value = cache.metrics.get(key)
            text, unit = tiles.shown(metric, value, cache.currency)
            below = ""
            if position and base is not None and value is not None and value != base:
                change, change_unit = tiles.shown(metric, value - base, "")
                better = {"higher": value > base, "lower": value < base}.get(metric.better)
                tone = "" if better is None else " wb-gain" if better else " wb-loss"
                sign = "+" if value > base and not change.startswith("+") else ""
                said = "points" if change_unit == "%" else change_unit
                below = f'<br><small class="wb-muted{tone}">{sign}{change} {said}</small>'
            cells.append(f'<td class="wb-number">{text} <span class="wb-muted">{escape(unit)}</span>{below}</td>')
        name = f'<th scope="row" title="{escape(metric.formula)}">{escape(metric.name)}</th>'
        body.append(f"<tr>{name}{''.join(cells)}</tr>")
    return (
        '<div class="wb-scroll"><table class="wb-table wb-sides"><caption>'
        f"Figures, with the difference to {escape(names[0])}"
        f'</caption><thead><tr><th scope="col">Metric</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def differences(names: Sequence[str], caches: Sequence[Cache]) -> str:
    """What was asked differently: every field of the specs that is not the same in all."""
    asked = [{key: str(value) for key, value in tables.flat(cache.spec)} for cache in caches]
    keys = dict.fromkeys(key for entry in asked for key in entry)
    rows = [
        {"field": key, **{name: entry.get(key, "–") for name, entry in zip(names, asked, strict=True)}}
        for key in keys
        if len({entry.get(key) for entry in asked}) > 1
    ]
    return tables.table(
        "What was asked differently",
        [("field", "Field", tables.words), *((name, name, tables.words) for name in names)],
        rows,
        note="these runs were asked the very same",
    )


def correlations(names: Sequence[str], curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Correlation of daily returns over the days that all runs have."""
    matrix = analysis.correlation(curves)
    rows = [{"run": name, **{other: matrix[i, j] for j, other in enumerate(names)}} for i, name in enumerate(names)]
    return tables.table(
        "Correlation of daily returns",
        [("run", "Run", tables.words), *((name, name, tables.plain()) for name in names)],
        rows,
    )
