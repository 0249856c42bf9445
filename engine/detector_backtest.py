"""Backtests of detectors: which alerts a detector would have given, and what would have become of each.

The walk is the live one (`engine.alert_walk`). The statistics count every alert alike, in R: gain / |start - stop|.
Beside them stands a portfolio, so that a detector compares with any strategy: each alert that began is a position whose
size risks the fraction `risk` of the starting cash between start and stop, but is worth no more than the market's equal
share of that cash. Entries and exits are filled at the alert's own prices, worsened by the slippage, at the candle in
which they happened; a position still open at the end stays open. The spec's `fill_options`: `bar` (text such as "5m",
default the detector's own) and `risk` (default 0.01).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine import detectors, times
from engine.alert_life import (
    DETECTED_AT,
    ENDED_AT,
    ENTRY,
    EXIT,
    LIFE,
    REASON,
    REASONS,
    SIDE,
    START,
    STARTED_AT,
    STATE,
    STATE_NAMES,
    STOP,
    TARGET,
    TRAILING,
)
from engine.candles import Candles
from engine.errors import Invalid
from engine.reporter import Reporter
from engine.result import BacktestResult, Columns
from engine.spec import BacktestSpec

if TYPE_CHECKING:
    from engine.alert_walk import Happening, Slot
    from engine.candle_store import CandleStore

__all__ = ["check", "figures", "run", "statistics", "wilson"]

RISK: Final = 0.01
_SIGMAS: Final = NormalDist().inv_cdf(0.975)


def check(spec: BacktestSpec) -> tuple[detectors.Detector, dict[str, Any], int, float]:
    """The detector, its complete parameters, seconds of its bars and the risk; raises `Invalid` naming the field."""
    detector = detectors.get(spec.strategy, field="strategy")
    params = detector.resolve(spec.params)
    bar = times.resolution(spec.fill_options.get("bar", detector.bar), field="fill_options.bar")
    if bar % spec.resolution_seconds:
        raise Invalid(f"bars of {times.resolution_name(bar)} cannot be gathered from candles of {spec.resolution}",
                      field="fill_options.bar", remedy=f"give a bar that is a multiple of {spec.resolution}")
    risk = spec.fill_options.get("risk", RISK)
    if isinstance(risk, bool) or not isinstance(risk, int | float) or not 0 < risk <= 1:
        raise Invalid(f"{risk!r} is no fraction", field="fill_options.risk", remedy="use a number up to 1: 0.01")
    if spec.direction != "both":
        raise Invalid("detectors give alerts both ways", field="direction", remedy='use direction "both"')
    if spec.source != "store":
        raise Invalid(f"detectors do not read from {spec.source!r}", field="source", remedy='use "store"')
    return detector, params, bar, float(risk)


def run(spec: BacktestSpec, store: "CandleStore", reporter: Reporter) -> BacktestResult:
    """The result of a detector's backtest: the tables of every backtest, the table `alerts` (a row an alert, in order
    of detection), and `extra["alerts"]`, what `statistics` says of it."""
    from engine.advice import merged_time
    from engine.alert_walk import Slot, walk
    from engine.notices import examine, notice
    from engine.portfolio import build
    from engine.simulate import load

    detector, params, bar, risk = check(spec)
    reporter.progress(0.3, "Loading market data")
    candles: list[Candles] = []
    warnings: list[Mapping[str, str]] = []
    for key, each in zip(spec.markets, load(spec, store), strict=True):
        usable, said = examine(spec, key, each)
        candles.append(usable)
        warnings += said
    found: list[tuple[Slot, Candles, list[Happening]]] = []
    for position, each in enumerate(candles):
        slot = Slot(market=each.market.key, detector=detector, params=params, resolution=spec.resolution_seconds,
                    bar=bar)
        columns: Any = tuple(np.ascontiguousarray(column) for column in
                             (each.time, each.open, each.high, each.low, each.close, each.volume))
        happened, _ = walk([slot], columns, [0], [len(each)])
        found.append((slot, each, happened))
        reporter.progress(0.3 + 0.4 * (position + 1) / len(candles), "Running detector")
    table, rows = _table(detector, params, found)
    counted = statistics(table)
    fills, cut = _fills(spec, table, rows, risk)
    if cut:
        warnings.append(notice("orders_cut", f"{cut} positions risk less than {risk:.2%} of the cash: they would have "
                                             "been worth more than the market's share of it"))
    bars = sum(len(each) for each in candles)
    whole = counted["all"]
    logs = [f"{whole['alerts']} alerts on {bars} candles of {len(candles)} markets: {whole['closed']} closed, "
            f"{whole['won']} of them won, {whole['aborted']} aborted, {whole['open']} open at the end"]
    merged = merged_time(candles)
    reporter.progress(0.8, "Building portfolio")
    result = build(spec, candles, fills, strategy=detector.strategy, params=params,
                   indicators={"time": merged[:0], "symbol": np.empty(0, object)}, warnings=warnings, logs=logs,
                   merged=merged, extra={"alerts": counted, "detector": detector.key, "bar": times.resolution_name(bar),
                                         "duration": detector.duration}, reporter=reporter)
    for line in logs:
        reporter.log(line)
    return replace(result, tables={**result.tables, "alerts": table})


def _table(detector: detectors.Detector, params: Mapping[str, Any],
           found: "Sequence[tuple[Slot, Candles, list[Happening]]]") -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A row an alert, and the opens of the candles in which each began and ended (n, 2), 0 where it did not."""
    from engine.alert_walk import DETECTED, STARTED

    entries: list[dict[str, Any]] = []
    for slot, candles, happened in found:
        current: dict[str, Any] = {}
        for each in happened:
            life = each.life
            if each.kind == DETECTED:
                direction = "BUY" if life[SIDE] > 0 else "SELL"
                current = {"symbol": slot.market, "direction": direction, "first": 0, "last": 0,
                           "reason": detector.why(direction, params, each.out)}
                entries.append(current)
            else:
                current["first" if each.kind == STARTED else "last"] = int(candles.time[each.row])
            current["life"] = life
    entries.sort(key=lambda entry: (entry["life"][DETECTED_AT], entry["symbol"]))
    lives = np.array([entry["life"] for entry in entries]).reshape(len(entries), LIFE)

    def instants(place: int) -> np.ndarray:
        """Microseconds, 0 where there is none."""
        return np.nan_to_num(lives[:, place]).astype(np.int64)

    gain = lives[:, SIDE] * (lives[:, EXIT] - lives[:, ENTRY])
    table = {
        "time": instants(DETECTED_AT), "symbol": np.array([entry["symbol"] for entry in entries], object),
        "direction": np.array([entry["direction"] for entry in entries], object),
        "duration": np.full(len(entries), detector.duration, object),
        "state": np.array([STATE_NAMES[int(state)] for state in lives[:, STATE]], object),
        "start": lives[:, START], "target": lives[:, TARGET], "stop": lives[:, STOP], "trailing": lives[:, TRAILING],
        "detected_at": instants(DETECTED_AT), "started_at": instants(STARTED_AT), "ended_at": instants(ENDED_AT),
        "entry": lives[:, ENTRY], "exit": lives[:, EXIT], "gain": gain,
        "r": gain / np.abs(lives[:, START] - lives[:, STOP]),
        "reason": np.array([entry["reason"] for entry in entries], object),
        "end": np.array([REASONS[int(reason)] for reason in lives[:, REASON]], object),
    }
    rows = np.array([[entry["first"], entry["last"]] for entry in entries], np.int64).reshape(-1, 2)
    return table, rows


