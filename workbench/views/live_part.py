"""Parts of a page that are told what changed: words from the server to a script in the browser, and back."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
import panel as pn
import param
from panel.custom import JSComponent

from engine.plots.style import Style
from workbench.views.base import MARKUP_CSS, variables
from workbench.views.say import said_at_once

ANSWER: Final = 10.0
"""Seconds to wait for a browser to say that it has drawn; a hidden page says so after 2."""
STANDS: Final = 2.0
"""Seconds to wait for a browser to show what it was sent."""


def colours(look: Style) -> str:
    """The style of live parts: they carry their colours along, since a notebook's page has none."""
    return variables(look).replace(":root", ":host") + MARKUP_CSS


class Script(JSComponent):  # type: ignore[misc]
    """A component of plain JavaScript."""

    def _get_properties(self, doc: Any) -> dict[str, Any]:
        """A script without a name as a bundle every page would first translate, as if it were TypeScript, which took
        browsers longer than drawing the page."""
        found: dict[str, Any] = super()._get_properties(doc)
        return {**found, "bundle": hashlib.sha256(found["esm"].encode()).hexdigest()}


class LivePart(Script):
    """A component whose script is told things as they happen, and asks with `{ask: "ready"}` to be told everything.

    What is said travels as JSON text: Bokeh would turn every value of it over, for each page that shows the same.
    What is said before a browser is there travels with the page, as `known`, so that its script need not ask.
    """

    known = param.String(default="", doc="everything, as the page was when it went to the browser")
    version = param.Integer(default=0, doc="of what is known")

    def __init__(self, *, css: str, **params: Any) -> None:
        params.setdefault("sizing_mode", "stretch_width")
        params.setdefault("margin", 0)
        super().__init__(stylesheets=[css], **params)
        self._ready = False
        self._told = 0
        self._stands = asyncio.Event()

    async def stands(self) -> None:
        """Until a browser shows it, or for `STANDS` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stands.wait(), STANDS)

    def whole(self) -> dict[str, Any]:
        """All that the browser should know."""
        raise NotImplementedError

    def tell(self, said: dict[str, Any]) -> None:
        """Say something to those who listen; others ask for everything once they do. No document needs to be locked."""
        self._told += 1
        if self._ready:
            text = _text(said)
            if not said_at_once(self, text):
                self._send_msg(text)
        elif _unasked():
            self.param.update(known=_text(self.whole()), version=self._told)

    async def _handle_msg(self, data: dict[str, Any]) -> None:  # type: ignore[override]  # Panel awaits it
        if data.get("ask") == "ready":
            self._ready = True
            if not self._told or data.get("version") != self._told:
                self.tell(self.whole())
            self._stands.set()
        else:
            await self.heard(str(data.get("ask", "")), data)

    async def heard(self, name: str, data: dict[str, Any]) -> None:
        """The browser asks something else."""


def _unasked() -> bool:
    """Whether this is a page that no browser has asked for yet. From then on a document changes only under its lock."""
    session = getattr(getattr(pn.state.curdoc, "session_context", None), "session", None)
    return session is not None and session.connection_count == 0


def _text(said: dict[str, Any]) -> str:
    return orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY, default=str).decode()


class LiveTiles(LivePart):
    """Figures on top of a page: (name, value, tone); a tone is gain, loss or empty. Those `awaited` have their place
    before they have a value."""

    _esm = "live_tiles.js"

    def __init__(self, look: Style, *, awaited: Sequence[str] = (), **params: Any) -> None:
        super().__init__(css=colours(look), **params)
        self.tiles = [(name, "…", "") for name in awaited]

    def put(self, tiles: Sequence[tuple[str, str, str]]) -> None:
        """Replace them."""
        if list(tiles) != self.tiles:
            self.tiles = list(tiles)
            self.tell(self.whole())

    def whole(self) -> dict[str, Any]:
        return {"tiles": self.tiles}


class Sight(LivePart):
    """Whether what it stands in is looked at: the browser says so when it comes into the window or leaves it, and when
    the page is hidden or shown. Until then it counts as seen. `turned` hears when it is seen again."""

    _esm = "sight.js"

    def __init__(self, turned: Callable[[], None] = lambda: None) -> None:
        super().__init__(css="", height=0)
        self._turned = turned
        self._seeing: set[str] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._drawn = asyncio.Event()
        self._took = 0.0

    @property
    def seen(self) -> bool:
        """Whether somebody looks."""
        return self._open.is_set()

    async def opened(self) -> None:
        """Until somebody looks."""
        await self._open.wait()

    async def drawn(self) -> float:
        """Wait until the browser has drawn what it was sent before this; gives the seconds that it took."""
        if not self._ready:
            return 0.0
        self._drawn.clear()
        self.tell({"do": "draw"})
        with suppress(TimeoutError):  # who was to answer may have gone
            await asyncio.wait_for(self._drawn.wait(), ANSWER)
        return self._took

    def whole(self) -> dict[str, Any]:
        return {}

    async def heard(self, name: str, data: dict[str, Any]) -> None:
        if name == "drawn":
            self._took = max(float(data.get("took") or 0), 0.0) / 1000
            self._drawn.set()
        elif name == "seen":
            if data.get("on"):
                self._seeing.add(str(data.get("me")))
            else:
                self._seeing.discard(str(data.get("me")))
            if not self._seeing:
                self._open.clear()
            elif not self.seen:
                self._open.set()
                self._turned()
