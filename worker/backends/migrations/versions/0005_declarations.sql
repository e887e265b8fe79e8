-- Tasks publish what they declare about their jobs; a producer by SQL applies it.
-- The migration beside this file runs each statement.

-- name: column_declaration
-- What each task declares, as JSON (worker.jobs.declaration); null of a worker of the schema before.
ALTER TABLE worker_tasks ADD COLUMN declaration text;

-- name: drop_enqueue
-- It takes other defaults from now on.
DROP FUNCTION worker_enqueue(
    text, jsonb, text, text, integer, interval, interval, jsonb, jsonb, text, interval, text[],
    text, integer
);

-- name: drop_enqueue_jobs
-- It returns one column more from now on.
DROP FUNCTION worker_enqueue_jobs(json, json);

-- name: function_canonical
-- The canonical text of a value for a key, the same that worker.jobs.keys writes. Null where only
-- the task's code can tell.
CREATE FUNCTION worker_canonical(kind jsonb, value jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    said text := value #>> '{}';
    form text := jsonb_typeof(value);
    simple text;
BEGIN
    IF jsonb_typeof(kind) = 'object' AND jsonb_exists(kind, 'optional') THEN
        IF form = 'null' THEN
            RETURN 'n';
        END IF;
        RETURN worker_canonical(kind->'optional', value);
    END IF;
    IF jsonb_typeof(kind) IS DISTINCT FROM 'string' OR length(said) > 10000 THEN
        RETURN NULL;
    END IF;
    simple := kind #>> '{}';
    RETURN CASE
        WHEN simple = 'str' AND form = 'string' THEN 's' || length(said) || ':' || said
        WHEN simple = 'bool' AND form = 'boolean' THEN CASE WHEN said = 'true' THEN 'b1;' ELSE 'b0;' END
        WHEN simple = 'uuid' AND form = 'string' AND said ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'
            THEN 'u' || lower(replace(said, '-', ''))
        WHEN form = 'number' AND length(said) > 300 THEN NULL
        WHEN simple = 'int' AND form = 'number' AND said::numeric = trunc(said::numeric)
            THEN 'i' || trim_scale(said::numeric) || ';'
        WHEN simple = 'decimal' AND (form = 'number' OR form = 'string' AND said ~ '^-?[0-9]+(\.[0-9]+)?$' AND length(said) <= 300)
            THEN 'i' || trim_scale(said::numeric) || ';'
        WHEN simple = 'float' AND form = 'number'
            THEN 'i' || trim_scale((said::float8)::text::numeric) || ';'
    END;
END
$$;

-- name: function_key
-- The key of a job with these parameters. Null if only the task's code can tell.
CREATE FUNCTION worker_key(declaration jsonb, keyed jsonb, params jsonb) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    field text;
    part text;
    fields integer := 0;
    whole text := '';
BEGIN
    IF jsonb_typeof(keyed->'by') = 'null' THEN
        RETURN keyed->>'name';
    END IF;
    IF EXISTS (
        SELECT FROM jsonb_object_keys(params) AS f (name)
        WHERE NOT jsonb_exists(declaration->'kinds', f.name)
    ) THEN
        RETURN NULL;
    END IF;
    FOR field IN SELECT jsonb_array_elements_text(keyed->'by') LOOP
        part := CASE WHEN jsonb_exists(params, field)
            THEN worker_canonical(declaration->'kinds'->field, params->field)
            ELSE declaration->'defaults'->>field
        END;
        IF part IS NULL THEN
            RETURN NULL;
        END IF;
        fields := fields + 1;
        whole := whole || 's' || length(field) || ':' || field || part;
    END LOOP;
    whole := 'd' || fields || ':' || whole;
    RETURN (keyed->>'name') || ':'
        || left(encode(sha256(convert_to(whole, 'UTF8')), 'hex'), 32);
END
$$;

-- name: function_same_params
-- Whether recorded parameters are the same as others: equal as JSON, or each field of equal
-- canonical text, declared defaults included.
CREATE FUNCTION worker_same_params(declaration jsonb, recorded text, params jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    found jsonb;
BEGIN
    IF recorded = params::text THEN
        RETURN true;
    END IF;
    BEGIN
        found := recorded::jsonb;
    EXCEPTION WHEN data_exception THEN
        RETURN false;
    END;
    RETURN found = params OR declaration IS NOT NULL AND jsonb_typeof(found) = 'object' AND NOT EXISTS (
        SELECT
        FROM (
            SELECT jsonb_object_keys(found) AS field
            UNION SELECT jsonb_object_keys(params)
        ) AS f
        WHERE found->f.field IS DISTINCT FROM params->f.field
            AND coalesce(
                CASE WHEN jsonb_exists(found, f.field)
                    THEN worker_canonical(declaration->'kinds'->f.field, found->f.field)
                    ELSE declaration->'defaults'->>f.field
                END <> CASE WHEN jsonb_exists(params, f.field)
                    THEN worker_canonical(declaration->'kinds'->f.field, params->f.field)
                    ELSE declaration->'defaults'->>f.field
                END,
                true
            )
    );
END
$$;

-- name: function_apply_terms
-- Give a leased job what its producer left to its task: keys, expiry, priority. The job that holds
-- the unique key, if another one does; then nothing is changed. An empty text if the lease was lost.
CREATE FUNCTION worker_apply_terms(
    place bigint, receipt bigint, new_priority integer, new_options text, expires float8,
    unique_key text, unique_states text[], unique_ttl float8, new_concurrency_key text,
    new_limit integer
) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := statement_timestamp();
    job_id text;
    holder text;
BEGIN
    PERFORM FROM worker_queue q WHERE q.seq = place AND q.token = receipt FOR UPDATE;
    IF NOT FOUND THEN
        RETURN '';
    END IF;
    SELECT j.id INTO job_id FROM worker_jobs j WHERE j.seq = place;
    IF worker_apply_terms.unique_key IS NOT NULL THEN
        INSERT INTO worker_uniques AS u (key, job, states, until)
        VALUES (worker_apply_terms.unique_key, job_id, '{}', NULL)
        ON CONFLICT (key) DO UPDATE SET key = u.key WHERE false;
        PERFORM FROM worker_uniques u WHERE u.key = worker_apply_terms.unique_key FOR UPDATE;
        SELECT u.job INTO holder
        FROM worker_uniques u
        JOIN worker_jobs j ON j.id = u.job
        LEFT JOIN worker_queue q USING (seq)
        LEFT JOIN worker_outcomes o USING (seq)
        WHERE u.key = worker_apply_terms.unique_key AND u.job <> job_id
            AND (u.until IS NULL OR u.until > moment)
            AND replace(coalesce(q.state, o.state), 'PROGRESS', 'STARTED') = ANY(u.states);
        IF holder IS NOT NULL THEN
            RETURN holder;
        END IF;
        UPDATE worker_uniques u
        SET job = job_id, states = worker_apply_terms.unique_states,
            until = (SELECT j.created_at FROM worker_jobs j WHERE j.seq = place)
                + worker_apply_terms.unique_ttl * interval '1 s'
        WHERE u.key = worker_apply_terms.unique_key;
    END IF;
    UPDATE worker_jobs j
    SET priority = new_priority, options = new_options,
        unique_key = coalesce(worker_apply_terms.unique_key, j.unique_key),
        concurrency_key = coalesce(new_concurrency_key, j.concurrency_key),
        concurrency_limit = CASE
            WHEN new_concurrency_key IS NULL THEN j.concurrency_limit ELSE new_limit
        END
    WHERE j.seq = place;
    UPDATE worker_queue q
    SET priority = new_priority,
        expires_at = coalesce(j.created_at + expires * interval '1 s', q.expires_at),
        concurrency_key = coalesce(new_concurrency_key, q.concurrency_key),
        concurrency_limit = CASE
            WHEN new_concurrency_key IS NULL THEN q.concurrency_limit ELSE new_limit
        END
    FROM worker_jobs j
    WHERE q.seq = place AND j.seq = place;
    RETURN NULL;
END
$$;

-- name: function_enqueue_jobs
-- Take in all jobs but those whose id is known, or whose unique key another job holds.
-- `wishes` are the unique keys of the jobs, null if they have none. A row for each job that was
-- not taken in: its id, the id of the one in its place, and what is recorded of that one if it has
-- the same id, as JSON.
--
-- Locks are taken in one order by all: unique keys by their text, then ids by theirs. So rows are
-- inserted in the order of their ids, and it is their moments, a microsecond apart, that keep the
-- order in which they were given.
--
-- Whoever wants a unique key locks its row first. Only then does the next statement look whether
-- its last job still holds it, and so sees what all before have done.
CREATE FUNCTION worker_enqueue_jobs(jobs json, wishes json)
RETURNS TABLE (asked text, there text, existing text) LANGUAGE plpgsql AS $$
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
        ORDER BY n.id
        ON CONFLICT (id) DO NOTHING
        RETURNING worker_jobs.seq, worker_jobs.id, worker_jobs.priority,
            worker_jobs.concurrency_limit
    ),
    waiting AS (
        INSERT INTO worker_queue (
            seq, ready_at, expires_at, concurrency_limit, priority, queue, state, concurrency_key
        )
        SELECT p.seq, moment + coalesce(n.delay, 0) * interval '1 s'
                + (n.place - 1) * interval '1 microsecond',
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
        SELECT n.id, coalesce(j.id, u.job), CASE WHEN j.id IS NOT NULL THEN json_build_object(
            'task', j.task, 'queue', j.queue, 'params', j.params, 'priority', j.priority,
            'options', j.options, 'state', coalesce(q.state, o.state),
            'cancel', coalesce(q.cancel, o.cancel),
            'started', coalesce(q.deliveries, o.deliveries) > 0,
            'delay', extract(epoch FROM coalesce(q.due_at, q.ready_at, o.ready_at) - j.created_at),
            'expires', extract(epoch FROM coalesce(q.expires_at, o.expires_at) - j.created_at),
            'unique_key', j.unique_key, 'concurrency_key', j.concurrency_key,
            'created_at', extract(epoch FROM j.created_at)
        )::text END
        FROM json_to_recordset(jobs) AS n (id text, unique_key text)
        LEFT JOIN worker_jobs j ON j.id = n.id
        LEFT JOIN worker_queue q USING (seq)
        LEFT JOIN worker_outcomes o USING (seq)
        LEFT JOIN worker_uniques u ON u.key = n.unique_key
        WHERE taken IS NULL OR j.seq IS NULL OR j.seq <> ALL(taken);
    END IF;
END
$$;

-- name: function_enqueue
-- For any language: SELECT worker_enqueue('send_invoice', '{"order_id": 7}'). The id of the job
-- that is there then: the new one, the one that holds the unique key, or the one that has the same
-- id, task and parameters. An id of another job, or of one that was cancelled, is refused.
--
-- What is not stated is as the task declares it, once a worker has published its declaration. What
-- of that only the task's code can tell, or all of it before, is left to the worker that leases the
-- job. An empty text as a key means none.
CREATE FUNCTION worker_enqueue(
    task text, params jsonb DEFAULT '{}', id text DEFAULT NULL, queue text DEFAULT NULL,
    priority integer DEFAULT NULL, delay interval DEFAULT '0', expires interval DEFAULT NULL,
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
    declared jsonb;
    open_options text[] := '{}';
    job_options jsonb := worker_enqueue.options;
    job_unique text := nullif(worker_enqueue.unique_key, '');
    job_unique_for interval := worker_enqueue.unique_for;
    job_states text[] := worker_enqueue.unique_states;
    job_concurrency text := nullif(worker_enqueue.concurrency_key, '');
    job_limit integer := worker_enqueue.concurrency_limit;
    job_expires interval := worker_enqueue.expires;
    other record;
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
        WHEN priority NOT BETWEEN -100 AND 100
            THEN 'priority: expected -100 to 100'
        WHEN delay IS NULL OR delay < interval '0'
            THEN 'delay: expected an interval that is not negative'
        WHEN extract(epoch FROM delay) > 366 * 86400
            THEN 'delay: expected up to 366 days, got ' || delay
        WHEN expires <= interval '0' THEN 'expires: expected an interval greater than zero'
        WHEN extract(epoch FROM expires) > 366 * 86400
            THEN 'expires: expected up to 366 days, got ' || expires
        WHEN jsonb_typeof(options) IS DISTINCT FROM 'object'
            THEN 'options: expected a JSON object'
        WHEN jsonb_typeof(headers) IS DISTINCT FROM 'object'
            THEN 'headers: expected a JSON object'
        WHEN unique_states IS NULL OR NOT unique_states
                <@ '{PENDING,STARTED,RETRY,SUCCESS,FAILURE,REVOKED,EXPIRED}'::text[]
            THEN 'unique_states: expected some of PENDING, STARTED, RETRY, SUCCESS, FAILURE, '
                || 'REVOKED and EXPIRED'
        WHEN unique_for <= interval '0' THEN 'unique_for: expected an interval greater than zero'
        WHEN extract(epoch FROM unique_for) > 366 * 86400
            THEN 'unique_for: expected up to 366 days, got ' || unique_for
        WHEN length(unique_key) > 500
            THEN 'unique_key: expected up to 500 characters, got ' || length(unique_key)
        WHEN length(concurrency_key) > 500
            THEN 'concurrency_key: expected up to 500 characters, got ' || length(concurrency_key)
        WHEN concurrency_limit IS NULL OR concurrency_limit < 1
            THEN 'concurrency_limit: expected 1 or more'
    END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'worker_enqueue: %', wrong USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF known.name IS NULL THEN
        RAISE WARNING 'worker_enqueue: no worker has published a task % yet, so the job waits in the '
            'queue "%" until one does; expected a worker that knows the task', task, new_queue;
    END IF;
    declared := known.declaration::jsonb;
    IF worker_enqueue.unique_key IS NULL THEN
        IF declared IS NULL THEN
            open_options := open_options || 'unique'::text;
        ELSIF jsonb_typeof(declared->'unique') = 'object' THEN
            job_unique := worker_key(declared, declared->'unique', params);
            job_unique_for := coalesce(
                job_unique_for, (declared->'unique'->>'ttl')::float8 * interval '1 s'
            );
            job_states := ARRAY(SELECT jsonb_array_elements_text(declared->'unique'->'states'));
            IF job_unique IS NULL THEN
                open_options := open_options || 'unique'::text;
            END IF;
        END IF;
    END IF;
    IF worker_enqueue.concurrency_key IS NULL THEN
        IF declared IS NULL THEN
            open_options := open_options || 'concurrency'::text;
        ELSIF jsonb_typeof(declared->'concurrency') = 'object' THEN
            job_concurrency := worker_key(declared, declared->'concurrency', params);
            job_limit := (declared->'concurrency'->>'limit')::integer;
            IF job_concurrency IS NULL THEN
                open_options := open_options || 'concurrency'::text;
            END IF;
        END IF;
    END IF;
    IF worker_enqueue.expires IS NULL THEN
        IF declared IS NULL THEN
            open_options := open_options || 'expires'::text;
        ELSE
            job_expires := (declared->>'expires')::float8 * interval '1 s';
        END IF;
    END IF;
    IF worker_enqueue.priority IS NULL AND declared IS NULL THEN
        open_options := open_options || 'priority'::text;
    END IF;
    IF cardinality(open_options) > 0 THEN
        job_options := job_options || jsonb_build_object('from_task', open_options);
    END IF;
    SELECT refused.there, refused.existing::json AS existing
    INTO other
    FROM worker_enqueue_jobs(
        json_build_array(json_build_object(
            'id', new_id, 'task', task, 'queue', new_queue, 'params', params::text,
            'version', known.version,
            'priority', coalesce(worker_enqueue.priority, (declared->>'priority')::integer, 0),
            'delay', extract(epoch FROM delay), 'expires', extract(epoch FROM job_expires),
            'options', job_options::text, 'headers', headers::text, 'unique_key', job_unique,
            'concurrency_key', job_concurrency, 'concurrency_limit', job_limit
        )),
        CASE WHEN job_unique IS NOT NULL THEN json_build_array(json_build_object(
            'key', job_unique, 'job', new_id, 'states', job_states,
            'ttl', extract(epoch FROM job_unique_for)
        )) END
    ) AS refused;
    IF other.existing IS NOT NULL THEN
        wrong := CASE
            WHEN other.existing->>'task' <> task
                THEN 'it is of the task ' || (other.existing->>'task')
            WHEN NOT worker_same_params(declared, other.existing->>'params', params)
                THEN 'it has other parameters'
            WHEN worker_enqueue.queue <> other.existing->>'queue'
                THEN 'it is in the queue ' || (other.existing->>'queue')
            WHEN worker_enqueue.priority <> (other.existing->>'priority')::integer
                THEN 'its priority is ' || (other.existing->>'priority')
            WHEN NOT (other.existing->>'options')::jsonb @> worker_enqueue.options
                THEN 'it has other options'
            WHEN job_unique IS DISTINCT FROM other.existing->>'unique_key'
                    AND nullif(worker_enqueue.unique_key, '') IS NOT NULL
                THEN 'it has another unique key'
            WHEN job_concurrency IS DISTINCT FROM other.existing->>'concurrency_key'
                    AND nullif(worker_enqueue.concurrency_key, '') IS NOT NULL
                THEN 'it has another concurrency key'
            WHEN other.existing->>'state' IN ('REVOKED', 'EXPIRED')
                THEN 'it is ' || (other.existing->>'state') || ' and does not run by itself'
            WHEN (other.existing->>'cancel')::boolean
                AND other.existing->>'state' NOT IN ('SUCCESS', 'FAILURE')
                THEN 'its cancellation was requested'
        END;
        IF wrong IS NOT NULL THEN
            RAISE EXCEPTION 'worker_enqueue: job % exists already: %; nothing was enqueued: '
                'expected another id, or worker_retry for this job', new_id, wrong
                USING ERRCODE = 'unique_violation';
        END IF;
    END IF;
    RETURN coalesce(other.there, new_id);
END
$$;
