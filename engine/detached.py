"""Backtests that were computed elsewhere: from what their program reports to a result like any other.

The equity curve is the reported account value, the fills are the reported trades; roundtrips and figures are computed
here from those, as for every run, so that all compare. What the program says of itself is kept beside them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from engine import metrics, times
from engine.errors import Invalid, WorkbenchError
from engine.model import Market
from engine.result import BacktestResult, Columns

__all__ = ["build", "market_key"]

REPORTED: Final = "reported by the model"
_AGAINST: Final = ("benchmark_return", "alpha", "beta", "information_ratio", "tracking_error")
_DEAD: Final = frozenset({"canceled", "cancelled", "rejected", "expired", "failed"})
_MOST_INDICATORS: Final = 200


def build(body: Mapping[str, Any], *, model: str, name: str = "") -> BacktestResult:
    """The result that `body` reports.

    body: symbols (texts), quote_asset, exchange, start_time, stop_time, account_values [{time, value}], trades
    [{symbol, side, size or funds, price, time, id, annotation, …}], metrics {key: {value, display_name, type}},
    indicators {key: {values: [{time, value}], display_name, type}}, initial_account_value. All may be missing; what
    cannot be read raises `Invalid` naming its place, what is only odd becomes a warning.
    """
    warnings: list[dict[str, str]] = []
    time, value = _series(body.get("account_values"), "account_values")
    currency = str(body.get("quote_asset") or "")
    exchange = str(body.get("exchange") or "")
    markets = {str(symbol): market_key(str(symbol), exchange, currency) for symbol in body.get("symbols") or ()}
    fills = _fills(body.get("trades") or (), markets, exchange, currency, time, warnings)
    cash = _figure(body.get("initial_account_value"), float(value[0]) if len(value) else 0.0)
    resolution = max(1, round(float(np.median(np.diff(time))) / times.SECOND)) if len(time) > 1 else 86400
    roundtrips = _roundtrips(fills, time)
    equity = _equity(time, value, fills, cash)
    figures: dict[str, float | None] = dict.fromkeys(metrics.METRICS)
    rule = ""
    if len(time) and cash > 0:
        try:
            periods = metrics.periods_of(time, resolution)
            rule = periods.text
            with np.errstate(all="ignore"):
                figures = metrics.compute(equity=equity, fills=fills, roundtrips=roundtrips, cash=cash,
                                          resolution=resolution, periods=periods)
        except (WorkbenchError, ArithmeticError, ValueError) as error:
            warnings.append({"code": "figures", "message": f"the figures could not be computed: {error}"})
    else:
        warnings.append({"code": "no_equity", "message": "no account values above 0 were reported: no figures"})
    figures |= {key: None for key in _AGAINST if key in figures}
    reported = _reported(body.get("metrics"))
    start, end = _bound(body, "start_time", time, 0), _bound(body, "stop_time", time, -1)
    return BacktestResult(
        spec={
            "strategy": name or model, "markets": list(dict.fromkeys(markets.values())), "currency": currency,
            "resolution": _resolution_name(resolution), "start": start, "end": end, "cash": cash,
            "benchmark": "starting value", "model": model, "fill_model": "reported",
        },
        tables={"equity": equity, "fills": fills, "roundtrips": roundtrips,
                "indicators": _indicators(body.get("indicators"), next(iter(markets.values()), ""), warnings)},
        metrics=figures,
        provenance={"computed_by": "the model itself; figures by the workbench", "model": model, "annualisation": rule,
                    "roundtrips": "from the reported trades, at average entry price"},
        warnings=tuple(warnings),
        extra={REPORTED: reported} if reported else {},
    )


def market_key(symbol: str, exchange: str, currency: str) -> str:
    """The market of a symbol such as BTC-USD, BTC/USD or AAPL; the symbol itself when it cannot name one."""
    asset, separator, quote = symbol.partition("/" if "/" in symbol else "-")
    try:
        return Market(exchange or "reported", asset if separator else symbol, (quote if separator else currency)).key
    except Invalid:
        return symbol


def _series(points: Any, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Times (int64 microseconds, rising, the last of equal ones) and values of [{"time", "value"}]; without a value,
    a point is left out."""
    if points is None or points == "":
        points = ()
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise Invalid("this is a list of points", field=field, remedy='send [{"time": 1613174400, "value": 10000}, …]')
    when: list[Any] = []
    what: list[float] = []
    for index, point in enumerate(points):
        if not isinstance(point, Mapping) or "time" not in point:
            raise Invalid("a point has a time and a value", field=f"{field}[{index}]")
        value = point.get("value")
        if value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise Invalid(f"{str(value)[:40]!r} is not a number", field=f"{field}[{index}].value") from None
        if math.isfinite(number):
            when.append(point["time"])
            what.append(number)
    moments = _moments(when, field)
    order = np.argsort(moments, kind="stable")
    moments, values = moments[order], np.asarray(what, float)[order]
    last = np.append(moments[1:] != moments[:-1], True) if len(moments) else np.zeros(0, bool)
    return moments[last], values[last]


