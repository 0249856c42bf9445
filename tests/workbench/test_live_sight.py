"""What live pages do while nobody looks: rows come late and charts wait, and nothing is left out."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tornado.locks import Lock
from tornado.websocket import WebSocketClosedError

from tests.harness import running_server, until
from workbench.client import AsyncClient
from workbench.theme import LIGHT
from workbench.views import base, live_part, model_live, say, shell
from workbench.views.live_part import LivePart, LiveTiles, Sight
from workbench.views.model_live import ModelLive

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with (running_server(tmp_path, rate_limit=0) as server,
                AsyncClient(server.url, server.services.admin_token) as client):
        yield client


async def trade(client: AsyncClient, *ids: str) -> None:
    orders = [{"kind": "order", "id": id, "symbol": "BTC-USD", "side": "buy", "size": 1.0, "price": 100.0}
              for id in ids]
    async with httpx.AsyncClient(base_url=client.url, headers=client._http.headers) as http:
        answer = await http.post("/workbench/api/events", params={"model": "m"},
                                 content="\n".join(map(json.dumps, orders)),
                                 headers={"Content-Type": "application/x-ndjson"})
        assert answer.is_success, answer.text


async def look(sight: Sight, on: bool, window: str = "w") -> None:
    await sight._handle_msg({"ask": "seen", "on": on, "me": window})


async def test_what_one_of_two_windows_shows_is_seen() -> None:
    turned: list[bool] = []
    sight = Sight(lambda: turned.append(True))
    assert sight.seen, "nobody said anything yet"
    await look(sight, True, "one")
    await look(sight, True, "two")
    await look(sight, False, "one")
    assert sight.seen and not turned
    await look(sight, False, "two")
    assert not sight.seen
    await look(sight, True, "two")
    assert sight.seen and turned == [True]
    await sight.opened()


async def test_a_browser_says_how_long_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    sight = Sight()
    assert await sight.drawn() == 0.0, "there is no browser"
    said: list[Any] = []
    monkeypatch.setattr(sight, "_send_msg", said.append)
    await sight._handle_msg({"ask": "ready"})
    drawing = asyncio.create_task(sight.drawn())
    await until(lambda: '{"do":"draw"}' in said)
    await sight._handle_msg({"ask": "drawn", "took": 250.0})
    assert await drawing == 0.25


async def test_charts_wait_until_somebody_looks_and_then_show_everything(client: AsyncClient) -> None:
    await trade(client, "first")
    view = ModelLive(client, "m", look="light")
    await view.load()
    trading = view.trading
    assert trading._chart is not None and trading._chart.shows("first")
    for sight in (trading._price_sight, trading._profit_sight):
        await look(sight, False)
    following = asyncio.create_task(view.follow())
    try:
        await trade(client, *map(str, range(30)))
        await until(lambda: len(view.trading.orders.rows) == 31)
        assert await trading.draw(view._change) == 0.0
        assert not any(trading._chart.shows(str(number)) for number in range(30))
        await look(trading._price_sight, True)
        await until(lambda: all(trading._chart is not None and trading._chart.shows(str(number))
                                for number in range(30)))
        await until(lambda: trading._uncounted)
        await look(trading._profit_sight, True)
        await until(lambda: not trading._uncounted)
    finally:
        following.cancel()


async def test_a_hidden_page_is_told_of_everything_once_it_is_shown(
        client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_live, "UNSEEN", 3600.0)
    await trade(client, "first")
    view = ModelLive(client, "m", look="light")
    await view.load()
    await look(view._sight, False)
    following = asyncio.create_task(view.follow())
    try:
        await trade(client, "second")
        await until(lambda: len(view.trading.orders.rows) == 2)  # from here on it waits
        await trade(client, "third", "fourth")
        await look(view._sight, True)
        await until(lambda: [row["id"] for row in view.trading.orders.rows] == ["fourth", "third", "second", "first"])
    finally:
        following.cancel()


async def test_a_browser_that_goes_without_an_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_part, "ANSWER", 0.01)
    sight = Sight()
    await sight._handle_msg({"ask": "ready"})
    await asyncio.wait_for(sight.drawn(), 60)


async def test_words_do_not_get_between_the_parts_of_another_message(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    closed = asyncio.get_running_loop().create_future()
    closed.set_exception(WebSocketClosedError())  # the page goes while it is told

    def dispatch(connection: Any, msg: Any) -> list[Any]:
        written.append(msg.content_json)
        return [closed]

    monkeypatch.setattr(say.documents, "dispatch_tornado", dispatch)
    lock = Lock()
    connection: Any = SimpleNamespace(_socket=SimpleNamespace(write_lock=lock))
    with await lock.acquire():  # Bokeh writes the parts of a message, and waits between them
        for word in ("one", "two"):
            say._write(connection, SimpleNamespace(content_json=word))
        assert written == []
    await until(lambda: written == ["one", "two"])
    say._write(connection, SimpleNamespace(content_json="three"))
    assert written == ["one", "two", "three"], "nobody writes: it goes at once"


def test_words_look_like_those_that_bokeh_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    from bokeh.document import Document
    from bokeh.document.events import MessageSentEvent
    from bokeh.protocol.messages.patch_doc import patch_doc
    from panel.io.state import state
    from panel.models.esm import ESMEvent

    part = LivePart(css="")
    document = Document()
    model = part.get_root(document)
    document.add_root(model)
    document.models.flush_synced(lambda model: False)  # the browser has them
    message = patch_doc.create([MessageSentEvent(document, "bokeh_event", ESMEvent(model=model, data='{"a": "\\"é"}'))])
    written: list[Any] = []
    monkeypatch.setattr(say, "_write", lambda connection, message: written.append(message))
    session = SimpleNamespace(_subscribed_connections={object()})
    [(ref, (shown, _))] = part._models.items()
    monkeypatch.setitem(state._views, ref, (part, model, SimpleNamespace(
        session_context=SimpleNamespace(session=session), callbacks=SimpleNamespace(hold_value=None)), None))
    assert shown is model and say.said_at_once(part, '{"a": "\\"é"}')
    assert json.loads(written[0].content_json) == json.loads(message.content_json)
    assert json.loads(written[0].header_json)["msgtype"] == "PATCH-DOC"


@pytest.mark.parametrize("turns", range(4))  # of the loop until another one comes: Panel's own loses it at 1
async def test_a_change_that_comes_while_another_is_written_is_written_too(
        monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    from bokeh.document import Document
    from panel.io import document as documents

    class Connection:
        _socket = SimpleNamespace(write_lock=Lock())

    document, flushed = Document(), asyncio.Event()
    connection: Any = Connection()
    written: list[str] = []

    def write(_connection: Any, msg: str) -> list[asyncio.Task[Any]]:
        written.append(msg)
        return [asyncio.ensure_future(flushed.wait())]

    def schedule(*messages: Any) -> asyncio.Task[None]:  # as Panel's `schedule_write_events` does
        documents._WRITE_BLOCK[document] = True
        documents._WRITE_MSGS.setdefault(document, {}).setdefault(connection, []).extend(messages)
        return asyncio.create_task(say.write_waiting(document))

    monkeypatch.setattr(documents, "dispatch_tornado", write)
    first = schedule("one", "two")
    await until(lambda: written == ["one", "two"])
    second = schedule("three")
    await second
    assert written == ["one", "two"] and document in documents._WRITE_BLOCK, "others must not overtake it"
    flushed.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await schedule("four")
    await first
    assert written == ["one", "two", "three", "four"]
    assert document not in documents._WRITE_MSGS and document not in documents._WRITE_BLOCK


def test_pages_have_panel_write_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from panel.io import document as documents

    monkeypatch.setattr(documents, "_dispatch_msgs", documents._dispatch_msgs)  # and put it back
    shell.prepare()
    assert documents._dispatch_msgs is say.write_waiting
    assert "_dispatch_msgs" in documents.schedule_write_events.__code__.co_names, "Panel calls it by this name"


async def test_what_is_said_before_there_is_a_browser_comes_with_the_page() -> None:
    from bokeh.document import Document
    from panel.io.state import set_curdoc

    document = Document()
    context = SimpleNamespace(session=SimpleNamespace(connection_count=0))
    document._session_context = lambda: context  # type: ignore[assignment,return-value]
    tiles = LiveTiles(LIGHT)
    said: list[str] = []

    def whole() -> Any:
        return json.loads(json.dumps(tiles.whole()))

    tiles._send_msg = said.append  # type: ignore[assignment,method-assign]
    with set_curdoc(document):
        tiles.put([("Profit", "1 USD", "gain")])
        await tiles._handle_msg({"ask": "ready", "version": tiles.version})
        assert json.loads(tiles.known) == whole() and not said, "the script has it"
        await tiles._handle_msg({"ask": "ready", "version": tiles.version - 1})
        assert json.loads(said.pop()) == whole(), "it is older"
        context.session.connection_count = 1
        tiles.put([("Profit", "2 USD", "gain")])
        assert json.loads(said.pop()) == whole() != json.loads(tiles.known)
        await tiles._handle_msg({"ask": "ready", "version": tiles.version})
        assert json.loads(said.pop()) == whole(), "more was said since"


async def test_a_model_that_was_read_ahead_is_heard_from_there(client: AsyncClient) -> None:
    await trade(client, "a")
    view = ModelLive(client, "m", look="light")
    await view.prepare()
    assert [row["id"] for row in view.trading.orders.rows] == ["a"] and view._tiles.tiles[-1] == ("Orders", "1", "")
    await trade(client, "meanwhile")
    await view.load()
    following = asyncio.create_task(view.follow())
    try:
        await until(lambda: [row["id"] for row in view.trading.orders.rows] == ["meanwhile", "a"])
        await until(lambda: view._tiles.tiles[-1] == ("Orders", "2", ""))
    finally:
        following.cancel()


async def test_a_page_is_prepared_for_a_moment_at_most(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "AHEAD", 0.01)
    done: list[str] = []

    class Slow(base.PageView):
        def build(self) -> str:
            return ""

        async def prepare(self) -> None:
            done.append("began")
            await asyncio.Event().wait()

        async def load(self) -> None:
            done.append("loaded")

    page = Slow(client, {}, LIGHT)
    async with asyncio.timeout(10):
        await page.ahead()
    await page.start()
    assert done == ["began", "loaded"]
