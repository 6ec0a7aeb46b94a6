"""The rights that the README says a Redis user needs are enough, for everything that is built so far."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aresilience as ar
from aresilience.limiter import acquire_all
from aresilience.testing import Recorder

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

README = Path(__file__).parents[2] / "README.md"
RULE = re.search(r"^ACL SETUSER service (.+)$", README.read_text(), re.MULTILINE)


async def test_v6_the_rights_in_the_readme_are_enough(start_redis: Callable[..., RedisServer]) -> None:
    """V6: limits of every algorithm, reservations, a shared breaker, all kinds of locks, and sagas work."""
    assert RULE is not None
    server = start_redis()
    assert server.command("ACL", "SETUSER", "service", *RULE[1].split()) == "OK"
    url = server.url.replace("//", "//service:password@")
    seen = Recorder()
    async with ar.connect(url, deadline=2.0) as backend, ar.connect(url, deadline=2.0) as other:
        limits = [
            ar.RateLimiter("5/min", algorithm=a, name=a, on_store_error="raise", backend=backend)  # type: ignore[arg-type]
            for a in ("gcra", "sliding_window", "fixed_window", "sliding_log")
        ]
        assert len(await acquire_all(*((limit, "k") for limit in limits))) == 4
        for limit in limits:
            await (await limit.reserve("k")).cancel()
            await (await limit.reserve("k")).settle(2)
            assert (await limit.peek("k")).remaining == 2
        one = ar.CircuitBreaker("x", failure_threshold=1, backend=backend, listeners=[seen])
        two = ar.CircuitBreaker("x", failure_threshold=1, backend=other, listeners=[seen])
        await one.isolate()
        while two.state is not ar.BreakerState.ISOLATED:
            await asyncio.sleep(0.002)
        async with (
            ar.Lock("a", backend=backend, wait_replicas=0),
            ar.Lock("b", fair=True, backend=backend),
            ar.Semaphore("c", permits=2, ttl=1.0, backend=backend) as permit,
            ar.ReadWriteLock("d", backend=backend).write(),
            ar.LeaderElection("e", backend=backend).campaign() as leadership,
        ):
            await leadership.proclaim("here")
            for name in "ab":
                assert await ar.Lock(name, fair=name == "b", backend=other).try_acquire() is None
                assert await ar.Lock(name, backend=other).holder() is not None
            assert await ar.ReadWriteLock("d", backend=other).read().try_acquire() is None
            guard = ar.FencedGuard("f", backend=backend)
            await guard.write("k", "v", permit)
            assert (await guard.read("k"))[0] == b"v"
            await asyncio.sleep(1.2)
            permit.check()
        idem = ar.Idempotency(name="i", lease=0.3, backend=backend)
        await asyncio.gather(idem.run("k", asyncio.sleep, 0.5, 1), idem.run("k", asyncio.sleep, 0.5, 1))
        async with idem.claim("l") as claim:
            assert len(await idem.in_flight()) == 1
            claim.release()
        assert await idem.get("k") is not None
        assert await idem.evict("k")
        with pytest.raises(ar.Refused, match="0 of 1 replicas"):
            await ar.Lock("g", wait_replicas=1, backend=backend).acquire()
        await sagas_work(backend, other)
        await two.reset()
        while one.state is not ar.BreakerState.CLOSED:
            await asyncio.sleep(0.002)
        here, there = (ar.ServiceRegistry(ttl=0.5, resync=0.1, backend=each) for each in (backend, other))
        await here.announce(ar.Instance("users", "h", 1), ttl=0.2)
        async with here.register(ar.Instance("users", "h", 2), propagation=0) as registration:
            while len(await there.discover("users")) != 1 or there.snapshot("users").held:
                await asyncio.sleep(0.01)
            assert registration.registered
            assert await there.services() == ("users",)
    assert not seen.of(ar.StoreDegraded)


async def sagas_work(backend: ar.Backend, other: ar.Backend) -> None:
    """Done, undone, aborted, stuck, skipped, taken over, listed, forced; and a barrier."""
    for one in (backend, other):
        saga = ar.Saga("s", lease=0.2, backend=one)
        barrier = ar.SagaBarrier("b", backend=one)

        @saga.step
        async def a(ctx: ar.SagaContext[str], barrier: ar.SagaBarrier = barrier) -> None:
            await barrier.run(ctx.idempotency_key, "return 1")

        @a.compensate(attempts=1)
        async def undo(ctx: ar.SagaContext[str], result: None) -> None:
            if ctx.input == "stuck":
                raise OSError

        @saga.step
        async def b(ctx: ar.SagaContext[str]) -> None:
            if ctx.input == "slow":
                await asyncio.sleep(0.3)
            elif ctx.input != "good":
                raise ar.Fail

    assert (await saga.run("good")).last is None
    with pytest.raises(ar.SagaStuck):
        await saga.run("stuck", id="stuck")
    with pytest.raises(ar.SagaFailed):
        await (await saga.skip("stuck", a)).result()
    slow = await saga.start("slow", id="slow")
    assert await slow.abort()
    with pytest.raises(ar.SagaFailed):
        await slow.result()
    await saga.start("slow", id="forced")
    await saga.force("forced", "enough")
    async with saga.worker():
        assert len([record async for record in saga.list()]) == 4
