"""Secrets that the server must be able to read again, encrypted at rest.

The key is a file of the data directory, made at first use, readable by its owner alone: a backup of the database
without it is worth nothing to a thief.
"""

import threading
from pathlib import Path
from typing import Any

from engine.errors import Unavailable
from server.services.users import write_secret

__all__ = ["Seals"]


class Seals:
    """Seals and opens texts with the key in one file. Takes milliseconds: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cipher: Any = None
        self._lock = threading.Lock()

    def seal(self, text: str) -> str:
        return self._fernet(make=True).encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Raises `Unavailable` when the key is not the one that sealed it."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet(make=False).decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise Unavailable(f"{self._path.name} is not the key that this secret was stored with",
                              remedy="bring the key back, or enter the secret again") from None

    def _fernet(self, *, make: bool) -> Any:
        from cryptography.fernet import Fernet

        with self._lock:
            if self._cipher is None:
                if not self._path.is_file():
                    if not make:
                        raise Unavailable(f"{self._path.name} is missing from the data directory",
                                          remedy="bring it back, or enter the secret again")
                    write_secret(self._path, Fernet.generate_key().decode() + "\n")
                self._cipher = Fernet(self._path.read_text().strip())
            return self._cipher
