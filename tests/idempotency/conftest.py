"""Two processes' worth of backends on one server, and a proxy before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

import aresilience as ar
from aresilience.testing import FaultProxy

if TYPE_CHECKING:
    from servers import RedisServer


@pytest.fixture
async def two(redis_server: RedisServer) -> AsyncIterator[tuple[ar.Backend, ar.Backend]]:
    """Two open backends on one server, which stand for two processes."""
    async with (
        ar.connect(redis_server.url, deadline=2.0) as one,
        ar.connect(redis_server.url, deadline=2.0) as other,
    ):
        yield one, other


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FaultProxy]:
    """In front of `redis_server`."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy
