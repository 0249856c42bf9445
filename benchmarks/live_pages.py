"""From a bot's POST to the frame in which a browser shows its order, with many pages open on one server."""

import json
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import quote

import httpx
import psutil
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from benchmarks.bare_page import BarePage
from benchmarks.table import Row, row
from tests.harness import ServerProcess, wait_until
from tests.requirements import find_chromium

TITLE = "Live pages: POST of an order to the frame that shows it"
REMARK = ("Pages of one model are open in one Chromium on the same machine, which draws without a graphics card "
          "and shares its processors with the server; an order a second, of one connection. Two cases: 20 "
          "windows side by side, all of them drawn (the hard one: every window's own frame counts), and 20 tabs "
          "of one window, of which the one in front counts: the 19 behind it have been told that they are "
          "hidden, as a browser in use tells them (a headless one does not), and are checked to show every "
          "order once they come to the front. \"To the message\" is when a page's socket has heard of the order, "
          "\"to pixel\" when the frame with the order's row is drawn; charts follow. Processor time for an order "
          "is that of the server's process, and of the whole browser, minus what they take at rest, for each "
          "page. Every page has logged in by itself, as twenty people do. A bare page is a table of 50 rows and a "
          "socket, nothing else (`benchmarks/bare_page.py`): what 20 windows of it take is the browser's own limit, "
          "sent without any POST, commit or login.")
PAGES = 20
ORDERS = 30
MODEL = "bench"
PAUSE = 1.0

LISTEN = """
let behind = false;
Object.defineProperty(document, "hidden", { get: () => behind });
Object.defineProperty(document, "visibilityState", { get: () => (behind ? "hidden" : "visible") });
window.put = (back) => { behind = back; document.dispatchEvent(new Event("visibilitychange")); };
window.seen = {}; window.heard = {};
window.stamp = () => performance.timeOrigin + performance.now();
window.WebSocket = class extends WebSocket {
    constructor(...given) {
        super(...given);
        this.addEventListener("message", (event) => {
            if (typeof event.data !== "string" || !event.data.includes("orders of the benchmark")) return;
            const found = event.data.matchAll(/orders of the benchmark, \\w+, -?\\d+/g);
            for (const [id] of found) window.heard[id] ??= stamp();
        });
    }
};
"""
WATCH = """() => {
    const inside = (root) => {
        const found = [...root.querySelectorAll("div[aria-label=Orders] tbody")];
        for (const each of root.querySelectorAll("*")) if (each.shadowRoot) found.push(...inside(each.shadowRoot));
        return found;
    };
    const [body] = inside(document);
    if (!body) return false;
    new MutationObserver((changes) => {
        const fresh = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.dataset?.id);
        requestAnimationFrame(() => {
            const channel = new MessageChannel();  // its turn comes when this frame is drawn
            channel.port1.onmessage = () => { for (const node of fresh) window.seen[node.dataset.id] = stamp(); };
            channel.port2.postMessage(null);
        });
    }).observe(body, { childList: true });
    return true;
}"""


def order(name: str, number: int) -> dict[str, Any]:
    return {"kind": "order", "id": f"orders of the benchmark, {name}, {number}", "symbol": "BTC-USD",
            "side": "buy" if number % 2 else "sell", "size": 0.1, "price": 30_000 + number,
            "annotation": f"reason {number}"}


def measure(server: ServerProcess, pages: list[Page], counted: list[Page], name: str, count: int
            ) -> dict[str, list[float]]:
    """Milliseconds: until each `counted` page heard of and showed each order, until each POST was answered, and the
    processor time of the server and of the browser for each order. `name` tells these orders from others."""
    asked: dict[str, float] = {}
    answered: list[float] = []
    watched = {"server": lambda: [psutil.Process(server.process.pid)], "browser": _browser}

    def spent() -> dict[str, float]:
        return {name: sum(sum(each.cpu_times()[:2]) for each in processes()) for name, processes in watched.items()}

    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as http:
        for number in range(-5, count):  # the first ones warm up
            if number == 0:
                before = spent()
            given = order(name, number)
            began = time.time()
            http.post(f"/workbench/api/events?model={MODEL}", json=given).raise_for_status()
            if number >= 0:
                asked[given["id"]] = began * 1000
                answered.append((time.time() - began) * 1000)
            time.sleep(PAUSE)
        after = spent()
        time.sleep(count / 3 * PAUSE)  # at rest, once all is drawn and warm
        work = {name: (after[name] - before[name] - 3 * (value - after[name])) * 1000 / count
                for name, value in spent().items()}
    heard, seen = ([page.evaluate(f"window.{name}") for page in counted] for name in ("heard", "seen"))
    for page in pages:
        page.bring_to_front()
        page.evaluate("put(false)")
        page.wait_for_function("(ids) => ids.every((id) => id in window.seen)", arg=list(asked), timeout=30_000)
    return {"heard": [each[id] - at for each in heard for id, at in asked.items()],
            "seen": [each[id] - at for each in seen for id, at in asked.items()],
            "answered": answered, **{name: [value] for name, value in work.items()}}


