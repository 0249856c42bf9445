"""Which of the servers that share a database does what only one may do."""

from sqlalchemy import BigInteger, Column, String, Table, Text

from server.store.tables.base import metadata

__all__ = ["leases"]

leases = Table(
    "leases", metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(32), nullable=False),  # a server's name for itself; "" when it was given back
    Column("process", Text, nullable=False),  # where the holder is; see server.services.lease
    Column("beat", BigInteger, nullable=False),  # raised again and again while the holder is alive
)
