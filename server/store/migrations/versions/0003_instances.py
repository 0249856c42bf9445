"""Gekko instances, imports, exchange keys."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("market", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("start_at", sa.BigInteger, nullable=False),
        sa.Column("end_at", sa.BigInteger, nullable=False),
        sa.Column("position_at", sa.BigInteger, nullable=False),
        sa.Column("latest_at", sa.BigInteger),
        sa.Column("added", sa.Integer, nullable=False, server_default="0"),
        sa.Column("missing", sa.Integer, nullable=False, server_default="0"),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False, server_default="native"),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_imports"),
    )
    op.create_index("ix_imports_market", "imports", ["market"])
    op.create_index("ix_imports_created_at_id", "imports", ["created_at", "id"])
    op.create_index("ix_imports_state_created_at", "imports", ["state", "created_at"])
    op.create_table(
        "exchange_keys",
        sa.Column("exchange", sa.String(64), nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("exchange", name="pk_exchange_keys"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("market", sa.String(128), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("error", sa.Text),
        sa.Column("initial", sa.JSON, nullable=False),
        sa.Column("latest", sa.JSON, nullable=False),
        sa.Column("memory", sa.LargeBinary),
        sa.Column("begin_at", sa.BigInteger),
        sa.Column("position_at", sa.BigInteger),
        sa.Column("noted", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
    op.create_index("ix_instances_state_started_at", "instances", ["state", "started_at"])