def _browser() -> list[psutil.Process]:
    """The processes of the browser that this one started."""
    return [each for each in psutil.Process().children(recursive=True) if "chrom" in each.name()]


def opened(context: BrowserContext, server: ServerProcess) -> Page:
    """The model's page in a new tab of a window, with its orders."""
    page = context.new_page()
    path = quote(f"/model?id={MODEL}", safe="")
    page.goto(f"{server.url}/login?token={server.token}&next={path}")
    page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    page.wait_for_function(WATCH, timeout=60_000)
    page.wait_for_timeout(500)
    return page


def bare(browser: Browser) -> Row:
    """What the browser itself takes to show an order in as many windows: the limit for any page."""
    with BarePage() as server:
        pages = [window(browser).new_page() for _ in range(PAGES)]
        for page in pages:
            page.goto(server.url)
            page.wait_for_function(WATCH)
        asked: dict[str, float] = {}
        for number in range(-5, ORDERS):
            given = order("bare", number)
            if number >= 0:
                asked[given["id"]] = time.time() * 1000
            server.tell(given)
            time.sleep(PAUSE)
        taken = [page.evaluate("window.seen")[id] - at for page in pages for id, at in asked.items()]
        for page in pages:
            page.context.close()
    return row(f"Sent to pixel, {PAGES} windows of a bare page, p50", median(taken), "ms", digits=1)


def window(browser: Browser) -> BrowserContext:
    """A window that is drawn beside all others."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.add_init_script(LISTEN)
    return context


def rows_of(found: dict[str, list[float]], pages: int, named: str) -> list[Row]:
    cuts = {name: quantiles(found[name], n=100) for name in ("heard", "seen", "answered")}
    return [
        row(f"POST to pixel, {named}, p50", cuts["seen"][49], "ms", below=60, digits=1),
        row(f"POST to pixel, {named}, p95", cuts["seen"][94], "ms", digits=1),
        row(f"POST to the message in the page, {named}, p50", cuts["heard"][49], "ms", digits=1),
        row(f"POST to answer, {named}, p50", cuts["answered"][49], "ms", digits=1),
        *(row(f"Processor time of the {name} for an order and page, {named}", found[name][0] / pages, "ms", digits=1)
          for name in ("server", "browser"))]


def run() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, ServerProcess(
            "--no-browser", "--workers", "1", "--rate-limit", "0", program=("-m", "workbench", "serve"),
            data_dir=Path(folder)) as server:
        wait_until(lambda: httpx.get(f"{server.url}/models").status_code == 302, 60)
        httpx.post(f"{server.url}/workbench/api/events?model={MODEL}", headers=server.headers,
                   content="\n".join(json.dumps(order("first", number)) for number in range(50))).raise_for_status()
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        pages = [opened(window(browser), server)]
        rows += rows_of(measure(server, pages, pages, "one", ORDERS), 1, "1 page")
        pages += [opened(window(browser), server) for _ in range(PAGES - 1)]
        rows += rows_of(measure(server, pages, pages, "windows", ORDERS), PAGES, f"{PAGES} windows, all drawn")
        for page in pages:
            page.context.close()
        rows.append(bare(browser))
        tabs = window(browser)
        pages = [opened(tabs, server) for _ in range(PAGES)]
        for page in pages[:-1]:
            page.evaluate("put(true)")
        rows += rows_of(measure(server, pages, pages[-1:], "tabs", ORDERS), PAGES, f"{PAGES} tabs, one in front")
        browser.close()
    return rows
