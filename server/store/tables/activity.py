"""What bots do: projects, models, orders, reported profit. Logs and calls live in the event log alone."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from server.store.tables.base import metadata

__all__ = ["ingest_keys", "models", "orders", "pnl_points", "projects"]

projects = Table(
    "projects", metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("owner", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
)

models = Table(
    "models", metadata,
    Column("id", String(128), primary_key=True),
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("dialect", String(32), nullable=False, server_default="native"),
    Column("kind", String(32), nullable=False, server_default="strategy"),
    Column("created_at", BigInteger, nullable=False, index=True),
    Column("message", Text),
    Column("running", Boolean),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("heard_at", BigInteger),
    Column("symbols", JSON, nullable=False),
    Column("exchanges", JSON, nullable=False),
    Column("auto_pnl", Boolean, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("orders", Integer, nullable=False, server_default="0"),
    Column("errors", Integer, nullable=False, server_default="0"),
    Column("last_error", Text),
    Column("last_error_at", BigInteger),
)

orders = Table(
    "orders", metadata,
    Column("model_id", String(128), ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("run_id", String(64), primary_key=True),  # "" when live
    Column("id", String(200), primary_key=True),
    Column("symbol", String(64), nullable=False),
    Column("exchange", String(64), nullable=False, server_default=""),
    Column("kind", String(16), nullable=False),
    Column("side", String(8), nullable=False),
    Column("size", Float),
    Column("funds", Float),
    Column("price", Float),
    Column("activate", Float),
    Column("filled", Float),
    Column("status", String(64)),
    Column("executed_at", BigInteger),
    Column("canceled_at", BigInteger),
    Column("fee", Float),
    Column("fee_currency", String(32), nullable=False, server_default=""),
    Column("annotation", Text),
    Column("version_id", String(128), nullable=False, server_default=""),
    Column("at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("extra", JSON(none_as_null=True)),
    Index("ix_orders_model_id_run_id_at_id", "model_id", "run_id", "at", "id"),
    sqlite_with_rowid=False,  # found by its key or by time: one tree less to write
)

pnl_points = Table(
    "pnl_points", metadata,
    Column("model_id", String(128), ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("value", Float, nullable=False),
    sqlite_with_rowid=False,
)

ingest_keys = Table(
    "ingest_keys", metadata,
    Column("owner", String(64), primary_key=True),  # the token's id
    Column("key", String(255), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("digest", String(64), nullable=False),  # of the body: the same key with another body is a conflict
    Column("answer", Text, nullable=False),
)
