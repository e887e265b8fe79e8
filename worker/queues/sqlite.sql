-- The statements of the jobs in a SQLite file; worker/backends/sqlite_file.sql has their tables.
-- Moments are microseconds since 1970 in UTC. SQLite 3.33 knows all that is used here.
--
-- Many rows go in and come out as one JSON text. Each step of a statement lets go of Python's
-- interpreter, and on a busy loop getting it back takes milliseconds: so a batch is a few steps,
-- not some for each of its rows.

-- name: read_data_version
-- Another number than before if another connection has changed the file since.
PRAGMA data_version;

-- name: add_jobs
-- Takes in those jobs of a JSON list whose ids are not known yet. A job with a concurrency key
-- stands aside until there is room for it.
INSERT INTO jobs (
    id, task, queue, version, urgency, ready_at, expires_at, params, options, headers,
    unique_key, unique_states, unique_until, concurrency_key, concurrency_limit,
    created_at, state, stage
)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'),
    json_extract(value, '$[9]'), json_extract(value, '$[10]'), json_extract(value, '$[11]'),
    json_extract(value, '$[12]'), json_extract(value, '$[13]'), json_extract(value, '$[14]'),
    :now, 'PENDING', CASE
        WHEN json_extract(value, '$[5]') > :now THEN 1
        WHEN json_extract(value, '$[13]') IS NOT NULL THEN 3
        ELSE 0
    END
FROM json_each(:jobs) WHERE true
ON CONFLICT (id) DO NOTHING;

-- name: add_plain_jobs
-- The same for jobs without any key and delay, which most are.
INSERT INTO jobs (
    id, task, queue, version, urgency, expires_at, params, options, headers,
    ready_at, created_at, state, stage
)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'),
    :now, :now, 'PENDING', 0
FROM json_each(:jobs) WHERE true
ON CONFLICT (id) DO NOTHING;

-- name: list_last
-- The ids of those jobs that were taken in last.
SELECT json_group_array(id) FROM (SELECT id FROM jobs ORDER BY place DESC LIMIT :count);

-- name: list_known
-- Those ids of a JSON list that are known.
SELECT json_group_array(jobs.id)
FROM json_each(:ids) AS asked CROSS JOIN jobs ON jobs.id = asked.value;

-- name: list_holders
-- Which unique keys of a JSON list are held, and by which job: the last that was taken in with it,
-- if its state is one of those it named and its time is not over.
SELECT json_group_array(json_array(jobs.unique_key, jobs.id))
FROM json_each(:keys) AS asked CROSS JOIN jobs ON jobs.place = (
    SELECT max(place) FROM jobs INDEXED BY jobs_unique
    WHERE unique_key = asked.value AND unique_states IS NOT NULL
)
WHERE (jobs.unique_until IS NULL OR jobs.unique_until > :now)
    AND instr(jobs.unique_states, CASE jobs.state WHEN 'PROGRESS' THEN 'STARTED' ELSE jobs.state END);

-- name: look_at_queue
-- When something comes into a queue or a concurrency key by itself, and whether there is something
-- to lease now.
SELECT
    (
        SELECT min(ready_at) FROM jobs INDEXED BY jobs_later
        WHERE queue = :queue AND stage IN (1, 2)
    ),
    (
        SELECT min(ready_at) FROM jobs INDEXED BY jobs_keyed_leases
        WHERE concurrency_key IS NOT NULL AND stage = 2
    ),
    EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_ready WHERE queue = :queue AND stage = 0);

-- name: pick_jobs
-- The same moments, and the first jobs that are ready.
SELECT
    (
        SELECT min(ready_at) FROM jobs INDEXED BY jobs_later
        WHERE queue = :queue AND stage IN (1, 2)
    ),
    (
        SELECT min(ready_at) FROM jobs INDEXED BY jobs_keyed_leases
        WHERE concurrency_key IS NOT NULL AND stage = 2
    ),
    (
        SELECT json_group_array(json_array(
            place, id, task, params, version, urgency, options, headers, deliveries, losses,
            attempts, refusals, cancel, created_at, ready_at, expires_at,
            begun AND state IN ('STARTED', 'PROGRESS'), concurrency_key, concurrency_limit,
            history, started_at, worker
        ))
        FROM (
            SELECT * FROM jobs INDEXED BY jobs_ready
            WHERE queue = :queue AND stage = 0
            ORDER BY urgency, ready_at, place
            LIMIT :limit
        )
    );

