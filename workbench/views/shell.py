"""The frame around every page: navigation, theme, skip link; and the page's view within it."""

import asyncio
from pathlib import Path
from typing import Any, Final

import panel as pn
from panel.io import document as documents
from panel.io.resources import LOCAL_DIST
from panel.io.state import set_curdoc
from panel.theme import DarkTheme, DefaultTheme

from workbench.client import AsyncClient
from workbench.pages import PAGES, Page
from workbench.theme import style
from workbench.views.base import Face, variables
from workbench.views.say import write_waiting

_HERE: Final = Path(__file__).parent
_PAGE: Final = (_HERE / "page.html").read_text()
_CSS: Final = (_HERE / "page.css").read_text()
_JS: Final = (_HERE / "changes.js").read_text() + (_HERE / "page.js").read_text()


class Frame(pn.Template):  # type: ignore[misc]
    """The template of a page."""

    def __repr__(self) -> str:
        return "Frame()"  # Panel would write down the whole page: 347 of 1,376 samples of making /notices


def prepare() -> None:
    """Import the views of the pages that are opened first, so that nobody waits for them."""
    pn.extension("tabulator")
    documents._dispatch_msgs = write_waiting
    for page in PAGES:
        if page.label:
            page.load()


def render(page: Page, client: AsyncClient, theme: str, *, can_leave: bool) -> Any:
    """The template of one page session. Data are fetched after the browser is connected."""
    look = style(theme)
    pn.config.theme = "dark" if look.dark else "default"  # type: ignore[misc]  # a property with a setter
    document = pn.state.curdoc
    if document is not None:
        # Panel says it with the page's HTML. A browser that connects after its session was given up has a session that
        # no HTML was made of, whose style sheets would be asked of a server in the internet.
        document._template_variables.setdefault("dist_url", LOCAL_DIST)
    if page.extensions:
        pn.extension(*page.extensions)
    query = {name: values[0].decode("utf-8", "replace") for name, values in pn.state.session_args.items() if values}
    view = page.load()(client, query, look)
    template = Frame(_PAGE, theme=DarkTheme if look.dark else DefaultTheme, design=Face)
    template.add_panel("main", pn.panel(view))
    template.add_variable("page_css", variables(look) + _CSS)
    template.add_variable("page_js", _JS)
    template.add_variable("look", look)
    template.add_variable("can_leave", can_leave)
    template.add_variable("html_attrs", f'data-theme="{look.name}"')
    template.add_variable("navigation", [
        {"href": entry.path, "label": entry.label, "current": entry is page} for entry in PAGES if entry.label])
    if document is not None:

        async def ahead() -> None:  # under the lock of the document: a browser that asks for it meanwhile waits
            with set_curdoc(document):
                await view.ahead()

        document.add_next_tick_callback(ahead)  # type: ignore[arg-type]  # it is awaited
    pn.state.onload(view.start)
    loop = asyncio.get_running_loop()
    # The last moment at which a session is known; its tasks belong to this loop.
    def ended(_context: Any) -> None:
        loop.call_soon_threadsafe(view.close)

    pn.state.on_session_destroyed(ended)
    return template
