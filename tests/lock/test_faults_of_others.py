"""What goes wrong in other libraries' locks, verified there, and does not here."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from servers import eventually

import aresilience as ar
from aresilience.lock.desk import desk_of
from aresilience.lock.store import Grant
from aresilience.testing import FaultyBackend, Recorder
from aresilience.testing.faulty import Fault

if TYPE_CHECKING:
    from servers import RedisServer, SentinelTrio

redis = pytest.mark.redis
real_time = pytest.mark.real_time


async def test_redis_py_a_task_releases_the_lock_of_another() -> None:
    """redis-py: the token is the thread's, so B releases what A holds. Here the lease is the right."""
    lock = ar.Lock("a")
    async with lock as lease:

        async def another() -> None:
            assert await lock.try_acquire() is None
            with pytest.raises(RuntimeError, match="has not entered it"):
                await lock.__aexit__(None, None, None)

        await asyncio.ensure_future(another())
        lease.check()
        assert await lock.holder() is not None


async def test_redis_py_after_its_end_a_releases_what_b_holds() -> None:
    """redis-py: after the expiry A's release takes B's lock. Here A is told, and B keeps it."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=1.0, backend=backend)
        mine = await lock.acquire()
        backend.plan(Fault.NOT_SENT, verb="renew", times=20)
        await asyncio.sleep(1.5)
        backend.heal()
        theirs = await lock.acquire()
        with pytest.raises(ar.LockLost):
            await mine.release()
        await asyncio.sleep(5)
        theirs.check()


async def test_redis_py_nobody_is_told_of_the_end() -> None:
    """redis-py, python-redis-lock, Redisson: no signal. Here the body is cancelled, an event told."""
    seen = Recorder()
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=1.0, backend=backend, listeners=[seen])
        backend.plan(Fault.NOT_SENT, verb="renew", times=20)
        with pytest.raises(ar.LockLost):
            async with lock:
                await asyncio.sleep(60)
    assert len(seen.of(ar.LeaseLost)) == 1


@redis
@real_time
async def test_redis_py_polls(two: tuple[ar.Backend, ar.Backend], redis_server: RedisServer) -> None:
    """redis-py: 11 SETs while another holds it for a second. Here two questions, and a push."""
    mine, theirs = (ar.Lock("a", backend=backend) for backend in two)
    async with theirs:
        pass
    redis_server.command("CONFIG", "RESETSTAT")
    async with mine:
        waiting = asyncio.ensure_future(theirs.acquire())
        await asyncio.sleep(1.0)
    await (await waiting).release()
    # Two for ours, three questions, one release; and what of ten seconds' looks falls into this one.
    assert redis_server.calls("evalsha") + redis_server.calls("eval") <= 8


async def test_redis_py_gives_up_early() -> None:
    """redis-py: no last try if the next sleep would pass the timeout. Here it is had."""
    lock = ar.Lock("a")
    loop = asyncio.get_running_loop()
    lease = await lock.acquire()
    waiting = asyncio.ensure_future(ar.Lock("a").acquire(timeout=1.0))
    await asyncio.sleep(0.999)
    await lease.release()
    await (await waiting).release()
    assert loop.time() < 1.0


@redis
@real_time
async def test_redis_py_a_connection_for_each_caller(redis_server: RedisServer) -> None:
    """redis-py: 90 callers, 89 connections. Here two, one of them for wake-ups, however many ask."""
    async with ar.connect(redis_server.url, deadline=2.0) as backend:
        lock = ar.Lock("a", backend=backend)

        async def section() -> None:
            async with lock:
                await asyncio.sleep(0)

        await asyncio.gather(*(section() for _ in range(90)))
        assert len(redis_server.clients()) <= 2


async def test_pottery_extends_what_is_over() -> None:
    """pottery, aioredlock: extend does not look, or takes it again. Here there is nothing to renew."""
    async with ar.connect("memory://") as backend:
        lock = ar.Lock("a", ttl=1.0, backend=backend)
        store = desk_of(backend, "Lock").store
        ask = lock._ask()
        grant = await store.acquire(ask, False)
        assert isinstance(grant, Grant)
        lease = lock.new_lease(desk_of(backend, "Lock"), ask, grant, False)
        await asyncio.sleep(2)
        assert await store.renew([lease]) == [None]
        assert await lock.holder() is None


@pytest.mark.parametrize("timeout", [0.5, 0.001, 1.999])
async def test_python_redis_lock_makes_half_a_second_for_ever(timeout: float) -> None:
    """python-redis-lock: `acquire(timeout=0.5)` becomes `int(0.5)`: for ever. Here it is what it says."""
    loop = asyncio.get_running_loop()
    held = await asyncio.ensure_future(ar.Lock("a").acquire())
    began = loop.time()
    with pytest.raises(ar.LockTimeout):
        await ar.Lock("a").acquire(timeout=timeout)
    assert loop.time() - began == pytest.approx(timeout)
    await held.release()


async def test_python_redis_lock_stops_renewing_without_a_word() -> None:
    """python-redis-lock: its renewal thread dies of an error. Here errors are survived."""
    async with FaultyBackend() as backend:
        lock = ar.Lock("a", ttl=10.0, backend=backend)
        async with lock as lease:
            for fault in (Fault.NOT_SENT, Fault.REFUSED, Fault.LOST_REQUEST, Fault.LOST_REPLY, Fault.LATE):
                backend.plan(fault, fault, verb="renew")
                await asyncio.sleep(20)
                lease.check()


@redis
@real_time
@pytest.mark.timeout(60)
async def test_redisson_the_watchdog_stops_after_a_failover(redis_sentinel: SentinelTrio) -> None:
    """Redisson: renewal stops after a failover. Here it goes on at the new master."""
    async with ar.connect(redis_sentinel.url, deadline=0.3) as backend:
        lock = ar.Lock("a", ttl=8.0, wait_replicas=1, backend=backend)

        async def acquired() -> ar.Lease | None:
            try:
                return await lock.try_acquire()
            except ar.BackendError:
                return None

        lease = await eventually(acquired)
        redis_sentinel.master.kill()
        await asyncio.sleep(9)
        lease.check()
        await lease.release()


@redis
@real_time
async def test_coredis_deletes_what_another_holds(
    redis_backend: ar.Backend, redis_server: RedisServer
) -> None:
    """coredis: on a replication error an unconditional DEL. Here what is given back is only ours."""
    async with ar.Lock("a", backend=redis_backend) as lease:
        with pytest.raises(ar.LockTimeout):
            await ar.Lock("a", wait_replicas=3, wait=0.1, backend=redis_backend).acquire(timeout=0)
        lease.check()
        assert await ar.Lock("a", backend=redis_backend).holder() is not None


@redis
@real_time
async def test_l8_a_thousand_waiters_and_the_holder_dies(
    two: tuple[ar.Backend, ar.Backend], redis_server: RedisServer
) -> None:
    """L8: one has it within the ttl, the others wait, are served in order, and few commands are needed."""
    theirs = ar.Lock("a", ttl=0.3, backend=two[0])
    assert isinstance(await desk_of(two[0], "Lock").store.acquire(theirs._ask(), False), Grant)
    mine = ar.Lock("a", ttl=5.0, backend=two[1])
    redis_server.command("CONFIG", "RESETSTAT")
    served = 0

    async def section() -> None:
        nonlocal served
        async with mine:
            served += 1

    began = time.monotonic()
    tasks = [asyncio.ensure_future(section()) for _ in range(1000)]
    await eventually(lambda: served > 0)
    assert time.monotonic() - began < 3.0
    await asyncio.gather(*tasks[:100])
    assert not tasks[-1].done()
    assert redis_server.calls("evalsha") + redis_server.calls("eval") <= 2 * served + 20
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await (await mine.acquire()).release()
