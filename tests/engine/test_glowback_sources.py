"""CSV files and made sample data, and what is said about their quality."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid
from engine.model import Market
from engine.sources import Dataset, NoData, dataset, four_decimals, load
from engine.spec import BacktestSpec

START, END = (times.micros(times.parse(text)) for text in ("2023-01-01", "2023-12-31"))
HEAD = "timestamp,open,high,low,close,volume\n"


def read(folder: Path, text: str | None = None, *, symbol: str = "X", resolution: int = 86_400, start: int = START,
         root: Path | None = None) -> Dataset:
    if text is not None:
        (folder / f"{symbol}_1d.csv").write_text(text)
    return dataset("csv", symbol, resolution=resolution, start=start, end=END, folder=folder, root=root)


@given(st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20))
def test_prices_are_cut_to_four_decimals_of_their_exact_value(prices: list[float]) -> None:
    expected = []
    for price in prices:
        size = int(abs(Fraction(price)) * 10_000)
        expected.append((size if price >= 0 else -size) / 10_000)
    assert four_decimals(np.array(prices)).tolist() == expected


def test_a_price_just_below_its_decimal_loses_a_ten_thousandth() -> None:
    assert four_decimals(np.array([244.41, -244.41, 0.5])).tolist() == [244.4099, -244.4099, 0.5]


@pytest.mark.parametrize("row", ["2023-03-01", "2023-03-01 00:00:00", "2023-03-01T00:00:00Z",
                                 "2023-03-01T01:00:00+01:00", "2023-03-01t00:00:00.000z", " 2023-03-01 "])
def test_times_come_in_several_forms(tmp_path: Path, row: str) -> None:
    found = read(tmp_path, HEAD + f"{row},1,2,0.5,1.5,1000.9\n")
    assert found.candles.time.tolist() == [times.micros(times.parse("2023-03-01"))]
    assert found.candles.volume.tolist() == [1000.0]


@pytest.mark.parametrize("row", ["2023-03-01T00:00:00,1,2,0.5,1,5", "01/03/2023,1,2,0.5,1,5", "2023-02-30,1,2,0.5,1,5",
                                 "2023-03-01,x,2,0.5,1,5", "2023-03-01,1,2,0.5,,5", "2023-03-01,1,2,0.5,inf,5",
                                 "2023-03-01,1,2,0.5,1", "2023-03-01,1,2,0.5,1,5,6", "2023-03-01,nan,2,0.5,1,5"])
def test_one_bad_row_makes_the_symbol_unusable_and_the_reason_is_kept(tmp_path: Path, row: str) -> None:
    with pytest.raises(NoData) as caught:
        read(tmp_path, HEAD + "2023-02-28,1,2,0.5,1,5\n" + row + "\n")
    assert caught.value.message == ("NASDAQ:X: Data error: No data available for symbol NASDAQ:X in date range "
                                    "2023-01-01T00:00:00+00:00 to 2023-12-31T00:00:00+00:00")
    assert "X_1d.csv" in caught.value.why


def test_columns_may_be_capitalised_in_any_order_with_others_between(tmp_path: Path) -> None:
    found = read(tmp_path, "Volume,Date,Note,Close,Low,High,Open\n7,2023-03-01,hi,1.5,0.5,2,1\n")
    candles = found.candles
    columns = (candles.open, candles.high, candles.low, candles.close, candles.volume)
    assert [float(column[0]) for column in columns] == [1.0, 2.0, 0.5, 1.5, 7.0]
    with pytest.raises(NoData, match="No data available"):
        read(tmp_path, "Date,Open,High,Low,Close\n2023-03-01,1,2,0.5,1\n")


def test_rows_are_sorted_and_of_equal_times_the_last_wins(tmp_path: Path) -> None:
    found = read(tmp_path, HEAD + "2023-03-03,3,4,2,3,5\n2023-03-01,1,2,0.5,1,5\n2023-03-01,2,3,1,2,5\n")
    assert found.candles.close.tolist() == [2.0, 3.0]
    assert (found.quality.total_rows_seen, found.quality.total_bars, found.quality.duplicate_timestamps) == (3, 2, 1)


def test_quality_counts_weekdays_without_bars_and_broken_rows(tmp_path: Path) -> None:
    found = read(tmp_path, HEAD + "2023-03-03,3,4,2,3,5\n"  # a Friday
                 "2023-03-06,3,2,2,3,5\n2023-03-09,-3,4,-4,3,-5\n").quality  # then Monday and Thursday
    assert found.missing_intervals == 2
    assert (found.invalid_ohlcv_rows, found.negative_price_rows, found.negative_volume_rows) == (1, 1, 1)
    assert (found.critical_issue_count, found.warning_issue_count) == (3, 2)
    assert found.warnings == ["Detected 2 missing expected daily intervals for NASDAQ:X."]
    assert len(found.critical_issues) == 3
    assert found.as_json()["has_critical_issues"] is True


def test_hour_files_need_the_daily_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "X_1h.csv").write_text(HEAD + "2023-03-01 05:00:00,1,2,0.5,1,5\n")
    with pytest.raises(NoData, match="No data") as caught:
        read(tmp_path, resolution=3_600)
    assert caught.value.why == "there is no file X_1d.csv"
    found = read(tmp_path, HEAD + "2023-03-01,1,2,0.5,1,5\n", resolution=86_400)
    assert len(found.candles) == 1
    assert times.instant(int(read(tmp_path, resolution=3_600).candles.time[0])).hour == 5


def test_a_known_symbol_without_rows_in_the_range_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="NASDAQ:X: no data available in range 2023-06-01"):
        read(tmp_path, HEAD + "2023-03-01,1,2,0.5,1,5\n", start=times.micros(times.parse("2023-06-01")))


@pytest.mark.parametrize("symbol", ["../csv/X", "a/b", "", "x\0", "a\\b", "y" * 300])
def test_a_symbol_cannot_lead_out_of_the_folder(tmp_path: Path, symbol: str) -> None:
    with pytest.raises(NoData):
        read(tmp_path, symbol=symbol)


def test_a_link_that_leads_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "root", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "X_1d.csv").write_text(HEAD + "2023-03-01,1,2,0.5,1,5\n")
    (folder / "X_1d.csv").symlink_to(other / "X_1d.csv")
    with pytest.raises(NoData) as caught:
        read(folder)
    assert "outside" in caught.value.why
    assert len(read(folder, root=tmp_path).candles) == 1


def test_sample_data_is_the_same_path_for_every_symbol_and_start() -> None:
    first = dataset("sample", "AAPL", resolution=86_400, start=START, end=END)
    later = dataset("sample", "AAPL", resolution=86_400, start=START + 7 * times.DAY, end=END)
    assert first.candles.close[:5].tolist() == [148.74, 148.4128, 149.0658, 148.708, 150.9535]
    assert later.candles.close.tolist() == first.candles.close[:len(later.candles)].tolist()
    assert first.candles.open[0] == 150.0 and first.candles.open[1] == first.candles.close[0]
    coin = dataset("sample", "BTCUSDT", resolution=3_600, start=START, end=START + times.DAY)
    assert (coin.candles.open[0], coin.candles.volume[0], len(coin.candles)) == (45_000.0, 25_000.0, 25)
    assert np.allclose(coin.candles.close[0] / 45_000, first.candles.close[0] / 150)
    assert first.quality.sample_data and first.quality.warning_issue_count == 1
    assert first.quality.invalid_ohlcv_rows > 100


@pytest.mark.parametrize("symbol", ["aapl", "NOPE", "AAPL-USD", ""])
def test_sample_data_knows_few_symbols(symbol: str) -> None:
    with pytest.raises(NoData) as caught:
        dataset("sample", symbol, resolution=86_400, start=START, end=END)
    assert "AAPL" in caught.value.why


def test_too_much_sample_data_is_refused() -> None:
    with pytest.raises(Invalid, match="too many"):
        dataset("sample", "AAPL", resolution=60, start=START, end=START + 20_000 * times.DAY)


def test_the_store_answers_to_a_bare_symbol(tmp_path: Path) -> None:
    store = CandleStore(tmp_path)
    one = np.ones(3)
    store.write(Candles(market=Market("demo", "AAPL", "USD"), resolution=86_400, open=one, high=one, low=one, close=one,
                        volume=one, time=START + np.arange(3, dtype=np.int64) * times.DAY))
    found = dataset("store", "AAPL", resolution=86_400, start=START, end=END, store=store)
    assert found.candles.market.key == "demo:AAPL/USD" and len(found.candles) == 3
    with pytest.raises(NoData, match="No data available"):
        dataset("store", "MSFT", resolution=86_400, start=START, end=END, store=store)
    with pytest.raises(NoData, match="no data available in range"):
        dataset("store", "AAPL", resolution=86_400, start=END, end=END + times.DAY, store=store)


def test_other_fill_models_can_use_these_sources_too(tmp_path: Path) -> None:
    spec = BacktestSpec(strategy="sma_cross", markets=["sample:AAPL/USD", "sample:SPY/USD"], source="sample",
                        start="2023-01-01", end="2023-01-31")
    assert [(each.market.asset, len(each)) for each in load(spec, CandleStore(tmp_path))] == [("AAPL", 31), ("SPY", 31)]
    with pytest.raises(Invalid) as caught:
        load(spec.model_copy(update={"markets": ("sample:AAPL/USD", "sample:NO/USD")}), CandleStore(tmp_path))
    assert [problem.field for problem in caught.value.problems] == ["markets.1"]
