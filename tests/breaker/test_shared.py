"""A circuit shared by processes, over Redis: two backends stand for two processes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

import aresilience as ar
from aresilience.testing import FaultProxy, Recorder

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

OPEN, CLOSED, HALF_OPEN = ar.BreakerState.OPEN, ar.BreakerState.CLOSED, ar.BreakerState.HALF_OPEN


async def fails() -> None:
    """What is down."""
    raise ConnectionError("down")


async def works() -> str:
    """What is up."""
    return "up"


async def failing(breaker: ar.CircuitBreaker, times: int) -> None:
    """Let so many calls fail."""
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await breaker.call(fails)


async def until(holds: Any, within: float = 5.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.002)


@pytest.fixture
async def both(redis_server: RedisServer) -> AsyncIterator[tuple[Any, Any]]:
    """Two open backends on one server, both listening for news."""
    async with (
        ar.connect(redis_server.url, deadline=1.0) as one,
        ar.connect(redis_server.url, deadline=1.0) as two,
    ):
        yield one, two


def pair(both: tuple[Any, Any], **options: Any) -> tuple[ar.CircuitBreaker, ar.CircuitBreaker]:
    """The same breaker in two processes."""
    options = {"failure_threshold": 3, "recovery_timeout": 30.0, **options}
    one, two = (ar.CircuitBreaker("payments", backend=backend, **options) for backend in both)
    return one, two


async def heard(both: tuple[Any, Any]) -> None:
    """Both backends have their subscriptions."""
    for backend in both:
        await until(backend._wakeups.connected.is_set)


async def test_what_opens_for_one_opens_for_all(both: tuple[Any, Any]) -> None:
    """Three failures in one process, and the other refuses without having seen any."""
    one, two = pair(both)
    await heard(both)
    await failing(one, 3)
    assert one.state is OPEN
    await until(lambda: two.state is OPEN)
    with pytest.raises(ar.CircuitOpen) as caught:
        await two.call(works)
    assert caught.value.retry_after == pytest.approx(30, abs=2)


async def test_the_closed_path_costs_no_round_trip(
    both: tuple[Any, Any], redis_server: RedisServer
) -> None:
    """A thousand calls through a closed circuit, some of them failing, send nothing."""
    one, _ = pair(both)
    await heard(both)
    await one.call(works)
    await until(lambda: redis_server.calls("evalsha") + redis_server.calls("eval") >= 2)
    before = redis_server.calls("evalsha") + redis_server.calls("eval")
    for _ in range(500):
        await one.call(works)
        await failing(one, 1)
    assert redis_server.calls("evalsha") + redis_server.calls("eval") == before


async def test_probes_are_counted_together(both: tuple[Any, Any]) -> None:
    """Half-open, fifty callers in each of two processes: one probe in all."""
    one, two = pair(both, recovery_timeout=0.05, probe_timeout=30.0)
    await heard(both)
    await failing(one, 3)
    await until(lambda: two.state is not CLOSED)
    await until(lambda: one.state is HALF_OPEN and two.state is HALF_OPEN)
    inside, release = 0, asyncio.Event()

    async def slow() -> None:
        nonlocal inside
        inside += 1
        await release.wait()

    calls = [asyncio.ensure_future(b.call(slow)) for b in (one, two) for _ in range(50)]
    await until(lambda: sum(c.done() for c in calls) == 99)
    assert inside == 1
    release.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(r is None for r in results) == 1
    assert sum(isinstance(r, ar.CircuitOpen) for r in results) == 99


async def test_successes_in_both_close_it_for_both(both: tuple[Any, Any]) -> None:
    """The successes of probes add up over processes; so do failures."""
    one, two = pair(both, recovery_timeout=0.05, success_threshold=2)
    await heard(both)
    await failing(one, 3)
    await until(lambda: one.state is HALF_OPEN and two.state is HALF_OPEN)
    await one.call(works)
    await until(lambda: two.snapshot().circuit is HALF_OPEN)
    while two.state is not CLOSED:
        try:
            await two.call(works)
        except ar.CircuitOpen:
            await asyncio.sleep(0.002)
    await until(lambda: one.state is CLOSED)


async def test_a_cancelled_probe_gives_its_place_back(both: tuple[Any, Any]) -> None:
    """Cancelled while asking, or while calling: the next caller, in any process, can probe."""
    one, two = pair(both, recovery_timeout=0.05, probe_timeout=30.0, success_threshold=1)
    await heard(both)
    await failing(one, 3)
    await until(lambda: one.state is HALF_OPEN and two.state is HALF_OPEN)
    for yields in range(12):
        task = asyncio.ensure_future(one.call(asyncio.Event().wait))
        for _ in range(yields * 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    async with asyncio.timeout(5):
        while True:
            try:
                assert await two.call(works) == "up"
                break
            except ar.CircuitOpen:
                await asyncio.sleep(0.002)
    await until(lambda: one.state is CLOSED)


async def test_isolate_and_reset_reach_all(both: tuple[Any, Any]) -> None:
    """What is done by hand in one process is done in all."""
    one, two = pair(both)
    await heard(both)
    await one.isolate()
    await until(lambda: two.state is ar.BreakerState.ISOLATED)
    await two.reset()
    await until(lambda: one.state is CLOSED)
    assert await one.call(works) == "up"


async def test_b7_without_redis_the_local_state_goes_on(redis_server: RedisServer) -> None:
    """B7: Redis away: the breaker opens, probes and closes in its process, and tells; back: all agree."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with (
            ar.connect(f"redis://127.0.0.1:{proxy.port}", deadline=0.1) as cut,
            ar.connect(redis_server.url, deadline=1.0) as fine,
        ):
            one, two = pair((cut, fine), recovery_timeout=0.05, success_threshold=1)
            await heard((cut, fine))
            seen = Recorder()
            one.listen(seen)
            proxy.refuse()
            proxy.cut()
            await failing(one, 3)
            assert one.snapshot().circuit is OPEN
            assert seen.of(ar.StoreDegraded)
            await until(lambda: one.state is HALF_OPEN)
            assert await one.call(works) == "up"
            assert one.state is CLOSED
            assert two.state is CLOSED
            await failing(one, 3)
            await proxy.heal()
            await until(lambda: two.snapshot().circuit is not CLOSED, within=20)


