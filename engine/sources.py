"""Bars from elsewhere than the candle store, CSV files and made sample data, and what GlowBack says about bars.

Both are cut to four decimals, as the original stores them; the store's own bars are taken as they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine import times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid, NotFound, Problem, WorkbenchError
from engine.model import Market
from engine.spec import BacktestSpec

SUFFIX: Final = {86_400: "1d", 3_600: "1h", 60: "1m"}
NAMES: Final = {86_400: "day", 3_600: "hour", 60: "minute"}
COLUMNS: Final = {"time": ("timestamp", "Timestamp", "date", "Date"), "open": ("open", "Open"),
                  "high": ("high", "High"), "low": ("low", "Low"), "close": ("close", "Close"),
                  "volume": ("volume", "Volume")}
PRICES: Final = ("open", "high", "low", "close")
MOST_BARS: Final = 6_000_000

# Dates and times as the original reads them: RFC 3339 with an offset, a date, or a date and a time without offset.
_DATE: Final = r"\d{4}-\d{2}-\d{2}"
_CLOCK: Final = r"\d{2}:\d{2}:\d{2}"
_UTC_TIME: Final = rf"^{_DATE}$|^{_DATE} {_CLOCK}$|^{_DATE}[Tt ]{_CLOCK}(\.\d{{1,9}})?([Zz]|\+00:00)$"
_ANY_TIME: Final = re.compile(rf"{_DATE}|{_DATE} {_CLOCK}|{_DATE}[Tt ]{_CLOCK}(\.\d{{1,9}})?([Zz]|[+-]\d{{2}}:\d{{2}})")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataQuality:
    """GlowBack's summary of one symbol's data. Counts of rows; `critical` and `warnings` are sentences."""

    symbol: str
    resolution: str
    dataset_kind: str
    total_rows_seen: int
    total_bars: int
    duplicate_timestamps: int = 0
    missing_intervals: int = 0
    invalid_ohlcv_rows: int = 0
    negative_price_rows: int = 0
    negative_volume_rows: int = 0
    sample_data: bool = False

    @property
    def critical_issue_count(self) -> int:
        return (self.duplicate_timestamps + self.invalid_ohlcv_rows + self.negative_price_rows
                + self.negative_volume_rows)

    @property
    def warning_issue_count(self) -> int:
        return self.missing_intervals + self.sample_data

    @property
    def critical_issues(self) -> list[str]:
        name = full_name(self.symbol)
        counted = ((self.duplicate_timestamps, "duplicate timestamp rows"),
                   (self.invalid_ohlcv_rows, "rows with invalid OHLC relationships"),
                   (self.negative_price_rows, "rows with negative prices"),
                   (self.negative_volume_rows, "rows with negative volume"))
        return [f"Detected {count} {what} for {name}." for count, what in counted if count]

    @property
    def warnings(self) -> list[str]:
        name = full_name(self.symbol)
        found = []
        if self.missing_intervals:
            found.append(f"Detected {self.missing_intervals} missing expected daily intervals for {name}.")
        if self.sample_data:
            found.append(f"Sample data is made by a formula and says nothing about the market of {name}.")
        return found

    def as_json(self) -> dict[str, Any]:
        """All of the summary, derived parts included."""
        return {
            "symbol": self.symbol, "total_rows_seen": self.total_rows_seen, "total_bars": self.total_bars,
            "duplicate_timestamps": self.duplicate_timestamps, "missing_intervals": self.missing_intervals,
            "invalid_ohlcv_rows": self.invalid_ohlcv_rows, "negative_price_rows": self.negative_price_rows,
            "negative_volume_rows": self.negative_volume_rows, "has_critical_issues": self.critical_issue_count > 0,
            "critical_issue_count": self.critical_issue_count, "warning_issue_count": self.warning_issue_count,
            "timezone": "UTC", "resolution": self.resolution, "dataset_kind": self.dataset_kind,
            "price_adjustment": "unspecified", "sample_data": self.sample_data,
            "critical_issues": self.critical_issues, "warnings": self.warnings,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One symbol's bars of a range and what was found about them."""

    symbol: str
    candles: Candles
    quality: DataQuality


class NoData(WorkbenchError):
    """A symbol has no usable bars; the message is GlowBack's own, `why` says what is behind it."""

    code = "not_found"

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why

    def __reduce__(self):
        return NoData, (self.message, self.why)


