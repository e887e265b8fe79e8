-- Jobs of one concurrency key are leased in their order, only work that has begun is charged for a lost
-- lease, and locks are taken in one order.

-- name: queue_begun
-- Whether the work on a job counts as begun under its lease: then it is a loss if the lease runs out.
ALTER TABLE worker_queue ADD COLUMN begun boolean NOT NULL DEFAULT true;

-- name: drop_lease
-- It takes more than it did; the same call with less still works.
DROP FUNCTION worker_lease;

-- name: drop_admit
-- Only worker_lease called it.
DROP FUNCTION worker_admit;

-- name: function_admit
-- Of each concurrency key and limit among jobs that are about to be leased: as many jobs as are asked
-- for and the key has room for, the first in line first. Those may be others than the caller has
-- picked, such as one that was parked. Where the key has no room left, the rest are parked until its
-- first lease ends, and with them all that cannot be leased either, so that no lease steps over them
-- again and again.
--
-- If another session has locked the first in line, none behind it is admitted, and they stay ready:
-- that session waits for the key to lease the job, or takes it away.
CREATE FUNCTION worker_admit(
    asked_queue text, seqs bigint[], moment timestamptz, ttl interval
)
RETURNS bigint[] LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    keys text[] := ARRAY(
        SELECT DISTINCT q.concurrency_key
        FROM worker_queue q
        WHERE q.seq = ANY(seqs) AND q.concurrency_key IS NOT NULL
    );
    used bigint[];
    ends timestamptz[];
    heads bigint[];
    lanes bigint[];
    mine bigint[];
    admitted bigint[];
BEGIN
    PERFORM worker_lock_keys(keys);
    SELECT array_agg(u.jobs), array_agg(u.first_end)
    INTO used, ends
    FROM (
        SELECT count(q.seq) AS jobs, min(q.ready_at) AS first_end
        FROM unnest(keys) WITH ORDINALITY AS k (key, place)
        LEFT JOIN worker_queue q ON q.concurrency_key = k.key AND q.due_at IS NULL
            AND q.ready_at > moment AND q.token IS NOT NULL
        GROUP BY k.place
        ORDER BY k.place
    ) AS u;
    WITH picked AS MATERIALIZED (
        SELECT q.seq, q.priority, coalesce(q.due_at, q.ready_at) AS due, q.concurrency_key AS key,
            q.concurrency_limit AS most
        FROM worker_queue q
        WHERE q.seq = ANY(seqs) AND q.concurrency_key IS NOT NULL
    )
    SELECT array_agg(h.seq), array_agg(h.lane)
    INTO heads, lanes
    FROM (
        SELECT lane.number AS lane, lane.most - u.jobs AS room, head.*, row_number() OVER (
                PARTITION BY lane.key ORDER BY head.priority DESC, head.due, head.seq
            ) AS number
        FROM (
            SELECT p.key, p.most, count(*) AS wanted, max(p.due) AS last,
                row_number() OVER () AS number
            FROM picked p
            GROUP BY p.key, p.most
        ) AS lane
        JOIN unnest(keys, used) AS u (key, jobs) ON u.key = lane.key AND u.jobs < lane.most
        CROSS JOIN LATERAL (
            SELECT line.seq, line.priority, line.due
            FROM (
                (
                    SELECT q.seq, q.priority, q.due_at AS due
                    FROM worker_queue q
                    WHERE q.concurrency_key = lane.key AND q.due_at IS NOT NULL
                        AND q.queue = asked_queue AND q.concurrency_limit = lane.most
                    ORDER BY q.priority DESC, q.due_at, q.seq
                    LIMIT lane.wanted
                )
                UNION
                (
                    SELECT q.seq, q.priority, q.ready_at
                    FROM worker_queue q
                    WHERE q.concurrency_key = lane.key AND q.due_at IS NULL
                        AND q.ready_at <= least(lane.last, moment)
                        AND q.queue = asked_queue AND q.concurrency_limit = lane.most
                    ORDER BY q.ready_at
                    LIMIT 1000
                )
                UNION
                (
                    SELECT p.seq, p.priority, p.due
                    FROM picked p
                    WHERE p.key = lane.key AND p.most = lane.most
                )
            ) AS line
            ORDER BY line.priority DESC, line.due, line.seq
            LIMIT greatest(0, least(lane.wanted, lane.most - u.jobs))
        ) AS head
        ORDER BY lane.number, head.priority DESC, head.due, head.seq
    ) AS h
    WHERE h.number <= h.room;
    mine := seqs || ARRAY(
        SELECT q.seq
        FROM worker_queue q
        WHERE q.seq = ANY(heads) AND q.seq <> ALL(seqs)
            AND (q.due_at IS NOT NULL OR q.ready_at <= moment)
        FOR UPDATE SKIP LOCKED
    );
    admitted := ARRAY(
        SELECT h.seq
        FROM (
            SELECT h.seq,
                bool_and(h.seq = ANY(mine)) OVER (PARTITION BY h.lane ORDER BY h.place) AS free
            FROM unnest(heads, lanes) WITH ORDINALITY AS h (seq, lane, place)
        ) AS h
        WHERE h.free
        UNION ALL
        SELECT q.seq
        FROM worker_queue q
        WHERE q.seq = ANY(seqs) AND q.concurrency_key IS NULL
    );
    IF admitted @> seqs THEN
        RETURN admitted;
    END IF;
    WITH crowd AS (
        SELECT u.key, least(u.first_end, moment + ttl) - interval '1 microsecond' AS until,
            u.jobs + (
                SELECT count(*)
                FROM worker_queue q
                WHERE q.seq = ANY(admitted) AND q.concurrency_key = u.key
            ) AS jobs
        FROM unnest(keys, used, ends) AS u (key, jobs, first_end)
    ),
    blocked AS (
        SELECT q.seq, c.until
        FROM worker_queue q
        JOIN crowd c ON c.key = q.concurrency_key
        WHERE q.seq = ANY(mine) AND q.seq <> ALL(admitted) AND q.concurrency_limit <= c.jobs
        UNION ALL
        SELECT others.seq, c.until
        FROM crowd c
        CROSS JOIN LATERAL (
            SELECT q.seq
            FROM worker_queue q
            WHERE q.concurrency_key = c.key AND q.due_at IS NULL AND q.ready_at <= moment
                AND q.concurrency_limit <= c.jobs AND q.seq <> ALL(mine)
            ORDER BY q.ready_at
            LIMIT 1000
            FOR UPDATE SKIP LOCKED
        ) AS others
    )
    UPDATE worker_queue q
    SET due_at = coalesce(q.due_at, q.ready_at), ready_at = b.until
    FROM blocked b
    WHERE q.seq = b.seq;
    RETURN admitted;
