"""Running a backtest: candles -> advice -> fills -> result.

Where costs enter
    Advice given after the close of one bar is filled at the open of the market's next bar. A buy pays
    open * (1 + slippage), a sell gets open * (1 - slippage); that is the fill's price. The fee of a fill is
    fee_rate * quantity * price + fixed_fee and is taken from cash. Nothing else costs anything.

Ten bars by hand: 1,000 of cash, everything in (sizing 1.0), slippage 1 %, fee 0.5 % and 2.00 a fill; long only.

    bar      0      1      2      3      4      5      6      7      8      9
    open    10     10     11     12     13     12     11     10      9     10
    close   10     11     12     13     12     11     10      9     10     11
    advice   -      1      1      1      0      0      -      1      0      0     (- is "as before")

    bar 2   buys at 11 * 1.01 = 11.11. Wished: 1,000 / 11 = 90.909 units; payable with fee:
            (1,000 - 2) / (11.11 * 1.005) = 89.382... units, so that many; cash 0.
    bar 5   sells them at 12 * 0.99 = 11.88: 1,061.86... less 5.309... + 2.00 of fees.
    bar 8   buys at 9 * 1.01 = 9.09 what that pays; bar 9 sells at 10 * 0.99 = 9.90.
    The advice on bar 9 would fill on bar 10, which is not there.

`tests/engine/test_ten_bars.py` does this sum figure by figure.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine import strategies, times
from engine.advice import Advice, merged_time, walk
from engine.candles import Candles
from engine.errors import Invalid, NotFound, Problem
from engine.fills import next_bar
from engine.model import Market
from engine.notices import examine, notice
from engine.portfolio import build
from engine.reporter import Reporter
from engine.result import BacktestResult, Columns
from engine.spec import BacktestSpec
from engine.strategies.base import Strategy
from engine.threads import meanwhile

if TYPE_CHECKING:
    from engine.candle_store import CandleStore


def run(spec: BacktestSpec, store: "CandleStore", reporter: Reporter | None = None, *,
        strategy: Strategy | None = None) -> BacktestResult:
    """Run the backtest that `spec` describes on the store's candles.

    `strategy` runs in place of the one that the spec names (see `engine.strategies.from_function`). The same spec on
    the same candles gives the same result, bit for bit. Raises `Invalid` and `NotFound` for what cannot be run, and
    `Cancelled` from the reporter.
    """
    reporter = reporter or Reporter()
    reporter.progress(0.1, "Initializing real engine")
    if spec.fill_model == "glowback":
        from engine.fills import glowback

        return glowback.run(spec, store, reporter)
    if spec.fill_model == "gekko":
        from engine.fills import gekko

        return gekko.run(spec, store, reporter)
    if spec.fill_model == "alerts":
        from engine import detector_backtest

        return detector_backtest.run(spec, store, reporter)
    strategy = strategy or strategies.find(spec.strategy, store)
    params = strategy.resolve(spec.params)
    reporter.progress(0.3, "Loading market data")
    candles = load(spec, store)
    warnings: list[Mapping[str, str]] = []
    usable = []
    for key, each in zip(spec.markets, candles, strict=True):
        each, said = examine(spec, key, each)
        usable.append(each)
        warnings += said
    candles = usable
    fingerprints = meanwhile(lambda: [each.fingerprint() for each in candles], sum(map(len, candles)))
    merged = merged_time(candles)
    advice = walk(strategy, params, candles, merged, reporter)
    reporter.progress(0.75, "Filling orders")
    filled = next_bar.run(spec, candles, merged, advice, strategy.scope == "portfolio")
    said, logs = _said(spec, strategy.warm_up(params), candles, filled)
    benchmark = _benchmark(spec, store, merged)
    indicators = _indicators(strategy, candles, merged, advice)
    del advice
    reporter.progress(0.8, "Building portfolio")
    result = build(spec, candles, filled.fills, strategy=strategy, params=params, indicators=indicators,
                   benchmark=benchmark, warnings=(*warnings, *said), logs=logs, merged=merged,
                   fingerprints=fingerprints, reporter=reporter)
    for line in logs:
        reporter.log(line)
    reporter.progress(0.95, "Collecting engine results")
    return result


def load(spec: BacktestSpec, store: "CandleStore") -> list[Candles]:
    """The candles of every market of the spec, none empty; raises with every market that has none."""
    if spec.source != "store":
        raise Invalid(f"the fill model next_bar does not read from {spec.source!r}", field="source",
                      remedy='import the data into the workbench and use source "store"')
    candles, problems = [], []
    for key in spec.markets:
        try:
            each = store.read(Market.parse(key), spec.resolution_seconds, spec.start_micros, spec.end_micros)
        except (NotFound, Invalid) as error:
            if len(spec.markets) == 1:
                raise
            problems += [Problem(problem.field or "markets", f"{key}: {problem.message}", problem.remedy)
                         for problem in error.problems]
            continue
        if not len(each):
            problems.append(Problem("start", f"{key} has no bars in this range", "choose another range"))
        candles.append(each)
    if problems:
        raise Invalid("some markets have no candles for this run", field=problems[0].field, problems=problems)
    return candles


def _benchmark(spec: BacktestSpec, store: "CandleStore", merged: np.ndarray) -> Candles | None:
    """The bars of the spec's benchmark over the run's range, those with a price; None when it names none."""
    if not spec.benchmark:
        return None
    try:
        found = store.read(Market.parse(spec.benchmark), spec.resolution_seconds, int(merged[0]), int(merged[-1]))
    except (NotFound, Invalid) as error:
        raise type(error)(f"the benchmark cannot be read: {error.message}", field="benchmark",
                          remedy=error.remedy) from None
    found = found.take(found.close > 0)
    if not len(found):
        raise Invalid(f"{spec.benchmark} has no bar in the run's range", field="benchmark",
                      remedy="choose another benchmark, or none")
    return found


def _said(spec: BacktestSpec, warm_up: int, candles: Sequence[Candles],
          filled: next_bar.Filled) -> tuple[list[dict[str, str]], list[str]]:
    """Warnings and log lines about how the orders went."""
    warnings, logs = [], []
    short = [key for key, each in zip(spec.markets, candles, strict=True) if len(each) <= warm_up]
    if short and warm_up:
        warnings.append(notice("warm_up", f"the strategy needs {warm_up} bars before it can trade on the next; too few "
                                          f"in {_some(short)}"))
    if filled.cut:
        warnings.append(notice("orders_cut", f"{filled.cut} orders were made smaller because the cash did not suffice"))
    if filled.refused:
        warnings.append(notice("cash_exhausted", f"{filled.refused} orders were dropped because no cash was left"))
    if filled.bankrupt_at is not None:
        warnings.append(notice("bankrupt", f"the equity was gone at the close of {times.iso(filled.bankrupt_at)}; "
                                           "all was closed at the next open and trading stopped"))
    if len(filled.waiting):
        logs.append("Advice after the last bar was not filled: " + _some([spec.markets[s] for s in filled.waiting]))
    logs.append(f"{len(filled.fills['time'])} fills on {sum(map(len, candles))} bars of {len(candles)} markets")
    return warnings, logs


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _indicators(strategy: Strategy, candles: Sequence[Candles], merged: np.ndarray, advice: Advice) -> Columns:
    """The table `indicators`: a row for each bar of each market; of a portfolio strategy for each time, symbol ""."""
    lines = {each.name: advice.indicators[k] for k, each in enumerate(strategy.indicators)}
    if not lines:
        return {"time": merged[:0], "symbol": np.empty(0, object)}
    if strategy.scope == "portfolio":
        return {"time": merged, "symbol": _name("", len(merged)), **lines}
    if len(candles) == 1:
        return {"time": candles[0].time, "symbol": _name(candles[0].market.key, len(merged)), **lines}
    return {"time": np.concatenate([each.time for each in candles]),
            "symbol": np.concatenate([_name(each.market.key, len(each)) for each in candles]), **lines}


def _name(text: str, rows: int) -> np.ndarray:
    """A column that says the same in every row without taking memory for it."""
    return np.broadcast_to(np.array(text, object), rows)
