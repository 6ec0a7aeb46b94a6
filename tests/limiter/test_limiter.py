"""The limiter in one process."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

import aresilience as ar
from aresilience.limiter import Decision, NearLimit, RateLimited, RateLimiter, acquire_all
from aresilience.limiter.outage import Outage
from aresilience.testing import Recorder, cancel_sweep

ALGORITHMS = ["gcra", "sliding_window", "fixed_window", "sliding_log"]


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_the_limit_holds_is_granted_and_no_more(algorithm: str) -> None:
    """Three a second: three at once, the fourth is told when."""
    limiter = RateLimiter("3/s", algorithm=algorithm)
    answers = [await limiter.try_acquire() for _ in range(4)]
    assert [bool(a) for a in answers] == [True, True, True, False]
    assert [a.remaining for a in answers] == [2, 1, 0, 0]
    wait = answers[3].retry_after
    assert wait is not None
    assert wait > 0
    await asyncio.sleep(wait)
    assert await limiter.try_acquire()


async def test_a_decision_is_a_value() -> None:
    """What a limiter answers is as frozen as a `Decision` made by hand, and equal to it."""
    found = await RateLimiter("3/h").try_acquire()
    by_hand = Decision(True, 3, 2, 0.0, 1200.0)
    assert type(found) is Decision
    assert (found, hash(found), repr(found)) == (by_hand, hash(by_hand), repr(by_hand))
    assert pickle.loads(pickle.dumps(found)) == replace(found) == by_hand
    with pytest.raises(FrozenInstanceError):
        found.limit = 4  # type: ignore[misc]


async def test_a_refusal_costs_nothing() -> None:
    """A denied ask leaves the key as it was (limits and slowapi count it)."""
    limiter = RateLimiter("2/s", burst=2)
    await limiter.try_acquire(cost=2)
    for _ in range(100):
        assert not await limiter.try_acquire()
    await asyncio.sleep(0.5)
    assert await limiter.try_acquire()


async def test_keys_have_limits_of_their_own() -> None:
    """One user's use is not another's."""
    limiter = RateLimiter("1/s")
    assert await limiter.try_acquire("ann")
    assert await limiter.try_acquire("bob")
    assert not await limiter.try_acquire("ann")


async def test_t2_cost_0_takes_nothing_and_too_much_is_refused_for_ever() -> None:
    """T2: cost 0 peeks and consumes nothing; negative is an error; more than the limit holds never comes."""
    limiter = RateLimiter("5/s")
    assert (await limiter.try_acquire(cost=0)).remaining == 5
    assert await limiter.try_acquire(cost=5)
    never = await limiter.try_acquire(cost=6)
    assert not never
    assert never.retry_after is None
    with pytest.raises(RateLimited) as caught:
        await limiter.acquire(cost=6)
    assert caught.value.retry_after is None
    assert now() == 0.0
    with pytest.raises(ValueError, match=r"cost must be a whole number of at least 0, got -1"):
        await limiter.try_acquire(cost=-1)


async def test_several_rates_must_all_admit() -> None:
    """2/s and 3/10s: the third in a second is refused by the first, the fourth in ten by the second."""
    limiter = RateLimiter("2/s; 3/10s", algorithm="sliding_log")
    assert [bool(await limiter.try_acquire()) for _ in range(3)] == [True, True, False]
    await asyncio.sleep(1)
    assert [bool(await limiter.try_acquire()) for _ in range(2)] == [True, False]
    await asyncio.sleep(1)
    refused = await limiter.try_acquire()
    assert not refused
    assert refused.limit == 3
    assert refused.retry_after == 8.0


async def test_t10_waiters_are_served_in_order_each_at_its_time() -> None:
    """T10: 1,000 waiters → FIFO, no thundering: each sleeps once and has its token when it wakes."""
    limiter = RateLimiter("10/s", burst=1)
    order: list[tuple[int, float]] = []

    async def wait(number: int) -> None:
        await limiter.acquire()
        order.append((number, round(now(), 6)))

    async with asyncio.TaskGroup() as group:
        for number in range(1000):
            group.create_task(wait(number))
    assert order == [(n, round(n / 10, 6)) for n in range(1000)]


async def test_a_big_waiter_is_not_overtaken_for_ever() -> None:
    """A cost-5 waiter is served before cost-1 arrivals that came after it (aiolimiter starves it)."""
    limiter = RateLimiter("10/s", burst=5)
    await limiter.acquire(cost=5)
    order: list[str] = []

    async def wait(name: str, cost: int) -> None:
        await limiter.acquire(cost=cost)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait("big", 5))
        await asyncio.sleep(0.01)
        for n in range(5):
            group.create_task(wait(f"small {n}", 1))
    assert order[0] == "big"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_wait_that_would_be_too_long_is_refused_at_once(algorithm: str) -> None:
    """The timeout is compared with the wait before waiting, not after (pyrate sleeps the remainder)."""
    limiter = RateLimiter("1/10s", algorithm=algorithm)
    await limiter.acquire()
    with pytest.raises(RateLimited) as caught:
        await limiter.acquire(timeout=9.99)
    assert now() == 0.0
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 9.99
    await limiter.acquire(timeout=20)


async def test_the_ambient_deadline_is_a_timeout_too() -> None:
    """A wait that would pass the caller's deadline is refused at once."""
    limiter = RateLimiter("1/10s")
    await limiter.acquire()
    with ar.deadline(5), pytest.raises(RateLimited):
        await limiter.acquire()
    assert now() == 0.0


