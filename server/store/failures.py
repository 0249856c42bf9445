"""What a database can refuse, in words: driver errors become `Unavailable` with the remedy, or stay what they are."""

from typing import Final

from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from engine.errors import Invalid, Unavailable

__all__ = ["lost", "meaning", "unavailable"]

_SQLITE: Final = {
    "SQLITE_FULL": ("the disk is full", "free space where the database lies, then repeat the request"),
    "SQLITE_READONLY": ("the database is read-only", "give the server's user the right to write to the data directory"),
    "SQLITE_BUSY": ("the database is locked by another program", "close the other program, then repeat the request"),
    "SQLITE_LOCKED": ("the database is locked by another program", "close the other program, then repeat the request"),
    "SQLITE_CANTOPEN": ("the database cannot be opened", "check that the data directory exists and may be written"),
    "SQLITE_IOERR": ("the disk reports an error", "check the disk and its free space, then repeat the request"),
    "SQLITE_CORRUPT": ("the database file is damaged", "stop the server and restore a backup"),
    "SQLITE_NOTADB": ("the database file is not a SQLite database", "name another file, or restore a backup"),
    "SQLITE_PERM": ("the database may not be accessed", "check the owner and the rights of the data directory"),
}
_AWAY: Final = ("the connection to the database was lost", "check that PostgreSQL is running, then repeat the request")
_POSTGRESQL: Final = {  # SQLSTATE, or its class (first two digits)
    "53100": ("the disk of the database is full", "free space on the database's disk, then repeat the request"),
    "53300": ("the database has no free connection", "raise max_connections of PostgreSQL, or stop other programs"),
    "53": ("the database is out of resources", "check memory and disk of the database's machine"),
    "25006": ("the database is read-only", "connect to the primary server, not to a replica"),
    "55P03": ("the database is locked by another program", "end the other program's transaction"),
    "40P01": ("the database is locked by another program", "repeat the request"),
    "28": ("the database refuses the user or the password", "check the user and the password of the database URL"),
    "3D": ("the database does not exist", "create it with: createdb NAME"),
    "42501": ("the database user may not do this", "grant it the rights on the database's tables"),
    "57": _AWAY,
    "58": ("the disk of the database reports an error", "check the database's machine"),
    "08": _AWAY,
}


def unavailable(error: BaseException) -> Unavailable | None:
    """`Unavailable` for an error that is the database's condition; None for one that is the statement's fault."""
    if isinstance(error, PoolTimeout):
        return Unavailable("all connections to the database are busy", remedy="repeat the request")
    if isinstance(error, DBAPIError):
        origin: BaseException | None = error.orig
    elif type(error).__module__.partition(".")[0] in ("sqlite3", "psycopg"):
        origin = error
    else:
        return None
    name = getattr(origin, "sqlite_errorname", None)
    state = getattr(origin, "sqlstate", None)
    message = None
    if name:
        message = next((text for code, text in _SQLITE.items() if name.startswith(code)), None)
    elif state:
        message = _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    elif type(origin).__name__ == "OperationalError":  # psycopg has no SQLSTATE when there is no server to give one
        message = _AWAY
    if message is None:
        return None
    return Unavailable(message[0], remedy=message[1])


def meaning(error: BaseException) -> BaseException:
    """The error to tell the caller of a read or a write: its own, unless a driver's error has a better name.

    Text that the database cannot hold (a NUL on PostgreSQL, half of a surrogate pair), or a number too large for its
    column, is the request's fault: `Invalid`.
    """
    if problem := unavailable(error):
        return problem
    if isinstance(error, DataError | OverflowError | UnicodeEncodeError):
        return Invalid(f"a value cannot be stored: {getattr(error, 'orig', error)}".splitlines()[0],
                       remedy="use shorter text without control characters, and numbers that fit 64 bits")
    return error


def lost(error: BaseException) -> bool:
    """Whether the error says that the connection is gone (another one may work)."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
