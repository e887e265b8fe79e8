"""Figures for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from worker.app import Worker
    from worker.ops.health import Health

__all__ = ["metrics_routes"]


def metrics_routes(worker: Worker, health: Health) -> list[BaseRoute]:
    """``/metrics``; called once, and served by both listeners."""
    return []
