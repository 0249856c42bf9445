"""The log: structlog and the standard library's loggers in one form on stderr, without secrets."""

import logging
import re
import sys
from typing import Any, Final

import orjson
import structlog

__all__ = ["configure", "scrub"]

_SECRET: Final = re.compile(
    r"((?:token|api_key|apikey|password|secret|access_token|refreshToken)=)[^&\s\"']+"
    r"|(wb_[0-9a-f]{8}_)[A-Za-z0-9_-]+"
    r"|(Bearer )[^\s\"',}]+", re.IGNORECASE)
QUIET: Final = {"alembic": "WARNING", "distributed": "ERROR", "asyncio": "WARNING", "tornado.access": "ERROR",
                "bokeh": "WARNING", "numba": "WARNING", "urllib3": "WARNING"}


def scrub(text: str) -> str:
    """A line without the values of tokens and keys."""
    return _SECRET.sub(lambda match: next(part for part in match.groups() if part) + "***", text)


def _scrub_event(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and ("=" in value or "wb_" in value or "earer" in value):
            event[key] = scrub(value)
    return event


def configure(level: str, form: str) -> None:
    """Send all logs of this process to stderr. form: "console", "json", or "auto": console on a terminal."""
    json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    number = getattr(logging, level.upper())
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    last: list[Any]
    if json:
        last = [structlog.processors.format_exc_info, _scrub_event,
                structlog.processors.JSONRenderer(serializer=_json)]
    else:
        last = [_scrub_event, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[*shared, *last], wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr), cache_logger_on_first_use=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(max(number, getattr(logging, quiet)))


def _json(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
