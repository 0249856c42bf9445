"""Alerts, subscribers, credits, rules, deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


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
    _subscribers()


def _subscribers() -> None:
    """Who receives alerts and rule notices, and what became of each."""
    op.create_table(
        "subscribers",
        sa.Column("id", ID, sa.Identity(always=False), nullable=False),
        sa.Column("email", sa.String(255), nullable=False),
        sa.Column("password", sa.Text, nullable=False, server_default=""),
        sa.Column("access", sa.String(8), nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("automatic_renewal", sa.Boolean, nullable=False),
        sa.Column("renewal", sa.BigInteger, nullable=False),
        sa.Column("instruments", sa.JSON, nullable=False),
        sa.Column("durations", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_login_at", sa.BigInteger),
        sa.Column("free_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_subscribers"),
        sa.UniqueConstraint("email", name="uq_subscribers_email"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "subscriber_tokens",
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("subscriber_id", ID, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("token_id", name="pk_subscriber_tokens"),
        sa.ForeignKeyConstraint(["subscriber_id"], ["subscribers.id"], name="fk_subscriber_tokens_subscriber_id",
                                ondelete="CASCADE"),
    )
    op.create_index("ix_subscriber_tokens_subscriber_id", "subscriber_tokens", ["subscriber_id"])
    op.create_table(
        "credit_entries",
        sa.Column("id", ID, sa.Identity(always=False), nullable=False),
        sa.Column("subscriber_id", ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("token", sa.String(36)),
        sa.Column("alert_id", sa.BigInteger),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_credit_entries"),
        sa.ForeignKeyConstraint(["subscriber_id"], ["subscribers.id"], name="fk_credit_entries_subscriber_id",
                                ondelete="CASCADE"),
        sa.UniqueConstraint("subscriber_id", "alert_id", "kind", name="uq_credit_entries_subscriber_id_alert_id_kind"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_credit_entries_alert_id_kind", "credit_entries", ["alert_id", "kind"])
    op.create_table(
        "hooks",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("template", sa.Text, nullable=False, server_default=""),
        sa.Column("defaults", sa.JSON, nullable=False),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_hooks"),
        sa.UniqueConstraint("digest", name="uq_hooks_digest"),
    )
    op.create_table(
        "channels",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False, server_default=""),
        sa.Column("topics", sa.JSON, nullable=False),
        sa.Column("filters", sa.JSON, nullable=False),
        sa.Column("rate", sa.BigInteger, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_channels"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", ID, sa.Identity(always=False), nullable=False),
        sa.Column("channel_id", sa.String(32), nullable=False),
        sa.Column("cause", sa.String(255), nullable=False),
        sa.Column("topic", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("status", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["channel_id"], ["channels.id"], name="fk_deliveries_channel_id",
                                ondelete="CASCADE"),
        sa.UniqueConstraint("channel_id", "cause", name="uq_deliveries_channel_id_cause"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_channel_id_id", "deliveries", ["channel_id", "id"])
    op.create_index("ix_deliveries_state_next_at", "deliveries", ["state", "next_at"])
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("ms", sa.BigInteger, nullable=False),
        sa.Column("status", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_delivery_attempts"),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name="fk_delivery_attempts_delivery_id",
                                ondelete="CASCADE"),
    )
    op.create_table(
        "positions",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_positions"),
    )
    op.create_table(
        "rules",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("condition", sa.String(32), nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("model", sa.String(128), nullable=False, server_default=""),
        sa.Column("lasting", sa.Float, nullable=False),
        sa.Column("cooldown", sa.Float, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("silenced_until", sa.BigInteger),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rules"),
    )
    op.create_table(
        "rule_states",
        sa.Column("rule_id", sa.String(32), nullable=False),
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("since_at", sa.BigInteger, nullable=False),
        sa.Column("fired_at", sa.BigInteger),
        sa.Column("value", sa.Float),
        sa.PrimaryKeyConstraint("rule_id", "model_id", name="pk_rule_states"),
        sa.ForeignKeyConstraint(["rule_id"], ["rules.id"], name="fk_rule_states_rule_id",
                                ondelete="CASCADE"),
    )
    op.create_table(
        "rule_firings",
        sa.Column("id", ID, sa.Identity(always=False), nullable=False),
        sa.Column("rule_id", sa.String(32), nullable=False),
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("resolved_at", sa.BigInteger),
        sa.Column("value", sa.Float),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rule_firings"),
        sa.ForeignKeyConstraint(["rule_id"], ["rules.id"], name="fk_rule_firings_rule_id",
                                ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rule_firings_at", "rule_firings", ["at"])
    op.create_index("ix_rule_firings_rule_id_id", "rule_firings", ["rule_id", "id"])
