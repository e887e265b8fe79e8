"""Every error this package raises on purpose.

::

    WorkerError
    ├── ConfigurationError         settings, or what they point at, are wrong
    ├── TaskDefinitionError        a task's class or registration is wrong
    ├── UnknownTaskError           no task has that name
    ├── TaskBusy                   another run of the task is in the way
    ├── TaskFailed                 a task's own verdict: the run achieved nothing
    ├── TimeLimitExceeded          a run took longer than its time limit
    ├── TaskCrashed                a task tried to end more than its own run
    ├── RunInterrupted             the worker ended the run, the task did not
    ├── SoftTimeLimitExceeded      raised inside of a task, so that it can clean up
    ├── WorkerLost                 a job's workers died under it, again and again
    ├── JobError                   a job cannot be enqueued, found or answered
    │   ├── InvalidOptions         an option of a task or a job is wrong
    │   ├── InvalidParams          the parameters do not fit the task
    │   ├── InvalidResult          a result is no JSON, or too large
    │   ├── NotSupported           the queue's engine cannot do what was asked of it
    │   ├── JobConflict            it is there already
    │   │   ├── DuplicateJob       another job holds its unique key
    │   │   └── JobExists          its id is that of another job, or of one that does not run
    │   ├── UnnamedJob             a message names no task
    │   ├── AmbiguousClient        several clients are open, and the call does not say which
    │   ├── EnqueueNotAwaited      a run called ``enqueue`` and did not await it
    │   ├── UnknownJob             nobody has recorded such an id
    │   ├── JobExpired             the job expired before it began, or its result is pruned
    │   ├── JobFailed              the job ended without a result
    │   └── JobRevoked             the job was cancelled
    ├── StoreError                 the store of schedules cannot do what it was asked
    │   ├── StoreUnavailable       not now: a lost connection, a full disk, a lock
    │   ├── TransactionDeadlock    PostgreSQL has ended the caller's transaction: repeat it
    │   ├── StoreSchemaError       its tables are older or newer than this worker
    │   └── LeaseLost              another may have taken over; nothing was recorded
    └── DataApiError               a call of the Data API did not succeed
        ├── DataApiUnreachable     no complete answer: connection, timeout, broken transfer
        ├── UnexpectedStatus       an answer with an error status
        │   └── UnexpectedRedirect a 3xx, which is never followed
        ├── MalformedAnswer        not JSON, or not of the contract's shape
        ├── AnswerTooLarge         the body is over the configured limit
        └── InvalidId              an id that cannot be one segment of a path

A message says what was expected, what came, and what to do. It never holds a secret, nor a URL
with its query.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from worker.redaction import cut

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.model import CancelReason

__all__ = [
    "AmbiguousClient",
    "AnswerTooLarge",
    "ConfigurationError",
    "DataApiError",
    "DataApiUnreachable",
    "DuplicateJob",
    "EnqueueNotAwaited",
    "InvalidId",
    "InvalidOptions",
    "InvalidParams",
    "InvalidResult",
    "JobConflict",
    "JobError",
    "JobExists",
    "JobExpired",
    "JobFailed",
    "JobRevoked",
    "LeaseLost",
    "MalformedAnswer",
    "NotSupported",
    "RunInterrupted",
    "ServiceFailed",
    "SoftTimeLimitExceeded",
    "StoreError",
    "StoreSchemaError",
    "StoreUnavailable",
    "TaskBusy",
    "TaskCrashed",
    "TaskDefinitionError",
    "TaskFailed",
    "TimeLimitExceeded",
    "TransactionDeadlock",
    "UnexpectedRedirect",
    "UnexpectedStatus",
    "UnknownJob",
    "UnknownTaskError",
    "UnnamedJob",
    "WorkerError",
    "WorkerLost",
]


class WorkerError(Exception):
    """Base of all errors of this package.

    Attributes:
        result: What a run that ends with this error found out so far.
    """

    result: object = None


class ConfigurationError(WorkerError):
    """The configuration cannot be used; ``problems`` holds one sentence for each fault."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "the configuration has a problem" if count == 1 else f"{count} problems"
        super().__init__("\n".join([f"{head}:", *(f"  - {problem}" for problem in self.problems)]))


