"""The form that starts a bot: a watcher, a paper trader, or where the server allows it one with real orders.

Parameters are those of the registry, where Gekko's configuration has them; what is wrong is shown beside its field.
"""

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine.errors import Invalid, WorkbenchError
from engine.gekko_settings import METHODS
from engine.model import Market
from workbench.client import AsyncClient
from workbench.views.base import explained, markup
from workbench.views.bots_rows import named
from workbench.views.new_backtest import _CARD, _GRID, Field, _day, parameter_field

__all__ = ["StartForm", "body_sections", "places"]

WATCHER, PAPER, REAL = "watcher", "papertrader", "tradebot"
KINDS: Final = {"Paper trader: a strategy with play money": PAPER, "Watcher: only hears a market": WATCHER}
REAL_KIND: Final = {"Trade bot: a strategy with real orders": REAL}
SOURCES: Final = {"stored candles, replayed": "replay", "an exchange, live": "live"}
SPEEDS: Final = {"as it was (1 candle a minute)": 1.0, "60 times faster": 60.0, "600 times faster": 600.0,
                 "6,000 times faster": 6000.0, "as fast as it goes": 0.0}
NAMES: Final = {"market": "market", "watch": "market", "watch.source": "market", "replay.speed": "speed",
                "watch.speed": "speed", "watch.from": "start", "watch.to": "end", "replay.start": "start",
                "replay.end": "end", "tradingAdvisor.candleSize": "candle_size", "market.from": "start",
                "tradingAdvisor.method": "strategy", "trader.maxOrderValue": "max_order_value", "keys": "exchange",
                "trader.maxDailyLoss": "max_daily_loss", "watch.exchange": "exchange", "trader.enabled": "kind"}
"""Where to show what the server finds, by its name of the field."""


def places(method: str, momentum: str = "TSI") -> dict[str, tuple[str, str]]:
    """Where Gekko's configuration has the parameters of a strategy: (section, dotted path) by the registry's name."""
    found = {name: (method, path) for name, path in METHODS[method].paths.items()}
    if method == "varPPO":  # it uses the settings of PPO and of its momentum
        found |= {name: ("PPO", METHODS["PPO"].paths[name]) for name in ("short", "long", "signal")}
        other = {**METHODS[momentum].paths}
        other.pop("persistence")
        if momentum == "TSI":
            other = {f"tsi_{name}" if name in ("short", "long") else name: path for name, path in other.items()}
        found |= {name: (momentum, path) for name, path in other.items()}
    if method == "custom":
        found["seed"] = ("custom", "seed")
    return found


