"""Chunks of optimizations that wait for their turn in the pool."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.errors import Cancelled
from server.pool import Report

__all__ = ["Chunk", "WaitingChunks"]


@dataclass(kw_only=True, eq=False)
class Chunk:
    """Work of an optimization: one job that answers to a future instead of the table."""

    job: dict[str, Any]
    group: str
    future: "asyncio.Future[dict[str, Any]]"
    on_report: Callable[[Report], None] | None = None
    attempts: int = 0


@dataclass(kw_only=True, eq=False)
class WaitingChunks:
    """Chunks that wait, a line for each optimization; the lines take turns."""

    lines: dict[str, deque[Chunk]] = field(default_factory=dict)

    def put(self, chunk: Chunk, *, first: bool = False) -> None:
        line = self.lines.setdefault(chunk.group, deque())
        (line.appendleft if first else line.append)(chunk)

    def take(self) -> Chunk | None:
        while self.lines:
            group = next(iter(self.lines))
            line = self.lines.pop(group)
            while line and line[0].future.done():
                line.popleft()
            if line:
                chunk = line.popleft()
                if line:
                    self.lines[group] = line  # at the end: the others come first
                return chunk
        return None

    def drop(self, group: str) -> None:
        for chunk in self.lines.pop(group, ()):
            if not chunk.future.done():
                chunk.future.set_exception(Cancelled("the optimization was cancelled"))

    def __bool__(self) -> bool:
        return any(self.lines.values())
