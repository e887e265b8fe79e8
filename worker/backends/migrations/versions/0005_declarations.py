"""Tasks publish what they declare, and the same id with other parameters is refused.

The statements stand in the ``.sql`` file beside this one. Workers of the schema before go on over
the connections that they have: what they call takes and gives what it did, and more.
"""

from alembic import op

from worker.backends.migrations.statements import pin, run, statements_of

revision = "0005"
down_revision = "0004"

CHANGED = ("enqueue_jobs", "enqueue")
NEW = ("canonical", "key", "same_params", "apply_terms")
FUNCTIONS = tuple(f"worker_{name}" for name in (*CHANGED, *NEW))


def upgrade() -> None:
    run(*statements_of("0005_declarations.sql").values())
    pin(FUNCTIONS)


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.execute("ALTER TABLE worker_tasks DROP COLUMN declaration")
    before = statements_of("0002_asking.sql")
    run(*(before[f"function_{name}"] for name in CHANGED))
    pin(FUNCTIONS)
