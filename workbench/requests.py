"""From the words of a call to the JSON of a backtest: `fast=10` is a parameter, `cash=50_000` a rule of the run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from engine import times
from engine.errors import Invalid, NotFound
from engine.model import Market
from engine.spec import BacktestSpec, Costs

RULES: Final = frozenset(BacktestSpec.model_fields) - {"strategy", "params", "markets"}
COSTS: Final = frozenset(Costs.model_fields)

Markets = str | Market | Sequence[str | Market]


def backtest_body(strategy: str, market: Markets | None = None, *, markets: Markets | None = None,
                  params: Mapping[str, Any] | None = None, **words: Any) -> dict[str, Any]:
    """The JSON of a BacktestSpec.

    Words that name a field of the spec (`start`, `cash`, `resolution`, `sizing` …) or a cost (`fee_rate`,
    `fixed_fee`, `slippage`) go there; every other word is a parameter of the strategy. Times may be dates, datetimes,
    timestamps or text; `sizing` may be a number (a fraction of equity). Raises `Invalid` when no market is given.
    """
    body: dict[str, Any] = {"strategy": strategy, "markets": market_keys(market, markets)}
    chosen = dict(params or {})
    costs: dict[str, Any] = {}
    for name, value in words.items():
        if value is None:
            continue
        if name in COSTS:
            costs[name] = value
        elif name in ("start", "end"):
            body[name] = times.iso(times.parse(value, field=name))
        elif name == "costs":
            costs = {**dict(value), **costs}
        elif name == "sizing":
            body[name] = {"kind": "fraction", "value": value} if isinstance(value, int | float) else dict(value)
        elif name == "benchmark":
            body[name] = str(value)
        elif name in RULES:
            body[name] = value
        else:
            chosen[name] = value
    if costs:
        body["costs"] = costs
    body["params"] = chosen
    return body


def market_keys(market: Markets | None, markets: Markets | None) -> list[str]:
    """The keys of `market` and `markets` together, in order."""
    found: list[str] = []
    for given in (market, markets):
        if given is None:
            continue
        found.extend([str(given)] if isinstance(given, str | Market) else [str(entry) for entry in given])
    if not found:
        raise Invalid("no market was given", field="market", remedy='name one, for example market="demo:AAPL/USD"')
    return found


def full_key(name: str, known: Iterable[str], *, field: str = "market") -> str:
    """The key that a short name such as `AAPL` or `AAPL/USD` means among the known ones.

    Raises `NotFound` when none or several fit, naming them.
    """
    if ":" in name:
        return name
    keys = sorted(set(known))
    fits = [key for key in keys if key.partition(":")[2].lower() == name.lower()] or [
        key for key in keys if key.partition(":")[2].rpartition("/")[0].lower() == name.lower()]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise NotFound(f"{name!r} could be {', '.join(fits)}", field=field, remedy="write the whole key")
    some = ", ".join(keys[:8]) + (" …" if len(keys) > 8 else "")
    raise NotFound(f"there is no market {name!r}", field=field,
                   remedy=f"there are {some}" if keys else "import candles first: workbench import FILE …")


def sweep_values(value: Any) -> Any:
    """The JSON of a swept parameter: a list of values, or low, high and step."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | int | float | bool):
        return [value]
    values = [entry.item() if hasattr(entry, "item") else entry for entry in value]
    if not values:
        raise Invalid("a swept parameter needs at least one value")
    return values


def sweep_body(strategy: str, market: Markets | None = None, *, markets: Markets | None = None,
               grid: Mapping[str, Any] | None = None, method: str = "grid", max_trials: int | None = None,
               objective: str = "sharpe", direction: str | None = None, validation: Mapping[str, Any] | None = None,
               seed: int | None = None, name: str = "", **words: Any) -> dict[str, Any]:
    """The JSON of a sweep. Lists, ranges and arrays are swept; single values stay fixed.

    `grid` names swept parameters whose names clash with other words. `direction` is "maximize" or "minimize"; what
    positions are allowed (long, short, both) is meant by the same word and told apart by its value.
    """
    if direction in ("long", "short", "both"):
        words["direction"], direction = direction, None
    swept = {key: sweep_values(value) for key, value in (grid or {}).items()}
    fixed: dict[str, Any] = {}
    for key, value in words.items():
        rule = key in RULES or key in COSTS or key in ("params", "costs")
        if not rule and (isinstance(value, Mapping) or (hasattr(value, "__iter__") and not isinstance(value, str))):
            swept[key] = sweep_values(value)
        else:
            fixed[key] = value
    if not swept:
        raise Invalid("nothing is swept", field="parameters", remedy="give a list for a parameter: fast=[5, 10, 20]")
    body: dict[str, Any] = {"base": backtest_body(strategy, market, markets=markets, **fixed), "parameters": swept,
                            "method": method, "objective": objective}
    optional = {"max_trials": max_trials, "direction": direction, "validation": validation, "seed": seed, "name": name}
    body.update({key: value for key, value in optional.items() if value not in (None, "")})
    return body
