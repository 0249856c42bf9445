"""The figures that rules compare, each read from what a model has reported, or made of its orders."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, func, select

from engine import times
from engine.pnl_figures import Figures
from server.store.encoding import decode
from server.store.tables.activity import orders, pnl_points
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
REJECTED: Final = ("rejected", "reject", "failed", "error", "denied", "refused")
LINES: Final = 5000  # lines of a log that are looked at


def value_of(connection: Connection, condition: str, model: Any, at: int, params: Mapping[str, float],
             figures: Figures | None = None) -> float | None:
    """The figure of a model (a row) at an instant; None when there is nothing to judge."""
    if figures is not None and figures.totals and condition in PROFIT:
        return PROFIT[condition](figures)
    return _VALUES[condition](connection, model, at, at - round(params["window"] * times.SECOND))


def _silent(connection: Connection, model: Any, at: int, since: int) -> float | None:
    if model.running is False:
        return None
    return (at - (model.heard_at or model.created_at)) / times.SECOND


def _without_data(connection: Connection, model: Any, at: int, since: int) -> float | None:
    if model.running is False:
        return None
    last = connection.execute(select(events.c.at).where(events.c.stream == f"model/{model.id}")
                              .order_by(events.c.seq.desc()).limit(1)).scalar()
    return (at - (last or model.created_at)) / times.SECOND


def _errors(connection: Connection, model: Any, at: int, since: int) -> float | None:
    rows = connection.execute(select(events.c.at, events.c.data).where(
        events.c.stream == f"model/{model.id}/log").order_by(events.c.seq.desc()).limit(LINES))
    count = 0
    for row in rows:
        if row.at < since:
            break
        count += str(decode(row.data).get("type", "")).lower() in ERRORS
    return float(count)


def _rejects(connection: Connection, model: Any, at: int, since: int) -> float | None:
    query = select(func.count()).select_from(orders).where(
        orders.c.model_id == model.id, orders.c.run_id == "", orders.c.received_at >= since,
        func.lower(orders.c.status).in_(REJECTED))
    return float(connection.execute(query).scalar_one())


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
    "no_heartbeat": _silent, "no_data": _without_data, "error_rate": _errors, "order_rejects": _rejects,
    "drawdown": _drawdown, "daily_loss": _daily_loss}
