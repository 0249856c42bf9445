"""Candles out of CSV, Parquet, Arrow and JSON as people really have them; faults named by line and column."""

import gzip
import io
import json
import time as clock
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import times
from engine.candle_columns import Target
from engine.candle_files import FORMATS, NotJson, arrow_stream, csv_text, import_file, read_bytes, read_file
from engine.candle_store import CandleStore
from engine.candles import FIELDS, Candles
from engine.errors import Invalid, NotFound, TooLarge, WorkbenchError
from engine.model import Market

TARGET = Target(exchange="demo", asset="XBT", currency="USD")


def micros(*texts: str) -> list[int]:
    return [times.micros(times.parse(text)) for text in texts]


def one(text: str | bytes, form: str = "csv", target: Target = TARGET, **how: object) -> Candles:
    data = text if isinstance(text, bytes) else text.encode()
    (candles,) = read_bytes(data, form, target, **how)  # type: ignore[arg-type]
    return candles


DAYS = micros("2020-01-02", "2020-01-03")
MINUTES = micros("2020-01-02T09:30", "2020-01-02T09:31")
CSV = {
    "gekko": ("start,open,high,low,vwp,close,volume,trades\n1577957400,1,3,0.5,1.2,2,10,4\n1577957460,2,3,1,,2,0,0\n",
              MINUTES),
    "milliseconds": ("timestamp,open,high,low,close,volume\n1577957400000,1,3,.5,2,10\n1577957460000,2,3,1,2,0\n",
                     MINUTES),
    "microseconds": ("time,o,h,l,c,v\n1577957400000000,1,3,.5,2,10\n1577957460000000,2,3,1,2,0\n", MINUTES),
    "nanoseconds": ("ts,o,h,l,c,v\n1577957400000000000,1,3,.5,2,10\n1577957460000000000,2,3,1,2,0\n", MINUTES),
    "fractions of seconds": ("time,o,h,l,c,v\n1577957400.0,1,3,.5,2,10\n1577957460.0,2,3,1,2,0\n", MINUTES),
    "a finance site": ("Date,Open,High,Low,Close,Adj Close,Volume\n2020-01-02,1,3,.5,2,1,10\n2020-01-03,2,3,1,2,1,0\n",
                       DAYS),
    "bom, semicolons, decimal commas": (
        "\ufeffDate;Open;High;Low;Close;Volume\n02.01.2020;1,0;3,0;0,5;2,0;10\n03.01.2020;2;3;1;2;0\n", DAYS),
    "day first, seen by the 31st": ("date,open,high,low,close,volume\n30/01/2020,1,3,.5,2,10\n31/01/2020,2,3,1,2,0\n",
                                    micros("2020-01-30", "2020-01-31")),
    "month first, newest first": ("date,open,high,low,close,volume\n01/31/2020,2,3,1,2,0\n01/30/2020,1,3,.5,2,10\n",
                                  micros("2020-01-30", "2020-01-31")),
    "a preamble and two times": (
        "https://www.example.com\nunix,date,symbol,open,high,low,close,Volume XBT,Volume USD\n"
        "1577957400,2020-01-02 09:30:00,XBT/USD,1,3,.5,2,10,9\n1577957460,2020-01-02 09:31:00,XBT/USD,2,3,1,2,0,9\n",
        MINUTES),
    "metatrader": ("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\n2020.01.02\t09:30:00\t1\t3\t.5\t2\t10\n"
                   "2020.01.02\t09:31:00\t2\t3\t1\t2\t0\n", MINUTES),
    "compact date and clock": ("date,time,open,high,low,close,vol\n20200102,093000,1,3,.5,2,10\n"
                               "20200102,093100,2,3,1,2,0\n", MINUTES),
    "compact date": ("date,open,high,low,close,vol\n20200102,1,3,.5,2,10\n20200103,2,3,1,2,0\n", DAYS),
    "twelve columns without a header": (
        "1577957400000,1,3,.5,2,10,1577957459999,9,4,1,1,0\n1577957460000,2,3,1,2,0,1577957519999,9,4,1,1,0\n",
        MINUTES),
    "time zones": ("time,open,high,low,close,volume\n2020-01-02T04:30:00-05:00,1,3,.5,2,10\n"
                   "2020-01-02T10:31:00+01:00,2,3,1,2,0\n", MINUTES),
    "thousands and quotes": ('Date,Open,High,Low,Close,Volume\n"Jan 02, 2020","1","3.0",.5,2,"1,0"\n'
                             '"Jan 03, 2020",2,3,1,2,0\n', DAYS),
    "blank lines and spaces": ("\n date , open , high , low , close , volume \n\n2020-01-02, 1 ,3,.5,2,10\n\n"
                               "2020-01-03,2,3,1,2,0\n\n", DAYS),
    "carriage returns": ("date,open,high,low,close,volume\r\n2020-01-02,1,3,.5,2,10\r\n2020-01-03,2,3,1,2,0\r\n", DAYS),
    "the columns in another order": ("volume,close,low,high,open,what,date\n10,2,.5,3,1,x,2020-01-02\n"
                                     "0,2,1,3,2,y,2020-01-03\n", DAYS),
}


