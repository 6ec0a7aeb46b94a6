"""What a process makes of a shared circuit's news, over Redis: two backends stand for two processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from aresilience import (
    BackendError,
    BreakerChanged,
    BreakerState,
    CircuitBreaker,
    CircuitOpen,
    connect,
)
from aresilience.backend import Backend
from aresilience.testing import FaultProxy, Recorder

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

CLOSED, OPEN, HALF_OPEN, ISOLATED = (
    BreakerState.CLOSED,
    BreakerState.OPEN,
    BreakerState.HALF_OPEN,
    BreakerState.ISOLATED,
)


async def fails() -> None:
    """What is down."""
    raise ConnectionError("down")


async def opens(breaker: CircuitBreaker) -> None:
    """Let it see the one failure that opens it."""
    with pytest.raises(ConnectionError):
        await breaker.call(fails)
    assert breaker.state is not CLOSED


async def until(holds: Callable[[], object]) -> None:
    """Wait for news."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)


async def back(backend: Backend) -> None:
    """Wait until Redis answers again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await backend.ping()
                return
            except BackendError:
                await asyncio.sleep(0.01)


async def test_b7_another_state_of_the_same_generation_is_news(redis_server: RedisServer) -> None:
    """B7: opened alone, while it was isolated for the others: what is there when Redis is back is told."""
    async with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1) as cut,
        connect(redis_server.url, deadline=1.0) as fine,
    ):
        one, two = (
            CircuitBreaker("b", failure_threshold=1, recovery_timeout=0.02, backend=each)
            for each in (cut, fine)
        )
        told = Recorder()
        one.listen(told)
        proxy.refuse()
        proxy.cut()
        await opens(one)
        await two.isolate()
        await proxy.heal()
        await back(cut)
        await until(
            lambda: one.state in (HALF_OPEN, ISOLATED)
        )  # the next call asks, if no news came before
        with pytest.raises(CircuitOpen, match="circuit 'b' is isolated until it is reset"):
            await one.call(fails)
        assert [(e.old, e.new) for e in told.of(BreakerChanged)] == [(CLOSED, OPEN), (OPEN, ISOLATED)]


async def test_b7_an_idle_process_undoes_nothing_after_a_loss(redis_server: RedisServer) -> None:
    """B7: flushed, then opened by a process that knows no history: those with a longer one follow it."""
    async with (
        connect(redis_server.url, deadline=1.0) as old,
        connect(redis_server.url, deadline=1.0) as new,
    ):
        idle = CircuitBreaker("b", failure_threshold=1, backend=old)
        for _ in range(3):
            await opens(idle)
            await idle.reset()
        redis_server.command("FLUSHALL")
        fresh = CircuitBreaker("b", failure_threshold=1, backend=new)
        await opens(fresh)
        await until(lambda: idle.state is OPEN)
        assert fresh.state is OPEN


async def test_a_probe_that_is_closed_gives_its_place_back(redis_server: RedisServer) -> None:
    """A coroutine that is closed while it probes cannot wait for Redis; its place is given back anyway."""
    async with connect(redis_server.url, deadline=1.0) as backend:
        breaker = CircuitBreaker(
            "b", failure_threshold=1, recovery_timeout=0.02, probe_timeout=60, backend=backend
        )
        await opens(breaker)
        await until(lambda: breaker.state is HALF_OPEN)
        inside = asyncio.Event()

        async def probe() -> None:
            inside.set()
            await asyncio.get_running_loop().create_future()

        call = breaker.call(probe)
        admitted = call.send(None)
        await asyncio.wait([admitted])
        call.send(None)
        assert inside.is_set()
        assert breaker.snapshot().probes == 1
        call.close()
        await until(lambda: breaker.snapshot().probes == 0)
        assert breaker.state is HALF_OPEN