-- name: list_due
-- Some of a queue's jobs whose delay has passed or whose lease has run out, and their keys.
SELECT json_group_array(place), json_group_array(DISTINCT concurrency_key)
FROM (
    SELECT place, concurrency_key FROM jobs INDEXED BY jobs_later
    WHERE queue = :queue AND stage IN (1, 2) AND ready_at <= :now
    ORDER BY ready_at
    LIMIT :limit
);

-- name: list_due_leases
-- Some of the leases of any queue that took up room in their keys and have run out.
SELECT json_group_array(place), json_group_array(DISTINCT concurrency_key)
FROM (
    SELECT place, concurrency_key FROM jobs INDEXED BY jobs_keyed_leases
    WHERE concurrency_key IS NOT NULL AND stage = 2 AND ready_at <= :now
    ORDER BY ready_at
    LIMIT :limit
);

-- name: make_ready
-- Has the jobs at these places be ready, or stand aside for their key.
UPDATE jobs SET stage = CASE WHEN concurrency_key IS NULL THEN 0 ELSE 3 END
WHERE place IN (SELECT value FROM json_each(:places));

-- name: hold_jobs
-- Leases the jobs at these places; those that are deferred have not begun yet. One that was leased
-- before has lost that lease, which counts if it had begun.
UPDATE jobs SET
    losses = losses + (begun AND state IN ('STARTED', 'PROGRESS')),
    begun = place NOT IN (SELECT value FROM json_each(:deferred)),
    deliveries = deliveries + 1,
    state = 'STARTED', stage = 2, ready_at = :until, started_at = :now, worker = :worker,
    progress = NULL
WHERE place IN (SELECT value FROM json_each(:places));

-- name: write_histories
-- What is kept of the attempts of each job of a JSON list.
UPDATE jobs SET history = json_extract(said.value, '$[1]')
FROM json_each(:jobs) AS said
WHERE jobs.place = json_extract(said.value, '$[0]');

-- name: pick_carried
-- Those jobs of a JSON list of ids that are ready and that another engine carries, as the slash in
-- their queues' names says.
SELECT json_group_array(json_array(
    jobs.place, jobs.id, jobs.task, jobs.params, jobs.version, jobs.urgency, jobs.options,
    jobs.headers, jobs.deliveries, jobs.losses, jobs.attempts, jobs.refusals, jobs.cancel,
    jobs.created_at, jobs.ready_at, jobs.expires_at,
    jobs.begun AND jobs.state IN ('STARTED', 'PROGRESS'),
    jobs.queue, jobs.history, jobs.started_at, jobs.worker
))
FROM json_each(:ids) AS asked CROSS JOIN jobs ON jobs.id = asked.value
WHERE instr(jobs.queue, '/') AND jobs.stage IS NOT NULL AND jobs.ready_at <= :now;

-- name: list_held
-- Which receipts of a JSON list are those of leases that are not lost.
SELECT json_group_array(json_array(
    said.key, jobs.place, jobs.cancel, jobs.stage, jobs.concurrency_key
))
FROM json_each(:receipts) AS said CROSS JOIN jobs ON jobs.place = json_extract(said.value, '$[0]')
WHERE jobs.deliveries = json_extract(said.value, '$[1]')
    AND jobs.created_at = json_extract(said.value, '$[2]')
    AND jobs.state IN ('STARTED', 'PROGRESS');

-- name: extend_leases
-- Has the leases at these places hold until a moment.
UPDATE jobs SET stage = 2, ready_at = :until
WHERE place IN (SELECT value FROM json_each(:places));

-- name: begin_jobs
-- The same, and the work on these jobs begins.
UPDATE jobs SET stage = 2, ready_at = :until, begun = 1
WHERE place IN (SELECT value FROM json_each(:places));