@pytest.mark.parametrize("name", CSV)
def test_csv_as_people_have_it(name: str) -> None:
    text, wanted = CSV[name]
    candles = one(text)
    assert candles.time.tolist() == wanted
    assert [getattr(candles, field).tolist() for field in FIELDS] == [[1, 2], [3, 3], [.5, 1], [2, 2], [10, 0]]
    assert candles.resolution == (wanted[1] - wanted[0]) // 10**6


def test_further_columns_come_along_and_may_be_empty() -> None:
    candles = one(CSV["gekko"][0])
    np.testing.assert_array_equal(candles.extra["vwp"], [1.2, np.nan])
    assert candles.extra["trades"].tolist() == [4, 0]


def test_utf16_is_read() -> None:
    assert len(one(CSV["carriage returns"][0].encode("utf-16"))) == 2


def test_a_file_without_volume_has_none() -> None:
    assert one("date,open,high,low,close\n2020-01-02,1,3,.5,2\n2020-01-03,2,3,1,2\n").volume.tolist() == [0, 0]


def test_of_a_time_given_twice_the_last_row_counts() -> None:
    text = "date,open,high,low,close\n2020-01-03,1,1,1,1\n2020-01-02,1,1,1,1\n2020-01-03,2,2,2,2\n"
    assert one(text).close.tolist() == [1, 2]


@pytest.mark.parametrize(("rows", "problems"), [
    ("2020-01-02,1,1,1,1\n2020-01-03,1,x,1,1\n", [("high", "line 3, column high: 'x' is not a finite number")]),
    ("2020-01-02,1,1,1,1\n2020-01-03,1,1,1,\n", [("close", "line 3, column close: nothing is not a finite number")]),
    ("2020-01-02,1,1,1,1\n2020-01-03,1,1\n", [("low", "line 3"), ("close", "line 3")]),
    ("2020-01-02,1,1,1,1\nsoon,1,1,1,1\n", [("time", "line 3, column date: 'soon' is not a time")]),
    ("2020-01-02,1,1,1,1\n\n\n2020-02-30,1,1,1,1\n", [("time", "line 5, column date: '2020-02-30' is not a time")]),
    ("2020-01-02,1,inf,1,1\n2020-01-03,1,1,nan,1\n", [("high", "line 2"), ("low", "line 3")]),
    ("2020-01-02,1,1e999,1,1\n", [("high", "line 2, column high: '1e999'")]),
    ("2020-01-02,1,1_0,1,1\n", [("high", "line 2, column high: '1_0'")]),
    ("2200-01-01,1,1,1,1\n1899-12-31,1,1,1,1\n", [("time", "line 2, column date: '2200-01-01' is not a time"),
                                                  ("time", "line 3, column date: '1899-12-31' is not a time")]),
    ("1577957400,1,1,1,1\n1577957460,1,1,1,1\n1577957520000,1,1,1,1\n1577957580,1,1,1,1\n", [
        ("time", "line 4, column date: '1577957520000' is in another unit of time than the line before"),
        ("time", "line 5, column date: '1577957580' is in another unit")]),
    ("2020-01-02,a,b,c,d\n" * 30, [(name, "line") for name in ("open", "high", "low", "close")] * 5),
])
def test_every_fault_is_named_by_line_and_column(rows: str, problems: list[tuple[str, str]]) -> None:
    with pytest.raises(Invalid) as caught:
        one("date,open,high,low,close\n" + rows)
    found = caught.value.problems
    assert [problem.field for problem in found] == [field for field, _ in problems]
    for problem, (_, message) in zip(found, problems, strict=True):
        assert problem.message.startswith(message) and problem.remedy


