"""The candle store on a real folder: merging, ranges, resampling on read, catalogue, deletion, names."""

from pathlib import Path

import numpy as np
import pytest

from engine import candle_parquet, times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid, NotFound, Unavailable
from engine.model import Market

MARKET = Market("demo", "XBT", "USD")
JANUARY = times.micros(times.parse("2020-01-01"))


def bars(n: int, *, resolution: int = 60, start: int = JANUARY, market: Market = MARKET, base: float = 100.0,
         **extra: np.ndarray) -> Candles:
    close = base + np.arange(n, dtype=float)
    return Candles(market=market, resolution=resolution, time=start + np.arange(n, dtype=np.int64) * resolution * 10**6,
                   open=close - 0.5, high=close + 1, low=close - 1, close=close, volume=np.full(n, 2.0), extra=extra)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path)


def test_what_is_written_is_read_back_exactly_and_writable(store: CandleStore) -> None:
    given = bars(3 * 31 * 1440, vwp=np.random.default_rng(1).normal(size=3 * 31 * 1440))
    report = store.write(given)
    assert (report.added, report.kept, report.replaced, report.files) == (len(given), 0, 0, 4)
    read = store.read(MARKET, 60)
    assert read.fingerprint() == given.fingerprint()
    assert all(column.flags.writeable and column.flags.c_contiguous for column in read.columns().values())
    assert [path.name for path in sorted(store.root.rglob("*.parquet"))] == [f"2020-0{m}.parquet" for m in (1, 2, 3, 4)]


@pytest.mark.parametrize(("resolution", "name"), [(60, "2020-01"), (3599, "2020-01"), (3600, "2020"), (43200, "2020"),
                                                  (86400, "all"), (604800, "all")])
def test_the_period_of_a_file_follows_the_resolution(store: CandleStore, resolution: int, name: str) -> None:
    store.write(bars(2, resolution=resolution))
    assert [path.stem for path in store.root.rglob("*.parquet")] == [name]
    assert [dataset.resolution for dataset in store.datasets()] == [resolution]


def test_an_existing_bar_wins_unless_told_otherwise(store: CandleStore) -> None:
    store.write(bars(10))
    other = bars(6, start=JANUARY + 6 * times.MINUTE, base=500)
    report = store.write(other)
    assert (report.added, report.kept, report.replaced) == (2, 4, 0)
    assert store.read(MARKET, 60).close.tolist() == [*range(100, 110), 504, 505]
    report = store.write(other, overwrite=True)
    assert (report.added, report.kept, report.replaced) == (0, 2, 4)
    assert store.read(MARKET, 60).close.tolist() == [*range(100, 106), *range(500, 506)]
    before = store.stamp(MARKET)
    assert store.write(other, overwrite=True).files == 0
    assert store.stamp(MARKET) == before


def test_ranges_are_inclusive_at_both_ends(store: CandleStore) -> None:
    store.write(bars(10))
    read = store.read(MARKET, 60, JANUARY + 2 * times.MINUTE, JANUARY + 4 * times.MINUTE)
    assert read.close.tolist() == [102, 103, 104]


