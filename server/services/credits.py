"""Credits: what a delivered alert costs, and what comes back when it does not win.

The ledger is only ever added to, and every entry changes its account's balance in the same write:

    grant          +n   given (or, below zero, taken back) by the operator
    renewal        +n   added by itself when the last credit was used
    use            -1   an alert was delivered; has the credit's token
    reimbursement  +1   the alert did not win: the same token
    consumption     0   it did

An alert costs an account once, however often it is delivered, and is settled once: the table allows no second entry.
Writes happen one after another, so two uses at the same moment cannot take the same credit.
"""

import asyncio
import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from engine import times
from engine.alerts import Alert
from engine.credits import consumes
from engine.errors import Conflict, Invalid, NotFound, WorkbenchError
from server.services.alert_rows import AlertFilters, alert_of, conditions
from server.services.credit_statements import GIVE_BACK, LAST, RENEW, SETTLE, TAKE, TOP_UP, USE
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import events
from server.store.tables.alerts import alerts, credit_entries, subscribers

__all__ = ["Credit", "Credits", "Entry", "Use"]

CreditState = Literal["USED", "REIMBURSED", "CONSUMED"]
MOST: Final = 10**12
_FEW: Final = 500  # accounts, up to which they are named in a query
_SETTLED: Final[Mapping[str, CreditState]] = {"reimbursement": "REIMBURSED", "consumption": "CONSUMED"}
_RETRY: Final = 1.0

log = logging.getLogger("workbench.credits")


class Credit(NamedTuple):
    """A credit that an alert cost: its token, and what became of it."""

    token: str
    state: CreditState = "USED"


