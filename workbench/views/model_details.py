"""What is known of a model beside its trading: its life, the figures it reports, what a screener found, all events."""

from html import escape
from typing import Any, Final

import panel as pn

from engine import times
from engine.activity import Model
from engine.errors import WorkbenchError
from engine.model import Event
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.base import explained
from workbench.views.live_rows import LiveRows, words
from workbench.views.model_output import Results
from workbench.views.model_rows import EVENTS, brief, event_row

OWN: Final = ("lifecycle", "created", "renamed", "symbol", "exchange", "metrics", "auto-pnl", "pnl", "annotation")


class Details:
    """The tab of facts. `view` is its layout."""

    def __init__(self, client: AsyncClient, model: str, look: Style) -> None:
        self._client, self._id = client, model
        self._facts = words("", look)
        self._figures = words("", look)
        self._results = Results(client, model, look)
        self._found = pn.Column(words("<h2>Screener</h2>", look), self._results.view, sizing_mode="stretch_width",
                                margin=0, visible=False)
        self._events = LiveRows(look, columns=EVENTS, caption="What happened", placeholder="Nothing has happened yet.",
                                awaited=True, tall=420, most=500, asks=True, asked=self._asked)
        self._before: int | None = None
        self.view = pn.Column(self._facts, self._figures, self._found,
                              pn.Column(words("<h2>What happened</h2>", look), self._events,
                                        sizing_mode="stretch_width", margin=0),
                              sizing_mode="stretch_width", margin=0, styles={"gap": "14px"})

    async def load(self, model: Model) -> None:
        """Facts, reported figures, results and events."""
        self._show(model)
        page = await self._client.model_events(self._id, tail=200, types=OWN)
        self._before = page.next
        self._events.reset([event_row(event) for event in reversed(page.items)], more=page.next is not None)
        await self._results.load()
        self._found.visible = model.kind == "screener" or bool(self._results.view.rows)
        await self._reported()

    async def _reported(self) -> None:
        try:
            self._figures.object = reported(await self._client.model_metrics(self._id))
        except WorkbenchError as error:  # the rest of the tab is worth seeing
            self._figures.object = f'<div class="error" role="alert">{explained(error)}</div>'

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        if name == "more" and self._before is not None:
            page = await self._client.model_events(self._id, before=self._before, limit=200, types=OWN)
            self._before = page.next
            self._events.older([event_row(event) for event in reversed(page.items)], more=page.next is not None)

    def heard(self, model: Model, events: list[Event]) -> None:
        """Events that were followed."""
        found = [event for event in events if event.type == "screener"]
        if found:
            self._found.visible = True
            self._results.heard(found)
        own = [event for event in events if event.type != "screener"]
        if own:
            self._events.put([event_row(event) for event in own])
            self._show(model)
        if any(event.type == "metrics" for event in own):
            pn.state.execute(self._reported)

    def _show(self, model: Model) -> None:
        facts = {
            "Id": model.id, "Project": model.project, "Kind": model.kind, "Speaks": model.dialect,
            "Made": _when(model.created_at), "Message": model.message or "",
            "Running": {True: "yes", False: "no", None: "it does not say"}[model.running],
            "Started": _when(model.started_at), "Ended": _when(model.ended_at), "Heard": _when(model.heard_at),
            "Symbols": ", ".join(model.symbols), "Exchanges": ", ".join(model.exchanges),
            "Orders": f"{model.orders:,}", "Errors": f"{model.errors:,}",
            "Profit": "computed from its orders" if model.auto_pnl else "as the model reports it"}
        self._facts.object = '<section class="card"><h2>Facts</h2><dl class="facts">' + "".join(
            f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value) + "</dl></section>"


def _when(at: Any) -> str:
    return "" if at is None else times.iso(at)[:19].replace("T", " ") + " UTC"


def reported(told: dict[str, Any]) -> str:
    """The figures that a model sends of itself, as a table that says so; "" without any."""
    figures = told.get("reported") or {}
    if not figures:
        return ""
    rows = "".join(
        f'<tr><td>{escape(str((entry or {}).get("display_name") or key))}</td>'
        f'<td class="num">{escape(shown(entry))}</td><td class="muted">{escape(key)}</td></tr>'
        for key, entry in figures.items())
    return ('<section class="card"><h2>Figures <span class="tag">reported by the model</span></h2><div class="scroll">'
            '<table><thead><tr><th scope="col">Figure</th><th scope="col" class="num">Value</th>'
            f'<th scope="col">Key</th></tr></thead><tbody>{rows}</tbody></table></div></section>')


def shown(entry: Any) -> str:
    """A reported figure in its own unit."""
    from workbench import cards

    value, kind = (entry.get("value"), entry.get("type")) if isinstance(entry, dict) else (entry, "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind in ("percent", "percentage", "%"):
            return cards.number(value, "percent")
        return cards.number(value, "count" if isinstance(value, int) else "ratio")
    return brief(value)
