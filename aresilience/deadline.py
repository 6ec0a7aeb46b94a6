"""The ambient deadline, and the one way in which this package cancels a body that took too long.

    with ar.deadline(5.0):          # everything below has five seconds, together
        ...
        ar.time_remaining()         # what is left: to pass on to the next service

A deadline inside a deadline can only shorten it. Tasks created in the body inherit it: their waits
and timeouts shrink to it, and the body's own task is cancelled when it is reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import timedelta
from types import TracebackType

from aresilience import arguments
from aresilience.errors import DeadlineExceeded, TimedOut

__all__ = ["AMBIENT", "Expiry", "ambient", "deadline", "leave", "time_remaining"]

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

    __slots__ = ("_cancelling", "_error", "_handle", "_outer", "_task", "_when", "expired")

    def __init__(self, when: float, error: Callable[[], TimedOut]) -> None:
        self._when = when
        self._error = error
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
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handle.cancel()
        leave(self._outer)
        if self.expired and is_own_cancel(self._task, self._cancelling, error):
            raise self._error() from error


def is_own_cancel(task: asyncio.Task[object], cancelling: int, error: BaseException | None) -> bool:
    """After we cancelled `task` once: take that back, and tell whether `error` is due to it alone.

    `cancelling` is `task.cancelling()` from before the body began: a higher count now means that
    somebody else wants this task to end too, and theirs wins.
    """
    return task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError)


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
