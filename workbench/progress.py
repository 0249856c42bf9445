"""Bars for what takes long: one line on a terminal, a bar below the cell in a notebook, nothing elsewhere."""

import html
import sys
import time
from typing import Any, TextIO


class Progress:
    """Shows nothing; the base of the others. `update` takes a fraction 0..1 and a message; `close` the last word."""

    def update(self, fraction: float, message: str = "") -> None:
        """Move the bar."""

    def close(self, message: str = "") -> None:
        """End the bar, leaving `message`."""


class TerminalProgress(Progress):
    """One line, rewritten in place at most ten times a second."""

    WIDTH = 24

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        self._drawn_at = 0.0
        self._started = time.monotonic()
        self._length = 0

    def update(self, fraction: float, message: str = "") -> None:
        now = time.monotonic()
        if now - self._drawn_at < 0.1 and fraction < 1:
            return
        self._drawn_at = now
        done = round(self.WIDTH * min(max(fraction, 0.0), 1.0))
        self._draw(f"{self._label} [{'█' * done}{'·' * (self.WIDTH - done)}] {fraction:4.0%} {message}")

    def close(self, message: str = "") -> None:
        self._draw(f"{self._label}: {message} ({time.monotonic() - self._started:.1f} s)")
        self._stream.write("\n")
        self._stream.flush()

    def _draw(self, text: str) -> None:
        text = text[:118]
        self._stream.write("\r" + text.ljust(self._length))
        self._length = len(text)
        self._stream.flush()


class NotebookProgress(Progress):
    """A bar below the running cell, redrawn in place."""

    def __init__(self, label: str) -> None:
        from IPython.display import HTML, display

        self._label = label
        self._html = HTML
        self._drawn_at = 0.0
        self._started = time.monotonic()
        self._handle: Any = display(self._picture(0.0, "queued", "currentColor"), display_id=True)

    def _picture(self, fraction: float, message: str, colour: str) -> Any:
        done = f"{100 * min(max(fraction, 0.0), 1.0):.0f}%"
        label, text = html.escape(self._label), html.escape(message)
        return self._html(
            f'<div role="progressbar" aria-label="{label}" aria-valuenow="{done[:-1]}" style="display:flex;gap:.75em;'
            'align-items:center;font:13px system-ui,sans-serif">'
            f'<span>{label}</span><span style="flex:0 0 12em;height:6px;border-radius:3px;overflow:hidden;'
            f'background:rgba(128,128,128,.25)"><span style="display:block;height:100%;width:{done};'
            f'background:#2a78d6"></span></span><span style="color:{colour}">{done} {text}</span></div>')

    def update(self, fraction: float, message: str = "") -> None:
        now = time.monotonic()
        if self._handle is None or (now - self._drawn_at < 0.1 and fraction < 1):
            return
        self._drawn_at = now
        self._handle.update(self._picture(fraction, message, "currentColor"))

    def close(self, message: str = "") -> None:
        if self._handle is not None:
            took = f"{message} ({time.monotonic() - self._started:.1f} s)"
            self._handle.update(self._picture(1.0 if message == "completed" else 0.0, took, "currentColor"))


def progress_for(label: str, show: bool | None = None) -> Progress:
    """The bar that fits where the program runs; `show` forces it on or off."""
    if show is False:
        return Progress()
    if in_notebook():
        return NotebookProgress(label)
    if show or sys.stderr.isatty():
        return TerminalProgress(label)
    return Progress()


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
