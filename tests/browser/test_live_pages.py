"""Models as a person watches them: orders that appear, logs that are searched, restarts that lose nothing."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page, expect

from engine import times
from tests.harness import ServerProcess, wait_until
from workbench import demo

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

SERVE = ("-m", "workbench", "serve")
LONG = "a strategy with a name that goes on and on and never seems to stop " * 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("live") / "data"
    demo.load_candles(folder)
    with ServerProcess("--no-browser", "--workers", "1", program=SERVE, data_dir=folder) as server:
        wait_until(lambda: httpx.get(f"{server.url}/models").status_code == 302, 60)
        yield server


def report(server: ServerProcess, model: str, *entries: dict[str, Any]) -> None:
    answer = httpx.post(f"{server.url}/workbench/api/events", params={"model": model}, timeout=60,
                        headers={**server.headers, "Content-Type": "application/x-ndjson"},
                        content="\n".join(map(json.dumps, entries)))
    assert answer.is_success, answer.text


def order(id: str, *, side: str = "buy", price: float | None = 100.0, symbol: str = "BTC-USD", **more: Any
          ) -> dict[str, Any]:
    return {"kind": "order", "id": id, "symbol": symbol, "side": side, "size": 1.0,
            **({} if price is None else {"price": price}), **more}


def lines(texts: Sequence[str], type: str = "stdout") -> list[dict[str, Any]]:
    return [{"kind": "log", "line": text, "type": type} for text in texts]


def enter(page: Page, server: ServerProcess, path: str) -> None:
    page.goto(f"{server.url}/login?token={server.token}&next={quote(path, safe='')}")
    page.wait_for_selector("html[data-ready=yes]")


def orders(page: Page) -> Any:
    return page.get_by_role("region", name="Orders").locator("tbody tr:not(.detail)")


def drawn(page: Page, label: str) -> list[Any]:
    """The ids of the orders that lie in the chart's data source of that side."""
    return page.evaluate("""(label) => {
        const found = [];
        for (const model of Bokeh.documents[0]._all_models.values()) {
            if (model.type !== "GlyphRenderer" || !("note" in (model.data_source.data ?? {}))) continue;
            const marker = model.glyph.marker?.value ?? model.glyph.type;
            const wanted = label === "Buy" ? "triangle" : "inverted_triangle";
            if (marker === wanted) found.push(...model.data_source.data.id);
        }
        return found;
    }""", label)


def test_an_order_appears_without_a_reload(page: Page, server: ServerProcess) -> None:
    report(server, "appear", {"kind": "lifecycle", "running": True, "message": "Trading"},
           order("first", annotation="RSI low"), *lines(["hello"]))
    enter(page, server, "/model?id=appear")
    expect(orders(page)).to_have_count(1)
    expect(page.get_by_text("running", exact=True)).to_be_visible()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.evaluate("document.body.dataset.old = 'yes'")
    report(server, "appear", order("second", side="sell", price=110.0, annotation="RSI high"))
    expect(orders(page)).to_have_count(2)
    expect(orders(page).first).to_contain_text("RSI high")
    wait_until(lambda: drawn(page, "Buy") == ["first"] and drawn(page, "Sell") == ["second"])
    report(server, "appear", {"kind": "order-change", "id": "second", "changes": {"status": "done", "fee": 0.25}})
    expect(orders(page).first).to_contain_text("done")
    expect(orders(page)).to_have_count(2)
    report(server, "appear", {"kind": "lifecycle", "running": False, "message": "Stopped for the night"})
    expect(page.get_by_text("stopped", exact=True)).to_be_visible()
    expect(page.get_by_text("Stopped for the night")).to_be_visible()
    assert page.evaluate("document.body.dataset.old") == "yes", "the page was loaded anew"
    assert "already known" not in server.errors + server.output, "the browser sent the server's own models back"


