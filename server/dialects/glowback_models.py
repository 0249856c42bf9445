"""What GlowBack's clients send, as pydantic models: the 422 bodies are pydantic's own findings, as FastAPI words them.

`read_body` follows FastAPI: a body counts as JSON by its content type only, an empty one is missing, and every broken
field is reported at once with `type`, `loc`, `msg`, `input` and mostly `ctx`. NaN and infinities are refused.
"""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from engine import times
from engine.errors import Invalid
from engine.sweep import Dimension

M = TypeVar("M")


class Findings(Invalid):
    """A request that the models refuse; `entries` are the findings in FastAPI's form."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        super().__init__("Request validation failed")
        self.entries = entries


def finding(loc: tuple[str | int, ...], message: str, given: Any, kind: str = "value_error") -> dict[str, Any]:
    """One finding of our own in FastAPI's form."""
    return {"type": kind, "loc": list(loc), "msg": f"Value error, {message}", "input": given, "ctx": {"error": {}}}


class Model(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, frozen=True)


def _parts(value: Any, loc: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value within JSON data that is neither object nor list, and the objects' names, each with its place."""
    waiting = [(loc, value)]  # no recursion: the data may be nested as deeply as the parser lets it
    while waiting:
        loc, value = waiting.pop()
        if isinstance(value, dict):
            yield from ((loc, name) for name in value)
            waiting += [((*loc, name), each) for name, each in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*loc, at), each) for at, each in reversed(list(enumerate(value)))]
        else:
            yield loc, value


def _finite(given: Any) -> Any:
    if any(isinstance(value, float) and not math.isfinite(value) for _, value in _parts(given)):
        raise PydanticKnownError("finite_number")
    return given


class StrategyChoice(Model):
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-z0-9_]+$")] = "buy_and_hold"
    params: dict[str, Annotated[Any, AfterValidator(_finite)]] = Field(default_factory=dict)


class Execution(Model):
    """Costs and latency; null means the engine's default. `latency_rule` is the workbench's own addition: "strict"
    never prices a fill with a bar of a later day."""

    slippage_bps: float | None = None
    commission_bps: float | None = None
    latency_ms: Annotated[int, Field(ge=-2**63, lt=2**63)] | None = None
    latency_rule: Annotated[str, Field(pattern=r"^(original|strict)$")] = "original"


class PortfolioConstruction(Model):
    """Accepted, checked and echoed; it has no effect on the run."""

    method: Annotated[str, Field(pattern=r"^target_weights$")] = "target_weights"
    target_weights: dict[str, float] = Field(default_factory=dict)
    rebalance_frequency: Annotated[str, Field(pattern=r"^(daily|weekly|monthly)$")] = "weekly"
    drift_threshold_pct: Annotated[float, Field(ge=0, le=100)] | None = None
    max_weight_pct: Annotated[float, Field(gt=0, le=100)] | None = None
    max_turnover_pct: Annotated[float, Field(ge=0, le=500)] | None = None
    cash_floor_pct: Annotated[float, Field(ge=0, le=95)] = 0.0
    max_drawdown_pct: Annotated[float, Field(gt=0, le=100)] | None = None

    @field_validator("target_weights")
    @classmethod
    def _cleaned(cls, given: dict[str, float]) -> dict[str, float]:
        cleaned = {symbol.strip().upper(): weight for symbol, weight in given.items() if symbol.strip() and weight > 0}
        if not cleaned:
            raise ValueError("target_weights must hold at least one symbol with a positive weight")
        return cleaned

    @model_validator(mode="after")
    def _weighted(self) -> "PortfolioConstruction":
        if not self.target_weights:
            raise ValueError("target_weights must hold at least one symbol with a positive weight")
        return self


class BacktestRequest(Model):
    """POST /backtests. Fields that are not named here are ignored."""

    symbols: Annotated[list[str], Field(min_length=1, max_length=100)]
    start_date: datetime
    end_date: datetime
    resolution: Annotated[str, Field(pattern=r"^(tick|second|minute|hour|day)$")] = "day"
    strategy: StrategyChoice = Field(default_factory=StrategyChoice)
    execution: Execution = Field(default_factory=Execution)
    initial_capital: Annotated[float, Field(gt=0, le=1e12)] = 1_000_000.0
    currency: Annotated[str, Field(min_length=3, max_length=5, pattern=r"^[A-Z]{3,5}$")] = "USD"
    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    benchmark_symbol: Annotated[str, Field(min_length=1, max_length=16)] | None = None
    portfolio_construction: PortfolioConstruction | None = None
    data_source: Annotated[str, Field(pattern=r"^(default|sample|csv)$")] = "default"
    csv_data_path: str | None = None
    data_quality_mode: Annotated[str, Field(pattern=r"^(warn|fail)$")] = "warn"
    run_name: Annotated[str, Field(max_length=200)] | None = None

    @field_validator("start_date", "end_date")
    @classmethod
    def _utc(cls, given: datetime) -> datetime:
        """A date without a zone means UTC."""
        try:
            at = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
        except OverflowError:
            at = datetime.min.replace(tzinfo=UTC)
        if not times.EARLIEST <= at < times.LATEST:
            raise ValueError("the date must lie in the years 1900 to 2199")
        return at


