"""Tokens: who may talk to the workbench and what each may do.

A token's text is `wb_<prefix>_<secret>`; the database holds its sha256 and the prefix, never the text. What was looked
up is remembered for a few seconds, so that a request costs no SQL; a revocation here takes effect at once, one by
another process that shares the database within `REMEMBER` seconds.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from engine import times
from engine.errors import Conflict, Invalid, NotFound, WorkbenchError
from engine.model import Principal
from server.store.database import Database
from server.store.tables import tokens

__all__ = ["SCOPES", "Token", "Users"]

SCOPES: Final[dict[str, str]] = {
    "admin": "everything, tokens included",
    "read": "see runs, results, candles and streams",
    "ingest": "push orders, logs, events and state of a model",
    "backtest": "start, cancel and delete runs",
    "deploy": "create projects and upload models",
    "alerts": "follow and manage alerts",
    "subscribe": "receive alerts on an account of one's own (what a login gives)",
}
REMEMBER: Final = 10.0
REMEMBERED: Final = 10_000
NOTE_USE_EVERY: Final = 60.0
_FORM: Final = re.compile(r"wb_([0-9a-f]{8})_[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """What is known of a token, without its secret. `prefix` is what a person recognises it by. A bot's key is bound to
    a `project`, and perhaps to one `model` of it."""

    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    owner: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    project: str = ""
    model: str = ""

    def valid(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(slots=True)
class _Known:
    token: Token
    principal: Principal
    until: float

    def valid(self) -> Principal | None:
        """Whom the token stands for now."""
        ends = self.token.revoked_at or self.token.expires_at
        return self.principal if ends is None or self.token.valid(times.now()) else None


class Users:
    """Creates, lists, revokes and recognises tokens."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: OrderedDict[str, _Known] = OrderedDict()  # by sha256, and by id for sessions
        self._noted: dict[str, float] = {}

    async def principal(self, text: str) -> Principal | None:
        """Whom this token's text stands for; None for an unknown, expired or revoked one."""
        digest = _digest(text)
        known = self._known.get(digest)
        if known is None or known.until < time.monotonic():
            token = await self._db.read(lambda connection: _by_text(connection, text, digest))
            if token is None:
                self._known.pop(digest, None)
                return None
            known = self._remember(digest, token)
            await self._note_use(token)
        return known.valid()

    async def principal_of(self, token_id: str) -> Principal | None:
        """Whom a session that began with this token stands for; None when the token is no longer valid."""
        known = self._known.get(token_id)
        if known is None or known.until < time.monotonic():
            token = await self._db.read(lambda connection: _by_id(connection, token_id))
            if token is None:
                self._known.pop(token_id, None)
                return None
            known = self._remember(token_id, token)
        return known.valid()

    async def create(self, name: str, scopes: Iterable[str], *, expires_at: datetime | None = None, owner: str = "",
                     text: str | None = None, project: str = "", model: str = "") -> tuple[Token, str]:
        """A new token and its text, which cannot be had again. Raises `Invalid` naming the field."""
        wanted = tuple(dict.fromkeys(scopes))
        if not name.strip() or len(name) > 200 or "\x00" in name:
            raise Invalid("a token needs a name", field="name", remedy="use 1 to 200 characters, none of them null")
        if not wanted:
            raise Invalid("a token needs a scope", field="scopes", remedy="scopes are " + ", ".join(SCOPES))
        for scope in wanted:
            if scope not in SCOPES:
                raise Invalid(f"there is no scope {scope!r}", field="scopes", remedy="scopes are " + ", ".join(SCOPES))
        at = times.now()
        if expires_at is not None and expires_at <= at:
            raise Invalid("a token cannot expire in the past", field="expires_at", remedy="give a later time")
        if text is None:
            text = f"wb_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        token = Token(id=secrets.token_hex(8), name=name.strip(), prefix=_prefix(text), scopes=wanted, owner=owner,
                      created_at=at, expires_at=expires_at, project=project, model=model)
        row = {"id": token.id, "name": token.name, "prefix": token.prefix, "hash": _digest(text),
               "scopes": list(token.scopes), "owner": owner, "created_at": times.micros(at),
               "expires_at": times.micros(expires_at) if expires_at else None,
               "project_id": project, "model_id": model}
        await self._db.write(lambda connection: connection.execute(insert(tokens), row))
        return token, text

    async def list(self) -> list[Token]:
        """All tokens, newest first, the revoked ones included."""
        query = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id)
        return await self._db.read(lambda connection: [_token(row) for row in connection.execute(query)])

    async def revoke(self, token_id: str) -> Token:
        """End a token. Raises `NotFound`; `Conflict` for the last valid one that may do everything."""
        at = times.now()

        def work(connection: Connection) -> Token:
            token = _by_id(connection, token_id)
            if token is None:
                raise NotFound(f"there is no token {token_id!r}")
            others = select(tokens).where(tokens.c.id != token_id, tokens.c.revoked_at.is_(None))
            if "admin" in token.scopes and token.valid(at) and not any(
                "admin" in other.scopes and other.valid(at) and other.expires_at is None
                for other in map(_token, connection.execute(others))
            ):
                raise Conflict("this is the last token that may do everything",
                               remedy="create another token with the scope admin first")
            connection.execute(update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
                               .values(revoked_at=times.micros(at)))
            return _by_id(connection, token_id) or token

        token = await self._db.write(work)
        self.forget(token_id)
        return token

    async def discard(self, token_id: str) -> None:
        """End a token and forget that it was there: for those that the server makes for itself."""
        await self._db.write(lambda connection: connection.execute(delete(tokens).where(tokens.c.id == token_id)))
        self.forget(token_id)

    async def ensure_admin(self, data_dir: Path, given: str | None) -> str | None:
        """See to it that an administrator can log in; the admin token's text, None when authentication is off.

        given: the token that the settings name; it replaces what they named before. None: the token kept in
        `data_dir/token` (mode 0600), made at the first start and again when it is no longer valid.
        """
        if given == "":
            return None
        if given is not None:
            await self._adopt(given)
            return given
        path = data_dir / "token"
        if path.is_file():
            text = path.read_text().strip()
            principal = await self.principal(text) if text else None
            if principal and principal.may("admin"):
                return text
        _, text = await self.create("admin", ["admin"], owner="workbench")
        write_secret(path, text + "\n")
        return text

    async def _adopt(self, text: str) -> None:
        name, digest, at = "WORKBENCH_TOKEN", _digest(text), times.micros(times.now())

        def work(connection: Connection) -> bool:
            connection.execute(update(tokens).where(tokens.c.name == name, tokens.c.owner == "workbench",
                                                    tokens.c.hash != digest, tokens.c.revoked_at.is_(None))
                               .values(revoked_at=at))
            return connection.execute(
                update(tokens).where(tokens.c.hash == digest)
                .values(revoked_at=None, expires_at=None, scopes=["admin"])).rowcount == 0

        if await self._db.write(work):
            await self.create(name, ["admin"], owner="workbench", text=text)
        self._known.clear()

    def _remember(self, key: str, token: Token) -> _Known:
        known = self._known[key] = _Known(token, _principal(token), time.monotonic() + REMEMBER)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known

    def forget(self, token_id: str) -> None:
        """Look a token up anew when it is shown next: it was changed."""
        for key in [key for key, known in self._known.items() if known.token.id == token_id]:
            del self._known[key]

    async def _note_use(self, token: Token) -> None:
        """Write down that a token is in use, at most once a minute; a database that cannot is not the asker's fault."""
        if time.monotonic() - self._noted.get(token.id, -NOTE_USE_EVERY) < NOTE_USE_EVERY:
            return
        self._noted[token.id] = time.monotonic()
        change = update(tokens).where(tokens.c.id == token.id).values(last_used_at=times.micros(times.now()))
        try:
            await self._db.write(lambda connection: connection.execute(change))
        except WorkbenchError:
            del self._noted[token.id]


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _prefix(text: str) -> str:
    """What finds the row: the token's own prefix or, for a text that a person chose, the first letters of its hash
    (the hash of a part of a chosen secret would say more about it)."""
    match = _FORM.fullmatch(text)
    return f"wb_{match[1]}" if match else "set_" + _digest(text)[:8]


def _by_text(connection: Connection, text: str, digest: str) -> Token | None:
    found = None
    for row in connection.execute(select(tokens).where(tokens.c.prefix == _prefix(text))):
        if hmac.compare_digest(row.hash, digest):
            found = _token(row)
    return found


def _by_id(connection: Connection, token_id: str) -> Token | None:
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).first()
    return _token(row) if row else None


def _token(row: Any) -> Token:
    def at(value: int | None) -> datetime | None:
        return None if value is None else times.instant(value)

    return Token(id=row.id, name=row.name, prefix=row.prefix, scopes=tuple(row.scopes), owner=row.owner,
                 created_at=times.instant(row.created_at), expires_at=at(row.expires_at),
                 revoked_at=at(row.revoked_at), last_used_at=at(row.last_used_at),
                 project=row.project_id, model=row.model_id)


def _principal(token: Token) -> Principal:
    return Principal(name=token.name, scopes=frozenset(token.scopes), token_id=token.id,
                     project=token.project, model=token.model)
