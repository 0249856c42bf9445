"""GlowBack's JSON from the workbench's nouns: status, events, results, optimizations.

Where the original's document and program disagree both names are served: `value` and `equity`, `action` and `side`,
`shares` and `quantity`. Figures that the original never computes stay 0 under its names; every figure of the common
report is added as `workbench_…` (fractions, not percent).
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from engine import times
from engine.model import Event, Run
from engine.result import read_summary, read_table

ENGINE_NAME: Final = "workbench"
EXCHANGE: Final = "NASDAQ"
OPTIMIZATION_STATES: Final = {"queued": "pending"}


def status(run: Run) -> dict[str, Any]:
    """The status object of a run."""
    return {
        "run_id": run.id, "state": run.state, "progress": run.progress, "created_at": _at(run.created_at),
        "started_at": _at(run.started_at), "finished_at": _at(run.finished_at), "error": run.error,
    }


def frame(event: Event) -> dict[str, Any]:
    """An event of a run's stream as a message."""
    return {"event_id": event.seq, "run_id": event.stream.removeprefix("run/"), "type": event.type,
            "timestamp": times.iso(event.at), "payload": event.data}


def _at(value: datetime | None) -> str | None:
    return None if value is None else times.iso(value)


def _zoned(micros: int) -> str:
    """The `+00:00` form, microseconds only where there are any, as curve and trades have it."""
    return times.instant(micros).isoformat()


def result(run: Run, folder: Path) -> dict[str, Any]:
    """The whole result of a completed run; reads its files, so it belongs into a thread."""
    summary = read_summary(folder)
    report = summary["extra"]["glowback"]
    curve = {name: column.to_pylist() for name, column in _columns(folder, "glowback_curve").items()}
    capital = report["metrics_summary"]["initial_capital"]
    stamps = [_zoned(at) for at in curve["time"]]
    points = _points(stamps, curve, capital)
    request = run.request or {}
    fills = _rows(folder, "glowback_fills")
    orders = _rows(folder, "glowback_orders")
    metrics = dict(report["metrics_summary"])
    metrics |= {f"workbench_{key}": value for key, value in summary["metrics"].items() if value is not None}
    return {
        "run_id": run.id, "metrics_summary": metrics, "equity_curve": points, "benchmark_curve": [],
        "benchmark_symbol": request.get("benchmark_symbol"),
        "trades": [_trade(fill, report["strategy"]) for fill in fills],
        "exposures": [_exposure(point) for point in points],
        "order_events": list(_order_events(run.id, orders, fills, report["strategy"])),
        "option_trades": [_option_trade(each) for each in report["option_trades"]],
        "option_events": [{**each, "timestamp": _zoned(each["time"])} for each in report["option_events"]],
        "portfolio_construction": request.get("portfolio_construction") or {},
        "portfolio_diagnostics": [], "constraint_hits": [], "tearsheet": {},
        "logs": report["logs"], "final_cash": report["final_cash"], "final_positions": report["final_positions"],
        "manifest": _manifest(run, report, metrics),
    }


def _columns(folder: Path, name: str) -> dict[str, Any]:
    table = read_table(folder, name)
    return dict(zip(table.column_names, table.columns, strict=True))


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return read_table(folder, name).to_pylist()


def _points(stamps: Sequence[str], curve: Mapping[str, Sequence[float]], capital: float) -> list[dict[str, Any]]:
    peak, before = capital, None
    points = []
    for stamp, value, cash, positions, pnl in zip(stamps, curve["value"], curve["cash"], curve["positions"],
                                                  curve["pnl"], strict=True):
        peak = max(peak, value)
        points.append({
            "timestamp": stamp, "value": value, "equity": value, "cash": cash, "positions": positions,
            "total_pnl": pnl, "returns": (value / capital - 1) * 100,
            "daily_return": None if before is None else (value / before - 1) * 100 if before > 0 else 0.0,
            "drawdown": (peak - value) / peak * 100 if peak > 0 else 0.0,
        })
        before = value
    return points


def _trade(fill: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    bought = fill["side"] > 0
    return {
        "timestamp": _zoned(fill["time"]), "symbol": fill["symbol"], "action": "BUY" if bought else "SELL",
        "side": "buy" if bought else "sell", "shares": fill["quantity"], "quantity": fill["quantity"],
        "price": fill["price"], "commission": fill["fee"], "pnl": None, "strategy_id": strategy,
    }


def _exposure(point: Mapping[str, Any]) -> dict[str, Any]:
    value = point["value"]
    share = point["positions"] / value * 100 if value else 0.0
    return {
        "timestamp": point["timestamp"], "cash_pct": point["cash"] / value * 100 if value else 0.0,
        "positions_pct": share, "gross_exposure_pct": abs(share), "net_exposure_pct": share,
    }


def _order_events(run_id: str, orders: Sequence[Mapping[str, Any]], fills: Sequence[Mapping[str, Any]],
                  strategy: str) -> Iterable[dict[str, Any]]:
    """Orders and fills as they happened: within a day of the clock fills come before new orders."""
    space = uuid.UUID(run_id)
    placed = 0
    for number, fill in enumerate(fills, 1):
        while placed < len(orders) and orders[placed]["time"] < fill["time"]:
            yield {"OrderSubmitted": _order(space, orders[placed], strategy)}
            placed += 1
        order_id = str(uuid.uuid5(space, f"order {fill['order']}" if fill["order"] else f"assignment {number}"))
        yield {"OrderFilled": {"order_id": order_id, "fill": {
            "id": str(uuid.uuid5(space, f"fill {number}")), "order_id": order_id, "symbol": _symbol(fill["symbol"]),
            "side": "Buy" if fill["side"] > 0 else "Sell", "quantity": _decimal(fill["quantity"]),
            "price": _decimal(fill["price"]), "commission": _decimal(fill["fee"]),
            "executed_at": _zoned(fill["time"]), "strategy_id": strategy}}}
    for order in orders[placed:]:
        yield {"OrderSubmitted": _order(space, order, strategy)}


def _order(space: uuid.UUID, order: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid5(space, f"order {order['number']}")), "symbol": _symbol(order["symbol"]),
        "side": "Buy" if order["side"] > 0 else "Sell", "order_type": "Market", "quantity": _decimal(order["quantity"]),
        "time_in_force": "GTC", "status": "Submitted", "strategy_id": strategy, "created_at": _zoned(order["time"]),
    }


