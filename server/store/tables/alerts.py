"""Alerts with their life, subscribers, credits, rules and deliveries."""

from sqlalchemy import JSON, BigInteger, Column, Float, Identity, Index, LargeBinary, String, Table, Text

from server.store.tables.base import Id, metadata

__all__ = ["alerts", "detections"]

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
