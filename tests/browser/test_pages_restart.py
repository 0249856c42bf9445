"""Pages across a server's restart, a run that is cancelled, and pages in a process of their own."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.harness import ServerProcess, wait_until
from workbench import demo

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

SERVE = ("-m", "workbench", "serve")


def test_an_open_page_finds_back_after_a_restart(page: Page, tmp_path: Path) -> None:
    demo.load_candles(tmp_path)
    page.allowed_errors += ["WebSocket", "ERR_", "Lost websocket", "[bokeh"]  # type: ignore[attr-defined]
    server = ServerProcess("--no-browser", program=SERVE, data_dir=tmp_path, compute=False).start()
    port = server.port
    try:
        page.goto(f"{server.url}/login?token={server.token}&next=/markets")
        page.wait_for_selector("html[data-ready=yes]")
        expect(page.get_by_role("link", name="demo:AAPL/USD")).to_be_visible()
    finally:
        server.stop()
    expect(page.locator("#wb-lost")).to_be_visible()
    page.evaluate("document.body.dataset.old = 'yes'")
    again = ServerProcess("--no-browser", program=SERVE, data_dir=tmp_path, port=port, compute=False).start()
    try:
        page.wait_for_selector("body:not([data-old])", timeout=60_000)
        page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        expect(page.get_by_role("link", name="demo:AAPL/USD")).to_be_visible()
        expect(page.locator("#wb-lost")).to_be_hidden()
    finally:
        page.goto("about:blank")
        again.stop()


def test_a_queued_run_is_watched_and_cancelled(page: Page, tmp_path: Path) -> None:
    """With a scheduler that has no workers a run waits, so that there is time to cancel it."""
    demo.load_candles(tmp_path)
    with ServerProcess("--no-browser", program=SERVE, data_dir=tmp_path, compute=False) as server:
        run = httpx.post(f"{server.url}/workbench/api/runs", headers=server.headers, json={
            "strategy": "buy_and_hold", "markets": ["demo:AAPL/USD"], "name": "Patient"}).json()
        page.goto(f"{server.url}/login?token={server.token}&next=/run%3Fid%3D{run['id']}")
        page.wait_for_selector("html[data-ready=yes]")
        expect(page.get_by_role("heading", name="Patient")).to_be_visible()
        expect(page.get_by_role("progressbar")).to_be_visible()
        page.get_by_role("button", name="Cancel this run").click()
        expect(page.get_by_text("This run was cancelled.")).to_be_visible()
        expect(page.get_by_role("button", name="Run again")).to_be_visible()
        page.goto("about:blank")


def test_pages_in_a_process_of_their_own(page: Page, tmp_path: Path) -> None:
    demo.load_candles(tmp_path / "api")
    with ServerProcess(data_dir=tmp_path / "api", compute=False) as server:
        pages = ServerProcess("--server", server.url, program=("-m", "tests.browser.pages_process"),
                              data_dir=tmp_path / "unused")
        with pages:
            wait_until(lambda: "/login" in httpx.get(pages.url + "/").headers.get("location", ""))
            page.allowed_errors.append("401")  # type: ignore[attr-defined]
            page.goto(pages.url + "/markets")
            page.get_by_label("Token").fill("wrong")
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("alert")).to_contain_text(re.compile("not valid"))
            page.get_by_label("Token").fill(server.token)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_selector("html[data-ready=yes]")
            expect(page.get_by_role("link", name="demo:AAPL/USD")).to_be_visible()
            assert server.token not in page.content()
            page.goto("about:blank")