END
$$;

-- name: function_lease
-- Lease up to `most` jobs that are ready. The caller names the priorities that it knows of, and
-- from which moment on each may have jobs: what lies before it is dead rows, which every lease
-- would have to step over until the next vacuum. If there are jobs of another priority, nothing is
-- leased, and the caller asks worker_survey first.
--
-- The work on a job counts as begun from its lease on. Not so for the jobs of the tasks in `deferred`,
-- nor for one that has lost `suspect` leases or more: their worker calls `begin_jobs` first. A lease
-- that runs out before is no loss.
--
-- A lease that a crash of the server forgets is leased again, so its commit need not be flushed.
CREATE FUNCTION worker_lease(
    asked_queue text, most integer, ttl interval, by_worker text, new_token bigint,
    levels smallint[], floors timestamptz[], deferred text[] DEFAULT '{}',
    suspect integer DEFAULT NULL
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
        admitted := worker_admit(asked_queue, seqs, moment, ttl);
        SELECT array_agg(a.seq), array_agg(a.due)
        INTO seqs, dues
        FROM (
            SELECT q.seq, coalesce(q.due_at, q.ready_at) AS due
            FROM worker_queue q
            WHERE q.seq = ANY(admitted)
            ORDER BY q.priority DESC, due, q.seq
        ) AS a;
    END IF;
    RETURN QUERY
    WITH leased AS (
        UPDATE worker_queue q
        SET token = new_token, state = 'STARTED', progress = NULL, worker = by_worker,
            started_at = moment, ready_at = moment + ttl, due_at = NULL,
            deliveries = q.deliveries + 1,
            losses = q.losses + (q.token IS NOT NULL AND q.begun)::integer,
            history = CASE WHEN q.token IS NULL OR NOT q.begun OR q.losses >= 20 THEN q.history
                ELSE worker_with_loss(q.history, q.attempts + 1, q.worker, q.started_at, p.due)
            END,
            begun = j.task <> ALL(deferred) AND (
                suspect IS NULL
                OR q.losses + (q.token IS NOT NULL AND q.begun)::integer < suspect
            )
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
-- said, those that are recorded stay; but one that succeeds has no error any more. One that goes back
-- with a moment as `due` keeps its place in its queue.
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
                refusals integer, delay float8, due timestamptz, error text, history text
            )
        ),
        waits AS (
            UPDATE worker_queue q
            SET token = NULL, state = s.state,
                ready_at = coalesce(
                    s.due, moment + CASE WHEN q.cancel THEN 0 ELSE s.delay END * interval '1 s'
                ),
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
