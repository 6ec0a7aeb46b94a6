"""A proxy in front of a server, and a backend that sees the server only through it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from servers import RedisServer

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.testing.proxy import FaultProxy


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FaultProxy]:
    """In front of `redis_server`."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: FaultProxy) -> AsyncIterator[RedisBackend]:
    """An open backend whose only connection goes through `proxy`; its deadline is long."""
    backend = connect(f"redis://127.0.0.1:{proxy.port}", deadline=3.0)
    assert isinstance(backend, RedisBackend)
    async with backend:
        yield backend


@pytest.fixture
async def hurried(proxy: FaultProxy) -> AsyncIterator[RedisBackend]:
    """The same with a deadline of 0.2 s, for faults that last until then."""
    backend = connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.2)
    assert isinstance(backend, RedisBackend)
    async with backend:
        yield backend
