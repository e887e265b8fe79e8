"""What migrations do with the statements in the ``.sql`` files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import op

from worker.backends.queries import parse_queries

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["pin", "run", "statements_of"]

VERSIONS = Path(__file__).with_name("versions")
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


def statements_of(*files: str) -> dict[str, str]:
    """The statements of these files, by their names."""
    found: dict[str, str] = {}
    for file in files:
        found |= parse_queries((VERSIONS / file).read_text(encoding="utf-8"))
    return found


def run(*statements: str) -> None:
    """Run statements as they stand: a colon in them means nothing to the driver."""
    cursor = driver_cursor()
    for statement in statements:
        cursor.execute(statement)


def pin(functions: Sequence[str]) -> None:
    """Have functions be planned once, and find their tables."""
    cursor = driver_cursor()
    cursor.execute(PIN, [list(functions)])
    for (statement,) in cursor.fetchall():
        cursor.execute(statement)


def driver_cursor() -> Any:
    return op.get_bind().connection.cursor()
