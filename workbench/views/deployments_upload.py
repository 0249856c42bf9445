"""The form that uploads a model: drop a file, say how it should run."""

from collections.abc import Awaitable, Callable, Mapping
from html import escape
from typing import Any, Final

import panel as pn

from engine.errors import Invalid, WorkbenchError
from workbench.client import AsyncClient
from workbench.client_deployments import Deployed
from workbench.views.base import explained, markup
from workbench.views.deployments_parts import size
from workbench.views.new_backtest import _cell

__all__ = ["LARGEST", "PlanChoice", "Upload"]

LARGEST: Final = 128 * 2**20
_WIDE: Final[dict[str, Any]] = {"sizing_mode": "stretch_width", "margin": 0}


class PlanChoice:
    """A select of plans that says what each allows."""

    def __init__(self, name: str = "Plan") -> None:
        self.widget = pn.widgets.Select(name=name, options={"": ""}, **_WIDE)
        self.plans: Mapping[str, Mapping[str, Any]] = {}

    def offer(self, plans: list[dict[str, Any]]) -> None:
        """The plans there are."""
        self.plans = {plan["name"]: plan for plan in plans}
        self.widget.options = {f"{name}: {plan['cpu'] / 1000:g} cores, {plan['memory']:,} MiB": name
                               for name, plan in self.plans.items()}
        self.widget.value = next(iter(self.plans), "")


class Upload:
    """A form: file, name (unless it is for `model`), description, plan, schedule. `done` hears what was deployed.

    What goes wrong is shown below the button, beside the form it is about."""

    def __init__(self, client: AsyncClient, done: Callable[[Deployed], Awaitable[None]], *,
                 model: str | None = None) -> None:
        self._client, self._done, self._model = client, done, model
        self.kept = ("", "")  # plan and schedule that a new version of the model goes on with
        self.file = pn.widgets.FileDropper(multiple=False, max_file_size=f"{LARGEST // 2**20}MB", height=96,
                                           chunk_size=4 * 2**20, **_WIDE)
        self.name = pn.widgets.TextInput(name="Name", placeholder="of the model", **_WIDE)
        self.description = pn.widgets.TextInput(name="What is new", placeholder="of this version", **_WIDE)
        self.schedule = pn.widgets.TextInput(name="Schedule (cron, UTC)", placeholder="all the time", **_WIDE)
        self.plan = PlanChoice()
        self.run = pn.widgets.Checkbox(name="run it right away", value=True, margin=0)
        self.button = pn.widgets.Button(name="Upload" if model else "Deploy", button_type="primary", width=110,
                                        margin=0, disabled=True)
        self.state = markup("")
        self.file.param.watch(self._dropped, "value")
        self.button.on_click(self._clicked)
        fields = [self.description] if model else [self.name, self.description, self.plan.widget, self.schedule]
        self.view = pn.Column(
            self.file, pn.FlexBox(*(_cell(widget, 150) for widget in fields), gap="8px 12px", margin=0),
            pn.FlexBox(self.button, self.run, gap="8px 14px", align_items="center", margin=0), self.state,
            sizing_mode="stretch_width", margin=0, styles={"gap": "10px"})

    def _dropped(self, event: Any) -> None:
        names = list(event.new or {})
        self.button.disabled = not names
        self.state.object = ""
        if names and not self.name.value:
            stem = names[0].rpartition(".")[0] or names[0]
            self.name.value = "" if stem in ("bot", "model", "main") else stem

    async def _clicked(self, _event: Any) -> None:
        self.button.disabled = True
        try:
            await self._deploy()
        except WorkbenchError as error:
            self.state.object = f'<div role="alert" class="error">{explained(error)}</div>'
        finally:
            self.button.disabled = not self.file.value

    async def _deploy(self) -> None:
        if not self.file.value:
            raise Invalid("no file was chosen", field="file", remedy="drop a zip or a .py file")
        *_, (file, body) = self.file.value.items()
        data = body.encode() if isinstance(body, str) else bytes(body)
        name = (self.name.value or "").strip()
        if not self._model and not name:
            raise Invalid("the model has no name", field="name", remedy="type one")
        self.state.object = f'<div role="status" class="muted">Storing {escape(file)} ({size(len(data))}) …</div>'
        made = await self._client.deploy_file(
            data, file=file, name=name, model=self._model, description=(self.description.value or "").strip(),
            plan=self.kept[0] if self._model else self.plan.widget.value, run=bool(self.run.value),
            schedule=self.kept[1] if self._model else (self.schedule.value or "").strip())
        self.state.object = (f'<div role="status" class="good">Version {made.version.number} of '
                             f"{escape(made.model.name)} is stored.</div>")
        self.file.value, self.description.value = {}, ""
        await self._done(made)
