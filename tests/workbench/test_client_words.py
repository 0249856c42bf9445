"""From the words of a call to JSON, and from answers to frames."""

import subprocess
import sys
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

import workbench
from engine.errors import Invalid, NotFound
from engine.model import Market
from engine.spec import BacktestSpec
from workbench import cards, frames, requests
from workbench.commands import value_of, words_of


def test_every_public_name_is_there_and_documented() -> None:
    for name in workbench.__all__:
        value = getattr(workbench, name)
        error = isinstance(value, type) and issubclass(value, Exception)  # those the module's docstring explains
        assert name == "__version__" or error or value.__doc__, name
    assert set(workbench.__all__) <= set(dir(workbench))
    for name in workbench.__all__:
        if isinstance(getattr(workbench, name), type) and issubclass(getattr(workbench, name), Exception):
            assert name in workbench.__doc__, f"the module's docstring does not explain {name}"


def test_importing_workbench_loads_nothing_heavy() -> None:
    code = ("import sys, workbench; heavy = {'pandas', 'panel', 'numpy', 'httpx', 'bokeh', 'pyarrow', 'pydantic'}; "
            "print(sorted(heavy & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_pages_draw_nothing_before_somebody_looks_at_a_chart() -> None:
    code = ("import sys; from workbench.views import shell; shell.prepare(); "
            "print(sorted({'pandas', 'holoviews', 'pyarrow', 'numba'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_a_first_chart_imports_can_be_loaded_before_somebody_looks_at_one() -> None:
    code = ("import asyncio, sys; from workbench.page_server import Pages; asyncio.run(Pages.warm_charts(None)); "
            "print(sorted({'pandas', 'holoviews'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['holoviews', 'pandas']\n", done.stderr


def test_words_find_their_place() -> None:
    body = requests.backtest_body("sma_cross", "demo:AAPL/USD", fast=10, slow=50, start=date(2005, 1, 3),
                                  end=pd.Timestamp("2006-01-01", tz="UTC"), fee_rate=0.001, slippage=None, sizing=0.5,
                                  cash=50_000, benchmark=Market("demo", "IBM", "USD"), params={"cash": 1})
    spec = BacktestSpec.read(body)
    assert spec.params == {"fast": 10, "slow": 50, "cash": 1}
    assert (spec.start, spec.end) == ("2005-01-03T00:00:00.000000Z", "2006-01-01T00:00:00.000000Z")
    assert (spec.costs.fee_rate, spec.costs.slippage, spec.cash) == (0.001, 0.0, 50_000)
    assert (spec.sizing.kind, spec.sizing.value, spec.benchmark) == ("fraction", 0.5, "demo:IBM/USD")


def test_no_market_is_a_clear_error() -> None:
    with pytest.raises(Invalid, match=r"market: no market was given"):
        requests.backtest_body("sma_cross")


def test_short_market_names_are_completed_or_explained() -> None:
    known = ["demo:AAPL/USD", "x:IBM/USD", "y:IBM/EUR"]
    assert requests.full_key("aapl", known) == "demo:AAPL/USD"
    assert requests.full_key("IBM/EUR", known) == "y:IBM/EUR"
    with pytest.raises(NotFound, match="x:IBM/USD, y:IBM/EUR"):
        requests.full_key("IBM", known)
    with pytest.raises(NotFound, match="demo:AAPL/USD"):
        requests.full_key("TSLA", known)


def test_lists_are_swept_and_single_values_are_not() -> None:
    body = requests.sweep_body("sma_cross", "demo:AAPL/USD", fast=[5, 10], slow=range(20, 60, 20), stop=0.1,
                               cash=1000, threshold=np.array([0.1, 0.2]), objective="calmar")
    assert body["parameters"] == {"fast": [5, 10], "slow": [20, 40], "threshold": [0.1, 0.2]}
    assert body["base"]["params"] == {"stop": 0.1} and body["base"]["cash"] == 1000
    assert body["objective"] == "calmar"
    with pytest.raises(Invalid, match="nothing is swept"):
        requests.sweep_body("sma_cross", "demo:AAPL/USD", fast=5)


def test_words_of_the_command_line() -> None:
    markets, words = words_of(["demo:AAPL/USD", "fast=10", "k=0.5", "on=true", "start=2005", "end=2006-02-01"])
    assert markets == ["demo:AAPL/USD"]
    assert words == {"fast": 10, "k": 0.5, "on": True, "start": "2005-01-01", "end": "2006-02-01"}
    assert value_of("1e-3") == 0.001 and value_of("abc") == "abc"
    with pytest.raises(Invalid, match="NAME=VALUE"):
        words_of(["=3"])


@pytest.mark.parametrize("shape", ["index", "column", "seconds", "milliseconds"])
def test_candles_of_any_shape_become_the_same_arrow(shape: str) -> None:
    at = pd.date_range("2024-01-01", periods=3, freq="D", tz="UTC")
    prices = {"Open": [1.0, 2, 3], "HIGH": [2, 3, 4], "low": [0.5, 1, 2], "Close": [1, 2, 3.5]}
    seconds = at.as_unit("s").asi8
    table = {
        "index": pd.DataFrame(prices, index=at), "column": pd.DataFrame({"Date": at.strftime("%Y-%m-%d"), **prices}),
        "seconds": pd.DataFrame({"start": seconds, **prices}),
        "milliseconds": pd.DataFrame({"timestamp": seconds * 1000, **prices}),
    }[shape]
    columns = frames.of_arrow(frames.arrow_of_candles(table))
    assert columns["time"].tolist() == (seconds * 1_000_000).tolist()
    assert columns["close"].tolist() == [1, 2, 3.5] and columns["volume"].tolist() == [0, 0, 0]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(Invalid, match="no column 'close'"):
        frames.arrow_of_candles({"time": ["2024-01-01"], "open": [1], "high": [1], "low": [1]})
    with pytest.raises(Invalid, match="'open' holds something"):
        frames.arrow_of_candles({"time": ["2024-01-01"], "open": ["x"], "high": [1], "low": [1], "close": [1]})


def test_frames_have_utc_times_and_json_nulls_become_nan() -> None:
    columns = frames.of_json({"columns": {"time": [0, 86_400_000_000], "value": [1, None], "word": ["a", None]}})
    table = frames.frame(columns, "time")
    assert table.index[1] == datetime(1970, 1, 2, tzinfo=UTC)
    assert np.isnan(table["value"].iloc[1]) and table["word"].iloc[0] == "a"


def test_cards_escape_what_people_typed() -> None:
    from engine.model import Run

    run = Run(id="1", kind="backtest", state="failed", progress=0, created_at=datetime.now(UTC),
              name="<script>alert(1)</script>", error="<b>no</b>")
    card = cards.run_card(run, [], "http://127.0.0.1:1/run?id=1")
    assert "<script>" not in card and "<b>no" not in card and "&lt;script&gt;" in card


@pytest.mark.parametrize(("value", "kind", "shown"), [
    (0.1234, "percent", "12.3 %"), (-0.0123, "percent", "−1.23 %"), (None, "ratio", "—"), (float("nan"), "ratio", "—"),
    (12345, "count", "12,345"), (1234.5, "currency", "1,234.50"),
])
def test_figures_for_people(value: float | None, kind: str, shown: str) -> None:
    assert cards.number(value, kind) == shown
