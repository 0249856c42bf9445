"""One GlowBack backtest from its spec to everything its report needs.

Words of `BacktestSpec.fill_options` (all optional; a spec without them runs its own markets from the store):

    symbols        the symbols as they were asked for, in order, possibly repeated
    start, end     the range as instants, when the spec cannot hold it (end before start)
    resolution     the resolution as it was asked for; only day, hour and minute run
    strategy_params  parameters as they came, of any JSON type
    commission_bps, slippage_bps, latency_ms, latency_rule  see `engine.fills.glowback_clock.Terms`
    csv_root       the folder that CSV files must not lead out of
    figures        "glowback": trials of a search are judged by GlowBack's figures instead of the common ones
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine import times
from engine.candle_store import CandleStore
from engine.errors import Invalid, WorkbenchError
from engine.fills.glowback_clock import Bars, Simulation, Terms, simulate
from engine.fills.glowback_report import figures
from engine.fills.glowback_strategies import make, read_parameters
from engine.model import Market
from engine.reporter import Reporter
from engine.result import BacktestResult, Columns
from engine.sources import Dataset, NoData, dataset
from engine.spec import BacktestSpec

ENGINE: Final = "Backtest execution failed: "
START_UP: Final = ENGINE + "Backtest error: Engine initialization failed: "
TOLD: Final = ("total_return", "sharpe_ratio", "max_drawdown", "final_value", "total_trades")
SECONDS: Final = {"day": 86_400, "hour": 3_600, "minute": 60}


@dataclass(frozen=True, kw_only=True)
class Order:
    """A spec read for this engine: `symbols` in order with repetitions, times in microseconds."""

    symbols: tuple[str, ...]
    resolution: int
    start: int
    end: int
    terms: Terms
    root: Path | None
    params: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A finished simulation. `tables` are GlowBack's own; `report` goes into `BacktestResult.extra["glowback"]`."""

    datasets: tuple[Dataset, ...]
    simulation: Simulation
    params: Mapping[str, Any]
    tables: Mapping[str, Columns]
    report: Mapping[str, Any]
    logs: tuple[str, ...]


def run(spec: BacktestSpec, store: CandleStore, reporter: Reporter) -> BacktestResult:
    """The whole backtest: the common result, with GlowBack's report in `extra["glowback"]` and its tables besides."""
    from engine.fills.glowback_result import build_result

    return build_result(spec, simulate_spec(spec, store, reporter), reporter)


def simulate_spec(spec: BacktestSpec, store: CandleStore, reporter: Reporter) -> Outcome:
    """Load, simulate, report: all that GlowBack itself says. Errors carry its own words."""
    name = make(spec.strategy, spec.fill_options.get("strategy_params", spec.params), ("",)).name
    if spec.source == "csv" and not spec.source_path:
        raise Invalid("csv_data_path is required when data_source='csv'")
    order = read_order(spec, store)
    reporter.progress(0.3, "Loading market data")
    datasets = _load(spec, order, store, reporter)
    bars = {symbol: Bars(time=each.candles.time, open=each.candles.open, close=each.candles.close,
                         volume=each.candles.volume) for symbol, each in datasets.items()}
    simulation = simulate(symbols=order.symbols, bars=bars, resolution=order.resolution, start=order.start,
                          end=order.end, capital=spec.cash, strategy=make(name, order.params, order.symbols),
                          terms=order.terms, reporter=reporter)
    outcome = _outcome(spec, name, order, tuple(datasets.values()), simulation)
    for line in outcome.logs:
        reporter.log(line)
    for metric in TOLD:
        reporter.metric(metric, outcome.report["metrics_summary"][metric])
    return outcome


def figures_of(spec: BacktestSpec, store: CandleStore, reporter: Reporter) -> tuple[dict[str, float], int]:
    """GlowBack's own figures alone, for trials of a search, and the number of returns they were made of."""
    outcome = simulate_spec(spec, store, reporter)
    return dict(outcome.report["metrics_summary"]), max(0, len(outcome.simulation.time) - 1)


def read_order(spec: BacktestSpec, store: CandleStore) -> Order:
    """What the spec and its options ask for; raises `Invalid` for what this engine cannot do."""
    options = spec.fill_options
    asked = options.get("resolution") or {86_400: "day", 3_600: "hour", 60: "minute"}.get(spec.resolution_seconds)
    if asked not in SECONDS:
        raise Invalid(f"{ENGINE}Invalid resolution: {asked or spec.resolution}")
    symbols = tuple(options.get("symbols") or spec.markets)
    if spec.source == "csv" and "symbols" not in options:
        symbols = tuple(Market.parse(key).asset if ":" in key else key for key in symbols)
    start, end = _range(spec, store)
    if end < start:
        raise Invalid(f"{ENGINE}end_date {times.iso(end)} is before start_date {times.iso(start)}: give an end_date "
                      "that is not before start_date")
    try:
        terms = Terms(**{key: options[key] for key in ("commission_bps", "slippage_bps", "latency_ms", "latency_rule")
                         if options.get(key) is not None})
    except WorkbenchError as error:
        raise Invalid(f"{ENGINE}{error.message}", field=error.field, remedy=error.remedy) from None
    root = options.get("csv_root")
    return Order(symbols=symbols, resolution=SECONDS[asked], start=start, end=end, terms=terms,
                 root=Path(root) if root else None, params=options.get("strategy_params", spec.params))


