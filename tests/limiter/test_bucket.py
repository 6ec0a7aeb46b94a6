"""The short way for a bucket around a function: it decides as the long way does."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aresilience.backend import connect
from aresilience.limiter import RateLimited, RateLimiter
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.memory import MemoryLimiterStore
from aresilience.limiter.rate import parse_rates

pytestmark = pytest.mark.real_time

step = st.tuples(
    st.sampled_from([0, 1, 999, 100_000, 333_333, 5_000_000]),
    st.sampled_from(["call", "call", "ask", "peek"]),
)


async def follow(rate: str, steps: list[tuple[int, str]]) -> None:
    """Calls, asks and looks, at times that we say, beside the machine."""
    limiter = RateLimiter(rate)
    store = limiter.store
    assert isinstance(store, MemoryLimiterStore)
    machine = Gcra(parse_rates("", rate)[0], limiter.rates[0][1])
    micros = 1_000_000_000
    store.now()
    store.clock.nanos, store.clock.now = lambda: micros * 1000, lambda: micros / 1e6

    @limiter
    async def work() -> None: ...

    state = None
    for gap, what in steps:
        micros += gap
        if what == "peek":
            assert (await limiter.peek()).remaining == machine.view(state, micros)[0]
            continue
        admitted = machine.earliest(state, micros, 1) == micros
        if what == "ask":
            assert bool(await limiter.try_acquire()) == admitted
        else:
            try:
                await work()
            except RateLimited:
                assert not admitted
            else:
                assert admitted
        state = machine.take(state, micros, 1) if admitted else state


@given(
    rate=st.sampled_from(["3/s", "10/s", "1000/s", "1000000/s", "5/min", "1/7s"]),
    steps=st.lists(step, max_size=40),
)
@settings(deadline=None)
def test_the_short_way_decides_as_the_machine_does(rate: str, steps: list[tuple[int, str]]) -> None:
    """Any mix of decorated calls and asks by hand has the machine's answers."""
    asyncio.run(follow(rate, steps))


async def test_calls_and_asks_by_hand_count_together() -> None:
    """What a decorated function takes is seen by peek, and changed by set_rate."""
    limiter = RateLimiter("5/h")

    @limiter
    async def work() -> None: ...

    store = limiter.store
    assert isinstance(store, MemoryLimiterStore)
    for _ in range(3):
        await work()
    (table,) = store._tables.values()
    assert table._lent is not None
    assert (await limiter.peek()).remaining == 2
    assert table._lent is None
    await work()
    await limiter.set_rate("6/h")
    await work()
    with pytest.raises(RateLimited):
        await work()


async def test_limiters_of_one_name_count_together() -> None:
    """Two limiters share a bucket on a backend, each with its own rate, and each decorates a function."""
    async with connect("memory://") as backend:
        calm = RateLimiter("4/h", name="x", backend=backend)
        wide = RateLimiter("8/h", name="x", backend=backend)

        @calm
        async def calmly() -> None: ...

        @wide
        async def widely() -> None: ...

        for work in (calmly, widely, calmly, widely):
            await work()
        assert (await wide.peek()).remaining == 2
        await widely()
        await widely()
        for work in (calmly, widely):
            with pytest.raises(RateLimited):
                await work()