class ParameterRange(Model):
    """One searched parameter: `values` for a choice, `low` and `high` for the ranges."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    kind: Annotated[str, Field(pattern=r"^(float_range|int_range|log_uniform|choice)$")]
    low: float | None = None
    high: float | None = None
    values: list[bool | int | float | str] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "ParameterRange":
        if self.kind == "choice":
            if not self.values:
                raise ValueError(f"parameter {self.name!r} needs values to choose from")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError(f"parameter {self.name!r} needs low and high, low not above high")
        most = 2**53 if self.kind == "int_range" else 1e300
        if self.low < -most or self.high > most:
            raise ValueError(f"parameter {self.name!r} needs low and high within {most:g} of 0")
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"parameter {self.name!r} needs a low above 0")
        if self.kind == "int_range" and -(-self.low // 1) > self.high // 1:
            raise ValueError(f"there is no whole number between low and high of parameter {self.name!r}")
        return self

    @property
    def dimension(self) -> Dimension:
        return Dimension(name=self.name, kind=self.kind, low=self.low or 0.0, high=self.high or 0.0,  # type: ignore[arg-type]
                         values=tuple(self.values or ()))


class SearchSpace(Model):
    parameters: Annotated[list[ParameterRange], Field(min_length=1, max_length=50)]


class OptimizationRequest(Model):
    """POST /optimizations. `concurrency` and `ray_cluster` are accepted and have no effect: the pool decides."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: Annotated[str, Field(max_length=1024)] | None = None
    search_space: SearchSpace
    strategy: Annotated[str, Field(pattern=r"^(grid|random|bayesian)$")] = "random"
    max_trials: Annotated[int, Field(ge=1, le=10_000)] = 100
    concurrency: Annotated[int, Field(ge=1, le=128)] = 4
    objective_metric: Annotated[str, Field(max_length=64)] = "sharpe_ratio"
    direction: Annotated[str, Field(pattern=r"^(maximize|minimize)$")] = "maximize"
    base_backtest: dict[str, Any]
    validation_mode: Annotated[str, Field(pattern=r"^(holdout|walk_forward)$")] = "walk_forward"
    validation_fraction: Annotated[float, Field(gt=0.05, lt=0.9)] = 0.25
    walk_forward_windows: Annotated[int, Field(ge=1, le=10)] = 3
    random_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    exploration_weight: Annotated[float, Field(ge=0, le=1)] = 0.3
    grid_steps: Annotated[int, Field(ge=2, le=100)] = 5
    ray_cluster: Any = None


class RunStateName(StrEnum):
    queued = "queued"
    running = "running"
    completed = "completed"
    failed = "failed"


_STATE: Final = TypeAdapter(RunStateName)
_LIMIT: Final = TypeAdapter(Annotated[int, Field(ge=1, le=200)])


def read_list_query(arguments: Mapping[str, list[bytes]]) -> tuple[str | None, int]:
    """(state, limit) of a list's query; other names are ignored. Raises `Findings`."""
    entries: list[dict[str, Any]] = []
    state, limit = None, 50
    texts = {name: values[-1].decode("utf-8", "replace") for name, values in arguments.items() if values}
    if "state" in texts:
        state = texts["state"]
        if state != "cancelled":  # ours: the original has no cancelled runs
            entries += _findings(_STATE, state, ("query", "state"))[1]
    if "limit" in texts:
        found, wrong = _findings(_LIMIT, texts["limit"], ("query", "limit"))
        limit = limit if wrong else found
        entries += wrong
    if entries:
        raise Findings(entries)
    return state, limit


def _findings(adapter: TypeAdapter[Any], value: Any, loc: tuple[str | int, ...]) -> tuple[Any, list[dict[str, Any]]]:
    try:
        return adapter.validate_python(value, from_attributes=True), []
    except ValidationError as error:
        return None, [_entry(each, loc) for each in error.errors(include_url=False)]


def _entry(found: Any, loc: tuple[str | int, ...]) -> dict[str, Any]:
    entry = {"type": found["type"], "loc": [*loc, *found["loc"]], "msg": found["msg"], "input": found["input"]}
    if "ctx" in found:
        entry["ctx"] = {key: {} if isinstance(value, Exception) else value for key, value in found["ctx"].items()}
    return entry


def validate(model: type[M], value: Any, loc: tuple[str | int, ...] = ("body",)) -> M:
    """A model from parsed JSON; raises `Findings`."""
    made, entries = _findings(TypeAdapter(model), value, loc)
    if entries:
        raise Findings(entries)
    return made


def read_body(model: type[M], body: bytes, content_type: str) -> M:
    """The model that a request's body holds. `content_type` is the media type without parameters. Raises `Findings`."""
    if not body:
        raise Findings([_missing()])
    kind, _, subtype = content_type.partition("/")
    value: Any
    if kind == "application" and (subtype == "json" or subtype.endswith("+json")):
        value = _parse(body)
        if value is None:
            raise Findings([_missing()])
        if b"\\ud" in body.lower() or b"\\u0000" in body:
            _check_text(value)
    else:
        value = body.decode("utf-8", "replace")
    return validate(model, value)


def _check_text(value: Any) -> None:
    """Raise `Findings` for texts with half a surrogate pair, which no file, database or answer could hold, and for
    those with a null character, which PostgreSQL cannot."""
    entries = []
    for loc, text in _parts(value, ("body",)):
        if isinstance(text, str) and "\x00" in text:
            entries.append(finding(loc, "a text holds no null characters", text))
        elif isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
            entries.append({"type": "string_unicode", "loc": list(loc), "input": text, "msg":
                            "Input should be a valid string, unable to parse raw data as a unicode string"})
    if entries:
        raise Findings(entries)


def _missing() -> dict[str, Any]:
    return {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        position, reason = error.pos, error.msg
    except UnicodeDecodeError as error:
        position, reason = error.start, "the body is not UTF-8"
    except (ValueError, RecursionError):
        position, reason = 0, "a number is too long or the nesting too deep"
    raise Findings([{"type": "json_invalid", "loc": ["body", position], "msg": "JSON decode error", "input": {},
                     "ctx": {"error": reason}}])
