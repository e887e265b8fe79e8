-- The queries of the ledger in PostgreSQL, each sent as it stands. `worker.backends.postgres` says
-- why write_changes is right under READ COMMITTED. A time is asked for once a statement, so that
-- one answer judges all leases alike.

-- name: schema_version
-- What the last `worker migrate` left behind. There is no such table before the first one.
SELECT version_num AS version FROM worker_alembic_version;

-- name: missing_rights
-- What this role may not do, of all that a worker does.
SELECT t.name AS "table", r.right
FROM (VALUES ('worker_books'), ('worker_slots'), ('worker_sessions')) AS t (name)
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS r ("right")
WHERE NOT has_table_privilege(t.name, r.right)
ORDER BY t.name, r.right;

-- name: open_session
-- A lease that begins now. Its id is greater than all before it.
INSERT INTO worker_sessions (name, started_at, seen_at, lease_until, presence)
SELECT %(replica)s, now.now, now.now, now.now + %(ttl)s, %(presence)s
FROM (SELECT clock_timestamp() AS now OFFSET 0) AS now
RETURNING id;

-- name: renew_session
-- Nothing is renewed, and no row 'held' comes, if the lease has run out. The other rows say what
-- there is to do: tasks with orphans, tasks with waiting entries, own entries that shall end.
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS now),
held AS (
    UPDATE worker_sessions SET seen_at = now.now, lease_until = now.now + %(ttl)s
    FROM now
    WHERE id = %(session)s AND lease_until > now.now
    RETURNING id
),
active AS MATERIALIZED (
    SELECT s.task, s.slot, s.trigger, s.outcome, s.session, s.cancel,
        coalesce(l.lease_until > now.now, false) AS alive
    FROM now
    CROSS JOIN worker_slots s
    LEFT JOIN worker_sessions l ON l.id = s.session
    WHERE s.outcome IN ('waiting', 'running')
)
SELECT 'held' AS what, NULL AS task, NULL::timestamptz AS slot, NULL AS trigger FROM held
UNION ALL
SELECT DISTINCT 'orphaned', task, NULL::timestamptz, NULL FROM active
WHERE outcome = 'running' AND NOT alive
UNION ALL
SELECT DISTINCT 'waiting', task, NULL::timestamptz, NULL FROM active
WHERE outcome = 'waiting'
UNION ALL
SELECT 'cancelled', task, slot, trigger FROM active
WHERE outcome = 'running' AND cancel AND session = %(session)s;

-- name: close_session
-- End the lease now, unless it has run out already; it ended in order either way.
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS now)
UPDATE worker_sessions SET lease_until = least(lease_until, now.now), closed_at = now.now
FROM now
WHERE id = %(session)s AND closed_at IS NULL;

-- name: read_books
-- The books and their active entries as of one moment: a row for each entry, or one without.
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS now)
SELECT b.task AS book, b.version, b.state, s.*, coalesce(l.lease_until > now.now, false) AS alive
FROM now
CROSS JOIN worker_books b
LEFT JOIN worker_slots s ON s.task = b.task AND s.outcome IN ('waiting', 'running')
LEFT JOIN worker_sessions l ON l.id = s.session
WHERE b.task = ANY(%(tasks)s)
ORDER BY b.task, s.slot, s.trigger;

