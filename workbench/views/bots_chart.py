"""A bot's candles with its advice and trades, growing while it runs."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from bokeh.layouts import column

from engine import times
from engine.plots import candles as candle_pictures
from engine.plots import live as pictures
from engine.plots.render import Drawing, draw, span_of
from engine.plots.style import Style
from workbench.views.drawing import beside

__all__ = ["BotChart", "seconds"]

CANDLES: Final = 240
"""Candles that are kept on the screen."""
FIGURES: Final = ("open", "high", "low", "close", "volume")


def seconds(at: Any) -> int:
    """An instant of a payload as seconds."""
    return times.micros(times.parse(at)) // times.SECOND


class BotChart:
    """Candles of `size` minutes, counted from the first one heard. `figure` is the Bokeh layout, after `make`.

    What arrives is taken with `hear` and shown with `show`, which needs the document's lock.
    """

    def __init__(self, size: int, look: Style, currency: str = "") -> None:
        self._width, self._look, self._currency = size * 60, look, currency
        self._anchor: int | None = None
        self._candles: dict[int, list[float]] = {}
        self._heard = -1  # the last minute
        self._marks: dict[str, dict[str, Any]] = {}
        self._drawing: Drawing | None = None
        self._following, self._settling = True, False
        self.figure: Any = None

    # -- what is known

    def begin(self, anchor: int) -> None:
        """Where the first candle starts (seconds)."""
        self._anchor = anchor

    def minutes(self, minutes: Iterable[Mapping[str, Any]]) -> None:
        """Take minutes in order of time: start (seconds or an instant), open, high, low, close, volume."""
        for minute in minutes:
            start = minute["start"] if isinstance(minute["start"], int) else seconds(minute["start"])
            if start <= self._heard:
                continue
            self._heard = start
            if self._anchor is None:
                self._anchor = start
            place = self._anchor + (start - self._anchor) // self._width * self._width
            known = self._candles.get(place)
            if known is None:
                self._candles[place] = [float(minute[name]) for name in FIGURES]
            else:
                known[1], known[2] = max(known[1], minute["high"]), min(known[2], minute["low"])
                known[3], known[4] = float(minute["close"]), known[4] + minute["volume"]
        for place in list(self._candles)[:max(len(self._candles) - CANDLES, 0)]:
            del self._candles[place]

    def trade(self, payload: Mapping[str, Any]) -> None:
        """Take a trade."""
        self._marks[f"trade {payload['id']}"] = {
            "id": payload["id"], "time": seconds(payload["date"]) * times.SECOND, "price": float(payload["price"]),
            "side": payload["action"], "amount": f"{payload['amount']:.6g}", "note": "",
            "status": f"balance {payload['balance']:,.2f}"}

    def advice(self, payload: Mapping[str, Any], price: float | None = None) -> None:
        """Take an advice; it stands where the price was (None: at the newest close)."""
        if price is None:
            price = self.price
        if price is not None:
            self._marks[f"advice {payload['id']}"] = {
                "id": payload["id"], "time": seconds(payload["date"]) * times.SECOND, "price": price, "side": "advice",
                "amount": "", "note": f"advice {payload['recommendation']}", "status": ""}

    @property
    def price(self) -> float | None:
        """The newest close."""
        return self._candles[next(reversed(self._candles))][3] if self._candles else None

    def close_at(self, at: Any) -> float | None:
        """The close of the candle that an instant lies in, or ends; None when it is not kept."""
        if self._anchor is None:
            return None
        before = seconds(at) - 60
        found = self._candles.get(self._anchor + (before - self._anchor) // self._width * self._width)
        return None if found is None else found[3]

    def _boxes(self) -> dict[str, np.ndarray]:
        if not self._candles:
            return pictures.no_boxes()
        table = np.array(list(self._candles.values()), float)
        time = np.array(list(self._candles), np.int64) * times.SECOND
        columns = {"time": time, "last": time, **{name: table[:, place] for place, name in enumerate(FIGURES)}}
        return candle_pictures.boxes(columns, self._width, self._look)

    def _seen(self) -> list[dict[str, Any]]:
        first = next(iter(self._candles), 0) * times.SECOND
        return sorted((mark for mark in self._marks.values() if mark["time"] >= first), key=lambda mark: mark["time"])

    def _span(self) -> tuple[float, float]:
        """The range that shows everything, in milliseconds, with room for the next candles."""
        first, last = next(iter(self._candles), 0), next(reversed(self._candles), 0)
        least = first + 30 * self._width
        end = max(last + 3 * self._width, least)
        return (first - self._width) * 1000.0, (end + (end - first) * 0.04) * 1000.0

    # -- the picture

    async def make(self) -> None:
        """Draw it for the first time."""
        await beside(None, self._draw)

    def _draw(self) -> None:
        boxes = self._boxes()
        self._drawing = draw(pictures.price(boxes, self._seen(), self._look, height=360, currency=self._currency),
                             self._look)
        figure = self._drawing.figure
        for bound in ("start", "end"):
            figure.x_range.on_change(bound, self._moved)
        self.figure = column(figure, sizing_mode="stretch_width", spacing=0)
        self._fit(boxes)

    def _moved(self, attribute: str, old: Any, new: Any) -> None:
        """A person who moved away from the end is not pulled back to it."""
        if self._settling or self._drawing is None or not self._candles:
            return
        last = next(reversed(self._candles)) * 1000.0
        axis = self._drawing.figure.x_range
        low, high = (value if isinstance(value, int | float) else value.timestamp() * 1000
                     for value in (axis.start, axis.end))
        self._following = low < last <= high

    def _fit(self, boxes: Mapping[str, np.ndarray]) -> None:
        assert self._drawing is not None
        if not self._candles or not self._following:
            return
        self._settling = True
        start, end = self._span()
        self._drawing.figure.x_range.update(start=start, end=end, reset_start=start, reset_end=end)
        fit = span_of([boxes["low"], boxes["high"]], margin=0.1)
        if fit is not None:
            self._drawing.figure.y_range.update(start=fit[0], end=fit[1], reset_start=fit[0], reset_end=fit[1])
        self._settling = False

    def show(self) -> None:
        """Put everything that is known on the screen."""
        if self._drawing is None:
            return
        boxes = self._boxes()
        for label in ("wicks", "bodies"):
            self._drawing.fill(label, boxes)
        for label, columns in pictures.marks(self._seen()).items():
            self._drawing.fill(label, columns)
        self._fit(boxes)
