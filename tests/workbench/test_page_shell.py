"""The frame around every page."""

import panel as pn
import pytest
from bokeh.document import Document
from bokeh.models import ImportedStyleSheet
from panel.io.state import set_curdoc

from workbench.client import AsyncClient
from workbench.pages import PAGES
from workbench.views.shell import render

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")]


async def test_a_session_that_no_html_was_made_of_asks_nothing_of_the_internet(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that connects late gets a new session, whose document alone says where the style sheets are."""
    (page,) = [page for page in PAGES if page.slug == "new"]
    monkeypatch.setattr(type(pn.state), "onload", lambda *_: None)  # there is no server to load from
    client = AsyncClient("http://127.0.0.1:9")
    document = Document()
    with set_curdoc(document):
        render(page, client, "light", can_leave=False).server_doc(document)
    addresses = {sheet.url for root in document.roots for sheet in root.select({"type": ImportedStyleSheet})}
    assert addresses and not [address for address in addresses if "://" in address]
    await client.close()
