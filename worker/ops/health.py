"""Whether the worker is alive, ready, and started, as Kubernetes' probes ask it.

Alive means that the event loop and the scheduler turn: whoever sees no answer, or 503, may kill
the worker. Ready means that it can do its work. What concerns others, such as a Data API that does
not answer, is told in the detail and makes the worker look neither dead nor useless: a sidecar's
readiness decides about the traffic of the service beside it.

Anybody may ask, so the detail names parts and tasks, and neither addresses nor errors: these are in
the log.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

from worker.backends.opening import STORES
from worker.config.stores import queue_url, store_url
from worker.ops.data_api_state import DataApiState
from worker.ops.stalls import Stalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from worker.app import Worker

__all__ = ["Health", "Verdict", "probe_routes"]

LATE = timedelta(seconds=5)
"""A scheduler that turns is never so late, but after a clock that jumped."""
DEAD_AFTER = timedelta(seconds=60)
"""How long it has to be late all the time to count as dead."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a probe.

    Attributes:
        problems: What speaks against it, by part.
        remarks: What is wrong, but no reason for a no.
    """

    problems: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def status(self) -> str:
        """``ok``, ``degraded`` (there are remarks) or ``failing``."""
        if self.problems:
            return "failing"
        return "degraded" if self.remarks else "ok"


class Health:
    """Judges a worker; it reads what the worker knows of itself anyway.

    Attributes:
        started: To be set once the worker has started.
        stopping: To be set once it is about to end.
        data_api: What is known of the Data API; to be subscribed to the worker's events.
        stalls: What is known of the event loop's; to be subscribed, too.
    """

    def __init__(self, worker: Worker, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._monotonic = monotonic
        self._late_since: float | None = None
        url = store_url(worker.settings)
        self._one_file = STORES.of(url) == "sqlite" and queue_url(worker.settings) == url
        self.started = False
        self.stopping = False
        self.data_api = DataApiState()
        self.stalls = Stalls()

    @property
    def queue_trouble(self) -> str | None:
        """What is wrong with the queues' engine.

        One that only reads finds nothing wrong with a disk that is full; who shares its file does.
        """
        worker = self._worker
        if worker.consumer is None:
            return None
        return worker.consumer.trouble or (worker.ledger.trouble if self._one_file else None)

    def live(self) -> Verdict:
        """Whether the scheduler turns. That the loop does is shown by there being an answer."""
        late_s = self._late_s()
        if late_s > DEAD_AFTER.total_seconds():
            return Verdict({"scheduler": f"slots are due, and nobody looks for {late_s:.0f} s"})
        return Verdict()

    def ready(self) -> Verdict:
        """Whether the worker can do its work."""
        worker, problems, remarks = self._worker, dict(self.live().problems), {}
        if not self.started:
            problems["start"] = "the worker has not started yet"
        if self.stopping:
            problems["stop"] = "the worker is about to end"
        if worker.ledger.trouble is not None:
            problems["store"] = "the store of the schedules cannot be used"
        if self.queue_trouble is not None:
            problems["queue"] = "the queues cannot be used"
        for stale in worker.freshness.stale():
            told = f"stale since {stale.stale_since.isoformat()}"
            if stale.paused:
                remarks[f"task {stale.task}"] = f"{told}: it is paused"
            elif stale.inherited:
                remarks[f"task {stale.task}"] = f"{told}, before this worker began"
            else:
                problems[f"task {stale.task}"] = told
        trouble = self.data_api.trouble
        if trouble is not None and trouble.recent:
            remarks["data_api"] = trouble.found
        return Verdict(problems, remarks)

    def startup(self) -> Verdict:
        """Whether the worker has started. It needs no Data API for that."""
        return Verdict() if self.started else Verdict({"start": "not yet"})

    def _late_s(self) -> float:
        """How long the scheduler has been late, on a clock that a suspended machine stops too.

        The wall clock alone would call a scheduler dead that slept with its machine.
        """
        if self.stopping or self._worker.scheduler.behind < LATE:
            self._late_since = None
            return 0.0
        now = self._monotonic()
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since


def probe_routes(health: Health) -> list[Route]:
    """``/livez``, ``/readyz`` and ``/startupz``: 200 or 503, with the detail as JSON."""

    def route(path: str, judge: Callable[[], Verdict]) -> Route:
        async def answer(request: Request) -> Response:
            verdict = judge()
            return JSONResponse(
                {
                    "status": verdict.status,
                    "problems": verdict.problems,
                    "remarks": verdict.remarks,
                },
                status_code=200 if verdict.ok else 503,
            )

        return Route(path, answer, methods=["GET"])

    return [
        route("/livez", health.live),
        route("/readyz", health.ready),
        route("/startupz", health.startup),
    ]
