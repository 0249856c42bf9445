"""The third tab: candles with fills, the trades linked to them, and what the trades have in common."""

from functools import partial
from typing import Any

import numpy as np
import panel as pn

from engine import analysis
from engine.plots import candles as candle_pictures
from engine.plots import trades as pictures
from engine.plots.render import draw
from engine.plots.style import Style
from workbench import theme
from workbench.views import tables
from workbench.views.blocks import Block, html
from workbench.views.candle_chart import CandleChart
from workbench.views.data import Cache, begin
from workbench.views.drawing import beside

PAGE = 12
LINE_POINTS = 2000


class Inspector:
    """Chart and grid, linked: choosing a trade zooms the chart to it."""

    def __init__(self, cache: Cache, look: Style, trips: analysis.Columns) -> None:
        self._cache, self._look, self._trips = cache, look, trips
        self.chart: CandleChart | None = None
        markets = [str(market) for market in cache.spec.get("markets", ())] or sorted(set(map(str, trips["symbol"])))
        self.market = pn.widgets.Select(
            label="Market", options=markets, width=220, margin=(0, 10, 0, 0), visible=len(markets) > 1
        )
        self.grid = trade_grid(trips, look) if len(trips["pnl"]) else None
        self._place = pn.Column(sizing_mode="stretch_width", margin=0)
        self._note = html("", look)
        self._before, self._after, self._all = (
            pn.widgets.Button(
                label=name, width=width, margin=(0, 6, 0, 0), align="end", stylesheets=[theme.button_css(look)]
            )
            for name, width in (("‹ Previous trade", 120), ("Next trade ›", 120), ("Whole range", 110))
        )
        self._before.on_click(lambda _: self._step(-1))
        self._after.on_click(lambda _: self._step(1))
        self._all.on_click(self._whole)
        self.market.param.watch(self._changed, "value")
        if self.grid is not None:
            self.grid.param.watch(self._selected, "selection")

    @property
    def controls(self) -> pn.FlexBox:
        buttons = [self._before, self._after, self._all] if self.grid is not None else [self._all]
        return pn.FlexBox(self.market, *buttons, align_items="end", sizing_mode="stretch_width", margin=(0, 0, 6, 0))

    @property
    def view(self) -> pn.Column:
        return pn.Column(self.controls, self._place, self._note, sizing_mode="stretch_width", margin=0)

    async def open(self, symbol: str | None = None) -> None:
        """Draw the chart of a market."""
        self.chart = await CandleChart.make(self._cache, symbol or self.market.value or "", self._look)
        if self.chart.model is None:
            lines = await self._indicators(self.chart.symbol)
            reported = self._cache.spec.get("fill_model") == "reported"
            why = "the model computed this with prices of its own, which it does not send" if reported \
                else self.chart.message
            self._place[:] = [html(tables.empty("No candles", why), self._look), *lines]
            return
        self._place[:] = [pn.pane.Bokeh(self.chart.model, sizing_mode="stretch_width", margin=0)]
        self.chart.heard = self._say
        self._say()

    async def _indicators(self, symbol: str) -> list[Any]:
        """Indicators by themselves, of a run whose candles are not here."""
        table = await self._cache.table("indicators")
        rows = np.asarray(table["symbol"]) == symbol if len(table["time"]) else np.zeros(0, bool)
        drawn: dict[str, dict[str, np.ndarray]] = {}
        for name, values in table.items():
            if name in ("time", "symbol") or not rows.any():
                continue
            figure = np.asarray(values, float)[rows]
            if np.isfinite(figure).any():
                time = np.asarray(table["time"], np.int64)[rows]
                keep = analysis.downsample(time, figure, LINE_POINTS)
                drawn[name] = {"time": time[keep], "figure": figure[keep]}
        if not drawn:
            return []
        look = self._look
        made = await beside(self._cache.data, lambda: draw(candle_pictures.lines(drawn, look), look))
        return [pn.pane.Bokeh(made.figure, sizing_mode="stretch_width", margin=0)]

    def _say(self) -> None:
        text = self.chart.message if self.chart else ""
        self._note.object = f'<p class="wb-sub">{text}</p>' if text else ""

    def _changed(self, event: Any) -> None:
        if self.chart is None or self.chart.symbol != event.new:
            begin(self._cache.data, partial(self.open, event.new))

    def _selected(self, event: Any) -> None:
        if event.new:
            begin(self._cache.data, partial(self.show, int(event.new[0])))

    def _whole(self, event: Any) -> None:
        if self.chart is not None:
            begin(self._cache.data, self.chart.whole)

    def _step(self, by: int) -> None:
        if self.grid is None:
            return
        size, now = len(self._trips["pnl"]), self.grid.selection
        row = min(max((now[0] if now else (-1 if by > 0 else size)) + by, 0), size - 1)
        self.grid.selection = [row]

    async def show(self, row: int) -> None:
        """Zoom to the trade of that row."""
        symbol = str(self._trips["symbol"][row])
        if self.chart is None or self.chart.symbol != symbol:
            await self.open(symbol)
            self.market.value = symbol
        if self.chart is not None:
            await self.chart.focus(
                int(self._trips["entry_time"][row]),
                int(self._trips["exit_time"][row]),
                {name: self._trips[name][row] for name in ("entry_price", "exit_price", "pnl")},
            )


