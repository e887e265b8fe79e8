-- The statements of worker/backends/sqlite_file.py, which runs each of them by its name.
-- Moments are microseconds since 1970 in UTC. SQLite 3.24 knows all that is used here.

-- name: set_journal
-- Readers do not wait for the writer, nor the writer for them. Stays with the file.
PRAGMA journal_mode = WAL;

-- name: set_synchronous
-- Wait for the disk when the log is folded into the file, not at every commit.
PRAGMA synchronous = NORMAL;

-- name: set_checkpoint
-- Fold the log into the file after 16 MB of it, not 4: that is when the disk is waited for.
PRAGMA wal_autocheckpoint = 4000;

-- name: set_journal_limit
-- Give space back after a time when the log could not be folded.
PRAGMA journal_size_limit = 67108864;

-- name: set_cache
-- 16 MB: the pages that a thousand tasks write to.
PRAGMA cache_size = -16000;

-- name: set_foreign_keys
-- No table refers to another; whatever the library was built with shall not matter.
PRAGMA foreign_keys = OFF;

-- name: set_trust
-- Views and triggers that somebody put into the file call no functions with side effects.
PRAGMA trusted_schema = OFF;

-- name: read_identity
-- Whose file this is, the version of its tables, and whether it has any.
SELECT
    (SELECT application_id FROM pragma_application_id) AS application,
    (SELECT user_version FROM pragma_user_version) AS version,
    EXISTS (SELECT 1 FROM sqlite_master) AS used;

-- name: set_application
-- Marks the file as ours: "SCWK" in ASCII.
PRAGMA application_id = 0x5343574B;

-- name: create_sessions
-- Version 1. One life of one replica. AUTOINCREMENT, so that no id ever comes again.
CREATE TABLE sessions (
    session INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    since INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
);

-- name: create_books
-- Version 1. What is known of each task; the state is JSON.
CREATE TABLE books (
    task TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    state TEXT NOT NULL
) WITHOUT ROWID;

-- name: create_entries
-- Version 1. What became of each slot.
CREATE TABLE entries (
    task TEXT NOT NULL,
    slot INTEGER NOT NULL,
    trigger TEXT NOT NULL,
    outcome TEXT NOT NULL,
    recorded_at INTEGER NOT NULL,
    last INTEGER,
    count INTEGER NOT NULL,
    run_id TEXT,
    session INTEGER,
    replica TEXT,
    late_ms REAL,
    duration_ms REAL,
    error TEXT,
    cancel INTEGER NOT NULL,
    overlap TEXT,
    losses INTEGER NOT NULL,
    PRIMARY KEY (task, slot, trigger)
) WITHOUT ROWID;

-- name: create_entries_active
-- Version 1. The few entries that wait or run, for whoever reads a book or renews a lease.
CREATE INDEX entries_active ON entries (task, slot, trigger)
WHERE outcome IN ('waiting', 'running');

-- name: create_entries_by_slot
-- Version 1. For the history of all tasks, newest first.
CREATE INDEX entries_by_slot ON entries (slot, task, trigger);

-- name: create_entries_final
-- Version 1. For pruning, the oldest first.
CREATE INDEX entries_final ON entries (recorded_at)
WHERE outcome NOT IN ('waiting', 'running');

-- name: set_version_1
-- The tables are those of version 1.
PRAGMA user_version = 1;

-- name: create_jobs
-- Version 2. On-demand jobs, and what is known of them; each has its place in the order of arrival.
-- Of the texts, params, options, headers, progress, result and error are JSON that nobody here
-- looks into.
-- urgency is the priority with its sign changed, so that all of an index's columns rise.
-- stage says where a job stands for those who lease:
--     0  ready, to be leased now;
--     1  later, from ready_at on;
--     2  leased, until ready_at;
--     3  ready, but its concurrency key has no room;
--     null  it has ended.
CREATE TABLE jobs (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    task TEXT NOT NULL,
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    stage INTEGER,
    urgency INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    ready_at INTEGER NOT NULL,
    expires_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    result_until INTEGER,
    deliveries INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0,
    unique_key TEXT,
    unique_states TEXT,
    unique_until INTEGER,
    concurrency_key TEXT,
    concurrency_limit INTEGER,
    worker TEXT,
    params TEXT NOT NULL,
    options TEXT NOT NULL DEFAULT '{}',
    headers TEXT NOT NULL DEFAULT '{}',
    progress TEXT,
    result TEXT,
    error TEXT
);