def test_rows_come_with_the_page(page: Page, server: ServerProcess) -> None:
    report(server, "at-once", order("early"))
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda text: frames.append(str(text))))

    def came() -> bool:
        frames.clear()
        enter(page, server, "/model?id=at-once")
        expect(orders(page)).to_have_count(1)
        documents = [text for text in frames if text.startswith('{"doc":')]
        assert len(documents) == 1, [text[:60] for text in frames]
        return "early" in documents[0]  # a server that has no time for it lets the page go without

    assert any(came() for _ in range(5))
    report(server, "at-once", order("later"))
    expect(orders(page)).to_have_count(2)


def test_an_order_unfolds_and_moves_the_chart(page: Page, server: ServerProcess) -> None:
    began = time.time() - 86_400
    report(server, "unfold", *(order(f"o{number}", price=100 + number, at=began + 600 * number,
                                     extra={"desk": "north"}) for number in range(60)))
    enter(page, server, "/model?id=unfold")
    expect(orders(page)).to_have_count(60)
    wait_until(lambda: len(drawn(page, "Buy")) == 60)
    start = ("[...Bokeh.documents[0]._all_models.values()].filter((model) => model.type === 'Figure')"
             ".map((model) => model.x_range.start)[0]")
    before = page.evaluate(start)
    row = page.locator("tr[data-id=o3]")
    row.scroll_into_view_if_needed()
    row.click()
    expect(page.locator("tr.detail")).to_contain_text("north")
    expect(row).to_have_attribute("aria-expanded", "true")
    wait_until(lambda: page.evaluate(start) != before)
    row.focus()
    page.keyboard.press("Enter")
    expect(page.locator("tr.detail")).to_have_count(0)


def test_a_page_that_was_hidden_shows_what_it_missed(page: Page, server: ServerProcess) -> None:
    page.add_init_script("""
        let behind = false;
        Object.defineProperty(document, "hidden", { get: () => behind });
        window.put = (back) => { behind = back; document.dispatchEvent(new Event("visibilitychange")); };
    """)
    report(server, "behind", order("first"))
    enter(page, server, "/model?id=behind")
    expect(orders(page)).to_have_count(1)
    wait_until(lambda: drawn(page, "Buy") == ["first"])
    page.evaluate("put(true)")
    for part in range(3):
        report(server, "behind", *(order(f"{part}-{number}", price=100.0 + number) for number in range(10)))
    page.evaluate("put(false)")
    expect(orders(page)).to_have_count(31)
    wait_until(lambda: len(drawn(page, "Buy")) == 31)
    page.get_by_role("region", name="Orders").scroll_into_view_if_needed()
    report(server, "behind", order("sold", side="sell", price=120.0))
    expect(orders(page)).to_have_count(32)
    page.evaluate("window.scrollTo(0, 0)")
    wait_until(lambda: drawn(page, "Sell") == ["sold"])


def test_older_orders_are_loaded_on_request(page: Page, server: ServerProcess) -> None:
    report(server, "older", *(order(f"o{number:03}", at=1_700_000_000 + number) for number in range(230)))
    enter(page, server, "/model?id=older")
    expect(orders(page)).to_have_count(200)
    page.get_by_role("button", name="Load more").click()
    expect(orders(page)).to_have_count(230)
    expect(page.get_by_role("button", name="Load more")).to_be_hidden()
    page.get_by_label("Search orders").fill("o017")
    expect(orders(page)).to_have_count(1)


