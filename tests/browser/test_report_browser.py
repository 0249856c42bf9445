"""The report in headless Chromium: tabs, zoom, trades linked to the chart, themes, and the exported file offline."""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.harness import wait_until
from tests.workbench.report_samples import result
from workbench import export
from workbench.theme import LIGHT
from workbench.views.data import Cache, LocalRun, drive

pytestmark = pytest.mark.browser
TABS = ("Overview", "Returns", "Trades", "Details")
# A figure of the document by the name of a column that one of its sources has, with its visible range and its rows.
LOOK = """column => {
  const found = []
  for (const document of Bokeh.documents) for (const model of document._all_models.values()) {
    if (model.type !== "Figure" && model.type !== "Plot") continue
    for (const renderer of model.renderers) {
      const source = renderer.data_source
      if (source && column in source.data)
        found.push({start: model.x_range.start, end: model.x_range.end, low: model.y_range.start,
                    high: model.y_range.end, rows: source.data[column].length, visible: model.visible})
    }
  }
  return found
}"""


@pytest.fixture(scope="module")
def reports() -> Iterator[str]:
    """Address of a server that shows reports of made-up runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = Path(__file__).with_name("report_app.py")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, str(app), str(port)], stdout=log, stderr=subprocess.STDOUT)
        address = f"http://127.0.0.1:{port}/report"

        def answers() -> bool:
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read().decode()[-2000:])
            try:
                return urlopen(f"{address}?sample=bare", timeout=2).status == 200
            except OSError:
                return False

        wait_until(answers, timeout=60, message="the report server did not answer")
        yield address
        process.terminate()
        process.wait(20)


def open_tab(page: Page, name: str) -> None:
    page.locator(".bk-tab", has_text=name).click()


def charts(page: Page, column: str) -> list[dict]:
    return page.evaluate(LOOK, column)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_every_tab_opens_without_errors_or_foreign_requests(reports, page, look):
    page.goto(f"{reports}?sample=daily&theme={look}")
    page.get_by_text("Worst drawdowns").wait_for()
    for tab, words in zip(
        TABS, ("Portfolio value", "Rolling figures", "Candles and fills", "All metrics"), strict=True
    ):
        open_tab(page, tab)
        page.get_by_text(words, exact=True).first.wait_for()
    wait_until(lambda: page.get_by_text("is being drawn").count() == 0)


@pytest.mark.parametrize("sample", ["no_trades", "one_bar", "long_names"])
def test_unusual_runs_open_and_fit_a_narrow_window(reports, page, sample):
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(f"{reports}?sample={sample}")
    page.get_by_text("Worst drawdowns").first.wait_for()
    for tab, words in (("Trades", "Candles and fills"), ("Details", "All metrics")):
        open_tab(page, tab)
        page.get_by_text(words, exact=True).first.wait_for()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 800, "nothing sticks out sideways"


def test_logarithmic_scale_is_a_click_away(reports, page):
    page.goto(f"{reports}?sample=daily")
    page.get_by_role("button", name="Log").click()
    wait_until(lambda: [chart["visible"] for chart in charts(page, "value")] == [False, True])


def test_zooming_the_candles_fetches_single_bars(reports, page):
    page.goto(f"{reports}?sample=daily")
    page.get_by_text("Worst drawdowns").first.wait_for()
    open_tab(page, "Trades")
    page.get_by_text("each candle joins up to").wait_for()
    before = charts(page, "open")[0]
    canvas = page.locator(".bk-Figure").filter(visible=True).first
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(6):
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(60)
    page.get_by_text("each candle joins up to").wait_for(state="hidden")
    width, height = before["end"] - before["start"], before["high"] - before["low"]
    wait_until(lambda: (after := charts(page, "open")[0])["end"] - after["start"] < width / 2)
    wait_until(lambda: (after := charts(page, "open")[0])["high"] - after["low"] < height,
               message="the price axis does not fit what is visible")


def test_choosing_one_of_ten_thousand_trades_zooms_the_chart(reports, page):
    page.goto(f"{reports}?sample=many_trades")
    page.get_by_text("Worst drawdowns").first.wait_for(timeout=60_000)
    open_tab(page, "Trades")
    page.locator(".tabulator-row").first.wait_for()
    before = charts(page, "open")[0]
    width = before["end"] - before["start"]

    def chosen() -> bool:
        shown = charts(page, "open")[0]
        return shown["end"] - shown["start"] < width / 100

    for _ in range(3):  # a table that is not yet built loses a click
        page.locator(".tabulator-row").nth(4).click()
        with suppress(AssertionError):
            wait_until(chosen, timeout=20)
            break
    assert chosen()
    wait_until(lambda: charts(page, "open")[0]["rows"] <= 2000)
    page.get_by_role("button", name="Last", exact=False).click()
    page.get_by_role("button", name="Next trade").click()
    shown = charts(page, "open")[0]
    wait_until(lambda: charts(page, "open")[0]["start"] != shown["start"] or shown["end"] < before["end"])
    page.get_by_role("button", name="Whole range").click()
    wait_until(lambda: charts(page, "open")[0]["start"] <= before["start"])


def test_tables_are_downloaded(reports, page):
    page.goto(f"{reports}?sample=daily")
    with page.expect_download() as waiting:
        page.get_by_text("CSV tables").click()
    assert waiting.value.suggested_filename.endswith("-csv.zip")
    assert Path(waiting.value.path()).read_bytes().startswith(b"PK")


def test_the_exported_page_works_offline(context: BrowserContext, page: Page, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_bytes(drive(export.html_page(Cache(LocalRun(*result(bars=400))), {"id": "01RUN"}, LIGHT)))
    context.set_offline(True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    wait_until(lambda: len(charts(page, "drawdown")) > 0, timeout=60)
    assert page.locator(".bk-Figure").count() >= 15
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert page.locator(".bk-Figure").first.bounding_box()["width"] > 600
    page.get_by_role("button", name="Log").click()
    wait_until(lambda: [chart["visible"] for chart in charts(page, "value")] == [False, True])
