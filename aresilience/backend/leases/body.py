"""The body that works under a lease, which is cut off when the lease is lost."""

from __future__ import annotations

import asyncio

from aresilience.deadline import is_own_cancel

__all__ = ["Body"]


class Body:
    """The current task, from now until `ended`: cancelled, once, by `cut`.

    A body that ignores its cancellation is waited for; a cancel by somebody else stays theirs. Where the task
    itself finds out, nothing is cancelled: whatever tells it raises.
    """

    __slots__ = ("_cancelling", "_cut", "task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a lease needs a task to cancel if it is lost; there is none running")
        self.task = task
        self._cancelling = task.cancelling()
        self._cut = False

    def cut(self) -> None:
        """Cancel it, at its current await; not from within, where the cancel would come after the body."""
        if not self._cut and not self.task.done() and not self.is_current:
            self._cut = True
            self.task.cancel()

    def ended(self, error: BaseException | None) -> bool:
        """Whether the error with which it ended is due to our cancel alone. It may end in another task, to
        which nobody did anything."""
        return self._cut and self.is_current and is_own_cancel(self.task, self._cancelling, error)

    @property
    def is_current(self) -> bool:
        """Whether it is the body who asks."""
        try:
            return asyncio.current_task() is self.task
        except RuntimeError:  # no loop runs
            return False
