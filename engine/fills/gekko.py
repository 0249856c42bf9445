"""Fill model "gekko": a market strategy traded and reported as Gekko's paper trader does it.

The strategy sees candles made of `candle_size` bars of the run's resolution, counted from the first bar (for Gekko's
own figures: resolution 1m, candle_size 60 for an hour). Its advice is filled at once, at the close of the bar that
completes its candle, with everything there is, without slippage; amounts are floored to 1e-8. Words of
`BacktestSpec.fill_options`, all optional:

    candle_size  bars that make one of the strategy's candles (1)
    asset        units of the asset held at the start, beside `cash` (0)
    trail        percent of a trailing stop that every buy carries (0: none)
    risk_free    percent a year, for Gekko's sharpe (0)
    config       a whole configuration as Gekko's POST /api/backtest takes it, instead of all the others: then the
                 spec's strategy, cash, costs and range do not count, but its params do (so that searches work)

The result is one like any other, with Gekko's report in `extra["gekko"]` and its tables as `gekko_trades`,
`gekko_roundtrips` and `gekko_candles` (times there in seconds).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine import times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid
from engine.fills.gekko_terms import read
from engine.gekko_backtest import cut, simulate
from engine.gekko_ranges import read_range
from engine.gekko_report import GekkoReport
from engine.gekko_settings import Settings
from engine.model import Market
from engine.notices import examine, notice
from engine.portfolio import build
from engine.reporter import Reporter
from engine.result import BacktestResult, Columns
from engine.spec import BacktestSpec


def run(spec: BacktestSpec, store: CandleStore, reporter: Reporter) -> BacktestResult:
    """The whole backtest. Raises `Invalid` for what this fill model cannot do."""
    settings = read(spec)
    reporter.progress(0.3, "Loading market data")
    candles, warnings = _load(spec, store, settings)
    config = spec.fill_options.get("config") or {}
    market = candles.market
    report = simulate(
        settings, candles, reporter=reporter, advisor=config.get("tradingAdvisor") or _advisor(settings),
        watch=config.get("watch") or {"exchange": market.exchange, "currency": market.currency, "asset": market.asset})
    reporter.progress(0.8, "Building portfolio")
    result = _result(spec, settings, candles, report, warnings, reporter)
    reporter.progress(0.95, "Collecting engine results")
    return result


def _advisor(settings: Settings) -> dict[str, Any]:
    return {"enabled": True, "method": settings.method, "candleSize": int(settings.candle_size),
            "historySize": int(settings.history)}


def _load(spec: BacktestSpec, store: CandleStore, settings: Settings) -> tuple[Candles, list[Mapping[str, str]]]:
    market = Market.parse(spec.markets[0])
    config = spec.fill_options.get("config")
    if config:
        backtest = config.get("backtest")
        daterange = backtest.get("daterange", "scan") if isinstance(backtest, Mapping) else "scan"
        first, last = (None, None) if daterange == "scan" else (
            second * times.SECOND for second in read_range(daterange))
        candles = cut(config, settings, store.read(market, 60, first, last))
    else:
        candles = store.read(market, spec.resolution_seconds, spec.start_micros, spec.end_micros)
    if not len(candles):
        raise Invalid(f"{spec.markets[0]} has no bars in this range", field="start", remedy="choose another range")
    usable, warnings = examine(spec, spec.markets[0], candles)
    if config and len(usable) != len(candles):
        raise Invalid(warnings[0]["message"], field="watch", remedy="correct or delete them")
    return usable, list(warnings)


def _result(spec: BacktestSpec, settings: Settings, candles: Candles, report: GekkoReport,
            warnings: list[Mapping[str, str]], reporter: Reporter) -> BacktestResult:
    fills = _fills(spec, settings, candles, report)
    warm = settings.warm
    batches = len(report.candle_columns["start"])
    begin = int((warm + 1) * settings.size(len(candles)) - 1) if warm is not None and warm < batches else 0
    cash = settings.currency + settings.asset * float(candles.close[begin])
    if not 0 < cash <= 1e12:
        cash = spec.cash
    if warm is None or warm >= batches:
        warnings.append(notice("warm_up", f"the strategy is asked for the first time on its candle number "
                                          f"{'?' if warm is None else warm + 1}; there are only {batches}"))
    logs = (f"{len(report.trade_columns['date'])} trades on {len(candles)} bars, {batches} candles of the strategy",)
    lines = {each.name: report.lines[k] for k, each in enumerate(settings.strategy.indicators)}
    start = report.candle_columns["start"] * times.SECOND if batches < len(candles) else candles.time
    result = build(
        spec.model_copy(update={"cash": cash}), [candles], fills, strategy=settings.strategy, params=settings.params,
        symbols=(spec.markets[0],), merged=candles.time, warnings=warnings, logs=logs, reporter=reporter,
        indicators={"time": start, "symbol": np.broadcast_to(np.array(spec.markets[0], object), len(start)), **lines},
        extra={"gekko": {**report.head(), "advices": len(report.advice_columns["date"])}},
        provenance_extra={"costs": {"fee_percent": settings.fee_percent}, "cash": cash,
                          "fill_options": {key: value for key, value in spec.fill_options.items() if key != "config"}})
    for line in logs:
        reporter.log(line)
    tables: dict[str, Columns] = {"gekko_trades": report.trade_columns, "gekko_roundtrips": report.roundtrip_columns,
                                  "gekko_candles": report.candle_columns}
    return replace(result, tables={**result.tables, **tables})


def _fills(spec: BacktestSpec, settings: Settings, candles: Candles, report: GekkoReport) -> dict[str, np.ndarray]:
    """The trades that moved something as the common table, each at the bar at whose close it happened. What was held
    at the start is bought at the first price, without a fee."""
    rows: list[tuple[int, int, float, float, float, str]] = []  # bar, side, quantity, price, fee, reason
    columns = report.trade_columns
    held, cash, asset = 0.0, settings.currency, settings.asset
    if asset > 0 and settings.warm is not None and settings.warm < len(report.candle_columns["start"]):
        begin = (settings.warm + 1) * settings.size(len(candles)) - 1
        rows.append((begin, 1, asset, float(candles.close[begin]), 0.0, "initial"))
        held = asset
    for at, side, price, after, left, advice, previous in zip(
            *(columns[key].tolist() for key in ("at", "side", "price", "asset", "currency", "advice")),
            [0, *columns["advice"].tolist()][:-1], strict=True):
        quantity = after - asset if side > 0 else held
        moved = cash if side > 0 else left - cash
        fee = max(0.0, moved - price * quantity if side > 0 else price * quantity - moved)
        cash, asset = left, after
        if not quantity > 0 or not math.isfinite(fee):
            continue
        held = held + quantity if side > 0 else 0.0
        reason = "entry" if side > 0 else "stop" if advice == previous else "exit"
        rows.append((at, side, quantity, price, fee, reason))
    bar = np.array([row[0] for row in rows], np.int64)
    made = {"time": candles.time[bar], "symbol": np.array([spec.markets[0]] * len(rows), object),
            "side": np.array([row[1] for row in rows], np.int8)}
    made |= {name: np.array([row[place] for row in rows], float)
             for place, name in ((2, "quantity"), (3, "price"), (4, "fee"))}
    return {**made, "advised_at": candles.time[bar], "reason": np.array([row[5] for row in rows], object)}
