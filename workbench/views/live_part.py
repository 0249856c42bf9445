"""Parts of a page that are told what changed: words from the server to a script in the browser, and back."""

from collections.abc import Sequence
from typing import Any

import orjson
from panel.custom import JSComponent

from engine.plots.style import Style
from workbench.views.base import MARKUP_CSS, variables


def colours(look: Style) -> str:
    """The style of live parts: they carry their colours along, since a notebook's page has none."""
    return variables(look).replace(":root", ":host") + MARKUP_CSS


class LivePart(JSComponent):  # type: ignore[misc]
    """A component whose script is told things as they happen, and asks with `{ask: "ready"}` to be told everything.

    What is said travels as JSON text: Bokeh would turn every value of it over, for each page that shows the same.
    """

    def __init__(self, *, css: str, **params: Any) -> None:
        params.setdefault("sizing_mode", "stretch_width")
        params.setdefault("margin", 0)
        super().__init__(stylesheets=[css], **params)
        self._ready = False

    def whole(self) -> dict[str, Any]:
        """All that the browser should know."""
        raise NotImplementedError

    def tell(self, said: dict[str, Any]) -> None:
        """Say something to those who listen; others ask for everything once they do."""
        if self._ready:
            self._send_msg(orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY, default=str).decode())

    async def _handle_msg(self, data: dict[str, Any]) -> None:  # type: ignore[override]  # Panel awaits it
        if data.get("ask") == "ready":
            self._ready = True
            self.tell(self.whole())
        else:
            await self.heard(str(data.get("ask", "")), data)

    async def heard(self, name: str, data: dict[str, Any]) -> None:
        """The browser asks something else."""


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
