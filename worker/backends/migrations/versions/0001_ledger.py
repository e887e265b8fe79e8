"""The ledger: a book of each task, what became of each slot, and who holds a lease."""

from alembic import op

revision = "0001"
down_revision = None

# Names sort by code point, as they do in Python, whatever the database's collation.
UPGRADE = (
    """
    CREATE TABLE worker_books (
        task     text COLLATE "C" PRIMARY KEY,
        version  bigint NOT NULL,
        state    jsonb NOT NULL
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE worker_slots (
        task         text COLLATE "C" NOT NULL,
        slot         timestamptz NOT NULL,
        trigger      text COLLATE "C" NOT NULL,
        outcome      text NOT NULL,
        recorded_at  timestamptz NOT NULL,
        last         timestamptz,
        count        bigint NOT NULL,
        replica      text,
        session      bigint,
        run_id       text,
        late_ms      double precision,
        duration_ms  double precision,
        error        text,
        cancel       boolean NOT NULL,
        overlap      text,
        losses       integer NOT NULL,
        PRIMARY KEY (task, slot, trigger)
    )
    """,
    """
    CREATE TABLE worker_sessions (
        id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name         text NOT NULL,
        started_at   timestamptz NOT NULL,
        seen_at      timestamptz NOT NULL,
        lease_until  timestamptz NOT NULL
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE INDEX worker_slots_active ON worker_slots (task, slot, trigger)
    WHERE outcome IN ('waiting', 'running')
    """,
    """
    CREATE INDEX worker_slots_old ON worker_slots (recorded_at)
    WHERE outcome NOT IN ('waiting', 'running')
    """,
    "CREATE INDEX worker_slots_history ON worker_slots (slot, task, trigger)",
    "COMMENT ON TABLE worker_books IS 'What sidecar-worker knows of each task'",
    """
    COMMENT ON COLUMN worker_books.state IS
    'Moments are microseconds since 1970; every slot up to its cursor is accounted for'
    """,
    "COMMENT ON TABLE worker_slots IS 'What became of each moment at which a task was due'",
    "COMMENT ON COLUMN worker_slots.slot IS 'When it was due; by hand: when it was asked for'",
    """
    COMMENT ON COLUMN worker_slots.last IS
    'For a row of slots that share their fate: the last of them'
    """,
    "COMMENT ON COLUMN worker_slots.count IS 'How many slots the entry stands for'",
    "COMMENT ON COLUMN worker_slots.session IS 'worker_sessions.id of the replica that ran it'",
    "COMMENT ON COLUMN worker_slots.late_ms IS 'From the slot to the start of its run'",
    "COMMENT ON COLUMN worker_slots.cancel IS 'Its run was asked to end'",
    "COMMENT ON COLUMN worker_slots.losses IS 'How often it was lost and run again'",
    "COMMENT ON TABLE worker_sessions IS 'One life of one worker; a later id is greater'",
    """
    COMMENT ON COLUMN worker_sessions.lease_until IS
    'What it runs counts as lost after this moment, by the clock of this server'
    """,
)
DOWNGRADE = ("DROP TABLE worker_slots", "DROP TABLE worker_books", "DROP TABLE worker_sessions")


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