@pytest.mark.parametrize(("text", "field", "message"), [
    ("", "", "empty"), ("\n\n", "", "empty"), ("date,open,high,low,close\n", "", "no rows"),
    ("a,b\n1,2\n", "time", "no column for time, open, high, low, close among: a, b"),
    ("date,open\n2020-01-01,1\n", "high", "line 1: no column for high, low, close"),
    ("date,open,high,low,close\n2020-01-02,1,1,1,1\n", "resolution", "fewer than two"),
    ("date,open,high,low,close\n03/04/2020,1,1,1,1\n04/04/2020,1,1,1,1\n", "time", "can be read as"),
    ("start,open,high,low,close\n1.1,1,1,1,1\n1.2,1,1,1,1\n", "resolution", "not bars of a whole number of seconds"),
])
def test_what_cannot_be_understood_says_why(text: str, field: str, message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        one(text)
    assert caught.value.field == field and caught.value.remedy


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_times_in_seconds_and_milliseconds_are_not_mixed_up(form: str) -> None:
    stamps = [1577957400000, 1577957460, 1577957520]
    data = (parquet(table().set_column(0, "start", pa.array(stamps))) if form == "parquet" else
            json.dumps([{"start": each, **dict.fromkeys(FIELDS, 1.0)} for each in stamps]).encode())
    with pytest.raises(Invalid, match="the time of row 2 is in another unit than that of the row before") as caught:
        one(data, form)
    assert caught.value.field == "time" and caught.value.remedy


def test_milliseconds_from_1970_on_are_one_unit() -> None:
    text = "start,open,high,low,close\n" + "".join(f"{86_400_000 * day},1,1,1,1\n" for day in range(19_000))
    candles = one(text)
    assert candles.resolution == 86400 and candles.time[-1] == 18_999 * times.DAY


def test_an_ambiguous_date_is_settled_by_its_format() -> None:
    text = "date,open,high,low,close\n03/04/2020,1,1,1,1\n04/04/2020,1,1,1,1\n"
    assert one(text, time_format="%d/%m/%Y").time.tolist() == micros("2020-04-03", "2020-04-04")


def test_the_resolution_of_a_thin_market_is_seen() -> None:
    minutes = np.flatnonzero(np.random.default_rng(1).random(3000) < 0.3)
    text = "start,open,high,low,close\n" + "".join(f"{1_577_836_800 + 60 * m},1,1,1,1\n" for m in minutes)
    assert one(text).resolution == 60
    assert one(text, resolution="1m").resolution == 60


def test_a_table_of_many_symbols_gives_a_market_each() -> None:
    rows = [f"2020-01-0{day},{symbol},{day},{day},{day},{day},5"
            for day in (2, 3) for symbol in ("IBM", "AAPL", "BTC/EUR")]
    text = ("date,symbol,open,high,low,close,volume\n" + "\n".join(rows)).encode()
    everything = read_bytes(text, "csv", Target(exchange="demo", currency="USD"))
    assert [candles.market.key for candles in everything] == ["demo:AAPL/USD", "demo:BTC/EUR", "demo:IBM/USD"]
    assert all(candles.close.tolist() == [2, 3] for candles in everything)
    (ibm,) = read_bytes(text, "csv", Target(exchange="demo", asset="ibm", currency="USD"))
    assert ibm.market.key == "demo:ibm/USD" and len(ibm) == 2
    with pytest.raises(Invalid, match="AAPL, BTC/EUR, IBM"):
        read_bytes(text, "csv", Target(exchange="demo", asset="MSFT", currency="USD"))
    with pytest.raises(Invalid) as caught:
        read_bytes(text, "csv", Target(exchange="demo"))
    assert caught.value.field == "currency"


def test_adjusting_multiplies_prices_and_divides_volume() -> None:
    text = "date,open,high,low,close,adj close,volume\n2020-01-02,10,12,8,10,5,100\n2020-01-03,5,6,4,5,5,200\n"
    assert one(text).close.tolist() == [10, 5]
    adjusted = one(text, adjusted=True)
    assert (adjusted.high.tolist(), adjusted.volume.tolist()) == ([6, 6], [200, 200])
    with pytest.raises(Invalid, match="no column of adjusted closes"):
        one(CSV["gekko"][0], adjusted=True)


def table(n: int = 3, unit: str = "us", zone: str | None = "UTC") -> pa.Table:
    time = pa.array(np.arange(n) * 60_000_000 + DAYS[0]).cast(pa.timestamp("us")).cast(pa.timestamp(unit, zone))
    return pa.table({"timestamp": time, **{name: pa.array(np.ones(n)) for name in FIELDS}})


def parquet(data: pa.Table, **how: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(data, sink, **how)
    return sink.getvalue()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_parquet_times_of_any_unit_and_zone(unit: str, zone: str | None) -> None:
    candles = one(parquet(table(unit=unit, zone=zone)), "parquet")
    assert candles.time.tolist() == [DAYS[0] + 60_000_000 * k for k in range(3)] and candles.resolution == 60


@pytest.mark.parametrize("time", [
    pa.array([2**62, 2**62 + 60], pa.timestamp("s")), pa.array([2**62, 2**62 + 60_000], pa.timestamp("ms", "UTC")),
    pa.array([2**31 - 2, 2**31 - 1], pa.int32()).cast(pa.date32())])
def test_times_too_far_away_to_count_in_microseconds_are_refused(time: pa.Array) -> None:
    data, sink = table(2).set_column(0, "timestamp", time), io.BytesIO()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    with pytest.raises(Invalid, match="out of bounds") as caught:
        one(sink.getvalue(), "arrow")
    assert caught.value.field == "time"


def test_parquet_of_other_kinds_of_columns() -> None:
    days = pa.array([18263, 18264], pa.int32()).cast(pa.date32())
    data = pa.table({"Date": days, "symbol": pa.array(["A", "A"]).dictionary_encode(),
                     **{name: pa.array([1, 2], pa.int32()) for name in ("Open", "High", "Low", "Close", "Volume")},
                     "note": pa.array([[1], [2]])})
    candles = one(parquet(data), "parquet")
    assert candles.time.tolist() == DAYS and candles.close.dtype == np.float64


def test_arrow_stream_and_file_are_read_whatever_the_name() -> None:
    for new in (pa.ipc.new_stream, pa.ipc.new_file):
        sink = io.BytesIO()
        with new(sink, table().schema) as writer:
            writer.write_table(table())
        assert len(one(sink.getvalue(), "csv")) == 3


def test_a_hole_in_a_column_is_named_by_row() -> None:
    data = table().set_column(1, "open", pa.array([1.0, None, 2.0]))
    with pytest.raises(Invalid, match="row 2, column open") as caught:
        one(parquet(data), "parquet")
    assert caught.value.field == "open"


def test_a_file_that_claims_a_billion_rows_is_refused_before_it_is_unpacked() -> None:
    n = 3_000_000
    bomb = parquet(pa.table({"time": pa.array(np.zeros(n, np.int64)),
                             **{name: pa.array(np.zeros(n)) for name in FIELDS}}), compression="zstd")
    assert len(bomb) < 100_000
    started = clock.process_time()
    with pytest.raises(TooLarge, match="3000000 rows are more than the 1000000 allowed"):
        one(bomb, "parquet", max_rows=1_000_000)
    assert clock.process_time() - started < 0.5
    for form, text in (("csv", b"1577957400,1,1,1,1\n" * 200), ("json", json.dumps([[1, 1, 1, 1, 1]] * 200).encode()),
                       ("arrow", arrow_stream(one(parquet(table(200)), "parquet")))):
        with pytest.raises(TooLarge):
            one(text, form, max_rows=100)


JSON_ROWS = [{"time": "2020-01-02", "open": 1, "high": 3, "low": 0.5, "close": 2, "volume": 10},
             {"time": "2020-01-03", "open": 2, "high": 3, "low": 1, "close": 2, "volume": 0}]


@pytest.mark.parametrize("body", [
    JSON_ROWS, {"candles": JSON_ROWS}, {key: [row[key] for row in JSON_ROWS] for key in JSON_ROWS[0]},
    {"columns": {key: [row[key] for row in JSON_ROWS] for key in JSON_ROWS[0]}, "rows": 2},
    [list(row.values()) for row in JSON_ROWS],
    [[at // 1000, *list(row.values())[1:]] for at, row in zip(DAYS, JSON_ROWS, strict=True)],
])
def test_json_as_columns_and_as_rows(body: object) -> None:
    candles = one(json.dumps(body), "json")
    assert candles.time.tolist() == DAYS
    assert [getattr(candles, field).tolist() for field in FIELDS] == [[1, 2], [3, 3], [.5, 1], [2, 2], [10, 0]]


@pytest.mark.parametrize(("body", "message"), [
    ("1", "neither columns nor rows"), ("null", "neither"), ("[]", "no rows"), ("{}", "no column for time"),
    ('{"time": 1, "open": [1], "high": [1], "low": [1], "close": [1]}', "column time is no list"),
    ('{"time": [1, 2], "open": [1], "high": [1], "low": [1], "close": [1]}', "unequal lengths"),
    ('[{"time": 1, "open": 1, "high": 1, "low": 1, "close": 1}, {"time": 2}]', "row 2 lacks close, high, low, open"),
    ('[{"time": 1, "open": 1, "high": 1, "low": 1, "close": 1}, 5]', "row 2 lacks everything"),
    ('[[1, 2, 3, 4, 5], [1, 2]]', "row 2 is not time, open"),
    ("[[1, 2, 3, 4, [5]], [2, 2, 3, 4, 5]]", "row 1, column close"),
    ('[[1, 2, 3, 4, true], [2, 2, 3, 4, 5]]', "row 1, column close: 'True' is not a number"),
    ('[[true, 2, 3, 4, 5], [2, 2, 3, 4, 5]]', "row 1, column time: 'True' is not a time"),
    ('[["x", 2, 3, 4, 5], [2, 2, 3, 4, 5]]', "row 1, column time: 'x' is not a time"),
    ('[[99999999999999999999999, 2, 3, 4, 5]]', "time"),
    ("[[1, 2, 3, 4, 5], [100000000000000000000, 2, 3, 4, 5]]", "time"),
])
def test_faulty_json_says_where(body: str, message: str) -> None:
    with pytest.raises(Invalid, match="(?s)" + message.replace("[", r"\[")):
        one(body, "json")


def test_broken_json_is_another_error_with_its_place() -> None:
    with pytest.raises(NotJson, match="line 2 column"):
        one('{"time":\n [1, 2', "json")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), st.sampled_from([*FORMATS, ""]),
       st.sampled_from([b"", b"PAR1", b"ARROW1\x00\x00", b"\xff\xff\xff\xff", b"date,open,high,low,close\n", b"[[",
                        b"{"]))
def test_any_bytes_are_candles_or_a_readable_error(data: bytes, form: str, head: bytes) -> None:
    try:
        found = read_bytes(head + data, form, TARGET)
    except WorkbenchError as error:
        assert str(error)
    else:
        assert all(len(candles) for candles in found)


SOUND = {"parquet": parquet(table(50)), "arrow": arrow_stream(one(parquet(table(50)), "parquet"))}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SOUND)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=20),
       st.none() | st.integers(0, 5_000))
