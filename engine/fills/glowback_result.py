"""A GlowBack simulation as a result like any other: vectorbt portfolio, common metrics, warnings, provenance.

The common tables stand on the days that have a bar, not on every day of the clock, so that their figures annualise by
trading days. Values are the clock's own (marked at the day's last close, option premiums included).
"""

import hashlib
import inspect
from dataclasses import replace
from typing import Any

import numpy as np

from engine import times
from engine.candles import Candles
from engine.errors import Invalid
from engine.fills import glowback_strategies
from engine.fills.glowback import Outcome
from engine.notices import notice
from engine.portfolio import build
from engine.reporter import Reporter
from engine.result import BacktestResult
from engine.spec import BacktestSpec


def build_result(spec: BacktestSpec, outcome: Outcome, reporter: Reporter) -> BacktestResult:
    """The common result of a finished simulation."""
    simulation = outcome.simulation
    names = _names(outcome)
    candles = [_daily(each.symbol, each.candles) for each in outcome.datasets]
    days = np.unique(np.concatenate([each.time for each in candles]
                                    + [np.array([_day(simulation.time[fill.day]) for fill in simulation.ledger.fills],
                                                np.int64)]))
    clock = simulation.time // times.DAY * times.DAY
    place = np.maximum(np.searchsorted(clock, days, side="right") - 1, 0)
    fills = {
        "time": np.array([_day(simulation.time[fill.day]) for fill in simulation.ledger.fills], np.int64),
        "symbol": np.array([names[fill.symbol] for fill in simulation.ledger.fills], object),
        "side": np.array([fill.side for fill in simulation.ledger.fills], np.int8),
        "quantity": np.array([fill.quantity for fill in simulation.ledger.fills], float),
        "price": np.array([fill.price for fill in simulation.ledger.fills], float),
        "fee": np.array([fill.fee for fill in simulation.ledger.fills], float),
        "advised_at": np.array([_day(simulation.time[fill.advised]) for fill in simulation.ledger.fills], np.int64),
        "reason": np.array([fill.reason for fill in simulation.ledger.fills], object),
    }
    result = build(
        spec, candles, fills, symbols=tuple(names.values()), merged=days, params=outcome.params, logs=outcome.logs,
        equity={"value": simulation.value[place], "cash": simulation.cash[place],
                "positions": simulation.positions[place], "gross": simulation.gross[place]},
        warnings=[notice("data_quality", text) for each in outcome.datasets
                  for text in (*each.quality.critical_issues, *each.quality.warnings)],
        extra={"glowback": dict(outcome.report)}, provenance_extra=_provenance(outcome), reporter=reporter)
    return replace(result, tables={**result.tables, **outcome.tables})


def _names(outcome: Outcome) -> dict[str, str]:
    """Symbol -> its name in the common tables: the market's key, or the symbol where several share a key."""
    keys = [each.candles.market.key for each in outcome.datasets]
    return {each.symbol: key if keys.count(key) == 1 else each.symbol
            for each, key in zip(outcome.datasets, keys, strict=True)}


def _daily(symbol: str, candles: Candles) -> Candles:
    """One bar a UTC day, at midnight; bars without a positive price are left out."""
    good = np.minimum(np.minimum(candles.open, candles.close), np.minimum(candles.high, candles.low)) > 0
    if not good.any():
        raise Invalid(f"Backtest execution failed: {symbol} has no bar with a price above zero")
    usable = candles if good.all() else candles.take(good)
    return replace(usable, resolution=60).resample(86_400)


def _day(time: int) -> int:
    return int(time) // times.DAY * times.DAY


def _provenance(outcome: Outcome) -> dict[str, Any]:
    source = hashlib.sha256(inspect.getsource(glowback_strategies).encode()).hexdigest()
    report = outcome.report
    return {
        "strategy": {"name": f"glowback:{report['strategy']}", "source_sha256": source, "params": dict(outcome.params)},
        "costs": {key: report[key] for key in ("slippage_bps", "commission_bps", "latency_ms", "latency_rule")},
    }