async def test_b7_a_lost_key_changes_nothing(both: tuple[Any, Any], redis_server: RedisServer) -> None:
    """B7: flushed: the local state goes on, and is put back by who writes next."""
    one, two = pair(both)
    await heard(both)
    await failing(one, 3)
    await until(lambda: two.state is OPEN)
    redis_server.command("FLUSHALL")
    with pytest.raises(ar.CircuitOpen):
        await two.call(works)
    await two.reset()
    await until(lambda: one.state is CLOSED)


async def test_news_that_was_lost_is_read(both: tuple[Any, Any], redis_server: RedisServer) -> None:
    """A message is only a hint: after the connection for them was cut, the state is read."""
    one, two = pair(both)
    await heard(both)
    redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await failing(one, 3)
    await until(lambda: two.state is OPEN, within=20)


async def test_a_family_shares_by_key(both: tuple[Any, Any]) -> None:
    """One circuit for each key, the same in all processes."""
    one, two = (ar.CircuitBreakers("hosts", failure_threshold=1, backend=backend) for backend in both)
    first, a, b = one["a"], two["a"], two["b"]
    await heard(both)
    await failing(first, 1)
    await until(lambda: a.state is OPEN)
    assert b.state is CLOSED
    with pytest.raises(TypeError, match="strings"):
        one[7]


async def test_a_new_process_learns_what_is(both: tuple[Any, Any], redis_server: RedisServer) -> None:
    """Who comes later finds the circuit as it is."""
    one, _ = pair(both)
    await failing(one, 3)
    async with ar.connect(redis_server.url, deadline=1.0) as late:
        third = ar.CircuitBreaker("payments", failure_threshold=3, backend=late)
        await until(lambda: third.state is OPEN)


async def test_a_memory_backend_shares_within_the_process() -> None:
    """Two breakers of one name on one memory backend are one circuit."""
    async with ar.connect("memory://") as backend:
        one = ar.CircuitBreaker("x", failure_threshold=1, backend=backend)
        two = ar.CircuitBreaker("x", failure_threshold=1, backend=backend)
        await failing(one, 1)
        with pytest.raises(ar.CircuitOpen):
            await two.call(works)
        await two.reset()
        assert await one.call(works) == "up"
    with pytest.raises(ValueError, match="name"):
        ar.CircuitBreaker(backend=backend)


async def test_breakers_on_a_memory_backend_can_be_forgotten() -> None:
    """The shared circuit does not keep the breakers alive that look at it."""
    async with ar.connect("memory://") as backend:
        kept = ar.CircuitBreaker("x", failure_threshold=1, backend=backend)
        gone = weakref.ref(ar.CircuitBreaker("x", failure_threshold=1, backend=backend))
        gc.collect()
        assert gone() is None
        await failing(kept, 1)
        assert kept.state is OPEN
