"""A headless Chromium for a whole session, which every test finds without cookies, storage or pages, and what no page
may do.

It has one context, on the disk: only there Chromium keeps the scripts it compiled, which halves the cost of a page.
`page` fails its test when the page logged a JavaScript error or asked for anything outside loopback.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.requirements import find_chromium

LOCAL = {"127.0.0.1", "localhost", "[::1]", "::1", ""}


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    path = find_chromium()
    assert path, "no Chromium: run `python -m tests.requirements`"
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"), executable_path=path, viewport={"width": 1400, "height": 900},
            accept_downloads=True,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
                  "--disable-background-networking", "--disable-sync"],
        )
        yield context
        context.close()


@pytest.fixture
def context(chromium: BrowserContext) -> Iterator[BrowserContext]:
    chromium.set_default_timeout(60_000)
    first = chromium.pages[0]  # opened with the browser; stays when a test's own pages are closed
    yield chromium
    devtools = chromium.new_cdp_session(first)
    for page in chromium.pages[1:]:
        parts = urlsplit(page.url)
        page.close()
        if parts.scheme in ("http", "https"):
            devtools.send("Storage.clearDataForOrigin", {
                "origin": f"{parts.scheme}://{parts.netloc}",
                "storageTypes": "local_storage,indexeddb,cache_storage,service_workers"})
    devtools.detach()
    chromium.clear_cookies()
    chromium.clear_permissions()
    chromium.set_offline(False)


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"script error: {error.stack or error}"))
    page.on("console", lambda said: errors.append(f"console: {said.text}") if said.type == "error" else None)

    def watch(request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and (parts.hostname or "") not in LOCAL:
            errors.append(f"request outside loopback: {request.url}")

    page.on("request", watch)
    page.allowed_errors = []  # type: ignore[attr-defined]  # texts that a test expects to be logged
    yield page
    unexpected = [text for text in errors if not any(allowed in text for allowed in page.allowed_errors)]  # type: ignore[attr-defined]
    assert not unexpected, "\n".join(unexpected)
