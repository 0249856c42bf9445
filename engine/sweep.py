"""Searching parameters: spaces, samplers, validation windows, objectives and their diagnosis. Pure; no pool, no clock.

A search is a list of dimensions and a method that names the next point. Grids and random searches are fixed in advance
(`points`); a Bayesian one makes each point from the trials that have finished (`propose`), from its own random numbers,
so that it does not matter in which order they finished before. Dimensions come from two wire forms:

    {"fast": [5, 10, 20], "slow": {"low": 20, "high": 60, "step": 5}}                          the workbench's own
    [{"name": "fast", "kind": "int_range", "low": 5, "high": 20}, …] and a number of grid steps  GlowBack's
"""

import itertools
import math
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from engine import times
from engine.errors import Invalid, Problem
from engine.spec import ParameterValue

Point = dict[str, ParameterValue]
Kind = Literal["float_range", "int_range", "log_uniform", "choice"]
Method = Literal["grid", "random", "bayesian"]

SEED_STRIDE: Final = 9973
LEAST_DAYS: Final = 8
"""A shorter range is not split into windows."""
STABLE: Final = 0.25
MOST_VALUES: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One parameter to search: a choice of `values`, or `low` to `high` (inclusive), by whole numbers, evenly, or
    evenly in the logarithm."""

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    values: tuple[ParameterValue, ...] = ()

    def grid(self, steps: int) -> list[ParameterValue]:
        """At most `steps` values from low to high; every value of a choice."""
        if self.kind == "choice":
            return list(self.values)
        if self.low == self.high or steps < 2:
            return [self._whole(self.low)]
        parts = [step / (steps - 1) for step in range(steps)]
        if self.kind == "log_uniform":
            ratio = self.high / self.low
            return [self.low * ratio**part for part in parts[:-1]] + [self.high]
        linear = [self.low + (self.high - self.low) * part for part in parts[:-1]] + [self.high]
        return sorted({round(value) for value in linear}) if self.kind == "int_range" else list(linear)

    def draw(self, rng: random.Random) -> ParameterValue:
        """A value at random."""
        if self.kind == "choice":
            return rng.choice(self.values)
        if self.kind == "int_range":
            return rng.randint(math.ceil(self.low), math.floor(self.high))
        if self.kind == "log_uniform":
            return self._clip(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return rng.uniform(self.low, self.high)

    def near(self, best: ParameterValue, rng: random.Random) -> ParameterValue:
        """A value near the best one: whole numbers within 20 % of the span, numbers around it with a deviation of 15 %
        of the span, logarithms with one of 20 % of theirs; of a choice the best itself in 70 % of the cases."""
        if self.kind == "choice":
            return best if rng.random() < 0.7 else rng.choice(self.values)
        center = float(best)
        if self.kind == "int_range":
            reach = max(1, round((self.high - self.low) * 0.2))
            low, high = math.ceil(self.low), math.floor(self.high)
            return min(high, max(low, round(center) + rng.randint(-reach, reach)))
        if self.kind == "log_uniform":
            sigma = 0.2 * math.log(self.high / self.low)
            return self._clip(math.exp(rng.gauss(math.log(center), sigma)))
        return self._clip(rng.gauss(center, 0.15 * (self.high - self.low)))

    def _clip(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    def _whole(self, value: float) -> ParameterValue:
        return round(value) if self.kind == "int_range" else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What is searched and how. `exploration` is the probability of a random value where a Bayesian search would stay
    near the best; `steps` are the grid's points of a range."""

    dimensions: tuple[Dimension, ...]
    method: Method = "random"
    max_trials: int = 100
    seed: int = 42
    steps: int = 5
    exploration: float = 0.3

    @property
    def warm_up(self) -> int:
        """How many trials of a Bayesian search are random: two for each parameter, at least 3 and at most 8."""
        return max(3, min(8, 2 * len(self.dimensions)))

    def points(self) -> list[Point]:
        """All points of a grid or random search; of a Bayesian one those known in advance."""
        if self.method == "grid":
            return list(itertools.islice(grid(self.dimensions, self.steps), self.max_trials))
        if self.method == "random":
            return draws(self.dimensions, self.max_trials, self.seed)
        return [self.propose(number, None) for number in range(min(self.warm_up, self.max_trials))]

    def propose(self, number: int, best: Mapping[str, ParameterValue] | None) -> Point:
        """The point of a Bayesian search's trial `number` (0, 1, 2, …), given the best point so far."""
        rng = random.Random(self.seed + SEED_STRIDE * number)
        if number < self.warm_up or best is None:
            return {each.name: each.draw(rng) for each in self.dimensions}
        return {each.name: each.draw(rng) if rng.random() < self.exploration else each.near(best[each.name], rng)
                for each in self.dimensions}


