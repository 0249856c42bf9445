"""Alerts as a person sees them: pushed as they happen, found again, detectors tried first, notices made and tested."""

import http.server
import math
import random
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page, expect

from engine import times
from tests.harness import ServerProcess, wait_until
from workbench import alert_snippets

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

SERVE = ("-m", "workbench", "serve")
API = "/workbench/api"
MARKET = "test:COIN/USD"
LONG = "AVERYLONGTICKERNAME/" + "ANDMORE" * 12
COUNT = 2000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--no-browser", "--workers", "1", "--rate-limit", "0")
    with ServerProcess(*flags, program=SERVE, data_dir=tmp_path_factory.mktemp("alerts")) as server:
        wait_until(lambda: httpx.get(f"{server.url}/alerts", timeout=60).status_code == 302, 60)
        call(server, "POST", "/markets/test/COIN/USD/candles?resolution=1m", candles())
        yield server


def candles() -> list[dict[str, float]]:
    """Minutes up to now, the same walk every time."""
    walk, price, found = random.Random(7), 100.0, []
    first = int(times.now().timestamp()) // 60 * 60 - 60 * COUNT
    for minute in range(COUNT):
        before = price
        price *= 1 + walk.gauss(0.0003 * math.sin(minute / 120), 0.0012)
        found.append({"time": first + 60 * minute, "open": before, "high": max(before, price) * 1.0004,
                      "low": min(before, price) * 0.9996, "close": price, "volume": 1.0})
    return found


def call(server: ServerProcess, method: str, path: str, body: Any = None) -> Any:
    answer = httpx.request(method, server.url + API + path, headers=server.headers, json=body, timeout=60)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def post(server: ServerProcess, ticker: str, *, instrument: str = "FOREX", start: float = 100.0, target: float = 110.0,
         stop: float = 95.0, **more: Any) -> int:
    return call(server, "POST", "/alerts", {"instrument": instrument, "ticker": ticker, "durationStrategy": "short",
                                            "start": start, "target": target, "stop": stop, **more})["id"]


def move(server: ServerProcess, id: int, state: str, **more: Any) -> None:
    call(server, "PATCH", f"/alerts/{id}", {"state": state, **more})


def enter(page: Page, server: ServerProcess, path: str) -> None:
    page.goto(f"{server.url}/login?token={server.token}&next={quote(path, safe='')}")
    page.wait_for_selector("html[data-ready=yes]")


def rows(page: Page, caption: str) -> Any:
    return page.get_by_role("region", name=caption, exact=True).locator("tbody tr:not(.detail)")


def pick(page: Page, market: str) -> None:
    """Choose a market in the field that offers all of them."""
    field = page.locator(".choices").filter(has=page.get_by_placeholder("type to search")).locator("input").first
    field.click()
    page.locator(".choices__item--selectable", has_text=market).first.click()
    page.keyboard.press("Escape")


def test_an_alert_is_shown_as_it_lives_without_a_reload(page: Page, server: ServerProcess) -> None:
    last = candles()[-1]["close"]
    enter(page, server, "/alerts")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.evaluate("document.body.dataset.old = 'yes'")
    id = post(server, "COIN/USD", market=MARKET, start=last, target=last + 3, stop=last - 1, reason="it looked good")
    card = page.locator(f"article[data-id='{id}']")
    expect(card.get_by_text("working", exact=True)).to_be_visible()
    expect(rows(page, "Open alerts").filter(has_text="COIN/USD")).to_have_count(1)
    card.locator("rect.body").nth(20).wait_for(state="attached")  # its candles
    for level, price in (("start", last), ("target", last + 3), ("stop", last - 1)):
        assert float(card.locator(f"[data-level={level}]").get_attribute("data-price") or 0) == pytest.approx(price)
    move(server, id, "onGoing")
    expect(card.get_by_text("on going", exact=True)).to_be_visible()
    expect(card.locator("[data-mark=started]")).to_have_count(1)
    expect(rows(page, "Open alerts").filter(has_text="COIN/USD")).to_contain_text("on going")
    rows(page, "Open alerts").filter(has_text="COIN/USD").get_by_text("short", exact=True).click()
    move(server, id, "closed", exit=last + 2)
    expect(rows(page, "Ended while you watched")).to_contain_text("+2.00")
    expect(rows(page, "Open alerts").filter(has_text="COIN/USD")).to_have_count(0)
    expect(card.locator("[data-mark=ended]")).to_have_count(1)  # the chosen one stays
    expect(card).to_contain_text("+2.00 R")
    card.get_by_role("button", name="Make large").click()
    expect(card).to_contain_text("it looked good")
    assert page.evaluate("document.body.dataset.old") == "yes", "the page was loaded anew"


def test_prices_beside_a_chart_are_not_cut_off(page: Page, server: ServerProcess) -> None:
    id = post(server, "WIDE", start=137_503.34, target=136_003.21, stop=138_253.41)
    enter(page, server, "/alerts")
    card = page.locator(f"article[data-id='{id}']")
    expect(card.get_by_text("target 136,003.21", exact=True)).to_have_count(1)
    assert card.locator("svg[role=img]").evaluate(
        "svg => [...svg.querySelectorAll('text.label')].every(label => label.getBoundingClientRect().right "
        "<= svg.getBoundingClientRect().right)")
    move(server, id, "aborted")