def test_t9_a_cancelled_waiter_gives_its_tokens_back() -> None:
    """T9: waiter cancelled → its reservation is returned, wherever the cancel comes."""

    async def use(limiter: RateLimiter) -> None:
        await limiter.acquire()
        await limiter.acquire()
        await limiter.acquire()

    async def check(limiter: RateLimiter) -> None:
        await asyncio.sleep(100)
        assert (await limiter.peek()).remaining == 1

    report = cancel_sweep(use, make=lambda: RateLimiter("1/s"), check=check)
    assert report.points == 2

    async def nothing_is_held_up() -> None:
        limiter = RateLimiter("1/s")
        await limiter.acquire()
        waiter = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0.5)
        waiter.cancel()
        await asyncio.wait([waiter])
        await limiter.acquire()
        assert now() == 1.0

    from aresilience.testing import run_virtual

    run_virtual(nothing_is_held_up())


async def test_a_reservation_can_be_cancelled_or_settled() -> None:
    """Take an estimate, settle the truth: what was too much comes back, what was too little is owed."""
    limiter = RateLimiter("10/s", burst=100)
    held = await limiter.reserve(cost=50)
    assert held.delay == 0.0
    await held.settle(20)
    assert (await limiter.peek()).remaining == 80
    held = await limiter.reserve(cost=10)
    await held.settle(90)
    assert (await limiter.peek()).remaining == 0
    assert not await limiter.try_acquire()
    await asyncio.sleep(1)
    held = await limiter.reserve(cost=5, max_wait=10)
    left = (await limiter.peek()).remaining
    await held.cancel()
    await held.cancel()
    assert (await limiter.peek()).remaining >= left
    with pytest.raises(RuntimeError, match="before"):
        await held.settle(1)


async def test_a_reservation_says_when() -> None:
    """`delay` is when the tokens are there; `max_wait` refuses what is further off."""
    limiter = RateLimiter("1/s")
    assert (await limiter.reserve()).delay == 0.0
    assert (await limiter.reserve()).delay == 1.0
    with pytest.raises(RateLimited):
        await limiter.reserve(max_wait=1.5)
    assert (await limiter.reserve(max_wait=2)).delay == 2.0


async def test_all_or_none() -> None:
    """What the second limiter refuses is not taken from the first (slowapi keeps it)."""
    gateway, user = RateLimiter("10/s", name="gateway"), RateLimiter("1/s", name="user")
    await acquire_all((gateway, ""), (user, "ann"))
    with pytest.raises(RateLimited) as caught:
        await acquire_all((gateway, "", 5), (user, "ann"))
    assert caught.value.limiter is user
    assert (await gateway.peek()).remaining == 9


