"""Parameter sweeps over the native API.

    POST /workbench/api/sweeps          GET /workbench/api/sweeps/{id}, …/trials
    POST /workbench/api/sweeps/{id}/cancel, …/resume

A sweep is a run of kind "optimization": the routes on runs list, follow, annotate and delete it too.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import Invalid
from engine.spec import BacktestSpec
from engine.sweep import Dimension, read_parameters
from server.dialects.base import BaseHandler
from server.dialects.native_runs import refuse_paths, run_json
from server.dialects.routes import Answer, Path, Query, Route
from server.services import Services
from server.services.optimizations import MOST_TRIALS

__all__ = ["routes"]

BASE: Final = "/workbench/api/sweeps"
STEPS: Final = 5
"""Values that a grid takes of a range without a step."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Validation(Strict):
    """Which part of the range trials are judged on: all of it, its last `fraction`, or that in `windows` parts."""

    mode: Literal["none", "holdout", "walk_forward"] = "none"
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    windows: Annotated[int, Field(ge=1, le=100)] = 3


class SweepRequest(Strict):
    """`parameters`: name -> a list of values, or {"low", "high", "step"}. `direction` None: what is better for the
    objective. `max_trials` None: the whole grid, or 100."""

    base: BacktestSpec
    parameters: dict[str, Any]
    method: Literal["grid", "random", "bayesian"] = "grid"
    max_trials: Annotated[int | None, Field(ge=1, le=MOST_TRIALS)] = None
    objective: Annotated[str, Field(max_length=64)] = "sharpe"
    direction: Literal["maximize", "minimize"] | None = None
    validation: Validation = Validation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    concurrency: Annotated[int, Field(ge=0, le=64)] = 0
    name: Annotated[str, Field(max_length=200)] = ""
    tags: Annotated[list[str], Field(max_length=50)] = []


class Sweeps(BaseHandler):
    async def post(self) -> None:
        wanted = await self.read_model(SweepRequest)
        refuse_paths(wanted.base, "base.")
        dimensions = read_parameters(wanted.parameters)
        if wanted.method == "grid" and wanted.max_trials is None:
            _check_size(dimensions)
        run = await self.services.optimizations.submit(
            wanted.base, dimensions, method=wanted.method,
            max_trials=wanted.max_trials or (MOST_TRIALS if wanted.method == "grid" else 100),
            objective=wanted.objective,
            direction=wanted.direction or _better(wanted.objective), validation=wanted.validation.model_dump(),
            seed=wanted.seed, steps=STEPS, concurrency=wanted.concurrency, name=wanted.name, tags=wanted.tags,
            owner=self.principal.name, parameters=wanted.parameters,
            idempotency_key=self.request.headers.get("Idempotency-Key"))
        self.write_json(run_json(run), status=201)


def _check_size(dimensions: Sequence[Dimension]) -> None:
    points = math.prod(len(each.grid(STEPS)) for each in dimensions)
    if points > MOST_TRIALS:
        raise Invalid(f"the whole grid has {points if points < 10**15 else f'{points:.1e}'} points, more than "
                      f"{MOST_TRIALS}", field="parameters",
                      remedy="name fewer values, set max_trials, or use method random or bayesian")


def _better(objective: str) -> str:
    from engine.metrics import METRICS

    metric = METRICS.get(objective)
    return "minimize" if metric is not None and metric.better == "lower" else "maximize"


class OneSweep(BaseHandler):
    async def get(self, id: str) -> None:
        status = await self.services.optimizations.status(id)
        run = status.pop("run")
        await self.send_json(run_json(run) | status)


class Trials(BaseHandler):
    async def get(self, id: str) -> None:
        query = self.query
        await self.send_json(await self.services.optimizations.trials(
            id, sort=query["sort"], descending=query["order"] == "desc", limit=query["limit"],
            offset=query["offset"]))


class CancelSweep(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(run_json(await self.services.optimizations.cancel(id)))


class ResumeSweep(BaseHandler):
    async def post(self, id: str) -> None:
        self.write_json(run_json(await self.services.optimizations.resume(id)))


def routes(services: Services) -> list[Route]:
    """The operations on sweeps."""
    one = Answer(doc="the sweep, a run of kind optimization", model={"type": "object", "required": ["id", "state"]})
    id_path = (Path(name="id", doc="the sweep's id"),)
    return [
        Route(methods="POST", path=BASE, handler=Sweeps, auth="backtest", tag="sweeps", summary="Queue a sweep",
              request=SweepRequest, answers={201: one}, errors=(400, 409, 413, 422, 503)),
        Route(methods="GET", path=BASE + "/{id}", handler=OneSweep, auth="read", tag="sweeps", parameters=id_path,
              summary="A sweep's state, counts, best trial and how far it can be believed",
              answers={200: one}, errors=(404,)),
        Route(methods="GET", path=BASE + "/{id}/trials", handler=Trials, auth="read", tag="sweeps",
              parameters=id_path, summary="The trials as columns",
              query=(Query(name="limit", kind="integer", low=0, high=100_000, default=1000),
                     Query(name="offset", kind="integer", low=0, default=0),
                     Query(name="sort", default="number", high=80, doc="number, objective, params.X or metrics.X"),
                     Query(name="order", kind="choice", choices=("asc", "desc"), default="asc")),
              answers={200: Answer(doc="columns", model={"type": "object", "required": ["columns", "rows", "total"]})},
              errors=(404, 422)),
        Route(methods="POST", path=BASE + "/{id}/cancel", handler=CancelSweep, auth="backtest", tag="sweeps",
              parameters=id_path, summary="Cancel a sweep; finished trials stay", answers={200: one},
              errors=(404, 409)),
        Route(methods="POST", path=BASE + "/{id}/resume", handler=ResumeSweep, auth="backtest", tag="sweeps",
              parameters=id_path, summary="Go on with a cancelled or failed sweep", answers={200: one},
              errors=(404, 409)),
    ]
