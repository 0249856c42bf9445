"""Rows that come and change while somebody looks. What changes travels as one message; the browser makes the cells."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import panel as pn
import param

from engine.plots.style import Style
from workbench.views.live_part import LivePart, colours

_HERE: Final = Path(__file__).parent
_CSS: Final = (_HERE / "live_rows.css").read_text()

Row = Mapping[str, Any]
"""A row: `id`, a value for each column (instants are milliseconds), and perhaps `detail` (shown after a click),
`find` (the text that a search in the browser looks at), `type` (for the filter), `href` and `under` (of links)."""


def sheet(look: Style) -> str:
    """The style of rows and of what stands beside them."""
    return colours(look) + _CSS


def words(text: str, look: Style, **options: Any) -> pn.pane.HTML:
    """HTML that carries its colours along."""
    return pn.pane.HTML(text, stylesheets=[colours(look)], sizing_mode="stretch_width", margin=0, **options)


class LiveRows(LivePart):
    """A table of at most `most` rows, fed with `reset`, `put` and `older`.

    `newest` says where new rows go. With `asks`, search and filter are the caller's (`searched`), else the browser's.
    `page` > 0 shows that many rows and more on request; 0 shows all there are. `asked` hears the browser: the names
    are "more", "pick" (with `id`), "search" (with `text` and `type`) and "pause" (with `on` and the id of the `last`
    row that is shown). An `awaited` table says that it loads until it is fed.
    """

    columns = param.List(default=[], doc="{key, title, kind}; kinds are the names of `cells` in live_rows.js")
    caption = param.String(default="")
    placeholder = param.String(default="Nothing yet.")
    newest: Any = param.Selector(default="first", objects=["first", "last"])
    most = param.Integer(default=500)
    page = param.Integer(default=0)
    tall = param.Integer(default=0, doc="pixels of height after which the rows scroll; 0: as tall as they are")
    bare = param.Boolean(default=False, doc="lines of text instead of a table with a head")
    sortable = param.Boolean(default=False)
    searchable = param.String(default="", doc="what the search field says; empty: no field")
    types = param.List(default=[])
    typed = param.Boolean(default=False, doc="offer the types that rows have")
    pausable = param.Boolean(default=False)
    picks = param.Boolean(default=False)
    asks = param.Boolean(default=False)

    _esm = "live_rows.js"

    def __init__(self, look: Style, *, asked: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None,
                 awaited: bool = False, **params: Any) -> None:
        super().__init__(css=sheet(look), **params)
        self._asked = asked
        self._rows: dict[str, Row] = {}
        self._more = False
        self._note: str | None = None
        self.filled = not awaited

    @property
    def rows(self) -> list[Row]:
        """What is there, in the order of the table."""
        return list(self._rows.values())

    def reset(self, rows: Iterable[Row], *, more: bool = False, note: str | None = None) -> None:
        """Replace everything; `more` offers to load more."""
        self._rows = {str(row["id"]): row for row in rows}
        self._more, self._note, self.filled = more, note, True
        self.tell(self.whole())

    def put(self, rows: Sequence[Row], note: str | None = None) -> Row | None:
        """Add rows, or change those whose id is there. When old ones had to go: the oldest that stayed."""
        known, dropped = self._rows, False
        for row in rows:
            key = str(row["id"])
            if key in known or self.newest == "last" or self.page:
                known[key] = row
            else:
                known = {key: row, **known}
        while len(known) > self.most:
            del known[next(iter(known)) if self.newest == "last" else next(reversed(known))]
            self._more = dropped = True
        self._rows, self.filled = known, True
        if note is not None:
            self._note = note
        self.tell({"do": "put", "rows": list(rows), "note": note})
        return known[next(iter(known)) if self.newest == "last" else next(reversed(known))] if dropped else None

    def older(self, rows: Sequence[Row], *, more: bool) -> None:
        """Add rows at the far end; the table may hold more from now on."""
        fresh = {str(row["id"]): row for row in rows if str(row["id"]) not in self._rows}
        self._rows = {**fresh, **self._rows} if self.newest == "last" else {**self._rows, **fresh}
        self._more = more
        self.tell({"do": "more", "rows": list(fresh.values()), "more": more})

    def note(self, text: str) -> None:
        """Say something beside the tools."""
        self._note = text
        self.tell({"do": "note", "note": text})

    def pick(self, id: str) -> None:
        """Mark a row."""
        self.tell({"do": "pick", "id": id})

    def whole(self) -> dict[str, Any]:
        return {"do": "reset", "rows": list(self._rows.values()), "more": self._more, "note": self._note,
                "filled": self.filled}

    async def heard(self, name: str, data: dict[str, Any]) -> None:
        if self._asked is not None:
            await self._asked(name, data)
