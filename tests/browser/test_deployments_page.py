"""Uploaded models as a person handles them: drop a file, watch its log, compare versions, backtest, stop."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.harness import ServerProcess, wait_until

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

SERVE = ("-m", "workbench", "serve")
LIVE = """
import os, time
from blankly_external import Reporter, report


class Luck:
    def backtest(self, days=4):
        print("testing", days, "days")
        values = [{"time": 1700000000 + 86400 * day, "value": 1000 + 10 * day} for day in range(days)]
        trades = [{"symbol": "COIN-USD", "side": "buy", "size": 1.0, "price": 100.0, "time": 1700000000},
                  {"symbol": "COIN-USD", "side": "sell", "size": 1.0, "time": 1700000000 + 86400}]
        return {"symbols": ["COIN-USD"], "quote_asset": "USD", "account_values": values, "trades": trades,
                "metrics": {"luck": {"value": 7, "display_name": "Luck"}},
                "indicators": {"mood": {"display_name": "Mood", "values": [
                    {"time": 1700000000 + 86400 * day, "value": day % 2} for day in range(days)]}}}


Reporter.export_strategy(Luck())
if not os.environ.get("BACKTESTING"):
    print("GREETING", flush=True)
    while True:
        time.sleep(0.1)
"""
LONG = "a model with a name that goes on and on and never seems to come to any end " * 2


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr("model/" + name.replace("__", "."), content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--no-browser", program=SERVE, compute=False) as server:
        wait_until(lambda: httpx.get(f"{server.url}/deployments").status_code == 302, 60)
        yield server


def ask(server: ServerProcess, method: str, path: str, **words: Any) -> Any:
    answer = httpx.request(method, f"{server.url}/workbench/api{path}", headers=server.headers, timeout=60, **words)
    assert answer.is_success, answer.text
    return answer.json()


def uploaded(server: ServerProcess, name: str, *bodies: bytes, **query: str) -> str:
    id = str(ask(server, "POST", "/models", json={"name": name})["id"])
    for body in bodies:
        ask(server, "POST", f"/models/{id}/versions", content=body, params=query)
    return id


def enter(page: Page, server: ServerProcess, path: str) -> None:
    page.goto(f"{server.url}/login?token={server.token}&next={quote(path, safe='')}")
    page.wait_for_selector("html[data-ready=yes]")


def drop(page: Page, name: str, body: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files([
        {"name": name, "mimeType": "application/zip", "buffer": body}])


def test_a_dropped_zip_runs_says_something_and_stops(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/deployments")
    expect(page.get_by_text("No uploaded models yet")).to_be_visible()
    expect(page.get_by_role("button", name="Deploy", exact=True)).to_be_disabled()
    drop(page, "lucky.zip", zipped(bot__py=LIVE.replace("GREETING", "good morning"), keys__json='{"key": "hidden-1"}'))
    expect(page.get_by_role("textbox", name="Name")).to_have_value("lucky")
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.wait_for_url(re.compile("/deployment\\?id="))
    page.wait_for_selector("html[data-ready=yes]")
    expect(page.get_by_role("region", name="Output of the model")).to_contain_text("good morning", timeout=90_000)
    expect(page.locator("[data-state=running]")).to_be_visible()
    expect(page.get_by_role("meter", name="Memory")).to_be_visible()
    expect(page.get_by_text(re.compile("cores"))).not_to_have_count(0)
    page.get_by_text("2 files of version 1").click()
    expect(page.get_by_text("secret, never shown")).to_be_visible()
    assert "hidden-1" not in page.content()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("[data-state=stopped]")).to_be_visible()
    expect(page.get_by_role("meter", name="Memory")).to_have_count(0)
    page.get_by_role("link", name="Orders, profit, calls").click()
    page.get_by_role("link", name="Uploaded: versions, run, stop, output").click()
    page.get_by_role("link", name="All uploaded").click()
    expect(page.locator("article[data-model]")).to_contain_text("lucky")


def test_what_is_wrong_with_a_file_is_said_beside_it(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/deployments")
    drop(page, "pictures.zip", zipped(readme__txt="nothing to run"))
    page.get_by_role("button", name="Deploy", exact=True).click()
    expect(page.locator("div[role=alert]:not(.wb-lost)")).to_contain_text("does not say which script to run")
    expect(page.locator("div[role=alert]:not(.wb-lost)")).to_contain_text("call it bot.py")
    names = [each["name"] for each in ask(server, "GET", "/models")["items"]]
    assert "pictures" not in names
    enter(page, server, "/deployments")
    page.get_by_label("Schedule (cron, UTC)").fill("whenever")
    drop(page, "another.zip", zipped(bot__py="print(1)"))
    page.get_by_role("button", name="Deploy", exact=True).click()
    expect(page.locator("div[role=alert]:not(.wb-lost)")).to_contain_text("schedule")


def test_versions_are_compared_and_downloaded(page: Page, server: ServerProcess) -> None:
    id = uploaded(server, "grid", zipped(bot__py="print(1)\n", keys__json='{"a": "hidden-1"}'),
                  zipped(bot__py="print(2)\n", keys__json='{"a": "hidden-2"}', extra__txt="x"), file="grid.zip")
    enter(page, server, f"/deployment?id={id}")
    expect(page.get_by_role("table", name="Versions").locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("+print(2)")).to_be_visible()
    expect(page.get_by_text("-print(1)")).to_be_visible()
    expect(page.get_by_text("holds secrets; not shown")).to_be_visible()
    assert "hidden-" not in page.content()
    with page.expect_download() as caught:
        page.get_by_text("Download 1").click()
    with zipfile.ZipFile(caught.value.path()) as found:
        assert found.read("model/bot.py") == b"print(1)\n"


def test_a_backtest_is_asked_for_with_arguments_and_reported(page: Page, server: ServerProcess) -> None:
    manifest = json.dumps({"main_script": "./bot.py", "backtest_args": {"days": 9}})
    id = uploaded(server, "tested", zipped(bot__py=LIVE, blankly__json=manifest))
    enter(page, server, f"/deployment?id={id}")
    args = page.get_by_label("Arguments of .backtest() (JSON)")
    expect(args).to_have_value(re.compile('"days": 9'))
    args.fill('{"days": 6')
    expect(page.locator("div[role=alert]:not(.wb-lost)")).to_contain_text("not JSON")
    args.fill('{"days": 6}')
    expect(page.locator("div[role=alert]:not(.wb-lost)")).to_have_count(0)
    args.blur()
    page.get_by_role("button", name="Backtest", exact=True).click()
    page.wait_for_url(re.compile("/run\\?id="))
    expect(page.locator("[data-metric=final_value]")).to_contain_text("1,050")
    page.get_by_role("tab", name="Details").click()
    expect(page.get_by_role("table", name="Figures reported by the model")).to_contain_text("Luck")
    expect(page.get_by_text("testing 6 days")).to_be_visible()
    page.get_by_role("tab", name="Trades").click()
    expect(page.get_by_text("No candles")).to_be_visible()
    wait_until(lambda: page.evaluate(
        "[...Bokeh.documents[0]._all_models.values()].some((model) => model.type === 'HoverTool' && "
        "JSON.stringify(model.tooltips).includes('Mood'))"))


def test_an_address_without_a_model_says_so(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/deployment?id=nobody")
    expect(page.get_by_text("No such model")).to_be_visible()


def test_narrow_windows_and_long_names(page: Page, server: ServerProcess) -> None:
    id = uploaded(server, LONG, zipped(bot__py="raise SystemExit('no money left: ' + 'x' * 300)"),
                  file="a-file-with-quite-a-long-name-indeed.zip", description=LONG)
    ask(server, "PUT", f"/models/{id}/deployment", json={})
    wait_until(lambda: ask(server, "GET", f"/models/{id}/deployment")["error"], 30)
    page.set_viewport_size({"width": 420, "height": 900})
    for path in ("/deployments", f"/deployment?id={id}"):
        enter(page, server, path)
        expect(page.get_by_text("a model with a name").first).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"
    ask(server, "DELETE", f"/models/{id}/deployment")
