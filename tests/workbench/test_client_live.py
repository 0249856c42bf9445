"""The notebook's client against a real server with real candles: run, look, compare, sweep, cancel, fail."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from engine.demo import demo_candles
from tests.harness import ServerProcess, wait_until
from workbench import connecting, demo


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("client") / "data"
    demo.load_candles(folder)
    with ServerProcess("--workers", "1", data_dir=folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[wb.Client]:
    with wb.connect(server.url, server.token) as client:
        yield client


@pytest.fixture(scope="module")
def run(client: wb.Client) -> wb.Run:
    return client.backtest("sma_cross", market="AAPL", fast=10, slow=50, start="2005-01-01", fee_rate=0.001,
                           name="first", tags=["t1"])


def test_a_backtest_gives_everything_about_itself(run: wb.Run) -> None:
    assert run.state == "completed" and run.data.markets == ("demo:AAPL/USD",)
    assert run.params["fast"] == 10
    assert run.equity.index.tz is not None and run.equity.index[0] >= pd.Timestamp("2005-01-01", tz="UTC")
    final = run.equity["value"].iloc[-1]
    assert run.metrics["final_value"] == pytest.approx(final)
    assert len(run.fills) == run.summary["rows"]["fills"] > 0
    assert set(run.roundtrips["symbol"]) == {"demo:AAPL/USD"}
    assert len(run.table("equity", points=50)) < len(run.equity)
    assert len(run.table("candles", symbol="demo:AAPL/USD")) == len(run.equity)
    assert [event.seq for event in run.events()] == list(range(1, len(run.events()) + 1))
    assert run.events() == list(run.follow())
    assert "first" in run._repr_html_() and "<svg" in run._repr_html_()
    assert "sma_cross" in repr(run)


def test_the_result_belongs_to_the_caller(run: wb.Run) -> None:
    equity = run.equity
    equity["value"] = 0.0
    assert run.equity["value"].iloc[-1] > 0


def test_running_again_gives_the_same(run: wb.Run) -> None:
    again = run.rerun()
    assert again.id != run.id
    assert np.array_equal(again.equity["value"], run.equity["value"])


def test_comparison(client: wb.Client, run: wb.Run) -> None:
    other = client.backtest("sma_cross", market="AAPL", fast=20, slow=50, start="2005-01-01", fee_rate=0.001)
    both = client.compare([run, other.id])
    assert list(both.metrics.columns) == both.labels == ["first", "sma_cross"]
    assert list(both.parameters.index) == ["params.fast"]
    assert both.equity.iloc[0].tolist() == [1.0, 1.0]
    assert both._repr_html_().count("<svg") == 2
    with pytest.raises(wb.Conflict):
        client.compare([run])


def test_every_wrong_word_is_named(client: wb.Client) -> None:
    with pytest.raises(wb.Invalid) as caught:
        client.backtest("sma_cross", market="AAPL", fats=10, slwo=3)
    told = str(caught.value)
    assert "fats" in told and "slwo" in told and "fast" in told
    with pytest.raises(wb.Invalid, match="sma_cross"):
        client.backtest("sma_crosss", market="AAPL")
    with pytest.raises(wb.NotFound, match="demo:AAPL/USD"):
        client.backtest("sma_cross", market="TSLA")
    with pytest.raises(wb.Invalid, match="cash"):
        client.backtest("sma_cross", market="AAPL", cash=-1)


def test_lists(client: wb.Client, run: wb.Run) -> None:
    runs = client.runs(tag="t1", sort="metrics.sharpe")
    assert run.id in runs.index and runs.loc[run.id, "total_return"] == run.metrics["total_return"]
    assert client.runs(text="no such thing").empty
    assert client.run(run.id).id == run.id
    with pytest.raises(wb.NotFound):
        client.run("nothing")
    assert "sma_cross" in client.strategies().index
    assert client.strategy("sma_cross")["parameters"]
    with pytest.raises(wb.NotFound, match="sma_cross"):
        client.strategy("x")
    assert "sharpe" in client.metrics().index
    assert "demo:AAPL/USD" in client.markets().index


def test_candles_go_in_and_come_out(client: wb.Client) -> None:
    at = pd.date_range("2024-01-01", periods=48, freq="h", tz="UTC")
    given = pd.DataFrame({name: np.arange(48) + 1.0 for name in ("open", "high", "low", "close", "volume")}, index=at)
    assert client.upload(given, "test:ABC/USD")["added"] == 48
    assert client.upload(given, "test:ABC/USD")["kept"] == 48
    back = client.candles("test:ABC/USD", "1h")
    assert back["close"].tolist() == given["close"].tolist() and (back.index == at).all()
    daily = client.candles("ABC", "1d", start="2024-01-02")
    assert len(daily) == 1 and daily["volume"].iloc[0] == given["volume"].iloc[24:].sum()
    assert client.quality("test:ABC/USD", "1h")["rows"] == 48
    with pytest.raises(wb.Invalid, match="close"):
        client.upload(given.assign(close=np.inf), "test:BAD/USD")
    with pytest.raises(wb.NotFound):
        client.candles("test:NONE/USD")


def test_it_works_inside_a_running_loop(client: wb.Client) -> None:
    async def cell() -> int:
        return len(client.runs())

    assert asyncio.run(cell()) > 0


@pytest.mark.anyio
async def test_the_asynchronous_twin(server: ServerProcess) -> None:
    told: list[float] = []
    async with wb.AsyncClient(server.url, server.token) as client:
        run = await client.backtest("buy_and_hold", "demo:IBM/USD", progress=lambda done, message: told.append(done))
        assert run.state == "completed" and run.progress == 1.0
        table = await client.table(run.id, "equity")
        assert table["time"].dtype == np.int64
    assert told == sorted(told) and told[-1] >= 0.9


def test_an_interrupt_while_waiting_cancels_the_run(client: wb.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = client.backtest("sma_cross", market="AAPL", wait=False)
    cancelled = threading.Event()
    monkeypatch.setattr(run, "cancel", cancelled.set)

    def interrupt(_source: object) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(client._loop, "iterate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    assert cancelled.is_set()


def test_a_run_that_fails_says_why(client: wb.Client) -> None:
    at = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-02-20", "2024-02-21"], tz="UTC")
    holes = pd.DataFrame({name: [1.0, 2, 3, 4] for name in ("open", "high", "low", "close")}, index=at)
    client.upload(holes, "test:HOLES/USD", "1d")
    with pytest.raises(wb.RunFailed) as caught:
        client.backtest("buy_and_hold", market="test:HOLES/USD", data_mode="fail")
    assert caught.value.run.state == "failed" and "hole" in str(caught.value).lower()


def test_a_wrong_token_is_refused_with_the_remedy(server: ServerProcess) -> None:
    with pytest.raises(wb.Unauthenticated, match="WORKBENCH_TOKEN"):
        wb.connect(server.url, "wb_00000000_wrong")


def test_connect_finds_url_and_token_in_the_environment(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_URL", server.url)
    monkeypatch.setenv("WORKBENCH_TOKEN", server.token)
    with wb.connect() as client:
        assert client.url == server.url and client.me()["scopes"] == ["admin"]
    monkeypatch.delenv("WORKBENCH_TOKEN")
    monkeypatch.setenv("WORKBENCH_DATA_DIR", str(server.data_dir))
    with wb.connect() as client:
        assert client.me()["name"]


def test_connect_starts_a_demo_server_of_its_own(monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture) -> None:
    for name in ("WORKBENCH_URL", "WORKBENCH_TOKEN", "WORKBENCH_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(connecting, "LOCAL", "http://127.0.0.1:9")
    client = wb.connect()
    process = client._process
    assert process is not None and process.running
    assert "demo server" in capsys.readouterr().err
    wait_until(lambda: len(client.markets()) == len(demo_candles()))
    client.close()
    assert not process.running and not Path(process.data_dir).exists()


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    client = wb.connect(server.url, server.token)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.me()
