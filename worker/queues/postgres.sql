-- The queries of the jobs in PostgreSQL, each sent as it stands. What workers do all day are
-- functions, which `worker.backends.migrations` makes; their statements stand in its .sql files.

-- name: schema
-- What the last `worker migrate` left behind, and who answers: a pooler in between has another
-- process number than the server. There is no such table before the first one.
SELECT version_num AS version, pg_backend_pid() AS process FROM worker_alembic_version;

-- name: missing_rights
-- What this role may not do, of all that a worker does.
SELECT t.name AS "table", r.right
FROM (
    VALUES ('worker_jobs'), ('worker_queue'), ('worker_outcomes'), ('worker_uniques'),
        ('worker_rates'), ('worker_watch'), ('worker_tasks')
) AS t (name)
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS r ("right")
WHERE NOT has_table_privilege(t.name, r.right)
UNION ALL
SELECT 'worker_job_list', 'SELECT'
WHERE NOT has_table_privilege('worker_job_list', 'SELECT')
UNION ALL
SELECT p.proname, 'EXECUTE'
FROM pg_proc p
WHERE p.pronamespace = (SELECT c.relnamespace FROM pg_class c WHERE c.oid = 'worker_queue'::regclass)
    AND p.proname IN (
        'worker_admit',
        'worker_apply_terms',
        'worker_cancel',
        'worker_canonical',
        'worker_enqueue',
        'worker_enqueue_jobs',
        'worker_key',
        'worker_lease',
        'worker_listen',
        'worker_lock_keys',
        'worker_release_keys',
        'worker_retry',
        'worker_same_params',
        'worker_settle',
        'worker_survey',
        'worker_tell_ended',
        'worker_wake',
        'worker_watch_for',
        'worker_with_loss'
    )
    AND NOT has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1, 2;

-- name: set_utc
-- For a pooler, which does not hand on the options of a connection.
SET timezone TO 'UTC';

-- name: listen
-- From now on this connection hears of jobs that are ready, and of jobs that have ended.
SELECT worker_listen();

-- name: ping
-- Whether anybody answers.
SELECT 1;

-- name: enqueue
-- A row for each job that is not taken in: its id, that of the one in its place, and what is
-- recorded of that one if it has the same id.
SELECT asked, there, existing
FROM worker_enqueue_jobs(%(jobs)s::text::json, %(wishes)s::text::json);

-- name: enqueue_by_asyncpg
-- The same with the parameters of asyncpg.
SELECT asked, there, existing FROM worker_enqueue_jobs($1::text::json, $2::text::json);

-- name: enqueue_by_sqlalchemy
-- The same with the parameters of SQLAlchemy.
SELECT asked, there, existing
FROM worker_enqueue_jobs(CAST(CAST(:jobs AS text) AS json), CAST(CAST(:wishes AS text) AS json));

-- name: survey
-- Which priorities there are, when the first job of each is ready, and the moment.
SELECT levels, firsts, moment, fresh FROM worker_survey(%(queue)s, %(watching)s);

-- name: lease
-- Up to so many jobs that are ready, in the order in which they shall begin.
SELECT id, task, queue, receipt, params, version, priority, options, headers, deliveries, losses,
    attempts, refusals, cancel, created_at, due_at, expires_at,
    coalesce(expires_at <= statement_timestamp(), false) AS expired, history
FROM worker_lease(
    %(queue)s, %(limit)s, %(ttl)s, %(worker)s, %(token)s, %(levels)s::smallint[],
    %(floors)s::timestamptz[], %(deferred)s::text[], %(suspect)s::integer
);

