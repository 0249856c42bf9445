"""Gekko's configuration, read: which strategy with which parameters, fees, balances, what to report.

A configuration is the body of POST /api/backtest: `watch`, `backtest`, `tradingAdvisor`, the strategy's own section,
`paperTrader`, `performanceAnalyzer`, `backtestResultExporter`. Keys that a backtest does not read are ignored. All that
makes the original fail without a word raises `Invalid` with the key and a remedy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine import strategies
from engine.errors import Invalid, Problem
from engine.gekko_ranges import BATCH
from engine.strategies.base import Strategy

LARGEST: Final = 10_000_000
"""Candles in one window."""

NEVER: Final = 1e300
"""A history that is never complete."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A strategy as Gekko names it: the workbench's strategy, where its parameters stand in the configuration, and its
    indicators in stratUpdates as (name, kind, first line, keys). Kinds: "value"; "lazy" (false until there is one);
    "shared" (one object for all updates, see `engine.gekko_report`); "native" (an object, empty until there is one);
    "single" (like native, but the value itself)."""

    strategy: str
    paths: Mapping[str, str]
    shows: tuple[tuple[str, str, int, tuple[str, ...]], ...] = ()
    fixed: Mapping[str, Any] | None = None
    trail: float = 0.0


_LEVELS: Final = {"down": "thresholds.down", "up": "thresholds.up"}
_LASTING: Final = {"persistence": "thresholds.persistence"}
_BOUNDS: Final = {"low": "thresholds.low", "high": "thresholds.high", **_LASTING}
_AVERAGES: Final = {"short": "short", "long": "long", "signal": "signal"}
_PERIODS: Final = {"fast": "parameters.optInFastPeriod", "slow": "parameters.optInSlowPeriod",
                   "signal": "parameters.optInSignalPeriod"}
_PPO: Final = ("ppo", "shared", 0,
               ("shortEMA", "longEMA", "macd", "ppo", "MACDsignal", "MACDhist", "PPOsignal", "PPOhist"))
_TULIP: Final = ("mymacd", "native", 0, ("macd", "macdSignal", "macdHistogram"))
_ADX: Final = ("result",)
_WINDOWS: Final = {f"{place}_{key}": f"{place}.{key}" for place in ("first", "second", "third")
                   for key in ("weight", "period")}

METHODS: Final[Mapping[str, Method]] = {
    "CCI": Method(strategy="gekko_cci", shows=(("cci", "lazy", 0, ()),),
                  paths={"constant": "constant", "window": "history", **_LEVELS, **_LASTING}),
    "DEBUG_single-advice": Method(strategy="gekko_debug_single", paths={}, fixed={"trail": 0.0}, trail=0.5),
    "DEBUG_toggle-advice": Method(strategy="gekko_debug_toggle", paths={}),
    "DEMA": Method(strategy="gekko_dema", paths={"weight": "weight", **_LEVELS},
                   shows=(("dema", "value", 0, ()), ("sma", "value", 1, ()))),
    "MACD": Method(strategy="gekko_macd", paths={**_AVERAGES, **_LEVELS, **_LASTING},
                   shows=(("macd", "value", 0, ()),)),
    "PPO": Method(strategy="gekko_ppo", paths={**_AVERAGES, **_LEVELS, **_LASTING}, shows=(_PPO,)),
    "RSI": Method(strategy="gekko_rsi", paths={"interval": "interval", **_BOUNDS}, shows=(("rsi", "value", 0, ()),)),
    "StochRSI": Method(strategy="gekko_stochrsi", paths={"interval": "interval", **_BOUNDS},
                       shows=(("rsi", "value", 0, ()),)),
    "TMA": Method(strategy="gekko_tma", paths={key: key for key in ("short", "medium", "long")},
                  shows=tuple((key, "value", place, ()) for place, key in enumerate(("short", "medium", "long")))),
    "TSI": Method(strategy="gekko_tsi", paths={"short": "short", "long": "long", **_BOUNDS}),
    "UO": Method(strategy="gekko_uo", paths={**_WINDOWS, **_BOUNDS}),
    "custom": Method(strategy="gekko_custom", paths={}),
    "noop": Method(strategy="gekko_noop", paths={}),
    "talib-macd": Method(strategy="gekko_talib_macd", paths={**_PERIODS, **_LEVELS},
                         shows=(("mymacd", "native", 0, ("outMACD", "outMACDSignal", "outMACDHist")),)),
    "tulip-adx": Method(strategy="gekko_tulip_adx", paths={"period": "optInTimePeriod", **_LEVELS},
                        shows=(("myadx", "single", 0, _ADX),)),
    "tulip-macd": Method(strategy="gekko_tulip_macd", paths={**_PERIODS, **_LEVELS}, shows=(_TULIP,)),
    "tulip-multi-strat": Method(
        strategy="gekko_tulip_multi", shows=(_TULIP, ("myadx", "single", 3, _ADX)),
        paths={"period": "optInTimePeriod", "fast": "optInFastPeriod", "slow": "optInSlowPeriod",
               "signal": "optInSignalPeriod", **{key: key for key in ("up", "down", "macd_up", "macd_down")}}),
    "varPPO": Method(strategy="gekko_varppo", shows=(_PPO,),
                     paths={"weight_low": "thresholds.weightLow", "weight_high": "thresholds.weightHigh", **_LASTING}),
}

_MOMENTUM: Final = {
    "TSI": {"tsi_short": "short", "tsi_long": "long", "low": "thresholds.low", "high": "thresholds.high"},
    "UO": {**_WINDOWS, "low": "thresholds.low", "high": "thresholds.high"},
    "RSI": {"interval": "interval", "low": "thresholds.low", "high": "thresholds.high"},
}
_TRUNCATED: Final = ("gekko_tulip_macd", "gekko_talib_macd", "gekko_tulip_adx", "gekko_tulip_multi")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a backtest needs. `params` are complete but may lie outside the strategy's own bounds, as Gekko allows."""

    method: str
    strategy: Strategy
    params: Mapping[str, Any]
    shows: tuple[tuple[str, str, int, tuple[str, ...]], ...]
    trail: float
    candle_size: float
    history: float
    trading: bool
    fee_percent: float
    asset: float
    currency: float
    analyzing: bool
    risk_free: float
    batch_size: int
    strategy_parameters: Any
    exported: Mapping[str, Any]

    @property
    def warm(self) -> int | None:
        """The strategy's candle (counted from 0) on which it is asked first; None: never."""
        return None if self.history >= NEVER else max(1, math.ceil(self.history)) - 1

    def silent(self, kind: str) -> int:
        """How many of the strategy's candles pass before an indicator shown as this kind has a value."""
        params = self.params
        if kind == "lazy":
            return int(params["window"]) - 1
        if kind == "native":
            slow = int(params["slow"])
            return slow - 1 if self.method != "talib-macd" else \
                max(slow, int(params["fast"])) + int(params["signal"]) - 2
        return 2 * int(params["period"]) - 2 if kind == "single" else 0

    def size(self, candles: int) -> int:
        """Candles in one of the strategy's, or more than there are. Any number of minutes is a size for Gekko: it makes
        a candle whenever the count divides without remainder."""
        size = abs(self.candle_size)
        if size == 0:
            return candles + 1
        if size == int(size):
            return int(min(size, candles + 1))
        return next((count for count in range(1, candles + 1) if math.fmod(count, size) == 0), candles + 1)


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of a configuration; raises `Invalid` for what cannot be run, naming the key."""
    advisor = _section(config, "tradingAdvisor")
    name = advisor.get("method")
    if not isinstance(name, str) or name not in METHODS:
        raise Invalid(f"there is no strategy {name!r}", field="tradingAdvisor.method",
                      remedy="strategies are " + ", ".join(METHODS))
    size = advisor.get("candleSize")
    if size is None or not _finite(size):
        raise Invalid(f"{size!r} is not a number of minutes", field="tradingAdvisor.candleSize",
                      remedy="give a number such as 60, not text")
    exporter = _section(config, "backtestResultExporter")
    if not exporter.get("enabled"):
        raise Invalid("the result would not be sent", field="backtestResultExporter.enabled", remedy="set it to true")
    trader, analyzer = _section(config, "paperTrader", False), _section(config, "performanceAnalyzer", False)
    trading = bool(trader.get("enabled"))
    balance = _section(trader, "simulationBalance", trading, "paperTrader.")
    fee = "feeMaker" if trader.get("feeUsing") == "maker" else "feeTaker"
    method = METHODS[name]
    own = config.get(name)
    return Settings(
        method=name, strategy=strategies.get(method.strategy), params=_parameters(config, name, method, advisor),
        shows=_shown(method, own), trail=method.trail,
        candle_size=float(size), history=_history(advisor), trading=trading,
        fee_percent=_number(trader, fee, "paperTrader.") if trading else 0.0,
        asset=_number(balance, "asset", "paperTrader.simulationBalance.") if trading else 0.0,
        currency=_number(balance, "currency", "paperTrader.simulationBalance.") if trading else 0.0,
        analyzing=bool(analyzer.get("enabled")), risk_free=_loose(analyzer.get("riskFreeReturn", math.nan)),
        batch_size=_batch_size(config), strategy_parameters=own,
        exported={"stratUpdates": False, "roundtrips": True, "stratCandles": True, "trades": True,
                  **_section(exporter, "data", False, "backtestResultExporter.")},
    )


def _finite(value: Any) -> bool:
    """Whether this is a number that fits into a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 <= value <= 1e300


