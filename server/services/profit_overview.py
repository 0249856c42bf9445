"""All models at a glance: one query, and the figures that are known; what is missing is computed behind."""

from typing import Any, Final

from sqlalchemy import select

from engine import times
from server.services.profit import Profit
from server.store.database import Database
from server.store.tables.activity import models

__all__ = ["MOST", "overview"]

MOST: Final = 20_000
_COLUMNS: Final = ("id", "project_id", "name", "kind", "dialect", "message", "running", "heard_at", "orders", "errors",
                   "last_error", "last_error_at")


async def overview(db: Database, profit: Profit, *, project: str = "", model: str = "",
                   limit: int = MOST) -> dict[str, Any]:
    """The models heard of lately first (of a project, or one), each with state, seconds since it was heard, profit,
    exposure, a small curve of the profit in the currency of most capital, and its last error. `pending`: the figures
    are about to be computed; None or older ones are shown."""
    query = select(*(models.c[name] for name in _COLUMNS)).order_by(
        models.c.heard_at.desc().nulls_last(), models.c.id).limit(limit)
    if project:
        query = query.where(models.c.project_id == project)
    if model:
        query = query.where(models.c.id == model)
    rows = await db.read(lambda connection: connection.execute(query).all())
    now = times.micros(times.now())
    items = [_item(row, profit, now) for row in rows]
    return {"items": items, "pending": sum(item["pending"] for item in items), "at": times.iso(now)}


def _item(row: Any, profit: Profit, now: int) -> dict[str, Any]:
    figures, fresh = profit.known(row.id)
    totals = figures.totals if figures else {}
    return {
        "id": row.id, "project": row.project_id, "name": row.name, "kind": row.kind, "dialect": row.dialect,
        "message": row.message, "running": row.running, "orders": row.orders, "errors": row.errors,
        "heard_at": None if row.heard_at is None else times.iso(row.heard_at),
        "heartbeat_age": None if row.heard_at is None else max(0, now - row.heard_at) / times.SECOND,
        "last_error": row.last_error,
        "last_error_at": None if row.last_error_at is None else times.iso(row.last_error_at),
        "equity": list(figures.spark) if figures else None,
        "currency": next(iter(totals), None),
        "today": {currency: each.today for currency, each in totals.items()} if figures else None,
        "total": {currency: each.total for currency, each in totals.items()} if figures else None,
        "exposure": {currency: each.exposure for currency, each in totals.items()
                     if each.exposure is not None} if figures else None,
        "drawdown": {currency: each.drawdown for currency, each in totals.items()} if figures else None,
        "unpriced": figures.unpriced if figures else None, "reported": figures.reported if figures else None,
        "pending": not fresh}
