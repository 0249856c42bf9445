"""Whole runs: tables, provenance, warnings, edges."""

import os
import subprocess
import sys

import numpy as np
import orjson
import pyarrow.feather as feather
import pytest

from engine import result as results
from engine import simulate, strategies
from engine.candle_store import CandleStore
from engine.errors import Cancelled, Invalid, NotFound
from engine.reporter import Reporter
from engine.result import TABLES
from engine.spec import BacktestSpec
from tests.engine.market_fakes import DAY, FIRST, MemoryStore, bars, walk

MARKET = "demo:AAA/USD"


def spec(**more):
    return BacktestSpec(**({"strategy": "sma_cross", "markets": (MARKET,), "params": {"fast": 3, "slow": 8}} | more))


def codes(result):
    return [entry["code"] for entry in result.warnings]


def same(one, two):
    assert one.tables.keys() == two.tables.keys()
    for name, table in one.tables.items():
        assert table.keys() == two.tables[name].keys()
        for key, column in table.items():
            np.testing.assert_array_equal(column, two.tables[name][key], err_msg=f"{name}.{key}", strict=True)
    assert (one.metrics, one.warnings, one.logs) == (two.metrics, two.warnings, two.logs)
    assert one.provenance == two.provenance


class Ear(Reporter):
    def __init__(self, cancel_at=2.0):
        self.heard, self.lines, self.cancel_at = [], [], cancel_at

    def progress(self, fraction, message=""):
        self.heard.append((fraction, message))
        if fraction >= self.cancel_at:
            raise Cancelled("stop")

    def log(self, message):
        self.lines.append(message)


def test_a_run_from_the_store_to_the_files_and_back(tmp_path):
    store = CandleStore(tmp_path / "candles")
    store.write(walk(300, seed=1))
    made = simulate.run(spec(), store)
    for name, columns in TABLES.items():
        assert set(columns) <= set(made.tables[name])
        assert len({len(column) for column in made.tables[name].values()}) == 1
    assert made.tables["indicators"].keys() >= {"fast", "slow"}
    assert made.metrics["trades"] > 5 and made.metrics["fills"] == len(made.tables["fills"]["time"])
    made.save(tmp_path / "run")
    again = results.load(tmp_path / "run")
    for name, table in made.tables.items():
        for key, column in table.items():
            np.testing.assert_array_equal(again.tables[name][key], column)
    orjson.dumps(made.summary())


@pytest.mark.parametrize("name", [name for name in strategies.names() if name != "gekko_noop"])
def test_every_strategy_runs_and_runs_again_the_same(name):
    markets = [walk(260, seed=s, key=f"demo:M{s}/USD") for s in range(3)]
    store = MemoryStore(*markets)
    params = {"macd_up": 0, "macd_down": 0} if name == "gekko_tulip_multi" else {}
    asked = BacktestSpec(strategy=name, params=params, markets=tuple(each.market.key for each in markets),
                         direction="both")
    first = simulate.run(asked, store)
    same(first, simulate.run(asked, store))
    assert first.metrics["fills"] > 0


def test_provenance_says_what_ran():
    candles = walk(100)
    made = simulate.run(spec(costs={"fee_rate": 0.001}, seed=7, params={"fast": 4}), MemoryStore(candles)).provenance
    assert made["strategy"]["params"] == {"fast": 4, "slow": 50}
    assert made["strategy"]["source_sha256"] == strategies.get("sma_cross").source_hash()
    assert made["data"][0]["sha256"] == candles.fingerprint() and made["data"][0]["rows"] == 100
    assert made["data"][0]["first"] == "2020-01-01T00:00:00.000000Z"
    assert {"engine", "numpy", "vectorbt", "numba", "pandas"} <= set(made["versions"])
    assert made["vectorbt_engine"] == "rust" and made["seed"] == 7 and made["costs"]["fee_rate"] == 0.001
    assert "365" in made["annualisation"]
    other = simulate.run(spec(params={"fast": 4}), MemoryStore(walk(100, seed=2))).provenance
    assert other["data"][0]["sha256"] != made["data"][0]["sha256"]


def test_progress_comes_in_order_and_stops_a_cancelled_run(monkeypatch):
    monkeypatch.setattr("engine.advice.CHUNK", 50)
    store = MemoryStore(walk(300))
    ear = Ear()
    simulate.run(spec(), store, ear)
    fractions = [fraction for fraction, _ in ear.heard]
    assert fractions == sorted(fractions) and len(fractions) > 8
    assert [said for said in ear.heard if said in ((0.1, "Initializing real engine"), (0.3, "Loading market data"),
                                                   (0.95, "Collecting engine results"))] == [ear.heard[0], ear.heard[1],
                                                                                             ear.heard[-1]]
    assert ear.lines
    stopped = Ear(cancel_at=0.5)
    with pytest.raises(Cancelled):
        simulate.run(spec(), store, stopped)
    assert stopped.heard[-1][0] < 0.7


