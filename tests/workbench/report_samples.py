"""Made-up but coherent results for the report's tests: every table agrees with the others."""

import numpy as np

from engine import analysis, times
from engine.result import BacktestResult

CANDLE_FIELDS = ("time", "open", "high", "low", "close", "volume")


def market(
    bars: int, resolution: int, seed: int, first: str = "2019-01-02", weekdays: bool = True
) -> dict[str, np.ndarray]:
    """A random walk of candles; daily bars leave out weekends."""
    rng = np.random.default_rng(seed)
    step = resolution * times.SECOND
    count = bars * 7 // 5 + 10 if weekdays and resolution == 86400 else bars
    time = times.micros(times.parse(first)) + np.arange(count, dtype=np.int64) * step
    if weekdays and resolution == 86400:
        time = time[(time // times.DAY + 3) % 7 < 5][:bars]
    scale = 0.014 * np.sqrt(resolution / 86400)
    move = rng.standard_t(4, size=bars) * scale / np.sqrt(2) + 0.0004 * resolution / 86400
    close = 100 * np.exp(np.cumsum(move))
    open_ = np.concatenate(([100.0], close[:-1])) * np.exp(rng.normal(0, scale / 8, bars))
    wick = np.abs(rng.normal(0, scale / 2, (2, bars)))
    return {
        "time": time,
        "open": open_,
        "close": close,
        "high": np.maximum(open_, close) * (1 + wick[0]),
        "low": np.minimum(open_, close) * (1 - wick[1]),
        "volume": rng.lognormal(12, 0.5, bars),
    }


def result(
    *,
    bars: int = 1260,
    resolution: int = 86400,
    symbols: int = 2,
    hold: int = 20,
    seed: int = 1,
    trades: bool = True,
    strategy: str = "sma_cross",
    params: dict | None = None,
    weekdays: bool = True,
) -> tuple[BacktestResult, dict[str, dict[str, np.ndarray]]]:
    """A backtest that is long half of the time in each symbol, with its candles by market key."""
    keys = [f"demo:{name}/USD" for name in ("AAPL", "MSFT", "IBM", "GOOG", "FB")[:symbols]]
    candles = {key: market(bars, resolution, seed * 10 + i, weekdays=weekdays) for i, key in enumerate(keys)}
    time, cash0 = candles[keys[0]]["time"], 100_000.0
    rng = np.random.default_rng(seed)
    cash, value = np.full(bars, cash0), np.zeros((symbols, bars))
    fills, trips, positions = [], [], []
    for i, key in enumerate(keys):
        data, at, held = candles[key], max(5, hold // 2), np.zeros(bars)
        while trades and at < bars - 1:
            out = min(at + 1 + int(rng.integers(1, max(2, 2 * hold))), bars - 1)
            direction = -1 if rng.random() < 0.3 else 1
            price, quantity = data["open"][at], round(cash0 / symbols / data["open"][at], 4)
            leave = data["open"][out] if out < bars - 1 else data["close"][out]
            closed, fee = out < bars - 1, 0.001
            held[at : out + (0 if closed else 1)] = direction * quantity
            cash[at:] -= direction * quantity * price + fee * quantity * price
            fills.append((time[at], key, direction, quantity, price, fee * quantity * price, time[at - 1], "cross"))
            if closed:
                cash[out:] += direction * quantity * leave - fee * quantity * leave
                fills.append(
                    (
                        time[out],
                        key,
                        -direction,
                        quantity,
                        leave,
                        fee * quantity * leave,
                        time[out - 1],
                        "stop" if rng.random() < 0.3 else "cross",
                    )
                )
            fees = fee * quantity * (price + (leave if closed else 0))
            pnl = direction * quantity * (leave - price) - fees
            high, low = data["high"][at : out + 1].max(), data["low"][at : out + 1].min()
            best, worst = (high, low) if direction > 0 else (low, high)
            trips.append(
                (
                    key,
                    direction,
                    time[at],
                    time[out],
                    price,
                    leave,
                    quantity,
                    fees,
                    pnl,
                    pnl / (quantity * price),
                    min(0, direction * (worst / price - 1)),
                    max(0, direction * (best / price - 1)),
                    out - at,
                    "closed" if closed else "open",
                )
            )
            at = out + 1 + int(rng.integers(1, max(2, hold)))
        value[i] = held * data["close"]
        positions.append((time, np.array([key] * bars, object), held, value[i]))
    fills.sort(key=lambda row: row[0])
    trips.sort(key=lambda row: row[2])
    total = cash + value.sum(0)
    benchmark = cash0 * np.mean([data["close"] / data["close"][0] for data in candles.values()], axis=0)
    close = candles[keys[0]]["close"]
    fast, slow = (np.convolve(close, np.ones(n) / n)[:bars] for n in (20, 50))
    fast[:19], slow[:49] = np.nan, np.nan
    tables = {
        "equity": {
            "time": time,
            "value": total,
            "cash": cash,
            "positions": value.sum(0),
            "gross": np.abs(value).sum(0),
            "benchmark": benchmark,
        },
        "fills": columns(fills, ("time", "symbol", "side", "quantity", "price", "fee", "advised_at", "reason")),
        "roundtrips": columns(
            trips,
            (
                "symbol",
                "direction",
                "entry_time",
                "exit_time",
                "entry_price",
                "exit_price",
                "quantity",
                "fees",
                "pnl",
                "return",
                "mae",
                "mfe",
                "bars",
                "status",
            ),
        ),
        "indicators": {
            "time": time,
            "symbol": np.array([keys[0]] * bars, object),
            "fast": fast,
            "slow": slow,
            "momentum": np.concatenate((np.full(min(20, bars), np.nan), close[20:] / close[:-20] - 1))[:bars],
        },
        "positions": {
            name: np.concatenate([row[i] for row in positions])
            for i, name in enumerate(("time", "symbol", "quantity", "value"))
        },
    }
    spec = {
        "strategy": strategy,
        "params": params or {"fast": 20, "slow": 50},
        "markets": keys,
        "resolution": times.resolution_name(resolution),
        "start": None,
        "end": None,
        "cash": cash0,
        "currency": "USD",
        "costs": {"fee_rate": 0.001, "fixed_fee": 0.0, "slippage": 0.0005},
        "sizing": {"kind": "fraction", "value": 1.0},
        "direction": "both",
        "seed": 7,
        "benchmark": None,
        "data_mode": "warn",
        "fill_model": "next_bar",
    }
    return BacktestResult(
        spec=spec,
        tables=tables,
        metrics=figures(tables, cash0),
        provenance={
            "strategy": {"name": strategy, "source_sha256": "9f2c4e1ab07d" + "0" * 52, "version": "1"},
            "data": [{"market": key, "fingerprint": "ab12" * 16, "rows": bars, "gaps": 0} for key in keys],
            "versions": {"workbench": "0.1.0", "vectorbt": "1.2.0", "numpy": "2.4.6"},
            "seed": 7,
            "annualisation": "252 trading days a year (exchange calendar found in the data)",
        },
        warnings=({"code": "gap", "message": "3 bars are missing between 2020-03-04 and 2020-03-09"},)
        if trades
        else (),
        logs=("loaded candles", "simulated", "wrote result"),
    ), candles


def columns(rows: list[tuple], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    text = {"symbol", "reason", "status"}
    whole = {"time", "advised_at", "entry_time", "exit_time", "side", "direction", "bars"}
    return {
        name: np.array([row[i] for row in rows], object if name in text else np.int64 if name in whole else float)
        for i, name in enumerate(names)
    }


def figures(tables: dict, cash: float) -> dict[str, float | None]:
    """A few of the engine's figures, enough for tiles."""
    equity, trips = tables["equity"], tables["roundtrips"]
    day, value = analysis.daily(equity["time"], equity["value"])
    gains, pnl = analysis.returns(value, cash), trips["pnl"]
    years = max((day[-1] - day[0]) / times.DAY / 365.25, 1 / 365.25)
    growth = max(float(value[-1]), 1.0) / cash
    deviation = float(gains.std(ddof=1)) if len(gains) > 1 else 0.0
    worst = float(analysis.drawdown(equity["value"]).min())
    found = {
        "total_return": value[-1] / cash - 1,
        "annual_return": growth ** min(1 / years, 50) - 1,
        "volatility": deviation * 252**0.5,
        "max_drawdown": worst,
        "final_value": value[-1],
        "sharpe": gains.mean() / deviation * 252**0.5 if deviation else None,
        "trades": float(len(pnl)),
        "fills": float(len(tables["fills"]["time"])),
        "fees_paid": float(tables["fills"]["fee"].sum()),
        "win_rate": float((pnl > 0).mean()) if len(pnl) else None,
        "periods_per_year": 252.0,
        "exposure": float((equity["gross"] > 0).mean()),
        "benchmark_return": equity["benchmark"][-1] / cash - 1,
        "max_drawdown_days": 123.0,
        "profit_factor": 1.21 if len(pnl) else None,
        "calmar": None,
        "psr": 0.83,
    }
    return {key: None if number is None else float(number) for key, number in found.items()}
