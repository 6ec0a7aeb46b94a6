"""The ambient deadline, and the one way in which this package cancels a body that took too long.

    with ar.deadline(5.0):          # everything below has five seconds, together
        ...
        ar.time_remaining()         # what is left: to pass on to the next service

A deadline inside a deadline can only shorten it. Tasks created in the body inherit it: their waits
and timeouts shrink to it, and the body's own task is cancelled when it is reached.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import timedelta
from types import TracebackType
from typing import Any

from aresilience import arguments
from aresilience.errors import DeadlineExceeded, TimedOut

__all__ = [
    "AMBIENT",
    "COUNT_IS_RIGHT",
    "Expiry",
    "ambient",
    "cut_off",
    "deadline",
    "is_own_cancel",
    "leave",
    "time_remaining",
]

COUNT_IS_RIGHT = sys.version_info >= (3, 13)
"""Before, a TaskGroup that failed left `Task.cancelling()` raised for ever (python/cpython#116720)."""

AMBIENT: ContextVar[float | None] = ContextVar("aresilience_deadline", default=None)
"""The ambient deadline on the loop's clock, or None: set by whoever enforces it."""

ambient = AMBIENT.get


def time_remaining() -> float | None:
    """Seconds until the ambient deadline, never negative; None where there is no deadline."""
    when = AMBIENT.get()
    if when is None:
        return None
    return max(0.0, when - asyncio.get_running_loop().time())


def leave(outer: Token[float | None]) -> None:
    """Take back what was set in `AMBIENT`.

    A coroutine that is closed instead of run to its end, because its loop is gone, ends in somebody
    else's context, where there is nothing to take back.
    """
    try:  # noqa: SIM105 - suppress() would cost more than the rest
        AMBIENT.reset(outer)
    except ValueError:
        pass


class Expiry:
    """Cancels the task that entered it at `when`, and raises `error()` in place of that cancel.

    A cancel by somebody else passes as it is, also when both arrive together; so does every error of
    the body. A body that ignores its cancellation is waited for: no task is ever abandoned.
    Within, `when` is the ambient deadline, unless there is an earlier one.
    """

    __slots__ = ("_before", "_cancelling", "_error", "_handle", "_outer", "_task", "_when", "expired")

    _task: asyncio.Task[object]

    def __init__(self, when: float, error: Callable[[], TimedOut]) -> None:
        self._when = when
        self._error = error
        self._before = 0
        self.expired = False

    def __enter__(self) -> Expiry:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task to cancel; there is none running")
        self._task = task
        self._cancelling = task.cancelling()
        self._handle = task.get_loop().call_at(self._when, self._expire)
        outer = AMBIENT.get()
        self._outer = AMBIENT.set(self._when if outer is None else min(outer, self._when))
        return self

    def _expire(self) -> None:
        self.expired = True
        self._before = cut_off(self._task)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handle.cancel()
        leave(self._outer)
        task = self._task
        del self._task  # it will hold the error, whose traceback holds this object
        ours = self.expired and is_own_cancel(task, self._cancelling, error, self._before)
        del task
        if ours:
            raise self._error() from error


def cut_off(task: asyncio.Task[Any]) -> int:
    """Cancel `task`; what is returned is for `is_own_cancel`.

    It is the task's count of cancels where that count can be wrong, if none is on its way: then what it
    shows may be the rest of a TaskGroup that failed.
    """
    before = 0 if COUNT_IS_RIGHT else _left_over(task)
    if before:
        task.cancel(_Cut(before))
    else:
        task.cancel()
    return before


def is_own_cancel(
    task: asyncio.Task[Any], cancelling: int, error: BaseException | None, before: int = 0
) -> bool:
    """After we cancelled `task` once: take that back, and tell whether `error` is due to it alone.

    `cancelling` is `task.cancelling()` from before the body began: a higher count now means that
    somebody else wants this task to end too, and theirs wins; unless it was as high `before`, as
    `cut_off` says, and the body was not cleaning up after an earlier cancel.
    """
    count = task.uncancel()
    if not isinstance(error, asyncio.CancelledError) or count > max(cancelling, before):
        return False
    earlier = error.__context__
    return (
        count <= cancelling
        or not isinstance(earlier, asyncio.CancelledError)
        or any(isinstance(message, _Cut) for message in earlier.args)
    )


class _Cut(int):
    """The message of our own cancel: for a second limit that ends at the same moment."""


def _left_over(task: asyncio.Task[Any]) -> int:
    """`task.cancelling()`, or 0 if somebody else's cancel is on its way to the task's code."""
    on_its_way = _pending_cancel(task)
    if on_its_way is None:
        return task.cancelling()
    message = getattr(on_its_way, "_cancel_message", None)
    return message if isinstance(message, _Cut) else 0


def _pending_cancel(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """What bears a cancel that the task's code has not seen yet: the task, or what it waits for."""
    if getattr(task, "_must_cancel", False):
        return task
    waits_for: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    if waits_for is None:
        return None
    if isinstance(waits_for, asyncio.Task) and not waits_for.done():
        return waits_for if waits_for.cancelling() else None
    return waits_for if waits_for.cancelled() or getattr(waits_for, "_cancel_requested", False) else None


class deadline:  # noqa: N801 - a context manager that reads like a statement
    """`with deadline(seconds):` limits the body, and everything it calls, to so many seconds.

    Raises `DeadlineExceeded` (a `TimedOut`, a `TimeoutError`) when the time is up, at the body's
    current await. Only ever shortens: under an earlier deadline that one holds. None sets no new
    limit, for a deadline that a caller may or may not have sent.
    """

    __slots__ = ("_entered", "_expiry", "_seconds")

    def __init__(self, seconds: float | timedelta | None) -> None:
        self._seconds = (
            None if seconds is None else arguments.duration("deadline: seconds", seconds, zero=True)
        )
        self._entered = False
        self._expiry: Expiry | None = None

    def __enter__(self) -> deadline:
        if self._entered:
            raise RuntimeError("a deadline is entered once: write a new deadline(...) each time")
        self._entered = True
        when = AMBIENT.get()
        if self._seconds is not None:
            mine = asyncio.get_running_loop().time() + self._seconds
            when = mine if when is None else min(when, mine)
        if when is not None:
            self._expiry = Expiry(when, self._error).__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._expiry is not None:
            self._expiry.__exit__(kind, error, traceback)

    @property
    def expired(self) -> bool:
        """Whether this deadline has cut its body off."""
        return self._expiry is not None and self._expiry.expired

    def _error(self) -> DeadlineExceeded:
        limit = "an outer deadline" if self._seconds is None else f"{self._seconds:g} s"
        return DeadlineExceeded(f"the deadline ({limit}, or an earlier one around it) has passed")
