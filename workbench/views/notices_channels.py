"""Where notices go: channels with masked addresses, a test of each, and the log of what was delivered."""

from collections.abc import Awaitable, Callable, Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine.alerts import DURATIONS, INSTRUMENTS
from engine.errors import WorkbenchError
from engine.plots.style import Style
from workbench.client import AsyncClient
from workbench.views.alerts_history import box, grid
from workbench.views.base import PageView, explained, markup
from workbench.views.live_rows import LiveRows, Row
from workbench.views.new_backtest import Field
from workbench.views.notices_rules import millis

__all__ = ["TOPICS", "Channels", "Log"]

TOPICS: Final[Mapping[str, str]] = {
    "an alert was detected": "alert.working", "an alert reached its start": "alert.onGoing",
    "an alert was closed": "alert.closed", "an alert was invalidated": "alert.aborted",
    "a rule on a bot fires": "rule.firing", "it holds no longer": "rule.resolved"}
KINDS: Final = {"apprise: e-mail, Telegram, Slack, Discord …": "apprise", "webhook: signed JSON": "webhook"}
STATES: Final[Mapping[str, tuple[str, str]]] = {"delivered": ("delivered", "good"), "pending": ("on its way", "idle"),
                                                "dead": ("given up", "bad")}
COLUMNS: Final = [
    {"key": "name", "title": "Channel", "kind": "text"}, {"key": "state", "title": "State", "kind": "state"},
    {"key": "kind", "title": "Kind", "kind": "text"}, {"key": "url", "title": "Address", "kind": "code"},
    {"key": "topics", "title": "Hears of", "kind": "text"},
    {"key": "rate", "title": "A minute", "kind": "number", "digits": 0}]
DELIVERIES: Final = [
    {"key": "at", "title": "Time (UTC)", "kind": "time"}, {"key": "channel", "title": "Channel", "kind": "text"},
    {"key": "topic", "title": "Notice", "kind": "text"}, {"key": "state", "title": "State", "kind": "state"},
    {"key": "attempts", "title": "Attempts", "kind": "number", "digits": 0},
    {"key": "status", "title": "Answer", "kind": "text"}, {"key": "error", "title": "Error", "kind": "text"},
    {"key": "next", "title": "Next try", "kind": "time"}]
_WORDS: Final = {topic: words for words, topic in TOPICS.items()} | {"test": "a test"}


