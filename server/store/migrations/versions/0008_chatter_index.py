"""Only chatter is looked for by its type and age, so only chatter is in that index: orders and logs, which are nearly
all events, are written without it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_index("ix_events_type_at", "events")
    chatter = sa.text("type IN ('candles', 'progress')")
    op.create_index("ix_events_chatter", "events", ["type", "at"], sqlite_where=chatter, postgresql_where=chatter)