class TaskDefinitionError(WorkerError):
    """A task class, or the way it is registered, breaks a rule; refused before anything runs."""

    @classmethod
    def namesakes(cls, name: str, homes: tuple[str, str]) -> TaskDefinitionError:
        """For two tasks of one name, or one that is registered twice."""
        one, other = homes
        if one == other:
            return cls(
                f"{name!r} ({one}) is registered twice, and a task has one schedule; expected it "
                "once, or name=… for the second one, which is a task of its own then"
            )
        return cls(
            f"two tasks are named {name!r}: {one} and {other}; give one of them another name"
        )


class UnknownTaskError(WorkerError):
    """No registered task has this name.

    Args:
        others: Further names that no task has.
    """

    def __init__(self, name: str, known: Iterable[str], *others: str) -> None:
        names = sorted(known)
        unknown = ", ".join(f"{cut(one)!r}{nearest(one, names)}" for one in (name, *others))
        super().__init__(
            f"unknown task{'s' if others else ''} {unknown}; known: {', '.join(names)}"
        )

    @classmethod
    def newer(cls, name: str, version: int, known: int) -> UnknownTaskError:
        """For a job whose parameters are of a newer version than this worker knows."""
        error = cls.__new__(cls)
        WorkerError.__init__(
            error,
            f"the parameters of {cut(name)!r} are of version {version}, and this worker knows up "
            f"to {known}; deploy it anew",
        )
        return error


class TaskBusy(WorkerError):
    """A run by hand was refused because another run of the task goes on."""