-- name: end_jobs
-- Gives each job of a JSON list its final state.
UPDATE jobs SET
    state = json_extract(said.value, '$[1]'),
    attempts = json_extract(said.value, '$[2]'),
    refusals = json_extract(said.value, '$[3]'),
    result = json_extract(said.value, '$[4]'),
    result_until = json_extract(said.value, '$[5]'),
    error = CASE
        WHEN json_extract(said.value, '$[1]') = 'SUCCESS' THEN json_extract(said.value, '$[6]')
        ELSE coalesce(json_extract(said.value, '$[6]'), jobs.error)
    END,
    dead = json_extract(said.value, '$[7]'),
    history = coalesce(json_extract(said.value, '$[8]'), jobs.history),
    stage = NULL, finished_at = :now
FROM json_each(:jobs) AS said
WHERE jobs.place = json_extract(said.value, '$[0]');

-- name: put_back_jobs
-- Puts each job of a JSON list back into its queue.
UPDATE jobs SET
    state = json_extract(said.value, '$[1]'),
    attempts = json_extract(said.value, '$[2]'),
    refusals = json_extract(said.value, '$[3]'),
    ready_at = json_extract(said.value, '$[4]'),
    error = coalesce(json_extract(said.value, '$[5]'), jobs.error),
    dead = json_extract(said.value, '$[6]'),
    history = coalesce(json_extract(said.value, '$[7]'), jobs.history),
    stage = CASE
        WHEN json_extract(said.value, '$[4]') > :now THEN 1
        WHEN jobs.concurrency_key IS NOT NULL THEN 3
        ELSE 0
    END,
    progress = NULL
FROM json_each(:jobs) AS said
WHERE jobs.place = json_extract(said.value, '$[0]');

-- name: undo_lease
-- Puts a job back to where it stood before it was leased.
UPDATE jobs SET
    state = CASE WHEN attempts THEN 'RETRY' ELSE 'PENDING' END,
    stage = CASE WHEN concurrency_key IS NULL THEN 0 ELSE 3 END,
    ready_at = :ready_at
WHERE place = :place;

-- name: list_waiting_keys
-- Those concurrency keys of a JSON list that jobs wait for.
SELECT json_group_array(asked.value)
FROM json_each(:keys) AS asked
WHERE EXISTS (
    SELECT 1 FROM jobs INDEXED BY jobs_keyed
    WHERE concurrency_key = asked.value AND concurrency_key IS NOT NULL AND stage IN (0, 3)
);

-- name: count_leases
-- How many leases take up room in a concurrency key.
SELECT count(*) FROM jobs INDEXED BY jobs_keyed_ready
WHERE concurrency_key = :key AND concurrency_key IS NOT NULL AND stage IN (0, 2) AND stage = 2;

-- name: next_lane
-- The next lane after a queue and a limit: the jobs of one key, one queue and one limit.
SELECT queue, concurrency_limit FROM jobs INDEXED BY jobs_keyed
WHERE concurrency_key = :key AND concurrency_key IS NOT NULL AND stage IN (0, 3)
    AND (queue, concurrency_limit) > (:queue, :limit)
ORDER BY queue, concurrency_limit
LIMIT 1;

-- name: list_first
-- The first jobs of a lane.
SELECT json_group_array(place)
FROM (
    SELECT place FROM jobs INDEXED BY jobs_keyed
    WHERE concurrency_key = :key AND concurrency_key IS NOT NULL AND stage IN (0, 3)
        AND queue = :queue AND concurrency_limit = :limit
    ORDER BY urgency, ready_at, place
    LIMIT :room
);

-- name: hold_back
-- Has the jobs of a lane stand aside that are ready and not among the first.
UPDATE jobs SET stage = 3
WHERE place IN (
    SELECT place FROM jobs INDEXED BY jobs_keyed_ready
    WHERE concurrency_key = :key AND concurrency_key IS NOT NULL AND stage IN (0, 2) AND stage = 0
        AND queue = :queue AND concurrency_limit = :limit
        AND place NOT IN (SELECT value FROM json_each(:first))
);

-- name: let_go
-- Has those of the first that stand aside be ready.
UPDATE jobs SET stage = 0
WHERE place IN (SELECT value FROM json_each(:first)) AND stage = 3;

