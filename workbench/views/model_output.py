"""A model's output, calls and results as they come: read from the end, searched on the server, followed."""

import asyncio
from typing import Any, Final

from engine.model import Event
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.client_models import call_of, log_of
from workbench.views.live_rows import LiveRows, Row
from workbench.views.model_rows import CALLS, LINES, RESULTS, call_row, line_row, result_row

TAIL: Final = 300
MOST: Final = 1000
LOOKS: Final = 10
"""Pieces of the log in which a search looks before it asks whether to go on."""


class Output:
    """What tails share. Subclasses say which page of the server it is and what a row is."""

    caption = "Output"
    columns: Any = LINES
    bare = False
    newest = "last"
    placeholder = "This model has said nothing yet."
    search = "Search the whole log"
    types: tuple[str, ...] = ()

    def __init__(self, client: AsyncClient, model: str, look: Style) -> None:
        self._client, self._model = client, model
        self._text, self._type = "", ""
        self._first: int | None = None
        self.last = 0
        self._until: int | None = None
        self._missed = 0
        self._meanwhile: list[Row] | None = None
        self._turn = asyncio.Lock()
        self.view = LiveRows(
            look, awaited=True, columns=self.columns, caption=self.caption, placeholder=self.placeholder,
            newest=self.newest, most=MOST, tall=460, bare=self.bare, searchable=self.search,
            types=list(self.types), typed=True, pausable=self.newest == "last", asks=True, asked=self._asked)

    async def _page(self, **where: Any) -> Any:
        raise NotImplementedError

    def _row(self, entry: Any) -> Row:
        raise NotImplementedError

    async def load(self) -> None:
        """The newest rows that fit what is searched, and what comes while they are read."""
        async with self._turn:  # one after the other, so that the last to be asked for is the one that stays
            self._meanwhile = []
            try:
                rows, before, last = await self._read(None)
            finally:
                meanwhile, self._meanwhile = self._meanwhile, None
            self._first = before
            self.last = max(self.last, last)
            self._missed = 0
            shown = [row for row in rows if self._until is None or int(row["id"]) <= self._until]
            self.view.reset(self._ordered(shown), more=before is not None, note=self._said(len(shown)))
            self._miss(len(rows) - len(shown))
            self.put([row for row in meanwhile if int(row["id"]) > last])

    async def _read(self, before: int | None) -> tuple[list[Row], int | None, int]:
        """Rows before a number, oldest first; where to go on, and the stream's newest number. Searches look piece by
        piece, so that a rare word does not keep anybody waiting."""
        rows: list[Row] = []
        last = 0
        for _ in range(LOOKS):
            where = {"tail": TAIL} if before is None else {"before": before, "limit": TAIL}
            page = await self._page(text=self._text, types=[self._type] if self._type else [], **where)
            rows = [*map(self._row, page.items), *rows]
            last = max(last, page.last)
            before = page.next
            if before is None or len(rows) >= TAIL // 2:
                break
        return rows, before, last

    def _ordered(self, rows: list[Row]) -> list[Row]:
        return rows if self.newest == "last" else rows[::-1]

    def _said(self, count: int) -> str:
        return f"{count:,} fit" if self._text or self._type else ""

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        if name == "search":
            self._text, self._type = str(data.get("text") or "")[:200], str(data.get("type") or "")[:64]
            await self.load()
        elif name == "more":
            async with self._turn:
                if self._first is not None:  # two clicks ask for two pieces
                    rows, self._first, _ = await self._read(self._first)
                    self.view.older(self._ordered(rows), more=self._first is not None)
        elif name == "pause":
            if not data.get("on"):
                self._until = None
                await self.load()
            else:  # what is newer was on its way while the button was pressed, and is not shown
                there = [int(row["id"]) for row in (*self.view.rows, *(self._meanwhile or ()))]
                late = [id for id in there if id > int(data.get("last") or 0)]
                self._until = min(late) - 1 if late else self.last
                self._miss(len(late))

    def put(self, rows: list[Row]) -> None:
        """Rows that came. While the tail rests they are only counted: they are read again when it goes on."""
        if self._meanwhile is not None:
            self._meanwhile += rows
            return
        fitting = [row for row in rows if self._fits(row)]
        if not fitting:
            return
        if self._until is not None:
            self._miss(len(fitting))
            return
        oldest = self.view.put(fitting[-MOST:])
        if oldest is not None:
            self._first = int(str(oldest["id"]))

    def _miss(self, count: int) -> None:
        if count:
            self._missed += count
            self.view.note(f"paused; {self._missed:,} new")

    def _fits(self, row: Row) -> bool:
        if self._type and row["type"] != self._type:
            return False
        return self._text.lower() in str(row.get("find") or row.get("line") or "").lower()


class Log(Output):
    """The output, line by line."""

    caption = "Output of the model"
    bare = True
    types = ("stdout", "stderr")

    async def _page(self, **where: Any) -> Any:
        return await self._client.logs(self._model, **where)

    def _row(self, entry: Any) -> Row:
        return line_row(entry)

    def heard(self, events: list[Event]) -> None:
        """Lines that were followed."""
        fresh = [event for event in events if event.seq > self.last]
        if fresh:
            self.last = fresh[-1].seq
            self.put([line_row(log_of(event)) for event in fresh])


class Calls(Output):
    """Function calls with arguments and responses, newest first."""

    caption = "Calls and events that the model reported"
    columns = CALLS
    newest = "first"
    placeholder = "This model has reported no calls yet."
    search = "Search calls, arguments, responses"

    async def _page(self, **where: Any) -> Any:
        return await self._client.calls(self._model, **where)

    def _row(self, entry: Any) -> Row:
        return call_row(entry)

    def heard(self, events: list[Event]) -> None:
        self.put([call_row(call_of(event)) for event in events])


class Results(Output):
    """What a screener found, newest first."""

    caption = "Results of the screener"
    columns = RESULTS
    newest = "first"
    placeholder = "No results yet."
    search = ""

    async def _page(self, **where: Any) -> Any:
        return await self._client.screener(self._model, **{name: value for name, value in where.items()
                                                           if name in ("tail", "before", "limit")})

    def _row(self, entry: Any) -> Row:
        return result_row(entry)

    def heard(self, events: list[Event]) -> None:
        self.put([result_row({"seq": event.seq, "at": event.data.get("at"), "result": event.data.get("result")})
                  for event in events])
