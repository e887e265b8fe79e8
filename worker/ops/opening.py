"""Puts the ops part of a worker together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from worker.ops.api import api_routes
from worker.ops.facts import Facts
from worker.ops.health import Health, probe_routes
from worker.ops.live import Live
from worker.ops.problem import tell_http_error
from worker.ops.server import Listener, OpsServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from worker.app import Worker

__all__ = ["Ops", "open_ops"]


class Ops(OpsServer):
    """The ops part of a worker, as a service."""

    def __init__(self, listeners: Sequence[Listener], health: Health, live: Live) -> None:
        super().__init__(listeners)
        self.health = health
        self._live = live

    async def stop(self, grace: timedelta) -> None:
        await self._live.close()
        await super().stop(grace)


def open_ops(worker: Worker) -> Ops:
    """What serves the ops part, as the settings want it."""
    settings = worker.settings
    health = Health(worker)
    facts = Facts(worker, health)
    live = Live(facts)
    listeners = []
    if settings.ops_port:
        app = Starlette(
            routes=[*probe_routes(health), *api_routes(facts, live)],
            exception_handlers={HTTPException: tell_http_error},
        )
        listeners.append(Listener(app, settings.ops_host, settings.ops_port, "WORKER_OPS_PORT"))
    if settings.probe_port:
        app = Starlette(routes=probe_routes(health))
        listeners.append(
            Listener(app, settings.probe_host, settings.probe_port, "WORKER_PROBE_PORT")
        )
    return Ops(listeners, health, live)