-- name: create_jobs_ready
-- Version 2. For whoever leases. The last columns are for whoever counts.
CREATE INDEX jobs_ready ON jobs (queue, urgency, ready_at, place, task, state, stage) WHERE stage = 0;

-- name: create_jobs_later
-- Version 2. Those whose time comes, the first one first.
CREATE INDEX jobs_later ON jobs (queue, ready_at, task, state, stage) WHERE stage IN (1, 2);

-- name: create_jobs_ended
-- Version 2. For whoever counts, and for pruning, the oldest of a group first.
CREATE INDEX jobs_ended ON jobs (queue, task, state, dead, finished_at, stage) WHERE stage IS NULL;

-- name: create_jobs_created
-- Version 2. For lists, the newest first.
CREATE INDEX jobs_created ON jobs (created_at);

-- name: create_jobs_dead
-- Version 2. For lists of dead letters, which are few among many.
CREATE INDEX jobs_dead ON jobs (created_at) WHERE dead = 1;

-- name: create_jobs_unique
-- Version 2. The last job that was taken in with a unique key.
CREATE INDEX jobs_unique ON jobs (unique_key, place) WHERE unique_states IS NOT NULL;

-- name: create_jobs_keyed
-- Version 2. The jobs of a concurrency key that could be leased if there is room.
CREATE INDEX jobs_keyed ON jobs (
    concurrency_key, queue, concurrency_limit, urgency, ready_at, place, stage, task, state
) WHERE concurrency_key IS NOT NULL AND stage IN (0, 3);

-- name: create_jobs_keyed_leases
-- Version 2. The leases that take up room in concurrency keys, the first to run out first.
CREATE INDEX jobs_keyed_leases ON jobs (ready_at) WHERE concurrency_key IS NOT NULL AND stage = 2;

-- name: create_jobs_keyed_ready
-- Version 2. The leases of a concurrency key, and the jobs that may be the next.
CREATE INDEX jobs_keyed_ready ON jobs (concurrency_key, stage)
WHERE concurrency_key IS NOT NULL AND stage IN (0, 2);

-- name: create_rates
-- Version 2. When the next start is due at each rate, if all come as fast as they may.
CREATE TABLE rates (
    key TEXT NOT NULL PRIMARY KEY,
    arrival INTEGER NOT NULL
) WITHOUT ROWID;

-- name: set_version_2
-- The tables are those of version 2.
PRAGMA user_version = 2;

-- name: add_presence
-- Version 3. What a session is for, as JSON; null if it did not say.
ALTER TABLE sessions ADD COLUMN presence TEXT;

-- name: set_version_3
-- The tables are those of version 3.
PRAGMA user_version = 3;

-- name: add_jobs_history
-- Version 4. What is kept of a job's attempts: JSON, to which a lost lease is added at its end.
ALTER TABLE jobs ADD COLUMN history TEXT;

-- name: set_version_4
-- The tables are those of version 4.
PRAGMA user_version = 4;

-- name: add_jobs_begun
-- Version 5. Whether the work on a job counts as begun under its lease: then it is a loss if the lease
-- runs out.
ALTER TABLE jobs ADD COLUMN begun INTEGER NOT NULL DEFAULT 1;

-- name: set_version_5
-- The tables are those of version 5.
PRAGMA user_version = 5;

-- name: create_tasks
-- Version 6. What tasks declare about their jobs: JSON (worker.jobs.declaration).
CREATE TABLE tasks (
    name         TEXT PRIMARY KEY NOT NULL,
    version      INTEGER NOT NULL,
    declaration  TEXT NOT NULL
) WITHOUT ROWID;

-- name: set_version_6
-- The tables are those of version 6.
PRAGMA user_version = 6;