def test_damaged_files_are_candles_or_a_readable_error(form: str, changes: list[tuple[int, int]],
                                                       length: int | None) -> None:
    data = bytearray(SOUND[form])
    for place, value in changes:
        data[place % len(data)] = value
    try:
        read_bytes(bytes(data[:length]), form, TARGET)
    except WorkbenchError as error:
        assert str(error)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5_000_000), *[st.floats(1e-9, 1e12) for _ in range(5)]), min_size=2,
                max_size=30, unique_by=lambda row: row[0]), st.sampled_from([1, 10**6]))
def test_what_is_written_as_csv_or_arrow_is_read_back_exactly(rows: list[tuple[float, ...]], unit: int) -> None:
    values = np.array(sorted(rows))
    candles = Candles(market=Market("demo", "XBT", "USD"), resolution=60,
                      time=values[:, 0].astype(np.int64) * 120 * 10**6 + (DAYS[0] if unit == 1 else 123_456),
                      **{name: values[:, k + 1] for k, name in enumerate(FIELDS)})
    for body in (csv_text(candles), arrow_stream(candles)):
        assert one(body, resolution="1m").fingerprint() == candles.fingerprint()


def test_import_of_a_file_into_a_data_folder(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv.gz"
    file.write_bytes(gzip.compress(CSV["a finance site"][0].encode()))
    for added, kept in ((2, 0), (0, 2)):
        (done,) = import_file(file, data_dir=tmp_path / "data", exchange="demo", asset="XBT", currency="USD")
        assert (done.market, done.resolution, done.rows) == ("demo:XBT/USD", "1d", 2)
        assert (done.added, done.kept) == (added, kept)
    assert CandleStore(tmp_path / "data" / "candles").read(Market("demo", "XBT", "USD"), 86400).time.tolist() == DAYS


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no file .*nowhere\.csv"):
        read_file(tmp_path / "nowhere.csv", TARGET)
    with pytest.raises(Invalid, match="is a folder"):
        read_file(tmp_path, TARGET)
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"date,open\n" * 1000)[:-20])
    with pytest.raises(Invalid, match="damaged gzip"):
        read_file(tmp_path / "broken.csv.gz", TARGET)


def test_a_faulty_file_stores_nothing(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("date,open,high,low,close\n2020-01-02,1,1,1,1\n2020-01-03,1,1,1,x\n")
    with pytest.raises(Invalid, match="line 3"):
        import_file(file, data_dir=tmp_path, exchange="demo", asset="XBT", currency="USD")
    assert CandleStore(tmp_path / "candles").datasets() == []


def test_a_long_file_is_read_fast() -> None:
    n = 200_000
    text = csv_text(one(parquet(table(n)), "parquet"))
    started = clock.process_time()
    assert len(one(text)) == n
    assert clock.process_time() - started < 2
