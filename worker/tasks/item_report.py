"""What became of the items of a run."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from worker.errors import DataApiError, TaskFailed
from worker.summary import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import structlog

    from worker.data_api import ItemId

__all__ = ["ItemReport"]

MOST_IDS = 100
MOST_LOGGED = 10


class ItemReport:
    """Counts items, keeps the first ids that failed, and logs the first failures.

    Args:
        redact: Takes secrets out of a failure's words.
    """

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        *,
        event: str,
        id_key: str,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._redact = redact
        self.succeeded = 0
        self.failed = 0
        self.failed_ids: list[ItemId] = []
        self.last_failure: Exception | None = None
        self._log = log
        self._event = event
        self._id_key = id_key

    @asynccontextmanager
    async def item(self, item_id: ItemId) -> AsyncIterator[None]:
        """The edge around the work on one item: its failure is counted and goes no further."""
        try:
            yield
        except Exception as exc:
            self._record(item_id, exc)
        else:
            self.succeeded += 1

    def raise_if_nothing_succeeded(self, what: str, result: object) -> None:
        """Make a run fail that got nothing done.

        Raises:
            TaskFailed: There were failures and no success.
        """
        if self.succeeded or not self.failed:
            return
        assert self.last_failure is not None
        raise TaskFailed(
            f"none of {self.failed} {what} went through; the last failure: "
            f"{describe(self.last_failure, self._redact)}",
            result=result,
        ) from self.last_failure

    def _record(self, item_id: ItemId, exc: Exception) -> None:
        self.failed += 1
        self.last_failure = exc
        if len(self.failed_ids) < MOST_IDS:
            self.failed_ids.append(item_id)
        if self.failed <= MOST_LOGGED:
            self._log.warning(
                self._event,
                **{self._id_key: item_id},
                error=describe(exc, self._redact),
                exc_info=None if isinstance(exc, DataApiError) else exc,
            )
        elif self.failed == MOST_LOGGED + 1:
            self._log.warning("failures.not_logged", after=MOST_LOGGED, what=self._event)
