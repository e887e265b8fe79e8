"""Registers the tasks that come with the worker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from worker.settings import Settings, load_settings, variable
from worker.tasks.cleanup_old_orders import CleanupOldOrdersTask
from worker.tasks.process_pending_orders import ProcessPendingOrdersTask
from worker.tasks.send_reminders import SendRemindersTask
from worker.tasks.sync_external_data import SyncExternalDataTask

if TYPE_CHECKING:
    from worker.scheduling.scheduler import Scheduler

__all__ = ["register_all_tasks"]


def register_all_tasks(scheduler: Scheduler, settings: Settings | None = None) -> None:
    """Register the four tasks with their intervals.

    Args:
        settings: Read from the environment unless given.

    Raises:
        ConfigurationError: The environment's settings are wrong.
    """
    settings = settings or load_settings()
    scheduler.register_task(
        partial(CleanupOldOrdersTask, max_age=settings.cleanup_max_age),
        interval=settings.cleanup_interval,
        said_by=variable("cleanup_interval"),
    )
    scheduler.register_task(
        partial(SendRemindersTask, window=settings.reminders_window),
        interval=settings.reminders_interval,
        said_by=variable("reminders_interval"),
    )
    scheduler.register_task(
        SyncExternalDataTask, interval=settings.sync_interval, said_by=variable("sync_interval")
    )
    scheduler.register_task(
        partial(
            ProcessPendingOrdersTask,
            batch_size=settings.orders_batch_size,
            concurrency=settings.orders_concurrency,
        ),
        interval=settings.orders_interval,
        said_by=variable("orders_interval"),
    )