def trade_grid(trips: analysis.Columns, look: Style) -> pn.widgets.Tabulator:
    """The trades, paged and sorted on the server side; a click chooses a row."""
    from bokeh.models.widgets.tables import DateFormatter, NumberFormatter

    frame = tables.trade_frame(trips)
    two, four = (
        NumberFormatter(format="0,0.00", text_align="right"),
        NumberFormatter(format="0,0.[0000]", text_align="right"),
    )
    plain = NumberFormatter(format="0", text_align="right")
    daily = not len(frame) or bool((frame[["entry", "exit"]] == frame[["entry", "exit"]].apply(
        lambda times: times.dt.normalize())).all().all())
    when = DateFormatter(format="%Y-%m-%d" if daily else "%Y-%m-%d %H:%M")
    width = 92 if daily else 128
    widths = {"trade": 64, "market": 140, "side": 72, "entry": width, "exit": width, "status": 76}
    return pn.widgets.Tabulator(
        frame,
        show_index=False,
        disabled=True,
        selectable=1,
        pagination="remote",
        page_size=PAGE,
        layout="fit_data_fill",
        sizing_mode="stretch_width",
        theme="simple",
        margin=0,
        widths=widths,
        formatters={
            "trade": plain,
            "entry": when,
            "exit": when,
            "entry price": four,
            "exit price": four,
            "quantity": four,
            "profit": two,
            "return %": two,
            "MAE %": two,
            "MFE %": two,
            **dict.fromkeys(("days", "hours", "minutes"), two),
            "fees": two,
        },
        titles={**{name: name[:1].upper() + name[1:] for name in frame.columns}, "trade": "#"},
        stylesheets=[grid_css(look)],
    )


def grid_css(look: Style) -> str:
    """The grid in the views' colours."""
    return f"""
:host .tabulator {{ background: {look.surface}; color: {look.text}; border: 1px solid {look.border}; border-radius: 6px;
  font-size: 12px; font-family: {look.font}; font-variant-numeric: tabular-nums; }}
:host .tabulator .tabulator-header, :host .tabulator .tabulator-header .tabulator-col {{
  background: {look.raised} !important;
  color: {look.muted}; border-color: {look.border}; font-weight: 550; font-size: 12px; }}
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-content {{ padding: 5px 8px; }}
:host .tabulator .tabulator-tableholder .tabulator-table {{ background: {look.surface}; color: {look.text}; }}
:host .tabulator .tabulator-tableholder {{ background: {look.surface}; }}
:host .tabulator .tabulator-tableholder:focus-visible {{ outline: 2px solid {look.accent}; outline-offset: -2px; }}
:host .tabulator .tabulator-row, :host .tabulator .tabulator-row.tabulator-row-even {{ background: {look.surface};
  color: {look.text}; border-color: {look.grid}; min-height: 27px; border-bottom: 1px solid {look.grid}; }}
:host .tabulator .tabulator-row .tabulator-cell {{ border-color: transparent; padding: 5px 8px; font-size: 12px;
  height: 27px; }}
:host .tabulator .tabulator-row:hover {{ background: {look.raised} !important; cursor: pointer; }}
:host .tabulator .tabulator-row.tabulator-selected, :host .tabulator .tabulator-row.tabulator-selected:hover {{
  background: {look.accent} !important; color: {look.surface} !important; }}
:host .tabulator .tabulator-footer {{ background: {look.surface} !important; color: {look.muted};
  border-color: {look.border};
  padding: 4px 6px; }}
:host .tabulator .tabulator-footer .tabulator-page {{ background: {look.surface} !important;
  color: {look.text} !important;
  border: 1px solid {look.border}; border-radius: 4px; padding: 2px 8px; margin: 0 2px; font-size: 12px; opacity: 1; }}
:host .tabulator .tabulator-footer .tabulator-page:disabled {{ opacity: .45; }}
:host .tabulator .tabulator-footer .tabulator-page.active {{ color: {look.accent} !important;
  border-color: {look.accent};
  font-weight: 650; }}
"""