def body_sections(method: str, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of Gekko's configuration that hold these parameters (by the registry's names)."""
    sections: dict[str, dict[str, Any]] = {method: {}}
    for name, (section, path) in places(method, str(values.get("momentum", "TSI"))).items():
        target = sections.setdefault(section, {})
        *inner, last = path.split(".")
        for key in inner:
            target = target.setdefault(key, {})
        target[last] = values[name]
    if method == "varPPO":
        sections[method]["momentum"] = values["momentum"]
    return sections


def _bounded(parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    """A parameter without bounds that only say that there are none."""
    far = any(abs(parameter.get(bound) or 0) >= 1e6 for bound in ("low", "high"))
    return {**parameter, "low": None, "high": None} if far else parameter


class StartForm:
    """`view` is the form; `started` hears the id of what was started. Call `load` once."""

    def __init__(self, client: AsyncClient, started: Callable[[str], None]) -> None:
        self._client, self._started = client, started
        self._strategies: dict[str, Mapping[str, Any]] = {}
        self._exchanges: dict[str, Mapping[str, Any]] = {}
        self._parameters: dict[str, Field] = {}
        self._shown = ""
        self._fields: dict[str, Field] = {}
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}

        def add(name: str, widget: Any, doc: str = "") -> None:
            self._fields[name] = Field(name, widget, doc)

        add("kind", pn.widgets.Select(name="Type", options=KINDS, **wide))
        add("source", pn.widgets.Select(name="Candles from", options=SOURCES, **wide))
        add("market", pn.widgets.Select(name="Market", options=[], **wide), "of which minutes are stored")
        add("speed", pn.widgets.Select(name="Speed", options=SPEEDS, value=600.0, **wide))
        add("start", pn.widgets.DatePicker(name="From", **wide), "empty: the first candle")
        add("end", pn.widgets.DatePicker(name="To", **wide), "empty: the last candle")
        add("exchange", pn.widgets.Select(name="Exchange", options=[], **wide))
        add("pair", pn.widgets.AutocompleteInput(name="Pair", placeholder="BTC/USDT", restrict=False, min_characters=1,
                                                 case_sensitive=False, **wide), "asset/currency")
        add("strategy", pn.widgets.Select(name="Strategy", options=[], **wide))
        add("candle_size", pn.widgets.IntInput(name="Candle size", value=5, start=1, **wide),
            "minutes of each of the strategy's candles")
        add("history", pn.widgets.IntInput(name="Warm-up", value=10, start=0, **wide),
            "candles before the first advice")
        add("currency", pn.widgets.FloatInput(name="Starts with currency", value=1000.0, step=100, **wide))
        add("asset", pn.widgets.FloatInput(name="Starts with asset", value=0.0, step=1, **wide))
        add("fee", pn.widgets.FloatInput(name="Fee", value=0.25, step=0.05, **wide), "percent of each trade")
        add("max_order_value", pn.widgets.FloatInput(name="Largest order", value=None, step=10, **wide),
            "in the market's currency; what lies above it stays out")
        add("max_daily_loss", pn.widgets.FloatInput(name="Largest loss a day", value=None, step=10, **wide),
            "in the market's currency; after it the bot buys no more until the next day (UTC)")
        add("sure", pn.widgets.Checkbox(name="Place real orders with real money", value=False, margin=(6, 0, 0, 0)))
        for name in ("kind", "source", "exchange"):
            self[name].param.watch(self._turned, "value")
        self["strategy"].param.watch(self._chosen, "value")
        self._about = markup("")
        self._note = markup("", visible=False)
        self._box = pn.Column(sizing_mode="stretch_width", margin=0)
        self._status = markup("")
        self.go = pn.widgets.Button(name="Start", button_type="primary", width=130, margin=0, disabled=True)
        self.go.on_click(self._clicked)

        def group(title: str, *names: str) -> Any:
            grid = pn.Column(*(self._fields[name].view for name in names), sizing_mode="stretch_width", margin=0,
                             stylesheets=[_GRID.replace("LEAST", "190px")])
            return pn.Column(markup(f"<h2>{title}</h2>"), grid, sizing_mode="stretch_width", margin=0)

        self._money = group("Play money", "currency", "asset", "fee")
        self._limits = group("Limits of real orders", "max_order_value", "max_daily_loss", "sure")
        self._strategy = pn.Column(
            group("Strategy", "strategy", "candle_size", "history"), self._about, self._box,
            sizing_mode="stretch_width", margin=0, styles={"gap": "10px"})
        self.view = pn.Column(
            group("Start a bot", "kind", "source", "market", "speed", "exchange", "pair", "start", "end"), self._note,
            self._strategy, self._money, self._limits, self._status, self.go, sizing_mode="stretch_width", margin=0,
            styles={**_CARD, "gap": "14px"})
        self._arrange()

    def __getitem__(self, name: str) -> Any:
        return self._fields[name].widget

    async def load(self) -> None:
        """Read what there is to choose from."""
        strategies = {entry["name"]: entry for entry in await self._client.strategies()}
        self._strategies = {name: strategies[method.strategy] for name, method in METHODS.items()
                            if method.strategy in strategies}
        self._exchanges = {entry["slug"]: entry for entry in await self._client.exchanges()}
        self.allowed = bool((await self._client.info()).get("live_trading"))
        self["kind"].options = {**KINDS, **(REAL_KIND if self.allowed else {})}
        self["exchange"].options = named(self._exchanges)
        self["strategy"].param.update(options=list(self._strategies), value="MACD")
        self._show_strategy()
        await self.refresh()
        self._arrange()

    async def refresh(self) -> None:
        """Read again which minutes are stored."""
        stored = [entry["market"] for entry in await self._client.markets() if str(entry["resolution"]) == "1m"]
        chosen = self["market"].value
        self["market"].param.update(options=stored, value=chosen if chosen in stored else next(iter(stored), None))
        self.go.disabled = False

    # -- the form ------------------------------------------------------------------------------------------------

    def _turned(self, _event: Any) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Show what belongs to the choices."""
        kind = self["kind"].value
        if kind == REAL and self["source"].value == "replay":
            self["source"].value = "live"  # a replay takes no orders
        self["source"].disabled = kind == REAL
        live = self["source"].value == "live"
        for name in ("market", "speed", "end"):
            self._fields[name].view.visible = not live
        for name in ("exchange", "pair"):
            self._fields[name].view.visible = live
        self._fields["start"].view.visible = not live
        self._strategy.visible = kind != WATCHER
        self._money.visible, self._limits.visible = kind == PAPER, kind == REAL
        if live and self["exchange"].value in self._exchanges:
            self["pair"].options = [f"{asset}/{currency}" for currency, asset in (
                market["pair"] for market in self._exchanges[self["exchange"].value]["markets"])]
        told = ""
        if kind == REAL:
            told = ("Real orders go to the exchange with the key stored for it. The bot trades its own book: it begins "
                    "with currency up to the largest order and never sells what it did not buy.")
        elif not live and not self["market"].options:
            told = ('No minutes are stored. <a href="/markets">Import some</a> from an exchange or a file, or begin '
                    "with a demo market.")
        elif self._exchanges and not self.allowed:
            told = "Bots with real orders are off: the server runs without <code>--allow-live-trading</code>."
        self._note.object = f'<p class="muted" style="margin:0">{told}</p>'
        self._note.visible = bool(told)

    def _chosen(self, _event: Any) -> None:
        self._show_strategy()

    def _show_strategy(self) -> None:
        method = self["strategy"].value
        entry = self._strategies.get(method)
        if entry is None or method == self._shown:
            return  # the browser echoes a choice; what was typed since then must stay
        self._shown = method
        told = re.sub("`([^`]+)`", r"<code>\1</code>", escape(str(entry.get("doc") or "")))
        self._about.object = f'<p class="muted" style="margin:0">{told}</p>'
        known = {str(one["name"]): one for one in entry.get("parameters") or ()}
        names = [*places(method)]
        if method == "varPPO":
            names = [name for name in known if name in {*names, *places(method, "UO"), "momentum"}]
            known["momentum"] = {**known["momentum"], "choices": ["TSI", "UO"]}
        self._parameters = {name: parameter_field(_bounded(known[name])) for name in names if name in known}
        self._box[:] = [pn.Column(*(field.view for field in self._parameters.values()), sizing_mode="stretch_width",
                                  margin=0, stylesheets=[_GRID.replace("LEAST", "150px")])
                        if self._parameters else markup('<p class="muted">This strategy has no parameters.</p>')]

    def body(self) -> dict[str, Any]:
        """The words for `start_instance`. Raises `Invalid` for what can be told without the server."""
        kind, live = self["kind"].value, self["source"].value == "live"
        market = f"{self['exchange'].value}:{(self['pair'].value or '').strip()}" if live else self["market"].value
        if live:
            try:
                Market.parse(market)
            except Invalid:
                raise Invalid("this is no pair", field="pair", remedy="write it as asset/currency: BTC/USDT") from None
        elif not market:
            raise Invalid("there are no candles to replay", field="market", remedy="import some first")
        words: dict[str, Any] = {"market": market}
        if not live:
            start, end = _day(self["start"].value), _day(self["end"].value, last=True)
            words["replay"] = {"speed": self["speed"].value, **{
                name: value for name, value in (("start", start), ("end", end)) if value is not None}}
        if kind == WATCHER:
            return words
        method = self["strategy"].value
        sections = body_sections(method, {name: field.widget.value for name, field in self._parameters.items()})
        words |= {"strategy": method, "parameters": sections.pop(method), "sections": sections,
                  "candle_size": self["candle_size"].value, "history": self["history"].value}
        if kind == PAPER:
            return words | {name: self[name].value for name in ("currency", "asset", "fee")}
        for name in ("max_order_value", "max_daily_loss"):
            if not self[name].value or self[name].value <= 0:
                raise Invalid("a bot with real orders needs this limit", field=name, remedy="give an amount")
        if not self["sure"].value:
            raise Invalid("this has to be confirmed", field="sure", remedy="tick it, or choose the paper trader")
        return words | {"trade": "real", "max_order_value": self["max_order_value"].value,
                        "max_daily_loss": self["max_daily_loss"].value}

    async def _clicked(self, _event: Any) -> None:
        for field in (*self._fields.values(), *self._parameters.values()):
            field.clear()
        self._status.object = ""
        self.go.disabled = True
        try:
            begun = await self._client.start_instance(**self.body())
        except WorkbenchError as error:
            self._spread(error)
        else:
            self._status.object = '<div class="good" role="status">Started. Opening its page …</div>'
            self._started(begun["id"])
        finally:
            self.go.disabled = False

    def _spread(self, error: WorkbenchError) -> None:
        """Show each problem beside its field; the others at the foot of the form."""
        lost = 0
        where = {f"{section}.{path}": name for name, (section, path) in places(
            self._shown, str(self._parameters["momentum"].widget.value) if "momentum" in self._parameters else "TSI"
        ).items()} if self._shown else {}
        for problem in error.problems:
            name = NAMES.get(problem.field, problem.field)
            if name == "market" and self["source"].value == "live":
                name = "pair"
            field = self._parameters.get(where.get(problem.field, "")) or self._fields.get(name)
            if field is None or not field.view.visible:
                lost += 1
                continue
            field.complain(problem.message + (f" – {problem.remedy}" if problem.remedy else ""))
        told = explained(error) if lost else "Something above has to be corrected."
        self._status.object = f'<div class="error" role="alert">{told}</div>'

    allowed = False
    """Whether the server lets bots place real orders."""