def full_name(symbol: str) -> str:
    """A symbol as GlowBack's messages write it."""
    return f"NASDAQ:{symbol}"


def market_of(symbol: str, exchange: str, currency: str) -> Market:
    """The market that stands for a symbol in the workbench's own tables; letters a market cannot have become `_`."""
    asset = re.sub(r"[^A-Za-z0-9._^=-]", "_", symbol)[:40]
    if not asset or not asset[0].isalnum():
        asset = f"x{asset}"[:40]
    return Market(exchange, asset, currency)


def dataset(source: str, symbol: str, *, resolution: int, start: int, end: int, currency: str = "USD",
            folder: Path | None = None, root: Path | None = None, store: CandleStore | None = None) -> Dataset:
    """The bars of `symbol` with start <= time <= end (microseconds) from "csv", "sample" or "store".

    `folder` holds the CSV files, which must lie below `root` (links followed; default: the folder itself).
    Raises `NoData`.
    """
    if source == "csv":
        if folder is None:
            raise Invalid("csv_data_path is required when data_source='csv'", field="csv_data_path")
        columns = read_csv(folder, symbol, resolution, start, end, root=root)
    elif source == "sample":
        columns = sample(symbol, resolution, start, end)
    elif store is not None:
        return _stored(store, symbol, resolution, start, end)
    else:
        raise no_data(symbol, start, end, "there is no candle store")
    market = market_of(symbol, source, currency)
    return _dataset(symbol, market, resolution, columns, source)


def load(spec: BacktestSpec, store: CandleStore) -> list[Candles]:
    """The candles of every market of a spec whose source is "csv" or "sample", for the other fill models.

    A market's asset is the symbol. Raises `Invalid` with one problem for every market without bars.
    """
    if spec.start_micros is None or spec.end_micros is None:
        raise Invalid("start and end are needed", field="start" if spec.start_micros is None else "end",
                      remedy="made data and CSV files have no range of their own")
    if spec.resolution_seconds not in SUFFIX:
        raise Invalid(f"{spec.source} has no bars of {spec.resolution}", field="resolution", remedy="use 1d, 1h or 1m")
    root = spec.fill_options.get("csv_root")
    candles, problems = [], []
    for position, key in enumerate(spec.markets):
        try:
            market = Market.parse(key)
            found = dataset(spec.source, market.asset, resolution=spec.resolution_seconds, start=spec.start_micros,
                            end=spec.end_micros, folder=Path(spec.source_path) if spec.source_path else None,
                            root=Path(root) if root else None, store=store)
            candles.append(replace(found.candles, market=market))
        except NoData as error:
            problems.append(Problem(f"markets.{position}", error.message, error.why))
    if problems:
        raise Invalid(str(problems[0]), field=problems[0].field, problems=problems)
    return candles


def no_data(symbol: str, start: int, end: int, why: str = "") -> NoData:
    """The error for a symbol that the source does not know or cannot read."""
    name = full_name(symbol)
    return NoData(f"{name}: Data error: No data available for symbol {name} in date range {_range(start, end)}", why)


def empty_range(symbol: str, start: int, end: int, why: str = "") -> NoData:
    """The error for a symbol that is known and has nothing in the range."""
    return NoData(f"{full_name(symbol)}: no data available in range {_range(start, end)}", why)


def _range(start: int, end: int) -> str:
    return f"{times.instant(start).isoformat()} to {times.instant(end).isoformat()}"


def csv_file(folder: Path, symbol: str, resolution: int) -> Path:
    """The file of a symbol; raises `ValueError` when the symbol cannot be part of a file's name."""
    if not symbol or "/" in symbol or "\\" in symbol or "\0" in symbol or len(symbol.encode()) > 200:
        raise ValueError("this symbol cannot name a file")
    return folder / f"{symbol}_{SUFFIX[resolution]}.csv"


def csv_files(folder: Path, symbol: str, resolution: int) -> Iterator[Path]:
    """The files that a run of `symbol` needs: the daily one always, and that of the resolution."""
    yield csv_file(folder, symbol, 86_400)
    if resolution != 86_400:
        yield csv_file(folder, symbol, resolution)


