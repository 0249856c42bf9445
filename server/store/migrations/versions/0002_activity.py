"""Projects, models, orders, reported profit, the keys of writes; tokens bound to a project or a model."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for name, length in (("project_id", 64), ("model_id", 128)):
        op.add_column("tokens", sa.Column(name, sa.String(length), nullable=False, server_default=""))
    op.create_table(
        "projects",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("dialect", sa.String(32), nullable=False, server_default="native"),
        sa.Column("kind", sa.String(32), nullable=False, server_default="strategy"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("running", sa.Boolean),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("heard_at", sa.BigInteger),
        sa.Column("symbols", sa.JSON, nullable=False),
        sa.Column("exchanges", sa.JSON, nullable=False),
        sa.Column("auto_pnl", sa.Boolean, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("orders", sa.Integer, nullable=False, server_default="0"),
        sa.Column("errors", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
        sa.Column("last_error_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_models_project_id", ondelete="CASCADE"),
    )
    op.create_index("ix_models_project_id", "models", ["project_id"])
    op.create_index("ix_models_created_at", "models", ["created_at"])
    op.create_table(
        "orders",
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("symbol", sa.String(64), nullable=False),
        sa.Column("exchange", sa.String(64), nullable=False, server_default=""),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("side", sa.String(8), nullable=False),
        sa.Column("size", sa.Float),
        sa.Column("funds", sa.Float),
        sa.Column("price", sa.Float),
        sa.Column("activate", sa.Float),
        sa.Column("filled", sa.Float),
        sa.Column("status", sa.String(64)),
        sa.Column("executed_at", sa.BigInteger),
        sa.Column("canceled_at", sa.BigInteger),
        sa.Column("fee", sa.Float),
        sa.Column("fee_currency", sa.String(32), nullable=False, server_default=""),
        sa.Column("annotation", sa.Text),
        sa.Column("version_id", sa.String(128), nullable=False, server_default=""),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("extra", sa.JSON),
        sa.PrimaryKeyConstraint("model_id", "run_id", "id", name="pk_orders"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_orders_model_id", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_orders_model_id_run_id_at_id", "orders", ["model_id", "run_id", "at", "id"])
    op.create_table(
        "pnl_points",
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("model_id", "at", name="pk_pnl_points"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_pnl_points_model_id", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ingest_keys",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_ingest_keys"),
    )
    op.create_index("ix_ingest_keys_at", "ingest_keys", ["at"])