def _section(config: Mapping[str, Any], name: str, needed: bool = True, under: str = "") -> Mapping[str, Any]:
    value = config.get(name)
    if isinstance(value, Mapping):
        return value
    if needed or value is not None:
        raise Invalid(f"the section {under}{name} is missing", field=f"{under}{name}", remedy="give an object")
    return {}


def _loose(value: object) -> float:
    """A number as JavaScript reads it in arithmetic; NaN for what is none."""
    if value is None:
        return 0.0
    try:
        return float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return math.nan


def _number(section: Mapping[str, Any], key: str, under: str) -> float:
    value = section.get(key)
    if value is None or not _finite(value):
        raise Invalid(f"{value!r} is not a number", field=under + key, remedy="give a number")
    return float(value)


def _history(advisor: Mapping[str, Any]) -> float:
    if "historySize" not in advisor:
        return NEVER
    size = _loose(advisor["historySize"])
    return size if size == size and size < NEVER else NEVER


def _batch_size(config: Mapping[str, Any]) -> int:
    backtest = config.get("backtest")
    size = backtest.get("batchSize", BATCH) if isinstance(backtest, Mapping) else BATCH
    if not _finite(size) or not (1 <= size <= LARGEST) or size != int(size):
        raise Invalid(f"{size!r} is not a number of minutes", field="backtest.batchSize",
                      remedy="leave it out or give a whole number of at least 1")
    return int(size)