def read_csv(folder: Path, symbol: str, resolution: int, start: int, end: int,
             *, root: Path | None = None) -> dict[str, np.ndarray]:
    """The rows of a symbol's CSV file in the range, in the file's order, duplicates kept.

    One row that cannot be read makes the whole symbol unusable: `NoData`, with the reason in `why`.
    """
    below = (root or folder).resolve()
    try:
        for path in csv_files(folder, symbol, resolution):
            if not path.is_file():
                raise no_data(symbol, start, end, f"there is no file {path.name}")
            if not path.resolve().is_relative_to(below):
                raise no_data(symbol, start, end, f"{path.name} leads outside the folder")
        columns = _parse(path)
    except (OSError, ValueError) as error:
        raise no_data(symbol, start, end, str(error)) from None
    inside = (columns["time"] >= start) & (columns["time"] <= end)
    if not inside.any():
        raise empty_range(symbol, start, end)
    return {name: column[inside] for name, column in columns.items()}


def _parse(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    with path.open("rb") as file:
        header = file.readline().decode("utf-8-sig").strip("\r\n")
    names = [name.strip().strip('"') for name in header.split(",")]
    wanted = {}
    for column, spellings in COLUMNS.items():
        name = next((spelling for spelling in spellings if spelling in names), None)
        if name is None:
            raise ValueError(f"{path.name}: the header has no column {spellings[0]}")
        wanted[column] = names.index(name)
    try:
        table = csv.read_csv(
            str(path), read_options=csv.ReadOptions(skip_rows=1, column_names=[str(i) for i in range(len(names))],
                                                    use_threads=False),
            convert_options=csv.ConvertOptions(
                column_types={str(i): pa.string() for i in range(len(names))}, strings_can_be_null=False,
                include_columns=[str(place) for place in wanted.values()]))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path.name}: {error}") from None
    columns = {}
    for name, place in wanted.items():
        text = pc.utf8_trim_whitespace(table.column(str(place))).combine_chunks()
        if name == "time":
            columns[name] = _times(path, text)
        else:
            try:
                column = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path.name}, column {name}: {error}") from None
            if not np.isfinite(column).all():
                raise ValueError(f"{path.name}, column {name}: not a finite number")
            columns[name] = np.trunc(column) if name == "volume" else four_decimals(column)
    return columns


def _times(path: Path, text: Any) -> np.ndarray:
    import pyarrow.compute as pc

    if len(text) and pc.all(pc.match_substring_regex(text, _UTC_TIME)).as_py():
        plain = pc.replace_substring_regex(pc.replace_substring_regex(text, r"([Zz]|\+00:00)$", ""), "[ t]", "T")
        try:
            return np.array(plain.to_numpy(zero_copy_only=False), dtype="datetime64[us]").astype(np.int64)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    found = np.empty(len(text), np.int64)
    for row, value in enumerate(text.to_pylist()):
        try:
            if not _ANY_TIME.fullmatch(value):
                raise ValueError
            found[row] = times.micros(times.parse(value.upper()))
        except (ValueError, WorkbenchError):
            raise ValueError(f"{path.name}, line {row + 2}: {value!r} is not a time") from None
    return found


def four_decimals(prices: np.ndarray) -> np.ndarray:
    """Prices cut (not rounded) to four decimals of their exact binary value: 244.41 becomes 244.4099.

    The product's rounding error is computed exactly (Dekker 1971), so that a product which rounds up to a whole number
    of ten-thousandths is seen to lie below it.
    """
    size = np.abs(prices)
    product = size * 10_000.0
    split = size * 134_217_729.0
    high = split - (split - size)
    error = (high * 10_000.0 - product) + (size - high) * 10_000.0
    whole = np.floor(product)
    whole -= (whole == product) & (error < 0)
    return np.copysign(whole / 10_000.0, prices) + 0.0


def _dataset(symbol: str, market: Market, resolution: int, columns: dict[str, np.ndarray], kind: str) -> Dataset:
    """Sort by time, keep the last of equal times, and count what is wrong (rows before the duplicates are dropped)."""
    time = columns["time"]
    order = np.argsort(time, kind="stable")
    ordered = time[order]
    last = order[np.append(ordered[1:] != ordered[:-1], True)] if len(time) else order
    kept: dict[str, Any] = {name: column[last] for name, column in columns.items()}
    candles = Candles(market=market, resolution=resolution, **kept)
    opens, highs, lows, closes = (columns[name] for name in PRICES)
    if kind == "sample":  # its extremes carry six decimals: compare whole millionths
        opens, highs, lows, closes = (np.rint(each * 1e6) for each in (opens, highs, lows, closes))
    invalid = (highs < np.maximum(opens, closes)) | (lows > np.minimum(opens, closes)) | (highs < lows)
    negative = (np.minimum(np.minimum(opens, closes), np.minimum(highs, lows))) < 0
    quality = DataQuality(
        symbol=symbol, resolution=NAMES.get(resolution, times.resolution_name(resolution)), dataset_kind=kind,
        total_rows_seen=len(time), total_bars=len(last), duplicate_timestamps=len(time) - len(last),
        missing_intervals=_missing_days(candles.time) if resolution == 86_400 else 0,
        invalid_ohlcv_rows=int(invalid.sum()), negative_price_rows=int(negative.sum()),
        negative_volume_rows=int((columns["volume"] < 0).sum()), sample_data=kind == "sample",
    )
    return Dataset(symbol=symbol, candles=candles, quality=quality)


