"""One bot while it runs: its candles with advice and trades, its figures, what it said.

The state is read together with the number of the event up to which it tells; from there on the stream is followed. What
arrives is gathered and shown a few times a second. Everything carries an identity, so that hearing a thing twice shows
it once.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

import orjson
import panel as pn

from engine import times
from engine.errors import Invalid, NotFound
from engine.model import Event, Market
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.base import markup
from workbench.views.bots_chart import CANDLES, BotChart
from workbench.views.bots_rows import KINDS, clock, millis, price, state_of, title_of
from workbench.views.live_rows import LiveRows, Row
from workbench.views.tiles import number

__all__ = ["BotLive"]

log = logging.getLogger("workbench.pages")
GATHER: Final = 0.2
"""Seconds between two showings of what has arrived."""
MOST_WAITING: Final = 20_000
MOST_MINUTES: Final = 50_000
"""Stored minutes that are read for the first view."""
CHATTER: Final = frozenset({"candle", "stratCandle", "stratUpdate", "marketUpdate", "portfolioValueChange",
                            "roundtripUpdate", "performanceReport"})
"""What is shown in figures and not in the list of events."""
PULSE: Final = [{"key": "state", "title": "State", "kind": "state"}, {"key": "told", "title": "Told", "kind": "text"},
                {"key": "heard", "title": "Heard", "kind": "ago"},
                {"key": "stream", "title": "Stream", "kind": "state"}]
TRADES: Final = [
    {"key": "at", "title": "Time", "kind": "time"}, {"key": "side", "title": "Side", "kind": "side"},
    {"key": "price", "title": "Price", "kind": "number"}, {"key": "amount", "title": "Amount", "kind": "number"},
    {"key": "cost", "title": "Cost", "kind": "number", "digits": 2},
    {"key": "balance", "title": "Balance", "kind": "number", "digits": 2}]
TRIPS: Final = [
    {"key": "entry", "title": "Entry", "kind": "time"}, {"key": "exit", "title": "Exit", "kind": "time"},
    {"key": "bought", "title": "Entry price", "kind": "number"},
    {"key": "sold", "title": "Exit price", "kind": "number"},
    {"key": "pnl", "title": "Profit", "kind": "money"}, {"key": "profit", "title": "Return", "kind": "percent"}]
EVENTS: Final = [
    {"key": "at", "title": "Market's time", "kind": "time"}, {"key": "type", "title": "Event", "kind": "text"},
    {"key": "text", "title": "", "kind": "text"}]
REPORT: Final = (
    ("Start", "startTime", ""), ("End", "endTime", ""), ("Timespan", "timespan", ""),
    ("Start balance", "startBalance", "money"), ("Balance", "balance", "money"), ("Profit", "profit", "money"),
    ("Return", "relativeProfit", "%"), ("Market", "market", "%"), ("Alpha", "alpha", "%"),
    ("Return a year", "relativeYearlyProfit", "%"), ("Trades", "trades", "count"),
    ("Winning roundtrips", "ratioRoundTrips", "%"), ("Exposure", "exposure", "share"), ("Sharpe", "sharpe", "figure"),
    ("Downside deviation", "downside", "figure"))


class BotLive:
    """`view` is the page; `await load()` reads, `await follow()` goes on until the bot ends or it is cancelled."""

    def __init__(self, client: AsyncClient, instance: dict[str, Any], look: Style) -> None:
        self._client, self._look, self.id = client, look, str(instance["id"])
        self.instance = instance
        self._events: list[Event] = []
        self._arrived, self._shown = asyncio.Event(), asyncio.Event()
        self._connected = True
        self._heard: float | None = millis(instance.get("updated_at"))
        self.over: Callable[[], None] = lambda: None  # called under the document's lock when it has ended
        self.document: Any = None
        self._head = markup("")
        self._pulse = LiveRows(look, columns=PULSE, caption="State of the bot", bare=True, placeholder="")
        self._tiles = markup('<div class="tiles"></div>')
        self._chart_place = pn.Column(markup('<p class="muted" role="status">Loading candles …</p>'),
                                      sizing_mode="stretch_width", margin=0, min_height=360)
        self._chart: BotChart | None = None
        runs = instance["kind"] != "watcher"
        shared: dict[str, Any] = {"newest": "first", "tall": 420, "most": 500}
        self._trades = LiveRows(look, columns=TRADES, caption="Trades", placeholder="No trades yet.", **shared)
        self._trips = LiveRows(look, columns=TRIPS, caption="Roundtrips", placeholder="No roundtrip has closed yet.",
                               **shared)
        self._said = LiveRows(look, columns=EVENTS, caption="Events", placeholder="Nothing was said yet.", typed=True,
                              searchable="Search events", **shared)
        self._report = markup('<p class="muted">The report comes with the first trade.</p>')
        text = orjson.dumps(instance["config"], option=orjson.OPT_INDENT_2).decode()
        parts: list[tuple[str, Any]] = [
            ("Trades", self._trades), ("Roundtrips", self._trips), ("Performance", self._report)] if runs else []
        parts += [("Events", self._said), ("Configuration", markup(f"<pre>{escape(text)}</pre>"))]
        card = {"background": look.surface, "border": f"1px solid {look.border}", "border-radius": "10px",
                "padding": "10px 12px"}
        self._parts = [part for _, part in parts]
        self._places = [pn.Column(sizing_mode="stretch_width", margin=(12, 0, 0, 0), min_height=200, styles=card)
                        for _ in parts]
        self._tabs = pn.Tabs(*((name, place) for (name, _), place in zip(parts, self._places, strict=True)),
                             sizing_mode="stretch_width", margin=0)
        self._places[0][:] = [self._parts[0]]
        self._tabs.param.watch(self._turned, "active")
        self.view = pn.Column(
            self._head, self._pulse, self._tiles,
            pn.Column(self._chart_place, sizing_mode="stretch_width", margin=0, styles=card), self._tabs,
            sizing_mode="stretch_width", margin=0, styles={"gap": "10px"})
        self._show_facts()

    def _turned(self, event: Any) -> None:
        """Fill a tab when it is first opened."""
        async def fill() -> None:
            if not len(self._places[event.new]):
                self._places[event.new][:] = [self._parts[event.new]]

        pn.state.execute(fill)

    # -- reading

    async def load(self) -> None:
        """Everything up to now."""
        self.document = pn.state.curdoc
        self._show_figures()
        lists = self.instance["lists"]
        self._trades.reset(reversed([_trade(each) for each in lists.get("tradeCompleted", ())]))
        self._trips.reset(reversed([_trip(each) for each in lists.get("roundtrip", ())]))
        advisor = self.instance["config"].get("tradingAdvisor") or {}
        size = int(advisor.get("candleSize") or 1) if self.instance["kind"] != "watcher" else 1
        market = self._home()
        chart = BotChart(size, self._look, market.currency)
        first, last = self.instance["initial"].get("candle"), self.instance["latest"].get("candle")
        if first is not None and last is not None:
            chart.begin(times.micros(times.parse(first["start"])) // times.SECOND)
            chart.minutes(await self._stored(market, str(first["start"]), str(last["start"]), size))
            chart.minutes([last])
        by_advice = {each["adviceId"]: each["price"] for each in lists.get("tradeCompleted", ())}
        for each in lists.get("tradeCompleted", ()):
            chart.trade(each)
        for each in lists.get("advice", ()):
            at = by_advice.get(each["id"])
            if at is not None or (at := chart.close_at(each["date"])) is not None:
                chart.advice(each, at)
        await chart.make()
        self._chart = chart
        self._chart_place[:] = [pn.pane.Bokeh(chart.figure, sizing_mode="stretch_width", margin=0, theme=None)]
        events: list[Event] = []
        kinds = ("created", "advice", "tradeInitiated", "tradeCompleted", "tradeErrored", "tradeCanceled", "roundtrip",
                 "triggerCreated", "triggerFired", "triggerAborted", "stratWarmupCompleted", "stratNotification",
                 "marketStart", "stopped", "failed", "archived")
        while len(events) < 5000:
            page = await self._client.instance_events(self.id, after=events[-1].seq if events else 0, types=kinds)
            events += page
            if len(page) < 1000:
                break
        self._said.reset(reversed([row for event in events[-500:] if (row := _said(event)) is not None]))

    def _home(self) -> Market:
        """Where the candles that it hears are stored."""
        market, watch = Market.parse(self.instance["market"]), self.instance["config"].get("watch") or {}
        return Market(str(watch.get("source") or market.exchange), market.asset, market.currency)

    async def _stored(self, market: Market, first: str, last: str, size: int) -> list[dict[str, Any]]:
        """The newest minutes that it has heard, from the store; none when they are not kept there."""
        begin, end = (times.micros(times.parse(at)) for at in (first, last))
        minutes = min(CANDLES * size, MOST_MINUTES)
        width = size * times.MINUTE
        start = max(begin, begin + (end - minutes * times.MINUTE - begin) // width * width)
        try:
            found = await self._client.candles(market, "1m", start=times.instant(start), end=times.instant(end))
        except (NotFound, Invalid):
            return []
        stamps = found["time"] // times.SECOND
        return [{"start": int(stamps[place]), **{name: float(found[name][place]) for name in (
            "open", "high", "low", "close", "volume")}} for place in range(len(stamps))]

    # -- following

    async def follow(self) -> None:
        """Go on showing what it says."""
        if self.instance["state"] != "live":
            return
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(self._show_all())
            async for event in self._client.follow_instance(self.id, after=int(self.instance["seq"]),
                                                            watcher=self._watched):
                self._events.append(event)
                self._arrived.set()
                if len(self._events) >= MOST_WAITING:  # the stream is a position on the server: nothing is lost
                    self._shown.clear()
                    await self._shown.wait()
            while self._events:
                self._shown.clear()
                await self._shown.wait()
            showing.cancel()
        self.instance = await self._client.instance(self.id)
        await self._change(self._ended)

    def _ended(self) -> None:
        self._show_facts()
        self._show_figures()
        self.over()

    def _watched(self, connected: bool) -> None:
        if self._connected != connected:
            self._connected = connected
            self._show_pulse()

    async def _show_all(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            events, self._events = self._events, []
            await self._change(lambda events=events: self._take(events))  # type: ignore[misc]
            self._shown.set()
            await asyncio.sleep(GATHER)

    async def _change(self, change: Callable[[], Any]) -> None:
        """Do something to the page under its document's lock, and wait until it is done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def work() -> None:
            try:
                change()
            except Exception:
                log.exception("a change of a bot's page failed")
            finally:
                if not done.done():
                    done.set_result(None)

        if self.document is None or self.document.session_context is None:
            work()
        else:
            self.document.add_next_tick_callback(work)
        await done

    def _take(self, events: Sequence[Event]) -> None:
        """Show what was said."""
        assert self._chart is not None
        latest, lists = self.instance["latest"], self.instance["lists"]
        minutes: list[Mapping[str, Any]] = []
        trades, trips, said = [], [], []
        for event in events:
            payload: Any = event.data.get("payload")
            if payload is not None:
                latest[event.type] = payload
                self.instance["initial"].setdefault(event.type, payload)
            if event.type == "candle":
                minutes.append(payload)
                continue
            if event.type in ("tradeCompleted", "advice", "roundtrip"):
                self._chart.minutes(minutes)
                minutes = []
                lists.setdefault(event.type, []).append(payload)
            if event.type == "tradeCompleted":
                self._chart.trade(payload)
                trades.append(_trade(payload))
            elif event.type == "advice":
                self._chart.advice(payload)
            elif event.type == "roundtrip":
                trips.append(_trip(payload))
            row = _said(event)
            if row is not None:
                said.append(row)
        self._chart.minutes(minutes)
        self._chart.show()
        for table, rows in ((self._trades, trades), (self._trips, trips), (self._said, said)):
            if rows:
                table.put(rows[-500:])
        if events:
            self._heard = times.micros(events[-1].at) / 1000
        self.instance["candle"], self.instance["advice"] = latest.get("candle"), latest.get("advice")
        self._show_pulse()
        self._show_figures()

    # -- showing

    def _show_facts(self) -> None:
        one = self.instance
        facts = [KINDS.get(one["kind"], one["kind"]), one["market"]]
        watch = one["config"].get("watch") or {}
        if watch.get("source"):
            speed = float(watch.get("speed") or 0)
            facts.append(f"candles of {self._home().key}, "
                         + (f"{speed:g} times faster" if speed else "as fast as it goes"))
        facts += [f"by {one['owner']}", f"since {clock(one['started_at'])} UTC"]
        if one["ended_at"]:
            facts.append(f"until {clock(one['ended_at'])} UTC")
        link = (f'<a href="/model?id={escape(one["model"])}">All orders and figures</a>' if one.get("model") else "")
        text = (f'<div class="head"><div><h1>{escape(title_of(one))}</h1>'
                f'<div class="muted" style="overflow-wrap:anywhere">{escape(" · ".join(facts))}</div></div>'
                f"{link}</div>")
        problem = one.get("error") or one.get("silent_because")
        if problem:
            text += (f'<div class="error" role="alert" style="margin-top:8px;overflow-wrap:anywhere"><b>'
                     f'{"It failed" if one["state"] == "failed" else "It hears nothing at present"}</b><br>'
                     f"{escape(str(problem)[:600])}</div>")
        self._head.object = text
        self._show_pulse()

    def _show_pulse(self) -> None:
        word, tone = state_of(self.instance)
        candle = self.instance.get("candle")
        stream = [] if self.instance["state"] != "live" else ["live", "good"] if self._connected else [
            "reconnecting …", "bad"]
        self._pulse.put([{"id": "pulse", "state": [word, tone], "told": f"market at {clock(candle['start'])}" if candle
                          else "waiting for its first candle" if self.instance["state"] == "live" else "",
                          "heard": self._heard, "stream": stream or ["ended", "idle"]}])

    def _show_figures(self) -> None:
        one, latest = self.instance, self.instance["latest"]
        currency = Market.parse(one["market"]).currency
        candle, report = latest.get("candle"), latest.get("performanceReport")
        tiles: list[tuple[str, str, str]] = [(f"Price, {currency}", price(candle["close"]) if candle else "–", "")]
        if one["kind"] != "watcher":
            balance = (latest.get("portfolioValueChange") or {}).get("balance")
            start = (one["initial"].get("portfolioValueChange") or {}).get("balance")
            gain = None if balance is None or not start else balance / start - 1
            tone = "" if not gain else "gain" if gain > 0 else "loss"
            portfolio, advice = latest.get("portfolioChange") or {}, latest.get("advice") or {}
            tiles += [
                (f"Balance, {currency}", price(balance), ""),
                ("Return", "–" if gain is None else f"{'+' if gain > 0 else ''}{number(gain * 100)} %", tone),
                ("Market", f"{number(report['market'])} %" if report and report.get("market") is not None else "–", ""),
                ("Trades", f"{len(one['lists'].get('tradeCompleted', ())):,}", ""),
                ("Roundtrips", f"{len(one['lists'].get('roundtrip', ())):,}", ""),
                ("Holds", f"{portfolio.get('asset', 0):.6g} {Market.parse(one['market']).asset}" if portfolio else "–",
                 ""),
                ("Last advice", str(advice.get("recommendation", "–")), "")]
        text = '<div class="tiles">' + "".join(
            f'<div class="tile"><span>{escape(name)}</span><b class="{tone}" style="overflow-wrap:anywhere">'
            f"{escape(value)}</b></div>" for name, value, tone in tiles) + "</div>"
        if self._tiles.object != text:
            self._tiles.object = text
        if report is not None:
            told = f'<dl class="facts">{"".join(_figure(report, *each) for each in REPORT)}</dl>'
            if self._report.object != told:
                self._report.object = told


