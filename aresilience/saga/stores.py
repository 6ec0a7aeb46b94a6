"""Where the journals of a definition are: the store for its backend."""

from __future__ import annotations

from aresilience.backend import Backend, MemoryBackend
from aresilience.saga.memory import MemorySagaStore
from aresilience.saga.store import SagaStore

__all__ = ["store_on"]


def store_on(backend: Backend, name: str) -> SagaStore:
    """The store of all sagas of a name on a backend."""
    store: SagaStore
    if isinstance(backend, MemoryBackend):
        store = backend.shared("saga", name, lambda: MemorySagaStore(backend.keeper, backend.max_keys))
        return store
    from aresilience.backend.redis import RedisBackend

    if not isinstance(backend, RedisBackend):
        raise TypeError(f"Saga: backend must come from ar.connect(…), got {backend!r}")
    from aresilience.saga.redis import RedisSagaStore

    store = backend.shared("saga", name, lambda: RedisSagaStore(backend, name))
    return store
