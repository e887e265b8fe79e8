-- What came of a job's attempts is kept with it: in worker_queue while it waits or runs, then in
-- worker_outcomes. worker_job_list leaves it out, as lists of jobs do.

-- name: queue_history
-- A JSON list that workers write (worker.jobs.history). Nothing is added for a job that succeeds at
-- once. Without a default, so that no row is written anew.
ALTER TABLE worker_queue ADD COLUMN history text;

-- name: outcomes_history
-- The same.
ALTER TABLE worker_outcomes ADD COLUMN history text;

-- name: function_with_loss
-- The history with a lease more that ran out without a word from its worker.
CREATE FUNCTION worker_with_loss(
    history text, attempt integer, worker text, started_at timestamptz, finished_at timestamptz
)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(left(history, -1) || ',', '[') || json_build_object(
        'attempt', attempt,
        'outcome', 'lost',
        'started_at', (extract(epoch FROM started_at) * 1000000)::bigint,
        'finished_at', (extract(epoch FROM finished_at) * 1000000)::bigint,
        'worker', worker
    ) || ']'
$$;

-- name: drop_lease
-- What it returns changes, which no function can do.
DROP FUNCTION worker_lease;

-- name: function_lease
-- Lease up to `most` jobs that are ready. The caller names the priorities that it knows of, and
-- from which moment on each may have jobs: what lies before it is dead rows, which every lease
-- would have to step over until the next vacuum. If there are jobs of another priority, nothing is
-- leased, and the caller asks worker_survey first.
--
-- A lease that a crash of the server forgets is leased again, so its commit need not be flushed.
CREATE FUNCTION worker_lease(
    asked_queue text, most integer, ttl interval, by_worker text, new_token bigint,
    levels smallint[], floors timestamptz[]
)
RETURNS TABLE (
    id text, task text, queue text, receipt text, params text, version integer, priority smallint,
    options text, headers text, deliveries integer, losses integer, attempts integer,
    refusals integer, cancel boolean, created_at timestamptz, due_at timestamptz,
    expires_at timestamptz, history text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := statement_timestamp();
    seqs bigint[];
    dues timestamptz[];
    keyed boolean;
    admitted bigint[];
BEGIN
    IF EXISTS (
        SELECT
        FROM unnest(101::smallint || levels, levels || (-101)::smallint) AS gap (above, below)
        CROSS JOIN LATERAL (
            SELECT
            FROM worker_queue q
            WHERE q.queue = asked_queue AND q.priority < gap.above AND q.priority > gap.below
            ORDER BY q.priority DESC
            LIMIT 1
        ) AS unknown
    ) THEN
        RETURN;
    END IF;
    SELECT array_agg(p.seq), array_agg(p.due), bool_or(p.keyed)
    INTO seqs, dues, keyed
    FROM (
        SELECT picked.*
        FROM unnest(levels, floors) AS level (priority, floor)
        CROSS JOIN LATERAL (
            SELECT q.seq, coalesce(q.due_at, q.ready_at) AS due,
                q.concurrency_key IS NOT NULL AS keyed
            FROM worker_queue q
            WHERE q.queue = asked_queue AND q.priority = level.priority
                AND q.ready_at >= level.floor AND q.ready_at <= moment
            ORDER BY q.ready_at, q.seq
            LIMIT most
            FOR UPDATE SKIP LOCKED
        ) AS picked
        LIMIT most
    ) AS p;
    IF seqs IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    IF keyed THEN
        admitted := worker_admit(seqs, moment, ttl);
        SELECT array_agg(p.seq), array_agg(p.due)
        INTO seqs, dues
        FROM unnest(seqs, dues) AS p (seq, due)
        WHERE p.seq = ANY(admitted);
    END IF;
    RETURN QUERY
    WITH leased AS (
        UPDATE worker_queue q
        SET token = new_token, state = 'STARTED', progress = NULL, worker = by_worker,
            started_at = moment, ready_at = moment + ttl, due_at = NULL,
            deliveries = q.deliveries + 1, losses = q.losses + (q.token IS NOT NULL)::integer,
            history = CASE WHEN q.token IS NULL OR q.losses >= 20 THEN q.history ELSE
                worker_with_loss(q.history, q.attempts + 1, q.worker, q.started_at, p.due)
            END
        FROM unnest(seqs, dues) WITH ORDINALITY AS p (seq, due, place), worker_jobs j
        WHERE q.seq = p.seq AND j.seq = p.seq
        RETURNING j.id, j.task, j.queue, q.seq || '.' || new_token AS receipt, j.params,
            j.version, j.priority, j.options, j.headers, q.deliveries, q.losses, q.attempts,
            q.refusals, q.cancel, j.created_at, p.due, q.expires_at, q.history, p.place
    )
    SELECT l.id, l.task, l.queue, l.receipt, l.params, l.version, l.priority, l.options, l.headers,
        l.deliveries, l.losses, l.attempts, l.refusals, l.cancel, l.created_at, l.due, l.expires_at,
        l.history
    FROM leased l
    ORDER BY l.place;
END
$$;

-- name: function_settle
-- Record what came of leased jobs: of those in `ended`, which is final, and of those in `back`,
-- which wait again. The places of those whose lease was lost. Where neither an error nor a history is
-- said, those that are recorded stay; but one that succeeds has no error any more.
CREATE OR REPLACE FUNCTION worker_settle(ended json, back json) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := statement_timestamp();
    lost integer[] := '{}';
    done bigint[];
    keys text[];
    also_lost integer[];
    also_keys text[];
    woken text[];
BEGIN
    IF ended IS NOT NULL THEN
        WITH said AS MATERIALIZED (
            SELECT *
            FROM json_to_recordset(ended) AS s (
                place integer, seq bigint, token bigint, state text, attempts integer,
                refusals integer, result text, keep float8, error text, dead boolean,
                history text
            )
        ),
        gone AS (
            DELETE FROM worker_queue q USING said s
            WHERE q.seq = s.seq AND q.token = s.token
            RETURNING q.seq, q.ready_at, q.expires_at, q.started_at, q.deliveries, q.losses,
                q.cancel, q.worker, q.progress, q.concurrency_key, s.place, s.state, s.attempts,
                s.refusals, s.result, s.keep, s.dead, coalesce(s.history, q.history) AS history,
                CASE WHEN s.state = 'SUCCESS' THEN s.error ELSE coalesce(s.error, q.error) END
                    AS error
        ),
        put AS (
            INSERT INTO worker_outcomes (
                seq, ready_at, expires_at, started_at, finished_at, result_until, deliveries,
                losses, attempts, refusals, dead, cancel, state, worker, progress, result, error,
                history
            )
            SELECT g.seq, g.ready_at, g.expires_at, g.started_at, moment,
                moment + g.keep * interval '1 s', g.deliveries, g.losses, g.attempts,
                coalesce(g.refusals, 0), coalesce(g.dead, false), g.cancel, g.state, g.worker,
                g.progress, g.result, g.error, g.history
            FROM gone g
        )
        SELECT coalesce(array_agg(s.place) FILTER (WHERE g.place IS NULL), '{}'),
            array_agg(g.seq) FILTER (WHERE g.place IS NOT NULL),
            array_agg(g.concurrency_key) FILTER (WHERE g.concurrency_key IS NOT NULL)
        INTO lost, done, keys
        FROM said s
        LEFT JOIN gone g USING (place);
        IF done IS NOT NULL THEN
            PERFORM worker_tell_ended(done);
        END IF;
    END IF;
    IF back IS NOT NULL THEN
        WITH said AS MATERIALIZED (
            SELECT *
            FROM json_to_recordset(back) AS s (
                place integer, seq bigint, token bigint, state text, attempts integer,
                refusals integer, delay float8, error text, history text
            )
        ),
        waits AS (
            UPDATE worker_queue q
            SET token = NULL, state = s.state,
                ready_at = moment
                    + CASE WHEN q.cancel THEN 0 ELSE s.delay END * interval '1 s',
                due_at = NULL, attempts = s.attempts, refusals = coalesce(s.refusals, 0),
                error = coalesce(s.error, q.error), history = coalesce(s.history, q.history),
                progress = NULL
            FROM said s
            WHERE q.seq = s.seq AND q.token = s.token
            RETURNING s.place, q.queue, q.ready_at, q.concurrency_key
        )
        SELECT coalesce(array_agg(s.place) FILTER (WHERE w.place IS NULL), '{}'),
            array_agg(DISTINCT w.queue) FILTER (WHERE w.ready_at < moment + interval '2 s'),
            array_agg(w.concurrency_key) FILTER (WHERE w.concurrency_key IS NOT NULL)
        INTO also_lost, woken, also_keys
        FROM said s
        LEFT JOIN waits w USING (place);
        lost := lost || also_lost;
        keys := keys || also_keys;
        IF woken IS NOT NULL THEN
            PERFORM worker_wake(woken);
        END IF;
    END IF;
    IF keys IS NOT NULL THEN
        PERFORM worker_release_keys(keys);
    END IF;
    RETURN lost;
END
$$;

-- name: function_cancel
-- Revoke those that wait, ask those that run to end. A row for each that is known.
CREATE OR REPLACE FUNCTION worker_cancel(ids text[])
RETURNS TABLE (id text, told text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := statement_timestamp();
    waiting bigint[];
    asked bigint[];
    keys text[];
BEGIN
    SELECT array_agg(found.seq) FILTER (WHERE NOT found.running),
        array_agg(found.seq) FILTER (WHERE found.running)
    INTO waiting, asked
    FROM (
        SELECT q.seq, q.state IN ('STARTED', 'PROGRESS') AS running
        FROM worker_queue q
        WHERE q.seq IN (SELECT j.seq FROM worker_jobs j WHERE j.id = ANY(ids))
        ORDER BY q.seq
        FOR UPDATE
    ) AS found;
    IF asked IS NOT NULL THEN
        UPDATE worker_queue q SET cancel = true WHERE q.seq = ANY(asked);
    END IF;
    IF waiting IS NOT NULL THEN
        WITH gone AS (
            DELETE FROM worker_queue q WHERE q.seq = ANY(waiting) RETURNING q.*
        ),
        put AS (
            INSERT INTO worker_outcomes (
                seq, ready_at, expires_at, started_at, finished_at, deliveries, losses, attempts,
                refusals, dead, cancel, state, worker, progress, error,
                history
            )
            SELECT g.seq, coalesce(g.due_at, g.ready_at), g.expires_at, g.started_at, moment,
                g.deliveries, g.losses, g.attempts, g.refusals, false, true, 'REVOKED', g.worker,
                g.progress, g.error, g.history
            FROM gone g
        )
        SELECT array_agg(g.concurrency_key) FILTER (WHERE g.concurrency_key IS NOT NULL)
        INTO keys
        FROM gone g;
        PERFORM worker_tell_ended(waiting);
        IF keys IS NOT NULL THEN
            PERFORM worker_release_keys(keys);
        END IF;
    END IF;
    RETURN QUERY
    SELECT j.id,
        CASE
            WHEN j.seq = ANY(waiting) THEN 'done'
            WHEN j.seq = ANY(asked) THEN 'asked'
            ELSE 'not_now'
        END
    FROM worker_jobs j
    WHERE j.id = ANY(ids);
END
$$;

-- name: function_retry
-- Put jobs that failed, were revoked or expired back into their queues, as if they were new; only
-- what is kept of their attempts stays.
-- A row for each that is known.
CREATE OR REPLACE FUNCTION worker_retry(ids text[])
RETURNS TABLE (id text, told text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    back bigint[];
BEGIN
    WITH gone AS (
        DELETE FROM worker_outcomes o
        USING worker_jobs j
        WHERE j.id = ANY(ids) AND o.seq = j.seq AND o.state <> 'SUCCESS'
        RETURNING o.seq, o.started_at, o.deliveries, o.worker, o.history, j.queue, j.priority,
            j.concurrency_key, j.concurrency_limit
    ),
    waits AS (
        INSERT INTO worker_queue (
            seq, ready_at, started_at, deliveries, concurrency_limit, priority, queue, state,
            concurrency_key, worker, history
        )
        SELECT g.seq, statement_timestamp(), g.started_at, g.deliveries, g.concurrency_limit,
            g.priority, g.queue, 'PENDING', g.concurrency_key, g.worker, g.history
        FROM gone g
        RETURNING seq
    )
    SELECT array_agg(w.seq) INTO back FROM waits w;
    IF back IS NOT NULL THEN
        PERFORM worker_wake(ARRAY(SELECT j.queue FROM worker_jobs j WHERE j.seq = ANY(back)));
    END IF;
    RETURN QUERY
    SELECT j.id, CASE WHEN j.seq = ANY(back) THEN 'done' ELSE 'not_now' END
    FROM worker_jobs j
    WHERE j.id = ANY(ids);
END
$$;