def _range(spec: BacktestSpec, store: CandleStore) -> tuple[int, int]:
    bounds = []
    for name in ("start", "end"):
        given = spec.fill_options.get(name) or getattr(spec, name)
        if given:
            bounds.append(times.micros(times.parse(given, field=name)))
            continue
        if spec.source != "store":
            raise Invalid(f"{name} is needed", field=name, remedy="give the range of the backtest")
        ends = [(each.first, each.last) for key in spec.markets for each in store.datasets(store.resolve(key))]
        bounds.append((min(first for first, _ in ends) // times.DAY * times.DAY if name == "start"
                       else max(last for _, last in ends)) if ends else 0)
    return bounds[0], bounds[1]


def _load(spec: BacktestSpec, order: Order, store: CandleStore, reporter: Reporter) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    missing: list[str] = []
    for symbol in dict.fromkeys(order.symbols):
        try:
            datasets[symbol] = dataset(
                spec.source, symbol, resolution=order.resolution, start=order.start, end=order.end,
                currency=spec.currency, folder=Path(spec.source_path) if spec.source_path else None, root=order.root,
                store=store)
        except NoData as error:
            missing.append(error.message)
            if error.why:
                reporter.log(f"{symbol}: {error.why}")
    if missing:
        raise Invalid(START_UP + "failed to load required market data: " + "; ".join(missing))
    if spec.data_mode == "fail":
        rejected = [f"NASDAQ:{each.symbol}: {' | '.join(each.quality.critical_issues)}" for each in datasets.values()
                    if each.quality.critical_issues]
        if rejected:
            raise Invalid(START_UP + "data quality mode 'fail' rejected the dataset: " + "; ".join(rejected))
    return datasets


def _outcome(spec: BacktestSpec, strategy: str, order: Order, datasets: tuple[Dataset, ...],
             simulation: Simulation) -> Outcome:
    ledger, clock = simulation.ledger, simulation.time
    markets = {each.symbol: each.candles.market.key for each in datasets}
    days = np.array([fill.day for fill in ledger.fills], np.int64)
    columns = {
        "side": np.array([fill.side for fill in ledger.fills], np.int64),
        "quantity": np.array([fill.quantity for fill in ledger.fills]),
        "price": np.array([fill.price for fill in ledger.fills]),
        "fee": np.array([fill.fee for fill in ledger.fills]),
    }
    time = clock[days] if len(days) else days
    symbols = np.array([fill.symbol for fill in ledger.fills], object)
    placed = np.array([each.placed for each in ledger.orders], np.int64)
    tables = {
        "glowback_curve": {"time": clock, "value": simulation.value, "cash": simulation.cash,
                           "positions": simulation.positions, "pnl": simulation.pnl},
        "glowback_fills": {"time": time, "order": np.array([fill.order for fill in ledger.fills], np.int64),
                           "symbol": symbols, **columns},
        "glowback_orders": {
            "time": clock[placed] if len(placed) else placed,
            "number": np.array([each.number for each in ledger.orders], np.int64),
            "symbol": np.array([each.symbol for each in ledger.orders], object),
            "side": np.array([each.side for each in ledger.orders], np.int64),
            "quantity": np.array([each.quantity for each in ledger.orders]),
        },
    }
    qualities = [each.quality for each in datasets]
    summary = figures(simulation.value, spec.cash, len(ledger.fills)) | {
        "option_trade_count": float(len(ledger.calls)), "option_event_count": float(len(ledger.option_events)),
        "data_quality_warning_count": float(sum(each.warning_issue_count for each in qualities)),
        "data_quality_critical_count": float(sum(each.critical_issue_count for each in qualities)),
        "sample_data": float(spec.source == "sample"),
    }
    logs = [
        "Engine-backed backtest completed", f"Processed {len(clock)} equity points",
        f"Executed {len(ledger.fills)} trades",
        f"Recorded {len(ledger.orders) + len(ledger.fills)} order lifecycle events",
        f"Final portfolio value ${summary['final_value']:.2f}",
        *(line for each in qualities for line in (
            *(f"Data quality critical [{each.symbol}]: {text}" for text in each.critical_issues),
            *(f"Data quality warning [{each.symbol}]: {text}" for text in each.warnings))),
    ]
    report = {
        "metrics_summary": summary, "final_cash": ledger.cash,
        "final_positions": {symbol: ledger.positions[symbol].quantity for symbol in sorted(ledger.positions)},
        "logs": logs, "strategy": strategy, "symbols": list(order.symbols), "markets": markets,
        "bar_counts": {each.symbol: len(each.candles) for each in datasets},
        "data_quality": {each.symbol: each.quality.as_json() for each in datasets},
        "slippage_bps": order.terms.costs.slippage_bps, "commission_bps": order.terms.commission_bps,
        "latency_ms": order.terms.latency, "latency_rule": order.terms.latency_rule,
        "start": times.iso(order.start), "end": times.iso(order.end),
        "option_trades": [
            {"time": int(clock[day]), "symbol": call.symbol, "strike": call.strike, "expiry": call.expiry,
             "contracts": call.contracts, "multiplier": call.multiplier, "premium": call.premium,
             "fee": call.fee * call.contracts, "income": call.income, "spot": call.spot}
            for day, kind, call, _ in ledger.option_events if kind == "written"],
        "option_events": [
            {"time": int(clock[day]), "type": kind, "symbol": call.symbol, "strike": call.strike,
             "contracts": call.contracts, "price": price}
            for day, kind, call, price in ledger.option_events],
    }
    return Outcome(datasets=datasets, simulation=simulation, params=read_parameters(strategy, order.params),
                   tables=tables, report=report, logs=tuple(logs))
