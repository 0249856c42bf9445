"""Alerts as cards, each on its chart: candles around its life, the lines of start, target and stop."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import param

from engine import analysis, times
from engine.alerts import Alert, gain_of, r_of
from engine.analysis import Columns
from engine.errors import Invalid, NotFound
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.live_part import Script
from workbench.views.live_rows import sheet
from workbench.views.model_rows import millis
from workbench.views.model_symbols import resolve

__all__ = ["STATES", "AlertCards", "Prices", "card_of", "instrument_of", "named", "price"]

_HERE: Final = Path(__file__).parent
_CSS: Final = (_HERE / "alerts_cards.css").read_text()
BARS: Final = 110
"""Candles on a card, as far as the alert's life allows."""
BEFORE: Final = 40
"""Candles before the detection, at least."""
STATES: Final[Mapping[str, tuple[str, str]]] = {
    "working": ("working", "idle"), "onGoing": ("on going", "live"), "closed": ("closed", "good"),
    "aborted": ("aborted", "unknown")}
Card = dict[str, Any]


class AlertCards(Script):
    """Cards fed with `reset` and `put`; a card is made by `card_of`. `large` makes all of them as wide as the page."""

    caption = param.String(default="Alerts on their charts")
    large = param.Boolean(default=False)

    _esm = "alerts_cards.js"

    def __init__(self, look: Style, **params: Any) -> None:
        params.setdefault("sizing_mode", "stretch_width")
        params.setdefault("margin", 0)
        super().__init__(stylesheets=[sheet(look) + _CSS], **params)
        self._cards: dict[int, Card] = {}

    @property
    def cards(self) -> list[Card]:
        """What is shown, in order."""
        return list(self._cards.values())

    def reset(self, cards: Iterable[Card]) -> None:
        """Show these, in this order."""
        self._cards = {card["id"]: card for card in cards}
        self._send_msg({"do": "reset", "cards": self.cards})

    def put(self, cards: Sequence[Card]) -> None:
        """Change cards that are shown, or add some at the end."""
        self._cards |= {card["id"]: card for card in cards}
        self._send_msg({"do": "put", "cards": list(cards)})

    async def _handle_msg(self, data: dict[str, Any]) -> None:  # type: ignore[override]  # Panel awaits it
        if data.get("ask") == "ready":  # a browser begins to listen: what was said before went unheard
            self._send_msg({"do": "reset", "cards": self.cards})


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The candles around one alert: `step` is seconds of one of them, `dataset` where they are from."""

    candles: Columns
    step: int
    dataset: str


class Prices:
    """Candles for cards, from the stored datasets. `stored` is read anew by `look`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._stored: list[dict[str, Any]] = []

    async def look(self) -> set[str]:
        """Read which candles are stored; the markets that have changed since the last look."""
        before = {(entry["market"], entry["resolution"]): entry["last"] for entry in self._stored}
        self._stored = await self._client.markets()
        return {entry["market"] for entry in self._stored
                if before.get((entry["market"], entry["resolution"])) != entry["last"]}

    def dataset(self, alert: Alert) -> dict[str, Any] | None:
        """The dataset with the candles of an alert: of its market, else of a market whose name its ticker is; of
        bars that a card has room for."""
        at = times.micros(alert.detected_at)
        mine = [entry for entry in self._stored if entry["market"] == alert.market]
        if not mine:
            found = resolve(alert.ticker, "", self._stored, at)
            mine = [entry for entry in self._stored if found and entry["market"] == found["market"]]
        lived = (times.micros(alert.ended_at or times.now()) - at) / times.SECOND
        fitting = [entry for entry in mine if times.micros(times.parse(entry["last"])) >= at - 30 * times.DAY]
        fine = sorted(fitting, key=lambda entry: times.resolution(entry["resolution"]))
        for entry in fine:
            if lived / times.resolution(entry["resolution"]) <= 20 * BARS:
                return entry
        return fine[-1] if fine else None

    async def around(self, alert: Alert) -> Seen | None:
        """The candles around an alert's life, joined until they fit on a card; None when none are stored."""
        entry = self.dataset(alert)
        if entry is None:
            return None
        seconds = times.resolution(entry["resolution"])
        last = times.micros(times.parse(entry["last"])) + seconds * times.SECOND
        began = times.micros(alert.detected_at)
        end = min(last, times.micros(alert.ended_at or times.now()))
        lived = max(end - began, 0)
        room = max(BEFORE * seconds * times.SECOND, lived // 3)
        if alert.ended_at is not None:
            end = min(last, end + room // 2)
        start = min(began, end) - room
        try:
            candles = await self._client.candles(entry["market"], entry["resolution"], start=times.instant(start),
                                                 end=times.instant(end))
        except (NotFound, Invalid):
            return None
        joined, step = _joined(candles, seconds)
        return Seen(candles=joined, step=step, dataset=f"{entry['market']}, {entry['resolution']}")

    async def cards(self, alerts: Sequence[Alert]) -> list[Card]:
        """The cards of alerts."""
        seen = await asyncio.gather(*(self.around(alert) for alert in alerts))
        return [card_of(alert, each) for alert, each in zip(alerts, seen, strict=True)]


def _joined(candles: Columns, seconds: int) -> tuple[Columns, int]:
    """Candles joined so that at most `BARS` are left, and the seconds of one."""
    count = len(candles["time"])
    if count <= BARS:
        return candles, seconds
    return analysis.aggregate_candles(candles, BARS), seconds * -(-count // BARS)


def price(value: float | None) -> str:
    """A price in as many digits as it needs."""
    if value is None:
        return "–"
    digits = 2 if abs(value) >= 1000 else 4 if abs(value) >= 1 else 8
    text = f"{value:,.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def signed(value: float | None, digits: int = 2, unit: str = "") -> tuple[str, str]:
    """A figure with its sign, and its tone."""
    if value is None:
        return "–", ""
    tone = "gain" if value > 0 else "loss" if value < 0 else ""
    return f"{value:+,.{digits}f}{unit}".replace("-", "−"), tone


def named(alert: Alert) -> str:
    """Who gave an alert: the detector's key, or the bot's own word."""
    return alert.detector or alert.source


def instrument_of(alert: Alert) -> str:
    """The class of an alert's market in one short word."""
    return "crypto" if alert.instrument == "CRYPTOCURRENCIES" else alert.instrument.lower()


def card_of(alert: Alert, seen: Seen | None) -> Card:
    """What a card shows."""
    candles = seen.candles if seen else {name: np.empty(0) for name in ("time", "open", "high", "low", "close")}
    last = float(candles["close"][-1]) if len(candles["close"]) else None
    facts: list[tuple[str, str, str]] = []
    if alert.state == "closed":
        facts = [("result", *signed(alert.r, unit=" R")), ("exit", price(alert.exit), ""),
                 ("gain", *signed(alert.gain, 4))]
    elif alert.state == "onGoing" and last is not None:
        gain = gain_of(alert.direction, alert.entry if alert.entry is not None else alert.start, last)
        facts = [("now", *signed(r_of(gain, alert.start, alert.stop), unit=" R")),
                 ("to target", *signed((alert.target - last) / abs(last or 1) * 100, unit=" %")[:1], ""),
                 ("to stop", *signed((alert.stop - last) / abs(last or 1) * 100, unit=" %")[:1], "")]
    elif alert.state == "working" and last is not None:
        facts = [("to start", *signed((alert.start - last) / abs(last or 1) * 100, unit=" %")[:1], "")]
    reward = abs(alert.target - alert.start) / abs(alert.start - alert.stop)
    facts.append(("aims at", f"{reward:.2f} R", ""))
    word, tone = STATES.get(alert.state, (alert.state, "unknown"))
    if alert.state == "closed" and (alert.gain or 0) <= 0:
        tone = "bad"
    about = " · ".join((instrument_of(alert), alert.duration_strategy, named(alert)))
    levels = {name: getattr(alert, name) for name in ("start", "target", "stop", "entry", "exit")}
    said = (f"{alert.direction.lower()} {alert.ticker}, {word}: start {price(alert.start)}, target "
            f"{price(alert.target)}, stop {price(alert.stop)}" + ("" if last is None else f", last {price(last)}"))
    return {
        "id": alert.id, "title": alert.ticker, "direction": alert.direction, "state": [word, tone], "about": about,
        "reason": alert.reason, "said": said, "levels": levels, "facts": facts,
        "note": "" if seen and len(candles["time"]) else "no candles of this market are stored for this time",
        "life": {"detected": millis(alert.detected_at), "started": millis(alert.started_at),
                 "ended": millis(alert.ended_at)},
        "now": None if len(candles["time"]) else millis(times.now()), "step": (seen.step if seen else 60) * 1000,
        "candles": {name: (candles["time"] / 1000 if name == "time" else candles[name]).tolist()
                    for name in ("time", "open", "high", "low", "close")}}
