"""Gekko's backtest on one market's candles: the figures of the original, to the last bit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine import times
from engine.advice import walk
from engine.candles import Candles
from engine.errors import Invalid
from engine.fills import gekko_trader
from engine.gekko_ranges import read_range, require_candles, scan
from engine.gekko_report import GekkoReport, performance
from engine.gekko_settings import Settings, read_settings
from engine.reporter import Reporter


def run(config: Mapping[str, Any], candles: Candles, reporter: Reporter | None = None) -> GekkoReport:
    """The backtest that a configuration (the body of POST /api/backtest) asks for.

    `candles` are the market's, of one minute, at least over the range that the configuration names (without one: over
    the only range they have); `extra["vwp"]` and `extra["trades"]` are used where present, else the close and 0.
    Candles of another resolution take the place of minutes: only times differ. Raises `Invalid` with field and remedy
    where the original fails.
    """
    settings = read_settings(config)
    watch = config.get("watch")
    if not isinstance(watch, Mapping):
        raise Invalid("the section watch is missing", field="watch", remedy="name exchange, currency and asset")
    return simulate(settings, cut(config, settings, candles), watch=watch, advisor=config["tradingAdvisor"],
                    reporter=reporter)


def cut(config: Mapping[str, Any], settings: Settings, candles: Candles) -> Candles:
    """The candles of the range that a configuration names; raises `Invalid` where Gekko would not run on them."""
    backtest = config.get("backtest")
    daterange = backtest.get("daterange", "scan") if isinstance(backtest, Mapping) else "scan"
    if daterange == "scan":
        ranges = scan(candles.time // times.SECOND)
        if len(ranges) != 1:
            raise Invalid(f"the market has {len(ranges)} ranges of candles" if ranges else "the market has no candles",
                          field="backtest.daterange", remedy='give {"from": …, "to": …}')
        start, end = ranges[0]
    else:
        start, end = read_range(daterange)
    cut = candles.between(start * times.SECOND, end * times.SECOND)
    require_candles(cut.time // times.SECOND, start, end, settings.batch_size)
    return cut


def simulate(settings: Settings, candles: Candles, *, watch: Mapping[str, Any], advisor: Mapping[str, Any],
             reporter: Reporter | None = None) -> GekkoReport:
    """The backtest on all of these candles."""
    fee = 1.0 - settings.fee_percent / 100.0
    reporter = reporter or Reporter()
    reporter.progress(0.3, "Loading market data")
    size = settings.size(len(candles))
    batches = _batches(size, candles)
    width = candles.resolution
    second = candles.time // times.SECOND
    said = walk(settings.strategy, dict(settings.params), [_as_candles(candles, batches)], batches.start,
                reporter)
    warm = settings.warm
    warm = -1 if warm is None or warm >= len(batches) else warm
    trading = gekko_trader.trade(candles.close, batches, said.exposure, warm=warm, fee=fee, asset=settings.asset,
                                 currency=settings.currency, trail=settings.trail, enabled=settings.trading)
    pairs = gekko_trader.pair(trading.side if settings.analyzing else trading.side[:0])
    date = second[trading.at] + width
    roundtrips = _roundtrips(pairs, date, trading)
    report = None
    if settings.analyzing and len(trading):
        begin = int(batches.last[warm])
        report = performance(
            start=int(second[begin]), end=int(second[-1]) + width, start_price=float(candles.close[begin]),
            end_price=float(candles.close[-1]), start_balance=_first_balance(settings, candles, trading, begin),
            balance=float(trading.value[-1]), trades=len(trading), roundtrips=roundtrips, risk_free=settings.risk_free)
    worth = np.full(len(batches), np.nan)
    known = batches.last > 0
    worth[known] = trading.value[batches.last[known] - 1]
    return GekkoReport(
        market=dict(watch), tradingAdvisor=dict(advisor), strategyParameters=settings.strategy_parameters,
        performanceReport=report,
        advice_columns={"date": second[trading.advised_at] + width, "side": trading.advised,
                        "candle": trading.advised_on, "close": candles.close[trading.advised_at]},
        trade_columns={"date": date, "side": trading.side, "number": trading.number, "advice": trading.advice,
                       "cost": trading.cost, "amount": trading.amount, "price": trading.price, "asset": trading.asset,
                       "currency": trading.currency, "balance": trading.balance, "at": trading.at},
        roundtrip_columns=roundtrips,
        candle_columns={"start": batches.start // times.SECOND if size > 1 else second, "open": batches.open,
                        "high": batches.high, "low": batches.low, "close": batches.close, "vwp": batches.vwp,
                        "volume": batches.volume, "trades": _counts(batches.trades), "portfolioValue": worth},
        lines=said.indicators, fee=fee, fee_percent=settings.fee_percent, trail=settings.trail, shows=settings.shows,
        first_values=tuple(settings.silent(kind) for _, kind, _, _ in settings.shows),
        exported=settings.exported)


def _batches(size: int, candles: Candles) -> gekko_trader.Batches:
    close = np.ascontiguousarray(candles.close)
    vwp = np.ascontiguousarray(candles.extra.get("vwp", close))
    if not np.isfinite(vwp).all():
        vwp = np.where(np.isfinite(vwp), vwp, close)
    counts = candles.extra.get("trades")
    if counts is None:
        counts = np.zeros(len(close))
    elif not np.isfinite(counts).all():
        counts = np.nan_to_num(counts)
    opens, highs, lows, volumes = (np.ascontiguousarray(getattr(candles, name))
                                   for name in ("open", "high", "low", "volume"))
    return gekko_trader.batch(size, candles.time, opens, highs, lows, close, vwp, volumes, np.ascontiguousarray(counts))


def _as_candles(candles: Candles, batches: gekko_trader.Batches) -> Candles:
    return replace(candles, time=batches.start, open=batches.open, high=batches.high, low=batches.low,
                   close=batches.close, volume=batches.volume, extra={})


def _counts(trades: np.ndarray) -> np.ndarray:
    """Numbers of trades as whole numbers where all are."""
    whole = trades.astype(np.int64)
    return whole if (whole == trades).all() else trades


def _roundtrips(pairs: gekko_trader.Roundtrips, date: np.ndarray,
                trading: gekko_trader.Trading) -> dict[str, np.ndarray]:
    entry, leave = pairs.entry, pairs.leave
    worth = trading.currency + trading.asset * trading.price
    before, after = worth[entry], worth[leave]
    with np.errstate(all="ignore"):
        return {"id": pairs.number, "entryAt": date[entry], "entryPrice": trading.price[entry], "entryBalance": before,
                "exitAt": date[leave], "exitPrice": trading.price[leave], "exitBalance": after,
                "duration": (date[leave] - date[entry]) * 1000, "pnl": after - before,
                "profit": (100 * after / before) - 100}


def _first_balance(settings: Settings, candles: Candles, trading: gekko_trader.Trading, begin: int) -> float:
    """The first value of the portfolio that is not zero."""
    first = settings.currency + settings.asset * float(candles.close[begin])
    if first:
        return first
    later = trading.value[begin:][trading.value[begin:] != 0]
    return float(later[0]) if len(later) else 0.0
