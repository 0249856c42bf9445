"""Real candles that a fresh installation has: five US shares, daily, from the `bokeh_sampledata` package."""

import csv
import gzip
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from engine import times
from engine.candles import Candles
from engine.errors import Unavailable
from engine.model import Market

DEMO_EXCHANGE: Final = "demo"
DEMO_CURRENCY: Final = "USD"
DEMO_ASSETS: Final = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def demo_candles() -> list[Candles]:
    """Daily bars of AAPL, FB, GOOG, IBM and MSFT, 2000-2013 (FB from 2012, GOOG from 2004), as `demo:AAPL/USD` etc.

    The source gives prices as they were printed, and beside the close one adjusted for splits and dividends. Each
    bar's open, high, low and close are multiplied by adjusted close / close, so that a split does not look like a
    crash and a buy-and-hold return includes dividends; volume is divided by the same ratio, so that its value in
    dollars stays. A bar's time is midnight UTC of its trading day. The text is read directly: importing the package's
    module would parse it slowly and with it pull in more than is needed.

    Raises `Unavailable` when the sample data is not installed.
    """
    package = find_spec("bokeh_sampledata")
    places = list(package.submodule_search_locations or ()) if package else []
    file = Path(places[0], "_data", "stocks.csv.gz") if places else None
    if file is None or not file.is_file():
        raise Unavailable("the demo's prices are not installed", remedy="install the package bokeh_sampledata")
    rows: dict[str, list[tuple[float, ...]]] = {asset: [] for asset in DEMO_ASSETS}
    epoch = date(1970, 1, 1).toordinal()
    with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        next(lines)  # ticker, date, open, high, low, close, volume, adjusted close
        for ticker, day, *figures in lines:
            if ticker in rows:
                rows[ticker].append((date.fromisoformat(day).toordinal() - epoch, *map(float, figures)))
    return [_candles(asset, np.array(rows[asset])) for asset in DEMO_ASSETS if rows[asset]]


def _candles(asset: str, table: np.ndarray) -> Candles:
    """`table` has the columns day, open, high, low, close, volume, adjusted close."""
    day, opened, high, low, close, volume, adjusted = table.T
    ratio = adjusted / close
    return Candles(
        market=Market(DEMO_EXCHANGE, asset, DEMO_CURRENCY), resolution=86400, time=day.astype(np.int64) * times.DAY,
        open=opened * ratio, high=high * ratio, low=low * ratio, close=adjusted, volume=volume / ratio,
    ).checked()
