"""Every metric that a living worker has beside those of its ledger, as it is declared.

Names and units follow https://prometheus.io/docs/practices/naming/. To add one: declare it here,
and feed it in `worker.ops.metrics` (what happens) or `worker.ops.figures` (how things stand).
"""

from __future__ import annotations

from worker.telemetry.exposition import LEDGER_FAMILIES, Family

__all__ = [
    "COUNTERS",
    "DURATIONS",
    "all_families",
]

BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)
"""Upper ends, in seconds, from 5 ms to an hour."""

RUNS = Family(
    "worker_runs_total",
    "counter",
    "Runs that ended, by what became of them; retry and pending are jobs that run again.",
    ("task", "trigger", "outcome"),
)
RUN_RETRIES = Family(
    "worker_run_retries_total",
    "counter",
    "Attempts that failed in a way that may pass, and are followed by another.",
    ("task", "reason"),
)
CALL_RETRIES = Family(
    "worker_call_retries_total",
    "counter",
    "Calls of the Data API that were repeated within a run.",
    ("call", "reason"),
)
HTTP_REQUESTS = Family(
    "worker_http_requests_total",
    "counter",
    "HTTP requests of runs by call of the contract, class of the answer's status (401 and 403 by "
    "themselves, none without an answer) and try of the call (1, 2, 3+; each attempt of a run "
    "counts anew).",
    ("call", "status", "attempt"),
)
LEASES_LOST = Family(
    "worker_job_leases_lost_total",
    "counter",
    "Jobs whose outcome could not be recorded, as their lease was lost; they run again.",
    ("task",),
)
TAKEN_OVER = Family(
    "worker_jobs_taken_over_total",
    "counter",
    "Jobs begun again after a worker died, or was silent too long, while it ran them.",
    ("task",),
)
LEDGER_LEASES_LOST = Family(
    "worker_ledger_leases_lost_total",
    "counter",
    "How often this replica was silent for longer than its lease: what it ran counts as lost.",
)
JOBS_DEAD = Family(
    "worker_jobs_dead_total", "counter", "Jobs that went to the dead letters.", ("task",)
)
JOBS_REFUSED = Family(
    "worker_jobs_refused_total",
    "counter",
    "Jobs put back because this worker does not know what they ask for.",
    ("queue",),
)
JOBS_UNRUN = Family(
    "worker_jobs_unrun_total",
    "counter",
    "Jobs that ended before they began: expired, or revoked.",
    ("task", "outcome"),
)
HOOK_FAILURES = Family(
    "worker_hook_failures_total", "counter", "Hooks of tasks that failed.", ("task",)
)
ABANDONED = Family(
    "worker_runs_abandoned_total",
    "counter",
    "Runs whose code was left behind when the worker had to exit.",
    ("task",),
)
COUNTERS = (
    RUNS,
    RUN_RETRIES,
    CALL_RETRIES,
    HTTP_REQUESTS,
    LEASES_LOST,
    TAKEN_OVER,
    LEDGER_LEASES_LOST,
    JOBS_DEAD,
    JOBS_REFUSED,
    JOBS_UNRUN,
    HOOK_FAILURES,
    ABANDONED,
)

RUN_SECONDS = Family(
    "worker_run_duration_seconds", "histogram", "How long runs took, retries included.", ("task",)
)
LATE_SECONDS = Family(
    "worker_run_lateness_seconds",
    "histogram",
    "How long after their slot scheduled runs began.",
    ("task",),
)
WAIT_SECONDS = Family(
    "worker_job_wait_seconds",
    "histogram",
    "How long jobs that could have been leased waited for their run to begin.",
    ("queue",),
)
HTTP_SECONDS = Family(
    "worker_http_request_duration_seconds",
    "histogram",
    "How long HTTP requests of runs took, until the answer was read.",
    ("call",),
)
LAG_SECONDS = Family(
    "worker_event_loop_lag_seconds",
    "histogram",
    "How late the event loop came to a timer of the watchdog, which is set about once a second.",
)
DURATIONS = (RUN_SECONDS, LATE_SECONDS, WAIT_SECONDS, HTTP_SECONDS, LAG_SECONDS)

INFO = Family("worker_build_info", "gauge", "1; its label says the version.", ("version",))
READY = Family("worker_ready", "gauge", "1 while /readyz says yes, else 0.")
STALLS = Family(
    "worker_event_loop_stalls_total",
    "counter",
    "How often the event loop stood still for longer than WORKER_STALL_AFTER.",
)
RUNNING = Family("worker_runs_in_progress", "gauge", "Runs that go on here.", ("task",))
STUCK = Family(
    "worker_runs_stuck",
    "gauge",
    "Runs that go on here although they were cancelled: their code does not end.",
    ("task",),
)
BEHIND = Family(
    "worker_scheduler_behind_seconds",
    "gauge",
    "For how long a slot that is due was not looked at; more than seconds is a dead scheduler.",
)
STORE_UP = Family(
    "worker_store_up",
    "gauge",
    "1 if the ledger could be read for this scrape and was last written without fail, else 0.",
)
QUEUE_UP = Family(
    "worker_queue_up",
    "gauge",
    "1 if the queues could be read for this scrape and were last written without fail, else 0.",
)
QUEUE_JOBS = Family(
    "worker_queue_jobs",
    "gauge",
    "Jobs that have not succeeded, by queue and state. Queues that are not configured here count as"
    " other.",
    ("queue", "state"),
)
QUEUE_AGE = Family(
    "worker_queue_oldest_age_seconds",
    "gauge",
    "For how long the job that waits longest could have been leased; 0 if none waits.",
    ("queue",),
)
DEAD_LETTERS = Family(
    "worker_dead_letters", "gauge", "Jobs that lie in the dead letters.", ("queue",)
)
STANDING = (
    INFO,
    READY,
    STALLS,
    RUNNING,
    STUCK,
    BEHIND,
    STORE_UP,
    QUEUE_UP,
    QUEUE_JOBS,
    QUEUE_AGE,
    DEAD_LETTERS,
)


def all_families() -> list[Family]:
    """Every metric of ``/metrics`` but those of the process (``process_…``, ``python_…``), by name.

    For reference pages.
    """
    return sorted([*COUNTERS, *DURATIONS, *STANDING, *LEDGER_FAMILIES])