class Channels:
    """The second part of the page. `view` is its layout; `sent` is awaited when a test went out."""

    def __init__(self, page: PageView, client: AsyncClient, look: Style, *,
                 sent: Callable[[], Awaitable[None]]) -> None:
        self._page, self._client, self._sent = page, client, sent
        self._known: dict[str, dict[str, Any]] = {}
        self._picked = ""
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self.name = Field("name", pn.widgets.TextInput(label="Name of the channel", **wide))
        self.kind = Field("kind", pn.widgets.Select(label="Kind", options=KINDS, **wide))
        self.url = Field("url", pn.widgets.PasswordInput(label="Address", placeholder="mailto://… tgram://… https://…",
                                                         **wide), "kept encrypted and never shown again as a whole")
        self.rate = Field("rate", pn.widgets.IntInput(label="Notices a minute", value=60, start=0, **wide),
                          "0: no limit")
        self.topics = Field("topics", pn.widgets.CheckBoxGroup(label="Hears of", options=dict(TOPICS),
                                                               value=list(TOPICS.values()), margin=0))
        self.instruments = Field("filters.instruments", pn.widgets.MultiChoice(
            label="Only alerts of these instruments", options=list(INSTRUMENTS), placeholder="all", **wide))
        self.durations = Field("filters.durations", pn.widgets.MultiChoice(
            label="Only alerts of these durations", options=list(DURATIONS), placeholder="all", **wide))
        self._fields = (self.name, self.kind, self.url, self.rate, self.topics, self.instruments, self.durations)
        self._save = pn.widgets.Button(label="Make channel", button_type="primary", width=140, margin=0)
        self._new = pn.widgets.Button(label="New channel", width=110, margin=0)
        self._test = pn.widgets.Button(label="Send a test", width=110, margin=0)
        self._enable = pn.widgets.Button(label="Switch off", width=110, margin=0)
        self._delete = pn.widgets.Button(label="Delete channel", button_type="danger", width=130, margin=0)
        for button, work in ((self._save, self._saved), (self._new, self._cleared), (self._test, self._tested),
                             (self._enable, self._enabled), (self._delete, self._deleted)):
            button.on_click(self._guard(work))
        self._title, self._status = markup("<h2>New channel</h2>"), markup("")
        self.table = LiveRows(look, columns=COLUMNS, caption="Channels", page=25, most=2000, picks=True, sortable=True,
                              asked=self._asked, placeholder="No channels yet: notices go nowhere.")
        self.view = pn.Column(
            box(markup('<h2>Channels</h2><p class="muted">Choose a channel to test or change it.</p>'), self.table),
            box(self._title, grid(self.name.view, self.kind.view, self.url.view, self.rate.view, least=210),
                markup("<b>Hears of</b>"), self.topics.view,
                grid(self.instruments.view, self.durations.view, least=280), self._status,
                pn.FlexBox(self._save, self._new, self._test, self._enable, self._delete, gap="8px", margin=0)),
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})
        self._show_picked()

    @property
    def names(self) -> dict[str, str]:
        """The channels' names by id."""
        return {id: channel["name"] for id, channel in self._known.items()}

    async def load(self) -> None:
        """The channels."""
        self._known = {channel["id"]: channel for channel in await self._client.channels()}
        self.table.reset(_row(channel) for channel in self._known.values())
        if self._picked:
            self.table.pick(self._picked)

    def _show_picked(self) -> None:
        channel = self._known.get(self._picked)
        self._title.object = f"<h2>{escape(channel['name'])}</h2>" if channel else "<h2>New channel</h2>"
        self._save.label = "Save changes" if channel else "Make channel"
        self.kind.widget.disabled = channel is not None
        self.url.widget.placeholder = f"{channel['url']} (empty: stays)" if channel else "mailto://… tgram://… https://…"
        for part in (self._new, self._test, self._enable, self._delete):
            part.visible = channel is not None
        if channel:
            self._enable.label = "Switch off" if channel["enabled"] else "Switch on"

    def _guard(self, work: Any) -> Any:
        async def clicked(_event: Any) -> None:
            self._page.quiet()
            self._status.object = ""
            for field in self._fields:
                field.clear()
            try:
                await work()
            except WorkbenchError as error:
                self._spread(error)

        return clicked

    def _spread(self, error: WorkbenchError) -> None:
        fields = {field.name: field for field in self._fields}
        left = [problem for problem in error.problems if problem.field.split(".")[0] not in fields]
        for problem in error.problems:
            field = fields.get(problem.field.split(".")[0])
            if field is not None:
                field.complain(problem.message + (f" – {problem.remedy}" if problem.remedy else ""))
        if left or not error.problems:
            self._status.object = f'<div class="error" role="alert">{explained(error)}</div>'

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        channel = self._known.get(str(data.get("id")))
        if name != "pick" or channel is None:
            return
        self._picked = channel["id"]
        for field in self._fields:
            field.clear()
        self.name.widget.value, self.kind.widget.value = channel["name"], channel["kind"]
        self.url.widget.value, self.rate.widget.value = "", channel["rate"]
        self.topics.widget.value = [topic for topic in TOPICS.values() if topic in channel["topics"]]
        self.instruments.widget.value = list(channel["filters"].get("instruments") or ())
        self.durations.widget.value = list(channel["filters"].get("durations") or ())
        self._show_picked()

    async def _saved(self) -> None:
        name, url = (self.name.widget.value or "").strip(), (self.url.widget.value or "").strip()
        kept = self._known.get(self._picked, {}).get("filters") or {}
        words: dict[str, Any] = {
            "topics": list(self.topics.widget.value), "rate": int(self.rate.widget.value or 0),
            "filters": {**kept, "instruments": list(self.instruments.widget.value),
                        "durations": list(self.durations.widget.value)}}
        if not name:
            self.name.complain("a channel needs a name")
        if not url and not self._picked:
            self.url.complain("a channel needs an address")
        if not words["topics"]:
            self.topics.complain("choose at least one")
        if not name or not (url or self._picked) or not words["topics"]:
            return
        if self._picked:
            await self._client.change_channel(self._picked, name=name, **words, **({"url": url} if url else {}))
            self._status.object = '<div class="good" role="status">The channel is changed.</div>'
        else:
            made = await self._client.create_channel(name, url, kind=self.kind.widget.value, **words)
            self._picked = made["id"]
            key = "" if not made.get("key") else (
                " Its bodies are signed with this key, shown this once: "
                f'<code aria-label="Signing key" style="user-select:all">{escape(made["key"])}</code>')
            self._status.object = f'<div class="good" role="status">The channel is made.{key}</div>'
        self.url.widget.value = ""
        await self.load()
        self._show_picked()

    async def _cleared(self) -> None:
        self._picked = ""
        self.name.widget.value = self.url.widget.value = ""
        self._show_picked()
        self.table.pick("")

    async def _tested(self) -> None:
        self._test.disabled = True
        try:
            told = await self._client.test_channel(self._picked)
        finally:
            self._test.disabled = False
        if told["state"] == "delivered":
            self._status.object = '<div class="good" role="status">The test was delivered.</div>'
        else:
            why = told["error"] or (told["tried"][-1]["error"] if told["tried"] else "no answer yet")
            self._status.object = f'<div class="error" role="alert">The test was not delivered: {escape(why)}</div>'
        await self._sent()

    async def _enabled(self) -> None:
        await self._client.change_channel(self._picked, enabled=not self._known[self._picked]["enabled"])
        await self.load()
        self._show_picked()

    async def _deleted(self) -> None:
        await self._client.delete_channel(self._picked)
        await self._cleared()
        await self.load()
        await self._sent()


