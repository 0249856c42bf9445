"""The figures that rules compare, each read from what a model has reported, or made of its orders."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select

from engine import times
from engine.pnl_figures import Figures
from server.store.encoding import decode
from server.store.tables.activity import pnl_points
from server.store.tables.core import events

__all__ = ["CONDITIONS", "PROFIT", "value_of"]

CONDITIONS: Final[Mapping[str, str]] = {
    "no_heartbeat": "seconds without a word", "no_data": "seconds without data",
    "error_rate": "error lines in the window", "order_rejects": "rejected orders in the window",
    "drawdown": "profit below its highest", "daily_loss": "profit below midnight's",
}
PROFIT: Final[Mapping[str, Callable[[Figures], float]]] = {
    "drawdown": lambda figures: max(each.drawdown for each in figures.totals.values()),
    "daily_loss": lambda figures: max(-each.today for each in figures.totals.values()),
}
"""Conditions on profit, from its figures; without any, from the reported series."""
ERRORS: Final = frozenset({"error", "stderr", "critical", "fatal"})
REJECTED: Final = frozenset({"rejected", "reject", "failed", "error", "denied", "refused"})
MOST: Final = 5000  # events of a window that are looked at
PAGE: Final = 200


def value_of(connection: Connection, condition: str, model: Any, at: int, params: Mapping[str, float],
             figures: Figures | None = None, listening: int = 0) -> float | None:
    """The figure of a model (a row) at an instant; None when there is nothing to judge. `listening`: nobody could be
    heard before this instant, so that silence counts from there."""
    if figures is not None and figures.totals and condition in PROFIT:
        return PROFIT[condition](figures)
    if condition in SILENCE:
        if model.running is False:
            return None
        return (at - max(SILENCE[condition](connection, model), listening)) / times.SECOND
    return _VALUES[condition](connection, model, at, at - round(params["window"] * times.SECOND))


def _heard(connection: Connection, model: Any) -> int:
    return int(model.heard_at or model.created_at)


def _last_data(connection: Connection, model: Any) -> int:
    last = connection.execute(select(events.c.at).where(events.c.stream == f"model/{model.id}")
                              .order_by(events.c.seq.desc()).limit(1)).scalar()
    return int(last or model.created_at)


SILENCE: Final[Mapping[str, Callable[[Connection, Any], int]]] = {"no_heartbeat": _heard, "no_data": _last_data}
"""Conditions on silence: when it began, microseconds."""


def _recent(connection: Connection, stream: str, since: int) -> Iterator[Any]:
    """The events of a stream since an instant, newest first."""
    before: int | None = None
    for _ in range(0, MOST, PAGE):
        query = select(events.c.seq, events.c.at, events.c.type, events.c.data).where(events.c.stream == stream)
        query = query if before is None else query.where(events.c.seq < before)
        rows = connection.execute(query.order_by(events.c.seq.desc()).limit(PAGE)).all()
        for row in rows:
            if row.at < since:
                return
            yield row
        if len(rows) < PAGE:
            return
        before = rows[-1].seq


def _errors(connection: Connection, model: Any, at: int, since: int) -> float | None:
    return float(sum(str(decode(row.data).get("type", "")).lower() in ERRORS
                     for row in _recent(connection, f"model/{model.id}/log", since)))


def _rejects(connection: Connection, model: Any, at: int, since: int) -> float | None:
    """Orders whose last word in the window is that they were turned down, whenever they were placed."""
    last: dict[str, str] = {}
    for row in _recent(connection, f"model/{model.id}", since):
        if row.type == "order" and not (data := decode(row.data)).get("run"):
            last.setdefault(data["id"], str(data.get("status") or "").lower())
    return float(sum(status in REJECTED for status in last.values()))


def _drawdown(connection: Connection, model: Any, at: int, since: int) -> float | None:
    points = pnl_points.c
    highest = connection.execute(select(func.max(points.value)).where(points.model_id == model.id)).scalar()
    last = _profit(connection, model, at)
    return None if highest is None or last is None else max(highest, 0.0) - last


def _daily_loss(connection: Connection, model: Any, at: int, since: int) -> float | None:
    last = _profit(connection, model, at)
    return None if last is None else (_profit(connection, model, at - at % times.DAY) or 0.0) - last


def _profit(connection: Connection, model: Any, at: int) -> float | None:
    """The reported profit at an instant."""
    points = pnl_points.c
    return connection.execute(select(points.value).where(points.model_id == model.id, points.at <= at)
                              .order_by(points.at.desc()).limit(1)).scalar()


_VALUES: Final[Mapping[str, Callable[[Connection, Any, int, int], float | None]]] = {
    "error_rate": _errors, "order_rejects": _rejects,
    "drawdown": _drawdown, "daily_loss": _daily_loss}
