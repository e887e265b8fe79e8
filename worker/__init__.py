"""sidecar-worker: the asyncio worker that a service team deploys beside its Data API.

A task of your own imports only this module::

    from worker import BaseTask, Scheduler
"""

from __future__ import annotations

from worker.clock import Clock, SystemClock
from worker.context import RunContext, current_run
from worker.errors import (
    AnswerTooLarge,
    ConfigurationError,
    DataApiError,
    DataApiUnreachable,
    InvalidId,
    MalformedAnswer,
    RunInterrupted,
    TaskCrashed,
    TaskDefinitionError,
    TaskFailed,
    TimeLimitExceeded,
    UnexpectedRedirect,
    UnexpectedStatus,
    UnknownTaskError,
    WorkerError,
)
from worker.events import Events
from worker.model import Run, RunError, State, Trigger
from worker.retry import RetryPolicy
from worker.runner import RunLimits, Runner
from worker.scheduler import FirstRun, Scheduler
from worker.settings import Settings, load_settings
from worker.tasks.base import BaseTask
from worker.tasks.register import register_all_tasks
from worker.transport import ClientOptions, open_client

__all__ = [
    "AnswerTooLarge",
    "BaseTask",
    "ClientOptions",
    "Clock",
    "ConfigurationError",
    "DataApiError",
    "DataApiUnreachable",
    "Events",
    "FirstRun",
    "InvalidId",
    "MalformedAnswer",
    "RetryPolicy",
    "Run",
    "RunContext",
    "RunError",
    "RunInterrupted",
    "RunLimits",
    "Runner",
    "Scheduler",
    "Settings",
    "State",
    "SystemClock",
    "TaskCrashed",
    "TaskDefinitionError",
    "TaskFailed",
    "TimeLimitExceeded",
    "Trigger",
    "UnexpectedRedirect",
    "UnexpectedStatus",
    "UnknownTaskError",
    "WorkerError",
    "current_run",
    "load_settings",
    "open_client",
    "register_all_tasks",
]