-- name: read_rate
-- When the next start is due at a rate.
SELECT arrival FROM rates WHERE key = :key;

-- name: write_rate
-- When the next start is due from now on.
INSERT INTO rates (key, arrival) VALUES (:key, :arrival)
ON CONFLICT (key) DO UPDATE SET arrival = excluded.arrival;

-- name: read_jobs
-- The records of the ids in a JSON list, in the order of the list.
SELECT json_group_array(json_array(
    jobs.id, jobs.task, jobs.queue, jobs.state, jobs.params, jobs.version, jobs.urgency,
    jobs.options, jobs.headers, jobs.created_at, jobs.ready_at, jobs.expires_at, jobs.started_at,
    jobs.finished_at, jobs.result_until, jobs.deliveries, jobs.losses, jobs.attempts,
    jobs.refusals, jobs.unique_key, jobs.concurrency_key, jobs.worker, jobs.progress,
    CASE WHEN jobs.result_until <= :now THEN NULL ELSE jobs.result END,
    jobs.error, jobs.dead, jobs.cancel, jobs.history
))
FROM json_each(:ids) AS asked CROSS JOIN jobs ON jobs.id = asked.value;

-- name: list_ended
-- Those ids of a JSON list whose jobs have a final state, or are not there any more.
SELECT json_group_array(asked.value)
FROM json_each(:ids) AS asked
WHERE NOT EXISTS (
    SELECT 1 FROM jobs
    WHERE jobs.id = asked.value
        AND jobs.state NOT IN ('SUCCESS', 'FAILURE', 'REVOKED', 'EXPIRED')
);

-- name: find_jobs
-- The records that a query asks for, those created last first.
SELECT json_group_array(json_array(
    id, task, queue, state, params, version, urgency, options, headers, created_at, ready_at,
    expires_at, started_at, finished_at, result_until, deliveries, losses, attempts, refusals,
    unique_key, concurrency_key, worker, progress,
    CASE WHEN result_until <= :now THEN NULL ELSE result END, error, dead, cancel, NULL
))
FROM (
    SELECT * FROM jobs INDEXED BY jobs_created
    WHERE created_at >= :since AND created_at < :before
        AND (:task IS NULL OR task = :task)
        AND (:queue IS NULL OR queue = :queue)
        AND (:dead IS NULL OR dead = :dead)
        AND state IN (SELECT value FROM json_each(:states))
    ORDER BY created_at DESC, id
    LIMIT :limit
);

-- name: find_dead_jobs
-- The same for dead letters only, which are few among many.
SELECT json_group_array(json_array(
    id, task, queue, state, params, version, urgency, options, headers, created_at, ready_at,
    expires_at, started_at, finished_at, result_until, deliveries, losses, attempts, refusals,
    unique_key, concurrency_key, worker, progress,
    CASE WHEN result_until <= :now THEN NULL ELSE result END, error, dead, cancel, NULL
))
FROM (
    SELECT * FROM jobs INDEXED BY jobs_dead
    WHERE created_at >= :since AND created_at < :before
        AND (:task IS NULL OR task = :task)
        AND (:queue IS NULL OR queue = :queue)
        AND dead = 1
        AND state IN (SELECT value FROM json_each(:states))
    ORDER BY created_at DESC, id
    LIMIT :limit
);

-- name: find_running_jobs
-- The same for jobs that run, which are few among many: an index of each stage names them.
SELECT json_group_array(json_array(
    id, task, queue, state, params, version, urgency, options, headers, created_at, ready_at,
    expires_at, started_at, finished_at, result_until, deliveries, losses, attempts, refusals,
    unique_key, concurrency_key, worker, progress,
    CASE WHEN result_until <= :now THEN NULL ELSE result END, error, dead, cancel, NULL
))
FROM (
    SELECT * FROM jobs
    WHERE place IN (
            SELECT place FROM jobs INDEXED BY jobs_ready
            WHERE stage = 0 AND state IN ('STARTED', 'PROGRESS')
            UNION ALL
            SELECT place FROM jobs INDEXED BY jobs_later
            WHERE stage IN (1, 2) AND state IN ('STARTED', 'PROGRESS')
            UNION ALL
            SELECT place FROM jobs INDEXED BY jobs_keyed
            WHERE concurrency_key IS NOT NULL AND stage IN (0, 3) AND stage = 3
                AND state IN ('STARTED', 'PROGRESS')
        )
        AND created_at >= :since AND created_at < :before
        AND (:task IS NULL OR task = :task)
        AND (:queue IS NULL OR queue = :queue)
        AND (:dead IS NULL OR dead = :dead)
        AND state IN (SELECT value FROM json_each(:states))
    ORDER BY created_at DESC, id
    LIMIT :limit
);

