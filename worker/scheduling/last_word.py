"""What the ledger is told of a run that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.ledger.book import Outcome
from worker.model import CancelReason, State

if TYPE_CHECKING:
    from worker.model import Run

__all__ = ["PRECEDENCE", "last_word"]

PRECEDENCE = CancelReason.REPLACED.text
ERROR = 1000
"""How much of an error the ledger keeps, in characters."""


def last_word(run: Run) -> tuple[Outcome, str | None]:
    """The outcome of a run's slot, and its error.

    A run that somebody ended is lost, unless it made room for a later slot: that is a failure.
    """
    if run.error is None:
        return Outcome.RAN, None
    if run.state is not State.REVOKED:
        return Outcome.FAILED, f"{run.error.type}: {run.error.message}"[:ERROR]
    wanted = run.error.message.startswith(PRECEDENCE)
    return Outcome.FAILED if wanted else Outcome.LOST, run.error.message
