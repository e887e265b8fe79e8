"""`BulkTask`, which gets many jobs at once and answers each of them."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from worker.errors import InvalidOptions, TaskDefinitionError
from worker.jobs.options import as_delay, as_number
from worker.tasks.base import BaseTask, Bulk, identify

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BulkJob", "BulkTask"]

Asked = TypeVar("Asked")


class BulkJob(NamedTuple, Generic[Asked]):
    """One of the jobs of a batch.

    Attributes:
        attempt: Which attempt of this job it is, from 1.
    """

    id: str
    params: Asked
    attempt: int


class BulkTask(BaseTask):
    """A task for which doing many at once is cheaper than one by one.

    If ``execute_many`` raises, the batch is split in two and each half is done again, down to the
    job that fails: one that is poison does not fail its neighbours, but they may be done twice.

    Class attributes:
        max_batch_size: How many jobs it gets at most, by default 100.
        max_wait: How long the first of them waits for others, by default 50 ms.
    """

    max_batch_size: ClassVar[int] = 100
    max_wait: ClassVar[timedelta | str | float] = timedelta(milliseconds=50)
    bulk: ClassVar[Bulk]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        try:
            cls.bulk = Bulk(
                as_number("max_batch_size", cls.max_batch_size, 1, 10_000),
                as_delay("max_wait", cls.max_wait),
            )
        except InvalidOptions as exc:
            raise TaskDefinitionError(f"{identify(cls)}: {exc}") from exc

    @abstractmethod
    async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> Sequence[object]:
        """Do all ``jobs``, and answer each.

        Returns:
            As many answers as there are jobs, in their order: a result, or an exception, which is
            that job's failure.
        """

    async def execute(self, *args: Any, **kwargs: Any) -> object:
        """Do a batch of one, for runs on a schedule and by hand.

        Raises:
            Exception: What the job was answered with.
        """
        params = args[0] if args else kwargs or None
        job = BulkJob(self.context.job_id, params, self.context.attempt)
        (answer,) = await self.execute_many([job])
        if isinstance(answer, BaseException):
            raise answer
        return answer
