"""Two things at a time, for the long columns of one run: compressing, hashing and reading files leave the interpreter
to others meanwhile. Runs beside one another are the pool's business."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WORTH: Final = 100_000
"""Rows below which a thread costs more than it saves."""


def at_once(work: Callable[[T], R], items: Iterable[T], rows: int) -> list[R]:
    """`work` of every item, in order, on two threads when there are many `rows`. Raises what the first failing one
    raised."""
    if rows < WORTH:
        return [work(item) for item in items]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, items))


def meanwhile(work: Callable[[], R], rows: int) -> Callable[[], R]:
    """Begin `work` on a thread when there are many `rows`; what comes back waits for its result, or raises its
    error."""
    if rows < WORTH:
        return work
    threads = ThreadPoolExecutor(1)
    result = threads.submit(work)
    threads.shutdown(wait=False)  # it ends with its work
    return result.result
