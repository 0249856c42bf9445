"""Revisions of the schema, oldest first. The list lets a server check a database without loading alembic."""

from typing import Final

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
HEAD: Final = REVISIONS[-1]
