"""Tokens taken ahead: fewer questions, and a bound on what that costs."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.limiter.memory import MemoryLimiterStore
from aresilience.limiter.store import Ask, Grant
from aresilience.testing import cancel_sweep, run_virtual

RATE, BURST, BLOCK = 50, 20, 5


class Counting(MemoryLimiterStore):
    """A store that is a round trip away, and counts."""

    __slots__ = ("asked",)

    async def acquire(self, ask: Ask, max_wait: int) -> Grant:
        self.asked = getattr(self, "asked", 0) + 1
        await asyncio.sleep(0.001)
        return self.acquire_now(ask, max_wait)


def processes(count: int) -> tuple[list[ar.RateLimiter], Counting]:
    """So many limiters that share a store, as so many processes share a Redis."""
    store, limiters = Counting(), []
    for _ in range(count):
        limiter = ar.RateLimiter(f"{RATE}/s", burst=BURST, name="x", lease=BLOCK)
        limiter.store._store = store  # type: ignore[attr-defined]
        limiters.append(limiter)
    return limiters, store


async def test_a_block_is_asked_for_once() -> None:
    """Five decisions, one question; the next five, one more; who asks meanwhile waits for the same answer."""
    (limiter,), store = processes(1)
    for _ in range(5):
        assert await limiter.try_acquire()
    assert store.asked == 1
    assert all(await asyncio.gather(*(limiter.try_acquire() for _ in range(5))))
    assert store.asked == 2


async def test_what_is_left_of_a_block_is_lost_with_its_time() -> None:
    """A block is good for a second; after that its rest is not used any more."""
    (limiter,), store = processes(1)
    await limiter.try_acquire()
    await asyncio.sleep(1.1)
    await limiter.try_acquire()
    assert store.asked == 2


async def test_at_the_limit_single_tokens_are_asked_for() -> None:
    """When there is no whole block any more, what is there is still given out."""
    (limiter,), _ = processes(1)
    answers = [bool(await limiter.try_acquire()) for _ in range(BURST + 5)]
    assert sum(answers) >= BURST


@given(
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.02, 0.1, 0.5, 1.0]), min_size=1, max_size=120),
    turns=st.lists(st.integers(0, 3), min_size=120, max_size=120),
)
@settings(max_examples=60, deadline=None)
def test_the_overshoot_is_bounded(gaps: list[float], turns: list[int]) -> None:
    """In every window w: granted ≤ burst + rate · w + processes · block."""

    async def history() -> list[float]:
        limiters, _ = processes(4)
        loop, grants = asyncio.get_running_loop(), []
        for gap, turn in zip(gaps, turns, strict=False):
            await asyncio.sleep(gap)
            for _ in range(3):
                if await limiters[turn].try_acquire():
                    grants.append(loop.time())
        return grants

    grants = run_virtual(history())
    for first, start in enumerate(grants):
        for place in range(first, len(grants)):
            assert place - first + 1 <= BURST + RATE * (grants[place] - start) + 4 * BLOCK + 1e-6


def test_a_cancel_leaves_nobody_waiting() -> None:
    """Cancelled while it takes a block, or while it waits for one that another takes."""

    async def use(made: tuple[list[ar.RateLimiter], Counting]) -> None:
        (limiter,), _ = made
        for _ in range(3):
            assert await limiter.try_acquire(cost=2)

    assert cancel_sweep(use, make=lambda: processes(1)).points == 2


def test_a_lease_is_no_larger_than_the_limit() -> None:
    """More than the limit holds could never be taken."""
    with pytest.raises(ValueError, match=r"lease must be at most what the limit holds \(10\), got 11"):
        ar.RateLimiter("10/s", lease=11)
