"""alembic's entry: runs the revisions on the connection, and in the transaction, that `server.store.schema` gives."""

from alembic import context

from server.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata,
                  transactional_ddl=True, render_as_batch=True)
context.run_migrations()
