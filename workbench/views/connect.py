"""Connect your bot: a model, a key for it, commands to copy, and the first word that is heard from it."""

import html
from typing import Any, Final

import panel as pn

from engine import times
from engine.activity import Model, Project
from engine.errors import Forbidden
from workbench import snippets
from workbench.client_models import order_of
from workbench.views.base import PageView, markup, on_page

NEW: Final = "a new one …"
NEW_MODEL: Final = "a new model …"
PYTHON: Final = "Python with workbench"


class Connect(PageView):
    """`/connect`, `/connect?model=…`: from nothing to a bot that reports."""

    def build(self) -> Any:
        self._projects: list[Project] = []
        self._models: list[Model] = []
        self._model: Model | None = None
        self._listening: Any = None
        self._texts: dict[str, str] = {}
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self._project = pn.widgets.Select(label="Project", options={}, **wide)
        self._project_name = pn.widgets.TextInput(label="Name of the project", placeholder="my bots", visible=False,
                                                  **wide)
        self._which = pn.widgets.Select(label="Model", options={NEW_MODEL: ""}, **wide)
        self._name = pn.widgets.TextInput(label="Name of the model", placeholder="Golden cross on BTC", **wide)
        self._make = pn.widgets.Button(label="Make a key", color="primary", width=150, margin=0, disabled=True)
        self._project.param.watch(self._listed, "value")
        self._which.param.watch(self._picked, "value")
        self._make.on_click(self._made)
        self._secret = markup("", visible=False)
        self._heard = markup("")
        self._commands = pn.Column(sizing_mode="stretch_width", margin=0)
        card = {"background": self.look.surface, "border": f"1px solid {self.look.border}", "border-radius": "10px",
                "padding": "14px 16px", "gap": "10px", "min-width": "0"}
        self._language = pn.widgets.Select(label="Language or kit", options=[PYTHON], width=260, margin=0)
        self._language.param.watch(lambda _event: self._show_command(), "value")
        form = pn.Column(
            markup('<h2>1. A model and its key</h2><p class="muted">A model is one bot. Its key lets it report, and '
                   "nothing else.</p>"),
            self._project, self._project_name, self._which, self._name, self._make, self._secret, **wide, styles=card)
        listen = pn.Column(markup("<h2>What is heard</h2>"), self._heard, **wide, styles=card)
        right = pn.Column(
            markup('<h2>2. Report</h2><p class="muted">Copy one of these; each sends a first order and a line of log.'
                   "</p>"), self._language, self._commands, **wide, styles={**card, "flex": "2 1 480px"})
        left = pn.Column(form, listen, **wide, styles={"flex": "1 1 320px", "gap": "12px"})
        return pn.Column(markup("<h1>Connect your bot</h1>"), pn.FlexBox(
            left, right, gap="12px", align_items="flex-start", sizing_mode="stretch_width", margin=0),
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        self._projects = await self.client.projects()
        wanted = self.query.get("model", "")
        self._model = await self.client.model(wanted) if wanted else None
        options = {project.name: project.id for project in self._projects}
        if "default" not in options.values():
            options = {"default": "default", **options}
        self._project.options = {**options, NEW: ""}
        self._project.value = self._model.project if self._model else "default"
        await self._show_models()
        self._make.disabled = False
        self._show_commands("", "")
        self._show_waiting()
        if self._model is not None:
            self._listen()

    async def _show_models(self) -> None:
        project = str(self._project.value or "")
        self._project_name.visible = not project
        self._models = list((await self.client.models(project=project, sort="name", descending=False,
                                                      limit=1000)).items) if project else []
        names = [model.name for model in self._models]
        self._which.options = {NEW_MODEL: "", **{
            model.name if names.count(model.name) == 1 else f"{model.name} ({model.id})": model.id
            for model in self._models}}
        self._which.value = self._model.id if self._model in self._models else ""
        self._name.visible = not self._which.value

    @on_page
    async def _listed(self, _event: Any) -> None:
        await self._show_models()

    @on_page
    async def _picked(self, event: Any) -> None:
        self._name.visible = not event.new
        self._model = next((model for model in self._models if model.id == event.new), None)
        self._secret.visible = False
        self._show_commands("", "")
        self._listen()

    @on_page
    async def _made(self, _event: Any) -> None:
        self._make.disabled = True
        try:
            await self._key()
        except Forbidden as error:
            self.complain(Forbidden(error.message, remedy="log in with the admin token to make keys"))
        finally:
            self._make.disabled = False

    async def _key(self) -> None:
        project = str(self._project.value or "")
        if not project:
            made = await self.client.create_project(self._project_name.value_input or self._project_name.value
                                                    or "my bots")
            self._projects.append(made)
            self._model = None
            self._project.param.update(
                options={**{entry.name: entry.id for entry in self._projects}, NEW: ""}, value=made.id)
            project = made.id
        if self._model is None:
            name = self._name.value_input or self._name.value or "My first bot"
            self._model = await self.client.create_model(name, project=project)
            await self._show_models()
        key = await self.client.create_key(model=self._model.id)
        self._secret.object = (
            '<div class="good" role="status"><b>The key, shown once. Keep it now.</b>'
            '<dl class="facts" style="margin-top:6px">'
            + "".join(f'<dt>{label}</dt><dd><code aria-label="{label}" style="user-select:all">{html.escape(value)}'
                      "</code></dd>" for label, value in (
                          ("Project id", self._model.project), ("Model id", self._model.id), ("Key", key["token"])))
            + "</dl></div>")
        self._secret.visible = True
        self._show_commands(key["api_key"], key["token"])
        self._listen()

    # -- commands ------------------------------------------------------------------------------------------------

    def _show_commands(self, api_key: str, token: str) -> None:
        model = self._model.id if self._model else "MODEL"
        project = api_key or (self._model.project if self._model else "PROJECT")
        self._texts = {PYTHON: program(self.client.url, model, token or "KEY"),
                       **snippets.snippets(self.client.url, project, model, token or "KEY")}
        self._language.options = [name for name in self._texts if name != snippets.REDIRECT_FILE]
        self._show_command()

    def _show_command(self) -> None:
        chosen = str(self._language.value)
        text, beside = self._texts[chosen], self._texts[snippets.REDIRECT_FILE]
        self._commands[:] = [copied(text, chosen)]
        if snippets.REDIRECT_FILE[:-3] in text:
            self._commands.append(markup(f"<h2>{snippets.REDIRECT_FILE}</h2>"))
            self._commands.append(copied(beside, snippets.REDIRECT_FILE))

    # -- listening -----------------------------------------------------------------------------------------------

    def _show_waiting(self) -> None:
        self._heard.object = ('<p class="muted" role="status">Make a key, then start your bot: its first word appears '
                              "here.</p>" if self._model is None else
                              f'<p role="status">Listening to <b>{html.escape(self._model.name)}</b> … nothing yet.'
                              "</p>")

    def _listen(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
        self._show_waiting()
        if self._model is not None:
            self._listening = self.spawn(self._hear(self._model))

    async def _hear(self, model: Model) -> None:
        """What the model says: the first entry at once, whichever stream it comes on."""
        stream = f"model/{model.id}"
        async for event in self.client.follow_all(prefix=stream, after_id=None if model.heard_at else 0):
            if event.stream not in (stream, f"{stream}/log") or event.type in ("created", "renamed"):
                continue
            if event.type == "order":
                order = order_of(event.data)
                said = f"{order.side} {order.symbol}"
            else:
                said = str(event.data.get("line") or event.data.get("message") or event.data.get("type") or "")
            self._heard.object = (
                f'<div class="good" role="status"><b>Heard from your bot</b> at {times.iso(event.at)[11:19]} UTC: '
                f"<code>{html.escape(event.type)}</code> {html.escape(said[:200])}<br>"
                f'<a href="/model?id={html.escape(model.id)}">Watch it live</a></div>')


def program(url: str, model: str, key: str) -> str:
    """A program with the workbench's own client, which waits for nothing and loses nothing."""
    return f"""import workbench as wb

with wb.Bot({model!r}, url={url!r}, token={key!r}) as bot:
    bot.started("Running")
    bot.log("hello from Python")
    bot.order("BTC-USD", "buy", size=0.5, price=50_000, id="order-1", annotation="the first one")
"""


def copied(text: str, title: str) -> Any:
    """A command with a button that copies it; page.js does."""
    return markup(f'<pre aria-label="{html.escape(title)}" tabindex="0" style="white-space:pre;margin:8px 0 6px">'
                  f'{html.escape(text)}</pre><button type="button" class="wb-copy">Copy</button>')
