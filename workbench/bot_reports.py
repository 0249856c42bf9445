"""What a bot can say: one method for each kind of entry (see `engine.activity`)."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from engine.errors import Invalid

__all__ = ["Reports"]


class Reports:
    """The words of `workbench.Bot`. `at` is when it happened (epoch seconds, ISO text or datetime; None: now)."""

    def _say(self, kind: str, at: Any, *, important: bool = False, **fields: Any) -> None:
        """Take one entry. What is not `important` is dropped first when there is no more room."""
        raise NotImplementedError

    def order(self, symbol: str, side: Literal["buy", "sell"], *, id: str | None = None, size: float | None = None,
              funds: float | None = None, price: float | None = None, type: str = "market", exchange: str = "",
              activate: float | None = None, filled: float | None = None, status: str | None = None,
              fee: float | None = None, fee_currency: str = "", annotation: str | None = None, at: Any = None,
              **extra: Any) -> str:
        """An order; its id. The same id again replaces it. Raises `Invalid` for what could never be an order."""
        if (size is None) == (funds is None):
            raise Invalid("an order has either a size or funds", field="size", remedy="give one of them")
        if side not in ("buy", "sell"):
            raise Invalid(f"{str(side)[:40]!r} is not a side", field="side", remedy="use buy or sell")
        if type not in ("market", "limit", "stop"):
            raise Invalid(f"{str(type)[:40]!r} is not a kind of order", field="type",
                          remedy="use market, limit or stop")
        id = id or uuid.uuid4().hex
        given = {"size": size, "funds": funds, "price": price, "activate": activate, "filled": filled,
                 "status": status, "fee": fee, "annotation": annotation, "exchange": exchange or None,
                 "fee_currency": fee_currency or None, "extra": extra or None}
        self._say("order", at, important=True, id=id, symbol=symbol, side=side, type=type,
                  **{name: value for name, value in given.items() if value is not None})
        return id

    def order_update(self, id: str, *, at: Any = None, **changes: Any) -> None:
        """What changed of an order: status, filled, price, fee, executed_at, canceled_at … or anything else."""
        self._say("order-change", at, important=True, id=id, changes=changes)

    def annotate(self, id: str, annotation: str, *, at: Any = None) -> None:
        """Why an order was given."""
        self._say("annotation", at, important=True, id=id, annotation=annotation)

    def log(self, line: object, *, type: str = "stdout", at: Any = None) -> None:
        """A line of output. `type` is stdout, stderr, info, warning, error or what you like."""
        self._say("log", at, line=str(line)[:1_000_000], type=type)

    def event(self, type: str, args: Any = None, response: Any = None, *, annotation: str | None = None,
              at: Any = None) -> None:
        """A function call, or anything else worth a line in the event log."""
        said = {"type": type, "args": args, "response": response}
        self._say("call", at, **said if annotation is None else said | {"annotation": annotation})

    def lifecycle(self, *, at: Any = None, **state: Any) -> None:
        """State: `message`, `running`, `started_at`, `ended_at`. What is left out stays, None resets."""
        if unknown := set(state) - {"message", "running", "started_at", "ended_at"}:
            raise Invalid("there is no such state", field=min(unknown),
                          remedy="use message, running, started_at, ended_at")
        self._say("lifecycle", at, important=True, **state)

    def started(self, message: str | None = None) -> None:
        """It runs now."""
        self.lifecycle(running=True, started_at=time.time(), ended_at=None, message=message)

    def stopped(self, message: str | None = None) -> None:
        """It runs no more."""
        self.lifecycle(running=False, ended_at=time.time(), message=message)

    def metrics(self, metrics: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Figures of its own: `bot.metrics(edge=0.3)`, or name -> {"value", "display_name", "type"}."""
        self._say("metrics", None, important=True, metrics={**(metrics or {}), **more})

    def pnl(self, values: Sequence[tuple[Any, float]]) -> None:
        """Its own profit series, (time, value), replacing the one before."""
        self._say("pnl", None, important=True, values=[{"time": at, "value": value} for at, value in values])

    def auto_pnl(self, enabled: bool) -> None:
        """Whether the workbench computes the profit from the orders (else it shows `pnl`)."""
        self._say("auto-pnl", None, important=True, enabled=enabled)

    def symbol(self, symbol: str) -> None:
        """A symbol that it uses."""
        self._say("symbol", None, important=True, symbol=symbol)

    def exchange(self, exchange: str) -> None:
        """An exchange that it uses."""
        self._say("exchange", None, important=True, exchange=exchange)

    def screener(self, result: Any) -> None:
        """What a screener found."""
        self._say("screener", None, result=result)
