"""Subscribers: who receives alerts, with an account, preferences and credits of their own.

A subscriber logs in with e-mail address and password and gets a token of scope "subscribe", good for a day. Tokens with
the scope alerts or admin, and the sessions of pages, stand for the workbench's own subscriber, the operator, whose
credits renew themselves.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, delete, insert, select, update

from engine import times
from engine.alerts import DURATIONS, INSTRUMENTS
from engine.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from engine.model import Principal
from server.services.passwords import Passwords
from server.services.users import Users
from server.store.database import Database
from server.store.tables import tokens
from server.store.tables.alerts import subscriber_tokens, subscribers

__all__ = ["OPERATOR", "Subscriber", "Subscribers"]

Access = Literal["FREE", "FULL"]
ACCESS: Final = ("FREE", "FULL")
OPERATOR: Final = "operator"
SESSION: Final = 86400  # seconds that a login lasts
RENEWAL: Final = 100  # credits of one renewal, unless told otherwise
FREE_EVERY: Final = 15 * times.MINUTE
REMEMBERED: Final = 20_000
_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,190}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscriber:
    """An account. `balance` counts credits, and is the sum of the account's entries in the ledger; `renewal` is how
    many a renewal adds, when it is automatic. Preferences: alerts of other `instruments` and `durations` are left out.
    """

    id: int
    email: str
    access: Access
    balance: int
    automatic_renewal: bool
    renewal: int
    instruments: frozenset[str]
    durations: frozenset[str]
    created_at: datetime
    last_login_at: datetime | None = None

    @property
    def may_stream(self) -> bool:
        """Whether the next alert could be delivered."""
        return self.access == "FULL" and (self.balance > 0 or (self.automatic_renewal and self.renewal > 0))


class Subscribers:
    """Creates, changes, recognises subscribers."""

    def __init__(self, db: Database, users: Users) -> None:
        self._db = db
        self._users = users
        self._passwords = Passwords()
        self._owners: OrderedDict[str, int] = OrderedDict()  # token id -> subscriber id; that never changes
        self.changed: list[Callable[[Subscriber], None]] = []
        """Told of every account that was changed here (one that was deleted as FREE)."""

    async def close(self) -> None:
        self._passwords.close()

    # -- accounts

    async def create(self, email: str, password: str = "", *, access: str = "FREE", automatic_renewal: bool = False,
                     renewal: int = RENEWAL, instruments: Sequence[str] = INSTRUMENTS,
                     durations: Sequence[str] = DURATIONS) -> Subscriber:
        """A new account without credits; without a password nobody can log in to it. Raises `Invalid`, `Conflict`."""
        row = {"email": _email(email), "balance": 0, "created_at": times.micros(times.now()), **_checked({
            "access": access, "automatic_renewal": automatic_renewal, "renewal": renewal, "instruments": instruments,
            "durations": durations}), "password": await self._passwords.hash(password) if password else ""}

        def work(connection: Connection) -> Subscriber:
            if connection.execute(select(subscribers.c.id).where(subscribers.c.email == row["email"])).first():
                raise Conflict("there is an account with this address", field="email", remedy="change that one")
            id = connection.execute(insert(subscribers).values(row)).inserted_primary_key[0]  # type: ignore[index]
            return _by_id(connection, id)

        return await self._db.write(work)

    async def list(self, *, after: int = 0, limit: int = 1000) -> list[Subscriber]:
        """Accounts in the order in which they were made."""
        query = select(subscribers).where(subscribers.c.id > after).order_by(subscribers.c.id).limit(limit)
        return await self._db.read(lambda connection: [_subscriber(row) for row in connection.execute(query)])

    async def get(self, id: int) -> Subscriber:
        """Raises `NotFound`."""
        return await self._db.read(lambda connection: _by_id(connection, id))

    async def named(self, email: str) -> Subscriber:
        """The account of an address. Raises `NotFound`."""
        query = select(subscribers).where(subscribers.c.email == email.strip().lower())
        row = await self._db.read(lambda connection: connection.execute(query).first())
        if row is None:
            raise NotFound(f"there is no account {email[:100]!r}", field="email")
        return _subscriber(row)

    async def change(self, id: int, *, password: str | None = None, **values: Any) -> Subscriber:
        """Change `access`, `automatic_renewal`, `renewal`, `instruments`, `durations` or the password, which ends the
        account's logins. Raises `Invalid`, `NotFound`."""
        changes = _checked(values)
        if password is not None:
            changes["password"] = await self._passwords.hash(password)

        def work(connection: Connection) -> tuple[Subscriber, list[str]]:
            if changes:
                connection.execute(update(subscribers).where(subscribers.c.id == id).values(changes))
            return _by_id(connection, id), _tokens_of(connection, id) if password is not None else []

        found, ended = await self._db.write(work)
        await self._revoke(ended)
        self._tell(found)
        return found

    async def delete(self, id: int) -> None:
        """Delete an account with its entries in the ledger. Raises `NotFound`; `Conflict` for the operator's."""

        def work(connection: Connection) -> tuple[Subscriber, list[str]]:
            found = _by_id(connection, id)
            if found.email == OPERATOR:
                raise Conflict("the operator's account belongs to the workbench")
            ended = _tokens_of(connection, id)
            connection.execute(delete(subscribers).where(subscribers.c.id == id))
            return found, ended

        found, ended = await self._db.write(work)
        await self._revoke(ended)
        self._tell(replace(found, access="FREE"))

    def _tell(self, found: Subscriber) -> None:
        for listener in self.changed:
            listener(found)

    async def _revoke(self, ended: Sequence[str]) -> None:
        for token_id in ended:
            self._owners.pop(token_id, None)
            await self._users.revoke(token_id)

    # -- who asks

    async def log_in(self, email: str, password: str) -> tuple[Subscriber, str, int]:
        """The account as it was before this login, a token's text and the seconds that it is good for.

        Raises `Unauthenticated`, which does not say whether it was the address or the password.
        """
        query = select(subscribers).where(subscribers.c.email == email.strip().lower())
        row = await self._db.read(lambda connection: connection.execute(query).first())
        if not await self._passwords.fits(password, row.password if row else ""):
            raise Unauthenticated("invalid email or password", field="email", remedy="check both")
        assert row is not None
        found, at = _subscriber(row), times.micros(times.now())
        text = await self.issue(found.id)
        await self._db.write(lambda connection: connection.execute(
            update(subscribers).where(subscribers.c.id == found.id).values(last_login_at=at)))
        return found, text, SESSION

    async def issue(self, id: int) -> str:
        """The text of a token that stands for a subscriber for a day. Raises `NotFound`."""
        found, at = await self.get(id), times.now()
        ends = at + timedelta(seconds=SESSION)
        token, text = await self._users.create(f"login of {found.email}"[:200], ["subscribe"], owner=found.email,
                                               expires_at=ends)
        entry = {"token_id": token.id, "subscriber_id": id, "expires_at": times.micros(ends)}
        old = subscriber_tokens.c.expires_at < times.micros(at)

        def work(connection: Connection) -> None:
            connection.execute(delete(tokens).where(tokens.c.id.in_(select(subscriber_tokens.c.token_id).where(old))))
            connection.execute(delete(subscriber_tokens).where(old))
            connection.execute(insert(subscriber_tokens).values(entry))

        await self._db.write(work)
        return text

    async def of(self, principal: Principal) -> Subscriber:
        """Whose account a token stands for. Raises `Forbidden` for a token that is neither a login nor the
        operator's."""
        if principal.may("alerts"):
            return await self.operator()
        id = self._owners.get(principal.token_id)
        if id is None:
            query = select(subscriber_tokens.c.subscriber_id).where(
                subscriber_tokens.c.token_id == principal.token_id)
            id = await self._db.read(lambda connection: connection.execute(query).scalar())
            if id is None:
                raise Forbidden("this token is no subscriber's", remedy="log in at /api/v1/users/login, or use a token "
                                "with the scope alerts")
            self._owners[principal.token_id] = id
            if len(self._owners) > REMEMBERED:
                self._owners.popitem(last=False)
        try:
            return await self.get(id)
        except NotFound:
            raise Unauthenticated("this account is no more") from None

    async def operator(self) -> Subscriber:
        """The workbench's own subscriber; made when it is first asked for."""
        try:
            return await self.named(OPERATOR)
        except NotFound:
            row = {"email": OPERATOR, "access": "FULL", "balance": 0, "automatic_renewal": True, "renewal": RENEWAL,
                   "instruments": list(INSTRUMENTS), "durations": list(DURATIONS),
                   "created_at": times.micros(times.now())}

            def work(connection: Connection) -> None:
                if connection.execute(select(subscribers.c.id).where(subscribers.c.email == OPERATOR)).first() is None:
                    connection.execute(insert(subscribers).values(row))

            await self._db.write(work)
            return await self.named(OPERATOR)

    async def take_free(self, id: int) -> bool:
        """Whether a FREE subscriber may be shown closed alerts now; counts as having been shown them."""
        at = times.micros(times.now())
        change = update(subscribers).where(
            subscribers.c.id == id, (subscribers.c.free_at.is_(None)) | (subscribers.c.free_at <= at - FREE_EVERY)
        ).values(free_at=at)
        return await self._db.write(lambda connection: connection.execute(change).rowcount == 1)


