"""Which pages there are. A page's view is imported and built only when somebody opens it."""

import importlib
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page: `slug` is its path (one level deep, as Panel needs it), `view` is "module:Class", a
    `workbench.views.base.PageView`. Pages with a `label` stand in the navigation bar."""

    slug: str
    title: str
    view: str
    label: str = ""
    extensions: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"/{self.slug}"

    def load(self) -> Any:
        """The view's class."""
        module, _, name = self.view.partition(":")
        return getattr(importlib.import_module(module), name)


PAGES: Final[tuple[Page, ...]] = (
    Page(slug="", title="Overview", label="Overview", view="workbench.views.overview:Overview"),
    Page(slug="models", title="Models", label="Models", view="workbench.views.models:Models"),
    Page(slug="deployments", title="Uploaded models", label="Deploy",
         view="workbench.views.deployments:Deployments"),
    Page(slug="runs", title="Runs", label="Runs", view="workbench.views.runs:Runs", extensions=("tabulator",)),
    Page(slug="new", title="New backtest", label="New backtest", view="workbench.views.new_backtest:NewBacktest"),
    Page(slug="bots", title="Bots", label="Bots", view="workbench.views.bots:Bots"),
    Page(slug="markets", title="Markets", label="Markets", view="workbench.views.markets:Markets"),
    Page(slug="alerts", title="Alerts", label="Alerts", view="workbench.views.alerts:Alerts"),
    Page(slug="settings", title="Settings", label="Settings", view="workbench.views.settings:Settings"),
    Page(slug="notices", title="Notices", view="workbench.views.notices:Notices"),
    Page(slug="model", title="Model", view="workbench.views.models:ModelPage"),
    Page(slug="deployment", title="Uploaded model", view="workbench.views.deployments_model:DeploymentPage",
         extensions=("filedropper",)),
    Page(slug="bot", title="Bot", view="workbench.views.bots:BotPage"),
    Page(slug="connect", title="Connect your bot", view="workbench.views.connect:Connect"),
    Page(slug="run", title="Run", view="workbench.views.run:RunPage", extensions=("tabulator",)),
    Page(slug="compare", title="Compare", view="workbench.views.run:ComparePage", extensions=("tabulator",)),
)
