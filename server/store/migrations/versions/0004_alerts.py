"""Alerts, subscribers, credits, rules, deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(always=False), nullable=False),
        sa.Column("instrument", sa.String(32), nullable=False),
        sa.Column("ticker", sa.String(128), nullable=False),
        sa.Column("market", sa.String(128), nullable=False, server_default=""),
        sa.Column("duration_strategy", sa.String(32), nullable=False),
        sa.Column("detector", sa.String(128), nullable=False, server_default=""),
        sa.Column("direction", sa.String(4), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("start", sa.Float, nullable=False),
        sa.Column("target", sa.Float, nullable=False),
        sa.Column("stop", sa.Float, nullable=False),
        sa.Column("trailing", sa.Float),
        sa.Column("detected_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("entry", sa.Float),
        sa.Column("exit", sa.Float),
        sa.Column("gain", sa.Float),
        sa.Column("r", sa.Float),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("source", sa.String(64), nullable=False, server_default="detector"),
        sa.Column("key", sa.String(255)),
        sa.Column("digest", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.UniqueConstraint("key", name="uq_alerts_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alerts_detected_at_id", "alerts", ["detected_at", "id"])
    op.create_index("ix_alerts_state_detected_at", "alerts", ["state", "detected_at"])
    op.create_index("ix_alerts_ended_at", "alerts", ["ended_at"])
    op.create_index("ix_alerts_detector_detected_at", "alerts", ["detector", "detected_at"])
    op.create_table(
        "detections",
        sa.Column("market", sa.String(128), nullable=False),
        sa.Column("detector", sa.String(128), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("resolution", sa.BigInteger, nullable=False),
        sa.Column("bar", sa.BigInteger, nullable=False),
        sa.Column("instrument", sa.String(32), nullable=False),
        sa.Column("ticker", sa.String(128), nullable=False),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("source_hash", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger),
        sa.Column("late", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("gathered", sa.LargeBinary),
        sa.Column("memory", sa.LargeBinary),
        sa.Column("life", sa.LargeBinary),
        sa.Column("alert_id", sa.BigInteger),
        sa.PrimaryKeyConstraint("market", "detector", name="pk_detections"),
    )
