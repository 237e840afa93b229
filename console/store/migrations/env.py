"""Alembic's entry: runs the migrations on the connection that `console.store.schema` gives it.

For a new migration change models.py, copy the newest file in versions/ under the next number, and set
`console.store.schema.HEAD`; tests/console/store/test_schema.py says whether models and migrations agree.
"""

from alembic import context

from console.store.models import Base

connection = context.config.attributes["connection"]
# render_as_batch: SQLite can't alter most of a table in place; a batch copies it.
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