-- name: claim_jobs
-- Lease those of these jobs that are ready and that another engine carries, as the slash in their
-- queues' names says. Of one that somebody is busy with at this moment nothing is said. As with
-- every lease, the commit need not be flushed.
WITH ready AS MATERIALIZED (
    SELECT q.seq, q.ready_at AS due_at, set_config('synchronous_commit', 'off', true) AS quick
    FROM worker_queue q
    JOIN worker_jobs j USING (seq)
    WHERE j.id = ANY(%(ids)s) AND strpos(q.queue, '/') > 0
        AND q.ready_at <= statement_timestamp()
    ORDER BY q.seq
    FOR UPDATE OF q SKIP LOCKED
)
UPDATE worker_queue q
SET token = %(token)s, state = 'STARTED', progress = NULL, worker = %(worker)s,
    started_at = statement_timestamp(), ready_at = statement_timestamp() + %(ttl)s,
    deliveries = q.deliveries + 1,
    losses = q.losses + (q.token IS NOT NULL AND q.begun)::integer,
    history = CASE WHEN q.token IS NULL OR NOT q.begun OR q.losses >= 20 THEN q.history
        ELSE worker_with_loss(q.history, q.attempts + 1, q.worker, q.started_at, r.due_at)
    END,
    begun = j.task <> ALL(%(deferred)s::text[]) AND (
        %(suspect)s::integer IS NULL
        OR q.losses + (q.token IS NOT NULL AND q.begun)::integer < %(suspect)s::integer
    )
FROM ready r
JOIN worker_jobs j USING (seq)
WHERE q.seq = r.seq
RETURNING j.id, j.task, j.queue, q.seq || '.' || q.token, j.params, j.version, j.priority,
    j.options, j.headers, q.deliveries, q.losses, q.attempts, q.refusals, q.cancel, j.created_at,
    r.due_at, q.expires_at, coalesce(q.expires_at <= statement_timestamp(), false), q.history;

-- name: settle
-- The places of those whose lease was lost.
SELECT worker_settle(%(ended)s::text::json, %(back)s::text::json) AS lost;

-- name: extend
-- A row for each lease that holds.
UPDATE worker_queue q
SET ready_at = statement_timestamp() + %(ttl)s, due_at = NULL
FROM json_to_recordset(%(leases)s::text::json) AS s (place integer, seq bigint, token bigint)
WHERE q.seq = s.seq AND q.token = s.token
RETURNING s.place, q.cancel;

-- name: begin_jobs
-- The same, and the work on these jobs begins. What a crash of the server forgets is a loss that is
-- not charged, so the commit need not be flushed.
WITH said AS MATERIALIZED (
    SELECT s.*, set_config('synchronous_commit', 'off', true) AS quick
    FROM json_to_recordset(%(leases)s::text::json) AS s (place integer, seq bigint, token bigint)
)
UPDATE worker_queue q
SET ready_at = statement_timestamp() + %(ttl)s, due_at = NULL, begun = true
FROM said s
WHERE q.seq = s.seq AND q.token = s.token
RETURNING s.place, q.cancel;

-- name: tell_progress
-- Nothing is changed if the lease is lost.
UPDATE worker_queue SET progress = %(progress)s, state = 'PROGRESS'
WHERE seq = %(seq)s AND token = %(token)s;

-- name: take_rate
-- The generic cell rate algorithm, in microseconds. What a crash forgets was allowed anyway, so
-- the commit need not be flushed.
WITH said AS MATERIALIZED (
    SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint AS now,
        least(%(wanted)s::integer, %(burst)s::integer) AS first,
        set_config('synchronous_commit', 'off', true) AS quick
)
INSERT INTO worker_rates AS r (key, arrival, granted)
SELECT %(key)s, s.now + s.first * %(spacing)s::bigint, s.first FROM said s
ON CONFLICT (key) DO UPDATE SET (granted, arrival) = (
    SELECT room.jobs, room.since + room.jobs * %(spacing)s::bigint
    FROM (
        SELECT busy.since, greatest(
            0, least(
                %(wanted)s::integer,
                (s.now + (%(burst)s::bigint) * %(spacing)s::bigint - busy.since)
                / %(spacing)s::bigint
            )
        )::integer AS jobs
        FROM said s, LATERAL (SELECT greatest(r.arrival, s.now) AS since) AS busy
    ) AS room
)
RETURNING r.granted, greatest(
    0, r.arrival + (1 - %(burst)s::bigint) * %(spacing)s::bigint - (SELECT s.now FROM said s)
) AS wait;