def grid(dimensions: Sequence[Dimension], steps: int) -> Iterator[Point]:
    """Every combination, the last parameter changing fastest."""
    names = [each.name for each in dimensions]
    for values in itertools.product(*(each.grid(steps) for each in dimensions)):
        yield dict(zip(names, values, strict=True))


def draws(dimensions: Sequence[Dimension], count: int, seed: int) -> list[Point]:
    """`count` different random points; fewer when so many cannot be found in max(20 count, 100) attempts."""
    rng = random.Random(seed)
    found: dict[tuple[ParameterValue, ...], Point] = {}
    for _ in range(max(20 * count, 100)):
        if len(found) == count:
            break
        point = {each.name: each.draw(rng) for each in dimensions}
        found.setdefault(tuple(point.values()), point)
    return list(found.values())


def read_parameters(parameters: object) -> tuple[Dimension, ...]:
    """Dimensions from the workbench's own form: name -> list of values, or {"low", "high", "step"}.

    A range with a step is the list of its values; without one it is continuous, or whole numbers when both ends are.
    Raises `Invalid` with one problem for every parameter that makes no sense.
    """
    if not isinstance(parameters, Mapping) or not parameters:
        raise Invalid("parameters to search are needed", field="parameters",
                      remedy='write {"name": [values…]} or {"name": {"low": 1, "high": 9, "step": 2}}')
    dimensions, problems = [], []
    for name, given in parameters.items():
        try:
            dimensions.append(_read_parameter(str(name), given))
        except Invalid as error:
            problems += [Problem(f"parameters.{name}", error.message, error.remedy)]
    if problems:
        raise Invalid(str(problems[0]), problems=problems)
    return tuple(dimensions)


def _read_parameter(name: str, given: object) -> Dimension:
    if isinstance(given, list | tuple):
        kinds = dict.fromkeys((type(value), value) for value in given if _plain(value))  # True is not 1 here
        if not kinds or not all(_plain(value) for value in given):
            raise Invalid("a list of numbers, texts or switches is needed", remedy="give at least one value")
        if len(kinds) > MOST_VALUES:
            raise Invalid(f"{len(kinds)} values are too many", remedy=f"give at most {MOST_VALUES}")
        return Dimension(name=name, kind="choice", values=tuple(value for _, value in kinds))
    if not isinstance(given, Mapping):
        raise Invalid(f"{given!r} is neither a list nor a range", remedy='use [1, 2] or {"low": 1, "high": 9}')
    low, high, step = (given.get(key) for key in ("low", "high", "step"))
    if not _number(low) or not _number(high) or low > high:  # type: ignore[operator]
        raise Invalid("low and high must be numbers, low not above high", remedy='use {"low": 1, "high": 9}')
    if step is None:
        whole = isinstance(low, int) and isinstance(high, int)
        kind: Kind = "log_uniform" if given.get("log") and low > 0 else "int_range" if whole else "float_range"  # type: ignore[operator]
        return Dimension(name=name, kind=kind, low=float(low), high=float(high))  # type: ignore[arg-type]
    if not _number(step) or step <= 0:  # type: ignore[operator]
        raise Invalid("step must be a number above zero", remedy="leave it out for a continuous range")
    count = math.floor((high - low) / step + 1e-9) + 1  # type: ignore[operator]
    if count > MOST_VALUES:
        raise Invalid(f"{count} values are too many", remedy="use a larger step")
    values = tuple(low + position * step if all(isinstance(each, int) for each in (low, step))  # type: ignore[operator]
                   else round(low + position * step, 12) for position in range(count))  # type: ignore[operator]
    return Dimension(name=name, kind="choice", values=values)