def test_history_is_filtered_and_counted(page: Page, server: ServerProcess) -> None:
    for exit in (112.0, 108.0, 95.0):
        id = post(server, "HISTA", instrument="INDICES")
        move(server, id, "onGoing")
        move(server, id, "closed", exit=exit)
    move(server, post(server, "HISTB", instrument="ETFS", target=90.0, stop=105.0), "aborted")
    enter(page, server, "/alerts?tab=history")
    found = rows(page, "Alerts")
    page.get_by_label("Ticker").fill("hist")
    page.keyboard.press("Enter")
    expect(found).to_have_count(4)
    page.get_by_label("Instrument").select_option("indices")
    expect(found).to_have_count(3)
    figures = page.get_by_role("region", name="Statistics").locator("tbody tr").first
    expect(figures).to_contain_text("67 % 21–94 %")
    expect(figures).to_contain_text("+1.00")  # (2.4 + 1.6 - 1) / 3
    page.get_by_label("State", exact=True).select_option("lost")
    expect(found).to_have_count(1)
    expect(found).to_contain_text("−1.00")
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Direction").select_option("sell")
    expect(found.filter(has_text="HISTB")).to_have_count(1)
    expect(found.filter(has_text="HISTA")).to_have_count(0)
    found.filter(has_text="HISTB").get_by_text("short", exact=True).click()
    expect(page.get_by_role("list", name="The chosen alert").locator("article")).to_contain_text("aborted")
    enter(page, server, f"/alerts?id={id}")
    expect(page.get_by_role("list", name="The chosen alert").locator("article")).to_contain_text("HISTA")


