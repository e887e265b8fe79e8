"""The hooks of a task: called with what came of a run, and unable to change it by failing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.errors import TimeLimitExceeded
from worker.events import HookFailed
from worker.jobs.verdict import Wish
from worker.model import State
from worker.running.bounds import contained

if TYPE_CHECKING:
    from datetime import timedelta

    from worker.context import RunContext
    from worker.events import Events
    from worker.tasks.base import TaskCode, TaskDefinition

__all__ = ["Held", "Hooks"]


@dataclass(slots=True)
class Held:
    """The instance whose code a run is, once it was made: its hooks are called on it."""

    code: TaskCode | None = None


class Hooks:
    """Calls the hooks that a task has.

    Args:
        limit: How long one may take.
    """

    def __init__(self, *, events: Events, limit: timedelta) -> None:
        self._events = events
        self._limit = limit

    async def tell(
        self,
        task: TaskDefinition,
        context: RunContext,
        held: Held,
        state: State,
        failure: BaseException | None,
        result: object,
    ) -> None:
        """Call the hook that belongs to the outcome, if the task has it."""
        match state:
            case State.SUCCESS if "on_success" in task.hooks:
                await self.call(held, context, "on_success", result)
            case State.RETRY if "on_retry" in task.hooks:
                await self.call(held, context, "on_retry", failure)
            case State.FAILURE if "on_failure" in task.hooks:
                await self.call(held, context, "on_failure", failure)

    async def wish(self, held: Held, context: RunContext, failure: BaseException) -> Wish | None:
        """What ``handle_error`` says is to become of a job; ``None`` if it fails."""
        wish = await self.call(held, context, "handle_error", failure)
        if wish is None or isinstance(wish, Wish):
            return wish
        said = f"expected Retry(…), DeadLetter(), Drop() or None, got {wish!r}"
        self._failed(context, "handle_error", TypeError(said))
        return None

    async def call(self, held: Held, context: RunContext, name: str, about: object) -> Any:
        """What a hook returns; ``None`` if it fails, which is told and changes nothing."""
        if held.code is None:
            return None  # there was no code to be made, so it has no hooks
        limit_s = self._limit.total_seconds()
        work = called(held.code, name, about, context)
        hook = asyncio.create_task(contained(work), name=f"{name}:{context.task}")
        hook.add_done_callback(seen)
        try:
            done, _ = await asyncio.wait({hook}, timeout=limit_s)
            if not done:
                raise TimeLimitExceeded(f"{name} took longer than {limit_s:g} s")
            return hook.result()
        except asyncio.CancelledError as exc:
            if not hook.done():
                raise  # the worker shuts down
            self._failed(context, name, exc)
        except GeneratorExit:
            raise
        except BaseException as exc:
            self._failed(context, name, exc)
        finally:
            hook.cancel()
        return None

    def _failed(self, context: RunContext, name: str, failure: BaseException) -> None:
        self._events.announce(
            HookFailed(task=context.task, run_id=context.run_id, hook=name, failure=failure)
        )


async def called(code: TaskCode, name: str, about: object, context: RunContext) -> object:
    return await getattr(code, name)(about, context)


def seen(hook: asyncio.Task[object]) -> None:
    """Of a hook that took too long, nobody else would look at what it raises."""
    if not hook.cancelled():
        hook.exception()
