"""Jobs of one concurrency key are leased in their order, and lost leases are charged to begun jobs.

The statements stand in the ``.sql`` file beside this one. Workers of the schema before go on over
the connections that they have: what they call takes and gives what it did, and more.
"""

from alembic import op

from worker.backends.migrations.statements import pin, run, statements_of

revision = "0006"
down_revision = "0005"

CHANGED = ("admit", "lease", "settle")
FUNCTIONS = tuple(f"worker_{name}" for name in CHANGED)


def upgrade() -> None:
    run(*statements_of("0006_order.sql").values())
    pin(FUNCTIONS)


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.execute("ALTER TABLE worker_queue DROP COLUMN begun")
    before = statements_of("0002_asking.sql", "0002_working.sql")
    before |= statements_of("0004_history.sql")
    run(*(before[f"function_{name}"] for name in CHANGED))
    pin(FUNCTIONS)
