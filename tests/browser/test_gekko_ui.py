"""Gekko's own web application, unmodified, in a browser. It is not a part of the workbench: WORKBENCH_TEST_GEKKO_UI
names the folder of its published build (web/vue/dist), without which there is nothing to test."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.candle_store import CandleStore
from engine.model import Market
from tests.engine.gekko_golden import candles
from tests.exchange_simulator import ExchangeSimulator
from tests.harness import ServerProcess

FOLDER = os.environ.get("WORKBENCH_TEST_GEKKO_UI", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="WORKBENCH_TEST_GEKKO_UI names no folder")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("gekko")
    market = replace(candles("rw60d").take(slice(0, 20_000)), market=Market("poloniex", "BTC", "USDT"))
    CandleStore(folder / "candles").write(market)
    exchanges = folder / "exchanges.json"
    with ExchangeSimulator() as simulator:
        exchanges.write_text(json.dumps({"binance": simulator.options()["sim"]}))
        with ServerProcess("--gekko-ui", FOLDER, "--api-only", "--rate-limit", "0", "--exchanges", str(exchanges),
                           data_dir=folder, env={"WORKBENCH_TOKEN": ""}) as running:
            yield running


@pytest.fixture
def page(context: Any) -> Any:
    """A page of the context, whose own script errors are not ours to judge."""
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    opened.on("dialog", lambda dialog: dialog.accept())  # it asks before it stops or deletes
    return opened


def sees(page: Any, text: str) -> None:
    page.get_by_text(text).first.wait_for()


def scan(page: Any) -> None:
    page.get_by_text("Scan available data").first.click()
    sees(page, "2018-01-01 00:00")


def test_local_data_is_scanned(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/gekko/#/data")
    scan(page)
    sees(page, "poloniex")


def test_a_backtest_with_its_chart_and_its_roundtrips(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/gekko/#/backtest")
    scan(page)
    page.locator("input[type=radio]").first.check()
    page.get_by_text("Backtest", exact=True).last.click()
    sees(page, "Roundtrips")
    sees(page, "amount of trades")
    page.locator("#chart *").nth(20).wait_for(state="attached")
    page.locator("table tr").nth(10).wait_for(state="attached")


def test_a_watcher_and_a_paper_trader_on_a_replay(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/gekko/#/live-gekkos/new")
    sees(page, "paper trader")
    page.locator("select").first.select_option("replay")
    for select in page.locator("select").all():
        labels = select.locator("option").all_inner_texts()
        if "MACD" in labels:
            select.select_option(label="DEBUG_toggle-advice")
        if "minutes" in labels:
            select.select_option(label="minutes")
    page.get_by_text("Start", exact=True).click()
    sees(page, "Gekko papertrader")
    sees(page, "Start balance")  # its first trade was reported
    sees(page, "2018-01-01")
    sees(page, "this market watcher")
    page.goto(f"{server.url}/gekko/#/live-gekkos")
    sees(page, "DEBUG_toggle-advice")
    sees(page, "running")
    page.get_by_text("DEBUG_toggle-advice").first.click()
    page.get_by_text("Stop Gekko").click()
    sees(page, "Delete Gekko")
    page.get_by_text("Delete Gekko").click()
    page.get_by_text("DEBUG_toggle-advice").first.wait_for(state="detached")


def test_the_configuration_page(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/gekko/#/config")
    sees(page, "You don't have any API keys yet")
    assert Path(FOLDER, "index.html").is_file()


def test_an_import_is_followed_to_its_end(server: ServerProcess, page: Any) -> None:
    page.goto(f"{server.url}/gekko/#/data/importer")
    page.locator("select").first.select_option("binance")
    for field, day in zip(page.locator("input").all(), ("2023-11-20 00:00", "2023-11-22 00:00"), strict=True):
        field.fill(day)
    page.get_by_text("Import", exact=True).click()
    sees(page, "Import done")
    page.goto(f"{server.url}/gekko/#/data")
    scan(page)
    sees(page, "2023-11-21 23:59")
