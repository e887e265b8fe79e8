"""What Alembic runs around the migrations. `worker.backends.migrate` hands it the connection."""

from alembic import context

from worker.backends.migrate import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
