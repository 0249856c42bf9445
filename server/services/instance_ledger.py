"""What instances trade, told to the activity of the workbench: each paper trader and trade bot is also a model, so
that every face that shows what bots do shows them too.

It reads the instances' own events and records what they mean; `noted` is the last event of an instance that has been
recorded. An event that is recorded twice, since the process died between, is kept once: orders have ids, and every
record has a key.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from sqlalchemy import Connection, func, select, update

from engine import times
from engine.activity import Call, Entry, Lifecycle, LogLine, OrderPlaced, UsedExchange, UsedSymbol
from engine.errors import Conflict, NotFound, Unavailable, WorkbenchError
from engine.model import Event, Market, Principal
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables.instances import instances

__all__ = ["Ledger"]

DONE: Final = 2**62
PREFIX: Final = "instance/"
RETRY: Final = 1.0
SETTLING: Final = 20.0  # seconds
OURS: Final = Principal(name="instances", scopes=frozenset({"admin"}))

log = logging.getLogger("workbench.instances")


class Recording(Protocol):
    """What of `server.services.activity.Activity` is needed here."""

    async def record(self, entries: Any, *, principal: Principal, key: str | None = None, dialect: str = "native",
                     **more: Any) -> Any: ...

    async def create_model(self, project: str, name: str, *, kind: str = "strategy", dialect: str = "native",
                           id: str | None = None, **more: Any) -> Any: ...


class Ledger:
    """Follows all instances, from the first event that was not recorded. `known`: an instance's (kind, market,
    strategy) or None when it is gone."""

    def __init__(self, db: Database, events: EventLog, activity: Recording,
                 known: Callable[[str], Awaitable[tuple[str, Market, str] | None]]) -> None:
        self._db = db
        self._events = events
        self._activity = activity
        self._known = known
        self._noted: dict[str, int] = {}
        self._before: dict[str, Mapping[str, float]] = {}  # the portfolio when a trade began
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow."""
        query = select(instances.c.id, instances.c.noted).where(instances.c.noted < DONE)
        rows = await self._db.read(lambda connection: connection.execute(query).all())
        self._noted = {row.id: row.noted for row in rows}
        after = min(self._noted.values(), default=None)
        if after is None:
            after = await self._events.last_id()
        self._task = asyncio.create_task(self._run(after), name="instances' ledger")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, after: int) -> None:
        while True:
            try:
                async for event in self._events.follow_all(PREFIX, after):
                    await self._take(event)
                    after = event.id
                return  # the database was closed
            except Unavailable as error:
                log.warning("what instances trade cannot be recorded, trying again", extra={"facts": {
                    "because": error.message}})
                await asyncio.sleep(RETRY)

    async def _take(self, event: Event) -> None:
        id = event.stream.removeprefix(PREFIX)
        if event.id <= self._noted.get(id, 0):
            return
        about = await self._known(id)
        if about is None or about[0] == "watcher":
            if event.type == "archived":
                await self._note(id, DONE)
            return
        if event.type == "tradeInitiated":
            self._before[id] = event.data["payload"]["portfolio"]
        entries = self._entries(id, event, *about)
        if not entries:
            return
        try:
            if event.type == "created":
                await self._make(id, *about)
            await self._activity.record(entries, principal=OURS, key=f"instance-event-{event.id}", dialect="gekko")
        except Unavailable:
            raise
        except WorkbenchError as error:
            log.error("what an instance did cannot be recorded", extra={"facts": {
                "instance": id, "event": event.type, "because": str(error)}})
        await self._note(id, DONE if event.type == "archived" else event.id)

    async def _make(self, id: str, kind: str, market: Market, strategy: str) -> None:
        try:
            await self._activity.create_model("default", f"{strategy} on {market.key}"[:200], kind=kind,
                                              dialect="gekko", id=id)
        except Conflict:  # by a former life that died before it noted so
            pass
        except NotFound as error:
            log.error("an instance has no model", extra={"facts": {"instance": id, "because": error.message}})

    async def _note(self, id: str, position: int) -> None:
        self._noted[id] = position

        def work(connection: Connection) -> None:
            connection.execute(update(instances).where(instances.c.id == id).values(noted=position))

        await self._db.write(work)

    async def settled(self, id: str) -> None:
        """Wait until all that an archived instance did is recorded. Raises `Unavailable` when it takes too long."""
        query = select(instances.c.id).where(instances.c.id == id, instances.c.noted < DONE)
        try:
            async with asyncio.timeout(SETTLING):
                while await self._db.read(lambda connection: connection.execute(query).first()) is not None:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable("what the instance traded is still being recorded", remedy="ask again later") from None

    async def pending(self) -> int:
        """How many instances have not been recorded to their end."""
        query = select(func.count()).select_from(instances).where(instances.c.noted < DONE)
        return await self._db.read(lambda connection: connection.execute(query).scalar_one())

    def _entries(self, id: str, event: Event, kind: str, market: Market, strategy: str) -> list[Entry]:
        symbol, at = f"{market.asset}/{market.currency}", times.iso(event.at)
        if event.type == "created":
            return [Lifecycle(model=id, at=at, message=f"{strategy} runs", running=True, started_at=at),
                    UsedSymbol(model=id, at=at, symbol=symbol),
                    UsedExchange(model=id, at=at, exchange=market.exchange)]
        if event.type == "archived":
            return [Lifecycle(model=id, at=at, running=False, ended_at=at)]
        if event.type == "stopped":
            return [Lifecycle(model=id, at=at, message="stopped")]
        if event.type == "failed":
            error = str(event.data.get("error") or "failed")
            return [Lifecycle(model=id, at=at, message=error[:1000]),
                    LogLine(model=id, at=at, line=error[:10_000], type="error")]
        payload: Any = event.data.get("payload")
        if event.type == "tradeCompleted":
            return [self._order(id, payload, market, symbol)]
        if event.type in ("advice", "roundtrip", "tradeErrored", "tradeCancelled", "tradeAborted"):
            said = payload.get("exitAt") or payload.get("date")
            return [Call(model=id, at=said, type=event.type, args=payload)]
        return []

    def _order(self, id: str, trade: Mapping[str, Any], market: Market, symbol: str) -> Entry:
        """The order that a trade was. Gekko's `amount` is what is held afterwards, so the size is reckoned here."""
        before = self._before.get(id, {}).get("asset") or 0.0
        size = abs((trade["portfolio"]["asset"] or 0.0) - before)
        if not size or not trade["price"]:  # there was nothing to trade
            return Call(model=id, at=trade["date"], type="trade", args=dict(trade))
        return OrderPlaced(
            model=id, at=trade["date"], id=f"{trade['id']}-{trade['action']}", symbol=symbol, side=trade["action"],
            type="market", exchange=market.exchange, size=size, price=trade["price"], filled=size, status="filled",
            executed_at=trade["date"], fee=trade["cost"], fee_currency=market.currency,
            annotation=trade.get("adviceId"),
            extra={name: trade.get(name) for name in ("adviceId", "effectivePrice", "feePercent", "balance")})
