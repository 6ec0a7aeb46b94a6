"""Where the state of a breaker goes: the store for its backend."""

from __future__ import annotations

from collections.abc import Callable

from aresilience.backend import Backend, MemoryBackend
from aresilience.breaker.machine import Rules
from aresilience.breaker.memory import MemoryBreakerStore
from aresilience.breaker.store import BreakerStore
from aresilience.clock import LoopClock
from aresilience.errors import BackendError

__all__ = ["store_on"]


def store_on(
    backend: Backend | None,
    name: str,
    key: str | None,
    rules: Rules,
    clock: LoopClock,
    *,
    changed: Callable[[], None],
    degraded: Callable[[BackendError], None],
) -> BreakerStore:
    """The store of a breaker, or of one key of a family. `changed` is called when its circuit may differ."""
    if backend is None:
        return MemoryBreakerStore(rules, clock)
    if isinstance(backend, MemoryBackend):
        if key is not None:  # a family keeps its own keys, and forgets them
            return MemoryBreakerStore(rules, clock)
        shared = backend.shared("breaker", name, lambda: MemoryBreakerStore(rules, clock))
        shared.watch(changed)
        return shared
    from aresilience.backend.redis import RedisBackend

    if not isinstance(backend, RedisBackend):
        raise TypeError(f"CircuitBreaker: backend must come from ar.connect(…), got {backend!r}")
    from aresilience.breaker.redis import RedisBreakerStore

    parts = (name,) if key is None else (name, key)
    return RedisBreakerStore(backend, parts, rules, clock, changed=changed, degraded=degraded)
