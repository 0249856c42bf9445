"""Every page of a house with 1,000 models and 10 million events: what its requests take, and how long until its data
is in the browser. The database is made once and kept."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import httpx
from playwright.sync_api import BrowserContext, sync_playwright

from benchmarks.large_store import BUSIEST, EVENTS, MODELS, build, model_id
from benchmarks.table import Row, row
from tests.harness import ServerProcess, wait_until
from tests.requirements import find_chromium

TITLE = f"Pages over {MODELS:,} models and {EVENTS:,} events (SQLite)"
REMARK = ("The busiest model has 100,000 orders and a tenth of all lines. Requests: the first after a start, "
          "the median of five more, and in brackets the processor time that those took the server, which "
          "others on the machine disturb less. Searches for what is not there end after 100 ms and say where to go on. "
          "Pages: until their data stand in the document of a headless Chromium on the same machine, median of five "
          "visits after one that warms up; the frame (Panel, its scripts, a page that says that it loads) is the same "
          "for any database. In earlier results the text for browsers without scripts counted as the frame: it is "
          "there a quarter of a second earlier.")
FOLDER = Path(os.environ.get("WORKBENCH_LARGE", ".workbench/large"))
"""Where the database stays: 2.4 GB, made in five minutes of a processor."""
MOST: Final = 300.0
TIMES: Final = 5
PAUSE: Final = 1.0
"""Seconds after a visit, in which the server ends what the closed page had it do."""

_ONE, _OTHER = f"/models/{BUSIEST}", f"/models/{model_id(MODELS // 2)}"
REQUESTS: Final = {
    "profit of the busiest model": f"{_ONE}/pnl",
    "its positions": f"{_ONE}/positions",
    "its equity curve": f"{_ONE}/equity?points=1500",
    "its metrics": f"{_ONE}/metrics",
    "its roundtrips": f"{_ONE}/roundtrips",
    "its newest 200 orders": f"{_ONE}/orders?limit=200",
    "its orders of a symbol that it never traded": f"{_ONE}/orders?limit=200&symbol=NONE-USD",
    "its rejected orders": f"{_ONE}/orders?limit=200&status=rejected",
    "its orders, searched for what is not there": f"{_ONE}/orders?limit=200&q=not-there",
    "its newest 300 lines": f"{_ONE}/logs?tail=300",
    "its lines of errors": f"{_ONE}/logs?tail=300&type=error",
    "its lines, searched for what is not there": f"{_ONE}/logs?tail=300&q=not-there",
    "its calls, of which there are none": f"{_ONE}/calls?tail=300",
    "profit of another model": f"{_OTHER}/pnl",
    "the overview's first 100 models": "/overview?limit=100",
    "100 models, heard last": "/models?sort=heard_at&limit=100",
    "1,000 models": "/models?limit=1000",
    "the overview of all": "/overview?limit=20000",
    "models, searched for what is not there": "/models?q=not-there",
}
PAGES: Final = {
    "Overview": ("/", r"model-\d{4}"),
    "Models": ("/models", r"model-\d{4}"),
    "the busiest model's orders": (f"/model?id={BUSIEST}", r"market\s+0\.5"),
    "the busiest model's profit": (f"/model?id={BUSIEST}", r"Open positions\s+\d"),
    "another model's orders": (f"/model?id={model_id(MODELS // 2)}", r"market\s+0\.5"),
    "Runs": ("/runs", r"Nothing has run yet"),
    "Uploaded models": ("/deployments", r"No uploaded models"),
    "Bots": ("/bots", r"No bots yet"),
    "Markets": ("/markets", r"No candles yet"),
    "Alerts": ("/alerts", r"No open alerts"),
    "Settings": ("/settings", r"WORKBENCH_TOKEN|admin\s+last used"),
    "Notices": ("/notices", r"No rules yet"),
}
"""Each page's path, and a text that comes with its data."""
# Text as it stands in all shadow roots, looked at every few milliseconds from the document's start.
WATCH: Final = """(pattern) => {
    const wanted = new RegExp(pattern);
    const text = (root) => {
        let found = "";
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            if (node.nodeType === Node.TEXT_NODE) {
                if (!["STYLE", "SCRIPT", "NOSCRIPT"].includes(node.parentElement?.tagName)) found += node.data + " ";
            } else if (node.shadowRoot) found += text(node.shadowRoot);
        }
        return found;
    };
    window.framed = window.found = 0;
    const look = () => {
        const main = document.querySelector("main");
        const shown = main ? text(main) : "";
        if (shown.trim()) window.framed ||= performance.now();
        if (wanted.test(shown)) window.found = performance.now();
        else setTimeout(look, 10);
    };
    look();
}"""


def run() -> list[Row]:
    make()
    flags = ("--no-browser", "--workers", "1", "--rate-limit", "0")
    with ServerProcess(*flags, program=("-m", "workbench", "serve"), data_dir=FOLDER) as server:
        wait_until(lambda: httpx.get(server.url + "/healthz").json()["workers"]["ready"], 120)
        return [*requests(server), *pages(server)]


def make() -> None:
    """The database, when it is missing or older than this version."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "workbench", "db", "upgrade", "--data-dir", FOLDER], check=True,
                   capture_output=True)
    asyncio.run(build(f"sqlite:///{FOLDER.absolute() / 'workbench.sqlite'}"))


def processor(pid: int) -> float:
    """Milliseconds of processor time of a process, exact to the microsecond."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def requests(server: ServerProcess) -> list[Row]:
    rows = []
    with httpx.Client(base_url=server.url + "/workbench/api", headers=server.headers, timeout=60) as http:
        http.get("/me").raise_for_status()
        for name, path in REQUESTS.items():
            taken: list[tuple[float, float]] = []
            for _ in range(1 + TIMES):
                spent, began = processor(server.process.pid), time.perf_counter()
                http.get(path).raise_for_status()
                taken.append(((time.perf_counter() - began) * 1e3, processor(server.process.pid) - spent))
            (first, _), *more = taken
            again, work = (median(each) for each in zip(*more, strict=True))
            rows.append(Row(what=f"request: {name}", figure=f"{first:.0f}, {again:.0f} ms ({work:.0f})",
                            aim=f"< {MOST:g} ms", met=max(first, again) < MOST))
    return rows


def pages(server: ServerProcess) -> list[Row]:
    rows = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(  # keeps compiled scripts, as one in use does
            profile, executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"],
            viewport={"width": 1200, "height": 800})
        context.new_page().goto(f"{server.url}/login?token={server.token}&next=/settings")
        for name, (path, pattern) in PAGES.items():
            framed, found = zip(*(visit(context, server.url + path, pattern) for _ in range(1 + TIMES)), strict=True)
            after = median(end - frame for frame, end in zip(framed[1:], found[1:], strict=True))
            rows += [row(f"page: {name}, after its frame", after, "ms", digits=0, below=MOST),
                     row(f"page: {name}, in all", median(found[1:]), "ms", digits=0)]
        context.close()
    return rows


def visit(context: BrowserContext, url: str, pattern: str) -> tuple[float, float]:
    """Milliseconds from the navigation until the page has any text, and until it has what is expected."""
    page = context.new_page()
    try:
        page.goto(url, wait_until="commit")
        page.evaluate(WATCH, pattern)
        page.wait_for_function("window.found", timeout=60_000)
        framed, found = page.evaluate("[window.framed, window.found]")
        return framed, found
    finally:
        page.close()
        time.sleep(PAUSE)
