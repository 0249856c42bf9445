"""Keys of accounts on exchanges, encrypted at rest: what is stored can be used by the server and shown to nobody.

The key to the keys is `DATA_DIR/exchange-keys.key`, made at first use, readable by its owner alone. Whoever has both
the file and the database can read what is stored; a backup of the database alone is worth nothing to a thief.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select

from engine import times
from engine.errors import Invalid, NotFound, Unavailable
from server.exchanges.directory import Exchanges
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables import instances

__all__ = ["STREAM", "Keys"]

STREAM: Final = "keys"
"""Events of type "apiKeys" with the names of the exchanges that have a key."""

FILE: Final = "exchange-keys.key"
MOST_PARTS: Final = 10
LONGEST: Final = 8192  # characters of a part: private keys in PEM form are long
_KEYS: Final = instances.exchange_keys


class Keys:
    """One key for each exchange."""

    def __init__(self, *, db: Database, events: EventLog, exchanges: Exchanges, data_dir: Path) -> None:
        self._db = db
        self._events = events
        self._exchanges = exchanges
        self._path = data_dir / FILE
        self._fernet: Any = None

    async def names(self) -> list[str]:
        """The exchanges that have a key, in the order in which they got it."""
        return await self._db.read(_names)

    async def put(self, exchange: Any, values: Any) -> list[str]:
        """Store a key, in place of an older one; the exchanges that have one now. Raises `Invalid` naming what is wrong
        with it, never what is in it."""
        name = exchange.lower() if isinstance(exchange, str) else ""
        if not name or not await self._exchanges.known(name):
            raise Invalid("there is no such exchange", field="exchange", remedy="GET /api/exchanges lists exchanges")
        text = json.dumps(_checked(values))
        sealed = await asyncio.to_thread(lambda: self._cipher(make=True).encrypt(text.encode()).decode())
        row = {"exchange": name, "sealed": sealed, "created_at": times.micros(times.now())}

        def work(connection: Connection) -> list[str]:
            connection.execute(delete(_KEYS).where(_KEYS.c.exchange == name))
            connection.execute(insert(_KEYS), row)
            return self._told(connection)

        return await self._db.write(work)

    async def remove(self, exchange: Any) -> bool:
        """Forget a key; whether there was one."""
        name = exchange.lower() if isinstance(exchange, str) else ""

        def work(connection: Connection) -> bool:
            if not connection.execute(delete(_KEYS).where(_KEYS.c.exchange == name)).rowcount:
                return False
            self._told(connection)
            return True

        return await self._db.write(work)

    async def has(self, exchange: str) -> bool:
        """Whether there is a key for this exchange."""
        return exchange.lower() in await self.names()

    async def values(self, exchange: str) -> Mapping[str, str]:
        """A key's parts, for `Exchanges.account` and nothing else. Raises `NotFound`; `Unavailable` when the file that
        opens it is gone or another."""
        name = exchange.lower()
        query = select(_KEYS.c.sealed).where(_KEYS.c.exchange == name)
        sealed = await self._db.read(lambda connection: connection.execute(query).scalar())
        if sealed is None:
            raise NotFound(f"there is no key for {name[:40]}", field="exchange", remedy="store one with /api/addApiKey")
        return await asyncio.to_thread(self._opened, name, sealed)

    def _opened(self, name: str, sealed: str) -> Mapping[str, str]:
        from cryptography.fernet import InvalidToken

        try:
            return json.loads(self._cipher(make=False).decrypt(sealed.encode()))
        except InvalidToken:
            raise Unavailable(f"the key for {name} was encrypted with another {FILE}",
                              remedy="bring that file back, or store the key again") from None

    def _cipher(self, *, make: bool) -> Any:
        """Blocks. The file is made once, even when two servers on one folder need it at the same time."""
        from cryptography.fernet import Fernet

        if self._fernet is None:
            if make and not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                partial = self._path.with_name(f".{FILE}.{secrets.token_hex(4)}")
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(Fernet.generate_key() + b"\n")
                try:
                    with suppress(FileExistsError):  # the first one wins
                        os.link(partial, self._path)
                finally:
                    partial.unlink()
            try:
                self._fernet = Fernet(self._path.read_bytes().strip())
            except FileNotFoundError:
                raise Unavailable(f"{FILE} is missing in the data directory", remedy="bring it back, or store the keys "
                                  "again") from None
            except (ValueError, OSError):
                raise Unavailable(f"{FILE} in the data directory cannot be used", remedy="bring the right file back, "
                                  "or remove it and store the keys again") from None
        return self._fernet

    def _told(self, connection: Connection) -> list[str]:
        names = _names(connection)
        self._events.append(connection, STREAM, "apiKeys", {"exchanges": names})
        return names


def _names(connection: Connection) -> list[str]:
    return list(connection.execute(select(_KEYS.c.exchange).order_by(_KEYS.c.created_at, _KEYS.c.exchange)).scalars())


def _checked(values: Any) -> dict[str, str]:
    remedy = 'give {"key": "…", "secret": "…"}, all parts as text'
    if not isinstance(values, Mapping) or not values or len(values) > MOST_PARTS:
        raise Invalid("the parts of the key are missing", field="values", remedy=remedy)
    for name, value in values.items():
        if not isinstance(name, str) or not 0 < len(name) <= 40 or not isinstance(value, str):
            raise Invalid("a part of the key is not text", field="values", remedy=remedy)
        if not 0 < len(value.strip()) <= LONGEST:
            raise Invalid("a part of the key is empty or too long", field="values", remedy=remedy)
    return {name: value.strip() for name, value in values.items()}