def pictures_of(trips: analysis.Columns, fills: analysis.Columns, look: Style) -> list[Block]:
    """The cards below the chart and the grid."""
    if not len(trips["pnl"]):
        return []
    several = len(set(map(str, trips["symbol"]))) > 1
    symbols = analysis.group_trades(trips["symbol"], trips)
    sides = analysis.group_trades(np.where(np.asarray(trips["direction"]) > 0, "long", "short"), trips)
    dots = len(trips["pnl"]) > pictures.MOST_DOTS
    note = f"{pictures.MOST_DOTS:,} of {len(trips['pnl']):,} trades are drawn, all extremes among them" if dots else ""
    found = [
        Block(
            title="Return of each trade", note=note, span=6, content=draw(pictures.outcomes(trips, look), look).figure
        ),
        Block(
            title="Holding time and return", note=note, span=6, content=draw(pictures.holding(trips, look), look).figure
        ),
        Block(
            title="Adverse excursion",
            note="How far each trade was under water before it ended",
            span=6,
            content=draw(pictures.excursions(trips, look, which="mae"), look).figure,
        ),
        Block(
            title="Favourable excursion",
            note="How much each trade was ahead at best",
            span=6,
            content=draw(pictures.excursions(trips, look, which="mfe"), look).figure,
        ),
        Block(
            title="When trades began",
            note="Mean return by weekday and hour of entry, UTC",
            span=6 if several else 12,
            content=draw(pictures.clock(trips, look), look).figure,
        ),
    ]
    if several:
        found.append(
            Block(
                title="Contribution of each market",
                span=6,
                content=draw(pictures.contribution(symbols, look), look).figure,
            )
        )
    found += [
        Block(content=tables.groups("Long and short", sides, "Side"), span=6),
        Block(
            content=tables.groups(
                "By exit reason", analysis.group_trades(analysis.reasons(trips, fills), trips), "Reason"
            ),
            span=6,
        ),
        Block(content=tables.groups("By market", symbols, "Market"), span=6),
        Block(
            content=tables.groups(
                "By entry reason", analysis.group_trades(analysis.reasons(trips, fills, "entry"), trips), "Reason"
            ),
            span=6,
        ),
        Block(content=tables.extremes(trips, best=True), span=6),
        Block(content=tables.extremes(trips, best=False), span=6),
    ]
    return found


async def build(cache: Cache, look: Style) -> tuple[Inspector, list[Block]]:
    """The tab's first part: the inspector. What is below it comes from `below`."""
    trips = await cache.table("roundtrips")
    inspector = Inspector(cache, look, trips)
    await inspector.open()
    blocks = [
        Block(
            title="Candles and fills",
            note="Scroll to zoom, drag to move. Triangles are fills, dashed lines join a trade's entry and exit.",
            content=inspector.view,
        )
    ]
    if inspector.grid is None:
        blocks.append(Block(content=tables.empty("No trades", "the strategy never entered the market in this range")))
    else:
        blocks.append(Block(title="Trades", note="Choose a row to see the trade on the chart", content=inspector.grid))
    return inspector, blocks


async def below(cache: Cache, look: Style) -> list[Block]:
    """The tab's second part: what the trades have in common."""
    return pictures_of(await cache.table("roundtrips"), await cache.table("fills"), look)


async def still(cache: Cache, look: Style, most: int = 300) -> list[Block]:
    """The first part for a file: the chart of the first market as it begins, and the trades as a plain table."""
    trips = await cache.table("roundtrips")
    markets = [str(market) for market in cache.spec.get("markets", ())] or sorted(set(map(str, trips["symbol"])))
    chart = await CandleChart.make(cache, markets[0] if markets else "", look, live=False)
    blocks = [
        Block(
            title=f"Candles and fills, {chart.symbol}",
            note=chart.message,
            content=chart.model if chart.model is not None else tables.empty("No candles", chart.message),
        )
    ]
    return [*blocks, Block(content=tables.trades(trips, most))]
