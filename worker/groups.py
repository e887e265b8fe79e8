"""The failures inside of an exception group, such as ``asyncio.TaskGroup`` raises."""

from __future__ import annotations

__all__ = ["leaves"]


def leaves(failure: BaseException) -> list[BaseException]:
    """The failures that a group holds, nested groups resolved, in their order; of any other
    failure, itself alone."""
    if not isinstance(failure, BaseExceptionGroup):
        return [failure]
    found: list[BaseException] = []
    waiting: list[BaseException] = [failure]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(reversed(one.exceptions))
        else:
            found.append(one)
    return found
