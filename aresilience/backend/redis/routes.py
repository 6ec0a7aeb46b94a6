"""Which link a key's commands travel over: the one server, the master that the sentinels name, or the
cluster's node that has the slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from redis.asyncio.connection import AbstractConnection

from aresilience.backend.redis.address import Address
from aresilience.backend.redis.cluster import ClusterRoutes
from aresilience.backend.redis.link import Link
from aresilience.backend.redis.sentinel import SentinelRoutes
from aresilience.backend.redis.single import Greet, SingleRoutes

__all__ = ["Routes", "routes_to"]


class Routes(Protocol):
    """The links of a backend."""

    async def start(self) -> None:
        """Find out what can be found out. A server that is away may come back; raises only what will not
        change, a `ConfigurationError`."""

    def link(self, key: bytes | None = None) -> Link: ...

    def slot(self, key: bytes) -> int: ...

    async def connection(self) -> AbstractConnection:
        """A connection of its own, for wake-ups; or an error, within the deadline."""

    async def close(self) -> None: ...

    def abandon(self) -> None: ...


def routes_to(address: Address, *, deadline: float, greet: Greet) -> Routes:
    """The routes for an address."""
    kinds: dict[str, Callable[..., Routes]] = {
        "single": SingleRoutes,
        "sentinel": SentinelRoutes,
        "cluster": ClusterRoutes,
    }
    return kinds[address.kind](address, deadline=deadline, greet=greet)