def _email(text: str) -> str:
    text = text.strip().lower()
    if len(text) > 255 or not _EMAIL.fullmatch(text):
        raise Invalid("this is not an e-mail address", field="email", remedy="write name@host")
    return text


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Columns from what a caller gave; raises `Invalid`."""
    changes = dict(values)
    if changes.get("access", "FREE") not in ACCESS:
        raise Invalid(f"{changes['access']!r} is not an access", field="access", remedy="use FREE or FULL")
    renewal = changes.get("renewal", 1)
    if isinstance(renewal, bool) or not isinstance(renewal, int) or not 0 <= renewal <= 10**9:
        raise Invalid("a renewal is a number of credits", field="renewal", remedy="use 0 to 1000000000")
    for name, choices in (("instruments", INSTRUMENTS), ("durations", DURATIONS)):
        if name in changes:
            for one in changes[name]:
                if one not in choices:
                    raise Invalid(f"{str(one)[:50]!r} is not a choice", field=name,
                                  remedy="choose of " + ", ".join(choices))
            changes[name] = [choice for choice in choices if choice in changes[name]]
    return changes


def _tokens_of(connection: Connection, id: int) -> list[str]:
    """The subscriber's tokens, which are forgotten."""
    found = connection.execute(select(subscriber_tokens.c.token_id).where(
        subscriber_tokens.c.subscriber_id == id)).scalars().all()
    connection.execute(delete(subscriber_tokens).where(subscriber_tokens.c.subscriber_id == id))
    return list(found)


def _by_id(connection: Connection, id: int) -> Subscriber:
    row = connection.execute(select(subscribers).where(subscribers.c.id == id)).first()
    if row is None:
        raise NotFound(f"there is no subscriber {id}")
    return _subscriber(row)


def _subscriber(row: Any) -> Subscriber:
    return Subscriber(id=row.id, email=row.email, access=row.access, balance=row.balance,
                      automatic_renewal=row.automatic_renewal, renewal=row.renewal,
                      instruments=frozenset(row.instruments), durations=frozenset(row.durations),
                      created_at=times.instant(row.created_at),
                      last_login_at=None if row.last_login_at is None else times.instant(row.last_login_at))
