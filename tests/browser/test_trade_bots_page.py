"""A bot with real orders as a person starts it, against an exchange on loopback, and the switch that stops all."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_bots_page import SERVE, ask, enter
from tests.exchange_simulator import KEY, SECRET, ExchangeSimulator
from tests.harness import ServerProcess, wait_until

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("trade-bots")
    with ExchangeSimulator() as simulator, ServerProcess(
            "--no-browser", "--workers", "1", "--rate-limit", "0", "--allow-live-trading", "--exchanges",
            str(simulator.options_file(folder)), program=SERVE, data_dir=folder / "data") as running:
        wait_until(lambda: httpx.get(f"{running.url}/bots").status_code == 302, 60)
        yield running


def test_a_trade_bot_needs_limits_a_yes_and_a_key_and_one_click_stops_them_all(page: Page,
                                                                               server: ServerProcess) -> None:
    def wrong(text: str) -> Any:
        return page.get_by_role("alert").filter(has_text=text)

    def fill(label: str, value: str) -> None:
        page.get_by_label(label, exact=True).fill(value)
        page.get_by_label(label, exact=True).press("Tab")

    wait_until(lambda: any(entry["slug"] == "sim" and entry["markets"]
                           for entry in ask(server, "GET", "/exchanges")["items"]))
    enter(page, server, "/bots")
    page.get_by_label("Type", exact=True).select_option(label="Trade bot: a strategy with real orders")
    expect(page.get_by_text("Real orders go to the exchange")).to_be_visible()
    expect(page.get_by_label("Candles from")).to_be_disabled()
    page.get_by_label("Exchange", exact=True).select_option("Binance (sim)")
    page.get_by_label("Pair", exact=True).fill("BTC/USDT")
    page.get_by_label("Pair", exact=True).press("Enter")
    start = page.get_by_role("button", name="Start", exact=True)
    start.click()
    expect(wrong("a bot with real orders needs this limit")).to_be_visible()
    fill("Largest order", "200")
    fill("Largest loss a day", "50")
    start.click()
    expect(wrong("this has to be confirmed")).to_be_visible()
    page.get_by_label("Place real orders with real money").check()
    start.click()
    expect(wrong("there is no key for sim")).to_be_visible()
    assert ask(server, "GET", "/instances")["items"] == []
    ask(server, "PUT", "/exchange-keys/sim", json={"values": {"key": KEY, "secret": SECRET}})
    start.click()
    page.wait_for_url("**/bot?id=*tradebot*")
    expect(page.get_by_role("heading", level=1, name="MACD")).to_be_visible()
    assert KEY not in page.content() and SECRET not in page.content()

    (bot,) = ask(server, "GET", "/instances")["items"]
    config = ask(server, "GET", f"/instances/{bot['id']}")["config"]
    assert (bot["kind"], bot["state"], bot["market"]) == ("tradebot", "live", "sim:BTC/USDT")
    assert (config["trader"]["maxOrderValue"], config["trader"]["maxDailyLoss"]) == (200, 50)
    second = ask(server, "POST", "/instances", json={"config": {"watch": config["watch"]}})  # a watcher is no bot
    enter(page, server, "/bots")
    page.get_by_role("button", name="Stop all trade bots now").click()
    expect(page.get_by_text("1 trade bot was stopped.")).to_be_visible()
    expect(page.get_by_role("button", name="Stop all trade bots now")).to_be_hidden()
    expect(page.get_by_role("region", name="Archive")).to_contain_text("stopped")
    states = {each["id"]: each["state"] for each in ask(server, "GET", "/instances")["items"]}
    assert states == {bot["id"]: "stopped", second["id"]: "live"}
