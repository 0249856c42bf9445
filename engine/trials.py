"""Trials of a sweep: many parameter sets on the same candles in one job.

The candles are read once for all trials of a job. For the next-bar fill model a trial is the compiled walk, the fills
and the figures that follow from equity and fills; the portfolio, with its roundtrips, is built only when the objective
needs it. Other fill models run whole backtests.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from engine.candle_store import CandleStore
from engine.errors import Cancelled, WorkbenchError
from engine.reporter import Reporter
from engine.result import TABLES
from engine.spec import BacktestSpec

Figures = Mapping[str, float | None]

OF_TRADES: Final = frozenset({
    "win_rate", "profit_factor", "expectancy", "payoff_ratio", "sqn", "trades", "avg_holding_days",
    "avg_holding_days_winners", "avg_holding_days_losers", "best_trade", "worst_trade"})
"""The metrics that need roundtrips."""

PATIENCE: Final = 1.0
"""Seconds after which a job gives the trials not begun back, so that no job holds a worker for long."""


class _Silent(Reporter):
    """Lets a cancelled sweep stop inside a trial and says nothing about it."""

    def __init__(self, outer: Reporter) -> None:
        self._outer = outer

    def progress(self, fraction: float, message: str = "") -> None:
        self._outer.progress(0.0)


def evaluate(job: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """job: {"spec": the base spec, "candles": root, "objective": metric, "trials": [{"number", "params"} …]}, each
    trial perhaps with "start" and "end" of its own and the name of that "range" (validation) -> {"trials": [{"number",
    "range", "metrics", "periods", "seconds", "error"} …]}, where `periods` is the number of returns.

    The trials are done in order, at least one; those that did not get their turn within `PATIENCE` seconds are missing
    at the end of the answer. A trial that fails carries its reason; the others go on.
    """
    begun = time.monotonic()
    store = CandleStore(Path(job["candles"]))
    base = BacktestSpec.read(job["spec"])
    compute = _evaluator(base, store, str(job["objective"]), reporter)
    done: list[dict[str, Any]] = []
    for trial in job["trials"]:
        if done and time.monotonic() - begun > PATIENCE:
            break
        at = time.monotonic()
        metrics: Mapping[str, float | None] = {}
        periods = None
        error = None
        try:
            metrics, periods = compute(_changed(base, trial))
        except Cancelled:
            raise
        except WorkbenchError as found:
            error = str(found)
        except Exception as found:
            error = f"{type(found).__name__}: {found}"[:2000]
        done.append({"number": trial["number"], "range": trial.get("range", "full"), "metrics": _plain(metrics),
                     "periods": periods, "error": error, "seconds": time.monotonic() - at})
        reporter.progress(len(done) / len(job["trials"]))
    return {"trials": done}


def _changed(base: BacktestSpec, trial: Mapping[str, Any]) -> BacktestSpec:
    """The base spec with a trial's parameters and range."""
    span = {name: trial[name] for name in ("start", "end") if trial.get(name) is not None}
    changes: dict[str, Any] = {"params": {**base.params, **trial["params"]}, **span}
    if base.fill_model == "glowback":  # there, what came over the wire stands in the options and goes first
        options = dict(base.fill_options)
        options |= {name: value for name, value in span.items() if name in options}
        if "strategy_params" in options:
            options["strategy_params"] = {**options["strategy_params"], **trial["params"]}
        changes["fill_options"] = options
    return BacktestSpec.read({**base.model_dump(mode="json"), **changes})


def _plain(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    return {key: None if value is None else float(value) for key, value in metrics.items()}


def _evaluator(base: BacktestSpec, store: CandleStore, objective: str,
               reporter: Reporter) -> Callable[[BacktestSpec], tuple[Figures, int]]:
    if base.fill_model == "next_bar" and objective not in OF_TRADES:
        return _Quick(store, _Silent(reporter)).metrics

    if base.fill_model == "glowback" and base.fill_options.get("figures") == "glowback":
        from engine.fills.glowback import figures_of

        return lambda spec: figures_of(spec, store, _Silent(reporter))

    def whole(spec: BacktestSpec) -> tuple[Figures, int]:
        from engine.simulate import run

        result = run(spec, store, _Silent(reporter))
        return result.metrics, _periods(result.tables["equity"], spec)

    return whole


def _periods(equity: Mapping[str, Any], spec: BacktestSpec) -> int:
    """The number of returns that the figures were made of."""
    from engine import metrics

    time_, value = equity["time"], equity["value"]
    return len(metrics.daily_values(time_, value, metrics.periods_of(time_, spec.resolution_seconds)))


class _Quick:
    """Equity figures of next-bar backtests without a portfolio; remembers the candles of each range."""

    def __init__(self, store: CandleStore, reporter: Reporter) -> None:
        self._store = store
        self._reporter = reporter
        self._ranges: dict[tuple[str | None, str | None], tuple[Sequence[Any], Any, Any, Any]] = {}

    def metrics(self, spec: BacktestSpec) -> tuple[Figures, int]:
        import numpy as np

        from engine import metrics, portfolio, strategies
        from engine.advice import walk
        from engine.fills import next_bar

        strategy = strategies.find(spec.strategy, self._store)
        params = strategy.resolve(spec.params)
        candles, merged, closes, benchmark = self._data(spec)
        advice = walk(strategy, params, candles, merged, self._reporter)
        filled = next_bar.run(spec, candles, merged, advice, strategy.scope == "portfolio")
        book = portfolio.book_of(spec.markets, merged, filled.fills)
        cash, net, gross, _ = portfolio.ledger(len(merged), closes, book, spec.cash)
        equity = {"time": merged, "value": cash + net, "gross": gross, "benchmark": benchmark}
        none = {name: np.empty(0) for name in TABLES["roundtrips"]}
        figures = metrics.compute(equity=equity, fills=filled.fills, roundtrips=none, cash=spec.cash,
                                  resolution=spec.resolution_seconds)
        return ({key: value for key, value in figures.items() if key not in OF_TRADES}, _periods(equity, spec))

    def _data(self, spec: BacktestSpec) -> tuple[Sequence[Any], Any, Any, Any]:
        key = (spec.start, spec.end)
        if key not in self._ranges:
            from engine import portfolio
            from engine.advice import merged_time
            from engine.model import Market
            from engine.notices import examine
            from engine.simulate import load

            candles = [examine(spec, name, each)[0]
                       for name, each in zip(spec.markets, load(spec, self._store), strict=True)]
            merged = merged_time(candles)
            closes = portfolio.closes_along(candles, merged)
            held = None if not spec.benchmark else self._store.read(
                Market.parse(spec.benchmark), spec.resolution_seconds, int(merged[0]), int(merged[-1]))
            self._ranges[key] = (candles, merged, closes, portfolio.holding(spec, closes, merged, candles, held))
        return self._ranges[key]
