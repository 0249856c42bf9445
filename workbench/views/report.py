"""The tear-sheet of a run: one class for the page and the notebook cell."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import panel as pn

from engine.errors import WorkbenchError
from engine.plots.style import Style
from workbench import export, theme
from workbench.views import report_details, report_overview, report_returns, report_trades, tables, tiles
from workbench.views.blocks import grid, html
from workbench.views.data import Cache, begin, drive, run_data, waits
from workbench.views.drawing import at_once, beside

TABS: Final = ("Overview", "Returns", "Trades", "Details")


class Report(pn.viewable.Viewer):
    """Header, tiles and four tabs, each built when it is first opened.

    `source` is run data (`workbench.views.data.RunData`), a `BacktestResult`, a notebook's run, or an async client
    together with `run_id`. `look` is "light", "dark" or None for the page's own theme. `actions` stand before the
    exports. Data that must be awaited is fetched once the view is on a page; other data is shown at once.
    """

    def __init__(
        self, source: Any, run_id: str | None = None, *, look: str | Style | None = None, actions: Sequence[Any] = (),
        **params: Any
    ) -> None:
        super().__init__(**params)
        self.data = run_data(source, run_id)
        self._actions = actions
        self.look = theme.style(look)
        self._cache = Cache(self.data)
        self._built: set[str] = set()
        self.parts: dict[str, Any] = {}
        self._below = pn.Column(sizing_mode="stretch_width", margin=(12, 0, 0, 0))
        self._head = pn.Column(sizing_mode="stretch_width", margin=0)
        self._places = {
            name: pn.Column(self._busy(name), sizing_mode="stretch_width", margin=(12, 0, 0, 0), min_height=420)
            for name in TABS
        }
        self._tabs = pn.Tabs(
            *((name, place) for name, place in self._places.items()),
            sizing_mode="stretch_width",
            margin=(4, 0, 0, 0),
            stylesheets=[theme.tabs_css(self.look)],
            dynamic=False,
        )
        self._root = pn.Column(
            self._head,
            self._tabs,
            sizing_mode="stretch_width",
            margin=0,
            stylesheets=[theme.ground(self.look)],
            css_classes=["wb-report"],
        )
        self._tabs.param.watch(self._opened, "active")
        if waits(self.data):
            pn.state.onload(self._start)
        else:
            drive(self._start())

    def __panel__(self) -> pn.Column:
        return self._root

    def _busy(self, name: str) -> pn.pane.HTML:
        return html(f'<div class="wb-empty" role="status"><strong>{name}</strong>is being drawn</div>', self.look)

    async def _start(self) -> None:
        try:
            await self._cache.load()
            equity = await self._cache.table("equity")
        except WorkbenchError as error:
            self._head[:] = [html(tables.empty("This run cannot be shown", str(error)), self.look)]
            self._tabs.visible = False
            return
        times = equity["time"]
        span = tiles.span(times[0], times[-1]) if len(times) else "no bars"
        self._head[:] = [
            html(tiles.header(self._cache.summary, self.data.run, span), self.look),
            self._exports(),
            html(tiles.tiles(self._cache.metrics, self._cache.currency), self.look),
        ]
        await self.open("Overview")

    def _opened(self, event: Any) -> None:
        begin(self.data, partial(self.open, TABS[event.new]))

    async def open(self, name: str) -> None:
        """Build a tab unless it has been built."""
        if name in self._built:
            return
        self._built.add(name)
        try:
            self._places[name][:] = await self._build(name)
            if name == "Trades":  # the chart and the list are there; what is below them comes after
                self._below[:] = [grid(await self._drawn(report_trades.below), self.look)]
        except WorkbenchError as error:
            self._built.discard(name)
            self._places[name][:] = [html(tables.empty(f"{name} cannot be shown", str(error)), self.look)]

    async def _build(self, name: str) -> list[Any]:
        cache, look = self._cache, self.look
        match name:
            case "Overview":
                part = self.parts[name] = await self._drawn(report_overview.build)
                part.follow()
                return [grid(part.blocks, look)]
            case "Returns":
                return [grid(await self._drawn(report_returns.build), look)]
            case "Trades":
                self.parts[name], blocks = await report_trades.build(cache, look)
                return [grid(blocks, look), self._below]
            case _:
                return [grid(await self._drawn(report_details.build), look)]

    async def _drawn(self, build: Callable[..., Any]) -> Any:
        """What a builder makes of the tables, made beside the loop once they are here."""
        for name in ("equity", "fills", "roundtrips", "indicators"):
            await self._cache.table(name)
        return await beside(self.data, at_once(build, self._cache, self.look))

    def _exports(self) -> pn.FlexBox:
        stem = export.stem(self._cache.summary, self.data.run)
        made: list[tuple[str, str, Callable[[], Any]]] = [
            ("HTML report", f"{stem}.html", lambda: export.html_page(self._cache, self.data.run, self.look)),
            ("CSV tables", f"{stem}-csv.zip", lambda: export.csv_zip(self._cache)),
            ("Parquet tables", f"{stem}-parquet.zip", lambda: export.parquet_zip(self._cache)),
        ]
        buttons = [
            pn.widgets.FileDownload(
                callback=self._file(make),
                filename=name,
                label=label,
                width=124,
                margin=(0, 6, 0, 0),
                stylesheets=[theme.button_css(self.look)],
            )
            for label, name, make in made
        ]
        return pn.FlexBox(*self._actions, *buttons, align_items="center", sizing_mode="stretch_width",
                          margin=(10, 0, 10, 0))

    def _file(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """A download's callback: Panel awaits coroutine functions; data that is at hand is made at once."""
        import io

        if not waits(self.data):
            return lambda: io.BytesIO(drive(make()))

        async def later() -> io.BytesIO:
            return io.BytesIO(await make())

        return later
