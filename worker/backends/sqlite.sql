-- The statements of worker/backends/sqlite.py, which runs each of them by its name.
-- Moments are microseconds since 1970 in UTC. SQLite 3.24 knows all that is used here.

-- name: open_session
-- Adds a session. Its id is the present moment in milliseconds, or one more than the last id, so
-- that ids rise even over a file that was deleted or put back from a copy.
INSERT INTO sessions (session, name, since, seen, lease_until, presence)
SELECT
    max(:now / 1000, 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sessions'), 0)),
    :name, :now, :now, :lease_until, :presence;

-- name: extend_lease
-- Has a lease hold on, if it still does.
UPDATE sessions SET seen = :now, lease_until = :lease_until
WHERE session = :session AND lease_until > :now;

-- name: end_lease
-- Ends a session for good: whatever the clock does later, zero has passed. None whose lease only
-- runs out has it.
UPDATE sessions SET seen = :now, lease_until = 0
WHERE session = :session AND lease_until > 0;

-- name: lease_holds
-- A row if the session's lease holds.
SELECT 1 FROM sessions WHERE session = :session AND lease_until > :now;

-- name: read_pulse
-- The active entries that a replica should know of: those that wait, the orphans, and its own that
-- were asked to end.
SELECT e.task, e.slot, e.trigger, e.outcome, e.session IS :session AND e.cancel AS cancelled,
    coalesce(s.lease_until, 0) > :now AS alive
FROM entries AS e INDEXED BY entries_active
LEFT JOIN sessions AS s ON s.session = e.session
WHERE e.outcome IN ('waiting', 'running')
    AND (
        e.outcome = 'waiting'
        OR coalesce(s.lease_until, 0) <= :now
        OR (e.session IS :session AND e.cancel)
    );

-- name: read_books
-- The books of the tasks in a JSON list, a row for each active entry, the oldest first; books
-- without any have a row whose slot is null.
SELECT b.version, b.state, coalesce(s.lease_until, 0) > :now AS alive,
    b.task, e.slot, e.trigger, e.outcome, e.recorded_at, e.last, e.count, e.run_id, e.session,
    e.replica, e.late_ms, e.duration_ms, e.error, e.cancel, e.overlap, e.losses
FROM books AS b
LEFT JOIN entries AS e INDEXED BY entries_active
    ON e.task = b.task AND e.outcome IN ('waiting', 'running')
LEFT JOIN sessions AS s ON s.session = e.session
WHERE b.task IN (SELECT value FROM json_each(:tasks))
ORDER BY b.task, e.slot, e.trigger;

-- name: read_version
-- The present version of a book.
SELECT version FROM books WHERE task = :task;

-- name: entry_is_final
-- A row if there is an entry with a last word.
SELECT 1 FROM entries
WHERE task = ? AND slot = ? AND trigger = ? AND outcome NOT IN ('waiting', 'running');

-- name: add_book
-- Adds the book of a task that has none; no row is changed if it has.
INSERT INTO books (task, version, state) VALUES (?, 1, ?) ON CONFLICT DO NOTHING;

-- name: change_book
-- Changes a book that still has the version that was read, else no row.
UPDATE books SET version = version + 1, state = ? WHERE task = ? AND version = ?;

-- name: put_entry
-- Adds an entry, or puts it in the place of the one with its key. Unlike REPLACE it leaves the
-- indexes alone whose columns stay.
INSERT INTO entries (
    task, slot, trigger, outcome, recorded_at, last, count, run_id, session, replica, late_ms,
    duration_ms, error, cancel, overlap, losses
) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
) ON CONFLICT (task, slot, trigger) DO UPDATE SET
    outcome = excluded.outcome, recorded_at = excluded.recorded_at, last = excluded.last,
    count = excluded.count, run_id = excluded.run_id, session = excluded.session,
    replica = excluded.replica, late_ms = excluded.late_ms, duration_ms = excluded.duration_ms,
    error = excluded.error, cancel = excluded.cancel, overlap = excluded.overlap,
    losses = excluded.losses;

-- name: list_tasks
-- The names of all tasks that have a book.
SELECT task FROM books ORDER BY task;

-- name: history_of_all
-- Entries of all tasks, newest slots first; outcomes is a JSON list.
SELECT
    e.outcome NOT IN ('waiting', 'running') OR coalesce(s.lease_until, 0) > :now AS alive,
    e.task, e.slot, e.trigger, e.outcome, e.recorded_at, e.last, e.count, e.run_id, e.session,
    e.replica, e.late_ms, e.duration_ms, e.error, e.cancel, e.overlap, e.losses
FROM entries AS e INDEXED BY entries_by_slot
LEFT JOIN sessions AS s ON s.session = e.session
WHERE e.slot >= :since AND e.slot < :until
    AND e.outcome IN (SELECT value FROM json_each(:outcomes))
ORDER BY e.slot DESC, e.task DESC, e.trigger DESC
LIMIT :limit;

-- name: history_of_task
-- Entries of one task, newest slots first; outcomes is a JSON list.
SELECT
    e.outcome NOT IN ('waiting', 'running') OR coalesce(s.lease_until, 0) > :now AS alive,
    e.task, e.slot, e.trigger, e.outcome, e.recorded_at, e.last, e.count, e.run_id, e.session,
    e.replica, e.late_ms, e.duration_ms, e.error, e.cancel, e.overlap, e.losses
FROM entries AS e
LEFT JOIN sessions AS s ON s.session = e.session
WHERE e.task = :task AND e.slot >= :since AND e.slot < :until
    AND e.outcome IN (SELECT value FROM json_each(:outcomes))
ORDER BY e.slot DESC, e.trigger DESC
LIMIT :limit;

-- name: list_sessions
-- Every session, or those of a JSON list, the latest first.
SELECT session, name, since, seen, lease_until, presence FROM sessions
WHERE :sessions IS NULL OR session IN (SELECT value FROM json_each(:sessions))
ORDER BY session DESC;

-- name: prune_entries
-- Forgets some of the last words recorded before a moment, the oldest first.
DELETE FROM entries WHERE (task, slot, trigger) IN (
    SELECT task, slot, trigger FROM entries INDEXED BY entries_final
    WHERE outcome NOT IN ('waiting', 'running') AND recorded_at < :before
    ORDER BY recorded_at LIMIT :limit
);

-- name: prune_sessions
-- Forgets the sessions that have been dead since before a moment and that no active entry needs.
DELETE FROM sessions
WHERE max(seen, lease_until) < :before AND session NOT IN (
    SELECT session FROM entries INDEXED BY entries_active
    WHERE outcome IN ('waiting', 'running') AND session IS NOT NULL
);
