"""How often one client may ask: a token bucket for each, in memory.

A bucket holds `limit` requests and refills evenly within `window` seconds, so bursts pass and floods do not.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Allowance", "RateLimiter"]

CLIENTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """Where a client stands after a request. `reset` is the Unix second when it has its whole allowance again;
    `retry_after` the whole seconds until the next request passes, 0 when this one did."""

    limit: int
    remaining: int
    reset: int
    retry_after: int

    @property
    def exceeded(self) -> bool:
        return self.retry_after > 0

    def headers(self) -> dict[str, str]:
        named = {"X-RateLimit-Limit": str(self.limit), "X-RateLimit-Remaining": str(self.remaining),
                 "X-RateLimit-Reset": str(self.reset)}
        return named | {"Retry-After": str(self.retry_after)} if self.exceeded else named


class RateLimiter:
    """`limit` requests in `window` seconds for each client; limit 0: no limit.

    clock: monotonic seconds. Remembers the `CLIENTS` clients that asked last; a forgotten one starts full.
    """

    def __init__(self, limit: int, window: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._rate = limit / window
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (requests left, when)

    def take(self, client: str) -> Allowance | None:
        """Count one request; None when there is no limit."""
        if not self.limit:
            return None
        now = self._clock()
        left, then = self._buckets.get(client, (float(self.limit), now))
        left = min(float(self.limit), left + (now - then) * self._rate)
        passed = left >= 1.0
        if passed:
            left -= 1.0
        self._buckets[client] = (left, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return Allowance(
            limit=self.limit, remaining=int(left), reset=math.ceil(time.time() + (self.limit - left) / self._rate),
            retry_after=0 if passed else max(1, math.ceil((1.0 - left) / self._rate)))

    def give_back(self, client: str) -> None:
        """Take back one request of a client that `take` counted: it was not of the kind that is limited."""
        if client in self._buckets:
            left, then = self._buckets[client]
            self._buckets[client] = (min(float(self.limit), left + 1.0), then)