def _shown(method: Method, own: Any) -> tuple[tuple[str, str, int, tuple[str, ...]], ...]:
    if method.strategy == "gekko_varppo" and isinstance(own, Mapping) and own.get("momentum") == "RSI":
        return (*method.shows, ("rsi", "value", 8, ()))
    return method.shows


def _parameters(config: Mapping[str, Any], name: str, method: Method, advisor: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of the strategy; raises `Invalid` with every setting that is missing or of no use."""
    strategy = strategies.get(method.strategy)
    params: dict[str, Any] = {each.name: each.default for each in strategy.parameters}
    params |= method.fixed or {}
    params["history"] = _history(advisor)
    problems: list[Problem] = []
    _take(params, strategy, config, name, method.paths, problems)
    if name == "varPPO":
        _take(params, strategy, config, "PPO", _AVERAGES, problems)
        momentum = (config.get(name) or {}).get("momentum") if isinstance(config.get(name), Mapping) else None
        if momentum not in _MOMENTUM:
            problems.append(Problem("varPPO.momentum", f"{momentum!r} is no momentum indicator", "use RSI, TSI or UO"))
        elif momentum == "RSI" and config.get("debug", True):
            problems.append(Problem("varPPO.momentum", "varPPO does not work with RSI", "use TSI or UO"))
        else:
            params |= {"momentum": momentum, "rsi_works": False}
            _take(params, strategy, config, momentum, _MOMENTUM[momentum], problems)
    if name == "custom" and isinstance(own := config.get(name), Mapping) and "seed" in own:
        _take(params, strategy, config, name, {"seed": "seed"}, problems)
    if problems:
        raise Invalid(problems[0].message, field=problems[0].field, remedy=problems[0].remedy, problems=problems)
    return params


def _take(params: dict[str, Any], strategy: Strategy, config: Mapping[str, Any], section: str,
          paths: Mapping[str, str], problems: list[Problem]) -> None:
    """Put the figures that stand at `paths` of a section of the configuration into `params`."""
    if not paths:
        return
    own = config.get(section)
    if not isinstance(own, Mapping):
        problems.append(Problem(section, f"the settings of {section} are missing", f'send "{section}": {{…}}'))
        return
    described = {parameter.name: parameter for parameter in strategy.parameters}
    for name, path in paths.items():
        value: Any = own
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        field = f"{section}.{path}"
        if not _finite(value):
            problems.append(Problem(field, f"{value!r} is not a number", "give a number"))
            continue
        problem = _fits(strategy, described[name], value)
        if problem:
            problems.append(Problem(field, f"{value!r} is of no use", problem))
        elif described[name].type == "int" and strategy.name in _TRUNCATED:
            value = int(value)
        params[name] = value
    if strategy.name.startswith("gekko_tulip") and not problems and params.get("fast", 0) > params.get("slow", 0):
        problems.append(Problem(f"{section}.{paths['fast']}", "the fast period is longer than the slow one",
                                "use at most the slow period"))


def _fits(strategy: Strategy, parameter: Any, value: float) -> str:
    """What to do instead when a window cannot have this length, else nothing."""
    if parameter.type != "int" or parameter.name in ("persistence", "seed"):
        return ""
    if strategy.name in _TRUNCATED:  # the libraries cut fractions off
        return "" if parameter.low <= int(value) <= LARGEST else f"use at least {parameter.low:g}"
    if parameter.name == "interval" and strategy.name != "gekko_stochrsi":
        return ""
    return "" if 1 <= value <= LARGEST and value == int(value) else "use a whole number of at least 1"
