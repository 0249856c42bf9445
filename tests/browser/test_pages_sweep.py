"""A sweep from the form to its page, the map and a backtest of the best; and the report on the real page."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, TimeoutError, expect

from tests.harness import ServerProcess, wait_until

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

RANGES = """column => {
  for (const document of Bokeh.documents) for (const model of document._all_models.values())
    if (model.type === "Figure" || model.type === "Plot") for (const renderer of model.renderers)
      if (renderer.data_source && column in renderer.data_source.data && model.visible)
        return {start: model.x_range.start, end: model.x_range.end, rows: renderer.data_source.data[column].length,
                first: (renderer.data_source.data.time || [null])[0]}
  return null
}"""
# Every element that can take the keyboard's focus, shadow roots included, in the order of the document.
WALK = """() => {
  const found = []
  const name = element => {
    if (element.getAttribute("aria-label")) return element.getAttribute("aria-label")
    const labels = element.labels ? [...element.labels].map(label => label.innerText).join(" ") : ""
    const group = element.closest(".bk-input-group")
    const near = group ? (group.querySelector("label") || {}).innerText : ""
    return (labels || element.innerText || element.title || element.placeholder || near || "").trim()
  }
  const walk = root => {
    for (const element of root.querySelectorAll("*")) {
      const box = element.getBoundingClientRect()
      if (element.matches("a[href], button, input, select, textarea, [tabindex='0']") && box.width > 1 && box.height > 1
          && getComputedStyle(element).visibility !== "hidden")
        found.push({tag: element.tagName.toLowerCase(), type: element.type || "", name: name(element),
                    tabindex: element.tabIndex, kind: String(element.className), disabled: !!element.disabled})
      if (element.shadowRoot) walk(element.shadowRoot)
    }
  }
  walk(document)
  return found
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--demo", "--no-browser", "--workers", "1", program=("-m", "workbench", "serve")) as server:
        wait_until(lambda: "demo report at" in server.output, 60)
        wait_until(lambda: api(server, "/runs?state=completed")["total"] == 1, 120)
        yield server


def api(server: ServerProcess, path: str) -> dict:
    answer = httpx.get(f"{server.url}/workbench/api{path}", headers=server.headers, timeout=60)
    assert answer.is_success, answer.text
    return answer.json()


def enter(page: Page, server: ServerProcess, path: str) -> None:
    page.goto(f"{server.url}/login?token={server.token}&next={path.replace('?', '%3F').replace('&', '%26')}")
    page.wait_for_selector("html[data-ready=yes]")


def report(server: ServerProcess) -> str:
    (run,) = api(server, "/runs?tag=demo")["items"]
    return f"/run?id={run['id']}"


def test_a_sweep_from_the_form_to_its_map_and_a_backtest_of_the_best(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/new?strategy=sma_cross&market=demo:IBM/USD")
    expect(page.locator(".choices__list--multiple .choices__item", has_text="demo:IBM/USD")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("Averages of IBM")
    page.get_by_label("Name", exact=True).press("Tab")
    page.locator(".bk-tab", has_text="Sweep over parameters").click()
    for label, values in (("fast", "5, 10, 20"), ("slow", "40:80:20")):
        field = page.get_by_placeholder("fixed at the value above").and_(page.get_by_label(label, exact=True))
        field.fill(values)
        field.press("Tab")
    page.get_by_role("button", name="Start sweep").click()
    page.wait_for_url("**/run?id=*")
    expect(page.get_by_role("heading", name="Averages of IBM")).to_be_visible()
    expect(page.get_by_label("Trials: 9 of 9")).to_be_visible(timeout=90_000)
    expect(page.get_by_text("Best parameters")).to_be_visible()
    expect(page.get_by_text("Sharpe ratio runs from")).to_be_visible()
    expect(page.get_by_role("figure", name="Chart: Parameters and result")).to_be_visible()
    expect(page.locator(".tabulator-row")).to_have_count(9)
    page.get_by_label("Up", exact=True).select_option("fast")
    expect(page.get_by_text("the best is at fast")).to_be_visible()
    sweep = api(server, "/sweeps/" + page.url.partition("id=")[2])
    chosen = page.get_by_role("button", name=re.compile(r"Backtest with trial \d"))
    for _ in range(3):  # Tabulator hears no click until it is built, and shows its rows before
        page.locator(".tabulator-row").nth(2).click()
        with suppress(TimeoutError):
            chosen.wait_for(timeout=10_000)
            break
    expect(chosen).to_be_visible()
    number = int(chosen.inner_text().split()[-1]) - 1
    chosen.click()
    page.wait_for_url(lambda url: sweep["id"] not in url)
    run = api(server, "/runs/" + page.url.partition("id=")[2])
    columns = api(server, f"/sweeps/{sweep['id']}/trials")["columns"]
    at = columns["number"].index(number)
    assert run["spec"]["params"] == {name: columns[f"params.{name}"][at] for name in ("fast", "slow")}
    assert run["markets"] == ["demo:IBM/USD"]


def test_dragging_on_the_real_report_zooms_and_trades_and_files_are_there(page: Page, server: ServerProcess) -> None:
    enter(page, server, report(server))
    page.get_by_text("Worst drawdowns").first.wait_for(timeout=60_000)
    before = page.evaluate(RANGES, "drawdown")
    assert before["start"] == before["first"], "no empty room beside the curve"
    figure = page.locator(".bk-Figure").filter(visible=True).first
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert box is not None
    for part in (0.4, 0.6):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] / 2, steps=5)
        page.mouse.down() if part < 0.5 else page.mouse.up()
    wait_until(lambda: page.evaluate(RANGES, "drawdown")["end"] < before["end"])
    after = page.evaluate(RANGES, "drawdown")
    assert 0.1 < (after["end"] - after["start"]) / (before["end"] - before["start"]) < 0.4
    page.locator(".bk-tab", has_text="Trades").click()
    page.locator(".tabulator-row").first.wait_for()
    whole = page.evaluate(RANGES, "open")

    def chosen() -> bool:
        shown = page.evaluate(RANGES, "open")
        return bool(shown["end"] - shown["start"] < (whole["end"] - whole["start"]) / 2)

    for _ in range(3):  # as above
        page.locator(".tabulator-row").nth(3).click()
        with suppress(AssertionError):
            wait_until(chosen, timeout=20)
            break
    assert chosen()
    page.get_by_text("Holding time and return").wait_for()
    for label, ending in (("HTML report", ".html"), ("Parquet tables", "-parquet.zip")):
        with page.expect_download(timeout=60_000) as waiting:
            page.get_by_text(label, exact=True).click()
        assert waiting.value.suggested_filename.endswith(ending)
        assert Path(waiting.value.path()).stat().st_size > 10_000


PATHS = ("/", "/runs", "/new", "/markets", "/markets?market=demo:AAPL/USD", "/settings", "run")


@pytest.mark.parametrize("path", PATHS)
def test_everything_that_takes_the_focus_has_a_name(page: Page, server: ServerProcess, path: str) -> None:
    enter(page, server, report(server) if path == "run" else path)
    if path == "run":
        page.get_by_text("Worst drawdowns").first.wait_for(timeout=60_000)
    expect(page.locator("main")).not_to_contain_text("Loading …")
    expect(page.get_by_role("heading", level=1).first).to_be_visible()
    assert page.title() and page.title() != "workbench"

    def nameless() -> list[dict]:
        return [each for each in page.evaluate(WALK) if not each["name"]
                and each["type"] not in ("hidden", "file") and "tabulator-cell" not in each["kind"]]

    wait_until(lambda: not nameless(), message=f"without a name: {nameless()}")
    found = page.evaluate(WALK)
    assert len(found) > 6
    assert not [each for each in found if each["tabindex"] > 0], "the order of the keyboard is that of the page"
    for element in page.locator("table").all():
        assert element.locator("th[scope]").count() > 0, element.inner_text()[:80]


def test_the_tabs_of_a_report_are_opened_with_the_keyboard(page: Page, server: ServerProcess) -> None:
    enter(page, server, report(server))
    page.get_by_text("Worst drawdowns").first.wait_for(timeout=60_000)
    tab = page.locator(".bk-tab", has_text="Returns")
    tab.focus()
    page.keyboard.press("Enter")
    page.get_by_text("Rolling figures", exact=True).first.wait_for()
