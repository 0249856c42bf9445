"""Tokens, runs with their trials, and the event log."""

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.event import listens_for

from server.store.tables.base import Id, metadata

__all__ = ["CHATTER", "events", "run_figures", "run_labels", "runs", "tokens", "trials"]

CHATTER: Final = ("candles", "progress")
"""Types of events that say how far something is, and go when they are old."""
_IS_CHATTER: Final = text("type IN ('candles', 'progress')")
_CHATTER: Final = Index("ix_events_chatter", "type", "at", sqlite_where=_IS_CHATTER)

tokens = Table(
    "tokens", metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", String(32), nullable=False, index=True),  # the first letters, to find the row and to show
    Column("hash", String(64), nullable=False, unique=True),  # sha256 of the whole token, hexadecimal
    Column("scopes", JSON, nullable=False),  # list of names
    Column("owner", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    # What a key of a bot is bound to; "" leaves it free.
    Column("project_id", String(64), nullable=False, server_default=""),
    Column("model_id", String(128), nullable=False, server_default=""),
)

runs = Table(
    "runs", metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("progress", Float, nullable=False, server_default="0"),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("name", Text, nullable=False, server_default=""),
    Column("tags", JSON, nullable=False),
    Column("notes", Text, nullable=False, server_default=""),
    Column("dialect", String(32), nullable=False, server_default="native"),
    Column("strategy", String(128), nullable=False, server_default=""),
    Column("markets", JSON, nullable=False),
    Column("resolution", String(16), nullable=False, server_default=""),
    Column("spec", JSON, nullable=False),
    Column("request", JSON(none_as_null=True)),
    Column("metrics", JSON, nullable=False),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("parent", String(64)),
    Column("owner", Text, nullable=False, server_default=""),
    Column("idempotency_key", Text, unique=True),
    # A list is sorted by creation unless told otherwise; the id makes the order total, so that cursors hold.
    Index("ix_runs_created_at_id", "created_at", "id"),
    Index("ix_runs_state_created_at", "state", "created_at"),
    Index("ix_runs_kind_created_at", "kind", "created_at"),
    Index("ix_runs_strategy_created_at", "strategy", "created_at"),
    Index("ix_runs_parent_created_at", "parent", "created_at"),
)

# What lists of runs are searched and sorted by, without reading the wide rows of `runs`. Triggers of the database, made
# by revision 0006, keep both tables in step with `runs`: nothing else writes to them.
run_labels = Table(
    "run_labels", metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("text", Text, nullable=False),  # all that a search looks at, in lower case
    Column("markets", Text, nullable=False),  # JSON, as in `runs`
    Column("tags", Text, nullable=False),
)

run_figures = Table(
    "run_figures", metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", Float, nullable=False),
    Index("ix_run_figures_key_value_run_id", "key", "value", "run_id"),
    sqlite_with_rowid=False,
)

trials = Table(
    "trials", metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # 0, 1, 2 ... in the order of the search
    Column("state", String(16), nullable=False),
    Column("params", JSON, nullable=False),
    Column("objective", Float),
    Column("metrics", JSON, nullable=False),
    Column("duration", Float),  # seconds
    Column("error", Text),
    Index("ix_trials_run_id_objective", "run_id", "objective"),
)

events = Table(
    "events", metadata,
    # Ids only ever grow, deleted ones are never given again, and they grow in the order of the commits.
    Column("id", Id, Identity(always=False), primary_key=True),
    Column("stream", String(200), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("type", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("data", Text, nullable=False),  # JSON text, not a JSON column: it is only ever stored and handed out
    UniqueConstraint("stream", "seq"),
    _CHATTER,
    sqlite_autoincrement=True,
)


@listens_for(events, "before_create")
def _partial(_table: Table, connection: Connection, **_: Any) -> None:
    """On PostgreSQL the index is partial as well. To say so when it is made imports PostgreSQL's dialect everywhere."""
    if connection.dialect.name == "postgresql":
        _CHATTER.dialect_options["postgresql"]["where"] = _IS_CHATTER
