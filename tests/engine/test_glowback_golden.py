"""Runs of the GlowBack engine itself, repeated here: every figure to 1e-6."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from engine.candle_store import CandleStore
from engine.errors import Invalid
from engine.fills.glowback import figures_of
from engine.reporter import Reporter
from engine.result import load, read_table
from engine.simulate import run
from engine.spec import BacktestSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "glowback"
CASES: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "cases.json.gz").read_bytes()))


class Notes(Reporter):
    def __init__(self) -> None:
        self.logs: list[str] = []
        self.metrics: dict[str, float] = {}

    def log(self, message: str) -> None:
        self.logs.append(message)

    def metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


def spec_of(request: dict[str, Any], **changes: Any) -> BacktestSpec:
    return BacktestSpec(**{
        "strategy": request["strategy"]["name"], "params": request["strategy"]["params"], "fill_model": "glowback",
        "markets": [f"csv:{symbol}/USD" for symbol in request["symbols"]], "resolution": request["resolution"],
        "start": request["start_date"], "end": request["end_date"], "cash": request["initial_capital"],
        "data_mode": request["data_quality_mode"], "source": "csv", "source_path": str(GOLDEN / "csv"),
        "fill_options": {**request["execution"], "symbols": request["symbols"]}} | changes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "result" in case])
def test_a_run_equals_the_original_engines(name: str, tmp_path: Path) -> None:
    case, notes = CASES[name], Notes()
    expected = case["result"]
    run(spec_of(case["request"]), CandleStore(tmp_path / "candles"), notes).save(tmp_path / "result")
    result = load(tmp_path / "result")
    report = result.extra["glowback"]
    assert report["metrics_summary"] == pytest.approx(expected["metrics_summary"], rel=1e-6)
    assert report["logs"] == expected["logs"] == notes.logs
    assert report["bar_counts"] == expected["manifest_dataset"]
    assert report["final_cash"] == pytest.approx(expected["final_cash"], rel=1e-6)
    assert report["final_positions"] == pytest.approx(expected["final_positions"], rel=1e-6)
    assert notes.metrics["sharpe_ratio"] == report["metrics_summary"]["sharpe_ratio"]
    curve = read_table(tmp_path / "result", "glowback_curve")
    for column in ("value", "cash", "positions"):
        assert curve[column].to_pylist() == pytest.approx(expected["equity_curve"][column], rel=1e-6)
    fills = read_table(tmp_path / "result", "glowback_fills").to_pylist()
    assert len(fills) == len(expected["trades"])
    for fill, trade in zip(fills, expected["trades"], strict=True):
        assert ("BUY" if fill["side"] > 0 else "SELL", fill["symbol"]) == (trade["action"], trade["symbol"])
        assert (fill["quantity"], fill["price"], fill["fee"]) == pytest.approx(
            (trade["shares"], trade["price"], trade["commission"]), rel=1e-6)
    assert result.metrics["total_return"] == pytest.approx(expected["metrics_summary"]["total_return"] / 100, rel=1e-6)
    assert result.metrics["fills"] == len(fills)


def test_figures_alone_are_those_of_the_whole_run(tmp_path: Path) -> None:
    case = CASES["rsi__multi_default"]
    figures, _ = figures_of(spec_of(case["request"]), CandleStore(tmp_path), Reporter())
    assert figures == pytest.approx(case["result"]["metrics_summary"], rel=1e-6)


def test_a_missing_symbol_fails_in_the_originals_words(tmp_path: Path) -> None:
    case = CASES["bh__missing_symbol"]
    with pytest.raises(Invalid) as caught:
        run(spec_of(case["request"]), CandleStore(tmp_path), Reporter())
    assert str(caught.value) == case["error"]


def failure(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(Invalid) as caught:
        run(spec_of(CASES["bh__dupe_warn"]["request"], **changes), CandleStore(tmp_path), Reporter())
    return str(caught.value)


START_UP = "Backtest execution failed: Backtest error: Engine initialization failed: "


def test_mode_fail_rejects_data_with_duplicates_and_broken_bars(tmp_path: Path) -> None:
    assert failure(tmp_path, data_mode="fail") == (
        START_UP + "data quality mode 'fail' rejected the dataset: NASDAQ:DUPE: Detected 3 duplicate timestamp rows "
        "for NASDAQ:DUPE. | Detected 1 rows with invalid OHLC relationships for NASDAQ:DUPE.")


def test_an_unknown_strategy_names_the_known_ones(tmp_path: Path) -> None:
    assert failure(tmp_path, strategy="magic") == (
        "Unsupported strategy. Use one of: buy_and_hold, ma_crossover, momentum, mean_reversion, rsi, covered_call.")


def test_csv_without_a_folder_fails(tmp_path: Path) -> None:
    assert failure(tmp_path, source_path=None) == "csv_data_path is required when data_source='csv'"


def test_a_range_without_rows_fails(tmp_path: Path) -> None:
    assert failure(tmp_path, start="2019-01-01", end="2019-02-01") == (
        START_UP + "failed to load required market data: NASDAQ:DUPE: no data available in range "
        "2019-01-01T00:00:00+00:00 to 2019-02-01T00:00:00+00:00")


@pytest.mark.parametrize(("changes", "said"), [
    ({"fill_options": {"symbols": ["DUPE"], "resolution": "tick"}}, "Invalid resolution: tick"),
    ({"fill_options": {"symbols": ["DUPE"], "latency_ms": -1}}, "latency_ms"),
    ({"fill_options": {"symbols": ["DUPE"], "start": "2023-02-01", "end": "2023-01-01"}}, "end_date"),
    ({"strategy": "ma_crossover", "params": {"short_period": 0}}, "short_period"),
    ({"strategy": "ma_crossover", "params": {"long_period": "many"}}, "long_period"),
    ({"strategy": "rsi", "params": {"lookback_period": -3}}, "lookback_period"),
    ({"strategy": "momentum", "fill_options": {"symbols": ["DUPE"], "strategy_params": {"momentum_threshold": [1]}}},
     "momentum_threshold")])
def test_what_cannot_run_fails_and_names_the_field(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in failure(tmp_path, **changes)


def test_a_run_of_the_store_needs_nothing_but_its_markets(tmp_path: Path) -> None:
    from engine.sources import dataset

    store = CandleStore(tmp_path)
    case = CASES["rsi__ALFA_default"]
    spec = spec_of(case["request"])
    found = dataset("csv", "ALFA", resolution=86_400, start=spec.start_micros or 0, end=spec.end_micros or 0,
                    folder=GOLDEN / "csv")
    store.write(found.candles)
    plain = BacktestSpec(strategy="rsi", markets=["csv:ALFA/USD"], cash=100_000, fill_model="glowback",
                         end="2024-11-29T23:59:59Z")
    report = run(plain, store, Reporter()).extra["glowback"]
    assert report["metrics_summary"] == pytest.approx(case["result"]["metrics_summary"], rel=1e-6)