def test_a_detector_is_tried_and_switched_on(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/alerts?tab=detectors")
    page.get_by_role("button", name="Backtest").click()
    expect(page.get_by_text("choose at least one")).to_be_visible()
    pick(page, MARKET)
    channel = page.get_by_label("channel", exact=True)
    channel.fill("1")
    channel.press("Tab")
    page.get_by_role("button", name="Backtest").click()
    expect(page.get_by_role("alert").filter(has_text="2").first).to_be_visible()
    channel.fill("30")
    channel.press("Tab")
    page.get_by_role("button", name="Backtest").click()
    found = rows(page, "Alerts of the backtest")
    expect(found.first).to_be_visible(timeout=90_000)
    expect(page.get_by_role("link", name="Report of the portfolio")).to_be_visible()
    run = call(server, "GET", "/runs?dialect=alerts&limit=1")["items"][0]
    told = call(server, "GET", f"/detector-backtests/{run['id']}")
    assert told["total"] > 0
    expect(found).to_have_count(min(told["total"], 50))
    page.get_by_role("button", name="Switch on").click()
    switch = rows(page, "Detection")
    expect(switch).to_contain_text("on")
    assert call(server, "GET", "/detections")["items"][0]["params"]["channel"] == 30
    page.get_by_role("button", name="Pause").click()
    expect(switch).to_contain_text("paused")
    page.get_by_role("button", name="Switch off").click()
    expect(switch).to_contain_text("off")
    page.get_by_role("button", name="Forget").click()
    expect(page.get_by_text("Nothing is switched on yet.")).to_be_visible()


def test_an_account_is_made_and_its_ledger_kept(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/alerts?tab=subscribers")
    page.get_by_label("E-mail address").fill("ann@example.org")
    page.get_by_label("Password").fill("a long password")
    page.get_by_label("Access").select_option("FULL")
    page.get_by_role("button", name="Create account").click()
    expect(rows(page, "Accounts").filter(has_text="ann@example.org")).to_contain_text("full")
    expect(rows(page, "Ledger")).to_have_count(1)
    page.get_by_label("Credits to give").fill("-4")
    page.get_by_label("Note").fill("too many")
    page.get_by_role("button", name="Book").click()
    expect(rows(page, "Ledger")).to_have_count(2)
    expect(page.get_by_role("heading", name="Credits: 6")).to_be_visible()
    page.get_by_role("button", name="Delete account").click()
    page.get_by_role("button", name="Really delete").click()
    expect(page.get_by_text("No accounts yet.", exact=False)).to_be_visible()


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes what is posted."""

    taken: list[bytes]

    def do_POST(self) -> None:
        type(self).taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@pytest.fixture
def sink() -> Iterator[tuple[str, list[bytes]]]:
    kind = type("OneSink", (Sink,), {"taken": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"json://127.0.0.1:{listening.server_address[1]}/inbox", kind.taken  # type: ignore[attr-defined]
        listening.shutdown()
        thread.join()


def test_a_rule_fires_and_a_channel_tells(page: Page, server: ServerProcess, sink: tuple[str, list[bytes]]) -> None:
    address, taken = sink
    call(server, "POST", "/models", {"name": "quiet bot", "id": "quiet", "project": "default"})
    enter(page, server, "/notices")
    page.get_by_role("button", name="Make channel").click()
    expect(page.get_by_text("a channel needs an address")).to_be_visible()
    page.get_by_label("Name of the channel").fill("Desk")
    page.get_by_label("Address").fill(address)
    page.get_by_role("button", name="Make channel").click()
    expect(rows(page, "Channels")).to_contain_text("json://127.0.0.1")
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_text("The test was delivered.")).to_be_visible()
    assert len(taken) == 1 and b"This channel works" in taken[0]
    expect(rows(page, "Deliveries").filter(has_text="a test")).to_contain_text("delivered")
    page.get_by_label("Condition").select_option("No heartbeat")
    page.get_by_label("Name of the rule").fill("Too quiet")
    page.get_by_label("Fires above").fill("0.5")
    page.get_by_label("Fires above").press("Tab")
    page.get_by_role("button", name="Make rule").click()
    expect(rows(page, "Rules")).to_contain_text("watching")
    expect(rows(page, "Firings").filter(has_text="quiet")).to_contain_text("holds")
    told = rows(page, "Deliveries").filter(has_text="a rule on a bot fires")
    expect(told).to_contain_text("delivered")
    assert b"Too quiet" in taken[1]
    told.first.click()
    expect(page.get_by_role("table", name="Attempts").locator("tbody tr")).to_have_count(1)
    rows(page, "Rules").first.click()
    page.get_by_role("button", name="Silence", exact=True).click()
    expect(rows(page, "Rules")).to_contain_text("silent until")
    page.get_by_role("button", name="End silence").click()
    expect(rows(page, "Rules")).to_contain_text("watching")
    page.get_by_role("button", name="Delete rule").click()
    expect(page.get_by_text("No rules yet.", exact=False)).to_be_visible()


def test_what_the_page_says_about_fetch_works(page: Page, server: ServerProcess) -> None:
    call(server, "POST", "/subscribers", {"email": "listener@example.org", "password": "a long password",
                                          "access": "FULL", "credits": 99, "instruments": ["COMMODITIES"]})
    login = httpx.post(f"{server.url}/api/v1/users/login", json={"email": "listener@example.org",
                                                                 "password": "a long password"}, timeout=60)
    token = login.json()["accessToken"]
    enter(page, server, "/alerts?tab=listen")
    place = page.get_by_label("Browser: fetch, with resume")
    expect(place).to_contain_text("console.log")
    shown = place.text_content() or ""
    assert shown.strip() == alert_snippets.browser(server.url).strip()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.add_script_tag(content=shown.replace("TOKEN", token))
    wait_until(lambda: call(server, "GET", "/subscribers")["items"][-1]["last_login_at"])
    given: list[int] = []

    def told(state: str) -> bool:
        page.evaluate("1")  # the browser's messages are heard only while it is spoken to
        return any(text.startswith(f"{state} {given[-1]} ") for text in said)

    def heard() -> bool:  # alerts that were given before the stream stood are not sent to it
        given.append(post(server, "GOLD", instrument="COMMODITIES"))
        try:
            return wait_until(lambda: told("working"), 3)
        except AssertionError:
            return False

    wait_until(heard)
    move(server, given[-1], "onGoing")
    move(server, given[-1], "closed", exit=111.0)
    wait_until(lambda: told("closed"))
    assert [text.split()[0] for text in said if f" {given[-1]} " in text] == ["working", "onGoing", "closed"]
    page.goto("about:blank")


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_their_window(page: Page, server: ServerProcess, theme: str, width: int) -> None:
    post(server, LONG, reason="a reason without an end " * 20, source="a bot with quite a long name " * 2)
    page.set_viewport_size({"width": width, "height": 900})
    page.context.add_cookies([{"name": "wb_theme", "value": theme, "url": server.url}])
    for path, text in (("/alerts", "AVERYLONG"), ("/alerts?tab=history", "By detector and instrument"),
                       ("/alerts?tab=detectors", "Switched on, and what was"), ("/alerts?tab=subscribers", "Accounts"),
                       ("/alerts?tab=listen", "Server-Sent Events"), ("/notices", "When they fired")):
        enter(page, server, path)
        expect(page.get_by_text(text).filter(visible=True).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path
        assert page.locator("html").get_attribute("data-theme") == theme


def test_who_may_only_read_sees_alerts_and_no_secrets(page: Page, server: ServerProcess) -> None:
    page.allowed_errors += ["403"]  # type: ignore[attr-defined]
    token = call(server, "POST", "/tokens", {"name": "reader", "scopes": ["read"]})["token"]
    page.goto(f"{server.url}/login?token={token}&next=%2Falerts%3Ftab%3Dsubscribers")
    page.wait_for_selector("html[data-ready=yes]")
    expect(page.get_by_text("Only an administrator may see and make accounts.")).to_be_visible()
    page.goto(f"{server.url}/notices")
    expect(page.get_by_text("Only an administrator may see where notices go", exact=False)).to_be_visible()
    expect(page.get_by_role("heading", name="When they fired")).to_be_visible()