def _fills(spec: BacktestSpec, table: Columns, rows: np.ndarray, risk: float) -> tuple[Columns, int]:
    """The fills of the positions, in order of time, and how many positions were made smaller."""
    slip, fee = spec.costs.slippage, spec.costs
    share = spec.cash / len(spec.markets)
    made: list[tuple[int, int, str, int, float, float, str]] = []
    cut = 0
    for place in range(len(rows)):
        if not rows[place, 0]:
            continue
        side = 1 if table["direction"][place] == "BUY" else -1
        entry = float(table["entry"][place]) * (1 + side * slip)
        wished = risk * spec.cash / abs(float(table["start"][place] - table["stop"][place]))
        quantity = min(wished, share / entry)
        cut += quantity < wished
        made.append((int(rows[place, 0]), 2 * place, str(table["symbol"][place]), side, quantity, entry, "start"))
        if rows[place, 1]:
            exit = float(table["exit"][place]) * (1 - side * slip)
            made.append((int(rows[place, 1]), 2 * place + 1, str(table["symbol"][place]), -side, quantity, exit,
                         str(table["end"][place]).split(" ")[0].strip(":")))
    made.sort()
    time = np.array([each[0] for each in made], np.int64)
    quantities = np.array([each[4] for each in made], float)
    price = np.array([each[5] for each in made], float)
    return {
        "time": time, "symbol": np.array([each[2] for each in made], object),
        "side": np.array([each[3] for each in made], np.int8), "quantity": quantities, "price": price,
        "fee": fee.fee_rate * quantities * price + fee.fixed_fee, "advised_at": time,
        "reason": np.array([each[6] for each in made], object),
    }, cut


