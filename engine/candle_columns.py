"""Which column of a foreign table is which, what its times mean, how far apart its bars are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from engine import times
from engine.candles import FIELDS, Candles
from engine.errors import Invalid
from engine.model import Market

# Ours -> theirs, the surest first. Names are compared in lower case, other signs than letters and digits as `_`.
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("start", "timestamp", "unix", "unix_timestamp", "open_time", "opentime", "datetime", "date_time",
             "gmt_time", "utc", "ts", "date", "time", "t", "day", "begin"),
    "open": ("open", "o", "open_price", "price_open", "first"),
    "high": ("high", "h", "high_price", "price_high", "max"),
    "low": ("low", "l", "low_price", "price_low", "min"),
    "close": ("close", "c", "close_price", "price_close", "last", "close_last"),
    "volume": ("volume", "vol", "v", "base_volume", "volume_traded", "tickvol", "tick_volume"),
    "vwp": ("vwp", "vwap", "weighted_price", "volume_weighted_price"),
    "trades": ("trades", "trade_count", "tradecount", "trades_count", "number_of_trades", "num_trades", "n_trades",
               "count"),
    "symbol": ("symbol", "ticker", "asset", "pair", "instrument", "market"),
    "adjusted": ("adj_close", "adjusted_close", "adjclose", "close_adj"),
}
REQUIRED: Final = ("time", "open", "high", "low", "close")
EXTRAS: Final = ("vwp", "trades")
TIME_FORMATS: Final = tuple(
    f"{date}{clock}"
    for date in ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y",
                 "%m-%d-%Y", "%b %d, %Y", "%d-%b-%Y", "%d %b %Y")
    for clock in ("", " %H:%M:%S", " %H:%M", " %H%M%S", " %H%M", " %I-%p", " %I:%M %p", " %I:%M:%S %p")
)
_UNIT_KNOWN: Final = 1e8  # seconds in 1973; smaller numbers of seconds could be milliseconds of the year 1970
_CALENDAR_DAY: Final = (1900_01_01, 2200_12_31)
_CALENDAR_SECOND: Final = (1900_01_01_00_00_00, 2200_12_31_23_59_59)
_TIME_REMEDY: Final = "use ISO 8601 such as 2023-01-31T00:00:00Z, or seconds since 1970"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Which market a table is about. Without `asset` its symbol column says it; a symbol may bring its currency."""

    exchange: str
    asset: str | None = None
    currency: str | None = None

    def market(self, symbol: str | None = None) -> Market:
        """The market of a symbol such as `AAPL`, `BTC/USD` or `demo:AAPL/USD`, or of this target's own asset."""
        if self.asset is not None:
            asset, currency = self.asset, self.currency
        elif symbol and ":" in symbol and "/" in symbol:
            return Market.parse(symbol, field="symbol")
        else:
            asset, slash, quoted = (symbol or "").rpartition("/")
            asset, currency = (asset, quoted) if slash else (quoted, self.currency)
        if not asset:
            raise Invalid("no asset is given and the table has no symbol column", field="asset",
                          remedy="say which asset it is, for example --asset AAPL")
        if not currency:
            raise Invalid(f"no currency is given for {asset}", field="currency", remedy="for example --currency USD")
        return Market(self.exchange, asset, currency)


def detect(names: Sequence[str], *, adjusted: bool = False) -> dict[str, tuple[int, ...]]:
    """Our column name -> position(s) in `names`; `time` has two where date and clock stand in columns of their own.

    Adjusted closes are looked for only when `adjusted`. Raises `Invalid` naming each required column that is missing.
    Volume may be missing: then it is 0.
    """
    plain = [plain_name(name) for name in names]
    found: dict[str, tuple[int, ...]] = {}
    for ours, aliases in ALIASES.items():
        for alias in aliases:
            if alias in plain:
                found[ours] = (plain.index(alias),)
                break
    if found.get("time") == (plain.index("date") if "date" in plain else -1,) and "time" in plain:
        found["time"] = (plain.index("date"), plain.index("time"))
    if "volume" not in found:
        for position, name in enumerate(plain):  # "Volume BTC": of several, the first is in units of the asset
            if name.startswith(("volume_", "vol_")):
                found["volume"] = (position,)
                break
    if not adjusted:
        found.pop("adjusted", None)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        there = ", ".join(str(name) for name in list(names)[:20]) or "none"
        raise Invalid(f"no column for {', '.join(missing)} among: {there}", field=missing[0],
                      remedy="name the columns start (or timestamp, date), open, high, low, close, volume")
    return found