-- name: write_changes
-- Make each change that can be made; no task has two. A row for each: its task, what became of it.
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS now),
change AS MATERIALIZED (
    SELECT c.task, c.version, c.state,
        c.session IS NULL OR EXISTS (
            SELECT FROM worker_sessions l WHERE l.id = c.session AND l.lease_until > now.now
        ) AS leased
    FROM now
    CROSS JOIN jsonb_to_recordset(%(changes)s::jsonb)
        AS c (task text COLLATE "C", version bigint, state jsonb, session bigint)
),
entry AS MATERIALIZED (
    SELECT *
    FROM jsonb_to_recordset(%(entries)s::jsonb) AS e (
        task text COLLATE "C", slot timestamptz, trigger text COLLATE "C", outcome text,
        recorded_at timestamptz, last timestamptz, count bigint, replica text, session bigint,
        run_id text, late_ms double precision, duration_ms double precision, error text,
        cancel boolean, overlap text, losses integer
    )
),
taken AS MATERIALIZED (
    SELECT DISTINCT e.task
    FROM entry e
    JOIN worker_slots s USING (task, slot, trigger)
    WHERE s.outcome NOT IN ('waiting', 'running')
),
fit AS MATERIALIZED (
    SELECT c.task, c.version, c.state
    FROM change c
    WHERE c.leased AND NOT EXISTS (SELECT FROM taken t WHERE t.task = c.task)
),
-- Waits for whoever is changing the book, and then looks at its version again.
locked AS MATERIALIZED (
    SELECT b.task, f.state
    FROM worker_books b
    JOIN fit f ON f.task = b.task AND f.version = b.version
    ORDER BY b.task
    FOR UPDATE OF b
),
updated AS (
    UPDATE worker_books b SET version = b.version + 1, state = l.state
    FROM locked l
    WHERE b.task = l.task
    RETURNING b.task
),
inserted AS (
    INSERT INTO worker_books (task, version, state)
    SELECT f.task, 1, f.state
    FROM fit f
    WHERE f.version = 0
    ORDER BY f.task
    ON CONFLICT DO NOTHING
    RETURNING task
),
made AS MATERIALIZED (SELECT task FROM updated UNION ALL SELECT task FROM inserted),
put AS (
    INSERT INTO worker_slots (
        task, slot, trigger, outcome, recorded_at, last, count, replica, session, run_id, late_ms,
        duration_ms, error, cancel, overlap, losses
    )
    SELECT e.task, e.slot, e.trigger, e.outcome, e.recorded_at, e.last, e.count, e.replica,
        e.session, e.run_id, e.late_ms, e.duration_ms, e.error, e.cancel, e.overlap, e.losses
    FROM entry e
    JOIN made USING (task)
    ON CONFLICT (task, slot, trigger) DO UPDATE SET
        outcome = EXCLUDED.outcome, recorded_at = EXCLUDED.recorded_at, last = EXCLUDED.last,
        count = EXCLUDED.count, replica = EXCLUDED.replica, session = EXCLUDED.session,
        run_id = EXCLUDED.run_id, late_ms = EXCLUDED.late_ms, duration_ms = EXCLUDED.duration_ms,
        error = EXCLUDED.error, cancel = EXCLUDED.cancel, overlap = EXCLUDED.overlap,
        losses = EXCLUDED.losses
)
SELECT c.task,
    CASE
        WHEN m.task IS NOT NULL THEN 'done'
        WHEN c.version <> coalesce(b.version, 0) THEN 'outdated'
        WHEN NOT c.leased THEN 'no_lease'
        WHEN t.task IS NOT NULL THEN 'taken'
        ELSE 'outdated' -- while this statement ran
    END AS written
FROM change c
LEFT JOIN made m ON m.task = c.task
LEFT JOIN taken t ON t.task = c.task
LEFT JOIN worker_books b ON b.task = c.task;

-- name: list_tasks
-- All tasks with a book, by name.
SELECT task FROM worker_books ORDER BY task;

-- name: list_history
-- The entries that fit, the newest slots first; null asks for nothing.
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS now)
SELECT s.*, coalesce(l.lease_until > now.now, false) AS alive
FROM now
CROSS JOIN worker_slots s
LEFT JOIN worker_sessions l ON l.id = s.session
WHERE (%(task)s::text IS NULL OR s.task = %(task)s)
    AND (%(outcomes)s::text[] IS NULL OR s.outcome = ANY(%(outcomes)s))
    AND (%(since)s::timestamptz IS NULL OR s.slot >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR s.slot < %(until)s)
ORDER BY s.slot DESC, s.task DESC, s.trigger DESC
LIMIT %(limit)s;

-- name: list_sessions
-- All sessions that are not pruned, or those of a list, the latest first.
SELECT id, name, started_at, seen_at, lease_until, presence, closed_at IS NOT NULL AS closed,
    lease_until > clock_timestamp() AS alive
FROM worker_sessions
WHERE %(sessions)s::bigint[] IS NULL OR id = ANY(%(sessions)s::bigint[])
ORDER BY id DESC;

-- name: prune_slots
-- One chunk, so that no statement takes long; what another replica is pruning is left to it.
WITH old AS MATERIALIZED (
    SELECT task, slot, trigger
    FROM worker_slots
    WHERE outcome NOT IN ('waiting', 'running') AND recorded_at < now() - %(age)s
    ORDER BY recorded_at
    LIMIT %(chunk)s
    FOR UPDATE SKIP LOCKED
),
gone AS (
    DELETE FROM worker_slots s USING old
    WHERE (s.task, s.slot, s.trigger) = (old.task, old.slot, old.trigger)
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: prune_sessions
-- Those whose active entries are still to be found out are kept.
DELETE FROM worker_sessions l
WHERE l.lease_until < now() - %(age)s
    AND NOT EXISTS (
        SELECT FROM worker_slots s WHERE s.session = l.id AND s.outcome IN ('waiting', 'running')
    );
