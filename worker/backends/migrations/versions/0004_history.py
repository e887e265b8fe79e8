"""What came of a job's earlier attempts is kept with its record.

The statements stand in the ``.sql`` file beside this one. Workers of the schema before go on over
the connections that they have: what they call takes and gives what it did, and more.
"""

from alembic import op

from worker.backends.migrations.statements import pin, run, statements_of

revision = "0004"
down_revision = "0003"

CHANGED = ("cancel", "lease", "retry", "settle")
FUNCTIONS = tuple(f"worker_{name}" for name in (*CHANGED, "with_loss"))


def upgrade() -> None:
    run(*statements_of("0004_history.sql").values())
    pin(FUNCTIONS)


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    for table in ("worker_queue", "worker_outcomes"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN history")
    before = statements_of("0002_working.sql", "0002_asking.sql")
    run(*(before[f"function_{name}"] for name in CHANGED))
    pin(FUNCTIONS)
