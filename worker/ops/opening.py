"""Puts the ops part of a worker together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.ops.api import api_routes
from worker.ops.app import guarded
from worker.ops.facts import Facts
from worker.ops.health import Health, probe_routes
from worker.ops.hosts import Hosts
from worker.ops.live import Live
from worker.ops.locks import Locks, Sessions, SignInLink, Tokens
from worker.ops.metrics import metrics_routes
from worker.ops.page import page_routes
from worker.ops.server import Listener, OpsServer
from worker.ops.sign_in import session_routes
from worker.ops.sources import Sources
from worker.secret_keys import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from worker.app import Worker
    from worker.settings import Settings

__all__ = ["Ops", "open_ops"]


class Ops(OpsServer):
    """The ops part of a worker, as a service.

    Attributes:
        health: What the probes tell.
        sign_in_link: What opens the dashboard where no token is set; ``None`` where one is.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        health: Health,
        live: Live,
        sign_in_link: SignInLink | None = None,
    ) -> None:
        super().__init__(listeners)
        self.health = health
        self.sign_in_link = sign_in_link
        self._live = live

    async def stop(self, grace: timedelta) -> None:
        await self._live.close()  # a stream would go on for as long as it may
        await super().stop(grace)


def open_ops(worker: Worker) -> Ops:
    """What serves the ops part, as the settings want it."""
    settings = worker.settings
    health = Health(worker)
    worker.events.subscribe(health.data_api)
    worker.events.subscribe(health.stalls)
    sources = Sources(worker)
    facts = Facts(worker, health, sources, hide=without_secrets)
    live = Live(facts.state)
    probes, metrics = probe_routes(health), metrics_routes(worker, health, sources)
    tokens = tokens_of(settings)
    listeners = []
    link = None
    if settings.ops_port:
        if not tokens:
            host = f"[{settings.ops_host}]" if ":" in settings.ops_host else settings.ops_host
            link = SignInLink(f"http://{host}:{settings.ops_port}")
        sessions = Sessions()
        locks = Locks(tokens, sessions, Hosts([settings.ops_host, *settings.ops_hosts]), link=link)
        routes = [
            *probes,
            *metrics,
            *api_routes(facts, live),
            *session_routes(locks, sessions),
            *page_routes(),
        ]
        listeners.append(
            Listener(
                guarded(routes, locks), settings.ops_host, settings.ops_port, "WORKER_OPS_PORT"
            )
        )
    if settings.probe_port:
        app = guarded([*probes, *metrics], Locks(tokens))
        listeners.append(
            Listener(
                app,
                settings.probe_host,
                settings.probe_port,
                "WORKER_PROBE_PORT",
                keep_alive=False,  # anybody may ask, and nobody has to ask twice
            )
        )
    return Ops(listeners, health, live, link)


def tokens_of(settings: Settings) -> Tokens:
    full, read = settings.ops_token, settings.ops_read_token
    return Tokens(
        None if full is None else full.get_secret_value(),
        None if read is None else read.get_secret_value(),
    )