-- name: count_jobs
-- How many jobs there are that have not succeeded, how many of them are dead, and since when the one
-- that waits longest could have been leased. It reads indexes only, one for each stage; of those that
-- have ended, it goes from group to group, and counts the few that failed.
WITH RECURSIVE ended (queue, task, state) AS (
    VALUES ('', '', '')
    UNION ALL
    SELECT jobs.queue, jobs.task, jobs.state
    FROM ended CROSS JOIN jobs ON jobs.place = (
        SELECT place FROM jobs AS next INDEXED BY jobs_ended
        WHERE next.stage IS NULL
            AND (next.queue, next.task, next.state, next.dead)
                > (ended.queue, ended.task, ended.state, 2)
        ORDER BY next.queue, next.task, next.state, next.dead
        LIMIT 1
    )
)
SELECT queue, task, state, sum(jobs), sum(dead), min(oldest)
FROM (
    SELECT queue, task, state, count(*) AS jobs, 0 AS dead, min(ready_at) AS oldest
    FROM jobs INDEXED BY jobs_ready
    WHERE stage = 0
    GROUP BY queue, task, state
    UNION ALL
    SELECT queue, task, state, count(*), 0, min(CASE WHEN ready_at <= :now THEN ready_at END)
    FROM jobs INDEXED BY jobs_later
    WHERE stage IN (1, 2)
    GROUP BY queue, task, state
    UNION ALL
    SELECT queue, task, state, count(*), 0, min(ready_at)
    FROM jobs INDEXED BY jobs_keyed
    WHERE concurrency_key IS NOT NULL AND stage IN (0, 3) AND stage = 3
    GROUP BY queue, task, state
    UNION ALL
    SELECT jobs.queue, jobs.task, jobs.state, count(*), sum(jobs.dead), NULL
    FROM ended CROSS JOIN jobs INDEXED BY jobs_ended
        ON jobs.queue = ended.queue AND jobs.task = ended.task AND jobs.state = ended.state
    WHERE jobs.stage IS NULL AND ended.state <> 'SUCCESS'
    GROUP BY jobs.queue, jobs.task, jobs.state
)
GROUP BY queue, task, state
ORDER BY queue, task, state;

-- name: count_ended
-- How many jobs of each queue have ended since a moment, dead letters aside. From group to group.
WITH RECURSIVE ended (queue, task, state) AS (
    VALUES ('', '', '')
    UNION ALL
    SELECT jobs.queue, jobs.task, jobs.state
    FROM ended CROSS JOIN jobs ON jobs.place = (
        SELECT place FROM jobs AS next INDEXED BY jobs_ended
        WHERE next.stage IS NULL
            AND (next.queue, next.task, next.state, next.dead)
                > (ended.queue, ended.task, ended.state, 2)
        ORDER BY next.queue, next.task, next.state, next.dead
        LIMIT 1
    )
)
SELECT jobs.queue, count(*)
FROM ended CROSS JOIN jobs INDEXED BY jobs_ended
    ON jobs.queue = ended.queue AND jobs.task = ended.task AND jobs.state = ended.state
WHERE jobs.stage IS NULL AND jobs.dead = 0 AND jobs.finished_at > :since
GROUP BY jobs.queue;

-- name: tell_progress
-- Records how far a job is whose lease is not lost.
UPDATE jobs SET state = 'PROGRESS', progress = :progress
WHERE place = :place AND deliveries = :deliveries AND created_at = :created_at
    AND state IN ('STARTED', 'PROGRESS');