class Use(NamedTuple):
    """A credit used. `last`: nothing is left, and nothing will be added by itself."""

    token: str
    last: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A line of the ledger; `at` in microseconds."""

    id: int
    kind: str
    amount: int
    token: str | None
    alert_id: int | None
    at: int
    note: str


class Credits:
    """The ledger. `start` settles what ended while nobody looked, and goes on settling as alerts end.

    `threshold`: percent of its start price that an alert must gain to be a winning one."""

    def __init__(self, db: Database, events: EventLog, threshold: float = 0.0) -> None:
        self._db = db
        self._events = events
        self._threshold = threshold
        self._settling: dict[int, asyncio.Task[dict[int, Credit]]] = {}
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._follower = asyncio.create_task(self._follow(await self.position()), name="credits")

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        for task in tuple(self._settling.values()):
            with suppress(WorkbenchError):
                await task

    async def position(self) -> int:
        """The number of the last event of the alerts; 0 when there is none."""
        query = select(func.coalesce(func.max(events.c.seq), 0)).where(events.c.stream == "alerts")
        return await self._db.read(lambda connection: connection.execute(query).scalar_one())

    # -- by hand

    async def grant(self, subscriber: int, amount: int, note: str = "") -> int:
        """Give credits, or take unused ones back (below zero); the new balance. Raises `Invalid`, `Conflict`."""
        if isinstance(amount, bool) or not isinstance(amount, int) or amount == 0 or abs(amount) > MOST:
            raise Invalid("this is no number of credits", field="amount", remedy="give a whole number, not 0")
        row = {"subscriber_id": subscriber, "kind": "grant", "amount": amount, "at": times.micros(times.now()),
               "note": note[:1000]}

        def work(connection: Connection) -> int:
            balance = connection.execute(select(subscribers.c.balance).where(subscribers.c.id == subscriber)).scalar()
            if balance is None:
                raise NotFound(f"there is no subscriber {subscriber}")
            if balance + amount < 0:
                raise Conflict(f"only {balance} credits are left", field="amount", remedy="take fewer")
            connection.execute(insert(credit_entries).values(row))
            connection.execute(update(subscribers).where(subscribers.c.id == subscriber).values(
                balance=balance + amount))
            return balance + amount

        return await self._db.write(work)

    async def entries(self, subscriber: int, *, before: int | None = None, limit: int = 100) -> list[Entry]:
        """The account's lines, newest first; those with an id below `before`."""
        query = select(credit_entries).where(credit_entries.c.subscriber_id == subscriber)
        if before is not None:
            query = query.where(credit_entries.c.id < before)
        query = query.order_by(credit_entries.c.id.desc()).limit(limit)
        return await self._db.read(lambda connection: [
            Entry(id=row.id, kind=row.kind, amount=row.amount, token=row.token, alert_id=row.alert_id, at=row.at,
                  note=row.note) for row in connection.execute(query)])

    async def unbalanced(self) -> dict[int, tuple[int, int]]:
        """Accounts whose balance is not the sum of their entries: id -> (balance, sum). Empty, or something is
        broken."""
        total = func.coalesce(func.sum(credit_entries.c.amount), 0)
        query = (select(subscribers.c.id, subscribers.c.balance, total)
                 .join(credit_entries, credit_entries.c.subscriber_id == subscribers.c.id, isouter=True)
                 .group_by(subscribers.c.id, subscribers.c.balance).having(subscribers.c.balance != total))
        return await self._db.read(lambda connection: {row[0]: (row[1], int(row[2]))
                                                       for row in connection.execute(query)})

    # -- by alerts

    async def use(self, alert: int, accounts: Collection[int]) -> dict[int, Use]:
        """Use a credit of each account for an alert. An account that has paid for it already gets the same token; one
        that cannot pay (no credit, access FREE, deleted) is missing from the answer. When the alert has ended already,
        what was used now is settled at once: nobody would come to do it."""
        spare = dict(zip(accounts, _tokens(len(accounts)), strict=True))
        values: dict[str, Any] = {"spare": str(encode(spare)), "alert": alert, "at": times.micros(times.now())}

        def work(connection: Connection) -> dict[int, Use]:
            found = {id: Use(token) for id, token in _uses(connection, alert, accounts).items()}
            new = {"alert": alert, "before": connection.execute(LAST).scalar_one()}
            if connection.execute(RENEW[connection.dialect.name], values).rowcount > 0:
                connection.execute(TOP_UP, new)
            connection.execute(USE[connection.dialect.name], values)
            for id, last in connection.execute(TAKE, new):
                found[id] = Use(spare[id], last)
            if self._end(connection, alert, values["at"]) == "reimbursement":
                return {id: Use(use.token) for id, use in found.items()}
            return found

        return await self._db.write(work)

    async def of_alert(self, alert: int) -> dict[int, Credit]:
        """Everybody's credits for an alert, by account."""
        return await self._db.read(lambda connection: _credits(connection, alert))

    async def of_account(self, subscriber: int, wanted: Sequence[int]) -> dict[int, Credit]:
        """An account's credits for these alerts, by alert; alerts that cost it nothing are missing."""
        entry = credit_entries.c
        query = select(entry.alert_id, entry.kind, entry.token).where(
            entry.subscriber_id == subscriber, entry.alert_id.in_(wanted)).order_by(entry.id)
        rows = await self._db.read(lambda connection: connection.execute(query).all())
        return {row.alert_id: Credit(row.token, _SETTLED.get(row.kind, "USED")) for row in rows}

    async def history(self, subscriber: int, filters: AlertFilters, *, sort: str, descending: bool, limit: int,
                      offset: int) -> tuple[list[tuple[Alert, int]], int]:
        """The alerts that an account has received and when (microseconds), and how many there are in all.

        sort: `accessed_at` or a column of the alerts."""
        use = credit_entries.c
        where = [use.subscriber_id == subscriber, use.kind == "use", *conditions(filters)]
        joined = credit_entries.join(alerts, alerts.c.id == use.alert_id)
        column = use.id if sort == "accessed_at" else alerts.c[sort]
        query = select(alerts, use.at.label("accessed_at")).select_from(joined).where(*where).order_by(
            column.is_(None), column.desc() if descending else column, use.id.desc()).limit(limit).offset(offset)
        total = select(func.count()).select_from(joined).where(*where)

        def work(connection: Connection) -> tuple[list[tuple[Alert, int]], int]:
            rows = connection.execute(query).all()
            return [(alert_of(row), row.accessed_at) for row in rows], connection.execute(total).scalar_one()

        return await self._db.read(work)

    async def settle(self, alert: int) -> dict[int, Credit]:
        """Reimburse or consume every credit that an ended alert cost, once; everybody's credits, by account."""
        task = self._settling.get(alert)
        if task is None:
            task = self._settling[alert] = asyncio.create_task(self._settle(alert), name=f"settle alert {alert}")
            task.add_done_callback(lambda _: self._settling.pop(alert, None))
        return await asyncio.shield(task)

    async def _settle(self, alert: int) -> dict[int, Credit]:
        at = times.micros(times.now())

        def work(connection: Connection) -> dict[int, Credit]:
            ended = self._end(connection, alert, at)
            return _credits(connection, alert, tuple(_SETTLED)) if ended else _credits(connection, alert)

        return await self._db.write(work)

    def _end(self, connection: Connection, alert: int, at: int) -> str:
        """Settle what waits for an alert that has ended, and by which kind of entry; "" for one that goes on."""
        row = connection.execute(select(alerts.c.state, alerts.c.gain, alerts.c.start).where(
            alerts.c.id == alert)).first()
        if row is None or row.state not in ("closed", "aborted"):
            return ""
        won = consumes(row.state, row.gain, abs(row.start) * self._threshold / 100)
        kind, amount = ("consumption", 0) if won else ("reimbursement", 1)
        values = {"alert": alert, "before": connection.execute(LAST).scalar_one(), "kind": kind, "amount": amount,
                  "at": at}
        if connection.execute(SETTLE, values).rowcount and amount:
            connection.execute(GIVE_BACK, values)
        return kind

    async def settle_ended(self) -> int:
        """Settle every credit whose alert has ended; how many alerts that were."""
        entry, done = credit_entries.alias("entry"), credit_entries.alias("done")
        query = (select(entry.c.alert_id).distinct().join(alerts, alerts.c.id == entry.c.alert_id)
                 .where(entry.c.kind == "use", alerts.c.state.in_(("closed", "aborted")),
                        ~select(done.c.id).where(done.c.subscriber_id == entry.c.subscriber_id,
                                                 done.c.alert_id == entry.c.alert_id,
                                                 done.c.kind.in_(tuple(_SETTLED))).exists()))
        found = await self._db.read(lambda connection: connection.execute(query).scalars().all())
        for alert in found:
            await self.settle(alert)
        return len(found)

    async def _follow(self, position: int) -> None:
        while True:
            try:
                await self.settle_ended()
                async for event in self._events.follow("alerts", position):
                    if event.type in ("closed", "aborted"):
                        await self.settle(int(event.data["id"]))
                    position = event.seq
                return
            except WorkbenchError as error:
                log.warning("credits wait to be settled: %s", error)
            except Exception as error:
                log.error("settling credits failed", exc_info=error)
            await asyncio.sleep(_RETRY)


def _tokens(count: int) -> list[str]:
    """New tokens: random UUIDs (version 4), in a tenth of the time that the library takes for thousands."""
    text = secrets.token_hex(16 * count)
    return [f"{text[at:at + 8]}-{text[at + 8:at + 12]}-4{text[at + 13:at + 16]}-"
            f"{'89ab'[int(text[at + 16], 16) & 3]}{text[at + 17:at + 20]}-{text[at + 20:at + 32]}"
            for at in range(0, 32 * count, 32)]


def _uses(connection: Connection, alert: int, accounts: Collection[int]) -> dict[int, str]:
    entry = credit_entries.c
    query = select(entry.subscriber_id, entry.token).where(entry.alert_id == alert, entry.kind == "use")
    if len(accounts) <= _FEW:
        query = query.where(entry.subscriber_id.in_(accounts))
    wanted = set(accounts)
    return {id: token for id, token in connection.execute(query) if id in wanted}


def _credits(connection: Connection, alert: int, kinds: Sequence[str] = ("use", *_SETTLED)) -> dict[int, Credit]:
    """The credits of an alert by account, as entries of these kinds have them."""
    entry = credit_entries.c
    rows = connection.execute(select(entry.subscriber_id, entry.kind, entry.token).where(
        entry.alert_id == alert, entry.kind.in_(kinds)).order_by(entry.id)).all()
    return {id: Credit(token, _SETTLED.get(kind, "USED")) for id, kind, token in rows}
