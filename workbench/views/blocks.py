"""Pieces of a report in a grid of twelve columns: the same pieces serve pages, notebooks and exported files."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import panel as pn

from engine.plots.style import Style
from workbench import theme


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """A card: a title, a line of explanation, and a Bokeh model or HTML. `span` is its width in twelfths."""

    content: Any
    title: str = ""
    note: str = ""
    span: int = 12

    @property
    def head(self) -> str:
        note = f'<p class="wb-sub">{escape(self.note)}</p>' if self.note else ""
        return f"<h2>{escape(self.title)}</h2>{note}" if self.title else ""


GRID = """
:host { display: grid !important; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 12px; width: 100%; }
@media (max-width: 1000px) { :host { grid-template-columns: minmax(0, 1fr); } }
"""
CELL = """
:host { grid-column: span SPAN; min-width: 0; width: auto !important; height: auto !important; align-self: stretch;
  margin: 0; }
@media (max-width: 1000px) { :host { grid-column: 1 / -1; } }
"""


def html(text: str, look: Style, **options: Any) -> pn.pane.HTML:
    """HTML in the views' own style sheet."""
    return pn.pane.HTML(text, stylesheets=[theme.css(look)], sizing_mode="stretch_width", margin=0, **options)


def card(block: Block, look: Style) -> pn.Column:
    """A block as a Panel card."""
    parts: list[Any] = [html(block.head, look)] if block.head else []
    if isinstance(block.content, str):
        parts.append(html(block.content, look))
    elif isinstance(block.content, pn.viewable.Viewable):
        parts.append(block.content)
    else:
        parts.append(pn.pane.Bokeh(block.content, sizing_mode="stretch_width", margin=0))
    return pn.Column(
        *parts,
        styles=theme.card(look),
        sizing_mode="stretch_width",
        margin=0,
        stylesheets=[CELL.replace("SPAN", str(block.span))],
    )


def grid(blocks: Sequence[Block], look: Style) -> pn.Column:
    """Blocks side by side where there is room."""
    return pn.Column(
        *(card(block, look) for block in blocks), stylesheets=[GRID], sizing_mode="stretch_width", margin=0
    )
