"""What all handlers of one server share. Made by the app, handed to each handler with its routes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from server.auth import Authenticator, Origins
from server.config import Config
from server.dialects.heads import Heads
from server.dialects.routes import Route
from server.limits import RateLimiter
from server.metrics import Metrics
from server.services import Services

__all__ = ["Closable", "Context"]


class Closable(Protocol):
    def shut(self, code: int, reason: str) -> None: ...


@dataclass(kw_only=True, eq=False)
class Context:
    """Services and gatekeepers, requests in flight and open streams, and what is known of all routes."""

    config: Config
    services: Services
    authenticator: Authenticator
    origins: Origins
    limiter: RateLimiter
    logins: RateLimiter
    metrics: Metrics
    routes: Mapping[str, Mapping[str, Route]] = field(default_factory=dict)
    in_flight: set[Any] = field(default_factory=set)
    streams: set[Closable] = field(default_factory=set)
    heads: Heads = field(default_factory=Heads)
    frames: dict[Any, bytes] = field(default_factory=dict)
    stopping: bool = False

    def close_streams(self, code: int = 1001, reason: str = "the server is stopping") -> None:
        """Ask every open stream to end."""
        for stream in tuple(self.streams):
            stream.shut(code, reason)

    async def settle(self, seconds: float) -> bool:
        """Wait until no request is in flight and no stream open; False when the time is up first."""
        until = asyncio.get_running_loop().time() + seconds
        while self.in_flight or self.streams:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(0.02)
        return True
