"""The answer to a Gekko client, made before the report that people read.

A backtest that came over Gekko's API is a run like any other; its client waits only for Gekko's own figures. So the
worker makes these first, puts them beside the run's results and says so in the run's log; the common report follows.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from engine import times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.gekko_ranges import read_range
from engine.model import Market
from engine.reporter import Reporter
from engine.spec import BacktestSpec

FILE: Final = "answer.json"
READY: Final = "Gekko's answer is ready"
KEPT: Final = 1_000_000
"""Candles above which a range is not kept for the next backtest."""


class Held(CandleStore):
    """A store that has a market's minutes at hand already."""

    def __init__(self, root: Path, candles: Candles) -> None:
        super().__init__(root)
        self._candles = candles

    def read(self, market: Market, resolution: int, start: int | None = None, end: int | None = None) -> Candles:
        if (market, resolution) == (self._candles.market, self._candles.resolution):
            return self._candles.between(start, end)
        return super().read(market, resolution, start, end)


def early_file(results: Path, run_id: str) -> Path:
    """Where the answer of a run lies until the run is completed; `results` is the folder of all runs' results."""
    return results / ".work" / f"{run_id}.{FILE}"


def write_answer(spec: BacktestSpec, store: CandleStore, file: Path, reporter: Reporter) -> CandleStore:
    """Write the answer that the spec's configuration asks for, whole or not at all, and say so in the log.

    Returns the store to make the report from. Raises `Invalid` and `NotFound` as the fill model does.
    """
    from engine.gekko_backtest import cut, simulate
    from engine.gekko_settings import read_settings
    from engine.gekko_text import pieces

    config = spec.fill_options["config"]
    settings = read_settings(config)
    candles = _minutes(store, Market.parse(spec.markets[0]), config)
    report = simulate(settings, cut(config, settings, candles), watch=config["watch"],
                      advisor=config["tradingAdvisor"], reporter=reporter)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    with partial.open("wb") as out:
        out.writelines(pieces(report))
    partial.replace(file)
    reporter.log(f"{READY}: {file.stat().st_size} bytes")
    return Held(store.root, candles)


def _minutes(store: CandleStore, market: Market, config: Mapping[str, Any]) -> Candles:
    """The candles of the range that the configuration names, or all when it names none."""
    backtest = config.get("backtest")
    daterange = backtest.get("daterange", "scan") if isinstance(backtest, Mapping) else "scan"
    if daterange == "scan":
        return store.read(market, 60)
    start, end = (second * times.SECOND for second in read_range(daterange))
    if (end - start) // times.MINUTE > KEPT:
        return store.read(market, 60, start, end)
    return _kept(store.root, market, store.stamp(market), start, end)


@lru_cache(maxsize=1)
def _kept(root: Path, market: Market, stamp: str, start: int, end: int) -> Candles:
    """Optimizers ask for one range again and again; `stamp` changes when the market's candles do."""
    return CandleStore(root).read(market, 60, start, end)
