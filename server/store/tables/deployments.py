"""Uploaded versions of models, and which of them should run."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Table, Text, UniqueConstraint

from server.store.tables.base import metadata

__all__ = ["deployments", "versions"]

versions = Table(
    "versions", metadata,
    Column("id", String(64), primary_key=True),
    Column("model_id", String(128), ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, 3 ... of each model
    Column("description", Text, nullable=False, server_default=""),
    Column("python", String(16), nullable=False, server_default=""),
    Column("sha256", String(64), nullable=False, index=True),  # names the archive
    Column("file", Text, nullable=False, server_default=""),  # what its sender called it
    Column("size", BigInteger, nullable=False),  # bytes of the archive
    Column("unpacked", BigInteger, nullable=False),
    Column("files", Integer, nullable=False),
    Column("script", Text, nullable=False),
    Column("by", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("model_id", "number"),
)

deployments = Table(
    "deployments", metadata,
    Column("model_id", String(128), ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("version_id", String(64), ForeignKey("versions.id", ondelete="CASCADE"), nullable=False),
    Column("plan", String(32), nullable=False),
    Column("schedule", String(100), nullable=False, server_default=""),  # five fields of cron; "" runs all the time
    Column("wanted", String(16), nullable=False),  # running | stopped
    Column("state", String(16), nullable=False),  # see engine.deployment
    Column("restarts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger),  # when it is started again
    Column("run_id", String(64)),  # the present or last life
    Column("error", Text),
    Column("by", Text, nullable=False, server_default=""),
    Column("changed_at", BigInteger, nullable=False),
)
