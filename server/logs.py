"""The log: one line an event on stderr, as JSON or for people, without secrets.

Modules write with the standard library: `log.info("stopping", extra={"facts": {"signal": "SIGTERM"}})`; structlog
renders, and is imported when the log is configured (it takes longer to import than the server to start).
"""

import logging
import re
import sys
from typing import Any, Final

import orjson

__all__ = ["configure", "scrub"]

_SECRET: Final = re.compile(
    r"((?:token|api_key|apikey|password|secret|access_token|refreshToken)=)[^&\s\"']+"
    r"|(wb_[0-9a-f]{8}_)[A-Za-z0-9_-]+"
    r"|(Bearer )[^\s\"',}]+"
    r"|(/workbench/hooks/)[^/\s\"'?]+"
    r"|(://[^/:@\s]+:)[^@/\s]+(?=@)", re.IGNORECASE)
_SUSPECT: Final = re.compile(r"=|wb_|bearer|hooks/|@", re.IGNORECASE)
QUIET: Final = {"alembic": "WARNING", "distributed": "ERROR", "asyncio": "WARNING", "tornado.access": "ERROR",
                "tornado.general": "WARNING", "bokeh": "WARNING", "numba": "WARNING", "urllib3": "WARNING"}


def scrub(text: str) -> str:
    """A line without the values of tokens, keys and passwords."""
    return _SECRET.sub(lambda match: next(part for part in match.groups() if part) + "***", text)


def _facts(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    facts = getattr(event["_record"], "facts", None)
    return event | facts if facts else event


def _scrub_event(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and _SUSPECT.search(value):
            event[key] = scrub(value)
    return event


def configure(level: str, form: str) -> None:
    """Send all logs of this process to stderr. form: "console", "json", or "auto": console on a terminal."""
    import structlog

    on_terminal = sys.stderr.isatty()
    last: list[Any]
    if form == "json" or (form == "auto" and not on_terminal):
        last = [structlog.processors.format_exc_info, _scrub_event,
                structlog.processors.JSONRenderer(serializer=_json)]
    else:
        plain = structlog.dev.plain_traceback  # the richer ones print local variables, and secrets with them
        last = [_scrub_event, structlog.dev.ConsoleRenderer(colors=on_terminal, exception_formatter=plain)]
    first: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name,
                        structlog.processors.TimeStamper(fmt="iso", utc=True), _facts]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=first,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]))
    number = getattr(logging, level.upper())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(max(number, getattr(logging, quiet)))
    logging.captureWarnings(True)


def _json(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
