"""Alembic runs this module, with the connection that storage.migrate opened."""

from alembic import context

from storage.table import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
