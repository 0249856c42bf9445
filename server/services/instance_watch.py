"""One watched market: one feed, and every instance that listens to it.

A group of minutes is stored (when it comes from an exchange), then heard by all instances, then what they said is kept,
in one write. Only then comes the next group: what was kept is never said again, what was not is said again after a
restart, from the memory that was kept with it. So nothing is lost and nothing doubled, wherever the process dies.

A feed that fails is asked again, later and later, from the minute after the last one that was kept.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from engine import times
from engine.errors import Forbidden, Invalid, NotFound, Unavailable
from server.services.instance_feeds import AT_ONCE, MINUTE, Feed, Minute, candles_of, minutes_of
from server.services.instance_rows import Told
from server.services.instance_runner import Runner
from server.services.markets import Markets

__all__ = ["Kept", "MarketWatch"]

INLINE: Final = 20  # minutes that are stepped through on the loop: microseconds each
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
CLOSING: Final = 5.0

Kept = Sequence[tuple[Runner, Sequence[Told]]]

log = logging.getLogger("workbench.instances")


class MarketWatch:
    """Runs from the first instance that joins until the last one leaves.

    keep: saves what was said, in one write. fail: ends an instance with an error. Both are called with `lock` held.
    """

    def __init__(self, feed: Feed, markets: Markets, keep: Callable[[Kept], Awaitable[None]],
                 fail: Callable[[Runner, Exception], Awaitable[None]]) -> None:
        self.feed = feed
        self.lock = asyncio.Lock()
        self.position: int | None = None
        self.failure: str | None = None
        """Why the feed is silent, while it is."""
        self._markets = markets
        self._keep = keep
        self._fail = fail
        self._runners: dict[str, Runner] = {}
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._runners)

    async def join(self, runner: Runner) -> None:
        """Let it listen: first to what the store has between its position and where the market is now."""
        async with self.lock:
            if runner.position is not None:
                await self._catch_up(runner)
            self._runners[runner.instance.id] = runner
            if self._running is None:
                self._running = asyncio.create_task(self._run(), name=f"watch {self.feed.home.key}")

    def leave(self, runner: Runner) -> None:
        """It listens no more. Call it with `lock` held."""
        self._runners.pop(runner.instance.id, None)

    async def close(self) -> None:
        """Stop listening; what is being kept is kept, if that does not take too long."""
        running, self._running = self._running, None
        if running is not None:
            try:
                async with asyncio.timeout(CLOSING), self.lock:
                    running.cancel()
            except TimeoutError:  # the database is away: what was not kept is said again in the next life
                running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _catch_up(self, runner: Runner) -> None:
        """Past minutes from the store, up to the last one that the others have heard."""
        until = self.feed.now() if self.position is None else self.position
        while until is not None and runner.position is not None and runner.position < until:
            try:
                page = await self._markets.candles(
                    self.feed.home, MINUTE, (runner.position + 1) * times.SECOND, until * times.SECOND, limit=AT_ONCE)
            except (Invalid, NotFound):  # the store has none of them
                return
            minutes = await asyncio.to_thread(minutes_of, page.candles)
            if not minutes or not await self._hear([runner], minutes):
                return

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with aclosing(self.feed.minutes(self._since())) as groups:  # type: ignore[type-var]
                    async for minutes in groups:
                        await self._take(minutes)
                        pause, self.failure = FIRST_PAUSE, None
                problem: Exception = Unavailable("the feed has ended")
            except asyncio.CancelledError:
                raise
            except (NotFound, Invalid, Forbidden) as error:
                await self._fail_all(error)
                return
            except Exception as error:
                problem = error
            self.failure = str(problem)
            known = isinstance(problem, Unavailable)
            log.warning("a market is silent, trying again", exc_info=None if known else problem, extra={"facts": {
                "market": self.feed.home.key, "in": pause, "because": self.failure}})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _since(self) -> int | None:
        """The minute to go on with: the oldest that somebody has still to hear."""
        heard = [runner.position for runner in self._runners.values() if runner.position is not None]
        return min(heard) + MINUTE if heard else self.feed.now()

    async def _take(self, minutes: Sequence[Minute]) -> None:
        if not self.feed.stored and self._storing():
            await self._markets.write(await asyncio.to_thread(candles_of, self.feed.home, list(minutes)))
        async with self.lock:
            await self._hear(list(self._runners.values()), minutes)
            last = minutes[-1]["start"]
            self.position = last if self.position is None else max(last, self.position)

    def _storing(self) -> bool:
        """Whether somebody wants the candles kept: a strategy (it goes on with them after a pause), or a watcher whose
        candleWriter is on."""
        for runner in self._runners.values():
            writer = runner.instance.config.get("candleWriter")
            if runner.instance.trades or (isinstance(writer, dict) and writer.get("enabled")):
                return True
        return False

    async def _hear(self, runners: Sequence[Runner], minutes: Sequence[Minute]) -> bool:
        """Whether all of them could hear these minutes."""
        kept: list[tuple[Runner, Sequence[Told]]] = []
        whole = True
        for runner in runners:
            new = runner.wants(minutes)
            if not new:
                continue
            try:
                said = runner.step(new) if len(new) <= INLINE else await asyncio.to_thread(runner.step, new)
            except Exception as error:
                whole = False
                await self._fail(runner, error)
            else:
                kept.append((runner, said))
        if kept:
            await self._keep(kept)
        return whole

    async def _fail_all(self, error: Exception) -> None:
        async with self.lock:
            for runner in list(self._runners.values()):
                await self._fail(runner, error)
            self._running = None
