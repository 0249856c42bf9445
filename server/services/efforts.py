"""One search at work: which trials are missing, who computes them, what has been found."""

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from engine import sweep, times
from engine.errors import Cancelled, WorkbenchError
from engine.model import Run
from engine.sweep import Dimension, Search, Split, Tried

__all__ = ["Effort", "search_of", "total_of"]

CHUNK: Final = 64
GENERATION: Final = 4
"""Points of a Bayesian search that are computed together unless its `concurrency` says otherwise."""


class Service(Protocol):
    """What an effort needs of `Optimizations`."""

    async def compute(self, run: Run, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]: ...

    async def store(self, run: Run, rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None: ...


class Effort:
    """One driver's state: what is finished, what is to do, ranges of half-done trials."""

    def __init__(self, service: Service, run: Run, search: Search, divided: Split, tried: dict[int, Tried],
                 failed: set[int]) -> None:
        self._service = service
        self._run = run
        self._search = search
        self._ranges = divided.ranges
        self.tried = tried
        self._failed = failed
        self._total = total_of(search)
        self._maximize = run.spec["direction"] == "maximize"
        self._partial: dict[int, dict[str, Mapping[str, Any]]] = {}
        self.first_error: str | None = None

    async def work(self) -> None:
        """Compute all that is missing."""
        concurrency = int(self._run.spec["concurrency"])
        if self._search.method != "bayesian":
            points = await asyncio.to_thread(self._search.points)
            await self._generation([(number, point) for number, point in enumerate(points)
                                    if number not in self.tried], concurrency or 8)
            return
        number = 0
        while number < self._total:
            best = sweep.best((each for each in self.tried.values() if each.number < number), maximize=self._maximize)
            size = self._search.warm_up if number < self._search.warm_up else concurrency or GENERATION
            numbers = range(number, min(number + size, self._total))
            await self._generation([(each, self._search.propose(each, best.parameters if best else None))
                                    for each in numbers if each not in self.tried], concurrency or GENERATION)
            number = numbers.stop

    async def _generation(self, points: Sequence[tuple[int, Mapping[str, Any]]], lines: int) -> None:
        todo = deque(self._entry(number, name, point) for number, point in points for name in self._ranges)
        params = dict(points)
        size = max(1, min(CHUNK, math.ceil(len(todo) / lines)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(lines, math.ceil(len(todo) / size))):
                    group.create_task(self._line(todo, params, size))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    def _entry(self, number: int, name: str, point: Mapping[str, Any]) -> dict[str, Any]:
        window = self._ranges[name]
        entry = {"number": number, "range": name, "params": dict(point)}
        return entry if name == "full" else entry | {"start": times.iso(window.start), "end": times.iso(window.end)}

    async def _line(self, todo: deque[dict[str, Any]], params: Mapping[int, Mapping[str, Any]], size: int) -> None:
        while todo:
            entries = [todo.popleft() for _ in range(min(size, len(todo)))]
            while entries:
                answers = await self._answers(entries)
                entries = entries[len(answers):]
                await self._take(answers, params)

    async def _answers(self, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Answers for the first of the entries; a job that broke its worker or a limit is narrowed down to one."""
        try:
            return await self._service.compute(self._run, entries)
        except Cancelled:
            raise
        except WorkbenchError as error:
            if error.code == "unavailable":
                raise Cancelled("the server is stopping") from None
            if len(entries) > 1:
                return await self._answers(entries[: len(entries) // 2])
            return [{**entries[0], "metrics": {}, "seconds": 0.0, "error": str(error), "periods": None}]

    async def _take(self, answers: Sequence[Mapping[str, Any]], params: Mapping[int, Mapping[str, Any]]) -> None:
        rows = []
        for answer in answers:
            number = answer["number"]
            parts = self._partial.setdefault(number, {})
            parts[answer["range"]] = answer
            if len(parts) == len(self._ranges):
                rows.append(self._finished(number, params[number], self._partial.pop(number)))
        if not rows:
            return
        best = sweep.best(self.tried.values(), maximize=self._maximize)
        done = len(self.tried)
        await self._service.store(self._run, rows, {
            "progress": done / self._total, "message": f"{done} of {self._total} trials", "completed":
            done - len(self._failed), "failed": len(self._failed), "total": self._total,
            "best": None if best is None else {"number": best.number, "parameters": dict(best.parameters),
                                               "objective": best.objective}})

    def _finished(self, number: int, point: Mapping[str, Any],
                  parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        error = next((part["error"] for part in parts.values() if part["error"]), None)
        objective, metrics = sweep.score(self._run.spec["objective"],
                                         {name: parts[name]["metrics"] for name in self._ranges})
        if error is None:
            metrics["periods"] = parts["full"].get("periods")
        else:
            objective = None
            self._failed.add(number)
            self.first_error = self.first_error or error
        self.tried[number] = Tried(number=number, parameters=point, objective=objective, metrics=metrics)
        return {"number": number, "state": "failed" if error else "completed", "params": dict(point),
                "objective": objective, "metrics": metrics, "error": error,
                "duration": sum(part["seconds"] for part in parts.values())}


def search_of(spec: Mapping[str, Any]) -> Search:
    """The search that the spec of an optimization describes."""
    dimensions = tuple(Dimension(**{**each, "values": tuple(each["values"])}) for each in spec["dimensions"])
    return Search(dimensions=dimensions, method=spec["method"], max_trials=spec["max_trials"], seed=spec["seed"],
                  steps=spec["steps"], exploration=spec["exploration"])


def total_of(search: Search) -> int:
    """How many trials there will be, without making them: a grid may have fewer points than allowed."""
    if search.method != "grid":
        return search.max_trials
    return min(search.max_trials, math.prod(len(each.grid(search.steps)) for each in search.dimensions))
