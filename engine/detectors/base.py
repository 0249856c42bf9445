"""What a detector is: a strategy whose advice is an alert.

A detector's step keeps the contract of every strategy (`engine.strategies.base`): parameters, memory and one bar, after
its close. Advice +1 is a BUY, -1 a SELL, NaN nothing new; with a signal the first three outputs are the start, the
target and the stop. The first three parameters are every detector's own: `patience`, `trail`, `tight`.

Bars are gathered from candles (of a minute, as a rule) by `engine.alert_walk`; a bar is complete when the candle that
ends it has come, or the first candle after it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from engine import times
from engine.alerts import Duration
from engine.spec import ParameterValue
from engine.strategies.base import Indicator, Parameter, Strategy

__all__ = ["LEVELS", "OWN", "Detector", "common", "preset"]

LEVELS: Final = (
    Indicator(name="start", doc="where the alert begins"),
    Indicator(name="target", doc="where it aims"),
    Indicator(name="stop", doc="where it is wrong"),
)
"""The first outputs of every detector's step."""

OWN: Final = 3
"""Where a detector's own parameters begin in its vector."""

Why = Callable[[str, Mapping[str, Any], Mapping[str, float]], str]
"""why(direction, params, outputs) -> the reason of a signal in words."""


def common(*, patience: int, trail: float, tight: float) -> tuple[Parameter, ...]:
    """The parameters that every detector has, with this preset's defaults."""
    return (
        Parameter(name="patience", type="int", default=patience, low=1, high=10_000, step=1,
                  doc="bars until the start must have been reached; then the alert is aborted"),
        Parameter(name="trail", type="float", default=trail, low=0.0, high=100.0, step=0.25,
                  doc="how far the stop follows the best price, in R (start to stop), once that locks in no loss; "
                      "0: it does not, and the profit is taken at the target (trailing stop: W. Wilder 1978, "
                      "C. Le Beau's chandelier; R: V. Tharp, Trade Your Way to Financial Freedom)"),
        Parameter(name="tight", type="float", default=tight, low=0.01, high=100.0, step=0.05,
                  doc="how far it follows, in R, once the target has been reached"),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """One detector in one duration. `bar` is seconds; `strategy.name` is its key; `sources` name where it is from."""

    strategy: Strategy
    kind: str
    duration: Duration
    bar: int
    why: Why
    sources: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.strategy.name

    def resolve(self, params: Mapping[str, Any]) -> dict[str, ParameterValue]:
        """Every parameter with its value; raises `Invalid` as `Strategy.resolve`."""
        return self.strategy.resolve(params)

    def warm_up(self, params: Mapping[str, Any]) -> int:
        """Bars before its first possible signal."""
        return self.strategy.warm_up(params)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON."""
        described = self.strategy.describe()
        return {"key": self.key, "kind": self.kind, "title": described["title"], "doc": described["doc"],
                "duration": self.duration, "bar": times.resolution_name(self.bar), "sources": list(self.sources),
                "parameters": described["parameters"], "indicators": described["indicators"],
                "tags": described["tags"]}


def preset(strategy: Strategy, duration: Duration, *, bar: int, why: Why, sources: tuple[str, ...],
           **defaults: ParameterValue) -> Detector:
    """The detector in one duration: the strategy with these defaults under the name `{name}_{duration}`."""
    known = {parameter.name for parameter in strategy.parameters}
    assert set(defaults) <= known, set(defaults) - known
    parameters = tuple(replace(each, default=defaults.get(each.name, each.default)) for each in strategy.parameters)
    words = f"{strategy.title}, {duration} ({times.resolution_name(bar)} bars)"
    made = replace(strategy, name=f"{strategy.name}_{duration}", title=words, parameters=parameters)
    return Detector(strategy=made, kind=strategy.name, duration=duration, bar=bar, why=why, sources=sources)
