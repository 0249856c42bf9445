"""Passwords: kept as Argon2id hashes, worked on in a few threads of their own, since a hash takes time on purpose."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from engine.errors import Invalid

__all__ = ["Passwords"]

SHORTEST, LONGEST = 8, 30  # the stream's clients send at most 30 characters
_THREADS: Final = 2


class Passwords:
    """Makes and checks hashes (RFC 9106; 19 MiB, two passes, one lane, as OWASP advises for servers)."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._hasher: Any = None
        self._nobody = ""

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """What to keep of a password. Raises `Invalid` naming it."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise Invalid(f"a password has {SHORTEST} to {LONGEST} characters", field="password",
                          remedy="choose another")
        return await self._in_thread(self._hash, password)

    async def fits(self, password: str, kept: str) -> bool:
        """Whether this is the password; as slow for somebody who is not known (`kept` empty) as for others."""
        return await self._in_thread(self._fits, password, kept)

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def _argon(self) -> Any:
        if self._hasher is None:
            from argon2 import PasswordHasher

            self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        return self._hasher

    def _hash(self, password: str) -> str:
        return self._argon().hash(password)

    def _fits(self, password: str, kept: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        argon = self._argon()
        if not kept and not self._nobody:
            self._nobody = argon.hash("nobody")
        try:
            return argon.verify(kept or self._nobody, password) and bool(kept)
        except (VerificationError, InvalidHashError):
            return False
