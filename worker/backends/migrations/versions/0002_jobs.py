"""On-demand jobs: what was asked for, what is to be done, what came of it.

The statements stand in the ``.sql`` files beside this one. PostgreSQL 13 or later.
"""

from pathlib import Path
from typing import Any

from alembic import op

from worker.backends.queries import parse_queries

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
# Functions find their tables wherever they are called from, and nobody can put others in between.
# The planner may not take a table for as small as it was when it last looked, and one plan is as
# good as another, so that none need be made anew for each call.
PIN = """
SELECT format(
    'ALTER FUNCTION %%s SET search_path = %%I, pg_temp SET enable_seqscan = off'
    ' SET plan_cache_mode = force_generic_plan',
    p.oid::regprocedure, current_schema()
)
FROM pg_proc p
WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY(%s)
"""


def upgrade() -> None:
    cursor = driver_cursor()
    for file in FILES:
        text = Path(__file__).with_name(file).read_text(encoding="utf-8")
        for statement in parse_queries(text).values():
            cursor.execute(statement)
    cursor.execute(PIN, [list(FUNCTIONS)])
    for (statement,) in cursor.fetchall():
        cursor.execute(statement)


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP VIEW worker_job_list")
    for table in TABLES:
        op.execute(f"DROP TABLE worker_{table}")


def driver_cursor() -> Any:
    """Takes statements as they stand: a colon in them means nothing to it."""
    return op.get_bind().connection.cursor()