def test_few_trades_a_short_range_and_absurd_returns_are_said():
    told = codes(simulate.run(spec(strategy="buy_and_hold", params={}), MemoryStore(bars(1.05 ** np.arange(60)))))
    assert {"few_trades", "short_range", "unrealistic_return"} <= set(told)
    calm = codes(simulate.run(spec(params={"fast": 2, "slow": 3}), MemoryStore(walk(800, drift=0))))
    assert calm == []


def test_holes_are_named_or_refused():
    days = np.delete(np.arange(200), [50, 51, 52, 120])
    candles = bars(100 + np.sin(np.arange(196)), times=days)
    made = simulate.run(spec(), MemoryStore(candles))
    hole = next(entry["message"] for entry in made.warnings if entry["code"] == "data_holes")
    assert "4 bars missing in 2 holes" in hole and "3 from 2020-02-20" in hole
    with pytest.raises(Invalid, match="2020-02-20") as caught:
        simulate.run(spec(data_mode="fail"), MemoryStore(candles))
    assert caught.value.field == "data_mode"


def test_fills_right_after_a_hole_and_without_volume_are_counted():
    opens = np.full(40, 10.0)
    candles = bars(opens, times=np.delete(np.arange(41), 1))
    hold = spec(strategy="buy_and_hold", params={})
    assert "fills_after_gaps" in codes(simulate.run(hold, MemoryStore(candles)))
    candles.volume[1] = 0
    assert "zero_volume_fills" in codes(simulate.run(hold, MemoryStore(candles)))
    candles.volume[:] = 0  # a market without volumes at all, as currencies are
    assert "zero_volume_fills" not in codes(simulate.run(hold, MemoryStore(candles)))


def test_bars_without_a_price_are_left_out_or_refused():
    candles = bars([10, 11, 0, 12, 13])
    made = simulate.run(spec(strategy="buy_and_hold", params={}), MemoryStore(candles))
    assert "bad_bars" in codes(made) and len(made.tables["equity"]["time"]) == 4
    with pytest.raises(Invalid, match="price of zero or less"):
        simulate.run(spec(data_mode="fail"), MemoryStore(candles))
    with pytest.raises(Invalid, match="no bar with usable prices"):
        simulate.run(spec(), MemoryStore(bars([0.0, -1.0])))


def test_bars_whose_extremes_cannot_be_are_named_or_refused():
    candles = bars([10, 11, 12, 13, 14], spread=0.01)
    candles.high[1], candles.low[3] = 5, 15
    hold = spec(strategy="buy_and_hold", params={})
    made = simulate.run(hold, MemoryStore(candles))
    said = next(entry["message"] for entry in made.warnings if entry["code"] == "impossible_bars")
    assert "2 bars with a high below or a low above" in said and "2020-01-02" in said
    assert len(made.tables["equity"]["time"]) == 5
    with pytest.raises(Invalid, match="2 bars with a high below") as caught:
        simulate.run(hold.model_copy(update={"data_mode": "fail"}), MemoryStore(candles))
    assert caught.value.field == "markets"
    sound = bars([10, 11, 12, 13, 14], spread=0.01)
    assert "impossible_bars" not in codes(simulate.run(hold, MemoryStore(sound)))


def test_a_warm_up_longer_than_the_data_is_said():
    assert "warm_up" in codes(simulate.run(spec(params={"fast": 10, "slow": 50}), MemoryStore(walk(50))))
    assert "warm_up" not in codes(simulate.run(spec(params={"fast": 10, "slow": 50}), MemoryStore(walk(51))))


def test_one_bar_and_no_trades():
    made = simulate.run(spec(), MemoryStore(bars([10.0])))
    assert made.metrics["total_return"] == 0 and made.metrics["trades"] == 0 and made.metrics["sharpe"] is None
    assert made.tables["equity"]["value"].tolist() == [100_000.0]
    assert all(len(made.tables["roundtrips"][key]) == 0 for key in TABLES["roundtrips"])