-- name: watch
-- Whether nobody had said for a while that somebody waits for this.
SELECT worker_watch_for(%(topic)s) AS fresh;

-- name: get_jobs
-- All that is recorded of these jobs. Columns are named, as a newer schema may have more of them.
SELECT l.id, l.task, l.queue, l.state, l.params, l.version, l.priority, l.options, l.headers,
    l.created_at, l.ready_at, l.expires_at, l.started_at, l.finished_at, l.result_until,
    l.deliveries, l.losses, l.attempts, l.refusals, l.unique_key, l.concurrency_key, l.worker,
    l.progress, l.result, l.error, l.dead, l.cancel, coalesce(q.history, o.history) AS history
FROM worker_job_list l
JOIN worker_jobs j USING (id)
LEFT JOIN worker_queue q USING (seq)
LEFT JOIN worker_outcomes o USING (seq)
WHERE l.id = ANY(%(ids)s) AND j.id = ANY(%(ids)s);

-- name: list_unfinished
-- Those of these jobs that wait or run.
SELECT j.id FROM worker_jobs j JOIN worker_queue q USING (seq) WHERE j.id = ANY(%(ids)s);

-- name: find_jobs
-- The jobs that fit, those created last first; null asks for nothing. Unfinished and finished ones
-- are looked for apart, each in the order of an index, and neither if no state of theirs is asked.
WITH found AS (
    (
        SELECT j.created_at, j.id
        FROM worker_jobs j
        JOIN worker_queue q USING (seq)
        WHERE (%(task)s::text IS NULL OR j.task = %(task)s)
            AND (%(queue)s::text IS NULL OR j.queue = %(queue)s)
            AND (%(since)s::timestamptz IS NULL OR j.created_at >= %(since)s)
            AND (%(before)s::timestamptz IS NULL OR j.created_at < %(before)s)
            AND (%(dead)s::boolean IS NULL OR NOT %(dead)s)
            AND (
                %(states)s::text[] IS NULL
                OR %(states)s && '{PENDING,RETRY,STARTED}'::text[] AND q.state = ANY(%(states)s)
            )
        ORDER BY j.created_at DESC, j.id
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT j.created_at, j.id
        FROM worker_jobs j
        JOIN worker_outcomes o USING (seq)
        WHERE (%(task)s::text IS NULL OR j.task = %(task)s)
            AND (%(queue)s::text IS NULL OR j.queue = %(queue)s)
            AND (%(since)s::timestamptz IS NULL OR j.created_at >= %(since)s)
            AND (%(before)s::timestamptz IS NULL OR j.created_at < %(before)s)
            AND (%(dead)s::boolean IS NULL OR o.dead = %(dead)s)
            AND (
                %(states)s::text[] IS NULL
                OR %(states)s && '{SUCCESS,FAILURE,REVOKED,EXPIRED}'::text[]
                AND o.state = ANY(%(states)s)
            )
        ORDER BY j.created_at DESC, j.id
        LIMIT %(limit)s
    )
    ORDER BY created_at DESC, id
    LIMIT %(limit)s
)
SELECT id, task, queue, state, params, version, priority, options, headers, created_at, ready_at,
    expires_at, started_at, finished_at, result_until, deliveries, losses, attempts, refusals,
    unique_key, concurrency_key, worker, progress, result, error, dead, cancel
FROM worker_job_list
WHERE id = ANY(ARRAY(SELECT f.id FROM found f))
ORDER BY created_at DESC, id;

-- name: count_jobs
-- How many there are that have not succeeded, by queue, task and state. An index has the few of those
-- that ended.
SELECT j.queue, j.task, q.state, count(*) AS jobs, 0::bigint AS dead,
    min(coalesce(q.due_at, q.ready_at)) FILTER (
        WHERE coalesce(q.due_at, q.ready_at) <= statement_timestamp()
    ) AS oldest
FROM worker_queue q
JOIN worker_jobs j USING (seq)
GROUP BY j.queue, j.task, q.state
UNION ALL
SELECT j.queue, j.task, o.state, count(*), count(*) FILTER (WHERE o.dead), NULL
FROM worker_outcomes o
JOIN worker_jobs j USING (seq)
WHERE o.state <> 'SUCCESS'
GROUP BY j.queue, j.task, o.state
ORDER BY queue, task, state;

