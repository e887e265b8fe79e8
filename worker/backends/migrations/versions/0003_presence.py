"""What a worker serves while its lease holds, and whether it said that it ends."""

from alembic import op

revision = "0003"
down_revision = "0002"

UPGRADE = (
    """
    ALTER TABLE worker_sessions
    ADD COLUMN presence text,
    ADD COLUMN closed_at timestamptz
    """,
    """
    COMMENT ON COLUMN worker_sessions.presence IS
    'What it serves, as JSON; null of a worker whose version does not say'
    """,
    """
    COMMENT ON COLUMN worker_sessions.closed_at IS
    'When it said that it ends; null of one whose lease ran out'
    """,
)
DOWNGRADE = "ALTER TABLE worker_sessions DROP COLUMN presence, DROP COLUMN closed_at"


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute(DOWNGRADE)
