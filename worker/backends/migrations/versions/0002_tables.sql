-- The tables and functions of on-demand jobs. The migration beside this file runs each statement.
--
-- A job is what was asked for (worker_jobs), what is still to be done about it (worker_queue) or
-- what came of it (worker_outcomes). Of these only worker_queue is written to over and over. Its
-- rows are short, it holds unfinished jobs alone, and so a lease costs the same however many jobs
-- have ended. The others are written once and pruned.
--
-- The functions that workers call all day are functions because their plans are kept by the
-- server, behind a pooler too, and because a wrong guess of the planner about a table that was
-- empty a minute ago cannot lead them away from their indexes.
--
-- Who waits for whom: rows first, in the order of seq, then the locks of concurrency keys, in the
-- order of their numbers. Whoever has a key's lock waits for nothing more.

-- name: table_jobs
-- What was asked for. No row is ever updated.
CREATE TABLE worker_jobs (
    seq                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at         timestamptz NOT NULL,
    version            integer NOT NULL,
    concurrency_limit  integer NOT NULL,
    priority           smallint NOT NULL,
    id                 text COLLATE "C" NOT NULL UNIQUE,
    task               text COLLATE "C" NOT NULL,
    queue              text COLLATE "C" NOT NULL,
    params             text NOT NULL,
    options            text NOT NULL,
    headers            text NOT NULL,
    unique_key         text COLLATE "C",
    concurrency_key    text COLLATE "C"
);

-- name: index_jobs_created
-- The order in which jobs are listed.
CREATE INDEX worker_jobs_created ON worker_jobs (created_at DESC, id);

-- name: table_queue
-- The jobs that wait or run, each with its place in its queue. Rows come and go by the thousand:
-- vacuum looks after them early and unhurried by costs, and does not lock the table to shrink it.
CREATE TABLE worker_queue (
    seq                bigint PRIMARY KEY,
    ready_at           timestamptz NOT NULL,
    due_at             timestamptz,
    expires_at         timestamptz,
    started_at         timestamptz,
    token              bigint,
    deliveries         integer NOT NULL DEFAULT 0,
    losses             integer NOT NULL DEFAULT 0,
    attempts           integer NOT NULL DEFAULT 0,
    refusals           integer NOT NULL DEFAULT 0,
    concurrency_limit  integer NOT NULL,
    priority           smallint NOT NULL,
    cancel             boolean NOT NULL DEFAULT false,
    queue              text COLLATE "C" NOT NULL,
    state              text COLLATE "C" NOT NULL,
    concurrency_key    text COLLATE "C",
    worker             text,
    progress           text,
    error              text,
    -- What a worker in Python cannot read would fail every lease that it is part of.
    CONSTRAINT worker_queue_readable CHECK (
        ready_at BETWEEN '1970-01-01' AND '9999-01-01'
        AND due_at BETWEEN '1970-01-01' AND '9999-01-01'
        AND expires_at BETWEEN '1970-01-01' AND '9999-01-01'
    )
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000,
    vacuum_truncate = false
);

-- name: index_queue_ready
-- Serves leases, the recovery of lost ones, and the question when the next job is due.
CREATE INDEX worker_queue_ready ON worker_queue (queue, priority DESC, ready_at, seq);

-- name: index_queue_keyed
-- Who has a concurrency key, and who could have it.
CREATE INDEX worker_queue_keyed ON worker_queue (concurrency_key, ready_at)
WHERE concurrency_key IS NOT NULL AND due_at IS NULL;

-- name: index_queue_parked
-- Who waits for a concurrency key, the first in line first.
CREATE INDEX worker_queue_parked ON worker_queue (concurrency_key, priority DESC, due_at, seq)
WHERE due_at IS NOT NULL;

-- name: table_outcomes
-- What came of jobs. A row is written once, when its job leaves worker_queue.
CREATE TABLE worker_outcomes (
    seq           bigint PRIMARY KEY,
    ready_at      timestamptz NOT NULL,
    expires_at    timestamptz,
    started_at    timestamptz,
    finished_at   timestamptz,
    result_until  timestamptz,
    deliveries    integer NOT NULL,
    losses        integer NOT NULL,
    attempts      integer NOT NULL,
    refusals      integer NOT NULL,
    dead          boolean NOT NULL,
    cancel        boolean NOT NULL,
    state         text COLLATE "C" NOT NULL,
    worker        text,
    progress      text,
    result        text,
    error         text
);

-- name: index_outcomes_finished
-- The order in which jobs are pruned.
CREATE INDEX worker_outcomes_finished ON worker_outcomes (finished_at) WHERE NOT dead;

-- name: index_outcomes_dead
-- The dead letters.
CREATE INDEX worker_outcomes_dead ON worker_outcomes (seq) WHERE dead;

-- name: index_outcomes_unsuccessful
-- Those few that are looked for among the many.
CREATE INDEX worker_outcomes_unsuccessful ON worker_outcomes (state, seq) WHERE state <> 'SUCCESS';

-- name: table_uniques
-- The job that had a unique key last. Whether it still holds it is for its state to say.
CREATE TABLE worker_uniques (
    key     text COLLATE "C" PRIMARY KEY,
    job     text COLLATE "C" NOT NULL,
    states  text[] NOT NULL,
    until   timestamptz
);

-- name: table_rates
-- The theoretical arrival time of each rate, in microseconds since 1970.
CREATE TABLE worker_rates (
    key      text COLLATE "C" PRIMARY KEY,
    arrival  bigint NOT NULL,
    granted  integer NOT NULL
) WITH (fillfactor = 50);

-- name: table_watch
-- Whom to notify: until when somebody waits for jobs of a queue, or, as *, for ends of jobs.
-- While nobody does, nobody pays for a NOTIFY, which lets only one transaction commit at a time.
CREATE TABLE worker_watch (
    topic  text COLLATE "C" PRIMARY KEY,
    until  timestamptz NOT NULL
) WITH (fillfactor = 50);

-- name: table_tasks
-- The tasks that workers know, for whoever enqueues with SQL alone.
CREATE TABLE worker_tasks (
    name     text COLLATE "C" PRIMARY KEY,
    queue    text COLLATE "C" NOT NULL,
    version  integer NOT NULL
);

-- name: view_job_list
-- All that is recorded of jobs, for people and for workers.
CREATE VIEW worker_job_list AS
SELECT j.id, j.task, j.queue, q.state, j.params, j.version, j.priority, j.options, j.headers,
    j.created_at, coalesce(q.due_at, q.ready_at) AS ready_at, q.expires_at, q.started_at,
    NULL::timestamptz AS finished_at, NULL::timestamptz AS result_until, q.deliveries, q.losses,
    q.attempts, q.refusals, j.unique_key, j.concurrency_key, q.worker, q.progress,
    NULL::text AS result, q.error, false AS dead, q.cancel
FROM worker_queue q
JOIN worker_jobs j USING (seq)
UNION ALL
SELECT j.id, j.task, j.queue, o.state, j.params, j.version, j.priority, j.options, j.headers,
    j.created_at, o.ready_at, o.expires_at, o.started_at, o.finished_at, o.result_until,
    o.deliveries, o.losses, o.attempts, o.refusals, j.unique_key, j.concurrency_key, o.worker,
    o.progress, CASE WHEN o.result_until <= statement_timestamp() THEN NULL ELSE o.result END,
    o.error, o.dead, o.cancel
FROM worker_outcomes o
JOIN worker_jobs j USING (seq);
