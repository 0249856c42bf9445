"""A symbol's candles with a bot's orders on them, growing while the bot trades."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from bokeh.layouts import column

from engine import analysis, times
from engine.activity import Order
from engine.errors import Invalid, NotFound, Unavailable
from engine.plots import candles as candle_pictures
from engine.plots import live as pictures
from engine.plots.render import Drawing, draw, span_of
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.drawing import beside, few
from workbench.views.model_symbols import currency_of, instant, resolve
from workbench.views.zoom import SETTLE_MS, Zoom

log = logging.getLogger("workbench.pages")
Locked = Callable[[Callable[[], None]], None]
"""Does something to Bokeh models when their document may be changed."""
MARGIN: Final = 0.06


def mark_of(order: Order) -> dict[str, Any] | None:
    """What the chart shows of an order; None for one without a price."""
    price = order.price if order.price is not None else order.activate
    if price is None or not np.isfinite(price):
        return None
    amount = f"{order.size:g}" if order.size is not None else f"{order.funds:g} {currency_of(order.symbol)}".strip()
    return {"id": order.id, "time": times.micros(order.executed_at or order.at), "price": float(price),
            "side": order.side, "amount": amount, "note": order.annotation or "", "status": order.status or ""}


class PriceChart:
    """One symbol of a model. `figure` is the Bokeh layout; `put` adds orders under the document's lock."""

    def __init__(self, client: AsyncClient, symbol: str, look: Style, locked: Locked) -> None:
        self.symbol = symbol
        self._client, self._look, self._locked = client, look, locked
        self._marks: dict[str, dict[str, Any]] = {}
        self._unpriced: set[str] = set()
        self._dataset: dict[str, Any] | None = None
        self._seconds = 60
        self._drawing: Drawing | None = None
        self._following = True
        self._settling = self._waiting = False
        self._task: asyncio.Task[None] | None = None
        self.figure: Any = None
        self.zoom: Zoom | None = None

    @classmethod
    async def make(cls, client: AsyncClient, symbol: str, orders: Sequence[Order], look: Style,
                   locked: Locked = lambda change: change()) -> "PriceChart":
        """The chart of a symbol with these orders of it; `locked` does something when the figure may be changed."""
        chart = cls(client, symbol, look, locked)
        chart._take(orders)
        await chart._find(orders[-1].exchange if orders else "")
        low, high = chart._span()
        candles = await chart._candles(low, high)
        await beside(None, chart._draw, candles, low, high)
        assert chart.zoom is not None
        return chart

    @property
    def message(self) -> str:
        """What to know about the picture."""
        parts = []
        if self._dataset is None:
            parts.append("no candles of this symbol are stored for this time: the line joins the orders' own prices"
                         if self._marks else "no candles of this symbol are stored")
        else:
            parts.append(f"candles: {self._dataset['market']}, {self._dataset['resolution']}")
        if self._unpriced:
            parts.append(f"{len(self._unpriced):,} without a price are not drawn")
        return "; ".join(parts)

    async def _find(self, exchange: str) -> None:
        at = max((mark["time"] for mark in self._marks.values()), default=times.micros(times.now()))
        self._dataset = resolve(self.symbol, exchange, await self._client.markets(), at)
        if self._dataset is not None:
            self._seconds = times.resolution(self._dataset["resolution"])

    def _take(self, orders: Sequence[Order]) -> list[dict[str, Any]]:
        taken = []
        for order in orders:
            mark = mark_of(order)
            if mark is None:
                self._unpriced.add(order.id)
                continue
            self._unpriced.discard(order.id)
            self._marks[order.id] = mark
            taken.append(mark)
        for id in list(self._marks)[:max(len(self._marks) - pictures.MARKS, 0)]:
            del self._marks[id]
        return taken

    def _sorted(self) -> list[dict[str, Any]]:
        return sorted(self._marks.values(), key=lambda mark: mark["time"])

    def _span(self) -> tuple[int, int]:
        """The range that shows the orders, with room beside them."""
        stamps = [mark["time"] for mark in self._marks.values()]
        if not stamps:
            end = times.micros(times.now()) if self._dataset is None else instant(self._dataset["last"])
            return end - 120 * self._seconds * times.SECOND, end
        low, high = min(stamps), max(stamps)
        least = 20 * self._seconds if self._dataset else 60
        room = max(int((high - low) * MARGIN), least * times.SECOND)
        return low - room, high + room

    async def _candles(self, start: int, end: int) -> analysis.Columns | None:
        if self._dataset is None:
            return None
        try:
            return await self._client.candles(self._dataset["market"], self._dataset["resolution"],
                                              start=times.instant(start), end=times.instant(end),
                                              points=candle_pictures.BARS)
        except (NotFound, Invalid):
            return None

    def _boxes(self, candles: analysis.Columns | None) -> dict[str, np.ndarray]:
        if candles is None or not len(candles["time"]):
            return pictures.no_boxes()
        return candle_pictures.boxes(candles, self._seconds, self._look)

    def _draw(self, candles: analysis.Columns | None, low: int, high: int) -> None:
        boxes = self._boxes(candles)
        self._drawing = draw(pictures.price(boxes, self._sorted(), self._look, currency=currency_of(self.symbol)),
                             self._look)
        figure = self._drawing.figure
        figure.x_range.update(start=low / 1000, end=high / 1000, reset_start=low / 1000, reset_end=high / 1000)
        figure.x_range.min_interval = 5_000.0
        self.zoom = Zoom(figure, self._refresh, live=False)
        for bound in ("start", "end"):
            figure.x_range.on_change(bound, self._moved)
        self.figure = column(figure, sizing_mode="stretch_width", spacing=0)
        self._fit(boxes, low, high)

    def _left(self) -> None:
        """A person who moved away from the end is not pulled back to it."""
        if self._settling or self.zoom is None:
            return
        low, high = self.zoom.view
        last = max((mark["time"] for mark in self._marks.values()), default=high)
        self._following = low < last <= high

    def _fit(self, boxes: dict[str, np.ndarray], low: int, high: int) -> None:
        assert self._drawing is not None
        prices = np.array([mark["price"] for mark in self._marks.values() if low <= mark["time"] <= high], float)
        inside: Any = slice(None)
        if len(boxes["time"]):
            shown = boxes["time"].astype("datetime64[us]").astype(np.int64)
            inside = (shown >= low) & (shown <= high)
        fit = span_of([boxes["low"][inside], boxes["high"][inside], prices], margin=0.1)
        if fit is not None:
            self._drawing.figure.y_range.update(start=fit[0], end=fit[1])

    async def _refresh(self, start: int, end: int) -> None:
        if self._dataset is None:
            self._locked(lambda: self._fit(pictures.no_boxes(), start, end))
            return
        margin = (end - start) // 4
        boxes = self._boxes(await self._candles(start - margin, end + margin))

        def change() -> None:
            assert self._drawing is not None
            for label in ("wicks", "bodies"):
                self._drawing.fill(label, boxes)
            self._fit(boxes, start, end)

        self._locked(change)

    def _moved(self, attribute: str, old: Any, new: Any) -> None:
        """Fetch what is visible once the view rests."""
        assert self._drawing is not None
        self._left()
        if self._waiting or self._dataset is None:
            return
        document = self._drawing.figure.document
        if document is not None and document.session_context is not None:
            self._waiting = True
            document.add_timeout_callback(self._settled, SETTLE_MS)
            return
        try:
            loop = asyncio.get_running_loop()  # a notebook's
        except RuntimeError:
            return
        self._waiting = True
        self._task = loop.create_task(self._settled(SETTLE_MS / 1000))

    async def _settled(self, pause: float = 0.0) -> None:
        await asyncio.sleep(pause)
        self._waiting = False
        await self.refresh()

    def put(self, orders: Sequence[Order]) -> None:
        """Show new orders, and what changed of known ones. The caller holds the document's lock."""
        assert self._drawing is not None
        known = set(self._marks)
        taken = self._take(orders)
        if not taken:
            return
        fresh = [mark for mark in taken if mark["id"] not in known]
        if len(fresh) == len(taken) and len(self._marks) < pictures.MARKS:
            for label, columns in pictures.marks(fresh).items():
                if len(columns["time"]):
                    source = self._drawing.sources[label]
                    source.stream(few({name: columns[name] for name in source.data}),
                                  pictures.MARKS if label != "notes" else pictures.NOTES)
            if self._dataset is None:
                self._drawing.sources["line"].stream(few(pictures.path(fresh)), pictures.MARKS)
        else:
            for label, columns in pictures.marks(self._sorted()).items():
                self._drawing.fill(label, columns)
            if self._dataset is None:
                self._drawing.fill("line", pictures.path(self._sorted()))
        if self._following:
            self._settling = True
            axis, (_, high) = self._drawing.figure.x_range, self._span()
            if axis.end < max(mark["time"] for mark in taken) / 1000 + (axis.end - axis.start) * MARGIN / 4:
                axis.update(end=high / 1000, reset_end=high / 1000)
            prices = np.array([mark["price"] for mark in fresh], float)
            rows = self._drawing.figure.y_range
            if len(prices) and rows.start is not None and not (rows.start < prices.min() and prices.max() < rows.end):
                gap = max(abs(rows.end - rows.start) * 0.05, float(prices.max()) * 1e-4)
                rows.update(start=min(rows.start, float(prices.min()) - gap),
                            end=max(rows.end, float(prices.max()) + gap))
            self._settling = False

    def shows(self, id: str) -> bool:
        """Whether this order is drawn."""
        return id in self._marks

    def centre(self, id: str) -> None:
        """Move to an order and light it up. The caller holds the document's lock."""
        assert self._drawing is not None
        mark = self._marks[id]
        axis = self._drawing.figure.x_range
        half = (axis.end - axis.start) / 2
        at = mark["time"] / 1000
        self._drawing.fill("chosen", pictures.path([mark]))
        axis.update(start=at - half, end=at + half)
        self._following = False

    async def refresh(self) -> None:
        """Fetch the candles of the visible range; those that are shown stay when the server is away."""
        if self.zoom is None or self._dataset is None:
            return
        try:
            await self.zoom.now()
        except Unavailable:
            log.info("the candles of %s could not be fetched", self.symbol)
