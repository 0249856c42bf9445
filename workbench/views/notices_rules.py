"""Rules on what bots do: made, changed, silenced, and when they fired."""

from collections.abc import Mapping
from datetime import timedelta
from html import escape
from typing import Any, Final

import panel as pn

from engine import times
from engine.errors import Forbidden, WorkbenchError
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.alerts_history import box, grid
from workbench.views.alerts_statistics import lasted
from workbench.views.base import PageView, explained, markup
from workbench.views.live_rows import LiveRows, Row
from workbench.views.new_backtest import Field

__all__ = ["CONDITIONS", "Rules"]

CONDITIONS: Final[Mapping[str, tuple[str, str, float]]] = {
    "no_heartbeat": ("No heartbeat", "seconds since the bot was last heard of; one that said it stopped is not missed",
                     120.0),
    "no_data": ("No data", "seconds since its last order, metric or result (anything but log lines)", 600.0),
    "error_rate": ("Errors", "error lines in its log within the window", 5.0),
    "order_rejects": ("Rejected orders", "orders rejected within the window", 3.0),
    "drawdown": ("Drawdown", "how far its profit lies below its highest, in its currency", 500.0),
    "daily_loss": ("Daily loss", "how far its profit lies below that of the last midnight (UTC), in its currency",
                   250.0)}
"""Of each condition: its name, what is compared, and a threshold to begin with."""
WINDOWED: Final = frozenset({"error_rate", "order_rejects"})
SILENCES: Final = {"for 1 hour": 3600, "for 8 hours": 8 * 3600, "for 1 day": 86400, "for 1 week": 7 * 86400}
COLUMNS: Final = [
    {"key": "name", "title": "Rule", "kind": "text"}, {"key": "state", "title": "State", "kind": "state"},
    {"key": "condition", "title": "Condition", "kind": "text"},
    {"key": "threshold", "title": "Above", "kind": "number"}, {"key": "model", "title": "Bot", "kind": "text"},
    {"key": "lasting", "title": "For", "kind": "text"}, {"key": "cooldown", "title": "Cooldown", "kind": "text"}]
FIRINGS: Final = [
    {"key": "at", "title": "Time (UTC)", "kind": "time"}, {"key": "rule", "title": "Rule", "kind": "text"},
    {"key": "state", "title": "State", "kind": "state"}, {"key": "model", "title": "Bot", "kind": "link"},
    {"key": "message", "title": "Message", "kind": "text"}, {"key": "until", "title": "Over", "kind": "time"}]


def millis(text: str | None) -> float | None:
    """An instant of the server's JSON as the browser counts."""
    return None if not text else times.micros(times.parse(text)) / 1000


