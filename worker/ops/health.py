"""Whether the worker is alive, ready, and started, as Kubernetes' probes ask it.

Alive means that the event loop and the scheduler turn: whoever sees no answer, or 503, may kill
the worker. Ready means that it can do its work. What concerns others, such as a Data API that does
not answer, is told in the detail and never makes the worker look dead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from worker.app import Worker

__all__ = ["Health", "Verdict", "probe_routes"]

DEAD_AFTER = timedelta(seconds=60)
"""How long a due slot may lie unseen before the scheduler counts as dead."""


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
        if self.problems:
            return "failing"
        return "degraded" if self.remarks else "ok"


class Health:
    """Judges a worker; it reads what the worker knows of itself anyway."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.started = False
        self.stopping = False

    def live(self) -> Verdict:
        """Whether the scheduler turns. That the loop does is shown by there being an answer."""
        behind = self._worker.scheduler.behind
        if behind > DEAD_AFTER and not self.stopping:
            return Verdict({"scheduler": f"a slot is due since {behind.total_seconds():.0f} s"})
        return Verdict()

    def ready(self) -> Verdict:
        """Whether the worker can do its work."""
        problems = dict(self.live().problems)
        if not self.started:
            problems["start"] = "the worker has not started yet"
        if self.stopping:
            problems["stop"] = "the worker is about to end"
        if (trouble := self._worker.ledger.trouble) is not None:
            problems["store"] = trouble
        consumer = self._worker.consumer
        if consumer is not None and (trouble := consumer.trouble) is not None:
            problems["queue"] = trouble
        for stale in self._worker.freshness.stale():
            problems[f"task {stale.task}"] = f"stale since {stale.stale_since.isoformat()}"
        return Verdict(problems)

    def startup(self) -> Verdict:
        """Whether the worker has started. It needs no Data API for that."""
        return Verdict() if self.started else Verdict({"start": "not yet"})


def probe_routes(health: Health) -> list[Route]:
    """``/livez``, ``/readyz`` and ``/startupz``: 200 or 503, with the detail as JSON."""

    def route(path: str, judge: str) -> Route:
        async def answer(request: Request) -> Response:
            verdict: Verdict = getattr(health, judge)()
            return JSONResponse(
                {
                    "status": verdict.status,
                    "problems": verdict.problems,
                    "remarks": verdict.remarks,
                },
                status_code=200 if verdict.ok else 503,
                headers={"Cache-Control": "no-store"},
            )

        return Route(path, answer, methods=["GET"], name=judge)

    return [route("/livez", "live"), route("/readyz", "ready"), route("/startupz", "startup")]