def _figure(report: Mapping[str, Any], name: str, key: str, unit: str) -> str:
    value = report.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if unit == "share":
            text = f"{number(value * 100)} %"
        else:
            text = number(value, 0 if unit == "count" else 2) + (" %" if unit == "%" else "")
    else:
        text = "–" if value is None or value != value else str(value) + (" %" if unit == "%" else "")
    return f"<dt>{name}</dt><dd>{escape(text)}</dd>"


def _trade(payload: Mapping[str, Any]) -> Row:
    return {"id": payload["id"], "at": millis(payload["date"]), "side": payload["action"], "price": payload["price"],
            "amount": payload["amount"], "cost": payload["cost"], "balance": payload["balance"]}


def _trip(payload: Mapping[str, Any]) -> Row:
    profit = payload["profit"]
    return {"id": str(payload["id"]), "entry": millis(payload["entryAt"]), "exit": millis(payload["exitAt"]),
            "bought": payload["entryPrice"], "sold": payload["exitPrice"], "pnl": payload["pnl"],
            "profit": None if profit is None else profit / 100}


def _said(event: Event) -> Row | None:
    """An event as a line; None for what is shown in figures."""
    if event.type in CHATTER:
        return None
    payload = event.data.get("payload")
    at = event.at
    text = ""
    if isinstance(payload, Mapping):
        at = next((payload[name] for name in ("date", "at", "start", "exitAt") if payload.get(name)), at)
        facts = {name: value for name, value in payload.items() if not isinstance(value, Mapping) and name not in (
            "date", "at", "start", "id", "adviceId")}
        text = ", ".join(f"{name} {value:.8g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in list(facts.items())[:6])
    elif event.data.get("error"):
        text = str(event.data["error"])
    detail = payload if isinstance(payload, Mapping) else {"said": payload} if payload is not None else None
    return {"id": str(event.seq), "at": millis(at), "type": event.type, "text": text[:300],
            "find": f"{event.type} {text}", **({"detail": dict(detail)} if detail else {})}