def test_a_missing_resolution_is_made_of_whole_buckets(store: CandleStore) -> None:
    store.write(bars(60))
    read = store.read(MARKET, 300, JANUARY + times.MINUTE, JANUARY + 12 * times.MINUTE)
    assert ((read.time - JANUARY) // times.MINUTE).tolist() == [5, 10]
    assert read.volume.tolist() == [10, 10]
    assert read.close.tolist() == [109, 114]


def test_a_resolution_is_made_from_the_one_that_covers_the_range(store: CandleStore) -> None:
    store.write(bars(24 * 30, resolution=3600))
    store.write(bars(120, start=JANUARY + 10 * times.DAY))
    assert store.source(MARKET, 86400) == 3600
    assert store.source(MARKET, 7200, JANUARY + 10 * times.DAY, JANUARY + 10 * times.DAY + times.HOUR) == 60
    assert store.source(MARKET, 3600) == 3600
    with pytest.raises(Invalid) as caught:
        store.read(MARKET, 90)
    assert caught.value.field == "resolution" and "1m, 1h" in caught.value.remedy


def test_nothing_in_a_range_says_what_is_there(store: CandleStore) -> None:
    store.write(bars(10))
    with pytest.raises(Invalid) as caught:
        store.read(MARKET, 60, end=JANUARY - 1)
    assert caught.value.field == "end" and "2020-01-01T00:00:00Z to 2020-01-01T00:09:00Z" in caught.value.remedy
    with pytest.raises(Invalid) as caught:
        store.read(MARKET, 60, start=JANUARY + times.DAY)
    assert caught.value.field == "start"
    with pytest.raises(Invalid, match="after the end"):
        store.read(MARKET, 60, JANUARY + 2, JANUARY)


def test_an_unknown_market_is_told_with_near_names(store: CandleStore) -> None:
    store.write(bars(3, market=Market("demo", "AAPL", "USD")))
    with pytest.raises(NotFound, match="demo:AAPL/USD"):
        store.resolve("demo:APPL/USD")
    with pytest.raises(NotFound, match="demo:AAPL/USD"):
        store.read(Market("demo", "APL", "USD"), 60)


def test_a_bare_name_is_enough_when_it_is_unique(store: CandleStore) -> None:
    for exchange in ("demo", "other"):
        store.write(bars(3, market=Market(exchange, "AAPL", "USD")))
    store.write(bars(3, market=Market("demo", "IBM", "USD")))
    ibm = Market("demo", "IBM", "USD")
    assert store.resolve("IBM") == store.resolve("ibm/usd") == store.resolve("demo:IBM/USD") == ibm
    with pytest.raises(Invalid, match="demo:AAPL/USD, other:AAPL/USD"):
        store.resolve("AAPL")


def test_markets_whose_names_run_together_stay_apart(store: CandleStore) -> None:
    first, second = Market("x", "BTC-PERP", "USD"), Market("x", "BTC", "PERP-USD")
    store.write(bars(3, market=first))
    store.write(bars(5, market=second))
    assert len(store.read(first, 60)) == 3 and len(store.read(second, 60)) == 5
    assert store.markets() == [second, first]


def test_datasets_come_from_footers(store: CandleStore) -> None:
    store.write(bars(31 * 1440 + 5))
    (dataset,) = store.datasets()
    assert (dataset.market, dataset.resolution, dataset.rows, dataset.files) == (MARKET, 60, 31 * 1440 + 5, 2)
    assert (dataset.first, dataset.last) == (JANUARY, JANUARY + (31 * 1440 + 4) * times.MINUTE)
    assert dataset.bytes == sum(path.stat().st_size for path in store.root.rglob("*.parquet"))


def test_a_footer_is_the_same_whichever_way_it_is_read(store: CandleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(bars(31 * 1440 + 5, vwp=np.arange(31 * 1440 + 5.0)))
    paths = sorted(str(path) for path in store.root.rglob("*.parquet"))
    quick = [candle_parquet.read_footer(path, (0, 0, 0)) for path in paths]
    assert all(candle_parquet._noted(path) for path in paths)
    monkeypatch.setattr(candle_parquet, "_noted", lambda path: {})
    assert [candle_parquet.read_footer(path, (0, 0, 0)) for path in paths] == quick
    assert [footer.rows for footer in quick] == [31 * 1440, 5]


def test_another_stores_writes_are_seen(store: CandleStore) -> None:
    other = CandleStore(store.root)
    store.write(bars(5))
    assert other.datasets()[0].rows == 5
    store.write(bars(7))
    assert other.datasets()[0].rows == 7


def test_deletion_takes_one_resolution_or_all(store: CandleStore) -> None:
    store.write(bars(5))
    store.write(bars(5, resolution=3600))
    assert store.delete(MARKET, 60) == 5
    assert [dataset.resolution for dataset in store.datasets()] == [3600]
    with pytest.raises(NotFound, match="not stored at 1m"):
        store.delete(MARKET, 60)
    assert store.delete(MARKET) == 5
    assert store.markets() == [] and not list(store.root.rglob("*.parquet"))
    with pytest.raises(NotFound):
        store.delete(MARKET, 60)


def test_extra_columns_of_different_uploads_meet_with_nan(store: CandleStore) -> None:
    store.write(bars(2, vwp=np.array([1.0, 2.0])))
    store.write(bars(3, trades=np.array([7.0, 8.0, 9.0])))
    read = store.read(MARKET, 60)
    np.testing.assert_array_equal(read.extra["vwp"], [1, 2, np.nan])
    np.testing.assert_array_equal(read.extra["trades"], [np.nan, np.nan, 9])


def test_a_damaged_file_is_named_and_does_not_hide_the_rest(store: CandleStore) -> None:
    store.write(bars(5))
    store.write(bars(5, market=Market("demo", "IBM", "USD")))
    (file,) = (store.root / "demo" / "XBT+USD").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20] + b"x" * 20)
    assert [dataset.market.asset for dataset in store.datasets()] == ["IBM"]
    with pytest.raises(Unavailable, match=r"XBT\+USD/1m/2020-01.parquet"):
        store.write(bars(6))
    assert file.exists()


def test_a_file_from_elsewhere_in_the_folder_is_no_candle_file(store: CandleStore) -> None:
    store.write(bars(5))
    (store.root / "demo" / "XBT+USD" / "1m" / "notes.parquet").write_text("x")
    (store.root / "demo" / "README").write_text("x")
    (store.root / "demo" / "no-pair").mkdir()
    assert store.datasets()[0].rows == len(store.read(MARKET, 60)) == 5


def test_a_file_written_again_while_it_is_read_is_read_anew(store: CandleStore,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(bars(90))
    whole = candle_parquet.chunks_of
    written: list[int] = []

    def meanwhile(path: Path) -> candle_parquet.Chunks:
        if not written:  # the footer said 90 bars
            written.append(90)
            written.append(CandleStore(store.root).write(bars(120)).added)
        return whole(path)

    monkeypatch.setattr(candle_parquet, "chunks_of", meanwhile)
    assert len(store.read(MARKET, 60)) == 120 and written == [90, 30]


def test_a_column_that_only_some_files_have_is_nan_elsewhere(store: CandleStore) -> None:
    january = 31 * 1440
    store.write(bars(january))
    store.write(bars(100, start=JANUARY + january * 60 * 10**6, trades=np.arange(100.0)))
    trades = store.read(MARKET, 60).extra["trades"]
    assert [dataset.files for dataset in store.datasets()] == [2]
    assert np.isnan(trades[:january]).all() and (trades[january:] == np.arange(100)).all()