def _symbol(symbol: str) -> dict[str, str]:
    return {"symbol": symbol, "exchange": EXCHANGE, "asset_class": "Equity"}


def _decimal(number: float) -> str:
    """A number as plain decimal text, without an exponent."""
    text = repr(float(number))
    return f"{number:.10f}".rstrip("0").rstrip(".") if "e" in text else text.removesuffix(".0")


def _option_trade(trade: Mapping[str, Any]) -> dict[str, Any]:
    return {**trade, "timestamp": _zoned(trade["time"]), "expiry": _zoned(trade["expiry"]), "option_type": "Call",
            "action": "SELL", "side": "sell"}


def _manifest(run: Run, report: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    from server.version import VERSION

    spec, request = run.spec, run.request or {}
    default_costs = report["commission_bps"] is None
    parameters = request.get("strategy", {}).get("params", spec["params"])
    execution = request.get("execution") or {}
    source = request.get("data_source", spec["source"])
    return {
        "manifest_version": "1.0", "generated_at": _at(run.finished_at),
        "engine": {"crate_name": ENGINE_NAME, "version": VERSION},
        "strategy": {"strategy_id": report["strategy"], "name": report["strategy"], "parameters": parameters,
                     "code_hash": None},
        "dataset": {
            "data_source": source, "resolution": request.get("resolution", spec["resolution"]),
            "start_date": report["start"], "end_date": report["end"], "symbols": report["symbols"],
            "bar_counts": report["bar_counts"], "total_bars": sum(report["bar_counts"].values()),
            "validation_summaries": report["data_quality"],
        },
        "execution": {
            "initial_capital": spec["cash"], "commission_bps": report["commission_bps"],
            "slippage_bps": report["slippage_bps"], "latency_ms": report["latency_ms"],
            "latency_rule": report["latency_rule"],
            "commission_percentage": 0.0005 if default_costs else report["commission_bps"] / 10_000,
            "commission_per_share": 0.001 if default_costs else 0.0,
            "minimum_commission": 1.0 if default_costs else 0.0,
            "slippage_model": "fixed_bps", "latency_model": "fixed", "market_impact_model": "none",
            "max_volume_participation": 0.25,
            "data_settings": {"data_quality_mode": spec["data_mode"], "price_decimals": 4},
        },
        # What was asked, defaults left out: replaying it gives the same figures, default costs included.
        "replay_request": {
            "symbols": report["symbols"], "start_date": report["start"], "end_date": report["end"],
            "resolution": request.get("resolution", "day"), "strategy_name": spec["strategy"],
            "strategy_params": parameters, "initial_capital": spec["cash"], "data_source": source,
            "csv_data_path": request.get("csv_data_path"), "commission_bps": execution.get("commission_bps"),
            "slippage_bps": execution.get("slippage_bps"), "latency_ms": execution.get("latency_ms"),
            "run_name": run.name or None,
        },
        "metric_snapshot": {key: metrics[key] for key in ("final_value", "total_return", "max_drawdown", "sharpe_ratio",
                                                          "total_trades")},
    }


def optimization(found: Mapping[str, Any]) -> dict[str, Any]:
    """The status object of an optimization from `Optimizations.status`."""
    run, counts, spec = found["run"], found["trials"], found["run"].spec
    return {
        "optimization_id": run.id, "name": run.name, "state": OPTIMIZATION_STATES.get(run.state, run.state),
        "strategy": spec["method"], "objective_metric": spec["objective"], "direction": spec["direction"],
        "max_trials": spec["max_trials"], "trials_completed": counts["completed"], "trials_failed": counts["failed"],
        "trials_running": counts["running"],
        "best_trial": None if found["best"] is None else _best(found["best"]), "created_at": _at(run.created_at),
        "started_at": _at(run.started_at), "finished_at": _at(run.finished_at), "error": run.error,
    }


def _best(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"trial_id": f"trial-{found['number'] + 1}", "trial_number": found["number"] + 1, "status": "completed",
            "parameters": found["parameters"], "objective": found["objective"], "metrics": found["metrics"],
            "duration_seconds": round(found["seconds"] or 0), "error": None}


def optimization_result(found: Mapping[str, Any], trials: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a finished optimization: its status, every trial in trial order, and the diagnosis.

    `trials` are the columns of `Optimizations.trials`.
    """
    columns, names = trials["columns"], list(trials["columns"])
    parameters = [name for name in names if name.startswith("params.")]
    metrics = [name for name in names if name.startswith("metrics.")]
    rows = [{
        "trial_id": f"trial-{columns['number'][row] + 1}", "trial_number": columns["number"][row] + 1,
        "status": columns["state"][row],
        "parameters": {name.removeprefix("params."): columns[name][row] for name in parameters},
        "objective": columns["objective"][row],
        "metrics": {name.removeprefix("metrics."): columns[name][row] for name in metrics
                    if columns[name][row] is not None},
        "duration_seconds": round(columns["seconds"][row] or 0), "error": columns["error"][row],
    } for row in range(trials["rows"])]
    return {**optimization(found), "trials": rows, "total_trials": len(rows), "diagnostics": found["diagnostics"]}
