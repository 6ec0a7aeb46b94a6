"""Where records go: the store for a backend."""

from __future__ import annotations

from aresilience.backend import Backend, MemoryBackend
from aresilience.idempotency.memory import MemoryIdempotencyStore
from aresilience.idempotency.store import IdempotencyStore

__all__ = ["store_on"]


def store_on(backend: Backend, name: str) -> IdempotencyStore:
    """The store of that name."""
    if isinstance(backend, MemoryBackend):
        memory = backend
        return backend.shared(
            "idempotency", name, lambda: MemoryIdempotencyStore(memory.keeper.now, memory.max_keys)
        )
    from aresilience.backend.redis import RedisBackend

    if not isinstance(backend, RedisBackend):
        raise TypeError(f"Idempotency: backend must come from ar.connect(…), got {backend!r}")
    from aresilience.idempotency.redis import RedisIdempotencyStore

    return RedisIdempotencyStore(backend, name)