class Rules:
    """The first part of the page. `view` is its layout."""

    def __init__(self, page: PageView, client: AsyncClient, look: Style) -> None:
        self._page, self._client = page, client
        self._known: dict[str, dict[str, Any]] = {}
        self._firings: list[dict[str, Any]] = []
        self._picked = ""
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}

        def number(field: str, name: str, value: float, doc: str = "") -> Field:
            return Field(field, pn.widgets.FloatInput(label=name, value=value, step=1, **wide), doc)

        self.condition = Field("condition", pn.widgets.Select(label="Condition", options={
            title: key for key, (title, _, _) in CONDITIONS.items()}, **wide))
        self.name = Field("name", pn.widgets.TextInput(label="Name of the rule", placeholder="how notices call it",
                                                       **wide))
        self.threshold = number("threshold", "Fires above", 120.0)
        self.window = number("window", "Window, seconds", 300.0, "what is counted lies within it")
        self.lasting = number("lasting", "Has held for, seconds", 0.0, "0: fires at once")
        self.cooldown = number("cooldown", "Cooldown, seconds", 300.0, "before it fires again for the same bot")
        self.model = Field("model", pn.widgets.Select(label="Bot", options={"all bots": ""}, **wide))
        self._fields = (self.condition, self.name, self.threshold, self.window, self.lasting, self.cooldown,
                        self.model)
        self.condition.widget.param.watch(self._conditioned, "value")
        self._about = markup("")
        self._save = pn.widgets.Button(label="Make rule", button_type="primary", width=130, margin=0)
        self._new = pn.widgets.Button(label="New rule", width=100, margin=0)
        self._enable = pn.widgets.Button(label="Switch off", width=110, margin=0)
        self._silence = pn.widgets.Select(label="", options=list(SILENCES), width=130, margin=0)
        self._hush = pn.widgets.Button(label="Silence", width=90, margin=0)
        self._speak = pn.widgets.Button(label="End silence", width=110, margin=0)
        self._delete = pn.widgets.Button(label="Delete rule", button_type="danger", width=110, margin=0)
        for button, work in ((self._save, self._saved), (self._new, self._cleared), (self._enable, self._enabled),
                             (self._hush, self._silenced), (self._speak, self._spoken), (self._delete, self._deleted)):
            button.on_click(self._guard(work))
        self._title, self._status = markup("<h2>New rule</h2>"), markup("")
        self.table = LiveRows(look, columns=COLUMNS, caption="Rules", page=25, most=2000, picks=True, sortable=True,
                              asked=self._asked, placeholder="No rules yet. A rule watches your bots and tells you.")
        self.fired = LiveRows(look, columns=FIRINGS, caption="Firings", page=25, most=500, tall=360,
                              placeholder="No rule has fired yet.")
        self._form = box(self._title, grid(*(field.view for field in self._fields), least=190), self._about,
                         self._status, pn.FlexBox(self._save, self._new, self._enable, self._silence, self._hush,
                                                  self._speak, self._delete, gap="8px", margin=0))
        self.view = pn.Column(
            box(markup('<h2>Rules</h2><p class="muted">Choose a rule to change or silence it.</p>'), self.table),
            self._form, box(markup("<h2>When they fired</h2>"), self.fired),
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})
        self._show_picked()
        self._show_condition()

    async def load(self) -> None:
        """Rules, firings, and the bots to choose from."""
        models = (await self._client.models(sort="name", descending=False, limit=1000)).items
        self.model.widget.options = {"all bots": "", **{
            f"{model.name} ({model.id})" if model.name != model.id else model.id: model.id for model in models}}
        await self.read()
        await self.read_firings()

    async def read(self) -> None:
        """The rules."""
        self._known = {rule["id"]: rule for rule in await self._client.rules()}
        self.table.reset(_row(rule) for rule in self._known.values())
        if self._picked:
            self.table.pick(self._picked)

    async def read_firings(self) -> None:
        """What fired."""
        firings = await self._client.firings(limit=200)
        if firings != self._firings:
            self._firings = firings
            self.fired.reset(self._firing(one) for one in firings)

    def _firing(self, one: Mapping[str, Any]) -> Row:
        over = one["resolved_at"]
        return {"id": str(one["id"]), "at": millis(one["at"]), "until": millis(over),
                "rule": self._known.get(one["rule"], {}).get("name", one["rule"]), "model": one["model"],
                "href": f"/model?id={one['model']}", "message": one["message"],
                "state": ["over", "unknown"] if over else ["holds", "bad"]}

    # -- the form ------------------------------------------------------------------------------------------------

    def _conditioned(self, event: Any) -> None:
        self._show_condition()
        if not self._picked:
            self.threshold.widget.value = CONDITIONS[event.new][2]

    def _show_condition(self) -> None:
        key = str(self.condition.widget.value)
        self._about.object = f'<p class="muted">Compared: {escape(CONDITIONS[key][1])}.</p>'
        self.window.view.visible = key in WINDOWED

    def _show_picked(self) -> None:
        rule = self._known.get(self._picked)
        self._title.object = f"<h2>{escape(rule['name'])}</h2>" if rule else "<h2>New rule</h2>"
        self._save.label = "Save changes" if rule else "Make rule"
        for part in (self._new, self._enable, self._silence, self._hush, self._delete):
            part.visible = rule is not None
        self._speak.visible = bool(rule and _silent(rule))
        if rule:
            self._enable.label = "Switch off" if rule["enabled"] else "Switch on"

    def _guard(self, work: Any) -> Any:
        async def clicked(_event: Any) -> None:
            self._page.quiet()
            self._status.object = ""
            for field in self._fields:
                field.clear()
            try:
                await work()
            except Forbidden as error:
                self._page.complain(error)
            except WorkbenchError as error:
                self._spread(error)

        return clicked

    def _spread(self, error: WorkbenchError) -> None:
        fields = {field.name: field for field in self._fields}
        left = [problem for problem in error.problems if problem.field not in fields]
        for problem in error.problems:
            if problem.field in fields:
                fields[problem.field].complain(problem.message)
        if left or not error.problems:
            self._status.object = f'<div class="error" role="alert">{explained(error)}</div>'

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        rule = self._known.get(str(data.get("id")))
        if name != "pick" or rule is None:
            return
        self._picked = rule["id"]
        for field in self._fields:
            field.clear()
        for field in (self.condition, self.name, self.threshold, self.window, self.lasting, self.cooldown):
            field.widget.value = rule[field.name]
        if rule["model"] not in self.model.widget.options.values():
            self.model.widget.options = {**self.model.widget.options, rule["model"]: rule["model"]}
        self.model.widget.value = rule["model"]
        self._show_picked()

    async def _saved(self) -> None:
        title = CONDITIONS[str(self.condition.widget.value)][0]
        words: dict[str, Any] = {field.name: field.widget.value for field in (
            self.threshold, self.window, self.lasting, self.cooldown)}
        missing = [field for field in (self.threshold, self.window, self.lasting, self.cooldown)
                   if field.widget.value is None]
        for field in missing:
            field.complain("give a number")
        if missing:
            return
        name = (self.name.widget.value or "").strip()
        if self._picked:
            await self._client.change_rule(self._picked, name=name or title, condition=self.condition.widget.value,
                                           model=self.model.widget.value, **words)
            done = "The rule is changed."
        else:
            made = await self._client.create_rule(name or title, self.condition.widget.value,
                                                  words.pop("threshold"), model=self.model.widget.value, **words)
            self.name.widget.value = ""
            done = f"The rule “{made['name']}” watches from now on."
        await self.read()
        self._show_picked()
        self._status.object = f'<div class="good" role="status">{escape(done)}</div>'

    async def _cleared(self) -> None:
        self._picked = ""
        self.name.widget.value = ""
        self._show_picked()
        self.table.pick("")

    async def _change(self, **words: Any) -> None:
        await self._client.change_rule(self._picked, **words)
        await self.read()
        self._show_picked()

    async def _enabled(self) -> None:
        await self._change(enabled=not self._known[self._picked]["enabled"])

    async def _silenced(self) -> None:
        until = times.now() + timedelta(seconds=SILENCES[str(self._silence.value)])
        await self._change(silenced_until=times.iso(until))

    async def _spoken(self) -> None:
        await self._change(silenced_until="")

    async def _deleted(self) -> None:
        await self._client.delete_rule(self._picked)
        await self._cleared()
        await self.read()


def _silent(rule: Mapping[str, Any]) -> bool:
    return bool(rule["silenced_until"]) and times.parse(rule["silenced_until"]) > times.now()


def _row(rule: Mapping[str, Any]) -> Row:
    state = ["off", "unknown"] if not rule["enabled"] else ["watching", "good"]
    if rule["enabled"] and _silent(rule):
        until = rule["silenced_until"][:16].replace("T", " ")
        state = [f"silent until {until}", "idle"]
    return {"id": rule["id"], "name": rule["name"], "state": state, "state_by": state[0],
            "condition": CONDITIONS.get(rule["condition"], (rule["condition"],))[0], "threshold": rule["threshold"],
            "model": rule["model"] or "all", "lasting": lasted(rule["lasting"]) if rule["lasting"] else "at once",
            "cooldown": lasted(rule["cooldown"]), "find": rule["name"]}