-- name: count_ended
-- How many have ended in each queue, dead letters aside, in the order of the index of `prune_jobs`.
SELECT j.queue, count(*) AS jobs
FROM worker_outcomes o
JOIN worker_jobs j USING (seq)
WHERE NOT o.dead AND o.finished_at > statement_timestamp() - %(within)s
GROUP BY j.queue;

-- name: list_cancelled
-- Those of these jobs that were asked to end.
SELECT id FROM worker_job_list WHERE id = ANY(%(ids)s) AND cancel;

-- name: cancel_jobs
-- A row for each that is known: what became of it.
SELECT id, told FROM worker_cancel(%(ids)s);

-- name: retry_jobs
-- A row for each that is known: what became of it.
SELECT id, told FROM worker_retry(%(ids)s);

-- name: drop_jobs
-- A row for each that is known: what became of it.
WITH gone AS (
    DELETE FROM worker_outcomes o USING worker_jobs j
    WHERE j.id = ANY(%(ids)s) AND o.seq = j.seq
    RETURNING o.seq
),
forgotten AS (
    DELETE FROM worker_jobs j USING gone g WHERE j.seq = g.seq RETURNING j.id, j.unique_key
),
free AS (
    DELETE FROM worker_uniques u USING forgotten f WHERE u.key = f.unique_key AND u.job = f.id
)
SELECT j.id, CASE WHEN f.id IS NULL THEN 'not_now' ELSE 'done' END AS told
FROM worker_jobs j
LEFT JOIN forgotten f USING (id)
WHERE j.id = ANY(%(ids)s);

-- name: prune_jobs
-- One chunk, so that no statement takes long; what another worker is pruning is left to it.
WITH old AS MATERIALIZED (
    SELECT o.seq
    FROM worker_outcomes o
    WHERE NOT o.dead AND o.finished_at < statement_timestamp() - %(keep)s
    ORDER BY o.finished_at
    LIMIT %(chunk)s
    FOR UPDATE SKIP LOCKED
),
gone AS (
    DELETE FROM worker_outcomes o USING old WHERE o.seq = old.seq RETURNING o.seq
),
forgotten AS (
    DELETE FROM worker_jobs j USING gone g WHERE j.seq = g.seq RETURNING j.id, j.unique_key
),
free AS (
    DELETE FROM worker_uniques u USING forgotten f WHERE u.key = f.unique_key AND u.job = f.id
)
SELECT count(*) AS gone FROM gone;

-- name: prune_rates
-- A rate whose arrival time has passed allows as much as one that was never asked for.
DELETE FROM worker_rates
WHERE arrival < (extract(epoch FROM statement_timestamp()) * 1000000)::bigint;

-- name: publish_tasks
-- What tasks declare, unless a newer version of it is recorded.
INSERT INTO worker_tasks AS t (name, queue, version, declaration)
SELECT s.name, s.queue, s.version, s.declaration
FROM json_to_recordset(%(tasks)s::text::json) AS s (
    name text, queue text, version integer, declaration text
)
ORDER BY s.name
ON CONFLICT (name) DO UPDATE
SET queue = EXCLUDED.queue, version = EXCLUDED.version, declaration = EXCLUDED.declaration
WHERE t.version <= EXCLUDED.version
    AND (t.queue, t.version, t.declaration)
        IS DISTINCT FROM (EXCLUDED.queue, EXCLUDED.version, EXCLUDED.declaration);

-- name: read_declaration
-- What a task declares; null of a worker of the schema before.
SELECT declaration FROM worker_tasks WHERE name = %(task)s;

-- name: apply_terms
-- The job that holds the unique key, an empty text if the lease was lost, null if all is well.
SELECT worker_apply_terms(
    %(seq)s, %(token)s, %(priority)s, %(options)s, %(expires)s::float8, %(unique_key)s::text,
    %(states)s::text[], %(ttl)s::float8, %(key)s::text, %(limit)s
) AS holder;
