"""Models and projects out of rows."""

from typing import Any

from engine import times
from engine.activity import Model, Project

__all__ = ["model_of", "project_of"]


def model_of(row: Any) -> Model:
    """The model of a database row (all columns)."""
    def instant(value: int | None) -> Any:
        return None if value is None else times.instant(value)

    return Model(
        id=row.id, project=row.project_id, name=row.name, description=row.description, dialect=row.dialect,
        kind=row.kind, created_at=times.instant(row.created_at), message=row.message, running=row.running,
        started_at=instant(row.started_at), ended_at=instant(row.ended_at), heard_at=instant(row.heard_at),
        symbols=tuple(row.symbols), exchanges=tuple(row.exchanges), auto_pnl=row.auto_pnl, metrics=row.metrics,
        orders=row.orders, errors=row.errors, last_error=row.last_error, last_error_at=instant(row.last_error_at))


def project_of(row: Any) -> Project:
    """The project of a database row (all columns)."""
    return Project(id=row.id, name=row.name, description=row.description, owner=row.owner,
                   created_at=times.instant(row.created_at))
