"""A headless Chromium for a whole session, a fresh context for a test, and what no page may do.

`page` fails its test when the page logged a JavaScript error or asked for anything outside loopback.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.requirements import find_chromium

LOCAL = {"127.0.0.1", "localhost", "[::1]", "::1", ""}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    assert path, "no Chromium: run `python -m tests.requirements`"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
                  "--disable-background-networking", "--disable-sync"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"script error: {error}"))
    page.on("console", lambda said: errors.append(f"console: {said.text}") if said.type == "error" else None)

    def watch(request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and (parts.hostname or "") not in LOCAL:
            errors.append(f"request outside loopback: {request.url}")

    page.on("request", watch)
    page.allowed_errors = []  # type: ignore[attr-defined]  # texts that a test expects to be logged
    yield page
    unexpected = [text for text in errors if not any(allowed in text for allowed in page.allowed_errors)]  # type: ignore[attr-defined]
    assert not unexpected, unexpected
