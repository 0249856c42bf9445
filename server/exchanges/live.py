"""Finished minutes of a market as they come: from a line where it has them, else by asking."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from engine.minutes import WIDTH, Minute, minute_of
from server.exchanges.pages import Page
from server.exchanges.sockets import Line
from server.exchanges.thread import LoopThread

__all__ = ["follow"]

GRACE: Final = 8.0  # seconds after a minute, in which a line may have more to say, before the exchange is asked

Ask = Callable[[int, int, float | None], Awaitable[Page]]


async def follow(ask: Ask, line: Line, thread: LoopThread, *, start: int, interval: float, settle: float,
                 clock: Callable[[], float]) -> AsyncIterator[Minute]:
    """Every minute from `start` (seconds) on, once, in order, without holes, `settle` seconds after it is over at the
    earliest. `ask(start, end, close)` gives a page of history. Closes the line at the end."""
    close: float | None = None
    try:
        await thread.run(line.open)
        while True:
            while (end := minute_of(clock() - settle)) > start:
                patience = min(interval, start + WIDTH + settle + GRACE - clock())
                minutes, until = await thread.run(lambda: line.take(start, end, close, patience)), start  # noqa: B023
                if minutes:
                    until = int(minutes[-1]["start"]) + WIDTH
                else:
                    page = await ask(start, end, close)
                    minutes, until = list(page.minutes), page.until
                    traded = max((int(each["start"]) for each in minutes if each["volume"]), default=None)
                    thread.tell(lambda: line.passed(until, traded))  # noqa: B023
                if until <= start:
                    break
                start, close = until, minutes[-1]["close"] if minutes else close
                for minute in minutes:
                    yield minute
            rest = start + WIDTH + settle - clock()  # until there can be something new
            await asyncio.sleep(min(interval, max(rest, min(interval, 5.0))))
    finally:
        thread.tell(line.close)