async def test_all_or_none_on_one_backend_is_one_decision() -> None:
    """Limiters on one backend are asked together: same moment, the same key counted once for all its parts."""
    async with ar.connect("memory://") as backend:
        one = RateLimiter("10/s", name="one", backend=backend)
        two = RateLimiter("5/s; 20/min", name="two", backend=backend)
        decisions = await acquire_all((one, "a", 3), (two, "b"), (one, "a", 3))
        assert [d.remaining for d in decisions] == [4, 4]
        with pytest.raises(RateLimited) as caught:
            await acquire_all((two, "b", 5), (one, "a", 1))
        assert caught.value.limiter is two
        assert (await one.peek("a")).remaining == 4
        await acquire_all((two, "b", 5), (one, "a", 1), timeout=1)
        assert now() == pytest.approx(0.2)


async def test_limiters_of_one_name_share_on_a_backend() -> None:
    """On a backend the name is the identity; without a backend every limiter is its own."""
    async with ar.connect("memory://") as backend:
        first = RateLimiter("1/s", name="x", backend=backend)
        second = RateLimiter("1/s", name="x", backend=backend)
        assert await first.try_acquire()
        assert not await second.try_acquire()
    assert await RateLimiter("1/s", name="x").try_acquire()
    with pytest.raises(ValueError, match="name"):
        RateLimiter("1/s", backend=backend)


async def test_t12_the_rate_can_be_changed_live() -> None:
    """T12: what was taken stays taken; a smaller limit leaves no key stuck or below nothing."""
    limiter = RateLimiter("10/s", burst=10)
    await limiter.try_acquire(cost=10)
    await limiter.set_rate("1/s", burst=1)
    decision = await limiter.peek()
    assert decision.remaining == 0
    assert decision.limit == 1
    await asyncio.sleep(1)
    assert await limiter.try_acquire()
    await limiter.set_rate("7/3s", burst=20)
    await asyncio.sleep(60)
    assert (await limiter.peek()).remaining == 20
    with pytest.raises(ValueError, match="1 rates"):
        await limiter.set_rate("1/s; 2/s")


@pytest.mark.parametrize("algorithm", ["gcra", "fixed_window", "sliding_window", "sliding_log"])
@pytest.mark.parametrize(("before", "after"), [("3/s", "5/min"), ("5/min", "3/s"), ("5/min", "2/min")])
async def test_t12_no_change_of_the_rate_bans_or_frees_a_key_for_ever(
    algorithm: Any, before: str, after: str
) -> None:
    """T12: also with another period, for which a window's number would mean another time: nobody waits longer
    than two of the longer periods, and from then on the new limit is all that there is."""
    limiter = RateLimiter(before, algorithm=algorithm)
    while await limiter.try_acquire():
        pass
    await limiter.set_rate(after)
    decision = await limiter.try_acquire()
    assert decision or (decision.retry_after or 0) <= 120
    await asyncio.sleep(120)
    granted = [bool(await limiter.try_acquire()) for _ in range(6)]
    assert granted == [n < limiter.rates[0][1] for n in range(6)]


async def test_shadow_mode_refuses_nothing_and_tells() -> None:
    """What would have been refused passes, marked, and is told as a shadow rejection."""
    limiter = RateLimiter("1/s", shadow=True)
    seen = Recorder()
    limiter.listen(seen)
    assert not (await limiter.try_acquire()).shadowed
    second = await limiter.try_acquire()
    assert second
    assert second.shadowed
    await limiter.acquire()
    assert now() == 0.0
    assert [event.shadow for event in seen.of(ar.CallRejected)] == [True, True]


