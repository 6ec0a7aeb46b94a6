"""Timeout: a limit for one call.

Use: `ar.Timeout(1.0)` innermost, around each attempt, so that a hang is a failure that a breaker
counts and a retry repeats; a second one further out, or `ar.deadline`, limits the whole.

Defaults: none; the limit must be chosen.

Events: `TimeoutExpired`.

Three things are told apart: its own expiry (`TimedOut`), a `TimeoutError` of the call (passes as it
is) and a cancel from outside (passes as it is). Under an ambient deadline that is nearer than its own
limit, that deadline ends the call, with `DeadlineExceeded`. When the deadline has already passed the
call is not made. For what runs inside, the limit is the ambient deadline: a retry does not begin a
wait that would overrun it, and `ar.time_remaining()` tells it.

What not to do: rely on it to stop code that never awaits, or that ignores cancellation; such a call
is waited for, because an abandoned task is worse.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from asyncio import current_task
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.deadline import AMBIENT, Expiry, ambient, cut_off, is_own_cancel, leave
from aresilience.errors import DeadlineExceeded, TimedOut
from aresilience.events import Event, Listener
from aresilience.policy import Layer, Policy
from aresilience.timers import EqualTimers

__all__ = ["Timeout", "TimeoutExpired"]

P = ParamSpec("P")
T = TypeVar("T")
_Task = asyncio.Task[Any]


@dataclass(frozen=True, slots=True)
class TimeoutExpired(Event):
    """A call was cut off after `seconds`: the limit, or what an ambient deadline left of it.

    0 if that deadline had passed, so that the call was not made.
    """

    seconds: float


class _Timers(EqualTimers[int, _Task]):
    """One loop's timers, and the thread that they belong to."""

    __slots__ = ("before", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        super().__init__(loop, seconds, self._cut_off)
        self.thread = get_ident()
        self.before: dict[int, int] = {}
        """What `cut_off` returned for a call, unless that was 0."""

    def _cut_off(self, key: int, task: _Task) -> None:
        before = cut_off(task)
        if before:
            self.before[key] = before


class Timeout(Policy):
    """Cancels a call that takes longer than `seconds`, and raises `TimedOut`."""

    __slots__ = ("_timers", "seconds")

    layer = Layer.TIMEOUT

    def __init__(
        self,
        seconds: float | timedelta,
        *,
        name: str | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        self.seconds = arguments.duration("Timeout: seconds", seconds)
        self._timers: _Timers | None = None

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            timers = self._timers
            # Asking the kept loop for its task is a third of the price of asking for the loop.
            if (
                timers is None
                or timers.thread != get_ident()
                or (task := current_task(timers.loop)) is None
            ):
                timers, task = self._enter_loop()
            now = timers.now()
            deadline, when = ambient(), now + self.seconds
            if deadline is not None and deadline < when:
                del task  # as below
                return await self._until(deadline, now, fn, args, kwargs)
            cancelling = task.cancelling()
            outer = AMBIENT.set(when)
            entries = timers.entries
            key = id(outer)  # nobody else's while the token lives
            entries[key] = (when, task)
            if not timers.armed:
                timers.arm(when)
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                leave(outer)
                if entries.pop(key, None) is None and is_own_cancel(
                    task, cancelling, error, timers.before.pop(key, 0)
                ):
                    del task  # it will hold the error, whose traceback holds this frame
                    self._tell(self.seconds)
                    raise TimedOut(f"{self.name}: no answer within {self.seconds:g} s") from error
                raise
            AMBIENT.reset(outer)
            if entries.pop(key, None) is None:  # it ignored its cancellation and has an answer
                timers.before.pop(key, None)
                task.uncancel()
            return result

        return limited

    def _enter_loop(self) -> tuple[_Timers, _Task]:
        loop = asyncio.get_running_loop()
        task = current_task(loop)
        if task is None:
            raise RuntimeError("a Timeout needs a task to cancel; there is none running")
        timers = self._timers = _Timers(loop, self.seconds)
        return timers, task

    async def _until(
        self, deadline: float, now: float, fn: Callable[..., Awaitable[T]], args: Any, kwargs: Any
    ) -> T:
        left = max(0.0, deadline - now)

        def expired() -> TimedOut:
            self._tell(left)
            return DeadlineExceeded(f"{self.name}: the ambient deadline has passed")

        if not left:
            raise expired()
        with Expiry(deadline, expired):
            return await fn(*args, **kwargs)

    def _tell(self, seconds: float) -> None:
        if self._listeners:
            now = asyncio.get_running_loop().time()
            self._listeners.tell(TimeoutExpired(self.name, now, seconds))

    def __repr__(self) -> str:
        timed = 0 if self._timers is None else len(self._timers.entries)
        return f"<Timeout {self.name!r} {self.seconds:g} s, {timed} timed now>"
