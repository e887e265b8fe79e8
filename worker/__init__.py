"""sidecar-worker: the asyncio worker that a service team deploys beside its Data API.

A task of your own imports only this module::

    from worker import BaseTask, Scheduler

Its names are loaded when they are first used, so that a command which needs few of them is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.catch_up import CatchUpPolicy
    from worker.clock import Clock, SystemClock
    from worker.context import RunContext, current_run
    from worker.errors import (
        AnswerTooLarge,
        ConfigurationError,
        DataApiError,
        DataApiUnreachable,
        InvalidId,
        LeaseLost,
        MalformedAnswer,
        RunInterrupted,
        StoreError,
        StoreSchemaError,
        StoreUnavailable,
        TaskBusy,
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
    from worker.policies import Overlap
    from worker.registration import ScheduleOptions
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
    "CatchUpPolicy",
    "ClientOptions",
    "Clock",
    "ConfigurationError",
    "DataApiError",
    "DataApiUnreachable",
    "Events",
    "FirstRun",
    "InvalidId",
    "LeaseLost",
    "MalformedAnswer",
    "Overlap",
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
    "State",
    "StoreError",
    "StoreSchemaError",
    "StoreUnavailable",
    "SystemClock",
    "TaskBusy",
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

_DEFINED_IN = {
    "AnswerTooLarge": "worker.errors",
    "BaseTask": "worker.tasks.base",
    "CatchUpPolicy": "worker.catch_up",
    "ClientOptions": "worker.transport",
    "Clock": "worker.clock",
    "ConfigurationError": "worker.errors",
    "DataApiError": "worker.errors",
    "DataApiUnreachable": "worker.errors",
    "Events": "worker.events",
    "FirstRun": "worker.scheduler",
    "InvalidId": "worker.errors",
    "LeaseLost": "worker.errors",
    "MalformedAnswer": "worker.errors",
    "Overlap": "worker.policies",
    "RetryPolicy": "worker.retry",
    "Run": "worker.model",
    "RunContext": "worker.context",
    "RunError": "worker.model",
    "RunInterrupted": "worker.errors",
    "RunLimits": "worker.runner",
    "Runner": "worker.runner",
    "ScheduleOptions": "worker.registration",
    "Scheduler": "worker.scheduler",
    "Settings": "worker.settings",
    "State": "worker.model",
    "StoreError": "worker.errors",
    "StoreSchemaError": "worker.errors",
    "StoreUnavailable": "worker.errors",
    "SystemClock": "worker.clock",
    "TaskBusy": "worker.errors",
    "TaskCrashed": "worker.errors",
    "TaskDefinitionError": "worker.errors",
    "TaskFailed": "worker.errors",
    "TimeLimitExceeded": "worker.errors",
    "Trigger": "worker.model",
    "UnexpectedRedirect": "worker.errors",
    "UnexpectedStatus": "worker.errors",
    "UnknownTaskError": "worker.errors",
    "WorkerError": "worker.errors",
    "current_run": "worker.context",
    "load_settings": "worker.settings",
    "open_client": "worker.transport",
    "register_all_tasks": "worker.tasks.register",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_DEFINED_IN[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
