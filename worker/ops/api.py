"""The facts and the actions as JSON, under ``/api/v1/``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from worker.app import Worker
    from worker.ops.health import Health

__all__ = ["api_routes"]


def api_routes(worker: Worker, health: Health) -> list[BaseRoute]:
    """What is served under ``/api/v1/``."""
    return []
