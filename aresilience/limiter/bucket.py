"""The most common limit of all, a bucket in this process, around a function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from aresilience.events import Listeners
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.memory import MemoryLimiterStore
from aresilience.limiter.store import Meter

__all__ = ["around_a_bucket"]

P = ParamSpec("P")
T = TypeVar("T")


def around_a_bucket(
    fn: Callable[P, Awaitable[T]],
    store: MemoryLimiterStore,
    meter: Meter,
    listeners: Listeners,
    admit: Callable[[], Awaitable[None]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """`Gcra.earliest` and `take` in place, for a yes that nobody wants to hear of; `admit` does the rest."""
    clock, states = store.clock, store.table(meter).states
    algorithm, step, depth, scale = meter.algorithm, 0, 0, 0

    async def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal algorithm, step, depth, scale
        now = clock.nanos() // 1000 + store.shift if clock.is_running() else store.now()
        if meter.algorithm is not algorithm or not step:  # the first call, or set_rate
            bucket: Gcra = meter.algorithm  # type: ignore[assignment]
            algorithm, step, depth, scale = bucket, bucket.step, bucket.depth, bucket.scale
        if scale != 1:
            now *= scale
        full = states.get("")
        if full is None or listeners.each:
            await admit()
        elif full <= now - scale:
            states[""] = now + step
        elif full + step - now <= depth:
            states[""] = full + step
        else:
            await admit()
        return await fn(*args, **kwargs)

    return limited