def _moments(values: Sequence[Any], field: str) -> np.ndarray:
    """Microseconds of wire times; a list of plain seconds takes no time at all."""
    if all(type(value) in (int, float) and 10**8 < value < 5 * 10**9 for value in values):
        return np.round(np.asarray(values, np.float64) * times.SECOND).astype(np.int64)
    return np.asarray([times.micros(times.parse(value, field=f"{field}[{index}].time"))
                       for index, value in enumerate(values)], np.int64)


def _figure(value: Any, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return number if math.isfinite(number) else default


def _fills(trades: Any, markets: dict[str, str], exchange: str, currency: str, time: np.ndarray,
           warnings: list[dict[str, str]]) -> dict[str, np.ndarray]:
    if not isinstance(trades, Sequence) or isinstance(trades, str):
        raise Invalid("this is a list of trades", field="trades")
    rows: list[tuple[Any, ...]] = []
    unpriced = 0
    end = int(time[-1]) if len(time) else 0
    for index, trade in enumerate(trades):
        field = f"trades[{index}]"
        if not isinstance(trade, Mapping):
            raise Invalid("a trade is an object", field=field)
        if str(trade.get("status") or "").lower() in _DEAD or (
                trade.get("canceled_time") and not trade.get("executed_time")):
            continue
        side = str(trade.get("side") or "").lower()
        if side not in ("buy", "sell"):
            raise Invalid(f"{side[:20]!r} is not a side", field=f"{field}.side", remedy="use buy or sell")
        symbol = str(trade.get("symbol") or next(iter(markets), ""))
        price = _figure(trade.get("price"), math.nan)
        size = _figure(trade.get("size"), math.nan)
        if math.isnan(size) and price > 0:
            size = _figure(trade.get("funds"), math.nan) / price
        size = size if size > 0 else math.nan
        unpriced += not (price > 0 and size > 0)
        when = trade.get("executed_time") or trade.get("time")
        moment = times.micros(times.parse(when, field=f"{field}.time")) if when is not None else end
        market = markets.get(symbol) or markets.setdefault(
            symbol, market_key(symbol, str(trade.get("exchange") or exchange), currency))
        reason = str(trade.get("annotation") or trade.get("type") or "")
        rows.append((moment, market, 1 if side == "buy" else -1, size, price, _figure(trade.get("fee"), 0.0), reason))
    if unpriced:
        warnings.append({"code": "unpriced", "message": f"{unpriced} of {len(rows)} trades came without a price or "
                         "a size: they are left out of the roundtrips"})
    rows.sort(key=lambda row: row[0])
    columns = list(zip(*rows, strict=True)) or [()] * 7
    return {"time": np.asarray(columns[0], np.int64), "symbol": np.asarray(columns[1], object),
            "side": np.asarray(columns[2], np.int8), "quantity": np.asarray(columns[3], float),
            "price": np.asarray(columns[4], float), "fee": np.asarray(columns[5], float),
            "advised_at": np.asarray(columns[0], np.int64), "reason": np.asarray(columns[6], object)}


def _equity(time: np.ndarray, value: np.ndarray, fills: Columns, cash: float) -> dict[str, np.ndarray]:
    """What is held is valued at the last traded price: the reports say the account's value only."""
    net, gross = np.zeros(len(time)), np.zeros(len(time))
    known = np.isfinite(fills["price"]) & np.isfinite(fills["quantity"])
    for symbol in set(fills["symbol"]):
        rows = np.flatnonzero((fills["symbol"] == symbol) & known)
        if not len(rows):
            continue
        held = np.cumsum(fills["quantity"][rows] * fills["side"][rows])
        held[np.abs(held) < 1e-9 * np.max(np.abs(held), initial=1e-300)] = 0.0
        place = np.searchsorted(fills["time"][rows], time, side="right") - 1
        worth = np.where(place >= 0, held[place] * fills["price"][rows][place], 0.0)
        net += worth
        gross += np.abs(worth)
    return {"time": time, "value": value, "cash": value - net, "positions": net, "gross": gross,
            "benchmark": np.full(len(time), cash if cash > 0 else 1.0)}


def _roundtrips(fills: Columns, time: np.ndarray) -> dict[str, np.ndarray]:
    """Flat to flat, at the average entry price; a trade that turns a position round ends one and begins the next."""
    trips: list[tuple[Any, ...]] = []
    open_: dict[str, list[float]] = {}  # direction, entry time, held, bought value, bought, sold value, sold, fees
    for row in range(len(fills["time"])):
        symbol, moment = fills["symbol"][row], int(fills["time"][row])
        side, left = int(fills["side"][row]), float(fills["quantity"][row])
        price, fee = float(fills["price"][row]), float(fills["fee"][row])
        if not (price > 0 and left > 0):
            continue
        whole = left
        while left > 1e-12 * whole:
            trip = open_.get(symbol)
            if trip is None:
                trip = open_[symbol] = [side, moment, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
            if side == trip[0]:
                taken = left
                trip[2] += taken
                trip[3] += taken * price
                trip[4] += taken
            else:
                taken = min(left, trip[2])
                trip[2] -= taken
                trip[5] += taken * price
                trip[6] += taken
            trip[7] += fee * taken / whole
            left -= taken
            if trip[2] <= 1e-9 * trip[4]:
                trips.append(_trip(symbol, trip, moment, "closed", time, None))
                del open_[symbol]
    for symbol, trip in open_.items():
        mine = (fills["symbol"] == symbol) & (fills["price"] > 0)
        trips.append(_trip(symbol, trip, int(time[-1]) if len(time) else int(fills["time"][-1]), "open", time,
                           float(fills["price"][mine][-1])))
    trips.sort(key=lambda trip: (trip[2], trip[3]))
    columns = list(zip(*trips, strict=True)) or [()] * 14
    names = ("symbol", "direction", "entry_time", "exit_time", "entry_price", "exit_price", "quantity", "fees", "pnl",
             "return", "mae", "mfe", "bars", "status")
    kinds = (object, np.int8, np.int64, np.int64, float, float, float, float, float, float, float, float, np.int64,
             object)
    return {name: np.asarray(column, kind) for name, column, kind in zip(names, columns, kinds, strict=True)}


def _trip(symbol: str, trip: Sequence[float], end: int, status: str, time: np.ndarray,
          last: float | None) -> tuple[Any, ...]:
    direction, begin, held, paid, quantity, got, sold, fees = trip
    if last is not None:
        got, sold = got + held * last, sold + held
    entry, leave = paid / quantity, got / sold
    pnl = direction * (got - paid) - fees
    gain = pnl / paid
    # Nothing is known of the prices between the fills but those two: the excursions are at least these.
    move = direction * (leave / entry - 1.0)
    bars = int(np.searchsorted(time, end) - np.searchsorted(time, begin))
    return (symbol, int(direction), int(begin), max(end, int(begin)), entry, leave, quantity, fees, pnl, gain,
            min(0.0, move), max(0.0, move), max(0, bars), status)


def _indicators(given: Any, market: str, warnings: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """One table over all times of all indicators, empty where an indicator says nothing."""
    if not isinstance(given, Mapping):
        if given:
            warnings.append({"code": "indicators", "message": "indicators came as names only, without values"})
        given = {}
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key, entry in list(given.items())[:_MOST_INDICATORS]:
        points = entry.get("values") if isinstance(entry, Mapping) else entry
        name = str(entry.get("display_name") or key) if isinstance(entry, Mapping) else str(key)
        if name in ("time", "symbol") or name in found:
            name = f"{name} ({key})"
        time, value = _series(points, f"indicators.{key}.values")
        if len(time):
            found[name] = (time, value)
    if len(given) > _MOST_INDICATORS:
        warnings.append({"code": "indicators", "message": f"only the first {_MOST_INDICATORS} indicators are kept"})
    grid = np.unique(np.concatenate([time for time, _ in found.values()])) if found else np.zeros(0, np.int64)
    table: dict[str, np.ndarray] = {"time": grid, "symbol": np.full(len(grid), market, object)}
    for name, (time, value) in found.items():
        column = np.full(len(grid), np.nan)
        column[np.searchsorted(grid, time)] = value
        table[name] = column
    return table


def _reported(given: Any) -> dict[str, Any]:
    """The sender's own figures: name -> value as it gave it; texts and nothing are values too."""
    if not isinstance(given, Mapping):
        names = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        return {str(name): None for name in names if name}
    found: dict[str, Any] = {}
    for key, entry in given.items():
        known = isinstance(entry, Mapping)
        name = str((entry.get("display_name") if known else None) or key)
        found[name if name not in found else f"{name} ({key})"] = entry.get("value") if known else entry
    return found


def _bound(body: Mapping[str, Any], field: str, time: np.ndarray, place: int) -> str | None:
    value = body.get(field)
    if value is None or value == "":
        return times.iso(int(time[place])) if len(time) else None
    return times.iso(times.parse(value, field=field))


def _resolution_name(seconds: int) -> str:
    return times.resolution_name(seconds)
