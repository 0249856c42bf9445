"""What a strategy is: a description that anybody may read, and a step that is compiled when somebody runs it.

    step(params f8[:], state f8[:], bars f8[n, 5], advice f8[n], out f8[k])

is called once a bar, after its close. `params` are the resolved parameters in the order of their description (a bool
is 0 or 1, a choice its position); `state` is the step's memory, zeros at first; a row of `bars` is open, high, low,
close, volume of one symbol, NaN where it has no bar; `advice` comes filled with NaN, which means "as before", and takes
the wished exposure of each symbol from -1 (short) to 1 (long) as a fraction of its allotment; `out` takes the
indicators, filled with NaN beforehand. A step knows nothing but what it was given, so it cannot look ahead.

Scope "market": the step sees one market (n = 1) and each market has a state of its own; an allotment is an equal share
of the portfolio. Scope "portfolio": one step sees all markets, its advice is a share of the whole portfolio (see
`engine.spec.Sizing`), and every advice rebalances, even one that repeats the last.
"""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from engine.compiled import StepFunction
from engine.errors import Invalid, Problem
from engine.spec import ParameterValue

Speed = Literal["backtest", "sweep", "live", "python"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One named knob. `low` and `high` are inclusive; `step` is a sensible stride for sliders and grids."""

    name: str
    type: Literal["int", "float", "bool", "choice"]
    default: ParameterValue
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    doc: str = ""

    def read(self, value: object) -> ParameterValue:
        """The value as the type says (2.0 and "2" are good ints); raises `Invalid` with the allowed range."""
        good = self._convert(value)
        if good is None:
            raise Invalid(f"{value!r} is not allowed", field=f"params.{self.name}", remedy=self.allowed())
        return good

    def _convert(self, value: object) -> ParameterValue | None:
        if self.type == "choice":
            return value if isinstance(value, str) and value in self.choices else None
        if self.type == "bool":
            if isinstance(value, str):
                return {"true": True, "false": False}.get(value.strip().lower())
            return bool(value) if value in (0, 1) else None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        if not math.isfinite(number) or (self.type == "int" and number != int(number)):
            return None
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            return None
        return int(number) if self.type == "int" else number

    def allowed(self) -> str:
        """What may be given, in words."""
        if self.type == "choice":
            return "choose one of " + ", ".join(self.choices)
        if self.type == "bool":
            return "use true or false"
        kind = "a whole number" if self.type == "int" else "a number"
        if self.low is not None and self.high is not None:
            return f"use {kind} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"use {kind} of at least {self.low:g}"
        return f"use {kind}" + (f" up to {self.high:g}" if self.high is not None else "")

    def encode(self, value: ParameterValue) -> float:
        """The value as the step sees it."""
        return float(self.choices.index(str(value))) if self.type == "choice" else float(value)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "default": self.default, "low": self.low, "high": self.high,
                "step": self.step, "choices": list(self.choices), "doc": self.doc}


@dataclass(frozen=True, kw_only=True, slots=True)
class Indicator:
    """One named line: drawn over the prices or in a panel of its own."""

    name: str
    panel: Literal["price", "own"] = "price"
    doc: str = ""


def _none(params: Mapping[str, Any]) -> list[Problem]:
    return []


def _one(params: Mapping[str, Any], n: int) -> int:
    return 1


def _zero(params: Mapping[str, Any]) -> int:
    return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Strategy:
    """A strategy's description and its step.

    `state_size(params, n)` is how many floats of memory the step needs for n symbols, `warm_up(params)` how many bars
    pass before its first possible advice, `rules(params)` the problems that no single parameter shows (fast >= slow).
    `speeds` says what it can do: "backtest" and "sweep" run compiled, "live" one candle at a time, "python" means that
    the step runs as plain Python, about a thousand times slower.
    """

    name: str
    title: str
    doc: str
    step: StepFunction
    parameters: tuple[Parameter, ...] = ()
    indicators: tuple[Indicator, ...] = ()
    scope: Literal["market", "portfolio"] = "market"
    state_size: Callable[[Mapping[str, Any], int], int] = _one
    warm_up: Callable[[Mapping[str, Any]], int] = _zero
    rules: Callable[[Mapping[str, Any]], list[Problem]] = _none
    fill_model: str = "next_bar"
    speeds: tuple[Speed, ...] = ("backtest", "sweep", "live")
    tags: tuple[str, ...] = ()

    def resolve(self, params: Mapping[str, Any]) -> dict[str, ParameterValue]:
        """Every parameter with its value, defaults filled in; raises `Invalid` naming everything unknown or wrong."""
        known = {parameter.name: parameter for parameter in self.parameters}
        problems = [
            Problem(f"params.{name}", f"{self.name} has no parameter {name!r}",
                    "parameters are " + ", ".join(known) if known else "it has none")
            for name in params if name not in known
        ]
        resolved: dict[str, ParameterValue] = {}
        for name, parameter in known.items():
            try:
                resolved[name] = parameter.read(params[name]) if name in params else parameter.default
            except Invalid as error:
                problems.extend(error.problems)
        if not problems:
            problems = self.rules(resolved)
        if problems:
            raise Invalid(f"the parameters do not fit the strategy {self.name}", field="params", problems=problems)
        return resolved

    def vector(self, params: Mapping[str, ParameterValue]) -> np.ndarray:
        """Resolved parameters as the step sees them, float64, shape (number of parameters,)."""
        return np.array([parameter.encode(params[parameter.name]) for parameter in self.parameters], np.float64)

    def load(self) -> Any:
        """The compiled step (see `engine.compiled.step`), or the Python function itself for speed "python"."""
        if "python" in self.speeds:
            return self.step
        from engine import compiled

        return compiled.step(self.step)

    def source_hash(self) -> str:
        """SHA-256 (hex) of the file that holds the step, or of the step's own text or code when there is none."""
        return _source_hash(self.step)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "name": self.name, "title": self.title, "doc": self.doc, "scope": self.scope, "speeds": list(self.speeds),
            "fill_model": self.fill_model, "tags": list(self.tags),
            "parameters": [parameter.describe() for parameter in self.parameters],
            "indicators": [{"name": each.name, "panel": each.panel, "doc": each.doc} for each in self.indicators],
        }


@functools.cache
def _source_hash(step: StepFunction) -> str:
    path = inspect.getsourcefile(step)
    try:
        with open(path or "", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        try:
            return hashlib.sha256(inspect.getsource(step).encode()).hexdigest()
        except OSError:
            code = step.__code__
            return hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()
