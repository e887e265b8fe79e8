"""sidecar-worker: the asyncio worker that a service team deploys beside its Data API.

A task of your own imports only this module::

    from worker import BaseTask, Scheduler

Its names are loaded when they are first used, so that a command which needs few of them is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.client.client import WorkerClient
    from worker.client.job_handle import JobHandle
    from worker.client.sync_client import SyncJobHandle, SyncWorkerClient
    from worker.clock import Clock, SystemClock
    from worker.context import RunContext, current_run
    from worker.errors import (
        AmbiguousClient,
        AnswerTooLarge,
        ConfigurationError,
        DataApiError,
        DataApiUnreachable,
        DuplicateJob,
        EnqueueNotAwaited,
        InvalidId,
        InvalidOptions,
        InvalidParams,
        InvalidResult,
        JobError,
        JobExists,
        JobExpired,
        JobFailed,
        JobRevoked,
        LeaseLost,
        MalformedAnswer,
        NotSupported,
        RunInterrupted,
        SoftTimeLimitExceeded,
        StoreError,
        StoreSchemaError,
        StoreUnavailable,
        TaskBusy,
        TaskCrashed,
        TaskDefinitionError,
        TaskFailed,
        TimeLimitExceeded,
        TransactionDeadlock,
        UnexpectedRedirect,
        UnexpectedStatus,
        UnknownJob,
        UnknownTaskError,
        WorkerError,
        WorkerLost,
    )
    from worker.events import Events
    from worker.jobs.job import CancelOutcome, Job
    from worker.jobs.options import ConcurrencyPer, UniquePer
    from worker.jobs.verdict import DeadLetter, Drop, Retry
    from worker.model import CancelReason, Run, RunError, State, Trigger
    from worker.retry import RetryPolicy
    from worker.running.runner import RunLimits, Runner
    from worker.schedules.catch_up import CatchUpPolicy
    from worker.schedules.policies import Overlap
    from worker.schedules.registration import ScheduleOptions
    from worker.scheduling.scheduler import FirstRun, Scheduler
    from worker.settings import Settings, load_settings
    from worker.tasks.base import BaseTask
    from worker.tasks.bulk import BulkJob, BulkTask
    from worker.tasks.function import task
    from worker.tasks.register import register_all_tasks
    from worker.transport import ClientOptions, open_client

__all__ = [
    "AmbiguousClient",
    "AnswerTooLarge",
    "BaseTask",
    "BulkJob",
    "BulkTask",
    "CancelOutcome",
    "CancelReason",
    "CatchUpPolicy",
    "ClientOptions",
    "Clock",
    "ConcurrencyPer",
    "ConfigurationError",
    "DataApiError",
    "DataApiUnreachable",
    "DeadLetter",
    "Drop",
    "DuplicateJob",
    "EnqueueNotAwaited",
    "Events",
    "FirstRun",
    "InvalidId",
    "InvalidOptions",
    "InvalidParams",
    "InvalidResult",
    "Job",
    "JobError",
    "JobExists",
    "JobExpired",
    "JobFailed",
    "JobHandle",
    "JobRevoked",
    "LeaseLost",
    "MalformedAnswer",
    "NotSupported",
    "Overlap",
    "Retry",
    "RetryPolicy",
    "Run",
    "RunContext",
    "RunError",
    "RunInterrupted",
    "RunLimits",
    "Runner",
    "ScheduleOptions",
    "Scheduler",
    "Settings",
    "SoftTimeLimitExceeded",
    "State",
    "StoreError",
    "StoreSchemaError",
    "StoreUnavailable",
    "SyncJobHandle",
    "SyncWorkerClient",
    "SystemClock",
    "TaskBusy",
    "TaskCrashed",
    "TaskDefinitionError",
    "TaskFailed",
    "TimeLimitExceeded",
    "TransactionDeadlock",
    "Trigger",
    "UnexpectedRedirect",
    "UnexpectedStatus",
    "UniquePer",
    "UnknownJob",
    "UnknownTaskError",
    "WorkerClient",
    "WorkerError",
    "WorkerLost",
    "current_run",
    "load_settings",
    "open_client",
    "register_all_tasks",
    "task",
]

_DEFINED_IN = {
    "AmbiguousClient": "worker.errors",
    "AnswerTooLarge": "worker.errors",
    "BaseTask": "worker.tasks.base",
    "BulkJob": "worker.tasks.bulk",
    "BulkTask": "worker.tasks.bulk",
    "CancelOutcome": "worker.jobs.job",
    "CancelReason": "worker.model",
    "CatchUpPolicy": "worker.schedules.catch_up",
    "ClientOptions": "worker.transport",
    "Clock": "worker.clock",
    "ConcurrencyPer": "worker.jobs.options",
    "ConfigurationError": "worker.errors",
    "DataApiError": "worker.errors",
    "DataApiUnreachable": "worker.errors",
    "DeadLetter": "worker.jobs.verdict",
    "Drop": "worker.jobs.verdict",
    "DuplicateJob": "worker.errors",
    "EnqueueNotAwaited": "worker.errors",
    "Events": "worker.events",
    "FirstRun": "worker.scheduling.scheduler",
    "InvalidId": "worker.errors",
    "InvalidOptions": "worker.errors",
    "InvalidParams": "worker.errors",
    "InvalidResult": "worker.errors",
    "Job": "worker.jobs.job",
    "JobError": "worker.errors",
    "JobExists": "worker.errors",
    "JobExpired": "worker.errors",
    "JobFailed": "worker.errors",
    "JobHandle": "worker.client.job_handle",
    "JobRevoked": "worker.errors",
    "LeaseLost": "worker.errors",
    "MalformedAnswer": "worker.errors",
    "NotSupported": "worker.errors",
    "Overlap": "worker.schedules.policies",
    "Retry": "worker.jobs.verdict",
    "RetryPolicy": "worker.retry",
    "Run": "worker.model",
    "RunContext": "worker.context",
    "RunError": "worker.model",
    "RunInterrupted": "worker.errors",
    "RunLimits": "worker.running.runner",
    "Runner": "worker.running.runner",
    "ScheduleOptions": "worker.schedules.registration",
    "Scheduler": "worker.scheduling.scheduler",
    "Settings": "worker.settings",
    "SoftTimeLimitExceeded": "worker.errors",
    "State": "worker.model",
    "StoreError": "worker.errors",
    "StoreSchemaError": "worker.errors",
    "StoreUnavailable": "worker.errors",
    "SyncJobHandle": "worker.client.sync_client",
    "SyncWorkerClient": "worker.client.sync_client",
    "SystemClock": "worker.clock",
    "TaskBusy": "worker.errors",
    "TaskCrashed": "worker.errors",
    "TaskDefinitionError": "worker.errors",
    "TaskFailed": "worker.errors",
    "TimeLimitExceeded": "worker.errors",
    "TransactionDeadlock": "worker.errors",
    "Trigger": "worker.model",
    "UnexpectedRedirect": "worker.errors",
    "UnexpectedStatus": "worker.errors",
    "UniquePer": "worker.jobs.options",
    "UnknownJob": "worker.errors",
    "UnknownTaskError": "worker.errors",
    "WorkerClient": "worker.client.client",
    "WorkerError": "worker.errors",
    "WorkerLost": "worker.errors",
    "current_run": "worker.context",
    "load_settings": "worker.settings",
    "open_client": "worker.transport",
    "register_all_tasks": "worker.tasks.register",
    "task": "worker.tasks.function",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_DEFINED_IN[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