async def test_near_the_limit_is_told_once_on_the_way() -> None:
    """The grant that takes a key over 80 % of its limit is told, not each one after it."""
    limiter = RateLimiter("10/h")
    seen = Recorder()
    limiter.listen(seen)
    for _ in range(10):
        await limiter.try_acquire()
    assert [event.remaining for event in seen.of(NearLimit)] == [2]


async def test_as_a_policy_it_refuses_or_waits() -> None:
    """Without max_wait a call over the limit is refused at once; with it, it waits for its turn."""
    strict = RateLimiter("1/s")
    patient = RateLimiter("1/s", max_wait=5, key=lambda user: user)

    @strict
    async def refused() -> int:
        return 1

    @patient
    async def waits(user: str) -> str:
        return user

    assert await refused() == 1
    with pytest.raises(RateLimited) as caught:
        await refused()
    assert caught.value.retry_after == 1.0
    assert await waits("ann") == "ann"
    assert await waits("bob") == "bob"
    assert now() == 0.0
    assert await waits("ann") == "ann"
    assert now() == 1.0


async def test_the_fast_path_and_the_slow_one_agree() -> None:
    """A wrapped call takes from the same bucket as try_acquire, at every boundary."""
    limiter = RateLimiter("10/s", burst=2)

    async def one() -> bool:
        return True

    call = limiter(one)
    assert await call()
    assert (await limiter.peek()).remaining == 1
    assert await call()
    with pytest.raises(RateLimited):
        await call()
    await asyncio.sleep(0.1 - 2e-6)
    with pytest.raises(RateLimited):
        await call()
    await asyncio.sleep(4e-6)
    assert await call()


async def test_one_token_for_a_block() -> None:
    """`async with limiter:` waits for a token."""
    limiter = RateLimiter("1/s")
    for _ in range(3):
        async with limiter:
            pass
    assert now() == 2.0


async def test_t6_memory_is_bounded_and_an_attacker_is_not_refilled() -> None:
    """T6: when the table is full of keys in use, a new key is refused, and none in use is forgotten."""
    limiter = RateLimiter("1/h", max_keys=100)
    for n in range(100):
        assert await limiter.try_acquire(f"k{n}")
    refused = await limiter.try_acquire("new")
    assert not refused
    assert refused.retry_after is not None
    for n in range(100):
        assert not await limiter.try_acquire(f"k{n}")
    await asyncio.sleep(3600)
    assert await limiter.try_acquire("new")


async def test_the_deny_cache_repeats_refusals_until_they_end() -> None:
    """A refusal is remembered for as long as it holds, and not a moment longer."""
    limiter = RateLimiter("1/s", deny_cache=True)
    assert await limiter.try_acquire("k")
    assert not await limiter.try_acquire("k")
    await asyncio.sleep(0.5)
    again = await limiter.try_acquire("k")
    assert not again
    assert again.retry_after == 0.5
    await asyncio.sleep(0.5)
    assert await limiter.try_acquire("k")


def test_decisions_are_true_if_allowed() -> None:
    """A decision stands for its verdict."""
    assert Decision(True, 1, 0, 0.0, 1.0)
    assert not Decision(False, 1, 0, 1.0, 1.0)


async def test_an_outage_is_told_when_it_begins_and_each_minute() -> None:
    """Once for each kind of error, however many calls; again after a minute, or when ten seconds went well."""
    outage, clock = Outage(), asyncio.get_running_loop()

    async def told(error: Exception, seconds: int, every: float = 0.5) -> int:
        times = 0
        for _ in range(int(seconds / every)):
            times += outage.is_news(error, clock.time())
            await asyncio.sleep(every)
        return times

    assert await told(ar.NotSent("away"), 50) == 1
    assert await told(ar.OutcomeUnknown("silent"), 5) == 1
    assert await told(ar.NotSent("still away"), 5) == 0
    assert await told(ar.NotSent("still away"), 120) == 2
    await asyncio.sleep(10)
    assert await told(ar.NotSent("again"), 5) == 1
    await asyncio.sleep(10)
    assert await told(ar.NotSent("asked now and then"), 100, every=20) == 5
