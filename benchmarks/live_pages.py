"""From a bot's POST to the frame in which a browser shows its order, with many pages open on one server."""

import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import quote

import httpx
from playwright.sync_api import Page, sync_playwright

from benchmarks.table import Row, row
from tests.harness import ServerProcess, wait_until
from tests.requirements import find_chromium

TITLE = "Live pages: POST of an order to the frame that shows it"
REMARK = ("20 pages of one model are open in one Chromium on the same machine, which draws them without a graphics "
          "card and shares its processors with the server. Every page's own frame counts.")
PAGES = 20
ORDERS = 40
MODEL = "bench"

WATCH = """() => {
    const inside = (root) => {
        const found = [...root.querySelectorAll("div[aria-label=Orders] tbody")];
        for (const each of root.querySelectorAll("*")) if (each.shadowRoot) found.push(...inside(each.shadowRoot));
        return found;
    };
    const [body] = inside(document);
    if (!body) return false;
    window.seen = {};
    new MutationObserver((changes) => {
        const fresh = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.dataset?.id);
        requestAnimationFrame(() => {
            for (const node of fresh) window.seen[node.dataset.id] = performance.timeOrigin + performance.now();
        });
    }).observe(body, { childList: true });
    return true;
}"""


def order(round_: str, number: int) -> dict[str, Any]:
    return {"kind": "order", "id": f"{round_}-{number}", "symbol": "BTC-USD", "side": "buy" if number % 2 else "sell",
            "size": 0.1, "price": 30_000 + number, "annotation": f"reason {number}"}


def measure(server: ServerProcess, pages: list[Page], count: int) -> tuple[list[float], list[float]]:
    """Milliseconds until each page showed each order, and until each POST was answered."""
    asked: dict[str, float] = {}
    answered: list[float] = []
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as http:
        for number in range(-5, count):  # the first ones warm up
            given = order(f"{len(pages)} pages", number)
            began = time.time()
            http.post(f"/workbench/api/events?model={MODEL}", json=given).raise_for_status()
            if number >= 0:
                asked[given["id"]] = began * 1000
                answered.append((time.time() - began) * 1000)
            time.sleep(0.35)
    last = given["id"]
    for page in pages:
        page.wait_for_function("(id) => id in window.seen", arg=last, timeout=30_000)
    shown = [page.evaluate("window.seen") for page in pages]
    return [seen[id] - at for seen in shown for id, at in asked.items()], answered


def run() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, ServerProcess(
            "--no-browser", "--workers", "1", "--rate-limit", "0", program=("-m", "workbench", "serve"),
            data_dir=Path(folder)) as server:
        wait_until(lambda: httpx.get(f"{server.url}/models").status_code == 302, 60)
        httpx.post(f"{server.url}/workbench/api/events?model={MODEL}", headers=server.headers,
                   json=[order("before", number) for number in range(50)]).raise_for_status()
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        pages: list[Page] = []
        for count in (1, PAGES):
            while len(pages) < count:
                page = context.new_page()
                path = quote(f"/model?id={MODEL}", safe="")
                page.goto(f"{server.url}/login?token={server.token}&next={path}")
                page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
                page.wait_for_function(WATCH, timeout=60_000)
                page.wait_for_timeout(500)
                pages.append(page)
            late, answered = measure(server, pages, ORDERS)
            cuts = quantiles(late, n=100)
            rows.append(row(f"POST to pixel, {count} page{'s' if count > 1 else ''}, p50", cuts[49], "ms",
                            below=60, digits=1))
            rows.append(row(f"POST to pixel, {count} page{'s' if count > 1 else ''}, p95", cuts[94], "ms", digits=1))
            rows.append(row(f"POST to answer meanwhile, {count} page{'s' if count > 1 else ''}, p50",
                            quantiles(answered, n=100)[49], "ms", digits=1))
        browser.close()
    return rows
