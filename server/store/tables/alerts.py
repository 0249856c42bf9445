"""Alerts with their life, subscribers, credits, rules and deliveries."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from server.store.tables.base import Id, metadata

__all__ = [
    "alerts", "attempts", "channels", "credit_entries", "deliveries", "detections", "hooks", "positions",
    "rule_firings", "rule_states", "rules", "subscriber_tokens", "subscribers",
]

alerts = Table(
    "alerts", metadata,
    Column("id", Id, Identity(always=False), primary_key=True),
    Column("instrument", String(32), nullable=False),
    Column("ticker", String(128), nullable=False),
    Column("market", String(128), nullable=False, server_default=""),
    Column("duration_strategy", String(32), nullable=False),
    Column("detector", String(128), nullable=False, server_default=""),
    Column("direction", String(4), nullable=False),
    Column("state", String(16), nullable=False),
    Column("start", Float, nullable=False),
    Column("target", Float, nullable=False),
    Column("stop", Float, nullable=False),
    Column("trailing", Float),
    Column("detected_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("entry", Float),
    Column("exit", Float),
    Column("gain", Float),
    Column("r", Float),
    Column("reason", Text, nullable=False, server_default=""),
    Column("source", String(64), nullable=False, server_default="detector"),
    Column("key", String(255), unique=True),  # what a bot named it by, so that the same message makes one alert
    Column("digest", String(64)),  # of the message: the same key with another message is a conflict
    Index("ix_alerts_detected_at_id", "detected_at", "id"),
    Index("ix_alerts_state_detected_at", "state", "detected_at"),
    Index("ix_alerts_ended_at", "ended_at"),
    Index("ix_alerts_detector_detected_at", "detector", "detected_at"),
    sqlite_autoincrement=True,
)

detections = Table(  # detection switched on: one detector on one market, with all that a restart must find again
    "detections", metadata,
    Column("market", String(128), primary_key=True),
    Column("detector", String(128), primary_key=True),
    Column("state", String(8), nullable=False),  # on, paused, off
    Column("params", JSON, nullable=False),  # complete
    Column("resolution", BigInteger, nullable=False),  # seconds of the candles it takes
    Column("bar", BigInteger, nullable=False),  # seconds of the bars it gathers them into
    Column("instrument", String(32), nullable=False),
    Column("ticker", String(128), nullable=False),
    Column("owner", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("source_hash", String(64), nullable=False),  # of the detector's code: memory of other code is not taken up
    Column("at", BigInteger),  # the position: open of the last candle taken in, null before the first
    Column("late", BigInteger, nullable=False, server_default="0"),  # candles that came after their time
    Column("gathered", LargeBinary),  # the bar being gathered, float64
    Column("memory", LargeBinary),  # the step's state, float64
    Column("life", LargeBinary),  # the open alert's life, float64; null when there is none
    Column("alert_id", BigInteger),  # the open alert
)

subscribers = Table(  # people and programs that receive alerts, each for a credit
    "subscribers", metadata,
    Column("id", Id, Identity(always=False), primary_key=True),
    Column("email", String(255), nullable=False, unique=True),  # lower case; "operator" for our own
    Column("password", Text, nullable=False, server_default=""),  # Argon2id; empty: nobody logs in with one
    Column("access", String(8), nullable=False),  # FREE, FULL
    Column("balance", BigInteger, nullable=False, server_default="0"),  # the sum of the subscriber's credit entries
    Column("automatic_renewal", Boolean, nullable=False),
    Column("renewal", BigInteger, nullable=False),  # credits that a renewal grants
    Column("instruments", JSON, nullable=False),
    Column("durations", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_login_at", BigInteger),
    Column("free_at", BigInteger),  # when a FREE subscriber was last shown closed alerts
    sqlite_autoincrement=True,
)

subscriber_tokens = Table(  # which tokens speak for a subscriber
    "subscriber_tokens", metadata,
    Column("token_id", String(64), primary_key=True),
    Column("subscriber_id", Id, ForeignKey("subscribers.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires_at", BigInteger, nullable=False),
)

credit_entries = Table(  # the ledger: never changed, only added to; a subscriber's balance is the sum of the amounts
    "credit_entries", metadata,
    Column("id", Id, Identity(always=False), primary_key=True),
    Column("subscriber_id", Id, ForeignKey("subscribers.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(16), nullable=False),  # grant, renewal, use, reimbursement, consumption
    Column("amount", BigInteger, nullable=False),
    Column("token", String(36)),  # of the credit that was used
    Column("alert_id", BigInteger),
    Column("at", BigInteger, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    UniqueConstraint("subscriber_id", "alert_id", "kind"),  # an alert costs a subscriber once and is settled once
    Index("ix_credit_entries_alert_id_kind", "alert_id", "kind"),
    sqlite_autoincrement=True,
)

hooks = Table(  # addresses that charting services post alerts to
    "hooks", metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # sha256 of the secret in the address
    Column("template", Text, nullable=False, server_default=""),  # of text messages
    Column("defaults", JSON, nullable=False),
    Column("owner", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("error", Text),  # what was wrong with the last message, null when it was taken
)

channels = Table(  # where notices go
    "channels", metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", String(16), nullable=False),  # webhook, apprise
    Column("sealed", Text, nullable=False),  # the address, encrypted
    Column("shown", Text, nullable=False),  # the address without its secrets
    Column("key", Text, nullable=False, server_default=""),  # what signs a webhook's bodies, encrypted
    Column("topics", JSON, nullable=False),
    Column("filters", JSON, nullable=False),
    Column("rate", BigInteger, nullable=False),  # a minute; 0: no limit
    Column("enabled", Boolean, nullable=False),
    Column("owner", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
)

deliveries = Table(  # the outbox, and when done the log
    "deliveries", metadata,
    Column("id", Id, Identity(always=False), primary_key=True),
    Column("channel_id", String(32), ForeignKey("channels.id", ondelete="CASCADE"), nullable=False),
    Column("cause", String(255), nullable=False),  # the event: its stream and number
    Column("topic", String(64), nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("state", String(16), nullable=False),  # pending, delivered, dead
    Column("attempts", BigInteger, nullable=False, server_default="0"),
    Column("next_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("status", BigInteger),  # of the last answer
    Column("error", Text),  # what went wrong last
    UniqueConstraint("channel_id", "cause"),
    Index("ix_deliveries_state_next_at", "state", "next_at"),
    Index("ix_deliveries_channel_id_id", "channel_id", "id"),
    sqlite_autoincrement=True,
)

attempts = Table(
    "delivery_attempts", metadata,
    Column("delivery_id", Id, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("ms", BigInteger, nullable=False),
    Column("status", BigInteger),
    Column("error", Text),
)

positions = Table(  # how far those have come who turn events into rows
    "positions", metadata,
    Column("name", String(64), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

rules = Table(  # conditions on what bots do
    "rules", metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("condition", String(32), nullable=False),
    Column("params", JSON, nullable=False),
    Column("model", String(128), nullable=False, server_default=""),  # empty: all
    Column("lasting", Float, nullable=False),  # seconds that it must hold before it fires
    Column("cooldown", Float, nullable=False),  # seconds from one firing to the next
    Column("enabled", Boolean, nullable=False),
    Column("silenced_until", BigInteger),
    Column("owner", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
)

rule_states = Table(
    "rule_states", metadata,
    Column("rule_id", String(32), ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True),
    Column("model_id", String(128), primary_key=True),
    Column("state", String(8), nullable=False),  # ok, pending, firing
    Column("since_at", BigInteger, nullable=False),
    Column("fired_at", BigInteger),
    Column("value", Float),
)

rule_firings = Table(
    "rule_firings", metadata,
    Column("id", Id, Identity(always=False), primary_key=True),
    Column("rule_id", String(32), ForeignKey("rules.id", ondelete="CASCADE"), nullable=False),
    Column("model_id", String(128), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("resolved_at", BigInteger),
    Column("value", Float),
    Column("message", Text, nullable=False),
    Index("ix_rule_firings_rule_id_id", "rule_id", "id"),
    Index("ix_rule_firings_at", "at"),
    sqlite_autoincrement=True,
)
