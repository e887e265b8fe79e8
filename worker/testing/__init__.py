"""For the tests of whoever writes tasks: a worker in memory, on a clock that the test moves.

::

    async with InMemoryWorker(SendInvoice, ping) as worker:
        await SendInvoice.enqueue({"order_id": 7}, delay="5m")
        worker.assert_enqueued(SendInvoice, {"order_id": 7})
        worker.clock.advance("5m")
        (invoice,) = await worker.drain()
        assert invoice.state == "SUCCESS"

Jobs go the way they go in production: parameters are validated, the consumer leases them, the
runner runs them, what came of them is stored. Only the engine is the one in memory, the time is
the test's own, and nothing runs before the test says so.
"""

from __future__ import annotations

from worker.testing.clock import FakeClock
from worker.testing.jobs import EnqueuedJob, JobOutcome
from worker.testing.worker import InMemoryWorker

__all__ = ["EnqueuedJob", "FakeClock", "InMemoryWorker", "JobOutcome"]