class TaskFailed(WorkerError):
    """A task says of itself that the run failed. ``result`` is what it found out so far."""

    def __init__(self, message: str, *, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class TimeLimitExceeded(WorkerError):
    """A run was ended because it took longer than its time limit."""


class TaskCrashed(WorkerError):
    """A task raised what ends a process or a loop (``SystemExit``, a stray ``CancelledError``)."""


class RunInterrupted(WorkerError):
    """The worker ended the run before its code was done; it does not count against the task.

    ``context.raise_if_cancelled()`` raises it inside of a task.

    Attributes:
        reason: Why the run was requested to end.
        left_behind: The worker had to exit while the code still ran.
    """

    def __init__(
        self, message: str, *, reason: CancelReason | None = None, left_behind: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.left_behind = left_behind


class SoftTimeLimitExceeded(WorkerError):
    """Raised inside of a task when its ``soft_time_limit`` is over, so that it can clean up."""


class ServiceFailed(WorkerError):
    """A part of the worker failed, and the worker ended in good order because of that."""


class WorkerLost(WorkerError):
    """The workers that ran a job ended without a word, too often to try it once more."""


class JobError(WorkerError):
    """A job cannot be enqueued, found or answered."""


class InvalidOptions(JobError):
    """An option of a task, or of a single job, is unknown or wrong."""


class InvalidParams(JobError):
    """The parameters do not fit the task. The message repeats none of their values."""


class InvalidResult(JobError):
    """What a job returned is no JSON, or larger than ``WORKER_PAYLOAD_LIMIT``."""


class NotSupported(JobError):
    """The engine of the queue cannot do what was asked of it; the message says which can."""


class JobConflict(JobError):
    """Base of the errors for a job that is there already.

    Attributes:
        job_id: Its id.
        enqueued: Of a request for many jobs: the handles of those that were enqueued.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.enqueued: tuple[Any, ...] = ()

    def add_to_message(self, text: str) -> None:
        self.args = (f"{self.args[0]} ({text})",)


class DuplicateJob(JobConflict):
    """Another job holds the unique key; ``job_id`` is its id."""


class JobExists(JobConflict):
    """The id is that of a job of another task, or with other parameters or options; or of the same
    job, which was cancelled or has expired and so does not run.

    Attributes:
        job: The handle of the job that exists: a `JobHandle`, or the client's own kind.
        differences: What differs, or why it does not run, one text for each.
    """

    def __init__(self, message: str, job: Any, differences: Iterable[str]) -> None:
        super().__init__(message, job.id)
        self.job = job
        self.differences = tuple(differences)


class UnnamedJob(JobError):
    """A message names no task, so no worker can ever run it."""

    def __init__(self, what_came: str) -> None:
        super().__init__(
            "the message names no task: expected the message attribute JobName, a String of up to "
            f"200 characters; got {what_came}"
        )


class AmbiguousClient(JobError):
    """Several clients with different URLs are open, and the call does not say which one to use."""


class EnqueueNotAwaited(JobError):
    """The code of a run called ``enqueue`` and did not await it, so nothing was enqueued."""


class UnknownJob(JobError):
    """Nobody has recorded a job of that id, or its record is pruned."""


class JobExpired(JobError):
    """The job expired before it could begin, or its result was kept no longer."""


class JobFailed(JobError):
    """The job ended without a result.

    Attributes:
        error_type, error_message: Of its last failure.
    """

    def __init__(self, job_id: str, error_type: str, error_message: str) -> None:
        super().__init__(f"job {job_id} failed: {error_type}: {error_message}")
        self.error_type = error_type
        self.error_message = error_message


class JobRevoked(JobError):
    """The job was cancelled before it ended by itself."""


class StoreError(WorkerError):
    """The store of schedules, or the queues' engine, cannot do what it was asked.

    Its message never holds a password.

    Attributes:
        part: Which of them it is, in words.
    """

    part = "store"


class StoreUnavailable(StoreError):
    """The store cannot be used now, and perhaps later: no connection, a full disk, a lock."""


class TransactionDeadlock(StoreError):
    """PostgreSQL has ended the caller's transaction, since it and another waited for each other.

    Nothing of the transaction is stored. Roll it back and repeat it from its beginning.
    """


class StoreSchemaError(StoreError):
    """The store's tables do not fit this worker; the message says which command mends that."""


class LeaseLost(StoreError):
    """The lease ran out before the outcome could be recorded: the store says ``lost``."""


class DataApiError(WorkerError):
    """A call of the Data API failed.

    Attributes:
        call: The call's name in the contract, such as ``orders.process``.
        transient: Whether the same call may succeed a little later, and may be repeated safely.
        retry_after_s: Seconds the service asked to wait, if it did so sensibly.
        attempts: How many requests were spent before giving up.
    """

    def __init__(
        self,
        call: str,
        message: str,
        *,
        transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{call}: {message}")
        self.call = call
        self.transient = transient
        self.retry_after_s = retry_after_s
        self.attempts = 1

    def __str__(self) -> str:
        tried = f", after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{super().__str__()}{tried}"


class DataApiUnreachable(DataApiError):
    """There was no complete answer: refused, reset, timed out, cut short, or not HTTP."""


class UnexpectedStatus(DataApiError):
    """The service answered with a status other than 2xx."""

    def __init__(
        self,
        call: str,
        message: str,
        *,
        status: int,
        transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(call, message, transient=transient, retry_after_s=retry_after_s)
        self.status = status


class UnexpectedRedirect(UnexpectedStatus):
    """The service answered 3xx; the message names where it pointed, without its query."""


class MalformedAnswer(DataApiError):
    """The answer's body is not JSON, or not of the shape the contract promises."""


class AnswerTooLarge(DataApiError):
    """The answer's body is larger than the configured limit; it was abandoned while it came."""


class InvalidId(DataApiError):
    """An id that no path segment can carry (empty, ``.``, ``..``); nothing was sent."""


def installing(extra: str) -> str:
    """The command that installs what an optional part needs."""
    return f"pip install 'sidecar-worker[{extra}]', or '.[{extra}]' in a checkout"


def nearest(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the closest of ``known``, or an empty text."""
    matches = get_close_matches(cut(name), list(known), n=1, cutoff=0.7)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
