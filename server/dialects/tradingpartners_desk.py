"""The desk that hands alerts to everybody who listens.

One task follows the stream `alerts`, has the credits of all listeners used or settled in one write, and writes each
listener's block straight to the socket: thousands of listeners cost one pass, not thousands of tasks. A listener that
comes back, or did not keep up, reads from its own position until it has caught up, and costs nobody else anything.

An alert costs a subscriber a credit when it is first delivered, on time or after coming back. Who was not there when
an alert was detected, and does not say from where to go on, hears nothing of that alert and pays nothing.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, Protocol

from engine.errors import PaymentRequired, WorkbenchError
from engine.model import Event
from server.dialects.tradingpartners_blocks import ALERTS, SETTLED, Block, ping_block
from server.services import Services
from server.services.credits import Credit, Use
from server.services.subscribers import Subscriber

__all__ = ["NO_CREDIT", "Desk", "Line"]

PING: Final = 12.0  # seconds; the promise is 15
TURN: Final = 500  # blocks sent before others get their turn
PAGE: Final = 200
RETRY: Final = 0.5
NO_CREDIT: Final = "no credit is left, and none is added by itself"
NOT_FULL: Final = "alerts in real time need FULL access"

log = logging.getLogger("workbench.alerts")


class Line(Protocol):
    """A listener's connection. `position`: the number of the last event given to it."""

    account: Subscriber
    position: int

    def send(self, block: bytes) -> bool:
        """Write a block; False when the reader is so far behind that it had better catch up by itself."""

    async def drained(self) -> bool:
        """Wait until a reader that was behind has read on; False when it is gone."""

    def end(self, error: WorkbenchError | None) -> None: ...


