"""Puts the ops part of a worker together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette

from worker.ops.health import Health, probe_routes
from worker.ops.server import Listener, OpsServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.app import Worker

__all__ = ["Ops", "open_ops"]


class Ops(OpsServer):
    """The ops part of a worker, as a service."""

    def __init__(self, listeners: Sequence[Listener], health: Health) -> None:
        super().__init__(listeners)
        self.health = health


def open_ops(worker: Worker) -> Ops:
    """What serves the ops part, as the settings want it."""
    settings = worker.settings
    health = Health(worker)
    listeners = []
    if settings.ops_port:
        app = Starlette(routes=[*probe_routes(health)])
        listeners.append(Listener(app, settings.ops_host, settings.ops_port, "WORKER_OPS_PORT"))
    if settings.probe_port:
        app = Starlette(routes=probe_routes(health))
        listeners.append(
            Listener(app, settings.probe_host, settings.probe_port, "WORKER_PROBE_PORT")
        )
    return Ops(listeners, health)
