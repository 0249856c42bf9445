"""What lists of runs sort and search by."""


revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Nothing yet."""