def test_an_empty_range_and_unknown_markets_are_refused():
    store = MemoryStore(walk(10))
    with pytest.raises(Invalid, match="no bars in this range"):
        simulate.run(spec(start="2030-01-01"), store)
    with pytest.raises(NotFound):
        simulate.run(spec(markets=("demo:NONE/USD",)), store)
    with pytest.raises(Invalid) as caught:
        simulate.run(spec(markets=(MARKET, "demo:B/USD", "demo:C/USD")), store)
    assert len(caught.value.problems) == 2
    with pytest.raises(Invalid, match="csv"):
        simulate.run(spec(source="csv"), store)


def test_a_market_that_begins_late_trades_from_its_beginning():
    early = walk(120, seed=1)
    late = walk(60, seed=2, key="demo:BBB/USD", first=FIRST + 60 * DAY)
    made = simulate.run(spec(markets=(MARKET, "demo:BBB/USD")), MemoryStore(early, late))
    assert len(made.tables["equity"]["time"]) == 120 and np.isfinite(made.tables["equity"]["value"]).all()
    own = made.tables["fills"]["time"][made.tables["fills"]["symbol"] == "demo:BBB/USD"]
    assert len(own) and own.min() > FIRST + 60 * DAY


def test_huge_and_tiny_prices():
    for scale in (1e-8, 1e12):
        candles = walk(200, seed=4)
        scaled = bars(candles.open * scale, candles.close * scale)
        plain, other = (simulate.run(spec(), MemoryStore(each)) for each in (bars(candles.open, candles.close), scaled))
        assert other.metrics["total_return"] == pytest.approx(plain.metrics["total_return"], rel=1e-9)


def test_five_hundred_markets():
    candles = [walk(60, seed=s, key=f"demo:M{s}/USD") for s in range(500)]
    made = simulate.run(spec(markets=tuple(each.market.key for each in candles)), MemoryStore(*candles))
    assert made.metrics["fills"] > 500 and len(made.tables["positions"]["time"]) == 30_000


def test_a_portfolio_strategy_shows_one_line_for_all():
    candles = [walk(100, seed=s, key=f"demo:M{s}/USD") for s in range(3)]
    made = simulate.run(spec(strategy="momentum_rotation", params={"lookback": 5, "top": 1, "every": 5},
                             markets=tuple(each.market.key for each in candles)), MemoryStore(*candles))
    assert len(made.tables["indicators"]["breadth"]) == 100 and set(made.tables["indicators"]["symbol"]) == {""}
    assert made.tables["equity"]["gross"][-1] <= made.tables["equity"]["value"][-1] * (1 + 1e-9)


def test_a_benchmark_that_is_not_there_is_named():
    store = MemoryStore(walk(50), bars([0.0, 5.0, 10.0], key="demo:LOW/USD"),
                        bars([5.0], key="demo:LATE/USD", times=[90]))
    with pytest.raises(NotFound) as caught:
        simulate.run(spec(benchmark="demo:NONE/USD"), store)
    assert caught.value.field == "benchmark"
    with pytest.raises(Invalid, match="no bar in the run's range"):
        simulate.run(spec(benchmark="demo:LATE/USD"), store)
    curve = simulate.run(spec(benchmark="demo:LOW/USD"), store).tables["equity"]["benchmark"]
    assert curve[0] == curve[1] == 100_000 and curve[-1] == 200_000


def test_a_column_of_several_tables_is_kept_once(tmp_path):
    made = simulate.run(spec(), MemoryStore(walk(300, key=MARKET)))
    made.save(tmp_path)
    assert made.tables["indicators"]["time"] is made.tables["equity"]["time"]
    assert feather.read_table(tmp_path / "indicators.arrow").column_names == ["symbol", "fast", "slow"]
    for name, columns in made.tables.items():
        assert results.read_table(tmp_path, name).column_names == list(columns)
    kept = results.read_table(tmp_path, "positions", ["value", "symbol"])
    assert kept.column_names == ["value", "symbol"] and kept.num_rows == 300
    np.testing.assert_array_equal(kept["value"].to_numpy(), made.tables["positions"]["value"])
    np.testing.assert_array_equal(results.load(tmp_path).tables["positions"]["time"], made.tables["equity"]["time"])


def test_a_new_process_finds_the_compiled_steps_on_disk(tmp_path):
    code = ("from engine.advice import _walk_market; from engine import strategies; strategies.get('rsi').load();"
            "print(sum(_walk_market.compiled.stats.cache_hits.values()))")
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}).stdout.strip() for _ in range(2)]
    assert told == ["0", "1"]
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert list(tmp_path.rglob("*rsi*.nbi"))
