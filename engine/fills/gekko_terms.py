"""What a spec with fill model "gekko" asks for: read and checked, without a compiler. See `engine.fills.gekko`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from engine import strategies
from engine.errors import Invalid, Problem
from engine.gekko_settings import Settings, read_settings
from engine.spec import BacktestSpec

_OPTIONS: Final = {"candle_size": 1.0, "asset": 0.0, "trail": 0.0, "risk_free": 0.0}


def read(spec: BacktestSpec) -> Settings:
    """The settings that a spec means; raises `Invalid` with every problem. Needs no compiler."""
    if len(spec.markets) != 1:
        raise Invalid("Gekko trades one market", field="markets", remedy="give one market")
    if config := spec.fill_options.get("config"):
        if not isinstance(config, Mapping):
            raise Invalid("is not a configuration", field="fill_options.config", remedy="give an object")
        settings = read_settings(config)
        named = {parameter.name: parameter for parameter in settings.strategy.parameters}
        if unknown := [name for name in spec.params if name not in named]:
            raise Invalid(f"{settings.strategy.name} has no parameter {unknown[0]!r}", field=f"params.{unknown[0]}",
                          remedy="parameters are " + ", ".join(named))
        params = {**settings.params, **{name: named[name].read(value) for name, value in spec.params.items()}}
        return replace(settings, params=params, history=float(params["history"]))
    return _own(spec)


def _own(spec: BacktestSpec) -> Settings:
    problems: list[Problem] = []
    options = dict(_OPTIONS)
    for name, value in spec.fill_options.items():
        if name not in _OPTIONS and name != "config":
            problems.append(Problem(f"fill_options.{name}", "is not an option of fill model gekko",
                                    "options are " + ", ".join((*_OPTIONS, "config"))))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12 \
                or (name == "candle_size" and (value < 1 or value != int(value))) or (name == "trail" and value > 100):
            problems.append(Problem(f"fill_options.{name}", f"{value!r} is not allowed", "give a number of at least "
                                    + ("1, a whole one" if name == "candle_size" else "0")))
        else:
            options[name] = float(value)
    for field, wrong, remedy in (
            ("direction", spec.direction != "long", 'Gekko does not go short: use "long"'),
            ("costs.slippage", spec.costs.slippage != 0, "Gekko's paper trader knows none: use 0"),
            ("costs.fixed_fee", spec.costs.fixed_fee != 0, "Gekko's paper trader knows none: use 0"),
            ("sizing", spec.sizing.kind != "fraction" or spec.sizing.value != 1.0, "Gekko always trades all: leave it"),
            ("source", spec.source != "store", 'use "store"')):
        if wrong:
            problems.append(Problem(field, "fill model gekko cannot do this", remedy))
    strategy = strategies.get(spec.strategy)
    params: dict[str, Any] = {}
    try:
        params = dict(strategy.resolve(spec.params))
    except Invalid as error:
        problems.extend(error.problems)
    if strategy.scope != "market":
        problems.append(Problem("strategy", f"{strategy.name} sees several markets", "use a strategy of one market"))
    if problems:
        raise Invalid("the backtest cannot work with fill model gekko", field=problems[0].field, problems=problems)
    trail = options["trail"]
    if strategy.name == "gekko_debug_single":  # the paper trader sees to its stop, bar by bar
        trail, params["trail"] = float(params["trail"]), 0.0
    return Settings(
        method=strategy.name, strategy=strategy, params=params, shows=(), trail=trail,
        candle_size=options["candle_size"], history=float(params.get("history", 0)), trading=True,
        fee_percent=spec.costs.fee_rate * 100, asset=options["asset"], currency=spec.cash, analyzing=True,
        risk_free=options["risk_free"], batch_size=1, strategy_parameters=params, exported={})
