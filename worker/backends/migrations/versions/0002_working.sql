-- Functions of workers: leases, their outcomes, and who is told of what.
--
-- Who waits for whom: rows first, in the order of seq, then the locks of concurrency keys, in the
-- order of their numbers. Whoever has a key's lock waits for nothing more.

-- name: function_listen
-- Have the session hear what worker_wake and worker_tell_ended tell. The number of a table names
-- the channels, which are common to all schemas.
CREATE FUNCTION worker_listen() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LISTEN %I', 'worker_ready_' || 'worker_queue'::regclass::oid);
    EXECUTE format('LISTEN %I', 'worker_ended_' || 'worker_queue'::regclass::oid);
END
$$;

-- name: function_wake
-- Tell those who wait for jobs of these queues that there are some. One NOTIFY, or none.
CREATE FUNCTION worker_wake(queues text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    told text := (
        SELECT string_agg(w.topic, ' ')
        FROM worker_watch w
        WHERE w.topic = ANY(queues) AND w.until > statement_timestamp()
    );
BEGIN
    IF told IS NOT NULL THEN
        PERFORM pg_notify(
            'worker_ready_' || 'worker_queue'::regclass::oid,
            CASE WHEN octet_length(told) < 7900 THEN told ELSE '' END
        );
    END IF;
END
$$;

-- name: function_tell_ended
-- Tell those who wait for ends that these jobs have ended. One NOTIFY, or none.
CREATE FUNCTION worker_tell_ended(seqs bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    told text;
BEGIN
    IF EXISTS (
        SELECT FROM worker_watch w WHERE w.topic = '*' AND w.until > statement_timestamp()
    ) THEN
        SELECT string_agg(j.id, ' ') INTO told FROM worker_jobs j WHERE j.seq = ANY(seqs);
        PERFORM pg_notify(
            'worker_ended_' || 'worker_queue'::regclass::oid,
            CASE WHEN octet_length(told) < 7900 THEN told ELSE '' END
        );
    END IF;
END
$$;

-- name: function_lock_keys
-- Have nobody else lease or release jobs of these concurrency keys until the transaction ends.
CREATE FUNCTION worker_lock_keys(keys text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(lock.number)
    FROM (
        SELECT DISTINCT hashtextextended(k.key, 'worker_queue'::regclass::oid::bigint) AS number
        FROM unnest(keys) AS k (key)
        ORDER BY number
        OFFSET 0
    ) AS lock;
END
$$;

-- name: function_release_keys
-- Let others go on with concurrency keys that jobs gave back; a key stands there once a job.
CREATE FUNCTION worker_release_keys(keys text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    woken text[];
BEGIN
    PERFORM worker_lock_keys(keys);
    WITH freed AS (
        SELECT k.key, count(*) AS jobs FROM unnest(keys) AS k (key) GROUP BY k.key
    ),
    next AS MATERIALIZED (
        SELECT n.seq
        FROM freed f
        CROSS JOIN LATERAL (
            SELECT q.seq
            FROM worker_queue q
            WHERE q.concurrency_key = f.key AND q.due_at IS NOT NULL
            ORDER BY q.priority DESC, q.due_at, q.seq
            LIMIT f.jobs
            FOR UPDATE SKIP LOCKED
        ) AS n
    ),
    back AS (
        UPDATE worker_queue q SET ready_at = q.due_at, due_at = NULL
        FROM next n
        WHERE q.seq = n.seq
        RETURNING q.queue
    )
    SELECT array_agg(DISTINCT b.queue) INTO woken FROM back b;
    IF woken IS NOT NULL THEN
        PERFORM worker_wake(woken);
    END IF;
END
$$;

-- name: function_watch
-- Have others notify whoever waits for a topic. Whether nobody had said so before: then a
-- notification can be missed by a statement that runs at this moment.
CREATE FUNCTION worker_watch_for(asked text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := statement_timestamp();
    known timestamptz := (SELECT w.until FROM worker_watch w WHERE w.topic = asked);
BEGIN
    IF known IS NULL OR known < moment + interval '10 s' THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO worker_watch AS w (topic, until)
        VALUES (asked, moment + interval '15 s')
        ON CONFLICT (topic) DO UPDATE SET until = EXCLUDED.until
        WHERE w.until < EXCLUDED.until;
    END IF;
    RETURN known IS NULL OR known <= moment;
END
$$;

-- name: function_survey
-- Which priorities there are in a queue, the greatest first, and when the first job of each is
-- or was ready; the moment of the answer; what worker_watch_for says, if it was asked.
CREATE FUNCTION worker_survey(asked_queue text, watching boolean)
RETURNS TABLE (levels smallint[], firsts timestamptz[], moment timestamptz, fresh boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    moment := statement_timestamp();
    fresh := watching AND worker_watch_for(asked_queue);
    WITH RECURSIVE level AS (
        (
            SELECT q.priority, q.ready_at
            FROM worker_queue q
            WHERE q.queue = asked_queue
            ORDER BY q.priority DESC, q.ready_at
            LIMIT 1
        )
        UNION ALL
        SELECT next.priority, next.ready_at
        FROM level l
        CROSS JOIN LATERAL (
            SELECT q.priority, q.ready_at
            FROM worker_queue q
            WHERE q.queue = asked_queue AND q.priority < l.priority
            ORDER BY q.priority DESC, q.ready_at
            LIMIT 1
        ) AS next
    )
    SELECT coalesce(array_agg(l.priority), '{}'), coalesce(array_agg(l.ready_at), '{}')
    INTO levels, firsts
    FROM level l;
    RETURN NEXT;
END
$$;

-- name: function_admit
-- Of jobs that are about to be leased, those whose concurrency keys have room. The others are
-- parked until the first lease of their key ends, and with them all that cannot go on either, so
-- that nobody steps over them again and again.
CREATE FUNCTION worker_admit(seqs bigint[], moment timestamptz, ttl interval)
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
    SELECT coalesce(array_agg(line.seq), '{}')
    INTO admitted
    FROM (
        SELECT q.seq, q.concurrency_limit - u.jobs AS room,
            row_number() OVER (
                PARTITION BY q.concurrency_key
                ORDER BY q.priority DESC, coalesce(q.due_at, q.ready_at), q.seq
            ) AS number
        FROM worker_queue q
        LEFT JOIN unnest(keys, used) AS u (key, jobs) ON u.key = q.concurrency_key
        WHERE q.seq = ANY(seqs)
    ) AS line
    WHERE line.room IS NULL OR line.number <= line.room;
    IF cardinality(admitted) = cardinality(seqs) THEN
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
        WHERE q.seq = ANY(seqs) AND q.seq <> ALL(admitted)
        UNION ALL
        SELECT others.seq, c.until
        FROM crowd c
        CROSS JOIN LATERAL (
            SELECT q.seq
            FROM worker_queue q
            WHERE q.concurrency_key = c.key AND q.due_at IS NULL AND q.ready_at <= moment
                AND q.concurrency_limit <= c.jobs AND q.seq <> ALL(seqs)
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
-- A lease that a crash of the server forgets is leased again, so its commit need not be flushed.
CREATE FUNCTION worker_lease(
    asked_queue text, most integer, ttl interval, by_worker text, new_token bigint,
    levels smallint[], floors timestamptz[]
)
RETURNS TABLE (
    id text, task text, queue text, receipt text, params text, version integer, priority smallint,
    options text, headers text, deliveries integer, losses integer, attempts integer,
    refusals integer, cancel boolean, created_at timestamptz, due_at timestamptz,
    expires_at timestamptz
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
            deliveries = q.deliveries + 1, losses = q.losses + (q.token IS NOT NULL)::integer
        FROM unnest(seqs, dues) WITH ORDINALITY AS p (seq, due, place), worker_jobs j
        WHERE q.seq = p.seq AND j.seq = p.seq
        RETURNING j.id, j.task, j.queue, q.seq || '.' || new_token AS receipt, j.params,
            j.version, j.priority, j.options, j.headers, q.deliveries, q.losses, q.attempts,
            q.refusals, q.cancel, j.created_at, p.due, q.expires_at, p.place
    )
    SELECT l.id, l.task, l.queue, l.receipt, l.params, l.version, l.priority, l.options, l.headers,
        l.deliveries, l.losses, l.attempts, l.refusals, l.cancel, l.created_at, l.due, l.expires_at
    FROM leased l
    ORDER BY l.place;
END
$$;

-- name: function_settle
-- Record what came of leased jobs: of those in `ended`, which is final, and of those in `back`,
-- which wait again. The places of those whose lease was lost.
CREATE FUNCTION worker_settle(ended json, back json) RETURNS integer[] LANGUAGE plpgsql AS $$
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
                refusals integer, result text, keep float8, error text, dead boolean
            )
        ),
        gone AS (
            DELETE FROM worker_queue q USING said s
            WHERE q.seq = s.seq AND q.token = s.token
            RETURNING q.seq, q.ready_at, q.expires_at, q.started_at, q.deliveries, q.losses,
                q.cancel, q.worker, q.progress, q.concurrency_key, s.place, s.state, s.attempts,
                s.refusals, s.result, s.keep, s.error, s.dead
        ),
        put AS (
            INSERT INTO worker_outcomes (
                seq, ready_at, expires_at, started_at, finished_at, result_until, deliveries,
                losses, attempts, refusals, dead, cancel, state, worker, progress, result, error
            )
            SELECT g.seq, g.ready_at, g.expires_at, g.started_at, moment,
                moment + g.keep * interval '1 s', g.deliveries, g.losses, g.attempts,
                coalesce(g.refusals, 0), coalesce(g.dead, false), g.cancel, g.state, g.worker,
                g.progress, g.result, g.error
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
                refusals integer, delay float8, error text
            )
        ),
        waits AS (
            UPDATE worker_queue q
            SET token = NULL, state = s.state,
                ready_at = moment
                    + CASE WHEN q.cancel THEN 0 ELSE s.delay END * interval '1 s',
                due_at = NULL, attempts = s.attempts, refusals = coalesce(s.refusals, 0),
                error = s.error, progress = NULL
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