def _plain(value: object) -> bool:
    return isinstance(value, bool | str) or _number(value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- validation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A stretch of days to judge on. Microseconds, both inclusive; the training stretch is the same for all windows:
    everything before the first of them."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A range divided: `full`, and when it was long enough `train` and the validation windows after it."""

    full: Window
    train: Window | None = None
    windows: tuple[Window, ...] = ()

    @property
    def ranges(self) -> dict[str, Window]:
        """Every run that one trial needs, by name: full, train, validation_1, validation_2, …"""
        named = {"full": self.full}
        if self.train is not None:
            named["train"] = self.train
        return named | {f"validation_{number}": window for number, window in enumerate(self.windows, 1)}


def split(start: int, end: int, *, mode: str = "walk_forward", fraction: float = 0.25, windows: int = 3) -> Split:
    """Divide a range (microseconds, inclusive) for validation.

    Of D days (both ends counted) the last floor(D * fraction) are for validation, in `windows` stretches (one with
    mode "holdout"), the first of which are a day longer where it does not come out even. Fewer than `LEAST_DAYS` days
    or mode "none": no windows.
    """
    full = Window(start=start, end=end)
    first, last = times.instant(start), times.instant(end)
    days = (last.date() - first.date()).days + 1
    kept = math.floor(days * fraction)
    if mode == "none" or days < LEAST_DAYS or kept < 1 or kept >= days:
        return Split(full=full)
    count = 1 if mode == "holdout" else max(1, min(windows, kept))
    base, longer = divmod(kept, count)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=days - kept)
    begin = times.micros(midnight)
    found = []
    at = begin
    for number in range(count):
        until = at + (base + (number < longer)) * times.DAY
        found.append(Window(start=at, end=min(end, until - 1)))
        at = until
    return Split(full=full, train=Window(start=start, end=begin - 1), windows=tuple(found))


Figures = Mapping[str, float | None]


def score(metric: str, results: Mapping[str, Figures]) -> tuple[float | None, dict[str, float | None]]:
    """A trial's objective and its metrics from the metrics of each range (names of `Split.ranges`).

    The objective is the mean over the validation windows, or the full range's value without windows; None when any of
    these is missing. The metrics are those of the full range and, for windows, of `metric` X: train_X, validation_X,
    validation_X_stddev (population), full_X, generalization_gap_X = train - validation, validation_full_gap_X =
    validation - full, and validation_windows.
    """
    full = results.get("full", {})
    found: dict[str, float | None] = dict(full)
    names = [name for name in results if name.startswith("validation_")]
    if not names:
        return _finite(full.get(metric)), found
    values = [_finite(results[name].get(metric)) for name in names]
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if len(known) == len(values) else None
    train, whole = _finite(results.get("train", {}).get(metric)), _finite(full.get(metric))
    found |= {
        f"train_{metric}": train, f"validation_{metric}": mean,
        f"validation_{metric}_stddev": None if mean is None else statistics.pstdev(known),
        "validation_windows": float(len(names)), f"full_{metric}": whole,
        f"generalization_gap_{metric}": None if mean is None or train is None else train - mean,
        f"validation_full_gap_{metric}": None if mean is None or whole is None else mean - whole,
    }
    return mean, found


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# -- judging ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """A finished trial as this module sees it: number (0, 1, 2, …), parameters, objective, metrics."""

    number: int
    parameters: Mapping[str, ParameterValue]
    objective: float | None
    metrics: Mapping[str, float | None]


def ranked(trials: Iterable[Tried], *, maximize: bool = True) -> list[Tried]:
    """The trials that have an objective, best first; of equal ones the earlier first."""
    known = [trial for trial in trials if trial.objective is not None]
    return sorted(known, key=lambda trial: (-trial.objective if maximize else trial.objective, trial.number))  # type: ignore[operator]


def best(trials: Iterable[Tried], *, maximize: bool = True) -> Tried | None:
    """The best trial; None while none has an objective."""
    return next(iter(ranked(trials, maximize=maximize)), None)


def diagnostics(trials: Sequence[Tried], metric: str, *, maximize: bool = True) -> dict[str, Any]:
    """How far the best trial can be believed: its gaps between training, validation and the full range, and whether
    the best third of all trials (2 to 5) agree on the parameters.

    relative_span is the span by the size of the mean (by 1 where that is 0); up to `STABLE` it counts as stable.
    Texts and switches are stable when they are all equal.
    """
    order = ranked(trials, maximize=maximize)
    if not order:
        return {}
    first = order[0]
    top = order[: max(2, min(5, len(order) // 3))]
    parameters: dict[str, Any] = {}
    for name in first.parameters:
        values = [trial.parameters[name] for trial in top]
        if all(_number(value) for value in values):
            mean, low, high = statistics.fmean(values), min(values), max(values)  # type: ignore[arg-type]
            relative = (high - low) / (abs(mean) or 1.0)  # type: ignore[operator]
            parameters[name] = {"mean": mean, "min": low, "max": high, "span": high - low,  # type: ignore[operator]
                                "relative_span": relative, "stable": relative <= STABLE}
        else:
            parameters[name] = {"values": sorted({str(value) for value in values}),
                                "stable": len(set(map(str, values))) == 1}
    keys = (f"generalization_gap_{metric}", f"validation_full_gap_{metric}", f"validation_{metric}_stddev")
    return {"objective": first.objective, **{key: first.metrics.get(key) for key in keys}, "top_trials": len(top),
            "parameter_stability": parameters}
