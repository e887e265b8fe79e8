"""On-demand jobs: what was asked for, what is to be done, what came of it.

The statements stand in the ``.sql`` files beside this one. PostgreSQL 13 or later.
"""

from alembic import op

from worker.backends.migrations.statements import pin, run, statements_of

revision = "0002"
down_revision = "0001"

FILES = ("0002_tables.sql", "0002_working.sql", "0002_asking.sql")
TABLES = ("jobs", "queue", "outcomes", "uniques", "rates", "watch", "tasks")
FUNCTIONS = (
    "worker_admit",
    "worker_cancel",
    "worker_enqueue",
    "worker_enqueue_jobs",
    "worker_lease",
    "worker_listen",
    "worker_lock_keys",
    "worker_release_keys",
    "worker_retry",
    "worker_settle",
    "worker_survey",
    "worker_tell_ended",
    "worker_wake",
    "worker_watch_for",
)


def upgrade() -> None:
    run(*statements_of(*FILES).values())
    pin(FUNCTIONS)


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP VIEW worker_job_list")
    for table in TABLES:
        op.execute(f"DROP TABLE worker_{table}")
