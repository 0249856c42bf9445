"""What a backtest is asked to do. One frozen description serves the API, the queue, the pool and the record."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine import times
from engine.errors import Invalid, Problem
from engine.model import Market

ParameterValue = int | float | bool | str


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Misfit(ValueError):
    """A broken rule in the words of a `Problem`, for validators: `field` is relative to where it is raised."""

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(field, message, remedy)


class Sizing(Frozen):
    """How large a position is at full advice (1.0).

    fraction: of the portfolio's equity at the fill, shared equally by the run's markets (0.95 = 95 %).
    cash: an amount of currency for each position. units: a number of units for each position.
    """

    kind: Literal["fraction", "cash", "units"] = "fraction"
    value: Annotated[float, Field(gt=0, le=1e12)] = 1.0


class Costs(Frozen):
    """fee_rate and slippage are fractions of the traded value and of the price; fixed_fee is currency per fill."""

    fee_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fixed_fee: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    slippage: Annotated[float, Field(ge=0, lt=1)] = 0.0


class BacktestSpec(Frozen):
    """A backtest: strategy and parameters on markets over a range, with capital, costs and rules.

    `start` and `end` are ISO 8601 instants (both inclusive, bar opens); None means the data's own first or last bar.
    `markets` are keys `exchange:ASSET/CURRENCY`. `benchmark` is a market key, or None for an equal-weight
    buy and hold of the run's own markets. `data_mode` "fail" refuses data with holes or bad bars, "warn" reports them.
    `fill_model` names the module of `engine/fills`, or is "alerts" (the strategy is a detector: see
    `engine.detector_backtest`); `fill_options` are its own words. `source` is where candles come from: the workbench's
    store, CSV files in `source_path` (a directory that the server allowed), or made sample data.
    """

    strategy: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.]+$")]
    params: dict[str, ParameterValue] = Field(default_factory=dict)
    markets: Annotated[tuple[str, ...], Field(min_length=1, max_length=500)]
    resolution: str = "1d"
    start: str | None = None
    end: str | None = None
    cash: Annotated[float, Field(gt=0, le=1e12)] = 100_000.0
    currency: Annotated[str, Field(pattern=r"^[A-Z0-9]{2,10}$")] = "USD"
    costs: Costs = Costs()
    sizing: Sizing = Sizing()
    direction: Literal["long", "short", "both"] = "long"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    benchmark: str | None = None
    data_mode: Literal["warn", "fail"] = "warn"
    fill_model: Literal["next_bar", "glowback", "gekko", "alerts"] = "next_bar"
    fill_options: dict[str, Any] = Field(default_factory=dict)
    source: Literal["store", "csv", "sample"] = "store"
    source_path: str | None = None

    @field_validator("params", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        for name, given in value.items() if isinstance(value, dict) else ():
            if not isinstance(given, bool | int | float | str):
                raise Misfit("a parameter is a number, a switch or a text", field=str(name)[:100],
                             remedy="give one value")
            if isinstance(given, int | float) and not -1e300 <= given <= 1e300:
                raise Misfit("this is not a finite number", field=str(name)[:100], remedy="give a finite number")
        return value

    @field_validator("resolution", mode="before")
    @classmethod
    def _resolution(cls, value: object) -> str:
        try:
            return times.resolution_name(times.resolution(value))
        except Invalid as error:
            raise Misfit(error.message, remedy=error.remedy) from None

    @field_validator("start", "end", mode="before")
    @classmethod
    def _instant(cls, value: object) -> str | None:
        if value is None or value == "":
            return None
        try:
            return times.iso(times.parse(value))
        except Invalid as error:
            raise Misfit(error.message, remedy=error.remedy) from None

    @model_validator(mode="after")
    def _consistent(self) -> "BacktestSpec":
        if self.start and self.end and self.start > self.end:
            raise Misfit(f"the range ends before it starts ({self.start})", field="end",
                         remedy="give an end that is not before the start")
        if len(set(self.markets)) != len(self.markets) and self.fill_model != "glowback":
            raise Misfit("a market stands here twice", field="markets", remedy="name each market once")
        if self.fill_model != "glowback":
            places = [(f"markets.{position}", key) for position, key in enumerate(self.markets)]
            for field, key in (*places, *([("benchmark", self.benchmark)] if self.benchmark else [])):
                try:
                    Market.parse(key)
                except Invalid as error:
                    raise Misfit(error.message, field=field, remedy=error.remedy) from None
        return self

    @property
    def resolution_seconds(self) -> int:
        return times.resolution(self.resolution)

    @property
    def start_micros(self) -> int | None:
        return times.micros(times.parse(self.start)) if self.start else None

    @property
    def end_micros(self) -> int | None:
        return times.micros(times.parse(self.end)) if self.end else None

    @classmethod
    def read(cls, data: object) -> "BacktestSpec":
        """The spec that JSON-like data describes; raises `Invalid` with one problem for every broken field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise invalid(error) from None


REMEDIES: Final = {
    "missing": "add it", "extra_forbidden": "leave it out, or correct its name", "json_invalid": "send JSON",
    "finite_number": "give a finite number",
}
"""What to do about pydantic's own findings, where their message does not say it."""


def invalid(error: ValidationError) -> Invalid:
    """Pydantic's findings as the workbench's own error, all problems kept."""
    problems = []
    for entry in error.errors(include_url=False):
        place = ".".join(str(part) for part in entry["loc"])
        cause = entry.get("ctx", {}).get("error")
        if isinstance(cause, Misfit):
            found = cause.problem
            field = ".".join(part for part in (place, found.field) if part)
            problems.append(Problem(field, found.message, found.remedy))
        else:
            problems.append(Problem(place, entry["msg"].removeprefix("Value error, "), REMEDIES.get(entry["type"], "")))
    return Invalid("the request is not valid", problems=problems)