def statistics(table: Columns) -> dict[str, dict[str, Any]]:
    """`figures` of all alerts, of each direction ("BUY", "SELL"), and of each duration and direction ("short BUY")."""
    found = {"all": figures(table)}
    durations = sorted({str(each) for each in table["duration"]})
    for direction in ("BUY", "SELL"):
        mine = table["direction"] == direction
        found[direction] = figures({name: column[mine] for name, column in table.items()})
        for duration in durations:
            both = mine & (table["duration"] == duration)
            found[f"{duration} {direction}"] = figures({name: column[both] for name, column in table.items()})
    return found


def figures(table: Columns) -> dict[str, Any]:
    """What these alerts amount to; None where there is nothing to divide by. Times in seconds.

    hit_rate = won / closed, won: gain > 0; hit_rate_low and _high: its 95 % interval (Wilson 1927). average_r: mean R
    of the closed; expectancy_r: mean R of all that ended, aborted ones counting 0 (what one more alert is worth).
    profit_factor: sum of won R / |sum of lost R|. ends: how many ended for each reason.
    """
    state, r = table["state"], table["r"]
    closed, aborted = state == "closed", state == "aborted"
    won = closed & (table["gain"] > 0)
    began = table["started_at"] > 0
    n, ended = int(closed.sum()), int(closed.sum() + aborted.sum())
    wins, losses = r[won], r[closed & ~won]
    to_start = (table["started_at"] - table["detected_at"])[began] / times.SECOND
    to_end = (table["ended_at"] - table["detected_at"])[closed | aborted] / times.SECOND
    in_market = (table["ended_at"] - table["started_at"])[closed] / times.SECOND
    low, high = wilson(len(wins), n)
    lost = float(-losses.sum())
    ends, counts = np.unique(np.array([str(each) for each in table["end"][closed | aborted]], str), return_counts=True)
    return {
        "alerts": len(state), "open": len(state) - ended, "aborted": int(aborted.sum()), "started": int(began.sum()),
        "closed": n, "won": len(wins), "start_rate": _ratio(int(began.sum()), len(state)),
        "hit_rate": _ratio(len(wins), n), "hit_rate_low": low, "hit_rate_high": high,
        "average_r": _mean(r[closed]), "average_win_r": _mean(wins), "average_loss_r": _mean(losses),
        "expectancy_r": _ratio(float(r[closed].sum()), ended), "total_r": float(r[closed].sum()),
        "best_r": float(r[closed].max()) if n else None, "worst_r": float(r[closed].min()) if n else None,
        "profit_factor": float(wins.sum()) / lost if lost > 0 else None,
        "average_gain": _mean(table["gain"][closed]),
        "seconds_to_start": _median(to_start), "seconds_to_end": _median(to_end),
        "seconds_in_market": _median(in_market), "average_seconds_to_end": _mean(to_end),
        "ends": {str(name): int(count) for name, count in zip(ends, counts, strict=True)},
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def wilson(hits: int, n: int) -> tuple[float | None, float | None]:
    """Wilson's score interval (1927) of a proportion, 95 %; (None, None) of nothing."""
    if not n:
        return None, None
    z = _SIGMAS
    middle = (hits / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n)))
    return max(0.0, middle - half), min(1.0, middle + half)
