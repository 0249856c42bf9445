"""The head of an answer: the headers that every answer carries, and the text of the common kind of head.

Tornado's own way suits all kinds of answers and takes longer for the headers than for everything else.
"""

import time
from collections.abc import Mapping
from typing import Final

from tornado.httputil import HTTPHeaders, format_timestamp

__all__ = ["Heads"]

PROTECTION: Final = {
    "Server": "workbench", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Permissions-Policy": "geolocation=(), microphone=(), camera=()", "Cross-Origin-Resource-Policy": "same-origin",
}


class Heads:
    """Makes the heads of one server's answers."""

    def __init__(self) -> None:
        self._second = 0
        self._date = ""
        self._standing: dict[str, tuple[Mapping[str, str], str]] = {}  # by content security policy

    @property
    def date(self) -> str:
        """Now, as the header Date has it."""
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, format_timestamp(second)
        return self._date

    def complete(self, headers: HTTPHeaders, policy: str) -> None:
        """Add what every answer carries, where the handler said nothing else."""
        for name, value in {**self._of(policy)[0], "Date": self.date}.items():
            if name not in headers:
                headers[name] = value

    def text(self, status: int, reason: str, headers: HTTPHeaders, policy: str) -> bytes:
        """A whole head, with what every answer carries. Raises `ValueError` for a header that would break out."""
        standing, ready = self._of(policy)
        if not standing.keys().isdisjoint(headers):
            ready = "\n".join(f"{name}: {value}" for name, value in standing.items() if name not in headers)
        own = [f"Date: {self.date}"] if "Date" not in headers else []
        own += [f"{name}: {value}" for name, value in headers.get_all()]
        lines = "\n".join(own)
        if lines.count("\n") != len(own) - 1 or "\r" in lines:
            raise ValueError("a header holds a line break")
        text = f"HTTP/1.1 {status} {reason}\n{ready}\n{lines}\n\n"
        return text.replace("\n", "\r\n").encode("latin-1")

    def _of(self, policy: str) -> tuple[Mapping[str, str], str]:
        found = self._standing.get(policy)
        if found is None:
            headers = {**PROTECTION, "Content-Security-Policy": policy}
            found = headers, "\n".join(f"{name}: {value}" for name, value in headers.items())
            self._standing[policy] = found
        return found