def _row(channel: Mapping[str, Any]) -> Row:
    words = [_WORDS.get(topic, topic) for topic in channel["topics"]]
    return {"id": channel["id"], "name": channel["name"], "kind": channel["kind"], "url": channel["url"],
            "state": ["on", "good"] if channel["enabled"] else ["off", "unknown"], "rate": channel["rate"],
            "state_by": channel["enabled"],
            "topics": "everything" if len(words) >= len(TOPICS) else ", ".join(words)}


class Log:
    """The third part: what went out, with its attempts."""

    def __init__(self, page: PageView, client: AsyncClient, look: Style) -> None:
        self._page, self._client = page, client
        self.names: dict[str, str] = {}
        self._items: list[dict[str, Any]] = []
        self._picked: dict[str, Any] | None = None
        self.state = pn.widgets.Select(label="Show", options={"all": "", **{
            words: state for state, (words, _) in STATES.items()}}, width=160, margin=0)
        self.state.param.watch(lambda _event: pn.state.execute(self._again), "value")
        self.table = LiveRows(look, columns=DELIVERIES, caption="Deliveries", page=50, most=2000, picks=True, tall=420,
                              asked=self._asked, placeholder="Nothing was sent yet.")
        self._told = markup("")
        self._retry = pn.widgets.Button(label="Try again", width=100, margin=0, visible=False)
        self._retry.on_click(self._retried)
        self.view = box(markup("<h2>Deliveries</h2>"), self.state, self.table, self._told, self._retry)

    async def load(self, names: dict[str, str]) -> None:
        """The newest."""
        self.names = names
        await self.read()

    async def _again(self) -> None:
        await self._page.guarded(self.read())

    async def read(self) -> None:
        """What is new since the last look."""
        items = await self._client.deliveries(limit=200, state=self.state.value or None)
        if items != self._items:
            self._items = items
            self.table.reset(self._row(item) for item in items)
            if self._picked is not None:
                self.table.pick(str(self._picked["id"]))

    def _row(self, item: Mapping[str, Any]) -> Row:
        return {"id": str(item["id"]), "at": millis(item["created_at"]), "next": millis(item["next_at"]),
                "channel": self.names.get(item["channel"], item["channel"]),
                "topic": _WORDS.get(item["topic"], item["topic"]), "attempts": item["attempts"],
                "state": list(STATES.get(item["state"], (item["state"], "unknown"))),
                "status": "" if item["status"] is None else str(item["status"]), "error": item["error"] or ""}

    async def _asked(self, name: str, data: dict[str, Any]) -> None:
        if name == "pick":
            await self._page.guarded(self._show(int(data["id"])))

    async def _show(self, id: int) -> None:
        import orjson

        told = self._picked = await self._client.delivery(id)
        tried = "".join(
            f'<tr><td class="num">{one["number"]}</td><td>{escape(str(one["at"])[:19].replace("T", " "))}</td>'
            f'<td class="num">{one["ms"]:,} ms</td><td>{escape(str(one["status"] or "–"))}</td>'
            f'<td class="name">{escape(str(one["error"] or "–"))}</td></tr>' for one in told["tried"])
        body = orjson.dumps(told["notice"], option=orjson.OPT_INDENT_2).decode()
        self._told.object = (
            f"<h2>Delivery {told['id']}</h2>" + (
                '<div class="scroll"><table aria-label="Attempts"><thead><tr><th scope="col" class="num">Attempt</th>'
                '<th scope="col">Time (UTC)</th><th scope="col" class="num">Took</th><th scope="col">Answer</th>'
                f'<th scope="col">Error</th></tr></thead><tbody>{tried}</tbody></table></div>' if tried else
                '<p class="muted">It was not tried yet.</p>')
            + f'<details style="margin-top:8px"><summary>What was sent</summary><pre>{escape(body)}</pre></details>')
        self._retry.visible = told["state"] == "dead"

    async def _retried(self, _event: Any) -> None:
        self._page.quiet()
        await self._page.guarded(self._try())

    async def _try(self) -> None:
        assert self._picked is not None
        await self._client.retry_delivery(self._picked["id"])
        await self.read()
        await self._show(self._picked["id"])