def test_the_whole_log_is_searched_and_the_tail_can_rest(page: Page, server: ServerProcess) -> None:
    report(server, "talker", *lines(["the needle"]), *lines([f"hay {number}" for number in range(900)]),
           *lines(["it broke"], "stderr"))
    enter(page, server, "/model?id=talker")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("region", name="Output of the model")
    expect(log).to_contain_text("it broke")
    expect(log).not_to_contain_text("the needle")
    report(server, "talker", *lines(["and then some"]))
    expect(log).to_contain_text("and then some")
    page.get_by_label("Search the whole log").fill("NEEDLE")
    expect(log.locator("tbody tr")).to_have_count(1)
    expect(log).to_contain_text("the needle")
    report(server, "talker", *lines(["another needle", "no hay"]))
    expect(log.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Search the whole log").fill("")
    page.get_by_label("Only this type").select_option("stderr")
    expect(log.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Only this type").select_option("")
    expect(log).to_contain_text("no hay")
    page.get_by_role("button", name="Pause").click()
    report(server, "talker", *lines(["unseen for now"]))
    expect(page.get_by_text("paused; 1 new")).to_be_visible()
    expect(log).not_to_contain_text("unseen for now")
    page.get_by_role("button", name="Go on").click()
    expect(log).to_contain_text("unseen for now")


def test_a_search_while_the_tail_rests_shows_nothing_newer(page: Page, server: ServerProcess) -> None:
    report(server, "resting", *lines(["hay 1", "needle 1"]))
    enter(page, server, "/model?id=resting")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("region", name="Output of the model")
    expect(log.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Pause").click()
    report(server, "resting", *lines(["hay 2", "needle 2"]))
    expect(page.get_by_text("paused; 2 new")).to_be_visible()
    page.get_by_label("Search the whole log").fill("needle")
    expect(log.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_text("paused; 1 new")).to_be_visible()
    expect(log).not_to_contain_text("needle 2")
    page.get_by_role("button", name="Go on").click()
    expect(log).to_contain_text("needle 2")
    expect(log.locator("tbody tr")).to_have_count(2)


def test_a_change_waits_until_the_one_before_it_stands(page: Page, server: ServerProcess) -> None:
    """A select beside a part that takes long to build: Bokeh alone fails when its options change meanwhile."""
    enter(page, server, "/settings")
    shown = page.evaluate("""async () => {
        const { Document } = Bokeh.require("document/document"), Column = Bokeh.Models.get("Column");
        const column = new Column(), page = new Document({ roots: [column] });
        await Bokeh.embed.add_document_standalone(page, document.body.appendChild(document.createElement("div")));
        const slow = new (Bokeh.Models.get("Div"))();
        slow.default_view = class extends slow.default_view {
            async lazy_initialize() {
                await super.lazy_initialize();
                await new Promise((done) => setTimeout(done, 300));
            }
        };
        const select = new (Bokeh.Models.get("Select"))({ options: ["one"] });
        const session = { document: { roots: () => page.roots(), apply_json_patch: (change) => change() } };
        const heard = (change) => Bokeh.require("client/session").ClientSession.prototype._handle_patch.call(
            session, { content: change });
        const done = new Promise((done) => {
            heard(() => { column.children = [new Column({ children: [select] }), slow]; });
            setTimeout(() => {
                try { heard(() => { select.options = ["one", "two"]; }); } finally { heard(done); }
            }, 50);
        });
        await done;
        const view = Bokeh.index.get(column).child_views[0].child_views[0];
        return [...view.input_el.options].map((option) => option.value);
    }""")
    assert shown == ["one", "two"]


def test_the_browser_keeps_a_bounded_tail(page: Page, server: ServerProcess) -> None:
    report(server, "flood", *lines(["begin"]))
    enter(page, server, "/model?id=flood")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("region", name="Output of the model")
    expect(log).to_contain_text("begin")
    for part in range(5):
        report(server, "flood", *lines([f"line {part * 1000 + number}" for number in range(1000)]))
    expect(log).to_contain_text("line 4999", timeout=60_000)
    expect(log.locator("tbody tr")).to_have_count(1000)
    page.get_by_role("button", name="Load earlier").click()
    expect(log).to_contain_text("line 3999")


def test_calls_show_arguments_and_responses(page: Page, server: ServerProcess) -> None:
    report(server, "caller", {"kind": "call", "type": "get_price", "args": {"symbol": "BTC-USD"},
                              "response": {"price": {"last": 123.5, "html": "<img src=x onerror=alert(1)>"}}},
           {"kind": "metrics", "metrics": {"edge": {"value": 0.31, "display_name": "Edge of it", "type": "number"}}})
    enter(page, server, "/model?id=caller")
    page.get_by_role("tab", name="Calls").click()
    calls = page.get_by_role("region", name="Calls and events")
    expect(calls).to_contain_text("get_price")
    calls.locator("tbody tr").first.click()
    expect(calls.locator("tr.detail pre").first).to_contain_text("BTC-USD")
    expect(calls.locator("tr.detail")).to_contain_text("<img src=x")
    assert calls.locator("img").count() == 0
    report(server, "caller", {"kind": "call", "type": "place_order", "args": {}, "response": None})
    expect(calls.locator("tbody tr:not(.detail)")).to_have_count(2)
    page.get_by_role("tab", name="Details").click()
    expect(page.get_by_text("reported by the model", exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name="Edge of it", exact=True)).to_be_visible()


def test_a_restart_leaves_no_gap(page: Page, tmp_path: Path) -> None:
    page.allowed_errors += ["WebSocket", "ERR_", "Lost websocket", "[bokeh"]  # type: ignore[attr-defined]
    server = ServerProcess("--no-browser", program=SERVE, data_dir=tmp_path, compute=False).start()
    port = server.port
    try:
        wait_until(lambda: httpx.get(f"{server.url}/models").status_code == 302, 60)
        report(server, "phoenix", order("before"), *lines(["before"]))
        enter(page, server, "/model?id=phoenix")
        expect(orders(page)).to_have_count(1)
    finally:
        server.stop()
    expect(page.locator("#wb-lost")).to_be_visible()
    again = ServerProcess("--no-browser", program=SERVE, data_dir=tmp_path, port=port, compute=False).start()
    try:
        report(again, "phoenix", *(order(f"while away {number}") for number in range(20)))
        expect(page.locator("#wb-lost")).to_be_hidden(timeout=60_000)
        page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        expect(orders(page)).to_have_count(21, timeout=60_000)
        report(again, "phoenix", order("after"))
        expect(orders(page)).to_have_count(22)
    finally:
        page.goto("about:blank")
        again.stop()


def test_a_page_in_another_process_says_that_it_reconnects_and_catches_up(page: Page, tmp_path: Path) -> None:
    flags = ("--no-browser", "--api-only")
    server = ServerProcess(*flags, program=SERVE, data_dir=tmp_path / "api", compute=False).start()
    port, token = server.port, server.token
    pages = ServerProcess("--server", server.url, program=("-m", "tests.browser.pages_process"),
                          data_dir=tmp_path / "unused")
    try:
        report(server, "apart", order("one"))
        with pages:
            wait_until(lambda: "/login" in httpx.get(pages.url + "/").headers.get("location", ""))
            page.goto(f"{pages.url}/login?token={token}&next=%2Fmodel%3Fid%3Dapart")
            if page.get_by_label("Token").count():
                page.get_by_label("Token").fill(token)
                page.get_by_role("button", name="Log in").click()
            page.wait_for_selector("html[data-ready=yes]")
            page.goto(f"{pages.url}/model?id=apart")
            page.wait_for_selector("html[data-ready=yes]")
            expect(orders(page)).to_have_count(1)
            page.evaluate("document.body.dataset.old = 'yes'")
            server.stop()
            expect(page.get_by_text("reconnecting …")).to_be_visible()
            server = ServerProcess(*flags, program=SERVE, data_dir=tmp_path / "api", port=port,
                                   compute=False).start()
            report(server, "apart", *(order(f"away {number}") for number in range(30)))
            expect(orders(page)).to_have_count(31, timeout=60_000)
            expect(page.get_by_text("live", exact=True)).to_be_visible()
            assert page.evaluate("document.body.dataset.old") == "yes"
            page.goto("about:blank")
    finally:
        server.stop()


def test_all_models_at_a_glance(page: Page, server: ServerProcess) -> None:
    report(server, "glance-one", {"kind": "lifecycle", "running": True}, order("a", price=100.0),
           order("b", side="sell", price=120.0), *lines(["Boom: no money"], "error"))
    for path in ("/", "/models"):
        enter(page, server, path)
        models = page.get_by_role("region", name="Models")
        row = models.locator("tr[data-id=glance-one]")
        page.get_by_label("Search models").fill("glance")
        expect(row).to_contain_text("running")
        expect(row).to_contain_text("Boom: no money")
        expect(row).to_contain_text("+20.00")
        report(server, f"glance-new{len(path)}", order("x"))
        expect(models.locator(f"tr[data-id=glance-new{len(path)}]")).to_be_visible()
    row.get_by_role("link").click()
    page.wait_for_url("**/model?id=glance-one")


def test_live_trades_stand_beside_a_backtest_of_the_same_time(page: Page, server: ServerProcess) -> None:
    market = next(entry for entry in httpx.get(f"{server.url}/workbench/api/markets", headers=server.headers).json()[
        "items"] if entry["market"] == "demo:AAPL/USD")
    last = times.micros(times.parse(market["last"])) / 1e6
    report(server, "matched", *(order(f"m{number}", side="sell" if number % 2 else "buy", symbol="AAPL-USD",
                                      price=None, at=last - 86_400 * (400 - 40 * number)) for number in range(9)))
    enter(page, server, "/model?id=matched")
    page.get_by_role("tab", name="Against a backtest").click()
    page.get_by_label("Strategy").select_option("Moving average cross")
    page.get_by_role("button", name="Run on the live window").click()
    expect(page.get_by_text("Match rate")).to_be_visible(timeout=60_000)
    trades = page.get_by_role("region", name="Trades, live and in the backtest").locator("tbody tr")
    expect(trades.filter(has_text="only live").or_(trades.filter(has_text="matched")).first).to_be_visible()
    told = httpx.get(f"{server.url}/workbench/api/runs", headers=server.headers, params={"limit": 1}).json()["items"][0]
    found = httpx.get(f"{server.url}/workbench/api/models/matched/match", headers=server.headers,
                      params={"run": told["id"]}).json()
    expect(trades).to_have_count(found["total"])
    assert found["matched"] + found["only_live"] == 9


def test_a_bot_is_connected_by_copy_and_paste(page: Page, server: ServerProcess, tmp_path: Path) -> None:
    enter(page, server, "/connect")
    page.get_by_label("Name of the model").fill("Pasted <bot>")
    page.get_by_role("button", name="Make a key").click()
    key = page.get_by_label("Key", exact=True).inner_text()
    page.get_by_label("Language or kit").select_option("Python with workbench")
    shown = page.get_by_label("Python with workbench", exact=True)
    expect(shown).to_contain_text(key)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == shown.text_content()
    run = subprocess.run([sys.executable, "-c", shown.inner_text()], capture_output=True, text=True, timeout=240,
                         env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert run.returncode == 0, run.stderr
    expect(page.get_by_text("Heard from your bot")).to_be_visible()
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    expect(page.get_by_label("Language or kit")).to_be_visible()
    assert key not in page.content()
    page.get_by_label("Model", exact=True).select_option("Pasted <bot>")
    expect(page.get_by_text("Listening to Pasted <bot>")).to_be_visible()


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_their_window(page: Page, server: ServerProcess, theme: str, width: int) -> None:
    report(server, "wide", order("n", annotation=LONG, symbol="AVERYLONGASSETNAME-AVERYLONGCURRENCY"),
           *lines([LONG * 4, "x" * 900], "stderr"))
    httpx.patch(f"{server.url}/workbench/api/models/wide", headers=server.headers, json={"name": LONG})
    page.set_viewport_size({"width": width, "height": 900})
    page.context.add_cookies([{"name": "wb_theme", "value": theme, "url": server.url}])
    for path in ("/model?id=wide", "/models", "/connect", "/"):
        enter(page, server, path)
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        if path.startswith("/model?"):
            expect(orders(page)).to_have_count(1)
            page.get_by_role("tab", name="Log").click()
            expect(page.get_by_role("region", name="Output")).to_contain_text("xxx")
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path
        assert page.locator("html").get_attribute("data-theme") == theme


def test_an_unknown_model_and_an_empty_one_are_explained(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/model?id=nobody")
    expect(page.get_by_role("heading", name="No such model")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="nobody")).to_be_visible()
    report(server, "silent-one", {"kind": "symbol", "symbol": "ETH-USD"})
    enter(page, server, "/model?id=silent-one")
    expect(page.get_by_text("No orders yet.")).to_be_visible()
    expect(page.get_by_text(re.compile("profit curve begins"))).to_be_visible()
    page.get_by_role("tab", name="Log").click()
    expect(page.get_by_text("This model has said nothing yet.")).to_be_visible()
