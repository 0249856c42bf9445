"""Faces of the workbench: client library, command line, views, pages.

    import workbench as wb
    client = wb.connect()
    run = client.backtest("sma_cross", market="demo:AAPL/USD", fast=10, slow=50)
    run.report()

Errors are `WorkbenchError` and its kinds (see `engine.errors`): they name the field and the remedy.

    WorkbenchError
      Invalid          the request is malformed or breaks a rule; `.problems` has every one
      Unauthenticated  a token is missing or wrong
      Forbidden        the token may not do this
      NotFound         there is no such thing
      Conflict         not in its present state
      TooLarge         over a limit of size
      Busy             over a limit of rate or of concurrent work
      Unavailable      nothing answers, or the server cannot do it now
      Cancelled        the work was stopped on request
      RunFailed        a run that was waited for has failed; `.run` is the run
"""

import importlib
from typing import TYPE_CHECKING, Any

from engine import __version__

if TYPE_CHECKING:
    from engine.errors import (
        Busy,
        Cancelled,
        Conflict,
        Forbidden,
        Invalid,
        NotFound,
        Problem,
        TooLarge,
        Unauthenticated,
        Unavailable,
        WorkbenchError,
    )
    from engine.model import Event, Market
    from engine.strategies.python import strategy
    from workbench.bot import Bot
    from workbench.client import AsyncClient
    from workbench.connecting import connect
    from workbench.runs import Comparison, Run, RunFailed, Sweep
    from workbench.sync import Client

__all__ = [
    "AsyncClient", "Bot", "Busy", "Cancelled", "Client", "Comparison", "Conflict", "Event", "Forbidden", "Invalid",
    "Market", "NotFound", "Problem", "Run", "RunFailed", "Sweep", "TooLarge", "Unauthenticated", "Unavailable",
    "WorkbenchError", "__version__", "connect", "strategy",
]

# Where each public name lives: `import workbench` itself loads nothing heavy.
_HOMES = {
    "AsyncClient": "workbench.client", "Bot": "workbench.bot", "Client": "workbench.sync",
    "connect": "workbench.connecting",
    "Comparison": "workbench.runs", "Run": "workbench.runs", "RunFailed": "workbench.runs", "Sweep": "workbench.runs",
    "Event": "engine.model", "Market": "engine.model", "strategy": "engine.strategies.python",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "engine.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
