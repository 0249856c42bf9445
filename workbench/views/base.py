"""What all pages share: a client, the query, the look, tasks that end with the page, errors that are shown."""

import asyncio
import functools
import html
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import panel as pn
from panel.io.resources import CDN_DIST
from panel.theme import Design, Inherit

from engine.errors import WorkbenchError
from engine.plots.style import Style
from workbench.client import AsyncClient

log = logging.getLogger("workbench.pages")
_HERE: Final = Path(__file__).parent
HOST_CSS: Final = (_HERE / "host.css").read_text()
WIDGET_CSS: Final = (_HERE / "widget.css").read_text()
MARKUP_CSS: Final = (_HERE / "markup.css").read_text()
TABLE_CSS: Final = (_HERE / "table.css").read_text()
AHEAD: Final = 0.5
"""Seconds at most that a page is prepared before a browser may have it."""
_NATIVE: Final = f"{CDN_DIST}bundled/theme/native.css"


class Face(Design):
    """The workbench's colours as CSS variables, and for widgets Panel's native design in these colours. What is no
    widget gets the variables alone: a page has many more layouts than widgets, and each carries its own style sheets.
    """

    modifiers: ClassVar = {
        pn.viewable.Viewable: {"stylesheets": [HOST_CSS]},
        **{kind: {"stylesheets": [_NATIVE, Inherit, WIDGET_CSS]} for kind in (pn.widgets.Widget, pn.Tabs)},
    }


def variables(look: Style) -> str:
    """The look as CSS custom properties of the document."""
    on_accent = "#ffffff" if not look.dark else "#06121f"
    line = "#8d99a8" if not look.dark else "#5b6b7e"  # input borders keep a contrast of 3:1 to the surface
    return (f":root {{ --wb-page: {look.page}; --wb-surface: {look.surface}; --wb-raised: {look.raised}; "
            f"--wb-text: {look.text}; --wb-muted: {look.muted}; --wb-border: {look.border}; --wb-grid: {look.grid}; "
            f"--wb-accent: {look.accent}; --wb-on-accent: {on_accent}; --wb-gain: {look.gain}; --wb-loss: {look.loss}; "
            f"--wb-line: {line}; --wb-font: {look.font}; --wb-mono: {look.mono}; color-scheme: {look.name}; }}")



def markup(text: str = "", **options: Any) -> pn.pane.HTML:
    """A pane of HTML in the pages' style. The text must be escaped where it comes from outside."""
    options.setdefault("sizing_mode", "stretch_width")
    options.setdefault("margin", 0)
    return pn.pane.HTML(text, stylesheets=[MARKUP_CSS], sanitize_html=False, **options)


def explained(error: WorkbenchError) -> str:
    """An error as HTML: every problem with its field and remedy."""
    parts = []
    for problem in error.problems:
        field = f"<b>{html.escape(problem.field)}</b>: " if problem.field else ""
        remedy = f' <span class="muted">{html.escape(problem.remedy)}</span>' if problem.remedy else ""
        parts.append(f"<div>{field}{html.escape(problem.message)}.{remedy}</div>".replace("..", "."))
    return "".join(parts)


class PageView(pn.viewable.Viewer):
    """A page. Subclasses build their widgets in `build` (quick, no waiting) and fetch in `load`, which runs once the
    browser is connected, so that the page stands before its data are there. What the server answers at once they may
    fetch in `prepare`, while the browser still reads its scripts."""

    def __init__(self, client: AsyncClient, query: Mapping[str, str], look: Style, **params: Any) -> None:
        super().__init__(**params)
        self.client = client
        self.query = dict(query)
        self.look = look
        self._tasks: set[asyncio.Task[Any]] = set()
        self.notice = markup("", visible=False, css_classes=["wb-notice"])
        # What page.js reads. A callback of Panel's would have it look through all models at every change of a layout.
        self._address = pn.widgets.TextInput(visible=False, css_classes=["wb-address"])
        self._body = self.build()

    def build(self) -> Any:
        """The page's layout."""
        raise NotImplementedError

    async def load(self) -> None:
        """Fetch what the page shows."""

    def __panel__(self) -> Any:
        return pn.Column(self._address, self.notice, self._body, sizing_mode="stretch_width", margin=0)

    async def prepare(self) -> None:
        """Fetch what is shown first, before there is a browser. Nothing but the server may be waited for, and nothing
        may go on beside it. It may fail or be cut off anywhere: `load` fetches what is missing, and tells of errors."""

    async def ahead(self) -> None:
        """Prepare, for as long as a browser needs to read its scripts."""
        with suppress(TimeoutError, WorkbenchError):
            async with asyncio.timeout(AHEAD):
                await self.prepare()

    async def start(self) -> None:
        """Load, showing what goes wrong."""
        await self.guarded(self.load())

    async def guarded(self, work: Awaitable[Any]) -> bool:
        """Await something; an error is shown on the page. Gives whether it went well."""
        try:
            await work
        except WorkbenchError as error:
            self.complain(error)
        except Exception:
            log.exception("a page failed")
            self.say("Something went wrong on this page; the server's log says what.", good=False)
        else:
            return True
        return False

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something beside the page until the page is closed."""
        task = asyncio.get_running_loop().create_task(self.guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """End what runs beside the page."""
        for task in tuple(self._tasks):
            task.cancel()

    def say(self, text: str, *, good: bool = True, raw: bool = False) -> None:
        """Show a message at the top; it is read out by screen readers."""
        role = "status" if good else "alert"
        body = text if raw else html.escape(text)
        self.notice.object = f'<div role="{role}" class="{"good" if good else "error"}">{body}</div>'
        self.notice.visible = True

    def complain(self, error: WorkbenchError) -> None:
        """Show an error with its remedies."""
        self.say(explained(error), good=False, raw=True)

    def quiet(self) -> None:
        """Take the message away."""
        self.notice.visible = False

    def entitle(self, title: str) -> None:
        """Name the browser's tab."""
        document = pn.state.curdoc
        if document is not None:  # a document's own fields may be changed only under its lock
            document.add_next_tick_callback(lambda: setattr(document, "title", f"{title} · workbench"))

    def visit(self, path: str) -> None:
        """Go to another page."""
        self._address.value = f"go {path}"

    def readdress(self, path: str) -> None:
        """Show another address without leaving the page, so that what is seen can be kept and shared."""
        self._address.value = f"at {path}"



def on_page(handler: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """For event handlers of a page: errors are shown on it."""
    @functools.wraps(handler)
    async def wrapped(self: PageView, *args: Any) -> None:
        self.quiet()
        await self.guarded(handler(self, *args))

    return wrapped
