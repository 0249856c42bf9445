"""Blankly's own packages, unchanged but for where they send to, against a real server process."""

import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blankly_clients import MissingClientError, python_of
from tests.harness import ServerProcess
from workbench import snippets

CLIENT_TIMEOUT = 300.0
SLATES = {"slate-1.0.0b0": "A", "slate-1.1.0b0": "B", "slate-1.10.6b0": "C"}


class Desk:
    """A server with a project; each model gets a key of its own."""

    def __init__(self, server: ServerProcess) -> None:
        self.url = server.url
        self._client = httpx.Client(base_url=server.url + "/workbench/api", headers=server.headers, timeout=60)
        self.project = self.ask("POST", "/projects", json={"name": "desk"})["id"]

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._client.request(method, path, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def model(self, name: str) -> tuple[str, str]:
        """A new model and its key."""
        model = self.ask("POST", "/models", json={"project": self.project, "name": name})["id"]
        return model, self.ask("POST", f"/models/{model}/keys", json={"name": name})["token"]

    def items(self, path: str, **filters: str) -> list[Any]:
        return list(self.ask("GET", path, params={"limit": "500", **filters})["items"])

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with ServerProcess("--rate-limit", "0", "--api-only", compute=False) as server:
        made = Desk(server)
        yield made
        made.close()


def run(client: str, folder: Path, program: str, url: str) -> tuple[str, str]:
    """What a program prints and what it complains of, run by a client's own interpreter beside the redirecting file."""
    try:
        python = python_of(client)
    except MissingClientError as error:
        pytest.skip(str(error))
    (folder / snippets.REDIRECT_FILE).write_text(snippets.redirect(url))
    (folder / "bot.py").write_text(program)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WORKBENCH_"))}
    done = subprocess.run([str(python), "bot.py"], cwd=folder, env={**inherited, "BROWSER": "true"}, check=False,
                          capture_output=True, text=True, timeout=CLIENT_TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


EVERYTHING = '''
def check(answer):
    # The oldest kits give the answer's JSON and raise for an error, the newest gives the response itself.
    assert getattr(answer, "status_code", 200) == 200, answer.text

lifecycle, symbol, exchange = (bot.model.set_lifecycle, bot.model.add_symbol, bot.model.set_exchange) if NEWEST else (
    bot.model.model_livecycle, bot.model.used_symbol, bot.model.used_exchange)
check(lifecycle(message="Started", start_at=1644682832.742))
check(lifecycle(running=False))
check(symbol("BTC-USD"))
check(exchange("coinbase_pro"))
check(bot.live.event({"symbol": "BTC-USD", "testing": True}, {"message": "ok"}, "get_price", annotation="look"))
check(bot.live.spot_market("BTC-USD", "coinbase_pro", "m1", "buy", size=8.3, annotation="RSI low"))
check(bot.live.spot_market("BTC-USD", "coinbase_pro", "m2", "sell", funds=100))
check(bot.live.spot_limit("BTC-USD", "coinbase_pro", "l1", "buy", 2532.43, size=2))
check(bot.live.spot_stop("BTC-USD", "coinbase_pro", "s1", "sell", 2500.0, 2510.5, size=1.5))
check(bot.live.update_trade("m1", price=2530.0, status="filled"))
check(bot.live.update_annotation("m2", "taking profit"))
check(bot.live.screener_result({"AAPL": {"RSI": 29.5}}))
for number in range(5):
    check(bot.live.log(f"line {number}", "stdout"))
id = bot.backtest.generate_new_backtest_id()
points = [{"time": 1613174400.0, "value": 10000.0}, {"time": 1613260800.0, "value": 10500.0}]
trades = [{"symbol": "BTC-USD", "size": 1.0, "side": "buy", "id": "t", "time": 1613174400, "price": 5.0}]
rest = {"backtest_id": id, "metrics": {"cagr": {"value": 14}}, "indicators": {}}
more = {"exchange": "demo"} if NEWEST else {}
check(bot.backtest.log("computing", "stdout", id))
check(bot.backtest.result(["BTC-USD", "ETH-USD"], "USD", 1613174400, 1613260800.0, points, trades, **rest, **more))
check(bot.backtest.result(["BTC-USD"], "USD", 1613174400, 1613260800.0, points, [],
                          **{**rest, "backtest_id": id[::-1].replace("-", "") + "x"}, **more))
check(bot.backtest.status(True, "Completed", "", 5.3, id))
print(id)
'''
NEWEST = '''
import datetime
check(bot.live.set_auto_pnl(False))
check(bot.live.set_pnl([{"time": 1651647605, "value": 10}]))
check(bot.live.set_custom_metric("alpha", 1.5, "Alpha", "percentage"))
then = datetime.datetime(2022, 2, 12, 16, 20, 32, tzinfo=datetime.timezone.utc)
check(bot.live.spot_limit("BTC-USD", "demo", "l2", "buy", 5.0, size=1, executed_time=then, time=then))
check(bot.live.log("then", "stderr", then))
'''


@pytest.mark.parametrize("client", SLATES)
def test_every_call_of_slate(desk: Desk, client: str, tmp_path: Path) -> None:
    model, key = desk.model(client)
    newest = client == "slate-1.10.6b0"
    program = snippets.slate(desk.url, desk.project, model, key, generation=SLATES[client])
    output, _ = run(client, tmp_path, f"NEWEST = {newest}\n" + program + EVERYTHING + (NEWEST if newest else ""),
                    desk.url)
    backtest = output.split()[-1]

    found = desk.ask("GET", f"/models/{model}")
    assert (found["message"], found["running"]) == ("Started", False), "what a call leaves out keeps its value"
    assert found["symbols"] == ["BTC-USD"] and found["exchanges"] == ["coinbase_pro"]
    orders = {order["id"]: order for order in desk.items(f"/models/{model}/orders")}
    assert {id: order["kind"] for id, order in orders.items()} | {"l2": "limit"} == {
        "order-1": "market", "m1": "market", "m2": "market", "l1": "limit", "s1": "stop", "l2": "limit"}
    assert (orders["m1"]["price"], orders["m1"]["status"], orders["m1"]["size"]) == (2530.0, "filled", 8.3)
    assert (orders["m2"]["annotation"], orders["m2"]["funds"]) == ("taking profit", 100.0)
    assert (orders["s1"]["activate"], orders["s1"]["price"]) == (2510.5, 2500.0)
    lines = [event["line"] for event in desk.items(f"/models/{model}/logs")]
    assert [line for line in lines if line.startswith("line")] == [f"line {number}" for number in range(5)]
    assert "hello from slate" in lines and "computing" in lines
    run_ = desk.ask("GET", f"/runs/{backtest}")
    assert (run_["state"], run_["dialect"], run_["kind"]) == ("completed", "blankly", "backtest")
    assert len(desk.items("/runs", strategy=model)) == 2
    if newest:  # the older ones send no more of a list of objects than the names of its fields
        assert run_["metrics"]["total_return"] == pytest.approx(0.05)
        assert found["auto_pnl"] is False and found["metrics"]["alpha"]["value"] == 1.5
        assert orders["l2"]["at"].startswith("2022-02-12T16:20:32") and orders["l2"]["executed_at"]


BOT = '''
import blankly_redirect
import blankly
from blankly.data import PriceReader


def price_event(price, symbol, state):
    if price < 98 and not state.variables["held"]:
        state.interface.market_order(symbol, side="buy", size=10)
        state.variables["held"] = True
    elif price > 102 and state.variables["held"]:
        state.interface.market_order(symbol, side="sell", size=10)
        state.variables["held"] = False


def init(symbol, state):
    state.variables["held"] = False


exchange = blankly.KeylessExchange(price_reader=PriceReader("./prices.csv", "BTC-USD"))
strategy = blankly.Strategy(exchange)
strategy.add_price_event(price_event, symbol="BTC-USD", resolution="1d", init=init)
strategy.backtest(start_date=START, end_date=END, initial_values={"USD": 10000})
'''
SETTINGS = {"settings": {"use_sandbox_websockets": False, "websocket_buffer_size": 10000, "auto_truncate": False,
                         "test_connectivity_on_auth": True, "global_shorting": False, "simulate_margin": True,
                         "keyless": {"cash": "USD"}, "paper": {"price_source": "api"}}}
BACKTEST = {"price_data": {"assets": []}, "settings": {
    "use_price": "close", "smooth_prices": False, "GUI_output": True, "show_tickers_with_zero_delta": False,
    "save_initial_account_value": True, "show_progress_during_backtest": False, "cache_location": "./price_caches",
    "continuous_caching": False, "resample_account_value_for_metrics": "1d", "quote_account_value_in": "USD",
    "ignore_user_exceptions": False, "risk_free_return_rate": 0.0, "benchmark_symbol": None}}


def test_blankly_pushes_its_local_backtest(desk: Desk, tmp_path: Path) -> None:
    model, key = desk.model("blankly")
    start, days = 1577836800, 200
    rows = [(start + 86400 * day, 100 + 5 * math.sin(day / 6)) for day in range(days)]
    (tmp_path / "prices.csv").write_text("time,open,high,low,close,volume\n" + "".join(
        f"{time},{price},{price + 1},{price - 1},{price},10\n" for time, price in rows))
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "backtest.json").write_text(json.dumps(BACKTEST))
    (tmp_path / "keys.json").write_text("{}")
    text = snippets.blankly(desk.url, desk.project, model, key)
    (tmp_path / "blankly.json").write_text("".join(line for line in text.splitlines() if not line.startswith("#")))
    _, notes = run("blankly-1.18.23b0", tmp_path, BOT.replace("START", str(start + 86400 * 20)).replace(
        "END", str(start + 86400 * 180)), desk.url)
    assert f"{desk.project}/{model}/" in notes, "it believes that its push was taken"

    [found] = desk.items("/runs", strategy=model)
    assert (found["state"], found["dialect"]) == ("completed", "blankly")
    result = desk.ask("GET", f"/runs/{found['id']}/result")
    reported = result["extra"]["reported by the model"]
    assert len(reported) == 12 and found["metrics"]["total_return"] > 0
    assert found["metrics"]["trades"] >= 3 and result["rows"]["equity"] > 100
    names = [name for name in reported if "umulative" in name]
    assert names and reported[names[0]] == pytest.approx(100 * found["metrics"]["total_return"], abs=1.5)