def _missing_days(time: np.ndarray) -> int:
    """Weekdays without a bar between two daily bars."""
    days = np.unique(time // times.DAY)
    if len(days) < 2:
        return 0
    first, last = int(days[0]), int(days[-1])
    weekdays = np.is_busday(days.astype("datetime64[D]"))
    expected = np.busday_count(np.datetime64(first, "D"), np.datetime64(last + 1, "D"))
    return int(expected - weekdays.sum())


def _stored(store: CandleStore, symbol: str, resolution: int, start: int, end: int) -> Dataset:
    try:
        market = store.resolve(symbol)
    except WorkbenchError as error:
        raise no_data(symbol, start, end, str(error)) from None
    try:
        candles = store.read(market, resolution, start, end)
    except NotFound as error:
        raise no_data(symbol, start, end, str(error)) from None
    except Invalid as error:
        raise empty_range(symbol, start, end, str(error)) from None
    columns = {name: candles.columns()[name] for name in COLUMNS}
    return _dataset(symbol, market, resolution, columns, "store")


SAMPLE_PRICES: Final = {"AAPL": 150, "GOOGL": 2500, "MSFT": 300, "TSLA": 800, "SPY": 400, "BTC": 45_000, "ETH": 3_000,
                        "SOL": 120, "DOGE": 0.08, "ADA": 0.45}
SAMPLE_VOLUMES: Final = {"AAPL": 8e7, "SPY": 5e7, "BTC": 25_000.0, "ETH": 150_000.0, "SOL": 5e5, "DOGE": 2e9,
                         "ADA": 8e8}
COINS: Final = ("BTC", "ETH", "SOL", "DOGE", "ADA")


def sample_name(symbol: str) -> str | None:
    """The series that a symbol's sample data is made from; None when there is none."""
    if symbol in SAMPLE_PRICES:
        return symbol
    base = re.sub(r"-?USDT?$", "", symbol)
    return base if base in COINS else None


def sample(symbol: str, resolution: int, start: int, end: int) -> dict[str, np.ndarray]:
    """Made bars from `start` on, one each `resolution` seconds: the same path for every start.

    A linear congruential generator moves the close by -2 % … +2 % a bar; prices are whole ten-thousandths, rounded
    half to even. Raises `NoData` for a symbol without a series.
    """
    name = sample_name(symbol)
    if name is None:
        raise no_data(symbol, start, end, "sample data exists for " + ", ".join(SAMPLE_PRICES))
    n = (end - start) // (resolution * times.SECOND) + 1 if end >= start else 0
    if n <= 0:
        raise empty_range(symbol, start, end)
    if n > MOST_BARS:
        raise Invalid(f"{n} bars are too many", field="end_date", remedy="ask for a shorter range or coarser bars")
    closes = np.empty(n + 1, np.int64)
    closes[0] = price = round(SAMPLE_PRICES[name] * 10_000)
    state = 12_345
    for row in range(1, n + 1):
        state = (state * 1_103_515_245 + 12_345) & 0xFFFF_FFFF_FFFF_FFFF
        price, rest = divmod(price * (9_800 + (state >> 16) % 401), 10_000)
        if rest > 5_000 or (rest == 5_000 and price & 1):
            price += 1
        closes[row] = price
    close = closes[1:]
    return {
        "time": start + np.arange(n, dtype=np.int64) * resolution * times.SECOND,
        "open": closes[:-1] / 1e4, "high": close * 101 / 1e6, "low": close * 99 / 1e6, "close": close / 1e4,
        "volume": np.full(n, SAMPLE_VOLUMES.get(name, 1e7)),
    }