-- name: list_cancelled
-- Those ids of a JSON list whose jobs were asked to end.
SELECT json_group_array(jobs.id)
FROM json_each(:ids) AS asked CROSS JOIN jobs ON jobs.id = asked.value
WHERE jobs.cancel = 1;

-- name: read_states
-- Where the jobs of a JSON list of ids stand.
SELECT json_group_array(json_array(
    jobs.id, jobs.place, jobs.state, jobs.queue, jobs.concurrency_key
))
FROM json_each(:ids) AS asked CROSS JOIN jobs ON jobs.id = asked.value;

-- name: revoke_jobs
-- Ends the jobs at these places before they were begun.
UPDATE jobs SET state = 'REVOKED', stage = NULL, finished_at = :now, cancel = 1
WHERE place IN (SELECT value FROM json_each(:places));

-- name: ask_to_end
-- Marks the jobs at these places for their workers.
UPDATE jobs SET cancel = 1 WHERE place IN (SELECT value FROM json_each(:places));

-- name: begin_anew
-- Puts the jobs at these places into their queues as if they had never been begun.
UPDATE jobs SET
    state = 'PENDING', stage = CASE WHEN concurrency_key IS NULL THEN 0 ELSE 3 END,
    ready_at = :now, attempts = 0, losses = 0, refusals = 0, dead = 0, cancel = 0,
    expires_at = NULL, finished_at = NULL, progress = NULL, result = NULL, result_until = NULL,
    error = NULL
WHERE place IN (SELECT value FROM json_each(:places));

-- name: drop_jobs
-- Forgets the jobs at these places.
DELETE FROM jobs WHERE place IN (SELECT value FROM json_each(:places));

-- name: next_group
-- The next group of jobs that ended, after a queue, a task and a state.
SELECT queue, task, state FROM jobs INDEXED BY jobs_ended
WHERE stage IS NULL AND (queue, task, state, dead) > (:queue, :task, :state, 2)
ORDER BY queue, task, state, dead
LIMIT 1;

-- name: prune_jobs
-- Forgets some jobs of a group that ended before a moment, the oldest first, but no dead letters.
DELETE FROM jobs WHERE place IN (
    SELECT place FROM jobs INDEXED BY jobs_ended
    WHERE stage IS NULL AND queue = :queue AND task = :task AND state = :state AND dead = 0
        AND finished_at < :before
    ORDER BY finished_at
    LIMIT :limit
);

-- name: prune_rates
-- Forgets the rates that would allow as much if they had never been used.
DELETE FROM rates WHERE arrival < :now;

-- name: publish_tasks
-- Records what each task of a JSON list declares, unless a newer version of it is recorded.
INSERT INTO tasks (name, version, declaration)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
FROM json_each(:tasks) WHERE true
ON CONFLICT (name) DO UPDATE SET version = excluded.version, declaration = excluded.declaration
WHERE tasks.version <= excluded.version;

-- name: read_declaration
-- What a task declares.
SELECT declaration FROM tasks WHERE name = :task;

-- name: apply_terms
-- Gives a leased job what its producer left to its task.
UPDATE jobs SET
    urgency = :urgency,
    options = :options,
    expires_at = coalesce(created_at + :expires, expires_at),
    unique_key = coalesce(:unique_key, unique_key),
    unique_states = coalesce(:unique_states, unique_states),
    unique_until = CASE
        WHEN :unique_key IS NULL THEN unique_until ELSE created_at + :unique_ttl
    END,
    concurrency_key = coalesce(:concurrency_key, concurrency_key),
    concurrency_limit = CASE
        WHEN :concurrency_key IS NULL THEN concurrency_limit ELSE :concurrency_limit
    END
WHERE place = :place;

-- name: leave_unique
-- Takes a unique key from jobs that do not hold it any more, so that an older job can hold it: the
-- holder is the job that came last.
UPDATE jobs SET unique_states = NULL
WHERE place IN (
    SELECT place FROM jobs INDEXED BY jobs_unique
    WHERE unique_key = :key AND unique_states IS NOT NULL AND place <> :place
);
