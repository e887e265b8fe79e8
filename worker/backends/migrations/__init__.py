"""The history of the ledger's tables in PostgreSQL, for Alembic: run by `worker migrate`."""
