"""The most common limit of all, a bucket in this process, around a function.

A call that is admitted should cost next to nothing, so the table lends it the bucket's state: a float of whole
microseconds, with which CPython calculates much faster than with an integer of that size. All numbers are whole
and below 2**53, so the arithmetic is that of `Gcra`. Whoever else wants to see the state takes it back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from aresilience.events import Listeners
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.memory import Lent, MemoryLimiterStore
from aresilience.limiter.store import Meter

__all__ = ["around_a_bucket"]

P = ParamSpec("P")
T = TypeVar("T")

_EXACT = 2**52


def around_a_bucket(
    fn: Callable[P, Awaitable[T]],
    store: MemoryLimiterStore,
    meter: Meter,
    listeners: Listeners,
    admit: Callable[[], Awaitable[None]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """`Gcra.earliest` and `take` in place, for a yes that nobody wants to hear of; `admit` does the rest."""
    clock, table = store.clock, store.table(meter)
    lent, step, depth = Lent(), 0.0, 0.0

    def borrow() -> None:
        nonlocal step, depth
        bucket = meter.algorithm
        if not isinstance(bucket, Gcra) or bucket.scale != 1 or bucket.depth > _EXACT:
            return
        if clock.is_stock and store.shift == 0:
            step, depth = float(bucket.step), float(bucket.depth)
            table.lend(lent)

    async def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        if clock.is_running() and not listeners.each:
            now, full = clock.now() * 1e6, lent.state
            if full > now:
                full += step
                if full - depth <= now:
                    lent.state = full
                    return await fn(*args, **kwargs)
            else:
                lent.state = now // 1.0 + step
                return await fn(*args, **kwargs)
        await admit()
        borrow()
        return await fn(*args, **kwargs)

    return limited
