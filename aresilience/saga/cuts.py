"""Which errors end the task that runs somebody's function, and which are that function's own."""

from __future__ import annotations

import asyncio

__all__ = ["cancels", "ends_the_task"]


def cancels() -> int:
    """How often this task was asked to end, so far."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def ends_the_task(error: BaseException, before: int = 0) -> bool:
    """Whether this task, or the process, is being ended.

    A `CancelledError` that nobody asked this task for is the function's own: of a task that it awaited, say.
    `before`: `cancels()` from before the function was called.
    """
    if isinstance(error, asyncio.CancelledError):
        return cancels() > before
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
