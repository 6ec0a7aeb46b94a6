"""Bulkhead: so many calls at once, so many waiting, and no more.

What it is for: one slow dependency must not take every task, connection and byte of memory that the
service has.

Use: `ar.Bulkhead(10, max_waiting=100, max_wait=1.0)`; `async with bulkhead:` guards a block.

Defaults: nobody waits (`max_waiting=0`), so a full bulkhead refuses at once; those who may wait do so
for as long as `max_wait`, by default without a limit, but never past the ambient deadline.

Events: `CallRejected`.

The queue is FIFO and a permit passes from hand to hand: who comes later never overtakes. A
cancelled waiter leaves the queue; a permit is given back on every exit. With bulkhead(10,
max_waiting=100) 110 calls are inside; the 111th is refused.

What not to do: enter the same bulkhead twice in one call. With every permit held by a caller that
waits for a second one, nothing moves until `max_wait`. Share one between event loops that run at the
same time, in threads: its queue belongs to one loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.clock import LoopClock
from aresilience.deadline import ambient
from aresilience.errors import Rejected
from aresilience.events import CallRejected, Listener
from aresilience.policy import Layer, Policy
from aresilience.timers import EqualTimers

__all__ = ["Bulkhead", "BulkheadFull"]

P = ParamSpec("P")
T = TypeVar("T")
_Waiter = asyncio.Future[bool]


class BulkheadFull(Rejected):
    """Every permit is taken, and the queue is full or the wait was too long."""


class Bulkhead(Policy):
    """At most `max_concurrent` calls at once, with a bounded FIFO queue behind them."""

    __slots__ = (
        "_clock",
        "_max_wait",
        "_max_waiting",
        "_permits",
        "_running",
        "_timers",
        "_waiters",
    )

    layer = Layer.BULKHEAD
    refusal = BulkheadFull

    def __init__(
        self,
        max_concurrent: int,
        *,
        max_waiting: int = 0,
        max_wait: float | timedelta | None = None,
        name: str | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        self._permits = arguments.count("Bulkhead: max_concurrent", max_concurrent)
        self._max_waiting = arguments.count("Bulkhead: max_waiting", max_waiting, least=0)
        if max_wait is not None:
            max_wait = arguments.duration("Bulkhead: max_wait", max_wait)
            if self._max_waiting == 0:
                raise ValueError("Bulkhead: max_wait needs max_waiting of at least 1, got 0")
        self._max_wait: float | None = max_wait
        self._running = 0
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._timers: EqualTimers[_Waiter, _Waiter] | None = None
        self._clock = LoopClock()

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._running < self._permits:
                self._running += 1
            else:
                await self._wait()
            try:
                return await fn(*args, **kwargs)
            finally:
                if self._waiters:
                    self._hand_over()
                else:
                    self._running -= 1

        return bounded

    async def __aenter__(self) -> None:
        if self._running < self._permits:
            self._running += 1
        else:
            await self._wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hand_over()

    @property
    def running(self) -> int:
        """Calls inside now."""
        return self._running

    @property
    def waiting(self) -> int:
        """Callers in the queue now."""
        return len(self._waiters)

    def _hand_over(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            # A loop that was stopped and closed leaves waiters behind that nothing can wake.
            if not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(True)
                return
        self._running -= 1

    async def _wait(self) -> None:
        """Come back with a permit, or with `BulkheadFull`."""
        if len(self._waiters) >= self._max_waiting:
            raise self._refuse("is full")
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        self._waiters[waiter] = None
        stop = self._limit(loop, waiter)
        try:
            granted = await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self._hand_over()  # the permit and the cancel came together
            raise
        finally:
            self._waiters.pop(waiter, None)
            if stop is not None:
                stop()
        if not granted:
            raise self._refuse("had no permit in time")

    def _limit(self, loop: asyncio.AbstractEventLoop, waiter: _Waiter) -> Callable[[], object] | None:
        """Let the wait end at `max_wait` or at the ambient deadline; returns what calls that off."""
        deadline = ambient()
        if deadline is not None and (self._max_wait is None or deadline < loop.time() + self._max_wait):
            return loop.call_at(deadline, self._give_up, waiter).cancel
        if self._max_wait is None:
            return None
        timers = self._timers
        if timers is None or timers.loop is not loop:
            timers = self._timers = EqualTimers(loop, self._max_wait, lambda _, late: self._give_up(late))
        timers.start(waiter, waiter)
        return partial(timers.stop, waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        if not waiter.done():
            self._waiters.pop(waiter, None)  # its place is free from now on, not from its next step on
            waiter.set_result(False)

    def _refuse(self, why: str) -> BulkheadFull:
        if self._listeners:
            self._listeners.tell(CallRejected(self.name, self._clock.read(), None))
        return BulkheadFull(
            f"bulkhead {self.name!r} {why}: {self._running} of {self._permits} running, "
            f"{len(self._waiters)} of {self._max_waiting} waiting"
        )

    def __repr__(self) -> str:
        return (
            f"<Bulkhead {self.name!r} {self._running}/{self._permits} running, "
            f"{len(self._waiters)}/{self._max_waiting} waiting>"
        )
