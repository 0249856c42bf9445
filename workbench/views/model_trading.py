"""A model's trading: price with orders, profit, positions, and the orders themselves, linked by a click."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any, Final

import numpy as np
import panel as pn
from bokeh.layouts import column

from engine import times
from engine.activity import Order
from engine.plots import live as pictures
from engine.plots.render import Drawing, draw, hide_x, link
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.client_models import Rows
from workbench.views.drawing import beside, grow
from workbench.views.live_part import Sight
from workbench.views.live_rows import LiveRows, words
from workbench.views.model_figures import Figures, curve_of, positions_of
from workbench.views.model_price import Locked, PriceChart
from workbench.views.model_rows import ORDERS, order_row

FIRST: Final = 200
DRAWN: Final = 1000
LOOKS: Final = 10
"""Pieces of the orders in which a search looks before it asks whether to go on."""
POSITIONS: Final = [
    {"key": "name", "title": "Symbol", "kind": "text"}, {"key": "quantity", "title": "Position", "kind": "number"},
    {"key": "cost", "title": "Average cost", "kind": "number"}, {"key": "price", "title": "Price", "kind": "number"},
    {"key": "value", "title": "Value", "kind": "number"}, {"key": "unrealised", "title": "Unrealised", "kind": "money"},
    {"key": "realised", "title": "Realised", "kind": "money"}, {"key": "fees", "title": "Fees", "kind": "number"},
    {"key": "currency", "title": "in", "kind": "text"}, {"key": "note", "title": "", "kind": "text"},
]


@dataclass(frozen=True)
class Made:
    """Figures ready to be shown: the curve in one currency, and its charts when they are new."""

    currency: str
    columns: dict[str, np.ndarray]
    charts: list[Drawing] | None


class Trading:
    """The first tab. `view` is its layout. Rows are shown as they come; charts are brought up to date by `draw`, while
    somebody looks at them. `stirred` hears when there is something to draw."""

    def __init__(self, client: AsyncClient, model: str, look: Style, locked: Locked,
                 stirred: Callable[[], None] = lambda: None) -> None:
        self._client, self._model, self._look, self._locked = client, model, look, locked
        self._stirred = stirred
        self._undrawn: dict[str, Order] = {}
        self._uncounted = self._stale = False
        self._price_sight, self._profit_sight = Sight(stirred), Sight(stirred)
        self._cursor: str | None = None
        self._chart: PriceChart | None = None
        self._profit: list[Drawing] = []
        self._currency = ""
        self._orders: dict[str, Order] = {}
        self._symbols: list[str] = []
        self.orders = LiveRows(look, columns=ORDERS, caption="Orders", placeholder="No orders yet.", awaited=True,
                               most=2000, tall=440, picks=True, asks=True, searchable="Search orders",
                               asked=self._asked)
        self._until: float | None = None
        self._text = ""
        self._meanwhile: dict[str, Order] | None = None
        self._turn = asyncio.Lock()
        self._told = False
        self._symbol = pn.widgets.Select(label="Symbol", options=[], width=180, margin=0, visible=False)
        self._symbol.param.watch(self._chosen, "value")
        self._money = pn.widgets.Select(label="Profit in", options=[], width=110, margin=0, visible=False)
        self._money.param.watch(self._recounted, "value")
        self._price = pn.Column(words('<p class="empty" role="status">The chart is being drawn …</p>', look),
                                sizing_mode="stretch_width", margin=0, min_height=380)
        self._note = words("", look)
        self._curves = pn.Column(sizing_mode="stretch_width", margin=0)
        self._curve_note = words("", look)
        self._no_curve = words('<p class="empty">The profit curve begins with the first trade that has a price.</p>',
                               look)
        self.positions = LiveRows(look, columns=POSITIONS, caption="Positions", page=50, most=5000,
                                  placeholder="No position has been opened yet.", awaited=True)
        self._figures: Figures | None = None
        card = {"background": look.surface, "border": f"1px solid {look.border}", "border-radius": "10px",
                "padding": "12px 14px", "min-width": "0"}

        def part(*content: Any, title: str = "") -> pn.Column:
            return pn.Column(*([words(f"<h2>{title}</h2>", look)] if title else []), *content,
                             sizing_mode="stretch_width", margin=0, styles=card)

        self.view = pn.Column(
            part(pn.FlexBox(words("<h2>Price and orders</h2>", look, styles={"flex": "1 1 160px"}), self._symbol,
                            sizing_mode="stretch_width", margin=0, align_items="center"), self._price, self._note,
                 self._price_sight),
            part(pn.FlexBox(words("<h2>Profit</h2>", look, styles={"flex": "1 1 160px"}), self._money,
                            sizing_mode="stretch_width", margin=0, align_items="center"), self._curves,
                 self._curve_note, self._profit_sight),
            part(self.positions, title="Positions"), part(self.orders, title="Orders"),
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    # -- orders --------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """The newest orders."""
        async with self._turn:  # one after the other, so that the last to be asked for is the one that stays
            self._meanwhile = {}
            try:
                page = await self._read(limit=FIRST, text=self._text)
            finally:
                meanwhile, self._meanwhile = self._meanwhile, None
            self._cursor = page.next
            if not self._text:
                self._orders = {order.id: order for order in page.items[::-1]} | meanwhile
            self.orders.reset([order_row(order) for order in page.items], more=page.next is not None,
                              note=f"{len(page.items)}{'+' if page.next else ''} fit" if self._text else "")
            if meanwhile and not self._text:
                self._put(meanwhile)

    async def load(self, symbols: tuple[str, ...]) -> None:
        """The newest orders unless they have been read, and the chart of the symbol that was traded last."""
        if not self.orders.filled:
            await self.read()
        latest = next(reversed(self._orders.values()), None)
        self._symbols = list(dict.fromkeys([*symbols, *(order.symbol for order in self._orders.values())]))
        self._offer(latest.symbol if latest else (self._symbols[0] if self._symbols else ""))
        await self._open(self._symbol.value or "")

    def _offer(self, chosen: str) -> None:
        self._told = True  # this is no person's choice
        self._symbol.param.update(options=list(self._symbols), value=chosen or None, visible=len(self._symbols) > 1)
        self._told = False

    async def _open(self, symbol: str) -> None:
        if not symbol:
            self._price[:] = [words('<p class="empty">The price chart begins with the first order.</p>', self._look)]
            return
        page = await self._read(limit=DRAWN, symbol=symbol)
        self._chart = await PriceChart.make(self._client, symbol, page.items[::-1], self._look,
                                            self._locked)
        self._price[:] = [pn.pane.Bokeh(self._chart.figure, sizing_mode="stretch_width", margin=0)]
        assert self._chart.zoom is not None
        self._say()
        if self._undrawn:  # they came while the chart was made
            self._stirred()

    def _say(self) -> None:
        if self._chart is not None:
            self._note.object = f'<p class="muted" style="margin:4px 0 0">{self._chart.message}</p>'

    def _chosen(self, event: Any) -> None:
        if not self._told and event.new and (self._chart is None or self._chart.symbol != event.new):
            pn.state.execute(partial(self._open, event.new))

    def heard(self, orders: list[Order]) -> None:
        """Show the rows of orders that were followed, and keep them for the chart."""
        latest = {order.id: order for order in orders}  # of several words about one order the last counts
        self._keep(latest)
        self._orders |= latest
        for id in list(self._orders)[:max(len(self._orders) - 2 * DRAWN, 0)]:
            del self._orders[id]
        if self._meanwhile is not None:
            self._meanwhile |= latest
        elif not self._text:
            self._put(latest)

    def _put(self, latest: Mapping[str, Order]) -> None:
        oldest = self.orders.put([order_row(order) for order in latest.values()])
        if oldest is not None:
            self._until = oldest["at"]

    def _keep(self, latest: Mapping[str, Order]) -> None:
        """The newest orders that the chart has yet to show; it never shows more."""
        for id, order in latest.items():
            if order.symbol not in self._symbols:
                self._symbols.append(order.symbol)
            self._undrawn.pop(id, None)
            if self._chart is None or order.symbol == self._chart.symbol:
                self._undrawn[id] = order
        for id in list(self._undrawn)[:max(len(self._undrawn) - DRAWN, 0)]:
            del self._undrawn[id]
        self._stirred()

    async def draw(self, change: Callable[[Callable[[], None]], Awaitable[None]]) -> float:
        """Bring the charts that are looked at up to date; `change` does something under the document's lock. Gives the
        seconds that the browser took to draw them; others wait until somebody looks."""
        if self._stale and self._price_sight.seen:
            await self.refresh()
        orders = self._price_sight.seen and bool(self._undrawn)
        figures = self._figures if self._uncounted and self._profit_sight.seen else None
        if not orders and figures is None:
            return 0.0
        made = None
        if figures is not None:
            self._uncounted = False
            made = await self.prepare(figures)

        def work() -> None:
            if orders:
                self._mark()
            if figures is not None and made is not None:
                self._show_profit(figures, made)

        await change(work)
        return await (self._price_sight if orders else self._profit_sight).drawn()

    def _mark(self) -> None:
        if self._chart is None:
            pn.state.execute(self.begin)
            return
        mine = [order for order in self._undrawn.values() if order.symbol == self._chart.symbol]
        self._undrawn = {}
        if mine:
            self._chart.put(mine)
        if len(self._symbols) != len(self._symbol.options):
            self._offer(self._chart.symbol)

    async def begin(self) -> None:
        """The chart, once there is something to show."""
        if self._chart is None and self._symbols:
            self._offer(self._symbols[-1])
            await self._open(self._symbols[-1])

    def annotated(self, id: str, annotation: str) -> list[Order]:
        """The order with its reason, when it is at hand."""
        known = self._orders.get(id)
        return [replace(known, annotation=annotation)] if known is not None else []

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        if name == "more":
            async with self._turn:
                if self._cursor or self._until:  # two clicks ask for two pages
                    page = await self._older()
                    self._cursor, self._until = page.next, None
                    self._orders = {**{order.id: order for order in page.items[::-1]}, **self._orders}
                    self.orders.older([order_row(order) for order in page.items], more=page.next is not None)
        elif name == "search":
            self._text, self._until = str(data.get("text") or "")[:200], None
            await self.read()
        elif name == "pick":
            await self.show(str(data.get("id")))

    async def _older(self) -> Any:
        """The page before the oldest order of the table; from its time on when the table had to drop some."""
        if self._until is not None:
            return await self._client.orders(self._model, limit=2 * FIRST, end=times.instant(round(self._until * 1000)))
        return await self._read(limit=FIRST, cursor=self._cursor, text=self._text)

    async def _read(self, *, limit: int, cursor: str | None = None, **filters: Any) -> Rows[Order]:
        """A page of orders. The server looks for what fits piece by piece, so that a rare word keeps nobody waiting."""
        found: list[Order] = []
        for _ in range(LOOKS):
            page = await self._client.orders(self._model, limit=limit - len(found), cursor=cursor, **filters)
            found += page.items
            cursor = page.next
            if cursor is None or len(found) == limit:
                break
        return Rows(items=tuple(found), next=cursor)

    async def show(self, id: str) -> None:
        """Move the chart to an order."""
        order = self._orders.get(id) or await self._client.order(self._model, id)
        if self._chart is None or self._chart.symbol != order.symbol:
            self._offer(order.symbol)
            await self._open(order.symbol)
        chart = self._chart
        if chart is None:
            return
        if not chart.shows(id):
            self._locked(lambda: chart.put([order]))
        self._locked(lambda: chart.centre(id) if chart.shows(id) else None)

    # -- profit --------------------------------------------------------------------------------------------------

    async def prepare(self, figures: Figures) -> Made:
        """What takes a while of showing figures: the curve, and its charts when there are none yet."""
        currency = str(self._money.value or "")
        if currency not in figures.curves:
            currency = next(iter(figures.curves), "")
        columns = curve_of(figures, currency)
        fresh = len(columns["time"]) > 1 and (not self._profit or currency != self._currency)
        return Made(currency, columns, await beside(None, self._charts, columns, currency) if fresh else None)

    async def profit(self, figures: Figures) -> None:
        """Show figures of profit and positions, the first ones."""
        self.count(figures)
        self._uncounted = False
        self._show_profit(figures, await self.prepare(figures))

    def count(self, figures: Figures) -> None:
        """Show positions, and keep the figures for the charts."""
        self._figures, self._uncounted = figures, True
        rows = positions_of(figures)
        if rows != self.positions.rows or not self.positions.filled:
            self.positions.reset(rows)
        self._stirred()

    def _show_profit(self, figures: Figures, made: Made) -> None:
        currencies = list(figures.curves)
        if currencies != list(self._money.options):
            self._told = True
            self._money.param.update(options=currencies, visible=len(currencies) > 1, value=made.currency or None)
            self._told = False
        self._show_curve(figures, made)

    def _recounted(self, event: Any) -> None:
        if not self._told and self._figures is not None:
            pn.state.execute(self._recount)

    async def _recount(self) -> None:
        figures = self._figures
        assert figures is not None
        made = await self.prepare(figures)
        self._locked(lambda: self._show_curve(figures, made))

    def _show_curve(self, figures: Figures, made: Made) -> None:
        note = f'<p class="muted" style="margin:4px 0 0">{escape(figures.note(made.currency))}</p>'
        if self._curve_note.object != note:
            self._curve_note.object = note
        if len(made.columns["time"]) < 2:
            self._profit = []
            if len(self._curves) != 1 or self._curves[0] is not self._no_curve:
                self._curves[:] = [self._no_curve]
        elif made.charts is not None:
            self._profit, self._currency = made.charts, made.currency
            figure = column(*(drawing.figure for drawing in self._profit), sizing_mode="stretch_width", spacing=0)
            self._curves[:] = [pn.pane.Bokeh(figure, sizing_mode="stretch_width", margin=0)]
        elif self._profit:
            for drawing in self._profit:
                for label in drawing.sources:
                    grow(drawing, label, made.columns)

    def _charts(self, columns: dict[str, np.ndarray], currency: str) -> list[Drawing]:
        drawings = [draw(pictures.profit(columns, self._look, currency=currency), self._look),
                    draw(pictures.drawdown(columns, self._look, height=124, currency=currency), self._look)]
        figures = [drawing.figure for drawing in drawings]
        shared = drawings[0].sources["Profit"]  # the same rows: they travel once
        for renderer in figures[1].renderers:
            renderer.data_source = shared
        drawings[1].sources.clear()
        link(figures, crosshair=self._look.muted)
        hide_x(figures[:-1])
        return drawings

    async def refresh(self) -> None:
        """Newer candles under the orders, while somebody looks or once somebody does."""
        self._stale = not self._price_sight.seen
        if self._chart is not None and not self._stale:
            await self._chart.refresh()
