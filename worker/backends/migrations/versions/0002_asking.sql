-- Functions of those who ask: jobs are enqueued, cancelled and retried by hand.

-- name: function_enqueue_jobs
-- Take in all jobs but those whose id is known, or whose unique key another job holds.
-- `wishes` are the unique keys of the jobs, null if they have none. A row for each job that was
-- not taken in: its id, and the id of the one in its place.
--
-- Whoever wants a unique key locks its row first. Only then does the next statement look whether
-- its last job still holds it, and so sees what all before have done.
CREATE FUNCTION worker_enqueue_jobs(jobs json, wishes json)
RETURNS TABLE (asked text, there text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := statement_timestamp();
    fresh text[];
    taken bigint[];
    woken text[];
BEGIN
    IF wishes IS NOT NULL THEN
        WITH locked AS (
            INSERT INTO worker_uniques AS u (key, job, states, until)
            SELECT DISTINCT ON (w.key) w.key, w.job, w.states, moment + w.ttl * interval '1 s'
            FROM ROWS FROM (
                json_to_recordset(wishes) AS (key text, job text, states text[], ttl float8)
            ) WITH ORDINALITY AS w (key, job, states, ttl, place)
            WHERE NOT EXISTS (SELECT FROM worker_jobs j WHERE j.id = w.job)
            ORDER BY w.key, w.place
            ON CONFLICT (key) DO UPDATE SET key = u.key WHERE false
            RETURNING u.key
        )
        SELECT array_agg(key) INTO fresh FROM locked;
        UPDATE worker_uniques u
        SET job = w.job, states = w.states, until = moment + w.ttl * interval '1 s'
        FROM (
            SELECT DISTINCT ON (w.key) w.*
            FROM ROWS FROM (
                json_to_recordset(wishes) AS (key text, job text, states text[], ttl float8)
            ) WITH ORDINALITY AS w (key, job, states, ttl, place)
            WHERE NOT EXISTS (SELECT FROM worker_jobs j WHERE j.id = w.job)
            ORDER BY w.key, w.place
        ) AS w
        WHERE u.key = w.key
            AND (fresh IS NULL OR u.key <> ALL(fresh))
            AND NOT (
                (u.until IS NULL OR u.until > moment)
                AND EXISTS (
                    SELECT
                    FROM worker_jobs j
                    LEFT JOIN worker_queue q USING (seq)
                    LEFT JOIN worker_outcomes o USING (seq)
                    WHERE j.id = u.job
                        AND replace(coalesce(q.state, o.state), 'PROGRESS', 'STARTED')
                            = ANY(u.states)
                )
            );
    END IF;
    WITH new AS MATERIALIZED (
        SELECT n.*
        FROM ROWS FROM (
            json_to_recordset(jobs) AS (
                id text, task text, queue text, params text, version integer, priority smallint,
                delay float8, expires float8, options text, headers text, unique_key text,
                concurrency_key text, concurrency_limit integer
            )
        ) WITH ORDINALITY AS n (
            id, task, queue, params, version, priority, delay, expires, options, headers,
            unique_key, concurrency_key, concurrency_limit, place
        )
        WHERE wishes IS NULL OR n.unique_key IS NULL OR EXISTS (
            SELECT FROM worker_uniques u WHERE u.key = n.unique_key AND u.job = n.id
        )
    ),
    put AS (
        INSERT INTO worker_jobs (
            created_at, version, concurrency_limit, priority, id, task, queue, params, options,
            headers, unique_key, concurrency_key
        )
        SELECT moment, coalesce(n.version, 1), coalesce(n.concurrency_limit, 1),
            coalesce(n.priority, 0), n.id, n.task, n.queue, coalesce(n.params, '{}'),
            coalesce(n.options, '{}'), coalesce(n.headers, '{}'), n.unique_key, n.concurrency_key
        FROM new n
        ORDER BY n.place
        ON CONFLICT (id) DO NOTHING
        RETURNING worker_jobs.seq, worker_jobs.id, worker_jobs.priority,
            worker_jobs.concurrency_limit
    ),
    waiting AS (
        INSERT INTO worker_queue (
            seq, ready_at, expires_at, concurrency_limit, priority, queue, state, concurrency_key
        )
        SELECT p.seq, moment + coalesce(n.delay, 0) * interval '1 s',
            moment + n.expires * interval '1 s', p.concurrency_limit, p.priority, n.queue,
            'PENDING', n.concurrency_key
        FROM put p
        JOIN new n USING (id)
        RETURNING seq, queue, ready_at
    )
    SELECT array_agg(w.seq),
        array_agg(DISTINCT w.queue) FILTER (WHERE w.ready_at < moment + interval '2 s')
    INTO taken, woken
    FROM waiting w;
    IF woken IS NOT NULL THEN
        PERFORM worker_wake(woken);
    END IF;
    IF coalesce(cardinality(taken), 0) < json_array_length(jobs) THEN
        RETURN QUERY
        SELECT n.id, coalesce(j.id, u.job)
        FROM json_to_recordset(jobs) AS n (id text, unique_key text)
        LEFT JOIN worker_jobs j ON j.id = n.id
        LEFT JOIN worker_uniques u ON u.key = n.unique_key
        WHERE taken IS NULL OR j.seq IS NULL OR j.seq <> ALL(taken);
    END IF;
END
$$;

-- name: function_enqueue
-- For any language: SELECT worker_enqueue('send_invoice', '{"order_id": 7}'). The id of the job
-- that is there then: the new one, or the one that has the id or the unique key already.
CREATE FUNCTION worker_enqueue(
    task text, params jsonb DEFAULT '{}', id text DEFAULT NULL, queue text DEFAULT NULL,
    priority integer DEFAULT 0, delay interval DEFAULT '0', expires interval DEFAULT NULL,
    options jsonb DEFAULT '{}', headers jsonb DEFAULT '{}', unique_key text DEFAULT NULL,
    unique_for interval DEFAULT NULL,
    unique_states text[] DEFAULT '{PENDING,STARTED,RETRY}',
    concurrency_key text DEFAULT NULL, concurrency_limit integer DEFAULT 1
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    known worker_tasks%ROWTYPE;
    new_id text := coalesce(worker_enqueue.id, replace(gen_random_uuid()::text, '-', ''));
    new_queue text;
    wrong text;
    other text;
BEGIN
    SELECT * INTO known FROM worker_tasks t WHERE t.name = worker_enqueue.task;
    new_queue := coalesce(worker_enqueue.queue, known.queue, 'default');
    wrong := CASE
        WHEN task IS NULL OR task = '' OR length(task) > 200
            THEN 'task: expected a name of up to 200 characters'
        WHEN jsonb_typeof(params) IS DISTINCT FROM 'object'
            THEN 'params: expected a JSON object, got ' || coalesce(jsonb_typeof(params), 'null')
        WHEN octet_length(params::text) > 262144
            THEN 'params: expected up to 262144 bytes, got ' || octet_length(params::text)
        WHEN new_id !~ '^[A-Za-z0-9][A-Za-z0-9_.:@/+=-]{0,199}$'
            THEN 'id: expected up to 200 letters, digits and _.:@/+=-, beginning with a letter or '
                || 'a digit; got ' || length(new_id) || ' characters'
        WHEN new_queue !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$'
            THEN 'queue: expected up to 80 letters, digits and _.-, beginning with a letter or a '
                || 'digit'
        WHEN priority IS NULL OR priority NOT BETWEEN -100 AND 100
            THEN 'priority: expected -100 to 100'
        WHEN delay IS NULL OR delay < interval '0'
            THEN 'delay: expected an interval that is not negative'
        WHEN expires <= interval '0' THEN 'expires: expected an interval greater than zero'
        WHEN jsonb_typeof(options) IS DISTINCT FROM 'object'
            THEN 'options: expected a JSON object'
        WHEN jsonb_typeof(headers) IS DISTINCT FROM 'object'
            THEN 'headers: expected a JSON object'
        WHEN unique_states IS NULL OR NOT unique_states
                <@ '{PENDING,STARTED,RETRY,SUCCESS,FAILURE,REVOKED,EXPIRED}'::text[]
            THEN 'unique_states: expected some of PENDING, STARTED, RETRY, SUCCESS, FAILURE, '
                || 'REVOKED and EXPIRED'
        WHEN unique_for <= interval '0' THEN 'unique_for: expected an interval greater than zero'
        WHEN concurrency_limit IS NULL OR concurrency_limit < 1
            THEN 'concurrency_limit: expected 1 or more'
    END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'worker_enqueue: %', wrong USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF known.name IS NULL AND worker_enqueue.queue IS NULL THEN
        RAISE WARNING 'worker_enqueue: no worker has told of a task % yet, so the job waits in the '
            'queue "default"; expected queue => …, or a worker that knows the task', task;
    END IF;
    SELECT refused.there
    INTO other
    FROM worker_enqueue_jobs(
        json_build_array(json_build_object(
            'id', new_id, 'task', task, 'queue', new_queue, 'params', params::text,
            'version', known.version, 'priority', priority,
            'delay', extract(epoch FROM delay), 'expires', extract(epoch FROM expires),
            'options', options::text, 'headers', headers::text, 'unique_key', unique_key,
            'concurrency_key', concurrency_key, 'concurrency_limit', concurrency_limit
        )),
        CASE WHEN unique_key IS NOT NULL THEN json_build_array(json_build_object(
            'key', unique_key, 'job', new_id, 'states', unique_states,
            'ttl', extract(epoch FROM unique_for)
        )) END
    ) AS refused;
    RETURN coalesce(other, new_id);
END
$$;

-- name: function_cancel
-- Revoke those that wait, ask those that run to end. A row for each that is known.
CREATE FUNCTION worker_cancel(ids text[])
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
                refusals, dead, cancel, state, worker, progress, error
            )
            SELECT g.seq, coalesce(g.due_at, g.ready_at), g.expires_at, g.started_at, moment,
                g.deliveries, g.losses, g.attempts, g.refusals, false, true, 'REVOKED', g.worker,
                g.progress, g.error
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
-- Put jobs that failed, were revoked or expired back into their queues, as if they were new.
-- A row for each that is known.
CREATE FUNCTION worker_retry(ids text[])
RETURNS TABLE (id text, told text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    back bigint[];
BEGIN
    WITH gone AS (
        DELETE FROM worker_outcomes o
        USING worker_jobs j
        WHERE j.id = ANY(ids) AND o.seq = j.seq AND o.state <> 'SUCCESS'
        RETURNING o.seq, o.started_at, o.deliveries, o.worker, j.queue, j.priority,
            j.concurrency_key, j.concurrency_limit
    ),
    waits AS (
        INSERT INTO worker_queue (
            seq, ready_at, started_at, deliveries, concurrency_limit, priority, queue, state,
            concurrency_key, worker
        )
        SELECT g.seq, statement_timestamp(), g.started_at, g.deliveries, g.concurrency_limit,
            g.priority, g.queue, 'PENDING', g.concurrency_key, g.worker
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
