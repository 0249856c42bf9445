"""Bots and imports as a person uses them: started from a form, watched without a reload, stopped, deleted."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.exchange_simulator import BEGIN, KEY, SECRET, ExchangeSimulator
from tests.harness import ServerProcess, wait_until
from tests.server.exchange_fakes import Clock

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

SERVE = ("-m", "workbench", "serve")
API = "/workbench/api"
TOGGLE = "DEBUG_toggle-advice"


@pytest.fixture(scope="module")
def simulator() -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=Clock(3000.5)) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, simulator: ExchangeSimulator) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("bots")
    options = simulator.options_file(folder)
    with ServerProcess("--no-browser", "--rate-limit", "0", "--exchanges", str(options),
                       program=SERVE, data_dir=folder / "data", compute=False) as running:
        wait_until(lambda: httpx.get(f"{running.url}/bots").status_code == 302, 60)
        yield running


def ask(server: ServerProcess, method: str, path: str, **more: Any) -> Any:
    answer = httpx.request(method, f"{server.url}{API}{path}", headers=server.headers, timeout=60, **more)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def enter(page: Page, server: ServerProcess, path: str) -> None:
    page.goto(f"{server.url}/login?token={server.token}&next={quote(path, safe='')}")
    page.wait_for_selector("html[data-ready=yes]")


def drawn(page: Page) -> list[int]:
    """How many candles, buys and sells lie under the chart."""
    return page.evaluate("""() => {
        const sizes = {Rect: 0, Quad: 0, triangle: 0, inverted_triangle: 0};
        for (const model of Bokeh.documents[0]._all_models.values()) {
            if (model.type !== "GlyphRenderer") continue;
            const kind = model.glyph.marker?.value ?? model.glyph.type, data = model.data_source.data;
            if (kind in sizes) sizes[kind] += (data.price ?? data.open ?? []).length;
        }
        return [sizes.Rect + sizes.Quad, sizes.triangle, sizes.inverted_triangle];
    }""")


def no_bots(server: ServerProcess) -> None:
    for each in ask(server, "GET", "/instances")["items"]:
        if each["state"] == "live":
            ask(server, "POST", f"/instances/{each['id']}/stop")
        ask(server, "DELETE", f"/instances/{each['id']}")


def test_a_demo_market_is_replayed_in_one_click(page: Page, server: ServerProcess) -> None:
    no_bots(server)
    enter(page, server, "/bots")
    expect(page.get_by_role("heading", name="No bots yet")).to_be_visible()
    page.get_by_role("button", name="Replay a demo market").click()
    page.wait_for_url("**/bot?id=*")
    expect(page.get_by_role("heading", level=1, name="MACD")).to_be_visible()
    page.evaluate("document.body.dataset.old = 'yes'")
    wait_until(lambda: drawn(page)[0] >= 2, 60)
    few = drawn(page)[0]
    wait_until(lambda: drawn(page)[0] > few, 30)
    expect(page.get_by_text("starting", exact=True)).to_have_count(0)
    assert page.evaluate("document.body.dataset.old") == "yes", "the page was loaded anew"
    assert "papertrader" in page.url


def test_a_paper_trader_from_the_form_to_its_deletion(page: Page, server: ServerProcess) -> None:
    no_bots(server)
    ensure_minutes(server)
    enter(page, server, "/bots")
    page.get_by_label("Strategy", exact=True).select_option(TOGGLE)
    expect(page.get_by_text("sells and buys in turn")).to_be_visible()
    page.get_by_label("Candle size").fill("2")
    page.get_by_label("Candle size").press("Tab")
    page.get_by_label("Speed").select_option(label="6,000 times faster")
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/bot?id=*")
    page.evaluate("document.body.dataset.old = 'yes'")
    trades = page.get_by_role("region", name="Trades").locator("tbody tr")
    expect(trades.first).to_contain_text("buy", timeout=60_000)
    wait_until(lambda: all(count > 0 for count in drawn(page)), 60)
    before = trades.count()
    wait_until(lambda: trades.count() > before, 30)
    page.get_by_role("tab", name="Roundtrips").click()
    expect(page.get_by_role("region", name="Roundtrips").locator("tbody tr").first).to_contain_text("%")
    page.get_by_role("tab", name="Performance").click()
    expect(page.get_by_text("Start balance")).to_be_visible()
    page.get_by_role("tab", name="Events").click()
    events = page.get_by_role("region", name="Events")
    expect(events).to_contain_text("tradeCompleted")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Really stop it").click()
    expect(page.get_by_text("stopped", exact=True).first).to_be_visible()
    assert page.evaluate("document.body.dataset.old") == "yes", "the page was loaded anew"
    (one,) = ask(server, "GET", "/instances")["items"]
    assert (one["state"], one["strategy"], one["market"]) == ("stopped", TOGGLE, "replay:WALK/USD")
    assert ask(server, "GET", f"/instances/{one['id']}")["config"]["tradingAdvisor"]["candleSize"] == 2
    page.get_by_role("tab", name="Trades").click()  # nothing is doubled, nothing missing: the newest trades, one by one
    shown = page.get_by_role("region", name="Trades").locator("tbody tr")
    expect(shown).to_have_count(min(one["trades"], 500))
    enter(page, server, "/bots")
    expect(page.get_by_role("region", name="Archive")).to_contain_text("stopped")
    page.get_by_role("region", name="Archive").get_by_role("link").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Really delete it").click()
    page.wait_for_url("**/bots")
    expect(page.get_by_role("heading", name="No bots yet")).to_be_visible()


def test_what_is_wrong_stands_beside_its_field(page: Page, server: ServerProcess) -> None:
    no_bots(server)
    ensure_minutes(server)
    enter(page, server, "/bots")
    page.get_by_label("Strategy", exact=True).select_option("tulip-macd")
    slow = page.get_by_label("slow", exact=True)
    slow.fill("3")
    slow.press("Tab")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="the fast period is longer")).to_be_visible()
    page.get_by_label("Candles from").select_option(label="an exchange, live")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="this is no pair")).to_be_visible()
    expect(page.get_by_text("--allow-live-trading")).to_be_visible()
    expect(page.get_by_label("Type", exact=True).locator("option")).to_have_count(2)
    assert ask(server, "GET", "/instances")["items"] == []
    enter(page, server, "/bot?id=nobody")
    expect(page.get_by_role("heading", name="No such bot")).to_be_visible()


def ensure_minutes(server: ServerProcess) -> None:
    from workbench import Client, demo_minutes

    with Client(server.url, server.token) as client:
        columns = demo_minutes.walk()
        client.upload({**columns, "time": columns["time"] // 1_000_000}, demo_minutes.MARKET, "1m")


def test_an_import_shows_progress_is_cancelled_and_resumed(page: Page, server: ServerProcess,
                                                           simulator: ExchangeSimulator) -> None:
    simulator.stuck_from = BEGIN + 1000 * 60
    wait_until(lambda: any(entry["slug"] == "sim" and entry["markets"]
                           for entry in ask(server, "GET", "/exchanges")["items"]))
    enter(page, server, "/markets")
    page.get_by_label("From the exchange").select_option("Binance (sim)")
    page.get_by_label("Pair to import").fill("BTC/USDT")
    page.get_by_label("Pair to import").press("Enter")
    page.get_by_role("button", name="Start import").click()
    expect(page.get_by_role("alert").filter(has_text="say from which day on")).to_be_visible()
    for place, after in enumerate((0, 86_400)):  # the pickers of the first and the last day
        day = datetime.fromtimestamp(BEGIN + after, UTC).strftime("%Y-%m-%d")
        page.locator("input.flatpickr-input").nth(place).evaluate(f"each => each._flatpickr.setDate('{day}', true)")
    page.get_by_role("button", name="Start import").click()
    bar = page.get_by_role("progressbar", name="Import of sim:BTC/USDT")
    expect(bar).to_be_visible()
    page.evaluate("document.body.dataset.old = 'yes'")
    wait_until(lambda: 0 < int(bar.get_attribute("aria-valuenow") or 0) < 100, 30)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("cancelled", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="sim:BTC/USDT")).to_be_visible()
    simulator.stuck_from = None
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("completed", exact=True)).to_be_visible()
    expect(bar).to_have_attribute("aria-valuenow", "100")
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(bar).to_have_count(0)
    assert page.evaluate("document.body.dataset.old") == "yes", "the page was loaded anew"


def test_a_failed_import_says_why(page: Page, server: ServerProcess) -> None:
    ask(server, "POST", "/imports", json={"market": "sim:NOPE/USDT", "start": "2023-11-14", "end": "2023-11-15"})
    enter(page, server, "/markets")
    expect(page.get_by_role("alert").filter(has_text="NOPE")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_a_key_is_set_removed_and_never_shown(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/markets")
    page.get_by_label("Exchange of the key").select_option("Binance (sim)")
    page.get_by_label("key", exact=True).fill(KEY)
    page.get_by_label("secret", exact=True).fill(SECRET)
    page.get_by_label("secret", exact=True).press("Tab")
    page.get_by_role("button", name="Store key").click()
    expect(page.get_by_text("The key for sim is stored.")).to_be_visible()
    assert ask(server, "GET", "/exchange-keys") == {"items": [{"exchange": "sim"}]}
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    expect(page.get_by_role("button", name="Remove key")).to_be_visible()
    everything = page.content() + "".join(field.input_value() for field in page.locator("input").all())
    assert KEY not in everything and SECRET not in everything
    page.get_by_role("button", name="Remove key").click()
    page.get_by_role("button", name="Really remove it").click()
    expect(page.get_by_text("The key for sim is gone.")).to_be_visible()
    assert ask(server, "GET", "/exchange-keys") == {"items": []}


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_their_window(page: Page, server: ServerProcess, theme: str, width: int) -> None:
    ensure_minutes(server)
    if not ask(server, "GET", "/instances")["items"]:
        ask(server, "POST", "/instances", json={"market": "demo:WALK/USD", "replay": {"speed": 60}})
    (one, *_) = ask(server, "GET", "/instances")["items"]
    page.set_viewport_size({"width": width, "height": 900})
    page.context.add_cookies([{"name": "wb_theme", "value": theme, "url": server.url}])
    for path, text in (("/bots", "Start a bot"), (f"/bot?id={one['id']}", "Configuration"), ("/markets", "Keys")):
        enter(page, server, path)
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path
        assert page.locator("html").get_attribute("data-theme") == theme