def plain_name(name: object) -> str:
    """A column name for comparison: lower case, only letters, digits and `_`."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).strip().casefold()).strip("_")


def micros_of_numbers(values: np.ndarray) -> np.ndarray:
    """Int64 microseconds of epoch numbers in s, ms, us or ns (told apart by size), or of 20230131 and 20230131093000.

    Raises `ValueError` for numbers that are none of these, and where the unit changes from one to the next.
    """
    if not len(values):
        return np.empty(0, np.int64)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("not a finite number")
    low, high = values.min(), values.max()
    _refuse_two_units(values)
    if values.dtype.kind in "iu":
        if _CALENDAR_DAY[0] <= low and high <= _CALENDAR_DAY[1]:
            return _calendar(values, np.zeros_like(values))
        if _CALENDAR_SECOND[0] <= low and high <= _CALENDAR_SECOND[1]:
            return _calendar(values // 1_000_000, values % 1_000_000)
    size = max(abs(float(low)), abs(float(high)))
    for per_second in (1, 1_000, 1_000_000, 1_000_000_000):
        if size < 7_258_118_400 * per_second:  # the year 2200, as in engine.times
            if values.dtype.kind in "iu":
                whole = values.astype(np.int64)
                return whole * (times.SECOND // per_second) if per_second <= times.SECOND else whole // 1_000
            return np.round(values * (times.SECOND / per_second)).astype(np.int64)
    raise ValueError("too large for a time")


def another_unit(number: np.ndarray | float, before: np.ndarray | float) -> np.ndarray:
    """Where epoch numbers are in another unit than those before them: after 1973 in either, and about 1000, 1000^2 or
    1000^3 times as large or as small."""
    sizes = np.abs(np.asarray(number, np.float64)), np.abs(np.asarray(before, np.float64))
    small, large = np.minimum(*sizes), np.maximum(*sizes)
    thousands = np.log(np.maximum(large, 1.0) / np.maximum(small, 1.0)) / np.log(1000.0)
    whole = np.rint(thousands)
    return (small >= _UNIT_KNOWN) & (whole >= 1) & (np.abs(thousands - whole) < 0.1)  # within a factor of two


def _refuse_two_units(values: np.ndarray) -> None:
    size = np.abs(values.astype(np.float64))
    if size.max() < 500.0 * max(size.min(), 1.0):
        return
    changed = np.flatnonzero(another_unit(size[1:], size[:-1]))
    if len(changed):
        raise ValueError(f"the time of row {changed[0] + 2} is in another unit than that of the row before")


def _calendar(day: np.ndarray, clock: np.ndarray) -> np.ndarray:
    day, clock = day.astype(np.int64), clock.astype(np.int64)
    months = (day // 10_000 - 1970) * 12 + day // 100 % 100 - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    date = first + day % 100 - 1
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    back = date.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    sound = (back == months) & (day // 100 % 100 >= 1) & (day // 100 % 100 <= 12) & (day % 100 >= 1)
    if not (sound & (hour < 24) & (minute < 60) & (second < 60)).all():
        raise ValueError("not a date")
    return date * times.DAY + hour * times.HOUR + minute * times.MINUTE + second * times.SECOND


def micros_of_text(text: str, formats: Iterable[str] = ()) -> int:
    """Microseconds of one time as text: ISO 8601 or epoch number or 20230131, or the first of `formats` that fits.

    Raises `Invalid`.
    """
    text = text.strip()
    for each in formats:
        try:
            return times.micros(times.parse(datetime.strptime(text, each)))
        except (ValueError, Invalid):
            continue
    if re.fullmatch(r"\d{8}|\d{14}", text):
        try:
            return int(micros_of_numbers(np.array([int(text)]))[0])
        except ValueError:
            pass
    try:
        return times.micros(times.parse(text))
    except Invalid:
        raise Invalid(f"{text[:60]!r} is not a time", field="time", remedy=_TIME_REMEDY) from None


def choose_format(samples: Sequence[str]) -> str | None:
    """The format of times written as text, None for ISO 8601 and numbers.

    Raises `Invalid` when no format reads them, or when day and month could be either way round.
    """
    samples = [sample.strip() for sample in samples if sample.strip()]
    with_none = []
    for sample in samples[:5]:
        try:
            micros_of_text(sample)
        except Invalid:
            with_none.append(sample)
    if not with_none:
        return None
    fits = [each for each in TIME_FORMATS if _reads(samples, each) is not None]
    if len(fits) > 1:  # 03/04/2020: rather the reading in which time runs steadily
        spans = {each: _reads(samples, each) or [] for each in fits}
        steady = [each for each, read in spans.items() if read in (sorted(read), sorted(read, reverse=True))]
        fits = steady or fits
        if len(fits) > 1 and len({tuple(spans[each]) for each in fits}) > 1:
            raise Invalid(f"{samples[0]!r} can be read as {' or '.join(fits[:3])}", field="time",
                          remedy="give the time format, for example --time-format %d/%m/%Y")
    if not fits:
        # Some rows are wrong: the format that reads most of them, so that the wrong ones can be named.
        counts = {each: sum(_reads([sample], each) is not None for sample in samples[:50]) for each in TIME_FORMATS}
        best = max(counts, key=lambda each: counts[each])
        if not counts[best]:
            return None
        return best
    return fits[0]


def _reads(samples: Sequence[str], form: str) -> list[int] | None:
    try:
        return [times.micros(datetime.strptime(sample, form).replace(tzinfo=UTC)) for sample in samples]
    except ValueError:
        return None


def infer_resolution(time: np.ndarray) -> int:
    """Seconds between bars: the smallest spacing that at least one step in twenty has, so that neither the holes of
    a thin market nor a few odd bars mislead. `time` is int64 microseconds in any order.

    Raises `Invalid` naming `resolution` when there are fewer than two times or they are not regular.
    """
    steps = np.diff(np.unique(time))
    if not len(steps):
        raise Invalid("the distance between bars cannot be seen in fewer than two", field="resolution",
                      remedy="say it, for example resolution=1m")
    sizes, counts = np.unique(steps, return_counts=True)
    common = int(sizes[np.flatnonzero(counts * 20 >= len(steps))[0]]) if (counts * 20 >= len(steps)).any() else 0
    if common % times.SECOND or common < times.SECOND or common > 7 * times.DAY:
        found = f"{common / times.SECOND:g} s" if common else "no regular distance"
        raise Invalid(f"the times are not bars of a whole number of seconds up to a week ({found})", field="resolution",
                      remedy="import candles, not single trades or months; or say the resolution")
    return common // times.SECOND


def assemble(columns: Mapping[str, np.ndarray], symbols: np.ndarray | None, target: Target,
             resolution: int | None) -> list[Candles]:
    """Candles of a table's columns, one market for each symbol, checked as the store wants them.

    `columns` holds time (int64 microseconds) and the float64 figures; `symbols` (text) a label a row. With an asset in
    `target` only the rows with that symbol are taken, or all when there is just one symbol.
    """
    groups: list[tuple[str | None, np.ndarray | slice]] = [(None, slice(None))]
    if symbols is not None and len(symbols):
        names, which = np.unique(symbols, return_inverse=True)
        wanted = [position for position, name in enumerate(names)
                  if target.asset is None or str(name).casefold().partition("/")[0] == target.asset.casefold()]
        if target.asset is not None and not wanted and len(names) > 1:
            raise Invalid(f"no row has the symbol {target.asset!r}", field="asset",
                          remedy="there are: " + ", ".join(map(str, names[:20])))
        if target.asset is None or len(names) > 1:
            order = np.argsort(which, kind="stable")
            ends = np.cumsum(np.bincount(which, minlength=len(names)))
            groups = [(str(names[p]), order[ends[p - 1] if p else 0:ends[p]]) for p in wanted]
    found = []
    for symbol, rows in groups:
        part = {name: column[rows] for name, column in columns.items()}
        if not len(part["time"]):
            raise Invalid("there are no rows", field="", remedy="give at least one bar")
        part.setdefault("volume", np.zeros(len(part["time"])))
        found.append(Candles(
            market=target.market(symbol), resolution=resolution or infer_resolution(part["time"]), time=part["time"],
            **{name: part[name] for name in FIELDS}, extra={name: part[name] for name in EXTRAS if name in part},
        ).checked())
    return found


def adjust(columns: dict[str, np.ndarray]) -> None:
    """Multiply the prices, and divide the volume, by adjusted close / close, in place of the table's columns."""
    if "adjusted" not in columns:
        raise Invalid("there is no column of adjusted closes", field="adjusted", remedy="import without adjusting")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = columns["adjusted"] / columns["close"]
        for name in ("open", "high", "low", "close", "vwp"):
            if name in columns:
                columns[name] = columns[name] * ratio
        if "volume" in columns:
            columns["volume"] = columns["volume"] / ratio
