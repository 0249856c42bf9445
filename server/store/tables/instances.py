"""Gekko instances, imports and exchange keys."""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from server.store.tables.base import metadata

__all__ = ["exchange_keys", "imports", "instances"]

imports = Table(
    "imports", metadata,
    Column("id", String(32), primary_key=True),  # decimal digits, as Gekko's clients know them
    Column("market", String(128), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),  # exclusive
    Column("position_at", BigInteger, nullable=False),  # all before is stored
    Column("latest_at", BigInteger),  # of the newest trade or candle received
    Column("added", Integer, nullable=False, server_default="0"),
    Column("missing", Integer, nullable=False, server_default="0"),  # minutes that the exchange does not have
    Column("request", JSON, nullable=False),  # watch, from and to, word for word
    Column("dialect", String(32), nullable=False, server_default="native"),
    Column("owner", Text, nullable=False, server_default=""),
    Column("error", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Index("ix_imports_created_at_id", "created_at", "id"),
    Index("ix_imports_state_created_at", "state", "created_at"),
)

exchange_keys = Table(
    "exchange_keys", metadata,
    Column("exchange", String(64), primary_key=True),
    Column("sealed", Text, nullable=False),  # encrypted; see server.services.keys
    Column("created_at", BigInteger, nullable=False),
)

instances = Table(
    "instances", metadata,
    Column("id", String(128), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("market", String(128), nullable=False),
    Column("config", JSON, nullable=False),
    Column("owner", Text, nullable=False, server_default=""),
    Column("error", Text),
    Column("initial", JSON, nullable=False),  # the first payload of each type of event
    Column("latest", JSON, nullable=False),  # the newest one
    Column("memory", LargeBinary),  # what a strategy and its trader remember; see engine.gekko_live
    Column("begin_at", BigInteger),  # candles before that only warm up
    Column("position_at", BigInteger),  # of the newest candle heard
    Column("noted", BigInteger, nullable=False, server_default="0"),  # the id of the newest event that activity has
    Column("started_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("asked", String(16), nullable=False, server_default=""),  # "stop": the server that runs it shall end it
    Index("ix_instances_state_started_at", "state", "started_at"),
)