class Desk:
    """Everybody who listens to one server. Works while somebody does."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lines: dict[Line, asyncio.Task[None] | None] = {}  # with the task of one that catches up
        self._position: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._opening = asyncio.Lock()
        services.subscribers.changed.append(self._changed)

    def __len__(self) -> int:
        return len(self._lines)

    async def join(self, line: Line, after: int | None) -> None:
        """Give the line every event after `after` (None: after now)."""
        async with self._opening:
            if self._position is None:
                self._position = await self._services.credits.position()
                self._tasks = [asyncio.create_task(self._hand_out(), name="alerts"),
                               asyncio.create_task(self._ping(), name="alert pings")]
        line.position = self._position if after is None else min(after, self._position)
        self._lines[line] = None
        line.send(ping_block())
        if line.position < self._position:
            self._catch_up(line)

    def leave(self, line: Line) -> None:
        task = self._lines.pop(line, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if not self._lines and self._position is not None:
            self._position = None
            for each in self._tasks:
                if each is not asyncio.current_task():
                    each.cancel()

    def _changed(self, account: Subscriber) -> None:
        for line in [line for line in self._lines if line.account.id == account.id]:
            line.account = account
            if account.access != "FULL":
                line.end(PaymentRequired(NOT_FULL))

    # -- to those who keep up

    async def _hand_out(self) -> None:
        while self._position is not None:
            try:
                async for event in self._services.events.follow("alerts", self._position):
                    await self._give(event)
                    if self._position is None:
                        return
                return  # the database was closed
            except WorkbenchError as error:
                log.warning("alerts wait to be handed out: %s", error)
            await asyncio.sleep(RETRY)

    async def _give(self, event: Event) -> None:
        """One event to every line that is not catching up. What is raised leaves the position before the event."""
        block = _block(event)
        uses: dict[int, Use] = {}
        credits: dict[int, Credit] = {}
        asked: set[int] = set()
        if block is not None and block.name == "working":
            asked = {line.account.id for line, task in self._lines.items() if task is None and wants(line, block)}
            if asked:
                uses = await self._services.credits.use(block.alert, asked)
        elif block is not None and block.name in SETTLED:
            credits = await self._services.credits.settle(block.alert)
        elif block is not None:
            credits = await self._services.credits.of_alert(block.alert)
        self._position = None if self._position is None else event.seq  # who joins now begins after this event
        lines = [line for line, task in self._lines.items() if task is None and line.position < event.seq]
        if block is None:
            for line in lines:
                line.position = event.seq
            return
        for sent, line in enumerate(lines):
            if sent % TURN == TURN - 1:
                await asyncio.sleep(0)
            if self._lines.get(line, line) is not None or line.position >= event.seq:
                continue  # meanwhile it left, or reads for itself, or has done so
            id = line.account.id
            if block.name == "working":
                if id not in asked and wants(line, block):
                    self._catch_up(line)  # it came while the credits were being used
                    continue
                line.position = event.seq
                kept = id not in asked or self._charge(line, block, uses.get(id))
            else:
                line.position = event.seq
                credit = credits.get(id)
                kept = credit is None or line.send(block.of(credit.token, credit.state))
            if not kept and line in self._lines:
                self._catch_up(line)

    def _charge(self, line: Line, block: Block, use: Use | None) -> bool:
        """Send what a credit was used for; end the stream of who has none left. What `Line.send` says."""
        kept = use is None or line.send(block.of(use.token))
        if use is None or use.last:
            line.end(PaymentRequired(NO_CREDIT))
        return kept

    # -- to those who come back, or did not keep up

    def _catch_up(self, line: Line) -> None:
        if self._lines.get(line) is None:
            self._lines[line] = asyncio.create_task(self._read_on(line), name="an alert listener catches up")

    async def _read_on(self, line: Line) -> None:
        try:
            while line in self._lines and await line.drained():
                try:
                    page = await self._services.events.page("alerts", line.position, PAGE)
                    if page:
                        await self._give_page(line, page)
                        continue
                except WorkbenchError as error:
                    log.warning("a listener waits: %s", error)
                    await asyncio.sleep(RETRY)
                    continue
                if line in self._lines and self._position is not None and line.position >= self._position:
                    self._lines[line] = None
                    return
                await asyncio.sleep(0)
        except Exception as error:
            log.error("a listener's stream broke", exc_info=error)
            line.end(None)

    async def _give_page(self, line: Line, page: Iterable[Event]) -> None:
        found = [(event, _block(event)) for event in page]
        credits = await self._services.credits.of_account(
            line.account.id, list({block.alert for _, block in found if block is not None}))
        for event, block in found:
            if line not in self._lines:
                return
            kept = True
            if block is not None and block.name == "working":
                if block.alert in credits or wants(line, block):
                    uses = await self._services.credits.use(block.alert, [line.account.id])
                    use = uses.get(line.account.id)
                    if use is not None:
                        credits[block.alert] = Credit(use.token)
                    kept = self._charge(line, block, use)
            elif block is not None and block.alert in credits:
                credit = credits[block.alert]
                if block.name in SETTLED and credit.state == "USED":
                    credit = (await self._services.credits.settle(block.alert)).get(line.account.id, credit)
                kept = line.send(block.of(credit.token, credit.state))
            line.position = event.seq
            if not kept:
                return

    # -- to all

    async def _ping(self) -> None:
        while self._position is not None:
            await asyncio.sleep(PING)
            block = ping_block()
            for number, line in enumerate([line for line, task in self._lines.items() if task is None], 1):
                if line in self._lines and not line.send(block):
                    self._catch_up(line)
                if number % TURN == 0:
                    await asyncio.sleep(0)


def wants(line: Line, block: Block) -> bool:
    """Whether a new alert fits the subscriber's preferences."""
    return block.instrument in line.account.instruments and block.duration in line.account.durations


def _block(event: Event) -> Block | None:
    """None for what is no alert's step, and for what a broken writer left."""
    if event.type not in ALERTS:
        return None
    try:
        return Block(event)
    except (KeyError, TypeError, ValueError, WorkbenchError) as error:
        log.error("an event of the alerts cannot be told", exc_info=error, extra={"facts": {"seq": event.seq}})
        return None


