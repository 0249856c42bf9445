"""Gekko's paper trader one minute at a time: the events of a running instance, in the order of the original.

The same compiled steps and the same sums as in a backtest: fed with a backtest's candles, an instance says the same,
event by event. Three producers (adviser, trader, analyzer) hear each minute one after another; what they have to say
waits in a queue each, and one event after another is delivered from the first queue that is not empty, because what an
event causes may come before what was already waiting behind it.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from engine import times
from engine.errors import Invalid
from engine.gekko_report import performance, plain
from engine.gekko_settings import Settings
from engine.live import Stepper

Event = tuple[str, Any]
"""Type and payload, times as whole seconds since 1970."""

_REMEMBERED: Final = (
    "_from", "_small", "_warm", "_direction", "_advices", "_pending", "_age", "_asset", "_currency", "_exposed",
    "_trading", "_analyzing", "_told", "_stop", "_triggers", "_number", "_last_advice", "_price", "_now", "_begin",
    "_start_balance", "_balance", "_end_price", "_trades", "_trip")
"""All that changes, except for the finished roundtrips, the strategy's state and the queues (empty between minutes)."""


class PaperGekko:
    """A strategy on live candles, with paper trading and figures. Feed `push` with minutes in order of time.

    `started` (seconds) is when a live instance was started: candles of the strategy that began more than a candle
    before that only warm up, they never trade. A backtest has none. An instance is brought back by feeding the same
    minutes to a new one with the same `started`, or by `recall`.
    """

    remembered: tuple[str, ...] = _REMEMBERED

    def __init__(self, settings: Settings, started: int | None = None) -> None:
        self._settings = settings
        self._stepper = Stepper(settings.strategy, settings.params, resolved=True)
        self._from = -math.inf if started is None else started - settings.candle_size * 60
        self._small: list[Mapping[str, float]] = []
        self._warm = False
        self._direction = 0.0
        self._advices = 0
        self._pending = 0
        self._age = 0
        self._fee = 1.0 - settings.fee_percent / 100.0
        self._asset, self._currency = settings.asset, settings.currency
        self._exposed = settings.asset > 0
        self._trading = self._analyzing = self._told = False
        self._stop: dict[str, Any] | None = None
        self._triggers = self._number = self._last_advice = 0
        self._price = math.nan
        self._now = 0
        self._begin: tuple[int, float] | None = None
        self._start_balance = self._balance = 0.0
        self._end_price = math.nan
        self._trades = 0
        self._trip: dict[str, Any] = {"id": 0, "entry": None, "exit": None}
        self._trips: list[dict[str, Any]] = []
        self._adviser: deque[Event] = deque()
        self._trader: deque[Event] = deque()
        self._analyzer: deque[Event] = deque()

    def push(self, minute: Mapping[str, float]) -> list[Event]:
        """The events of one minute: `start` (seconds), open, high, low, close, vwp, volume, trades.

        Raises `Invalid` for a minute that was already there.
        """
        if minute["start"] <= self._now - 60 and self._now:
            raise Invalid("this minute was already there", field="start", remedy="feed minutes in order of time")
        self._now = int(minute["start"]) + 60
        self._advise(minute)
        self._watch(minute["close"])
        self._analyze(minute["close"])
        return self._flush(minute["close"])

    def _flush(self, price: float) -> list[Event]:
        """Deliver everything that waits, in the order of the original."""
        said: list[Event] = []
        queues = (self._adviser, self._trader, self._analyzer)
        while queue := next(filter(None, queues), None):
            event = queue.popleft()
            said.append(event)
            self._deliver(event, price)
        return said

    def warm(self) -> None:
        """Take the strategy's step once, so that what it needs is compiled and loaded; its state is not to be used
        after that."""
        self._stepper.push(np.ones((1, 5)))

    def finish(self) -> list[Event]:
        """What a backtest says after its last candle: the performance report, when there were trades."""
        return [("performanceReport", self.report())] if self._trades and self._settings.analyzing else []

    def memory(self) -> bytes:
        """Everything that `recall` needs to go on as if nothing had happened, but for the roundtrips so far."""
        kept = {name: getattr(self, name) for name in self.remembered}
        return msgspec.msgpack.encode({
            "strategy": self._settings.strategy.name, "state": self._stepper.state.tobytes(), "kept": kept})

    def recall(self, memory: bytes, roundtrips: list[dict[str, Any]]) -> None:
        """Take over what another one with the same settings remembered, and the payloads of its roundtrip events.

        Raises `Invalid` when the memory is of another strategy, or of a version that remembered other things.
        """
        try:
            found = msgspec.msgpack.decode(memory)
            state = np.frombuffer(found["state"], np.float64)
            fits = found["strategy"] == self._settings.strategy.name and state.shape == self._stepper.state.shape
            if not fits or set(found["kept"]) != set(self.remembered):
                raise ValueError
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise Invalid("what the strategy remembered was kept by another version",
                          remedy="start a new instance") from None
        self._stepper.state[:] = state
        for name, value in found["kept"].items():
            setattr(self, name, value)
        self._trips = list(roundtrips)

    def _advise(self, minute: Mapping[str, float]) -> None:
        self._small.append(minute)
        if len(self._small) < self._settings.size(len(self._small)):
            return
        small, self._small = self._small, []
        candle = _joined(small)
        self._adviser.append(("stratCandle", candle))
        figures = np.array([[candle[key] for key in ("open", "high", "low", "close", "volume")]], np.float64)
        advice, lines = self._stepper.push(figures)
        self._age += 1
        warm = self._settings.warm
        if not self._warm and warm is not None and self._age > warm and candle["start"] >= self._from:
            self._warm = True
            self._adviser.append(("stratWarmupCompleted", {"start": candle["start"]}))
        said = float(advice[0])
        if self._warm and said == said and said != self._direction:
            self._direction = said
            self._advices += 1
            advised: dict[str, Any] = {"id": f"advice-{self._advices}",
                                       "recommendation": "long" if said > 0 else "short"}
            trail = self._settings.trail
            self._pending = self._advices if said > 0 and trail > 0 else 0
            if self._pending:
                advised["trigger"] = {"type": "trailingStop", "trailPercentage": plain(trail),
                                      "trailValue": plain(trail / 100.0 * candle["close"])}
            self._adviser.append(("advice", {**advised, "date": self._now}))
        self._adviser.append(("stratUpdate", {"date": candle["start"], "indicators": self._indicators(lines)}))

    def _indicators(self, lines: np.ndarray) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name, kind, place, keys in self._settings.shows:
            value = plain(lines[place])
            if self._age <= self._settings.silent(kind):
                shown[name] = False if kind == "lazy" else {}
            elif kind in ("shared", "native"):
                shown[name] = {key: plain(lines[place + k]) for k, key in enumerate(keys)}
            else:
                shown[name] = {keys[0]: value} if kind == "single" and not value else value
        return shown

    def _watch(self, price: float) -> None:
        if not self._trading:
            return
        self._price = price
        if not self._told:
            self._told = True
            self._trader.append(("portfolioChange", self._portfolio()))
            self._trader.append(("portfolioValueChange", {"balance": self._worth()}))
        if self._exposed:
            self._trader.append(("portfolioValueChange", {"balance": self._worth()}))
        stop = self._stop
        if stop:
            if price > stop["point"] + stop["trail"]:
                stop["point"] = price - stop["trail"]
            if price <= stop["point"]:
                self._stop = None
                self._trader.append(("triggerFired", {"id": stop["id"], "date": self._now}))
                self._trade("sell", self._now)

    def _analyze(self, price: float) -> None:
        if not self._analyzing:
            return
        self._end_price = price
        if self._begin is None:
            self._begin = (self._now - 60, price)
        if self._trip["entry"] and not self._trip["exit"]:
            self._tell_trip()

    def _tell_trip(self) -> None:
        date, price, worth = self._trip["entry"]
        gain = self._end_price - price
        self._analyzer.append(("roundtripUpdate", {
            "at": self._now, "duration": (self._now - date) * 1000, "uPnl": plain(gain),
            "uProfit": plain(gain / worth * 100) if worth else None}))

    def _deliver(self, event: Event, price: float) -> None:
        kind, data = event
        if kind == "stratWarmupCompleted":
            self._trading = self._settings.trading
            self._watch(price)
            self._analyzing = self._settings.analyzing
            self._analyze(price)
        elif kind == "advice" and self._trading:
            self._act(data)
        elif kind == "portfolioValueChange" and self._analyzing:
            self._balance = data["balance"]
            self._start_balance = self._start_balance or self._balance
        elif kind == "tradeCompleted":
            if data["action"] == "sell" and self._pending and data["adviceId"] == f"advice-{self._pending}":
                self._direction, self._pending = -1.0, 0
            if self._analyzing:
                self._count(data)

    def _act(self, advice: Mapping[str, Any]) -> None:
        self._last_advice = int(advice["id"].removeprefix("advice-"))
        self._number += 1
        stop, self._stop = self._stop, None
        if advice["recommendation"] == "long":
            if trigger := advice.get("trigger"):
                self._triggers += 1
                self._stop = {"id": f"trigger-{self._triggers}", "trail": trigger["trailValue"],
                              "point": self._price - trigger["trailValue"]}
                self._trader.append(("triggerCreated", {
                    "id": self._stop["id"], "at": advice["date"], "type": "trailingStop",
                    "proprties": {"trail": trigger["trailValue"], "initialPrice": plain(self._price)}}))
            self._initiate("buy", advice["date"])
            return
        if stop:
            self._trader.append(("triggerAborted", {"id": stop["id"], "date": advice["date"]}))
        self._initiate("sell", advice["date"])

    def _initiate(self, action: str, date: int) -> None:
        self._trader.append(("tradeInitiated", {
            "id": f"trade-{self._number}", "adviceId": f"advice-{self._last_advice}", "action": action,
            "portfolio": self._portfolio(), "balance": self._worth(), "date": date}))
        self._trade(action, date, told=True)

    def _trade(self, action: str, date: int, told: bool = False) -> None:
        if not told:
            self._initiate(action, date)
            return
        fee, price = self._fee, self._price
        if action == "buy":
            cost = (1.0 - fee) * self._currency
            self._asset += math.floor(self._currency / price * 1e8 * fee) / 1e8
            self._currency, amount, self._exposed = 0.0, self._asset, True
        else:
            cost = (1.0 - fee) * (self._asset * price)
            self._currency += math.floor(self._asset * price * 1e8 * fee) / 1e8
            self._asset, amount, self._exposed = 0.0, self._currency / price, False
        self._trader.append(("portfolioChange", self._portfolio()))
        self._trader.append(("portfolioValueChange", {"balance": self._worth()}))
        self._trader.append(("tradeCompleted", {
            "id": f"trade-{self._number}", "adviceId": f"advice-{self._last_advice}", "action": action,
            "cost": plain(cost), "amount": plain(amount), "price": plain(price), "portfolio": self._portfolio(),
            "balance": self._worth(), "date": date, "effectivePrice": plain(price * fee),
            "feePercent": plain(self._settings.fee_percent)}))

    def _portfolio(self) -> dict[str, Any]:
        return {"asset": plain(self._asset), "currency": plain(self._currency)}

    def _worth(self) -> Any:
        return plain(self._currency + self._price * self._asset)

    def _count(self, trade: Mapping[str, Any]) -> None:
        self._trades += 1
        self._balance = trade["balance"]
        held = trade["portfolio"]
        here = (trade["date"], trade["price"], held["currency"] + held["asset"] * trade["price"])
        trip = self._trip
        if trade["action"] == "buy":
            if trip["exit"]:
                trip["id"] += 1
                trip["exit"] = None
            trip["entry"] = here
        elif trip["entry"]:
            trip["exit"] = here
            (at, price, worth), (until, left, after) = trip["entry"], here
            done = {"id": trip["id"], "entryAt": at, "entryPrice": price, "entryBalance": plain(worth), "exitAt": until,
                    "exitPrice": left, "exitBalance": plain(after), "duration": (until - at) * 1000,
                    "pnl": plain(after - worth), "profit": plain(100 * after / worth - 100) if worth else None}
            self._trips.append(done)
            self._analyzer.append(("roundtrip", done))
        self._analyzer.append(("performanceReport", self.report()))

    def report(self) -> dict[str, Any]:
        """The performance report of now; raises `Invalid` before the warm-up is over."""
        if self._begin is None:
            raise Invalid("there is nothing to report before the warm-up is over")
        columns = {name: np.array([math.nan if trip[name] is None else trip[name] for trip in self._trips], np.float64)
                   for name in ("entryBalance", "exitBalance", "pnl", "profit", "duration")}
        return performance(
            start=self._begin[0], end=self._now, start_price=self._begin[1], end_price=self._end_price,
            start_balance=float(self._start_balance), balance=float(self._balance), trades=self._trades,
            roundtrips=columns, risk_free=self._settings.risk_free)


def _joined(small: list[Mapping[str, float]]) -> dict[str, Any]:
    """The strategy's candle of these minutes."""
    first = small[0]
    high, low, volume, trades = (first[key] for key in ("high", "low", "volume", "trades"))
    weighted = first["vwp"] * first["volume"]
    for minute in small[1:]:
        high, low = max(high, minute["high"]), min(low, minute["low"])
        volume += minute["volume"]
        trades += minute["trades"]
        weighted += minute["vwp"] * minute["volume"]
    figures = {"open": first["open"], "high": high, "low": low, "close": small[-1]["close"],
               "vwp": weighted / volume if volume else first["open"], "volume": volume, "trades": trades}
    return {"start": int(first["start"]), **{name: plain(value) for name, value in figures.items()}}


def wire(event: Event) -> dict[str, Any]:
    """An event as it goes over the wire: instants as text with milliseconds."""
    kind, payload = event
    keys = ("start", "date", "at", "entryAt", "exitAt")
    return {"type": kind, "payload": {key: _iso(value) if key in keys else value for key, value in payload.items()}}


def _iso(seconds: int) -> str:
    return times.instant(int(seconds) * times.SECOND).strftime("%Y-%m-%dT%H:%M:%S.000Z")
